"""What is wrong with an entry: its files, its contents, its kinship."""

import os
import stat
from pathlib import Path
from typing import Any

from jaxsim.checkpoints import load_params
from jaxsim.errors import DamagedError
from jaxsim.pool.digests import (
    first_non_finite,
    leaves_by_path,
    params_digest,
    sha256_of_file,
)
from jaxsim.pool.manifest import Manifest


def file_problems(entry: Path, manifest: Manifest) -> list[str]:
    """Missing, truncated, altered, added or linked files of an attempt."""
    root = entry / manifest.attempt
    problems = []
    for name, (sha256, size) in manifest.files.items():
        path = root / name
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            problems.append(f"file {name} is missing")
            continue
        if not stat.S_ISREG(info.st_mode):
            problems.append(f"file {name} is not a regular file")
        elif not path.resolve().is_relative_to(root.resolve()):
            problems.append(f"file {name} lies outside, through a link")
        elif info.st_size != size:
            problems.append(
                f"file {name} has {info.st_size} bytes instead of {size}"
            )
        elif sha256_of_file(path) != sha256:
            problems.append(f"file {name} was altered (its SHA-256 differs)")
    return problems


def load_verified(entry: Path, manifest: Manifest, shapes: Any) -> Any:
    """The parameters of an entry, as numpy arrays, after every check.

    Raises:
      DamagedError: names the entry and what is wrong with it.
    """
    problems = file_problems(entry, manifest) + leaf_problems(manifest, shapes)
    if not problems:
        params = load_params(entry / manifest.attempt, shapes)
        problems = content_problems(manifest, params)
    if problems:
        raise DamagedError(f"{manifest.kind} {entry.name}: {problems[0]}")
    return params


def leaf_problems(manifest: Manifest, shapes: Any) -> list[str]:
    """Leaves whose shape or dtype is not what the model has."""
    expected = {
        path: (list(leaf.shape), str(leaf.dtype))
        for path, leaf in leaves_by_path(shapes).items()
    }
    found = {
        path: (list(shape), dtype)
        for path, (shape, dtype) in manifest.leaves.items()
    }
    return [
        f"leaf {path} is {found.get(path, 'missing')} instead of "
        f"{expected.get(path, 'absent')}"
        for path in sorted(expected.keys() | found.keys())
        if expected.get(path) != found.get(path)
    ]


def content_problems(manifest: Manifest, params: Any) -> list[str]:
    """A digest that differs, or a value that is not finite."""
    leaf = first_non_finite(params)
    if leaf is not None:
        return [f"leaf {leaf} holds a value that is not finite"]
    if params_digest(params) != manifest.params_digest:
        return ["its parameters do not have the digest of its manifest"]
    return []
