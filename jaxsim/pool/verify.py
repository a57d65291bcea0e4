"""What is wrong with an entry: its files, its contents, its kinship."""

from pathlib import Path
from typing import Any

from jaxsim.checkpoints import load_params
from jaxsim.errors import DamagedError
from jaxsim.pool.digests import (
    files_below,
    first_non_finite,
    leaves_by_path,
    params_digest,
    sha256_of_file,
)
from jaxsim.pool.manifest import Manifest


def file_problems(entry: Path, manifest: Manifest) -> list[str]:
    """Missing, truncated, altered, added or linked files of an attempt."""
    root = entry / manifest.attempt
    # A link could lead out of the pool, and change without notice.
    problems = [
        f"{path.relative_to(entry)} is a symbolic link"
        for path in (root, *sorted(root.rglob("*")))
        if path.is_symlink()
    ]
    if problems:
        return problems
    found = set(files_below(root))
    for name, (sha256, size) in manifest.files.items():
        path = root / name
        if name not in found:
            problems.append(f"file {name} is missing")
            continue
        try:
            if (bytes_found := path.stat().st_size) != size:
                problems.append(
                    f"file {name} has {bytes_found} bytes instead of {size}"
                )
            elif sha256_of_file(path) != sha256:
                problems.append(
                    f"file {name} was altered (its SHA-256 differs)"
                )
        except OSError as error:
            problems.append(f"file {name} cannot be read: {error.strerror}")
    added = sorted(found - manifest.files.keys())
    return problems + [f"file {name} is not in its manifest" for name in added]


def load_verified(entry: Path, manifest: Manifest, shapes: Any) -> Any:
    """The parameters of an entry, as numpy arrays, after every check.

    Raises:
      DamagedError: names the entry and what is wrong with it.
    """
    problems = file_problems(entry, manifest) + leaf_problems(manifest, shapes)
    if not problems:
        try:
            params = load_params(entry / manifest.attempt, shapes)
        except DamagedError as error:
            problems = [str(error)]
        else:
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
