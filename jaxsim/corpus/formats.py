"""What a file is, and its content without compression.

That shows in its first bytes. Its name counts only where they cannot say: for tables of
text, and for files that are cut off.
"""

import codecs
import gzip
import io
import json
import lzma
import re
import zlib
from pathlib import PurePosixPath
from typing import Any, TypeAlias

import fsspec
import pyarrow as pa

JSON_LINES, TABLE, TEXT = "JSON Lines", "a table", "plain text"
PARQUET, ARROW = "a Parquet file", "an Arrow file"
POINTER, ARRAY, PRETTY = "a git-lfs pointer", "a JSON array", "pretty-printed JSON"
PRETTY_ARRAY, TAR = "a pretty-printed JSON array", "a tar archive"
EMPTY, BINARY, HTML = "an empty file", "a binary file", "an HTML page"
ARRAY_RECORD, TFRECORD = "an ArrayRecord file", "a TFRecord file"

TEXTUAL = (TEXT, TABLE, JSON_LINES, ARRAY, PRETTY, PRETTY_ARRAY, HTML)

# What helps with files that cannot be read as they are.
ADVICE = {
    TAR: "unpack it",
    POINTER: "fetch its content with `git lfs pull`",
    **dict.fromkeys(
        (ARRAY, PRETTY_ARRAY),
        "write one record a line, as `jq -c '.[]' FILE > FILE.jsonl` does",
    ),
    PRETTY: "write one record a line, as `jq -c . FILE > FILE.jsonl` does",
    TEXT: "use reader='text', or end its name with .csv or .tsv if it is a table",
}

CODECS = {"gz": "gzip", "zst": "zstd", "zstd": "zstd", "bz2": "bz2", "xz": "xz"}
TABLES = ("csv", "tsv")
TEXTS = ("txt", "md", "rst")
LINES = ("jsonl", "ndjson", "json")
RECORDS = (*LINES, *TABLES, "parquet", "arrow")
_MAGIC = (
    (re.compile(rb"\x1f\x8b"), "gzip"),
    (re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "zstd"),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bz2"),
    (re.compile(rb"\xfd7zXZ\0"), "xz"),
)
_KINDS = (
    (re.compile(rb"PAR1"), PARQUET),
    (re.compile(rb"ARROW1|\xff\xff\xff\xff..[\0-\x0f]\0", re.DOTALL), ARROW),
    (re.compile(rb"\x83\xaf\x70\xd1\x0d\x88\x4a\x3f"), ARRAY_RECORD),
    (re.compile(rb"version https://git-lfs"), POINTER),
    (re.compile(rb"PK\x03\x04"), "a zip archive"),
    (re.compile(rb".{257}ustar", re.DOTALL), TAR),
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
}
_HEAD = 8192  # bytes that show what a file is
_BOM = codecs.BOM_UTF8

# What reading a file raises if it is truncated or changed.
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)

# NaN and Infinity are no JSON, and no values.
parse_json = json.JSONDecoder(parse_constant=lambda _: None).decode

Stream: TypeAlias = io.BufferedIOBase


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


def is_damage(error: Exception) -> bool:
    """Whether an error says that a file is truncated or changed."""
    # Errors of the operating system have a number, and those of decoders have none.
    by_decoder = isinstance(error, OSError) and error.errno is None
    return isinstance(error, _DAMAGE) or (
        by_decoder and type(error) in (OSError, gzip.BadGzipFile)
    )


def kind_of(path: str) -> str:
    """What a file is: one of the kinds above, or its name in a few words.

    Raises:
      Exception: the file is damaged so early that nothing says what it is.
    """
    head, damage = b"", None
    with open_file(path) as raw:
        try:
            stream = plain(raw, path)
            while len(head) < _HEAD and (more := stream.read(_HEAD - len(head))):
                head += more
        except Exception as error:
            if not is_damage(error):
                raise
            damage = error
    ending, _ = endings(path)
    is_text = ending in TEXTS and _is_text(head)
    for magic, kind in _KINDS:
        # Words may be what these begin with.
        if magic.match(head) and not (is_text and kind in (PARQUET, ARROW, TAR)):
            return kind
    if ending.startswith("tfrecord"):  # it begins with a number
        return TFRECORD
    lines = [line.strip() for line in head.removeprefix(_BOM).splitlines()]
    first, second = [*filter(None, lines), b"", b""][:2]
    if first == b"[":
        return PRETTY_ARRAY
    if first.startswith(b"[") and not (second.startswith(b"{") and is_json(first)):
        return ARRAY
    if first.startswith(b"{"):
        opens = second.startswith((b'"', b"}")) and not is_json(first)
        return PRETTY if opens else JSON_LINES
    # Where bytes do not say what was meant, reading it says what is wrong.
    unknown = BINARY if b"\0" in head else TEXT if first else EMPTY
    kind = _BY_NAME.get(ending.partition("-")[0], unknown)
    if kind == EMPTY and damage:
        raise damage
    return kind


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are UTF-8; its last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def is_json(line: bytes) -> bool:
    """Whether a line is a value of JSON."""
    try:
        parse_json(line.decode())
    except (ValueError, RecursionError):
        return False
    return True
