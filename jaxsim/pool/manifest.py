"""The manifest: what an entry is, and which of its attempts is admitted."""

import dataclasses
import json
import re
import typing
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
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: not a manifest: {error!r}") from error
    return parse_manifest(text, entry.name, path)


def parse_manifest(text: str, name: str, path: Path | str) -> Manifest:
    """A manifest from its text.

    Args:
      text: as `Manifest.dump` gives it.
      name: of the entry that it should be of.
      path: where the text is from, for messages.

    Raises:
      DamagedError: see `read_manifest`.
    """
    try:
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("not an object")
        if data.get("format") != FORMAT:
            raise DamagedError(
                f"{path}: format {data.get('format')!r}; this version of "
                f"jaxsim reads format {FORMAT}. Use the version that wrote it"
            )
        manifest = _parse(data)
    # A field of an unexpected type raises one of the last four.
    except (ValueError, TypeError, LookupError, AttributeError) as e:
        raise DamagedError(f"{path}: not a manifest: {e!r}") from e
    if not _ATTEMPT.fullmatch(manifest.attempt):
        raise DamagedError(
            f"{path}: attempt {manifest.attempt!r} is not a folder of this "
            "entry"
        )
    for file in manifest.files:
        check_inside(path, file)
    if manifest.name != name:
        raise DamagedError(
            f"{path}: it is of {manifest.name!r}, but lies in {name!r}"
        )
    return manifest


def _parse(data: dict[str, Any]) -> Manifest:
    """Plain JSON data as a manifest; every field has the type it claims."""
    data["files"] = {
        name: (str(sha256), int(size))
        for name, (sha256, size) in data["files"].items()
    }
    data["leaves"] = {
        path: ([int(n) for n in shape], str(dtype))
        for path, (shape, dtype) in data["leaves"].items()
    }
    for field in dataclasses.fields(Manifest):
        kind: Any = typing.get_origin(field.type) or field.type
        value = data.get(field.name)
        if kind is float and isinstance(value, int):
            continue
        if not isinstance(value, kind):
            raise ValueError(f"{field.name} is {value!r}")
    return Manifest(**data)


def check_inside(path: Path | str, name: str) -> str:
    """The name of a file, if that lies below what names it.

    Raises:
      DamagedError: names `path`, where the name is from.
    """
    pure = PurePosixPath(name)
    if (
        not pure.parts
        or pure.is_absolute()
        or ".." in pure.parts
        or "\\" in name
        or "\0" in name
    ):
        raise DamagedError(f"{path}: file {name!r} points outside its entry")
    return name
