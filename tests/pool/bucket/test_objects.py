"""The properties that an object store must have, over the protocol of S3."""

import threading

import pytest

from jaxsim.errors import DamagedError, UserError
from jaxsim.pool.bucket import Objects, StoreError, open_bucket


def test_create_does_not_replace(objects):
    assert objects.create("a/b", b"first")
    assert not objects.create("a/b", b"second")
    assert objects.read("a/b") == b"first"
    objects.write("a/b", b"third")
    assert objects.read("a/b") == b"third"
    assert objects.read("a") is None


def test_lists_see_new_objects_of_others(objects):
    assert objects.list("a") == {}
    other = Objects(objects.url)
    other.write("a/one", b"1")
    other.write("a/b/two", b"22")
    other.write("ab/three", b"333")
    assert objects.list("a") == {"one": 1, "b/two": 2}
    other.delete(["a/one", "a/never"])
    assert objects.list("a") == {"b/two": 2}


def test_files_are_fetched_complete(objects, tmp_path):
    (tmp_path / "sent").write_bytes(bytes(range(256)) * 4096)
    objects.send(tmp_path / "sent", "file")
    objects.fetch("file", tmp_path / "new" / "fetched")
    assert (tmp_path / "new" / "fetched").read_bytes() == (
        tmp_path / "sent"
    ).read_bytes()
    with pytest.raises(StoreError, match="nothing: could not read it"):
        objects.fetch("nothing", tmp_path / "new" / "other")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["fetched"]


def test_one_of_many_threads_creates(in_memory):
    made, start = [], threading.Barrier(8)

    def create(number):
        start.wait()
        if in_memory.create("x", b"%d" % number):
            made.append(b"%d" % number)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [in_memory.read("x")]


def test_a_store_that_replaces_objects_is_refused(objects, monkeypatch):
    objects.check()
    assert objects.list("") == {}
    pipe = objects._files.pipe_file
    monkeypatch.setattr(
        objects._files, "pipe_file", lambda path, content, mode="": pipe(path, content)
    )
    with pytest.raises(StoreError, match="replaces objects"):
        objects.check()


def test_a_missing_bucket_is_named(s3):
    with pytest.raises(UserError, match="s3://nowhere/pool"):
        Objects("s3://nowhere/pool").check()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("bucket/pool", "must be s3://NAME/FOLDER or"),
        ("s3://", "must be s3://NAME/FOLDER or"),
        ("nosuch://bucket", "must be s3://NAME/FOLDER or"),
        ("ftp://me:secret@host/x", "must be s3://NAME/FOLDER or"),
        ("github://someone:repository@/x", "must be s3://NAME/FOLDER or"),
        ("file:///tmp/x", "give it as --workdir"),
        ("https://x/y", "AWS_ENDPOINT_URL"),
        ("gs://bucket/pool", r"pip install 'jaxsim-mixtures\[gcs\]'"),
    ],
)
def test_other_addresses_are_refused(url, message, tmp_path):
    with pytest.raises(UserError, match=message):
        open_bucket(url, tmp_path)


@pytest.mark.parametrize("key", ["a/../b", "/a", "a//b", "a/./b", ".."])
def test_keys_that_lead_elsewhere_are_refused(in_memory, key):
    for ask in (in_memory.read, in_memory.list, lambda k: in_memory.write(k, b"")):
        with pytest.raises(DamagedError, match="is no key"):
            ask(key)


def test_listed_keys_that_lead_elsewhere_are_refused(in_memory):
    in_memory.write("a/b", b"")
    files, root = in_memory._files, in_memory._root
    files.store[f"{root}/a/../b"] = files.store.popitem()[1]
    with pytest.raises(DamagedError, match="points outside"):
        in_memory.list("a")
