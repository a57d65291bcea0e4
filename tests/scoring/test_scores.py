"""Scores on disk: continued, never computed twice, never silently wrong."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest

from jaxsim.errors import DamagedError, UserError
from jaxsim.pool import open_pool
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import PredictorScores, Scores
from jaxsim.scoring.store import ScoreStore, row_keys
from jaxsim.scoring.table import base_row, concatenate, dirichlet, uniform

from . import tiny


def test_keys_hold_what_a_row_depends_on(scorer):
    stack, e = scorer.stack, scorer.evaluation
    members = scorer.members
    table = concatenate(
        base_row(members), uniform(members), dirichlet(members, 2, 1.0, 0)
    )
    keys = row_keys(stack, table, e, "how")
    assert len(set(keys)) == len(table)
    assert keys == row_keys(stack, table, e, "how")

    def changed(**fields):
        return row_keys(dataclasses.replace(stack, **fields), table, e, "how")

    # The base model's row uses no member: only the base model's digest is in its key.
    other_member = changed(digests=("x", *stack.digests[1:]))
    assert other_member[0] == keys[0]
    assert not set(other_member[1:]) & set(keys)
    assert not set(changed(base_digest="x")) & set(keys)
    assert not set(row_keys(stack, table, e, "other")) & set(keys)
    other = dataclasses.replace(e, digest="x")
    assert not set(row_keys(stack, table, other, "how")) & set(keys)
    scaled = dataclasses.replace(table, scale_M=table.scale_M * 0.5)
    assert row_keys(stack, scaled, e, "how")[0] == keys[0]
    assert not set(row_keys(stack, scaled, e, "how")[1:]) & set(keys)

    order = [1, 0, 3, 2]
    permuted = dataclasses.replace(
        stack,
        names=tuple(stack.names[c] for c in order),
        digests=tuple(stack.digests[c] for c in order),
    )
    turned = dataclasses.replace(
        table, members=permuted.names, w_MC=table.w_MC[:, order]
    )
    assert row_keys(permuted, turned, e, "how") == keys


@pytest.fixture
def scored(scorer) -> Scores:
    """Three mixtures, on some windows of both splits."""
    e = scorer.evaluation  # whose tokens are bytes
    e = dataclasses.replace(e, bytes_R=3 * e.count_R + np.arange(len(e)))
    rows = e.rows(windows=2)
    table = dirichlet(scorer.members, 3, 1.0, seed=0)
    rng = np.random.default_rng(0)
    nll_MR = rng.uniform(50, 90, (3, len(rows))).astype(np.float32)
    predictors = {"merge": PredictorScores(rows, nll_MR)}
    notes = ("a note",)
    basis = dataclasses.replace(scorer.basis, text=e.digest)
    return Scores("mine", table, e, predictors, notes, basis)


def test_saved_and_loaded(scored, tmp_path):
    store = ScoreStore(tmp_path)
    store.save(scored)
    found = store.load("mine", scored.evaluation)
    assert found.table.same_as(scored.table)
    assert found.table.kinds == scored.table.kinds
    assert (found.notes, found.basis) == (scored.notes, scored.basis)
    for name in ("rows", "nll_MR"):
        np.testing.assert_array_equal(
            getattr(found.predictors["merge"], name),
            getattr(scored.predictors["merge"], name),
        )


def test_parquet_holds_the_sums_of_the_arrays(scored, tmp_path):
    ScoreStore(tmp_path).save(scored)
    file = pyarrow.parquet.read_table(tmp_path / "scores" / "mine.parquet")
    facts = {k.decode(): v.decode() for k, v in file.schema.metadata.items()}
    assert json.loads(facts["jaxsim.notes"]) == ["a note"]
    assert tuple(json.loads(facts["jaxsim.members"])) == scored.table.members
    assert facts["jaxsim.evaluation"] == scored.evaluation.digest

    e, merge = scored.evaluation, scored.predictors["merge"]
    lines = file.to_pylist()
    assert len(lines) == 3 * len(e.domains) * 2
    seen = set()
    for line in lines:
        m = scored.table.names.index(line["mixture"])
        here = [
            i
            for i, row in enumerate(merge.rows)
            if e.domains[e.domain_R[row]] == line["domain"]
            and ("dev", "test")[e.split_R[row]] == line["split"]
        ]
        rows = merge.rows[here]
        seen.add((m, line["domain"], line["split"]))
        assert line["predictor"] == "merge"
        assert line["weights"] == scored.table.w_MC[m].tolist()
        assert line["nll_sum"] == pytest.approx(
            sum(float(merge.nll_MR[m, i]) for i in here), rel=1e-12
        )
        assert line["tokens"] == e.count_R[rows].sum()
        assert line["bytes"] == e.bytes_R[rows].sum()
        assert line["windows"] == len(rows)
        assert line["documents"] == len(set(e.document_R[rows]))
        bits = scored.bits_per_byte("merge", line["split"])
        assert bits[m, e.domains.index(line["domain"])] == pytest.approx(
            line["nll_sum"] / line["bytes"] / np.log(2)
        )
    assert len(seen) == len(lines)


@pytest.mark.parametrize("name", ["mine.json", "mine.merge.npy"])
@pytest.mark.parametrize("at", [0.05, 0.5, 0.95, None])
def test_damaged_scores_are_refused(scored, tmp_path, name, at):
    store = ScoreStore(tmp_path)
    store.save(scored)
    path = store.folder / name
    if at is None:
        path.write_bytes(path.read_bytes()[:-5])
    else:
        tiny.flip(path, at)
    with pytest.raises(DamagedError, match=f"{name}.*`jaxsim score`"):
        store.load("mine", scored.evaluation)


def test_scores_of_an_unfinished_table_are_refused(scored, tmp_path):
    """Its array is there, the last step of scoring it is not."""
    store = ScoreStore(tmp_path)
    store.save(scored)
    merge = scored.predictors["merge"]
    turned = PredictorScores(merge.rows, merge.nll_MR[::-1])
    np.save(store.folder / "mine.merge.npy", turned.nll_MR)
    with pytest.raises(DamagedError, match=r"not the file that mine.json"):
        store.load("mine", scored.evaluation)


def test_scores_of_other_text_or_never_made(scored, tmp_path):
    store = ScoreStore(tmp_path)
    with pytest.raises(UserError, match="'mine' has not been"):
        store.load("mine", scored.evaluation)
    store.save(scored)
    other = dataclasses.replace(scored.evaluation, digest="x")
    with pytest.raises(UserError, match="other evaluation text"):
        store.load("mine", other)


def test_a_pool_that_changes_while_it_is_scored(workdir, config):
    """Scores are pinned to what was read at the start."""
    scorer = Scorer(workdir, config.score)
    basis = scorer.basis
    members = scorer.members
    shutil.rmtree(workdir / "pool" / "members" / "solo")
    scores = scorer.score("late", uniform(members), windows=1)
    assert scores.basis == basis
    assert set(basis.members) == set(members)
    now = open_pool(workdir).manifests("member")
    assert "solo" not in now
    with pytest.raises(UserError, match="another pool: member 'solo' is gone"):
        Scorer(workdir, config.score).load("late")
