"""The best row of a table: its target, its answer, and tables grown old."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from jaxsim.config import SearchConfig
from jaxsim.errors import DamagedError, UserError
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.table import concatenate, seed_row
from jaxsim.search.found import load_found, save_found
from jaxsim.search.search import search, target_weights
from jaxsim.search.ties import BEFORE_TRUTHS


@pytest.fixture(scope="module")
def scores(scorer):
    return scorer.score(
        "subsets-1-2", scorer.table("subsets:1-2"), "select", windows=3
    )


def target(**weights: float) -> SearchConfig:
    return SearchConfig(target=weights)


def test_the_default_target_is_out_of_pool(scorer):
    e = scorer.evaluation
    found = target_weights(SearchConfig(), e)
    assert dict(zip(e.domains, found, strict=True)) == dict.fromkeys(
        e.domains, 0.0
    ) | {"outside": 1.0}
    inside = dataclasses.replace(e, in_pool=(True,) * len(e.domains))
    assert target_weights(SearchConfig(), inside).tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"nowhere": 1.0}, "'nowhere' is not a domain; domains are .*outside"),
        ({"solo": 0.0}, "one of them positive"),
        ({"solo": 1.0, "outside": -1.0}, "zero or more"),
    ],
)
def test_a_bad_target_is_refused(scorer, weights, sentence):
    with pytest.raises(UserError, match=sentence):
        target_weights(target(**weights), scorer.evaluation)


def test_the_best_is_the_lowest_objective_on_select_text(scorer, scores):
    found = search(scorer, scores, target(solo=1.0, outside=3.0), None)
    e = scores.evaluation
    bits_MD = scores.bits_per_byte("merge", "select")
    columns = [e.domains.index("solo"), e.domains.index("outside")]
    value_M = bits_MD[:, columns] @ [0.25, 0.75]
    best = int(np.argmin(value_M))
    assert found.best["name"] == scores.table.names[best]
    assert found.best["weights"] == scores.table.parts(best)
    assert found.best["select"] == pytest.approx(value_M[best])
    assert found.best["tied"] and found.best["difference"] == 0
    assert found.target == {"solo": 1.0, "outside": 3.0}
    assert found.searched == len(scores.table)
    assert found.windows == 3
    assert found.ties["heading"] == BEFORE_TRUTHS
    assert found.digests == scorer.proxies.stack.pins
    names = [row["name"] for row in found.rows]
    assert {"uniform", "proportional", "macro"} < set(names)
    assert found.ties["count"] == sum(row["tied"] for row in found.rows)
    for row in found.rows:
        m = scores.table.names.index(row["name"])
        assert row["select"] == pytest.approx(value_M[m])


def test_finalists_are_reported_on_text_that_chose_nothing(scorer, scores):
    found = search(scorer, scores, target(outside=1.0), None)
    rows = np.arange(len(scorer.evaluation))
    report_MR = scorer.proxies._evaluator.score(scores.table, rows)
    e = scorer.evaluation
    mine = (e.half_R == 1) & (e.domain_R == e.domains.index("outside"))
    bytes_ = e.bytes_R[mine].sum()
    for row in found.rows[:8]:
        m = scores.table.names.index(row["name"])
        bits = report_MR[m, mine].astype(np.float64).sum() / bytes_ / np.log(2)
        assert row["report"] == pytest.approx(bits, rel=2e-5)


def test_the_seed_is_no_mixture_to_train_on(scorer, scores):
    """Its weights mean nothing, whatever its loss."""
    table = concatenate(seed_row(scorer.members), scores.table)
    with_seed = scorer.score("with-seed", table, "select", windows=3)
    spoiled = with_seed.proxies["merge"]
    spoiled.nll_MR[0] = 1e-3  # far better than all others
    found = search(scorer, with_seed, SearchConfig(), None)
    assert "seed" not in [row["name"] for row in found.rows]
    assert found.searched == len(scores.table)
    with pytest.raises(UserError, match="holds only the seed"):
        search(scorer, with_seed.take(np.array([0])), SearchConfig(), None)


def test_a_scaled_row_says_so(scorer, tmp_path):
    csv = tmp_path / "scaled.csv"
    csv.write_text("name,solo,scale\nhalf solo,1,0.5\n")
    scores = scorer.score("scaled", scorer.table(str(csv)), "select", windows=3)
    found = search(scorer, scores, SearchConfig(), None)
    scales = {row["name"]: row["scale"] for row in found.rows}
    assert scales["half solo"] == 0.5
    assert scales["uniform"] == 1.0


def test_a_pool_that_has_grown_is_refused(workdir, config):
    solo = workdir / "pool" / "members" / "solo"
    solo.rename(workdir / "elsewhere")
    old = Scorer(workdir, config.score)
    scores = old.score("mine", old.table("subsets:1"), "select", windows=3)
    (workdir / "elsewhere").rename(solo)
    new = Scorer(workdir, config.score)
    with pytest.raises(UserError, match="another pool: 'solo' is new"):
        search(new, scores, SearchConfig(), None)
    shutil.rmtree(solo)
    found = search(Scorer(workdir, config.score), scores, SearchConfig(), None)
    assert found.searched == len(scores.table)


def test_found_is_kept_and_damage_is_noticed(scorer, scores, tmp_path):
    with pytest.raises(UserError, match="nothing was searched"):
        load_found(tmp_path)
    found = search(scorer, scores, SearchConfig(), None)
    save_found(tmp_path, found)
    assert load_found(tmp_path) == found
    path = tmp_path / "search" / "found.json"
    text = path.read_text()
    assert json.loads(text, parse_constant=pytest.fail)["target"]
    for bad in (text[:-20], "[]", text.replace('"target"', '"tarket"')):
        path.write_text(bad)
        with pytest.raises(DamagedError, match=r"found.json: unreadable"):
            load_found(tmp_path)
