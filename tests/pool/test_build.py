"""Missing runs are trained exactly; entries that do not belong are refused."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import sealing
from train import tiny

from jaxsim.config import SourceConfig
from jaxsim.corpus import prepare
from jaxsim.errors import JaxsimError, Preempted, UserError
from jaxsim.pool.build import train_missing
from jaxsim.pool.digests import params_digest
from jaxsim.train import member_run, reference_run, replicate_of

from .launched import terminate_at


def _tree(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_only_what_is_missing_is_trained(project):
    members = project.workdir / "pool" / "members"
    old = [_tree(members / name) for name in "ab"]
    project.train("a", "b", "c")
    assert [_tree(members / name) for name in "ab"] == old
    assert project.pool.names() == ["a", "b", "c"]
    assert project.pool.problems() == {}
    everything = _tree(members)
    project.train("a", "b", "c")
    assert _tree(members) == everything


def test_a_member_is_what_the_trainer_makes_from_the_base_model(project, tmp_path):
    pool = project.pool
    _, base = pool.base()
    (trained,) = project.trainer.train(
        [member_run("a", project.config.recipe)],
        project.corpus,
        base,
        tmp_path / "scratch",
        [tmp_path / "metrics.jsonl"],
    )
    manifest = pool.manifest("a")
    assert manifest.params_digest == params_digest(trained.params)
    assert params_digest(pool.load(manifest)) == manifest.params_digest
    assert manifest.base_digest == params_digest(base)
    assert manifest.tokens == project.corpus.budget_tokens
    assert manifest.final_loss == trained.final_loss


def test_a_manifest_records_the_data_of_its_run(project):
    corpus, manifest = project.corpus, project.pool.manifest("a")
    unit = corpus.unit("a")
    assert manifest.kind == "member" and manifest.mixture == {"a": 1.0}
    assert manifest.data_digests == {"a": unit.digest}
    assert manifest.epochs == {"a": 48 / unit.rows}
    assert manifest.unique_tokens == min(48, unit.rows) * corpus.length
    assert manifest.leaves["embedding"] == ([264, 16], "float32")


def test_changed_text_is_refused_also_for_reference_runs(project):
    corpus = project.corpus
    run = reference_run({"a": 0.5, "b": 0.5}, project.config.recipe)
    train_missing([run], project.pool, corpus, project.trainer)
    changed = dataclasses.replace(corpus.units["b"], digest="0" * 64)
    corpus.units["b"] = changed
    with pytest.raises(UserError, match=r"reference-.*other text: data_digests.b"):
        train_missing([run], project.pool, corpus, project.trainer)


def test_a_partition_cannot_pass_for_a_replicate(project):
    """Somebody may have renamed a folder of the pool."""
    replicate = replicate_of(member_run("a", project.config.recipe))
    pool = project.pool
    entry = pool.entry("a").rename(pool.entry(replicate.name))
    own = {key: {replicate.name: 1.0} for key in ("mixture", "epochs")}
    own |= {"name": replicate.name, "data_digests": {replicate.name: ""}}
    sealing.edit(entry / "manifest.json", lambda d: d.update(own))
    with pytest.raises(UserError, match=r"kind: expected replicate, found mem"):
        train_missing([replicate], pool, project.corpus, project.trainer)


def refreeze(project):
    """Makes the corpus again, with other base text."""
    config = project.config
    other = SourceConfig("records", config.corpus.partitions["c"].path)
    corpus = dataclasses.replace(config.corpus, base_text={"other": other})
    config = dataclasses.replace(config, corpus=corpus)
    prepare(config, project.workdir, refreeze=True)


def test_replayed_text_cannot_change_with_an_imported_base_model(project):
    """The manifest of such a base model says nothing of the corpus."""
    path = project.pool.base_entry / "manifest.json"
    sealing.edit(path, lambda d: d.update(mixture={}, data_digests={}, epochs={}))
    shutil.rmtree(project.workdir / "pool")
    config = tiny.changed(project.config, "recipe", replay=0.5)
    replaying = dataclasses.replace(project, config=config)
    replaying.create()
    refreeze(project)
    with pytest.raises(UserError, match=r"recipe\.replay_text: expected"):
        replaying.create()
    # Without replay, only the text of a run matters to it.
    shutil.rmtree(project.workdir / "pool")
    train_missing([], project.create(), project.corpus, project.trainer)


def test_a_refrozen_corpus_is_refused(project):
    refreeze(project)
    with pytest.raises(UserError, match="another base text"):
        project.train("a", "b", "c")

    pool = project.create()
    corpus = project.corpus
    corpus.tokenizer_digest = "0" * 64
    with pytest.raises(UserError, match="another tokenizer and base text"):
        train_missing([], pool, corpus, project.trainer)


@pytest.mark.parametrize(
    ("group", "change", "line"),
    [
        ("recipe", {"learning_rate": 0.5}, "recipe.learning_rate: expected"),
        ("recipe", {"tail": 0.0}, "recipe.tail: expected 0.5, found 0.0"),
        ("model", {"mlp_dim": 64}, "model.mlp_dim: expected 32, found 64"),
    ],
)
def test_a_pool_has_one_recipe_and_one_model(project, group, change, line):
    other = dataclasses.replace(
        project, config=tiny.changed(project.config, group, **change)
    )
    with pytest.raises(UserError, match=line):
        other.create()


def test_execution_settings_may_change(project):
    config = tiny.changed(project.config, "train", attention="xla")
    assert dataclasses.replace(project, config=config).create()


def test_a_non_finite_result_is_not_published(project, monkeypatch):
    train = project.trainer.train

    def poisoned(*args, **kwargs):
        (trained,) = train(*args, **kwargs)
        params = jax.tree.map(np.array, trained.params)
        params["final_norm"]["scale"][3] = np.inf
        return [dataclasses.replace(trained, params=params)]

    monkeypatch.setattr(project.trainer, "train", poisoned)
    with pytest.raises(JaxsimError, match=r"member c: .*leaf final_norm/scale"):
        project.train("c")
    assert project.pool.names() == ["a", "b"]


def test_sigterm_commits_and_the_next_call_resumes(project, built, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        terminate_at(patch, 1)
        with pytest.raises(Preempted, match="member c: stopped after step 1"):
            project.train("c")
    assert project.pool.names() == ["a", "b"]
    project.train("c")
    assert "member c: resumed after step 1" in capsys.readouterr().out
    resumed = project.pool.manifest("c").params_digest
    (project.pool.entry("c") / "manifest.json").unlink()
    project.train("c")
    assert "resumed" not in capsys.readouterr().out
    assert project.pool.manifest("c").params_digest == resumed


def test_sigterm_in_the_last_step_stops_after_publishing(project, monkeypatch):
    with monkeypatch.context() as patch:
        terminate_at(patch, 2)
        with pytest.raises(Preempted, match="member c: published"):
            project.train("c")
    assert project.pool.names() == ["a", "b", "c"]


def test_the_state_of_another_run_is_not_resumed(project, monkeypatch, capsys):
    """The text of c changes between a stop and the next start."""
    with monkeypatch.context() as patch:
        terminate_at(patch, 1)
        with pytest.raises(Preempted):
            project.train("c")
    pool, corpus = project.pool, project.corpus
    corpus.units["c"] = dataclasses.replace(corpus.units["b"], name="c")
    run = member_run("c", project.config.recipe)
    train_missing([run], pool, corpus, project.trainer)
    said = capsys.readouterr().out
    assert "it has changed, and starts again" in said
    assert "resumed" not in said
    digest = pool.manifest("c").params_digest
    assert digest == pool.manifest("b").params_digest
