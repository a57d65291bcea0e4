"""Pool and corpus in a bucket: what is sent, fetched and refused."""

import dataclasses
import json
import shutil
import threading
from concurrent import futures

import pytest
import sealing
from train import tiny

from jaxsim.commands import score
from jaxsim.corpus import open_corpus
from jaxsim.corpus import prepare as prepare_corpus
from jaxsim.errors import DamagedError, UserError
from jaxsim.pool import lock as locking
from jaxsim.pool import open_pool
from jaxsim.pool.bucket import Bucket, StoreError, open_bucket
from jaxsim.pool.build import train_missing
from jaxsim.pool.publish import AlreadyPublished, is_published, save_attempt
from jaxsim.train import member_run

from ..launched import digests


@pytest.fixture
def bucket(project, in_memory) -> Bucket:
    """A bucket with the corpus, base model and members of the project."""
    bucket = Bucket(in_memory, project.workdir)
    bucket.prepare(lambda: project.corpus, False)
    _train(project, bucket)
    return bucket


def _train(project, bucket, *units):
    runs = [member_run(unit, project.config.recipe) for unit in units]
    train_missing(runs, project.create(), project.corpus, project.trainer, bucket)


@pytest.fixture
def elsewhere(bucket, tmp_path) -> Bucket:
    """The same bucket, from a machine with an empty workdir."""
    return Bucket(bucket.objects, tmp_path / "elsewhere")


def test_a_pool_arrives_unchanged(project, elsewhere, capsys):
    elsewhere.share_corpus()
    elsewhere.fetch_pool()
    pool = open_pool(elsewhere.workdir)
    assert digests(pool) == digests(project.pool)
    assert pool.problems() == {}
    assert capsys.readouterr().out.count("fetched from") == 4
    elsewhere.fetch_pool()
    assert capsys.readouterr().out == ""


def test_a_pool_is_scored_from_an_empty_workdir(project, url, s3, tmp_path):
    config = dataclasses.replace(project.config, bucket=url)
    bucket = open_bucket(url, project.workdir)
    bucket.prepare(lambda: project.corpus, False)
    _train(project, bucket)
    score(config, tmp_path / "new", mixtures="subsets:1-2")
    assert (tmp_path / "new" / "scores" / "standard.parquet").exists()


def test_members_in_the_bucket_are_not_trained(project, elsewhere, monkeypatch):
    elsewhere.share_corpus()
    elsewhere.fetched(elsewhere.workdir / "base")
    there = dataclasses.replace(project, workdir=elsewhere.workdir)
    monkeypatch.setattr(project.trainer, "train", None)
    _train(there, elsewhere, "a", "b")
    assert digests(there.pool) == digests(project.pool)


def test_one_of_two_machines_publishes(project, elsewhere, bucket):
    entry = elsewhere.workdir / "pool" / "members" / "a"
    params = project.pool.load(project.pool.manifest("a"))
    attempt, files = save_attempt(entry, params)
    late = dataclasses.replace(project.pool.manifest("a"), attempt=attempt, files=files)
    with pytest.raises(AlreadyPublished, match="was published first"):
        elsewhere.publish(entry, late)
    assert not is_published(entry)
    attempts = {key.split("/")[0] for key in bucket.objects.list("pool/members/a")}
    won = project.pool.manifest("a").attempt
    assert attempts == {"manifest.json", won, f"{won}.jsonl"}


def test_an_entry_that_is_sent_too_late_stays_complete_here(
    project, bucket, monkeypatch, tmp_path
):
    """Another machine publishes the same run while this one is sending it."""
    rival = project.copy(tmp_path / "rival")
    there = Bucket(bucket.objects, rival.workdir)
    _train(rival, None, "c")
    _train(project, None, "c")
    publish = Bucket.publish

    def late(self, entry, manifest):
        if self is bucket:
            publish(there, rival.pool.entry("c"), rival.pool.manifest("c"))
        publish(self, entry, manifest)

    monkeypatch.setattr(Bucket, "publish", late)
    bucket.send([project.pool.entry("c")])
    won = bucket.manifest(project.pool.entry("c"))
    assert won == rival.pool.manifest("c") != project.pool.manifest("c")
    assert project.pool.problems() == {}


def test_publishing_the_same_attempt_twice_is_no_conflict(project, bucket):
    bucket.publish(project.pool.entry("a"), project.pool.manifest("a"))
    assert project.pool.problems() == {}


def test_an_entry_that_cannot_be_sent_is_kept_and_sent_later(
    project, bucket, monkeypatch
):
    send = bucket.objects.send

    def cut(path, key):
        raise StoreError(f"{key}: no route to host")

    monkeypatch.setattr(bucket.objects, "send", cut)
    with pytest.raises(StoreError, match=r"member c: .*no route[^$]*Published only in"):
        _train(project, bucket, "c")
    assert "c" in project.pool.names()
    assert bucket.manifest(project.pool.entry("c")) is None
    assert not (project.workdir / "state" / "c").exists()

    monkeypatch.setattr(bucket.objects, "send", send)
    monkeypatch.setattr(project.trainer, "train", None)
    _train(project, bucket, "c")
    sent = bucket.manifest(project.pool.entry("c"))
    assert sent == project.pool.manifest("c")


@pytest.mark.parametrize("name", ["../../../evil", "/tmp/evil", ".x", "a/b"])
def test_names_in_a_corpus_record_cannot_be_paths(elsewhere, name):
    record = json.loads(elsewhere.objects.read("corpus/corpus.json"))
    record["units"][name] = record["units"].pop("a")
    elsewhere.objects.write("corpus/corpus.json", sealing.sealed(record).encode())
    elsewhere.share_corpus()
    with pytest.raises(DamagedError, match="the name "):
        open_corpus(elsewhere.workdir)


def test_an_existing_pool_is_sent_with_its_corpus(project, in_memory, tmp_path):
    bucket = Bucket(in_memory, project.workdir)
    bucket.share_corpus()
    _train(project, bucket, "a", "b")
    there = Bucket(in_memory, tmp_path / "there")
    there.share_corpus()
    there.fetch_pool()
    assert digests(open_pool(there.workdir)) == digests(project.pool)


def test_prepare_sends_lost_objects_of_the_corpus_again(project, bucket, elsewhere):
    key = next(k for k in bucket.objects.list("corpus") if k.startswith("unit"))
    folder = key.split("/")[0]
    for name in bucket.objects.list(f"corpus/{folder}"):
        bucket.objects.delete([f"corpus/{folder}/{name}"])
    with pytest.raises(DamagedError, match=f"{folder}: is not there"):
        elsewhere.share_corpus()
    bucket.prepare(lambda: project.corpus, False)
    elsewhere.share_corpus()
    assert open_corpus(elsewhere.workdir).rows("a")


def test_states_that_a_kill_left_of_a_finished_run_are_deleted(project, bucket):
    folder = project.workdir / "state" / "a"
    (folder / "states").mkdir(parents=True)
    _train(project, bucket, "a")
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"frozen": {}}'])
def test_a_damaged_corpus_record_is_named(elsewhere, content):
    elsewhere.objects.write("corpus/corpus.json", content)
    with pytest.raises(DamagedError, match=r"corpus/corpus.json: "):
        elsewhere.share_corpus()


def test_a_damaged_pool_record_does_not_reach_the_workdir(elsewhere):
    elsewhere.objects.write("pool/pool.json", b"{")
    with pytest.raises(DamagedError, match=r"pool/pool.json: "):
        elsewhere.fetch_pool()
    assert not (elsewhere.workdir / "pool" / "pool.json").exists()


def test_a_data_set_that_is_being_sent_is_not_fetched(elsewhere):
    folder = "corpus/unit_00000000000000000000000000000000"
    elsewhere.objects.write(f"{folder}/table/part", b"part")
    elsewhere.share_corpus()
    assert not (elsewhere.workdir / folder).exists()
    assert open_corpus(elsewhere.workdir).rows("a")


def test_publishing_deletes_attempts_of_dead_launchers(project, bucket):
    entry, manifest = project.pool.entry("a"), project.pool.manifest("a")
    key = bucket.key(entry)
    bucket.objects.write(f"{key}/attempt-000000000000/state/d", b"part")
    bucket.objects.delete([f"{key}/manifest.json"])
    bucket.publish(entry, manifest)
    assert bucket.objects.list(f"{key}/attempt-000000000000") == {}


def test_an_altered_object_is_not_published_here(elsewhere):
    key = "pool/members/a"
    name, size = max(elsewhere.objects.list(key).items(), key=lambda item: item[1])
    content = bytearray(elsewhere.objects.read(f"{key}/{name}"))
    content[size // 2] ^= 1
    elsewhere.objects.write(f"{key}/{name}", bytes(content))
    entry = elsewhere.workdir / "pool" / "members" / "a"
    with pytest.raises(DamagedError, match=f"{name}: was altered"):
        elsewhere.fetched(entry)
    assert not is_published(entry)


def test_a_killed_fetch_continues(elsewhere, monkeypatch):
    entry = elsewhere.workdir / "pool" / "members" / "a"
    fetch, done = elsewhere.objects.fetch, []

    def killed(key, path):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(key)
        fetch(key, path)

    monkeypatch.setattr(elsewhere.objects, "fetch", killed)
    with pytest.raises(KeyboardInterrupt):
        elsewhere.fetched(entry)
    assert not is_published(entry)
    again = []
    monkeypatch.setattr(
        elsewhere.objects,
        "fetch",
        lambda key, path: (again.append(key), fetch(key, path)),
    )
    assert elsewhere.fetched(entry)
    assert not set(again) & set(done)


def test_launchers_of_one_workdir_fetch_an_entry_once(elsewhere, monkeypatch, capsys):
    monkeypatch.setattr(locking, "POLL", 0.01)
    entry, start = elsewhere.workdir / "base", threading.Barrier(4)

    def work(_):
        start.wait()
        return Bucket(elsewhere.objects, elsewhere.workdir).shares(entry)

    with futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [True] * 4
    assert capsys.readouterr().out.count("base model: fetched") == 1


def test_another_result_of_the_same_run_is_refused(project, bucket, tmp_path):
    rival = project.copy(tmp_path / "rival")
    path = rival.pool.entry("a") / "manifest.json"
    sealing.edit(path, lambda data: data.update(params_digest="0" * 64))
    there = Bucket(bucket.objects, rival.workdir)
    with pytest.raises(UserError, match="another result"):
        there.fetched(rival.pool.entry("a"))


def test_another_pool_is_refused(project, bucket, tmp_path):
    other = project.copy(tmp_path / "other")
    shutil.rmtree(other.workdir / "pool")
    config = tiny.changed(project.config, "recipe", learning_rate=0.5)
    other = dataclasses.replace(other, config=config)
    with pytest.raises(UserError, match=r"another pool.*learning_rate"):
        _train(other, Bucket(bucket.objects, other.workdir), "a")


def test_a_new_partition_reaches_other_machines(project, bucket, elsewhere):
    elsewhere.share_corpus()
    corpus = project.config.corpus
    more = {**corpus.partitions, "z": corpus.partitions["a"]}
    config = tiny.changed(project.config, "corpus", partitions=more)
    bucket.prepare(lambda: prepare_corpus(config, project.workdir), False)
    with pytest.raises(UserError, match=r"another corpus.*jaxsim prepare"):
        elsewhere.share_corpus()
    shutil.rmtree(elsewhere.workdir / "corpus")
    elsewhere.share_corpus()
    assert "z" in open_corpus(elsewhere.workdir).units


def test_a_corpus_frozen_in_the_bucket_is_frozen_here(project, bucket, tmp_path):
    config = tiny.changed(project.config, "model", length=16)
    config = tiny.changed(config, "recipe", batch=48)
    workdir = tmp_path / "own"
    prepare_corpus(config, workdir)
    here = Bucket(bucket.objects, workdir)
    with pytest.raises(UserError, match=r"frozen another corpus.*length"):
        here.prepare(lambda: open_corpus(workdir), False)


def test_the_first_of_two_that_prepare_together_freezes_the_corpus(
    project, in_memory, monkeypatch, tmp_path
):
    """Its corpus arrives just after the second one has found none."""
    config = tiny.changed(project.config, "model", length=16)
    config = tiny.changed(config, "recipe", batch=48)
    workdir = tmp_path / "own"
    prepare_corpus(config, workdir)
    first = Bucket(in_memory, project.workdir)
    create = in_memory.create

    def late(key, content):
        monkeypatch.setattr(in_memory, "create", create)
        first.share_corpus()
        return create(key, content)

    monkeypatch.setattr(in_memory, "create", late)
    with pytest.raises(UserError, match=r"frozen another corpus.*length"):
        Bucket(in_memory, workdir).prepare(lambda: open_corpus(workdir), False)
    there = Bucket(in_memory, tmp_path / "there")
    there.share_corpus()
    frozen = open_corpus(there.workdir).record.frozen
    assert frozen == project.corpus.record.frozen
