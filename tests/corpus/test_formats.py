"""What files are, and the records in them."""

import bz2
import codecs
import csv
import datetime
import gzip
import json
import lzma
import random
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from jaxsim.corpus import formats, readers
from jaxsim.corpus.fields import NOT_UTF8, TOO_LONG, Cause, date_of, text_of, texts_of
from jaxsim.corpus.formats import endings, kind_of, stem_of
from jaxsim.corpus.readers import read_records
from jaxsim.errors import DamagedError, UserError

RECORDS = [
    {"id": f"{i}", "text": f'line one\nline {i} é, "x"; y\tz', "n": i}
    for i in range(50)
]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


COMPRESSED = {
    "gz": gzip.compress, "zst": zstd, "bz2": bz2.compress, "xz": lzma.compress,
}  # fmt: skip


def rows(path, columns=None):
    return [record for _, record in read_records("s", str(path), columns)]


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.JSONL", "a.ndjson", "a.json", "a.jsonl.gz", "a.JSON.GZ", "noending",
     "a.jsonl.zst", "a.jsonl.zstd", "a.jsonl.bz2", "a.ndjson.xz", "wrong.csv",
     "wrong.parquet", "wrong.txt"],
)  # fmt: skip
def test_json_lines_of_any_name(tmp_path, name):
    ending = endings(name)[1].replace("zstd", "zst")
    path = tmp_path / name
    path.write_bytes(COMPRESSED.get(ending, bytes)(LINES))
    assert kind_of(str(path)) == formats.JSON_LINES
    assert list(read_records("s", str(path))) == list(enumerate(RECORDS, 1))


@pytest.mark.parametrize("ending", COMPRESSED)
def test_compressed_files_are_read_by_what_they_are(tmp_path, ending):
    """Also several members, and files whose name does not tell, or lies."""
    compress = COMPRESSED[ending]
    for name, data in {
        "a.jsonl": compress(LINES),
        f"b.jsonl.{ending}": LINES,
        f"c.jsonl.{ending}": compress(LINES[:500]) + compress(LINES[500:]),
        f"d.jsonl.{'xz' if ending == 'gz' else 'gz'}": compress(LINES),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert rows(tmp_path / name) == RECORDS, name
    if ending in ("gz", "xz"):
        padded = compress(LINES) + bytes(32)
        (tmp_path / "a.jsonl").write_bytes(padded)
        assert rows(tmp_path / "a.jsonl") == RECORDS


@pytest.mark.parametrize("ending", COMPRESSED)
@pytest.mark.parametrize("keep", [0, 1, 3, 12, 0.5, -9, -1, "garbage", "half a member"])
def test_truncated_or_changed_compressed_files_are_damaged(tmp_path, ending, keep):
    rng = random.Random(0)
    lines = [json.dumps({"text": str(rng.random())}) for _ in range(3000)]
    data = COMPRESSED[ending]("\n".join(lines).encode())
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(data)
    assert len(rows(path)) == 3000
    if keep == "garbage":
        data += b"garbage"
    elif keep == "half a member":
        data += data[: len(data) // 2]
    else:
        data = data[: int(keep * len(data)) if keep == 0.5 else keep]
    path.write_bytes(data)
    kind_of(str(path))  # is no error
    with pytest.raises(DamagedError, match=rf"a\.jsonl\.{ending}' is truncated or dam"):
        rows(path)


def test_what_a_file_is(tmp_path):
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "parquet")
    for name, content, kind in [
        ("parquet.jsonl", (tmp_path / "parquet").read_bytes(), formats.PARQUET),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", formats.POINTER),
        ("b.json", b'[{"text": "x"}]', formats.ARRAY),
        ("b.jsonl", b'[1]\n{"text": "x"}\n', formats.JSON_LINES),
        ("c.json", b'{\n  "text": "x"\n}\n', formats.PRETTY),
        ("c.jsonl", b'{"text":\n"x"}\n', formats.PRETTY),
        ("d.json", b'[\n  {"text": "x"}\n]\n', formats.PRETTY_ARRAY),
        ("e.jsonl", b'not JSON\n{"text": "x"}\n', formats.JSON_LINES),
        ("f.jsonl", codecs.BOM_UTF8 + b'\n {"text": "x"}\n', formats.JSON_LINES),
        ("g.jsonl", '{"text": "x"}'.encode("utf-16"), "UTF-16 text"),
        ("h.jsonl", b" <!DOCTYPE html><html>", formats.HTML),
        ("i.csv", b"text\nx\n", formats.TABLE),
        ("j.txt", b"text\nx\n", formats.TEXT),
        ("LICENSE", b"text\nx\n", formats.TEXT),
        ("k.md", gzip.compress(b"# text"), formats.TEXT),
        ("l.bin", b"text\0", formats.BINARY),
        ("m", b"", formats.EMPTY),
        ("n.pdf", b"%PDF-1.4", "a PDF file"),
        ("o.txt", b"BZh9 is how bzip2 begins", formats.TEXT),
        ("p.md", b"PAR1 begins Parquet" + "é".encode() * 9000, formats.TEXT),
        ("q.txt", b"x" * 257 + b"ustar", formats.TEXT),
        ("r.txt", b"x" * 256 + b"\0ustar", formats.TAR),
        ("s.txt", b"version https://git-lfs.github.com/spec/v1", formats.POINTER),
        ("t", bz2.compress(b""), formats.EMPTY),
    ]:
        (tmp_path / name).write_bytes(content)
        assert kind_of(str(tmp_path / name)) == kind, name


def test_partitions_of_files_have_plain_names():
    for file in ("a/b/physics.jsonl.gz", "physics.JSON.zst", "physics.parquet"):
        assert stem_of(file) == "physics"
    assert stem_of("x/en.0001.csv") == "en.0001"
    assert stem_of("x/v1.5") == "v1.5"


def test_a_longer_line_is_skipped_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_RECORD_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n"' + b"y" * 950 + b'"\n{"text": "b"}\n')
    assert rows(path) == [{"text": "a"}, TOO_LONG, {"text": "b"}]


def test_records_with_other_line_ends(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES.replace(b"\n", b"\r\n"))
    assert rows(path) == RECORDS
    path.write_bytes(b"{broken\r" + LINES.replace(b"\n", b"\r"))
    for most in (10**6, 100):
        monkeypatch.setattr(readers, "MAX_RECORD_BYTES", most)
        with pytest.raises(UserError, match="line 1 has several records with CR"):
            rows(path)


TABLE = pa.table(
    {
        "text": [f"text {i} é" for i in range(3000)],
        "date": pa.array(
            [datetime.datetime(2020, 1, 1 + i % 28, 23) for i in range(3000)],
            pa.timestamp("ns", tz="Europe/Berlin"),
        ),
        "lang": pa.array(["en", None, "de"] * 1000).dictionary_encode(),
        "tags": [["a", "b"], []] * 1500,
        "meta": [{"k": i} for i in range(3000)],
        "map": pa.array([[("k", "v")]] * 3000, pa.map_(pa.string(), pa.string())),
    }
)


def test_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, row_group_size=700)
    found = rows(path)
    assert [row["text"] for row in found] == TABLE["text"].to_pylist()
    assert found[1]["date"] == datetime.datetime(2020, 1, 2, 23)
    assert [row["lang"] for row in found[:3]] == ["en", None, "de"]
    assert found[2]["tags"] == ["a", "b"]
    assert (found[5]["meta"], found[5]["map"]) == ({"k": 5}, {"k": "v"})
    # Only some columns are read; the first row names all.
    some = rows(path, {"text", "lang", "none"})
    assert some[0].keys() == found[0].keys()
    assert some[1] == {"text": "text 1 é", "lang": None}
    assert len(rows(path, {"none"})) == 3000


@pytest.mark.parametrize("cut", [4, 20, 1000, -100, -1, "changed"])
def test_truncated_or_changed_parquet_files_are_damaged(tmp_path, cut):
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path)
    data = path.read_bytes()
    changed = data[:2000] + b"\xff" * 500 + data[2500:]
    path.write_bytes(changed if cut == "changed" else data[:cut])
    with pytest.raises(DamagedError, match="is truncated or damaged"):
        rows(path)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_tables_with_values_that_python_does_not_have(tmp_path, ending):
    """Nobody can read them, and the other columns and rows are as they are."""
    zone = pa.timestamp("ns", "Mars/Station")
    inner = pa.struct([("when", pa.list_(zone)), ("x", pa.string())])
    table = pa.table(
        {
            "text": ["a", "b"],
            "day": pa.array([2932897 + 10, 3], pa.int32()).cast(pa.date32()),
            "topic": pa.array([b"\xff", b"law"]).view(pa.string()),
            "second": pa.array([4, 2**50]).cast(pa.timestamp("s")),
            "meta": pa.array([{"when": [1001], "x": "y"}, None], inner),
        }
    )
    path = str(tmp_path / f"a.{ending}")
    write_table(path, table)
    a, b = rows(path)
    assert (a["text"], b["text"]) == ("a", "b")
    assert text_of(a["topic"], "topic") == "topic: invalid UTF-8"
    assert b["topic"] == "law"
    cause = "day has a date outside of the years 1 to 9999"
    assert date_of(a["day"], "day") == cause
    assert date_of(b["day"], "day") == "1970-01-04"
    assert date_of(a["second"], "second") == "1970-01-01T00:00:04"
    assert isinstance(date_of(b["second"], "second"), Cause)
    when = datetime.datetime(1970, 1, 1, 0, 0, 0, 1)
    assert (a["meta"], b["meta"]) == ({"when": [when], "x": "y"}, None)


def write_table(path, table):
    if path.endswith("parquet"):
        pq.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_columns_of_one_name_are_refused(tmp_path, ending):
    path = str(tmp_path / f"a.{ending}")
    write_table(path, pa.table([["1"], ["a"], ["b"]], ["id", "text", "text"]))
    with pytest.raises(UserError, match="two columns are called 'text'; rename one"):
        rows(path)


def test_parquet_that_is_compressed_once_more(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path)
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert len(rows(tmp_path / "b.parquet.gz")) == 3000
    (tmp_path / "c.parquet.zst").write_bytes(zstd(path.read_bytes()))
    with pytest.raises(UserError, match="compressed once more; decompress it"):
        rows(tmp_path / "c.parquet.zst")


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow(tmp_path, new):
    path = tmp_path / "data-00000-of-00001.arrow"
    with new(str(path), TABLE.schema) as writer:
        for batch in TABLE.to_batches(max_chunksize=1500):
            writer.write_batch(batch)
    assert [row["text"] for row in rows(path)] == TABLE["text"].to_pylist()
    data = path.read_bytes()
    # Without the last 8 bytes a stream has all batches, and no end.
    for cut in (4, 100, len(data) // 2, -20, -8):
        path.write_bytes(data[:cut])
        with pytest.raises(DamagedError, match="is truncated or damaged"):
            rows(path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_text(tmp_path, separator):
    """As spreadsheets and pandas write them."""
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(["", "text", "year"])
        for i, record in enumerate(RECORDS):
            writer.writerow([i, record["text"], "1995.0" if i % 2 else ""])
    found = rows(path)
    assert [row["text"] for row in found] == [record["text"] for record in RECORDS]
    assert [row["year"] for row in found[:2]] == ["", "1995.0"]
    assert texts_of(found[1]["year"], "year", "first") == ["1995"]


@pytest.mark.parametrize(
    ("name", "first", "second", "columns"),
    [
        ("a.csv", "text", "a\tb;c|d", ["text"]),
        ("a.tsv", "text", "a,b;c|d", ["text"]),
        ("a.tsv.gz", "text\tlong, plain, short", "a\tb", None),
        ("a.csv", "text;tab\there\tor\tthere", "a;b", None),
        ("a.csv", "id\ttext", "1\ta, b", ["id", "text"]),
        ("a.csv", "id|text", "1|a, b", ["id", "text"]),
    ],
)
def test_separators_are_those_of_the_header(tmp_path, name, first, second, columns):
    data = f"{first}\n{second}\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if "gz" in name else data)
    (row,) = rows(tmp_path / name)
    assert len(row) == len(columns or "ab")
    if columns:
        assert [*row] == columns


def test_bad_rows_of_a_table_are_counted(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,a\n\n2,b,c\n3,\xff\n4,"odd"quote\n5,"two\nlines"\n')
    assert list(read_records("s", str(path))) == [
        (2, {"id": "1", "text": "a"}),
        (4, readers.NOT_AS_WIDE),
        (5, NOT_UTF8),
        (6, readers.NOT_CSV),
        (8, {"id": "5", "text": "two\nlines"}),
    ]
    # Lines after a stray quote may be rows, so each of them counts.
    path.write_text('id,text\n0,a\n1,"open\n2,b\n3,b\n4,say "no"\n5,a\n')
    assert list(read_records("s", str(path))) == [
        (2, {"id": "0", "text": "a"}),
        *[(line, readers.IN_BAD_ROW) for line in (3, 4, 5)],
        (6, readers.NOT_CSV),
        (7, {"id": "5", "text": "a"}),
    ]
    path.write_text('id,text\n1,a\n2,"never closed\n3,b\n')
    with pytest.raises(UserError, match="line 3 opens a quote"):
        rows(path)
    path.write_text("text,text\na,b\n")
    with pytest.raises(UserError, match="two columns are called 'text'"):
        rows(path)


class Demo(tfds.core.GeneratorBasedBuilder):
    """A data set in the form in which TFDS prepares them."""

    VERSION = tfds.core.Version("1.0.0")
    SKIP_REGISTRATION = True
    name = "demo"

    def _info(self):
        kinds = tfds.features
        text, year = kinds.Text(), kinds.Scalar(dtype=np.int64)
        features = {
            "text": text, "year": year, "label": kinds.ClassLabel(names=["no", "yes"]),
            "meta": {"topic": text, "tags": kinds.Sequence(text)},
        }  # fmt: skip
        return tfds.core.DatasetInfo(
            builder=self, features=kinds.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(20):
            meta = {"topic": "web", "tags": ["a", "b"][: i % 3]}
            yield i, {"text": f"é {i}", "year": i, "label": "yes", "meta": meta}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    tfds.disable_progress_bar()
    found = {}
    for name in ("array_record", "parquet"):
        folder = tmp_path_factory.mktemp(name)
        Demo(data_dir=folder, file_format=name).download_and_prepare(file_format=name)
        (found[name],) = folder.glob(f"demo/1.0.0/*{name}-00000-of-00001")
    return found


def test_tfds(prepared, tmp_path):
    found = {name: rows(path) for name, path in prepared.items()}
    assert kind_of(str(prepared["array_record"])) == formats.ARRAY_RECORD
    # The same examples as TFRecord, which TFDS needs TensorFlow for.
    by_hand = tmp_path / "demo-train.tfrecord-00000-of-00001"
    with by_hand.open("wb") as file:
        for row in pq.read_table(prepared["parquet"]).to_pylist():
            size = struct.pack("<Q", len(row["data"]))
            file.write(size + bytes(4) + row["data"] + bytes(4))
    for name in ("dataset_info.json", "label.labels.txt"):
        (tmp_path / name).write_bytes((prepared["parquet"].parent / name).read_bytes())
    found["tfrecord"] = rows(by_hand)
    for made in found.values():
        made.sort(key=lambda row: row["year"])
        assert made[4] == {
            "text": "é 4".encode(), "year": 4, "label": "yes",
            "meta": {"topic": b"web", "tags": b"a"},
        }  # fmt: skip
    assert found["array_record"] == found["parquet"] == found["tfrecord"]
    by_hand.write_bytes(by_hand.read_bytes()[:-3])
    with pytest.raises(DamagedError, match="the last record is not whole"):
        rows(by_hand)


@pytest.mark.parametrize("keep", [30, 1000, 0.5, -1])
def test_truncated_array_record_files_are_damaged(prepared, tmp_path, keep):
    """Their reader says that there are no records."""
    source = prepared["array_record"]
    data = source.read_bytes()
    path = tmp_path / source.name
    path.write_bytes(data[: int(keep * len(data)) if keep == 0.5 else keep])
    with pytest.raises(DamagedError, match="there should be some records"):
        rows(path)
