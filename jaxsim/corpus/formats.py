"""Files of text and of records, in the formats that corpora come in.

What a file is shows in its first bytes. Its name counts only where they cannot say:
tables of text, and files that are cut off.
"""

import codecs
import contextlib
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Collection, Iterator
from pathlib import PurePosixPath
from typing import Any, TypeAlias

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from jaxsim.corpus.fields import NOT_UTF8, TOO_LONG, Cause
from jaxsim.errors import DamagedError

JSON_LINES, TABLE, TEXT = "JSON Lines", "a table", "plain text"
PARQUET, ARROW = "a Parquet file", "an Arrow file"
POINTER, ARRAY, PRETTY = "a git-lfs pointer", "a JSON array", "pretty-printed JSON"
EMPTY, BINARY = "an empty file", "a binary file"

# What helps with files that cannot be read as they are.
ADVICE = {
    POINTER: "fetch its content with `git lfs pull`",
    ARRAY: "write one record a line, as `jq -c '.[]' FILE > FILE.jsonl` does",
    PRETTY: "write one record a line, as `jq -c . FILE > FILE.jsonl` does",
    TEXT: "read it with reader='text', or end its name with .csv or .tsv if it is one",
}

NOT_JSON = "not JSON"
NOT_OBJECT = "not a JSON object"
NOT_AS_WIDE = "not as many cells as the header"
MAX_RECORD_BYTES = 50_000_000

CODECS = {"gz": "gzip", "zst": "zstd", "zstd": "zstd", "bz2": "bz2", "xz": "xz"}
TABLES = ("csv", "tsv")
TEXTS = ("txt", "md", "rst")
LINES = ("jsonl", "ndjson", "json")
RECORDS = (*LINES, *TABLES, "parquet", "arrow")
_MAGIC = (
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "zstd"),
    (re.compile(rb"BZh[1-9]"), "bz2"),
    (re.compile(rb"\xfd7zXZ\0"), "xz"),
)
_KINDS = (
    (re.compile(rb"PAR1"), PARQUET),
    (re.compile(rb"ARROW1|\xff\xff\xff\xff..[\0-\x0f]\0", re.DOTALL), ARROW),
    (re.compile(rb"version https://git-lfs"), POINTER),
    (re.compile(rb"PK\x03\x04"), "a zip archive"),
    (re.compile(rb".{257}ustar", re.DOTALL), "a tar archive"),
    (re.compile(rb"%PDF-"), "a PDF file"),
    (re.compile(rb"\x93NUMPY"), "a NumPy file"),
    (re.compile(rb"\x04\x22\x4d\x18"), "an LZ4 file"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16 text"),
    (re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE), "an HTML page"),
)
_HEAD = 65_536  # bytes that show what a file is
_BATCH_BYTES = 4_000_000  # of a Parquet file that are decoded at once, about
_BOM = codecs.BOM_UTF8

# What reading a file raises if it is truncated or changed.
_DAMAGE = (
    EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, pa.ArrowException,
)  # fmt: skip

# NaN and Infinity are no JSON, and no values.
_parse = json.JSONDecoder(parse_constant=lambda _: None).decode

# Where a record is, counted from 1, and the record or why there is none.
Stream: TypeAlias = io.BufferedIOBase
Record: TypeAlias = tuple[int, dict[str, Any] | Cause]


def endings(name: str) -> tuple[str, str]:
    """The ending of a file's name and that of its compression: ('jsonl', 'gz')."""
    *_, last, final = ["", "", *name.rpartition("/")[2].casefold().split(".")]
    return (last, final) if final in CODECS else (final, "")


def stem_of(file: str) -> str:
    """What a partition of one file is called: of `a/b/physics.jsonl.gz`, `physics`."""
    stem, (ending, compression) = PurePosixPath(file).name, endings(file)
    if compression:
        stem = stem[: -len(compression) - 1]
    return stem[: -len(ending) - 1] if ending in (*RECORDS, *TEXTS) else stem


def open_file(path: str) -> io.BufferedReader:
    """Opens a local file, or one at a URL."""
    if "://" not in path:
        return open(path, "rb")
    return io.BufferedReader(fsspec.open(path, "rb").open())


def plain(stream: io.BufferedReader, name: str) -> Stream:
    """The content of a file without its compression."""
    head = stream.peek(16)
    found = [codec for magic, codec in _MAGIC if magic.match(head)]
    _, compression = endings(name)
    # A compressed file that is empty or damaged at its start has no such bytes.
    if not found and compression and (len(head) < 6 or b"\0" in head):
        found = [CODECS[compression]]
        if not head:
            raise EOFError("the file is empty")
    match found:
        case ["gzip"]:
            return gzip.GzipFile(fileobj=stream)
        case ["xz"]:
            return lzma.LZMAFile(stream)
        case [codec]:
            return io.BufferedReader(pa.CompressedInputStream(stream, codec), 1 << 18)
    return stream


def kind_of(path: str) -> str:
    """What a file is: one of the kinds above, or its name in a few words."""
    head, name = b"", path
    with open_file(path) as raw, contextlib.suppress(*_DAMAGE):
        stream = plain(raw, name)
        while len(head) < _HEAD and (more := stream.read(_HEAD - len(head))):
            head += more
    for magic, kind in _KINDS:
        if magic.match(head):
            return kind
    ending, compression = endings(name)
    head = head.removeprefix(_BOM)
    if not head:
        # Reading it says what is wrong.
        if not compression:
            return EMPTY
        return TABLE if ending in TABLES else TEXT if ending in TEXTS else JSON_LINES
    if b"\0" in head:
        return BINARY
    first, *rest = [line for line in head.split(b"\n", 20) if line.strip()] or [b""]
    if first.lstrip().startswith(b"["):
        return ARRAY
    if first.lstrip().startswith(b"{"):
        whole = len(rest) > 0 and _is_json(first)
        opens = rest and rest[0].lstrip()[:1] in b'"}'
        return PRETTY if not whole and opens else JSON_LINES
    return TABLE if ending in TABLES else TEXT


def _is_json(line: bytes) -> bool:
    try:
        _parse(line.decode())
    except (ValueError, RecursionError):
        return False
    return True


def read_records(
    where: str, path: str, columns: Collection[str] | None = None
) -> Iterator[Record]:
    """The records of a file, in order.

    Args:
      where: the source, for messages.
      columns: of a Parquet file, which to read; None: all.

    Raises:
      DamagedError: the file is truncated or changed.
    """
    at = 0
    kind = kind_of(path)
    read = {PARQUET: _parquet, ARROW: _arrow, TABLE: _table}.get(kind, _json_lines)
    try:
        with open_file(path) as raw:
            for at, record in read(plain(raw, path), path, columns):
                yield at, record
    except _DAMAGE as error:
        raise _damaged(where, path, f" after record {at}", error) from error


def read_text(where: str, path: str) -> bytes:
    """The content of a file, uncompressed; at most `MAX_RECORD_BYTES` + 1 bytes."""
    try:
        with open_file(path) as raw:
            return plain(raw, path).read(MAX_RECORD_BYTES + 1)
    except _DAMAGE as error:
        raise _damaged(where, path, "", error) from error


def _damaged(where: str, path: str, at: str, error: Exception) -> DamagedError:
    said = str(error).rstrip(".") or type(error).__name__
    return DamagedError(
        f"{where}: {path!r} is truncated or damaged{at}: {said}; copy it again, or "
        "remove it"
    )


def _json_lines(stream: Stream, path: str, columns: object) -> Iterator[Record]:
    """Records of JSON, one a line; a longer line is skipped."""
    number, most = 0, MAX_RECORD_BYTES
    while line := stream.readline(most + 1):
        number += 1
        if len(line) > most:
            while line[-1:] != b"\n" and (line := stream.readline(most + 1)):
                pass
            yield number, Cause(TOO_LONG)
            continue
        if number == 1:
            line = line.removeprefix(_BOM)
        if line.isspace() or not line:
            continue
        try:
            record = _parse(line.decode())
        except UnicodeDecodeError:
            yield number, Cause(NOT_UTF8)
        # ValueError also covers numbers of over 4300 digits; deep nesting raises
        # RecursionError.
        except (ValueError, RecursionError):
            yield number, Cause(NOT_JSON)
        else:
            yield number, record if isinstance(record, dict) else Cause(NOT_OBJECT)


def _table(stream: Stream, path: str, columns: object) -> Iterator[Record]:
    """Rows of CSV or TSV, with the names of the columns in the first one."""
    raise NotImplementedError


def _parquet(
    stream: Stream, path: str, columns: Collection[str] | None
) -> Iterator[Record]:
    with pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20) as file:
        names = file.schema_arrow.names
        wanted = None if columns is None else [n for n in names if n in columns]
        rows = file.metadata.num_rows
        groups = range(file.metadata.num_row_groups)
        size = sum(file.metadata.row_group(i).total_byte_size for i in groups)
        most = max(1, min(1000, int(_BATCH_BYTES * rows / size))) if size else 1000
        number = 0
        for batch in file.iter_batches(batch_size=most, columns=wanted):
            for record in batch.to_pylist():
                number += 1
                yield number, record


def _arrow(stream: Stream, path: str, columns: object) -> Iterator[Record]:
    raise NotImplementedError


_ = csv
