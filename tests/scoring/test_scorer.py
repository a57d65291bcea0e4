"""Tables over a pool: names, references, and scores that have grown old."""

import dataclasses
import shutil

import numpy as np
import pytest
import sealing

from jaxsim.errors import UserError
from jaxsim.scoring import evaluator as evaluators
from jaxsim.scoring import scorer as scorers
from jaxsim.scoring.evaluator import Evaluator
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.table import Mixtures, concatenate, dirichlet, singles, uniform

from . import tiny


def test_references(scorer):
    standard = scorer.standard()
    assert standard.table.names == (
        "base", *tiny.MEMBERS, "uniform", "proportional", "macro", "group alpha"
    )  # fmt: skip
    row = standard.table.names.index("macro")
    assert standard.table.parts(row) == pytest.approx(
        dict(zip(tiny.MEMBERS, (1 / 6, 1 / 6, 1 / 3, 1 / 3), strict=True))
    )
    units = [scorer.corpus.unit(name) for name in tiny.MEMBERS]
    tokens = np.array([unit.tokens for unit in units])
    row = standard.table.names.index("proportional")
    np.testing.assert_allclose(standard.table.w_MC[row], tokens / tokens.sum())


def test_references_are_those_of_the_evaluator(scorer):
    """The members' come from their tokens: the same numbers, summed here."""
    standard = scorer.standard()
    rows = np.arange(len(scorer.evaluation))
    direct_MR = scorer.evaluator.score(standard.table, rows)
    np.testing.assert_allclose(
        standard.predictors["merge"].nll_MR, direct_MR, rtol=2e-5
    )


def test_windows_are_spread_over_documents(scorer):
    e = scorer.evaluation
    rows = scorer.evaluation.rows("dev", 3)
    assert len(rows) == len(set(rows)) == 3 * len(e.domains)
    assert not e.split_R[rows].any()
    for d in range(len(e.domains)):
        all_of = e.rows("dev")
        all_of = all_of[e.domain_R[all_of] == d]
        mine = rows[e.domain_R[rows] == d]
        documents = len(set(e.document_R[all_of]))
        assert len(set(e.document_R[mine])) == min(3, documents)
    np.testing.assert_array_equal(e.rows(), np.arange(len(e)))


def test_no_row_of_a_csv_takes_a_taken_name(scorer, tmp_path):
    csv = tmp_path / "mine.csv"
    csv.write_text("name,solo\nuniform,1\n")
    with pytest.raises(UserError, match="'uniform': two different ones"):
        scorer.table(str(csv))
    csv.write_text('name,solo\n"alpha,1900-1909",1\n')
    with pytest.raises(UserError, match="'alpha,1900-1909': two different"):
        scorer.table(str(csv))
    csv.write_text("name,solo\nsolo,1\n")  # what it is called anyway
    assert scorer.table(str(csv)).names[0] == "solo"


@pytest.fixture
def scored(monkeypatch):
    """The names of the mixtures that go through the model."""
    names = []
    chunks = evaluators.Evaluator.chunks

    def counted(self, table, rows, per_token=False):
        names.extend(table.names)
        return chunks(self, table, rows, per_token)

    monkeypatch.setattr(evaluators.Evaluator, "chunks", counted)
    return names


def test_references_go_through_the_model_once(workdir, config, scored):
    standard = Scorer(workdir, config.score).standard()
    assert sorted(scored) == sorted(standard.table.names)


def test_only_new_rows_go_through_the_model(workdir, config, scored):
    def score(size):
        scored.clear()
        scorer = Scorer(workdir, config.score)
        table = dirichlet(scorer.members, size, 1.0, seed=0)
        scores = scorer.score("mine", table, "dev", windows=2)
        return scores.predictors["merge"].nll_MR

    first = score(3)
    assert len(scored) == 5 + 3  # base model and members for the other predictors
    np.testing.assert_array_equal(score(3), first)
    assert scored == []
    np.testing.assert_array_equal(score(5)[:3], first)
    assert scored == ["dirichlet 4", "dirichlet 5"]


def test_tables_share_rows_of_the_same_windows(workdir, config, scored):
    scorer = Scorer(workdir, config.score)
    members = scorer.members
    first = scorer.score("mine", dirichlet(members, 3, 1.0, seed=0), windows=2)
    scored.clear()
    table = concatenate(uniform(members), first.table.take([2, 0]))
    second = Scorer(workdir, config.score).score("other", table, windows=2)
    assert scored == ["uniform"]
    np.testing.assert_array_equal(
        second.predictors["merge"].nll_MR[1:], first.predictors["merge"].nll_MR[[2, 0]]
    )
    scored.clear()
    scorer.score("mine", first.table, windows=1)
    assert scored == list(first.table.names)


def test_equal_rows_are_computed_once(workdir, config, scored):
    scorer = Scorer(workdir, config.score)
    table = dirichlet(scorer.members, 2, 1.0, seed=0)
    names = ("one", "two", "same as one")
    table = Mixtures(
        table.members, names, ("given",) * 3, table.w_MC[[0, 1, 0]], np.ones(3)
    )
    nll_MR = scorer.merge(table, np.arange(6)).nll_MR
    assert scored == ["one", "two"]
    np.testing.assert_array_equal(nll_MR[0], nll_MR[2])


def test_a_changed_member_is_scored_again(workdir, config, scorer):
    """Another member's parameters under its name: all that use it are new."""
    old = Scorer(workdir, config.score)
    table = dirichlet(old.members, 2, 1.0, seed=0)
    before = old.score("mine", table, "dev", windows=2)
    alpha, beta = "alpha,1900-1909", "beta,1900-1909"
    folder = workdir / "pool" / "members"
    shutil.rmtree(folder / beta)
    shutil.copytree(folder / alpha, folder / beta)
    manifest = folder / beta / "manifest.json"
    digests = {beta: scorer.corpus.unit(beta).digest}
    own = {"name": beta, "mixture": {beta: 1.0}, "data_digests": digests}
    sealing.edit(manifest, lambda d: d.update(own))

    new = Scorer(workdir, config.score)
    with pytest.raises(UserError, match=f"another pool: member '{beta}' has changed"):
        new.load("mine")
    after = new.score("mine", table, "dev", windows=2)
    moved = ~np.isclose(
        after.predictors["merge"].nll_MR, before.predictors["merge"].nll_MR
    )
    assert moved.any(axis=1).all()
    swapped = table.w_MC.copy()
    columns = [new.members.index(alpha), new.members.index(beta)]
    swapped[:, columns[0]] += swapped[:, columns[1]]
    swapped[:, columns[1]] = 0
    both = old.score("both", dataclasses.replace(table, w_MC=swapped), "dev", windows=2)
    np.testing.assert_allclose(
        after.predictors["merge"].nll_MR, both.predictors["merge"].nll_MR, rtol=2e-5
    )


def test_a_table_of_fewer_members_has_grown_old(workdir, config):
    solo = workdir / "pool" / "members" / "solo"
    solo.rename(workdir / "elsewhere")
    fewer = Scorer(workdir, config.score)
    fewer.score("mine", uniform(fewer.members), windows=1)
    assert fewer.load("mine").table.members == tiny.MEMBERS[:3]
    (workdir / "elsewhere").rename(solo)
    with pytest.raises(UserError, match="another pool: member 'solo' is new"):
        Scorer(workdir, config.score).load("mine")


def test_a_member_whose_unit_is_gone_is_left_out(workdir, config):
    def drop(saved):
        del saved["units"]["solo"]
        saved["domains"]["solo"]["in_pool"] = False

    sealing.edit(workdir / "corpus" / "corpus.json", drop)
    scorer = Scorer(workdir, config.score)
    assert scorer.members == tiny.MEMBERS[:-1]
    scorer.check_complete()
    standard = scorer.standard()
    assert "solo" not in standard.table.names and "(solo)" in standard.notes[0]
    assert not standard.basis.difference(scorer.now())


def test_a_table_of_another_config_has_grown_old(workdir, config, tmp_path):
    def scorer_with(**fields):
        return Scorer(workdir, dataclasses.replace(config.score, **fields))

    spec = "dirichlet:3"
    scorer = scorer_with()
    scorer.score("dirichlet-3", scorer.table(spec), "dev", config.score.windows)
    assert len(scorer.scored(spec).table) == 3 + 4
    for fields, sentence in (
        ({"windows": 2}, "other windows than config.score.windows=2"),
        ({"seed": 1}, "other mixtures than 'dirichlet:3' gives now"),
        ({"concentration": 2.0}, "other mixtures than"),
    ):
        with pytest.raises(UserError, match=sentence):
            scorer_with(**fields).scored(spec)
    with pytest.raises(UserError, match="'subsets-2' has not been"):
        scorer.scored("subsets:2")


def test_a_released_pool_is_loaded_again(workdir, config, monkeypatch):
    """As before reference runs are trained on an accelerator."""
    scorer = Scorer(workdir, config.score)
    table = dirichlet(scorer.members, 1, 1.0, seed=0)
    expected = scorer.evaluator.score(table, np.arange(4))
    held = scorer.stack
    scorer.release()
    assert scorer.stack is held  # a CPU keeps it
    monkeypatch.setattr(scorers, "is_cpu", lambda mesh: False)
    scorer.release()
    assert scorer.stack is not held
    np.testing.assert_array_equal(scorer.evaluator.score(table, np.arange(4)), expected)


def test_what_another_device_scored_is_used_as_it_is(workdir, config, scored):
    """A search on a laptop of what a GPU scored in bfloat16."""
    auto = dataclasses.replace(config.score, precision="auto", deltas="auto")
    spec, how = "dirichlet:3", Evaluator.how

    def on_gpu(self):
        return how.fget(self) | {"device": "NVIDIA H200"}

    on_that = dataclasses.replace(auto, precision="bfloat16", deltas="bfloat16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "how", property(on_gpu))
        there = Scorer(workdir, on_that)
        standard = there.standard()
        there.score("dirichlet-3", there.table(spec), "dev", auto.windows)
    scored.clear()
    here = Scorer(workdir, auto)
    assert here.how["precision"] == here.how["deltas"] == "bfloat16"
    assert here.standard().how["device"] == "NVIDIA H200"
    found = here.standard().predictors["merge"].nll_MR
    np.testing.assert_array_equal(found, standard.predictors["merge"].nll_MR)
    assert len(here.scored(spec).table) == 3 + 4
    assert scored == []
    # What was not scored there is computed here, in the same precision.
    here.merge(dirichlet(here.members, 1, 1.0, seed=5), np.arange(6))
    assert scored == ["dirichlet 1"]
    new = here.score("mine", dirichlet(here.members, 1, 1.0, seed=6), windows=1)
    assert new.how["device"] == "NVIDIA H200, cpu"
    # It is still known later, and to others.
    again = Scorer(workdir, auto)
    scored.clear()
    again.standard()
    assert scored == []
    # What this kind of device scored otherwise does not decide.
    own = shutil.copytree(workdir, workdir.with_name("own"))
    shutil.rmtree(own / "scores")
    Scorer(own, on_that).standard()
    assert Scorer(own, auto).how["precision"] == "float32"
    # Another precision is another number.
    with pytest.raises(UserError, match=r"'precision': 'bfloat16'.*run `jaxsim score`"):
        Scorer(workdir, dataclasses.replace(auto, precision="float32")).scored(spec)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda s, t: t.bits_per_byte("merge", "test"),
         "table 'mine': 'merge' was scored on dev text, not on test text; call"),
        (lambda s, t: t.bits_per_byte("merge", "tset"), "'mine': no split 'tset'; "),
        (lambda s, t: t.bits_per_byte("marge", "dev"), "no predictor 'marge'; .*merge"),
        (lambda s, t: s.score("x", t.table, split="tset"), "no split 'tset'"),
        (lambda s, t: s.score("x", t.table.take([])), "'x': it has no rows"),
        (lambda s, t: s.score_entries("x", []), "'x': it has no rows"),
        (lambda s, t: s.score("a/b", t.table), "'a/b' holds a path separator"),
        (lambda s, t: s.score("..", t.table), "'..' means a folder"),
        (lambda s, t: s.load("yours"), "'yours' has not been scored"),
        (lambda s, t: s.score("x", t.table, windows=-1), "windows: must be a whole"),
        (lambda s, t: s.score("x", singles(s.members[::-1])), "in this order: alpha"),
        (lambda s, t: s.score("x", singles(s.members[1:])), "in this order: alpha"),
    ],
)  # fmt: skip
def test_what_a_notebook_asks_for_in_vain(scorer, ask, sentence):
    table = scorer.score("mine", singles(scorer.members), "dev", windows=3)
    assert np.isfinite(table.bits_per_byte("merge", "dev")).all()
    before = sorted(scorer.store.folder.rglob("*"))
    with pytest.raises(UserError, match=sentence):
        ask(scorer, table)
    assert sorted(scorer.store.folder.rglob("*")) == before


def test_losses_of_other_windows_are_not_believed(scorer):
    """Not even where two logs of losses were swapped."""
    table, e = scorer.table("subsets:2"), scorer.evaluation
    right, paths = [], []
    for split in ("dev", "test"):
        rows = e.rows(split, 2)
        right.append(scorer.merge(table, rows).nll_MR)
        paths.append(scorer.store.journal("windows", e, rows, len(rows)).path)
    first, second = paths
    content = first.read_bytes()
    assert len(content) == second.stat().st_size
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    scorer.store._journals.clear()
    for split, nll_MR in zip(("dev", "test"), right, strict=True):
        rows = e.rows(split, 2)
        assert np.array_equal(scorer.merge(table, rows).nll_MR, nll_MR)


def test_no_mixtures_have_no_losses(scorer):
    nothing = singles(scorer.members).take([])
    assert scorer.evaluator.score(nothing, np.arange(3)).shape == (0, 3)
