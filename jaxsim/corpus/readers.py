"""Records of files, in the formats that corpora come in."""

import codecs
import contextlib
import csv
import io
import itertools
import json
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from jaxsim.corpus import formats
from jaxsim.corpus.fields import NOT_UTF8, TOO_LONG, Cause, PointedCell
from jaxsim.corpus.formats import Stream, is_damage, open_file, parse_json, plain
from jaxsim.errors import DamagedError, JaxsimError, UserError

NOT_JSON = "not JSON"
NOT_OBJECT = "not a JSON object"
NOT_CSV = "not CSV"
NOT_AS_WIDE = "not as many cells as the header"
IN_BAD_ROW = "a line of a bad row"
MAX_RECORD_BYTES = 50_000_000

_EXAMPLES = ["data"]  # columns of a Parquet file that TFDS wrote
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream of Arrow
_BATCH_BYTES = 4_000_000  # of a Parquet file that are decoded at once, about
_SEPARATORS = "\t,;|"
_BOM = codecs.BOM_UTF8
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8

# Where a record is, counted from 1, and the record or why there is none.
Record: TypeAlias = tuple[int, dict[str, Any] | Cause]


def read_records(
    where: str, path: str, columns: Collection[str] | None = None
) -> Iterator[Record]:
    """The records of a file, in order.

    Args:
      where: the source, for messages.
      columns: of a Parquet file, which to read; None: all. The first record names all.

    Raises:
      UserError: the file must be changed before it can be read.
      DamagedError: it is truncated or changed.
    """
    at = 0
    try:
        kind = formats.kind_of(path)
        with open_file(path) as raw:
            stream = plain(raw, path)
            if kind in (formats.PARQUET, formats.ARROW) and not stream.seekable():
                raise UserError(
                    f"{where}: {path!r} is {kind} that is compressed once more; "
                    "decompress it"
                )
            for at, record in _READ[kind](stream, path, columns):
                yield at, record
    except Exception as error:
        if not is_damage(error):
            raise
        raise damaged(where, path, error, f" after record {at}") from error


def read_text(where: str, path: str) -> bytes:
    """The content of a file, uncompressed; at most `MAX_RECORD_BYTES` + 1 bytes."""
    try:
        with open_file(path) as raw:
            return plain(raw, path).read(MAX_RECORD_BYTES + 1)
    except Exception as error:
        if not is_damage(error):
            raise
        raise damaged(where, path, error) from error


def damaged(where: str, path: str, error: Exception, at: str = "") -> JaxsimError:
    """The error that says that a file is truncated or changed."""
    said = str(error).rstrip(".") or type(error).__name__
    if "too much memory" in said:
        return UserError(
            f"{where}: {path!r} was compressed with `zstd --long`; compress it again, "
            "as `zstd -d --long=31 -c FILE | zstd > NEW.zst` does"
        )
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
            _check_line_ends(path, number, line)
            while line[-1:] != b"\n" and (line := stream.readline(most + 1)):
                pass
            yield number, Cause(TOO_LONG)
            continue
        if number == 1:
            line = line.removeprefix(_BOM)
        if line.isspace() or not line:
            continue
        try:
            record = parse_json(line.decode())
        except UnicodeDecodeError:
            yield number, Cause(NOT_UTF8)
        # ValueError also covers numbers of over 4300 digits; deep nesting raises
        # RecursionError.
        except (ValueError, RecursionError):
            _check_line_ends(path, number, line)
            yield number, Cause(NOT_JSON)
        else:
            yield number, record if isinstance(record, dict) else Cause(NOT_OBJECT)


def _check_line_ends(path: str, number: int, line: bytes) -> None:
    """Refuses a line of several records that only CR separates."""
    *several, _ = line.strip().split(b"\r", 9)
    if any(each.startswith(b"{") and formats.is_json(each) for each in several):
        raise UserError(
            f"{path!r}: line {number} has several records with CR between them; turn "
            "CR into LF, as `tr '\\r' '\\n' < FILE > FILE.jsonl` does"
        )


def _table(stream: Stream, path: str, columns: object) -> Iterator[Record]:
    """Rows of CSV or TSV, with the names of the columns in the first one."""
    csv.field_size_limit(MAX_RECORD_BYTES)
    # Bytes that are not UTF-8 become lone surrogates.
    text = io.TextIOWrapper(stream, "utf-8-sig", "surrogateescape", "")  # type: ignore[type-var]
    first = text.readline(MAX_RECORD_BYTES + 1)
    lines = itertools.chain(
        [first], iter(lambda: text.readline(MAX_RECORD_BYTES + 1), "")
    )
    rows = csv.reader(lines, delimiter=_separator(path, first), strict=True)
    header: list[str] = []
    while True:
        before = rows.line_num
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            # What follows is in that cell, and nobody knows how many rows it was.
            if "end of data" in str(error) or "limit" in str(error):
                raise UserError(
                    f"{path!r}: line {before + 1} opens a quote, and no line closes "
                    "it; repair it"
                ) from error
            yield from _bad_row(before, rows.line_num, NOT_CSV)
            continue
        if not row:  # a blank line
            continue
        if not header:
            header = row
            _check_columns(path, header)
        elif len(row) != len(header):
            yield from _bad_row(before, rows.line_num, NOT_AS_WIDE)
        elif any(not cell.isascii() and _ESCAPED.search(cell) for cell in row):
            yield rows.line_num, Cause(NOT_UTF8)
        else:
            yield rows.line_num, dict(zip(header, map(_cell, row), strict=True))


def _check_columns(path: str, names: list[str]) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path!r}: two columns are called {twice[0]!r}; rename one")


def _bad_row(before: int, last: int, cause: str) -> Iterator[Record]:
    """Each line of a bad row; the others may be rows that a stray quote swallowed."""
    for line in range(before + 1, last):
        yield line, Cause(IN_BAD_ROW)
    yield last, Cause(cause)


def _separator(path: str, header: str) -> str:
    """What separates the columns, as far as the header has several."""
    bare = re.sub('"[^"]*"', "", header)
    usual = "\t" if formats.endings(path)[0].startswith("tsv") else ",;"
    found = usual if any(each in bare for each in usual) else _SEPARATORS
    best = max(found, key=bare.count)
    return best if best in bare else usual[0]


def _cell(cell: str) -> str:
    is_number = cell.endswith(".0") and cell[:-2].removeprefix("-").isdecimal()
    return PointedCell(cell) if is_number else cell


def _parquet(
    stream: Stream, path: str, columns: Collection[str] | None
) -> Iterator[Record]:
    """Rows of a Parquet file; a few megabytes are decoded at once."""
    with pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20) as file:
        names, about = file.schema_arrow.names, file.metadata
        _check_columns(path, names)
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
        _check_columns(path, file.schema.names)
        yield from _rows(map(file.get_batch, range(file.num_record_batches)))
        return
    batches = pa.ipc.open_stream(stream)
    _check_columns(path, batches.schema.names)
    yield from _rows(batches)
    if isinstance(stream, io.BufferedReader):
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
                if (wanted := _for_python(field.type)) != field.type:
                    column = part.column(i).cast(wanted, safe=False)
                    part = part.set_column(i, field.name, column)
            try:
                records = part.to_pylist(maps_as_pydicts="lossy")
            except (ValueError, OverflowError):
                names = part.schema.names
                values = [_values(name, part[name]) for name in names]
                rows = zip(*values, strict=True)
                records = [dict(zip(names, row, strict=True)) for row in rows]
            for record in records:
                number += 1
                yield number, record


def _for_python(type_: pa.DataType) -> pa.DataType:
    """A type whose values Python has: no nanoseconds, and no unknown time zones."""
    if pa.types.is_timestamp(type_):
        return pa.timestamp(type_.unit.replace("ns", "us"))
    if pa.types.is_duration(type_):
        return pa.duration(type_.unit.replace("ns", "us"))
    if pa.types.is_list(type_):
        return pa.list_(type_.value_field.with_type(_for_python(type_.value_type)))
    if pa.types.is_struct(type_):
        return pa.struct([each.with_type(_for_python(each.type)) for each in type_])
    return type_


def _values(name: str, column: pa.Array) -> list[Any]:
    """The values of a column; a cause where Python has none, as of the year 10,000."""
    values: list[Any] = []
    for i in range(len(column)):
        try:
            values += column.slice(i, 1).to_pylist(maps_as_pydicts="lossy")
        except pa.ArrowException:
            raise
        except UnicodeDecodeError:
            values.append(Cause(f"{name}: {NOT_UTF8}"))
        except (ValueError, OverflowError):
            values.append(Cause(f"{name} has a date outside of the years 1 to 9999"))
    return values


def _array_record(stream: Stream, path: str, columns: object) -> Iterator[Record]:
    """Examples of a data set that TFDS wrote as ArrayRecord."""
    if "://" in path:
        raise UserError(f"{path!r}: ArrayRecord files are only read from this machine")
    from array_record.python import array_record_module

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
        path = f"{self._folder or '.'}/{name}"
        with contextlib.suppress(OSError), open_file(path) as file:
            return file.read().decode(errors="replace")
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
    # Large, and most processes read no such file.
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        example = tf_example_pb2.Example.FromString(data)
    except DecodeError as error:
        raise EOFError("a record is no example") from error
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
    formats.JSON_LINES: _json_lines,
    formats.TABLE: _table,
    formats.PARQUET: _parquet,
    formats.ARROW: _arrow,
    formats.ARRAY_RECORD: _array_record,
    formats.TFRECORD: _tf_record,
}
