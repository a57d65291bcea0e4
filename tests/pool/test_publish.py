"""One exclusive creation admits one attempt; other attempts leave no trace."""

import dataclasses
import errno
import os
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxsim import checkpoints, records
from jaxsim.checkpoints import NotSaved, save_params
from jaxsim.errors import JaxsimError
from jaxsim.pool import build
from jaxsim.pool import publish as publishing
from jaxsim.pool.lock import Busy
from jaxsim.pool.manifest import read_manifest
from jaxsim.pool.publish import (
    AlreadyPublished,
    clear_leftovers,
    is_published,
    publish,
    save_attempt,
)

TREE = {"a": {"kernel": np.arange(4, dtype=np.float32)}}


@pytest.fixture
def attempts(built, tmp_path):
    """An entry with two finished attempts, and a manifest for each."""
    entry = tmp_path / "a"
    template = built.pool.manifest("a")
    manifests = []
    for _ in range(2):
        attempt, files = save_attempt(entry, TREE)
        manifests.append(dataclasses.replace(template, attempt=attempt, files=files))
    return entry, manifests


def test_a_manifest_reads_back_as_it_was_written(attempts):
    entry, manifests = attempts
    assert not is_published(entry)
    publish(entry, manifests[0])
    assert read_manifest(entry) == manifests[0]


def test_the_second_attempt_is_deleted(attempts):
    entry, (first, second) = attempts
    publish(entry, first)
    with pytest.raises(AlreadyPublished, match=first.attempt):
        publish(entry, second)
    assert read_manifest(entry) == first
    names = {path.name for path in entry.iterdir()}
    assert names == {"manifest.json", first.attempt}


def test_one_of_two_concurrent_publishers_wins(attempts, monkeypatch):
    entry, manifests = attempts
    barrier = threading.Barrier(2)
    link = os.link

    def together(*paths):
        barrier.wait(10)
        link(*paths)

    monkeypatch.setattr(publishing.os, "link", together)
    lost = []

    def run(manifest):
        try:
            publish(entry, manifest)
        except AlreadyPublished as error:
            lost.append((manifest.attempt, str(error)))

    threads = [threading.Thread(target=run, args=(m,)) for m in manifests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    winner = read_manifest(entry).attempt
    assert len(lost) == 1 and lost[0][0] != winner
    assert winner in lost[0][1]
    assert {p.name for p in entry.iterdir()} == {"manifest.json", winner}


def test_a_launcher_that_publishes_second_continues(project, monkeypatch, capsys):
    """Another machine publishes c while it is trained here."""
    save = build.save_attempt

    def overtaken(entry, params):
        attempt, files = save(entry, params)
        rival, rival_files = save(entry, params)
        manifest = dataclasses.replace(
            project.pool.manifest("a"),
            name="c",
            mixture={"c": 1.0},
            data_digests={"c": project.corpus.unit("c").digest},
            attempt=rival,
            files=rival_files,
        )
        publish(entry, manifest)
        return attempt, files

    monkeypatch.setattr(build, "save_attempt", overtaken)
    project.train("c")
    entry = project.pool.entry("c")
    assert "was published first" in capsys.readouterr().out
    attempts = [p.name for p in entry.glob("attempt-*")]
    assert attempts == [read_manifest(entry).attempt]
    assert not (project.workdir / "state" / "c").exists()


def test_leftovers_are_deleted_and_the_admitted_attempt_stays(attempts):
    entry, (first, second) = attempts
    publish(entry, first)
    (entry / "attempt-0123456789ab.orbax-checkpoint-tmp").mkdir()
    (entry / f".{second.attempt}.json").write_text("partial")
    clear_leftovers(entry)
    names = {path.name for path in entry.iterdir()}
    assert names == {"manifest.json", first.attempt}


def test_leftovers_of_an_unpublished_entry_are_deleted(attempts):
    entry, _ = attempts
    clear_leftovers(entry)
    assert list(entry.iterdir()) == []


def test_a_deleted_attempt_cannot_be_published(attempts):
    """Two launchers on a file system without locks."""
    entry, (first, _) = attempts
    clear_leftovers(entry)
    with pytest.raises(Busy, match="member a: another launcher"):
        publish(entry, first)
    assert list(entry.iterdir()) == []


def test_an_attempt_that_is_published_meanwhile_stays(attempts, monkeypatch):
    entry, (first, second) = attempts
    unlink = Path.unlink

    def overtaken(path, missing_ok=False):
        if path.name == f".{first.attempt}.json" and not is_published(entry):
            os.link(path, entry / "manifest.json")
        unlink(path, missing_ok=missing_ok)

    (entry / f".{first.attempt}.json").write_text(records.dump(first))
    monkeypatch.setattr(Path, "unlink", overtaken)
    clear_leftovers(entry)
    names = {path.name for path in entry.iterdir()}
    assert names == {"manifest.json", first.attempt}
    assert not (entry / second.attempt).exists()


def test_the_attempt_of_a_later_launcher_stays(attempts, monkeypatch):
    entry, (first, _) = attempts
    glob = Path.glob

    def late(path, pattern):
        found = list(glob(path, pattern))
        if pattern == ".attempt-*.json":
            found.remove(entry / f".{first.attempt}.json")
        return found

    monkeypatch.setattr(Path, "glob", late)
    clear_leftovers(entry)
    publish(entry, first)
    assert (entry / first.attempt).is_dir()


def test_a_link_request_that_nfs_repeats_is_no_conflict(attempts, monkeypatch):
    entry, (first, _) = attempts
    link = os.link

    def repeated(*paths):
        link(*paths)
        raise FileExistsError

    monkeypatch.setattr(publishing.os, "link", repeated)
    publish(entry, first)
    names = {path.name for path in entry.iterdir() if path.is_dir()}
    assert first.attempt in names


def test_a_file_system_without_hard_links_is_refused(project, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(publishing.os, "link", refuse)
    with pytest.raises(JaxsimError, match=r"locks: .*no hard links"):
        project.train("c")
    assert not project.pool.entry("c").exists()
    assert not list((project.workdir / "state" / ".locks").glob(".*"))


@pytest.mark.parametrize("call", ["link", "unlink"])
def test_a_kill_while_links_are_tried_leaves_nothing_in_the_end(
    tmp_path, monkeypatch, call
):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        if call == "link":
            patch.setattr(publishing.os, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            publishing.check_links(tmp_path)
    assert list(tmp_path.iterdir())
    publishing.check_links(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_kill_right_after_the_link_leaves_nothing_in_the_end(project):
    entry = project.pool.entry("a")
    attempt = read_manifest(entry).attempt
    os.link(entry / "manifest.json", entry / f".{attempt}.json")
    project.train("a")
    assert sorted(path.name for path in entry.iterdir()) == [attempt, "manifest.json"]


def _full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_an_error_and_changes_nothing(project, monkeypatch, capsys):
    def files():
        return sorted(project.workdir.joinpath("pool").rglob("*"))

    before = files()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.ocp, "save", _full)
        with pytest.raises(JaxsimError, match=r"No space left.*bytes are free"):
            project.train("c")
    assert [f for f in files() if f.name != "c"] == before
    assert not list(project.pool.entry("c").iterdir())
    assert project.pool.names() == ["a", "b"]
    project.train("c")  # there is room again
    assert project.pool.names() == ["a", "b", "c"]
    assert project.pool.problems() == {}


def test_a_full_disk_under_the_manifest_admits_nothing(attempts, monkeypatch):
    entry, (first, _) = attempts
    with monkeypatch.context() as patch:
        patch.setattr(publishing.os, "fsync", _full)
        with pytest.raises(NotSaved, match=r"No space left.*bytes are free"):
            publish(entry, first)
    assert not is_published(entry)
    names = {path.name for path in entry.iterdir() if path.is_file()}
    assert f".{first.attempt}.json" not in names


def test_a_disk_without_room_is_refused_before_training(project, monkeypatch):
    usage = project.workdir  # any path has one
    small = publishing.shutil.disk_usage(usage)._replace(free=1000)
    monkeypatch.setattr(publishing.shutil, "disk_usage", lambda _: small)
    with pytest.raises(JaxsimError, match="and 1,000 are free; nothing was"):
        project.train("c")
    assert not project.pool.entry("c").exists()


def test_a_disk_that_really_fills_up_is_an_error(tmp_path):
    """Simulated by a limit on file sizes; Orbax reports both as ValueError."""
    import resource

    tree = {"a": np.random.default_rng(0).normal(size=200_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(NotSaved, match="about 1,600,000 bytes"):
            save_attempt(tmp_path / "a", tree)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.skipif(jax.device_count() < 4, reason="needs 4 devices")
def test_parameters_saved_on_one_mesh_load_bit_exactly_on_others(tmp_path):
    from train import tiny

    rng = np.random.default_rng(0)
    tree = {"a": {"kernel": rng.normal(size=(8, 8)).astype(np.float32)}}
    spec = jax.sharding.PartitionSpec("data", "model")

    def on(mesh, tree):
        sharding = jax.sharding.NamedSharding(mesh, spec)
        return jax.device_put(tree, sharding)

    save_params(tmp_path / "x", on(tiny.mesh_of(2, 2), tree))
    loaded = checkpoints.load_params(tmp_path / "x", tree)
    for mesh in (tiny.mesh_of(), tiny.mesh_of(4, 1), tiny.mesh_of(1, 2)):
        moved = on(mesh, loaded)["a"]["kernel"]
        assert len(moved.sharding.device_set) == mesh.size
        np.testing.assert_array_equal(moved, tree["a"]["kernel"])
