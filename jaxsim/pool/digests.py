"""Digests: of parameters by content, and of files to find damage.

Orbax writes one tree to different bytes each time, so a file's hash says
nothing about the parameters; `params_digest` does, and result keys use it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np


def leaves_by_path(params: Any) -> dict[str, Any]:
    """The leaves of a nested dict, by 'a/b/c', sorted."""
    pairs = jax.tree_util.tree_leaves_with_path(params)
    named = {"/".join(str(k.key) for k in path): leaf for path, leaf in pairs}
    return dict(sorted(named.items()))


def params_digest(params: Any) -> str:
    """SHA-256 over sorted paths, shapes, dtypes and little-endian bytes."""
    total = hashlib.sha256()
    for path, leaf in leaves_by_path(params).items():
        array = np.ascontiguousarray(leaf)
        header = [path, list(array.shape), array.dtype.name]
        total.update(json.dumps(header).encode())
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        total.update(little.reshape(-1).view(np.uint8).data)  # no copy
    return total.hexdigest()


def first_non_finite(params: Any) -> str | None:
    """The path of the first leaf that holds a NaN or an infinity."""
    leaves = leaves_by_path(params).items()
    return next((path for path, leaf in leaves if not np.isfinite(leaf).all()), None)


def file_digests(directory: Path) -> dict[str, tuple[str, int]]:
    """SHA-256 and size of every file below `directory`, by relative path."""
    return {
        name: (sha256_of_file(directory / name), size)
        for name, size in files_below(directory).items()
    }


def files_below(directory: Path) -> dict[str, int]:
    """The size of every file below `directory`, by relative path, sorted."""
    return {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(
    expected: Mapping[str, Any], found: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    """'key: expected X, found Y' for every plain value that differs."""
    lines = []
    for key in sorted(expected.keys() | found.keys()):
        e, f = expected.get(key, "nothing"), found.get(key, "nothing")
        name = f"{prefix}{key}"
        if isinstance(e, Mapping) and isinstance(f, Mapping):
            lines += differences(e, f, f"{name}.")
        elif e != f:
            lines.append(f"{name}: expected {_short(e)}, found {_short(f)}")
    return lines


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:12] + "..."
