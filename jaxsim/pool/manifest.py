"""The manifest: what an entry is, which attempt is admitted, what is wrong.

`load_verified` is the one way to an entry's parameters: it checks files,
leaves and contents first.
"""

import dataclasses
import os
import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from jaxsim import records
from jaxsim.checkpoints import load_params
from jaxsim.errors import DamagedError, UserError
from jaxsim.log import Provenance
from jaxsim.pool.digests import (
    files_below,
    first_non_finite,
    leaves_by_path,
    params_digest,
    sha256_of_file,
)
from jaxsim.train.runs import Run, is_named_right, title

FILE_NAME = "manifest.json"
ADVICE = "copy the pool again, or delete the entry and train it again"
_ATTEMPT = re.compile(r"attempt-[0-9a-f]{12}")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """One admitted result of a run. Everything in it is plain data."""

    name: str
    kind: str  # 'base', 'member', 'reference' or 'replicate'
    attempt: str  # the folder that holds the parameters
    params_digest: str
    files: dict[str, tuple[str, int]]  # SHA-256 and bytes, by relative path
    leaves: dict[str, tuple[list[int], str]]  # shape and dtype, by path
    finite: bool
    base_digest: str  # '' for the base model itself
    tokenizer_digest: str
    data_digests: dict[str, str]  # of the units, by name
    recipe: dict[str, Any]
    model: dict[str, Any]
    mixture: dict[str, float]  # token shares, replay's apart
    steps: int
    data_seed: int
    tokens: int
    unique_tokens: int
    epochs: dict[str, float]
    final_loss: float | None  # nats a token, of the last batch; None: imported
    wall_seconds: float
    device_seconds: float
    flops: float
    provenance: Annotated[dict[str, Any], Provenance]

    @property
    def source(self) -> "Source | None":
        """Where a base model was imported from; None if it was trained here."""
        if self.kind != "base" or not self.recipe.get("path"):
            return None
        source: Source = records.from_plain(Source, self.recipe, "recipe")
        return source


@dataclasses.dataclass(frozen=True)
class Source:
    """The folder of an imported base model: the recipe in its manifest."""

    path: str  # as the config said
    name: str  # of the model, for people
    family: str  # its `model_type`
    dtype: str  # of its weights there
    files: dict[str, tuple[str, int, int]]  # SHA-256, bytes, time in ns; by name

    def difference(self, folder: Path) -> str:
        """What a folder has instead of the files of this one; '' if it has them.

        Where the same path has files of the same size and time, they are not read.
        """
        for name, (sha256, size, time) in self.files.items():
            path = folder / check_inside(folder, name)
            if str(folder) == self.path and path.is_file():
                found = path.stat()
                if (found.st_size, found.st_mtime_ns) == (size, time):
                    continue
            if problem := file_problem(path, sha256, size):
                return f"{path} {problem}"
        return ""


def read_manifest(entry: Path) -> Manifest:
    """The manifest in the folder `entry`; a `DamagedError` if it is not sound."""
    path = entry / FILE_NAME
    return checked(records.load(path, Manifest, ADVICE), entry.name, path)


def checked(manifest: Manifest, name: str, path: Path | str) -> Manifest:
    """A manifest from `path`, if it is that of entry `name` and names only its files.

    Its fields must fit each other, too, as a right seal does not make them true.
    Otherwise it is a `DamagedError`.
    """
    if not _ATTEMPT.fullmatch(manifest.attempt):
        raise DamagedError(
            f"{path}: attempt {manifest.attempt!r} is not a folder of this entry"
        )
    for file in manifest.files:
        check_inside(path, file)
    if manifest.name != name:
        raise DamagedError(
            f"{path}: it belongs to {manifest.name!r}, but is in the folder of {name!r}"
        )
    if problem := _contradiction(manifest):
        raise DamagedError(f"{path}: {problem}; {ADVICE}")
    return manifest


def _contradiction(manifest: Manifest) -> str:
    """What in a manifest contradicts the rest of it; '' if nothing does."""
    m = manifest
    try:
        imported = m.source is not None
        recipe = {"steps": 0, "batch": 0} if imported else m.recipe
        found = [recipe.get("steps"), recipe.get("batch"), m.model.get("length")]
        steps, batch, length = records.from_plain(list[int], found, "its numbers")
    except UserError as error:
        return f"steps and batch of its recipe, length of its model: {error}"
    if not is_named_right(Run(m.name, m.kind, m.mixture, m.steps, m.data_seed), steps):
        return "name, kind, mixture, steps and data seed do not fit each other"
    if imported and (m.steps or m.mixture):
        return "recipe: names a folder, but the base model was trained here"
    if imported != (m.final_loss is None):
        return "final_loss: only an imported base model has none"
    if m.data_digests.keys() != m.mixture.keys():
        return "data_digests: not those of the units of its mixture"
    if m.tokens != m.steps * batch * length:
        return f"tokens: {m.tokens:,} are not those of {m.steps:,} steps"
    return "" if m.finite else "finite: is false"


def check_inside(path: Path | str, name: str) -> str:
    """The name of a file, if that lies below `path`, which names it."""
    pure = PurePosixPath(name)
    odd = not pure.parts or pure.is_absolute() or ".." in pure.parts
    if odd or "\\" in name or "\0" in name:
        raise DamagedError(f"{path}: file {name!r} points outside its entry")
    return name


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
    found = {n: file_problem(root / n, *file) for n, file in manifest.files.items()}
    added = sorted(files_below(root).keys() - manifest.files.keys())
    found |= dict.fromkeys(added, "is not in its manifest")
    return [f"file {name} {problem}" for name, problem in found.items() if problem]


def file_problem(path: Path, sha256: str, size: int) -> str:
    """What is wrong with a file that must have this content; '' if nothing is."""
    if not os.path.isfile(path):  # a name may be too long to ask for
        return "is missing"
    try:
        if (found := path.stat().st_size) != size:
            return f"has {found} bytes instead of {size}"
        if sha256_of_file(path) != sha256:
            return "was altered (its SHA-256 differs)"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return ""


def load_verified(entry: Path, manifest: Manifest, shapes: Any) -> Any:
    """The parameters of an entry, as numpy arrays; a `DamagedError` says what is wrong.

    Everything is checked: files, shapes, dtypes, values and digest.
    """
    try:
        return _loaded(entry, manifest, shapes)
    except DamagedError as error:
        what = f"{title(manifest.kind, entry.name)}: {error}"
        raise DamagedError(what, repair(entry)) from error


def _loaded(entry: Path, manifest: Manifest, shapes: Any) -> Any:
    if problems := file_problems(entry, manifest) + leaf_problems(manifest, shapes):
        raise DamagedError("; ".join(problems))
    params = load_params(entry / manifest.attempt, shapes)
    if leaf := first_non_finite(params):
        raise DamagedError(f"leaf {leaf} holds a value that is not finite")
    if params_digest(params) != manifest.params_digest:
        raise DamagedError("its parameters do not have the digest of its manifest")
    return params


def repair(*entries: Path) -> str:
    """What to do about damaged entries of one workdir."""
    folders = " and ".join(shlex.quote(str(entry)) for entry in entries)
    return (
        f"copy the pool again, or delete {folders} and run `jaxsim run`, which trains "
        "what is missing"
    )


def leaf_problems(manifest: Manifest, shapes: Any) -> list[str]:
    """Leaves whose shape or dtype is not what the model has."""
    expected, found = leaves_of(shapes), manifest.leaves
    return [
        f"leaf {path} is {found.get(path, 'missing')} instead of "
        f"{expected.get(path, 'absent')}"
        for path in sorted(expected.keys() | found.keys())
        if expected.get(path) != found.get(path)
    ]


def leaves_of(params: Any) -> dict[str, tuple[list[int], str]]:
    """Shape and dtype of each leaf, by path."""
    return {
        path: (list(leaf.shape), str(leaf.dtype))
        for path, leaf in leaves_by_path(params).items()
    }
