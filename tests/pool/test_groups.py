"""Groups of parallel runs: recorded when they start, and finished unchanged."""

import dataclasses
import json
import os
import shutil
import threading
import time

import jax
import numpy as np
import pytest
from train import tiny

from jaxsim import records
from jaxsim.errors import DamagedError, JaxsimError, Preempted
from jaxsim.pool import lock as locking
from jaxsim.pool.build import PoolBuilder, train_missing
from jaxsim.pool.lock import Busy, holding
from jaxsim.pool.manifest import read_manifest
from jaxsim.pool.publish import is_published
from jaxsim.train import member_run, recipe_trainer, reference_run, replicate_of

from .launched import terminate_at


@pytest.fixture(scope="module")
def trainer(built):
    config = tiny.changed(built.config, "train", parallel_runs=4)
    model = tiny.model_of(config, built.corpus)
    trainer = recipe_trainer(model, config, tiny.mesh_of())
    trainer.program(4)  # for all tests, also those of three runs
    return trainer


@pytest.fixture
def grouped(project, trainer):
    return dataclasses.replace(project, trainer=trainer)


@pytest.fixture
def runs(grouped):
    """Seven runs of one length, none in the pool."""
    recipe = grouped.config.recipe
    members = [member_run(unit, recipe) for unit in "abc"]
    return [
        members[2],
        *(replicate_of(run) for run in members),
        *(replicate_of(run, 2) for run in members),
    ]


@pytest.fixture
def work(monkeypatch, trainer):
    """The names and slots of each call of the trainer."""
    done = []
    train = trainer.train

    def noted(runs, *args):
        done.append(([run.name for run in runs], args[-1]))
        return train(runs, *args)

    monkeypatch.setattr(trainer, "train", noted)
    return done


def _train(grouped, runs):
    train_missing(runs, grouped.pool, grouped.corpus, grouped.trainer)


def _digests(pool, runs):
    return [pool.manifest(run.name).params_digest for run in runs]


def _unfinished(grouped):
    folder = grouped.workdir / "state"
    return [p for p in folder.iterdir() if p.name != ".locks"]


@pytest.fixture(scope="module")
def undisturbed(built, trainer, tmp_path_factory):
    """Runs of c and its three replicates, trained as one group, and their digests."""
    project = built.copy(tmp_path_factory.mktemp("undisturbed") / "work")
    project = dataclasses.replace(project, trainer=trainer)
    c = member_run("c", project.config.recipe)
    runs = [c, replicate_of(c), replicate_of(c, 2), replicate_of(c, 3)]
    _train(project, runs)
    return runs, _digests(project.pool, runs)


def test_groups_of_different_size_share_a_program(grouped, runs, work):
    reference = reference_run({"a": 1.0, "b": 1.0}, grouped.config.recipe, 0.5)
    assert reference.steps != runs[0].steps
    _train(grouped, [runs[0], reference, *runs[1:]])
    names = [run.name for run in runs]
    assert work == [(names[:4], 4), ([reference.name], 1), (names[4:], 4)]
    pool = grouped.pool
    assert pool.problems() == {}
    assert set(pool.names()) == {"a", "b", reference.name, *names}
    assert not _unfinished(grouped)
    manifest = pool.manifest("c")
    assert manifest.provenance["group"] == {"runs": names[:4], "slots": 4}
    assert manifest.data_digests == {"c": grouped.corpus.unit("c").digest}
    assert len(set(_digests(pool, runs))) == 7
    for name in names:
        rows = tiny.rows_of_metrics(grouped.workdir / "metrics" / f"{name}.jsonl")
        assert [row["step"] for row in rows] == [1, 2]
        assert rows[-1]["loss"] == pool.manifest(name).final_loss


def test_a_stopped_group_resumes_with_the_same_runs(
    grouped, undisturbed, work, monkeypatch, capsys
):
    """Even if one of its runs was published meanwhile, and others are missing."""
    runs, want = undisturbed
    with monkeypatch.context() as patch:
        terminate_at(patch, 1)
        with pytest.raises(Preempted, match=r"4 runs \(c, c.replicate1.*step 1"):
            _train(grouped, runs)
    (folder,) = _unfinished(grouped)
    record = json.loads((folder / "group.json").read_text())
    assert record["slots"] == 4 and len(record["runs"]) == 4

    rival = dataclasses.replace(grouped, trainer=grouped.trainer)
    alone = recipe_trainer(grouped.trainer.model, grouped.config, tiny.mesh_of())
    hidden = folder.rename(grouped.workdir / "elsewhere")
    train_missing(runs[1:2], rival.pool, rival.corpus, alone)
    hidden.rename(folder)
    published = grouped.pool.manifest("c.replicate1")

    other = replicate_of(member_run("a", grouped.config.recipe))
    _train(grouped, [other, *runs])
    assert work[-2:] == [([run.name for run in runs], 4), ([other.name], 1)]
    assert (
        "4 runs (c, c.replicate1, c.replicate2, c.replicate3): resumed after step 1"
        in (capsys.readouterr().out)
    )
    assert grouped.pool.manifest("c.replicate1") == published
    got = _digests(grouped.pool, runs)
    assert got[:1] + got[2:] == want[:1] + want[2:]
    assert not _unfinished(grouped)


def test_a_run_that_was_locked_for_a_moment_stays_in_its_group(
    grouped, undisturbed, work, monkeypatch
):
    """Trained alone, its last bits would differ."""
    runs, want = undisturbed
    with monkeypatch.context() as patch:
        terminate_at(patch, 1)
        with pytest.raises(Preempted):
            _train(grouped, runs)
    monkeypatch.setattr(locking, "POLL", 0.01)
    take, held = PoolBuilder.take, []

    def busy_once(self, run, *args):
        if run.name == runs[1].name and not held:
            held.append(run.name)
            raise Busy(f"{run.name}: another launcher")
        return take(self, run, *args)

    monkeypatch.setattr(PoolBuilder, "take", busy_once)
    _train(grouped, runs)
    assert held
    assert all(len(names) == 4 for names, _ in work), work
    assert _digests(grouped.pool, runs) == want
    assert not _unfinished(grouped)


def test_a_run_that_was_published_meanwhile_is_reported_and_dropped(
    grouped, undisturbed, monkeypatch, capsys
):
    runs, want = undisturbed
    train = grouped.trainer.train

    def overtaken(*args):
        outcomes = train(*args)
        entry = grouped.pool.entry(runs[1].name)
        other = grouped.pool.entry("a")
        manifest = dataclasses.replace(
            read_manifest(other),
            **{key: getattr(runs[1], key) for key in ("name", "kind", "data_seed")},
            mixture=dict(runs[1].mixture),
            data_digests={u: grouped.corpus.unit(u).digest for u in runs[1].mixture},
        )
        shutil.copytree(other / manifest.attempt, entry / manifest.attempt)
        (entry / "manifest.json").write_text(records.dump(manifest))
        return outcomes

    monkeypatch.setattr(grouped.trainer, "train", overtaken)
    _train(grouped, runs)
    assert "c.replicate1: attempt-" in capsys.readouterr().out
    got = _digests(grouped.pool, runs)
    assert got[:1] + got[2:] == want[:1] + want[2:]
    assert not _unfinished(grouped)


def test_a_group_with_changed_text_starts_again(
    grouped, undisturbed, monkeypatch, capsys
):
    runs, want = undisturbed
    with monkeypatch.context() as patch:
        terminate_at(patch, 1)
        with pytest.raises(Preempted):
            _train(grouped, runs)
    corpus = grouped.corpus
    corpus.units["c"] = dataclasses.replace(corpus.units["b"], name="c")
    train_missing(runs, grouped.pool, corpus, grouped.trainer)
    said = capsys.readouterr().out
    assert "changed since they were begun" in said
    assert "resumed" not in said
    assert not set(_digests(grouped.pool, runs)) & set(want)


def test_groups_leave_out_a_run_that_another_process_locks(
    grouped, runs, work, monkeypatch, capsys
):
    monkeypatch.setattr(locking, "POLL", 0.02)
    lock = grouped.workdir / "state" / ".locks" / runs[1].name
    held, published = threading.Event(), grouped.pool.entry(runs[0].name)

    def other():
        with holding(lock, "it"):
            held.set()
            while not is_published(published):
                time.sleep(0.01)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    _train(grouped, runs[:4])
    thread.join()
    others = [runs[0].name, runs[2].name, runs[3].name]
    assert work == [(others, 4), ([runs[1].name], 1)]
    assert f"{runs[1].name}: process {os.getpid()} on " in (capsys.readouterr().out)
    assert grouped.pool.problems() == {}


def test_a_run_that_was_begun_alone_is_finished_alone(grouped, runs, work, monkeypatch):
    alone = recipe_trainer(grouped.trainer.model, grouped.config, tiny.mesh_of())
    with monkeypatch.context() as patch:
        terminate_at(patch, 1)
        with pytest.raises(Preempted):
            train_missing(runs[2:3], grouped.pool, grouped.corpus, alone)
    _train(grouped, runs[:4])
    others = [run.name for run in (runs[0], runs[1], runs[3])]
    assert sorted(work) == sorted([([runs[2].name], 1), (others, 4)])


def test_when_a_run_diverges_the_others_of_its_group_are_published(
    grouped, undisturbed, monkeypatch
):
    runs, want = undisturbed
    train = grouped.trainer.train

    def poisoned(*args):
        outcomes = train(*args)
        params = jax.tree.map(np.array, outcomes[2].params)
        params["final_norm"]["scale"][3] = np.inf
        outcomes[2] = dataclasses.replace(outcomes[2], params=params)
        return outcomes

    monkeypatch.setattr(grouped.trainer, "train", poisoned)
    with pytest.raises(
        JaxsimError, match=r"(?s)c.replicate2: .*final_norm/scale.*its group, 3 runs"
    ):
        _train(grouped, runs)
    del runs[2], want[2]
    assert _digests(grouped.pool, runs) == want
    assert "c.replicate2" not in grouped.pool.names()


def test_a_damaged_group_record_says_what_to_delete(grouped, runs):
    folder = grouped.workdir / "state" / ".group-0123"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "group.json").write_text('{"version": 3, "runs": [3]}')
    with pytest.raises(DamagedError, match=r"group.json: .*delete .*group-01"):
        _train(grouped, runs)
