"""The manifest: what an entry is, and which of its attempts is admitted."""

import dataclasses
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from jaxsim.errors import DamagedError

FORMAT = 1
FILE_NAME = "manifest.json"
_ATTEMPT = re.compile(r"attempt-[0-9a-f]{12}")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """One admitted result of a run. Everything in it is plain data."""

    name: str
    kind: str  # 'seed', 'member', 'truth' or 'repeat'
    attempt: str  # the folder that holds the parameters
    params_digest: str
    files: dict[str, tuple[str, int]]  # SHA-256 and bytes, by relative path
    leaves: dict[str, tuple[list[int], str]]  # shape and dtype, by path
    finite: bool
    seed_digest: str  # '' for the seed itself
    tokenizer_digest: str
    data_digests: dict[str, str]  # of the units, by name
    recipe: dict[str, Any]
    model: dict[str, Any]
    ratio: dict[str, float]  # token shares, the anchor's apart
    steps: int
    order: int
    tokens: int
    unique_tokens: int
    epochs: dict[str, float]
    final_loss: float  # nats a token, mean of the last step's batch
    wall_seconds: float
    device_seconds: float
    flops: float
    provenance: dict[str, Any]  # versions, git revision, device
    format: int = FORMAT

    def dump(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def read_manifest(entry: Path) -> Manifest:
    """The manifest of the entry in the directory `entry`.

    Raises:
      DamagedError: it is unreadable, of another version, or names a path
        outside its entry.
    """
    path = entry / FILE_NAME
    try:
        data = json.loads(path.read_text())
        if not isinstance(data, dict):
            raise ValueError("not an object")
        if data.get("format") != FORMAT:
            raise DamagedError(
                f"{path}: format {data.get('format')!r}; this version of "
                f"jaxsim reads format {FORMAT}. Use the version that wrote it"
            )
        manifest = Manifest(**data)
    except (OSError, ValueError, TypeError) as error:
        raise DamagedError(f"{path}: not a manifest: {error}") from error
    if not _ATTEMPT.fullmatch(manifest.attempt):
        raise DamagedError(
            f"{path}: attempt {manifest.attempt!r} is not a folder of this "
            "entry"
        )
    for name in manifest.files:
        _check_inside(path, name)
    if manifest.name != entry.name:
        raise DamagedError(
            f"{path}: it is of {manifest.name!r}, but lies in {entry.name!r}"
        )
    return manifest


def _check_inside(path: Path, name: str) -> None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or not name:
        raise DamagedError(f"{path}: file {name!r} points outside its entry")
