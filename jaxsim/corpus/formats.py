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
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, TypeAlias

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python import array_record_module
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from jaxsim.corpus.fields import NOT_UTF8, TOO_LONG, Cause
from jaxsim.errors import DamagedError, UserError

JSON_LINES, TABLE, TEXT = "JSON Lines", "a table", "plain text"
PARQUET, ARROW = "a Parquet file", "an Arrow file"
POINTER, ARRAY, PRETTY = "a git-lfs pointer", "a JSON array", "pretty-printed JSON"
PRETTY_ARRAY = "a pretty-printed JSON array"
EMPTY, BINARY, HTML = "an empty file", "a binary file", "an HTML page"
ARRAY_RECORD, TFRECORD = "an ArrayRecord file", "a TFRecord file"

TEXTUAL = (TEXT, TABLE, JSON_LINES, ARRAY, PRETTY, PRETTY_ARRAY, HTML)

# What helps with files that cannot be read as they are.
ADVICE = {
    POINTER: "fetch its content with `git lfs pull`",
    **dict.fromkeys(
        (ARRAY, PRETTY_ARRAY),
        "write one record a line, as `jq -c '.[]' FILE > FILE.jsonl` does",
    ),
    PRETTY: "write one record a line, as `jq -c . FILE > FILE.jsonl` does",
    TEXT: "use reader='text', or end its name with .csv or .tsv if it is a table",
}

NOT_JSON = "not JSON"
NOT_OBJECT = "not a JSON object"
NOT_CSV = "not CSV"
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
    (re.compile(rb"\x83\xaf\x70\xd1\x0d\x88\x4a\x3f"), ARRAY_RECORD),
    (re.compile(rb"version https://git-lfs"), POINTER),
    (re.compile(rb"PK\x03\x04"), "a zip archive"),
    (re.compile(rb".{257}ustar", re.DOTALL), "a tar archive"),
    (re.compile(rb"%PDF-"), "a PDF file"),
    (re.compile(rb"\x93NUMPY"), "a NumPy file"),
    (re.compile(rb"\x04\x22\x4d\x18"), "an LZ4 file"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16 text"),
    (re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE), HTML),
)
_BY_NAME = {
    **dict.fromkeys(LINES, JSON_LINES),
    **dict.fromkeys(TABLES, TABLE),
    **dict.fromkeys(TEXTS, TEXT),
    "parquet": PARQUET,
    "arrow": ARROW,
    "array_record": ARRAY_RECORD,
    "tfrecord": TFRECORD,
}
_EXAMPLES = ["data"]  # columns of a Parquet file that TFDS wrote
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream of Arrow
_HEAD = 8192  # bytes that show what a file is
_BATCH_BYTES = 4_000_000  # of a Parquet file that are decoded at once, about
_BOM = codecs.BOM_UTF8
_ESCAPED = re.compile("[\udc80-\udcff]")

# What reading a file raises if it is truncated or changed.
_DAMAGE = (
    EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, pa.ArrowException,
    DecodeError,
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
            return io.BufferedReader(_Xz(stream), 1 << 18)
        case [codec]:
            return io.BufferedReader(pa.CompressedInputStream(stream, codec), 1 << 18)
    return stream


class _Xz(io.RawIOBase):
    """The content of an xz file; Python's own reader ignores damage after a stream."""

    def __init__(self, stream: io.BufferedReader):
        self._stream, self._decoder = stream, lzma.LZMADecompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = b""
        while not found:
            data = b""
            if self._decoder.eof:
                data = self._decoder.unused_data
                while not data.strip(b"\0"):
                    if not (data := self._stream.read(_HEAD)):
                        return 0
                self._decoder = lzma.LZMADecompressor()
                data = data.lstrip(b"\0")
            elif self._decoder.needs_input and not (data := self._stream.read(1 << 16)):
                raise EOFError("the last stream is not whole")
            found = self._decoder.decompress(data, len(buffer))
        buffer[: len(found)] = found
        return len(found)


def kind_of(path: str) -> str:
    """What a file is: one of the kinds above, or its name in a few words."""
    head = b""
    with open_file(path) as raw:
        try:
            stream = plain(raw, path)
            while len(head) < _HEAD and (more := stream.read(_HEAD - len(head))):
                head += more
        except (OSError, *_DAMAGE) as error:
            if not _is_damage(error):
                raise
    for magic, kind in _KINDS:
        if magic.match(head):
            return kind
    ending, compression = endings(path)
    if not head and not compression and ending not in _BY_NAME:
        return EMPTY
    lines = [line.strip() for line in head.removeprefix(_BOM).splitlines()]
    first, second = [*filter(None, lines), b"", b""][:2]
    if first.startswith(b"[") and not second.startswith(b"{"):
        return PRETTY_ARRAY if first == b"[" else ARRAY
    if first.startswith(b"{"):
        opens = second.startswith((b'"', b"}")) and not _is_json(first)
        return PRETTY if opens else JSON_LINES
    # Where bytes do not say what was meant, reading it says what is wrong.
    unknown = BINARY if b"\0" in head else TEXT if first else EMPTY
    return _BY_NAME.get(ending.partition("-")[0], unknown)


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
    read = _READ.get(kind, _json_lines)
    try:
        with open_file(path) as raw:
            for at, record in read(plain(raw, path), path, columns):
                yield at, record
    except (OSError, *_DAMAGE) as error:
        if not _is_damage(error):
            raise
        raise _damaged(where, path, f" after record {at}", error) from error


def read_text(where: str, path: str) -> bytes:
    """The content of a file, uncompressed; at most `MAX_RECORD_BYTES` + 1 bytes."""
    try:
        with open_file(path) as raw:
            return plain(raw, path).read(MAX_RECORD_BYTES + 1)
    except (OSError, *_DAMAGE) as error:
        if not _is_damage(error):
            raise
        raise _damaged(where, path, "", error) from error


def _is_damage(error: Exception) -> bool:
    # Errors of the operating system have a number, and those of decoders have none.
    return not isinstance(error, OSError) or error.errno is None


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
    csv.field_size_limit(MAX_RECORD_BYTES)
    start = stream.peek(_HEAD)[:_HEAD].removeprefix(_BOM)  # type: ignore[attr-defined]
    first = re.sub(rb'"[^"]*"', b"", start.partition(b"\n")[0])
    separator = max(b"\t,;|", key=first.count)
    # Bytes that are not UTF-8 become lone surrogates.
    text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", "")  # type: ignore[type-var]
    lines = iter(lambda: text.readline(MAX_RECORD_BYTES + 1), "")
    rows = csv.reader(lines, delimiter=chr(separator), strict=True)
    header = next(rows, [])
    if len({*header}) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise UserError(f"{path!r}: two columns are called {twice!r}; rename one")
    while True:
        before = rows.line_num
        try:
            row = next(rows, None)
        except csv.Error as error:
            # What follows is in that cell, and nobody knows how many rows it was.
            if "end of data" in str(error) or "limit" in str(error):
                raise UserError(
                    f"{path!r}: line {before + 1} opens a quote, and no line closes "
                    "it; repair it"
                ) from error
            yield rows.line_num, Cause(NOT_CSV, str(error))
            continue
        if row is None:
            return
        if len(row) != len(header):
            if row:  # and not a blank line
                yield rows.line_num, Cause(NOT_AS_WIDE, row[:3])
        elif any(not cell.isascii() and _ESCAPED.search(cell) for cell in row):
            yield rows.line_num, Cause(NOT_UTF8)
        else:
            yield rows.line_num, dict(zip(header, map(_cell, row), strict=True))


def _cell(cell: str) -> str | float:
    """The value of a cell; whole numbers with a point are numbers."""
    is_number = cell.endswith(".0") and cell[:-2].removeprefix("-").isdecimal()
    return float(cell) if is_number else cell


def _parquet(
    stream: Stream, path: str, columns: Collection[str] | None
) -> Iterator[Record]:
    """Rows of a Parquet file; a few megabytes are decoded at once."""
    with pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20) as file:
        names, about = file.schema_arrow.names, file.metadata
        wanted = None if columns is None else [n for n in names if n in columns]
        groups = [about.row_group(i) for i in range(about.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        most = max(1, min(1000, _BATCH_BYTES * about.num_rows // (size or 1)))
        if names != _EXAMPLES:
            rows = _rows(file.iter_batches(batch_size=most, columns=wanted))
            for number, row in rows:
                # The first one shows which columns there are.
                yield number, row if number > 1 else dict.fromkeys(names) | row
            return
        said = _TfdsInfo(path)
        for number, row in _rows(file.iter_batches(batch_size=most)):
            yield number, _example(row["data"], said)


def _arrow(stream: Stream, path: str, columns: object) -> Iterator[Record]:
    """Rows of Arrow's files or streams; the latter are what `datasets` writes."""
    if stream.peek(6)[:6] == b"ARROW1":  # type: ignore[attr-defined]
        file = pa.ipc.open_file(stream)
        yield from _rows(map(file.get_batch, range(file.num_record_batches)))
        return
    yield from _rows(pa.ipc.open_stream(stream))
    if stream.seekable():
        # A writer that was killed leaves whole batches, and no end.
        stream.seek(-len(_END), io.SEEK_END)
        if stream.read() != _END:
            raise EOFError("the end of the stream is missing")


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for batch in batches:
        for start in range(0, len(batch), 1000):
            part = batch.slice(start, 1000)
            for i, field in enumerate(part.schema):
                # Python has no nanoseconds, and not every machine has time zones.
                if pa.types.is_timestamp(field.type):
                    column = part.column(i).cast(pa.timestamp("us"), safe=False)
                    part = part.set_column(i, field.name, column)
            for record in part.to_pylist():
                number += 1
                yield number, record


def _array_record(stream: Stream, path: str, columns: object) -> Iterator[Record]:
    """Examples of a data set that TFDS wrote as ArrayRecord."""
    if "://" in path:
        raise UserError(f"{path!r}: ArrayRecord files are only read from this machine")
    reader, about = array_record_module.ArrayRecordReader(path), _TfdsInfo(path)
    most = reader.num_records()
    for start in range(0, most, 64):
        for i, data in enumerate(reader.read([*range(start, min(start + 64, most))])):
            if not data:
                raise EOFError("a record is empty")
            yield start + i + 1, _example(data, about)
    # One that is truncated has no records.
    about.check(most)


def _tf_record(stream: Stream, path: str, columns: object) -> Iterator[Record]:
    """Examples of a data set that TFDS wrote as TFRecord."""
    about, number = _TfdsInfo(path), 0
    while head := stream.read(12):
        size = int.from_bytes(head[:8], "little")
        data = stream.read(min(size, MAX_RECORD_BYTES) + 4)
        number += 1
        if size > MAX_RECORD_BYTES:
            stream.seek(size - MAX_RECORD_BYTES, io.SEEK_CUR)
            yield number, Cause(TOO_LONG)
        elif len(head) < 12 or len(data) < size + 4:
            raise EOFError("the last record is not whole")
        else:
            yield number, _example(data[:-4], about)
    about.check(number)


class _TfdsInfo:
    """What files beside a file of a TFDS data set say; nothing in them is run."""

    def __init__(self, path: str) -> None:
        self._folder, _, self._name = path.rpartition("/")
        self._labels: dict[str, list[str]] = {}

    def _read(self, name: str) -> str:
        with (
            contextlib.suppress(OSError),
            open_file(f"{self._folder or '.'}/{name}") as f,
        ):
            return f.read().decode()
        return ""

    def labels(self, feature: str) -> list[str]:
        """The names of a feature's classes, if it has any."""
        if feature not in self._labels:
            name = f"{feature.replace('/', '-')}.labels.txt"
            self._labels[feature] = self._read(name).splitlines()
        return self._labels[feature]

    def check(self, records: int) -> None:
        """Raises an `EOFError` if the file should have another number of records."""
        shard = re.search(r"-(\w+)\.\w+-(\d{5})-of-\d{5}$", self._name)
        wanted = None if records else "some"
        with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
            for split in json.loads(self._read("dataset_info.json"))["splits"]:
                if shard and split["name"] == shard[1]:
                    wanted = split["shardLengths"][int(shard[2])]
        if wanted not in (None, str(records)):
            raise EOFError(f"there should be {wanted} records")


def _example(data: bytes, about: _TfdsInfo) -> dict[str, Any]:
    """A record of an example of TensorFlow, which holds only numbers and texts."""
    record: dict[str, Any] = {}
    example = tf_example_pb2.Example.FromString(data)
    for path, feature in example.features.feature.items():
        values = [*getattr(feature, feature.WhichOneof("kind") or "bytes_list").value]
        if feature.HasField("int64_list") and (known := about.labels(path)):
            values = [known[i] if 0 <= i < len(known) else i for i in values]
        *above, name = path.split("/")
        inner = record
        for each in above:
            inner = inner.setdefault(each, {})
        inner[name] = values[0] if len(values) == 1 else values
    return record


_READ = {
    PARQUET: _parquet,
    ARROW: _arrow,
    TABLE: _table,
    ARRAY_RECORD: _array_record,
    TFRECORD: _tf_record,
}
