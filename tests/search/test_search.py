"""Searches: what they choose, under constraints, and what they report."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxsim.config import SearchConfig
from jaxsim.errors import DamagedError, UserError
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.table import Mixtures, base_row, concatenate, read_csv
from jaxsim.search.feasible import LEAST
from jaxsim.search.objective import target_weights
from jaxsim.search.result import check_best, load_search, save_search
from jaxsim.search.search import search
from jaxsim.search.ties import BEFORE_RUNS, Residual


@pytest.fixture(scope="module")
def scores(scorer):
    return scorer.score("subsets-1-2", scorer.table("subsets:1-2"), "dev", windows=3)


BY_TABLE = SearchConfig(method="table")


def target(**weights: float) -> SearchConfig:
    return dataclasses.replace(BY_TABLE, target=weights)


def test_the_default_target_is_out_of_pool(scorer):
    e = scorer.evaluation
    assert target_weights(SearchConfig(), e) == {"outside": 1.0}
    inside = dataclasses.replace(e, in_pool=(True,) * len(e.domains))
    assert target_weights(SearchConfig(), inside) == dict.fromkeys(e.domains, 1.0)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ({"nowhere": 1.0}, "'nowhere' is not a domain .*outside"),
        ({"solo": 0.0}, "one of them positive"),
        ({"solo": 1.0, "outside": -1.0}, "zero or more"),
    ],
)
def test_a_bad_target_is_refused(scorer, weights, sentence):
    with pytest.raises(UserError, match=sentence):
        target_weights(target(**weights), scorer.evaluation)


def test_the_best_is_the_lowest_objective_on_dev_text(scorer, scores):
    found = search(scorer, target(solo=1.0, outside=3.0), scores)
    e = scores.evaluation
    bits_MD = scores.bits_per_byte("merge", "dev")
    columns = [e.domains.index("solo"), e.domains.index("outside")]
    value_M = bits_MD[:, columns] @ [0.25, 0.75]
    best = int(np.argmin(value_M))
    assert found.best["name"] == scores.table.names[best]
    assert found.best["weights"] == scores.table.parts(best)
    assert found.best["dev"] == pytest.approx(value_M[best])
    assert found.best["tied"] and found.best["difference"] == 0
    assert found.target == found.named == {"solo": 1.0, "outside": 3.0}
    assert found.searched == len(np.unique(scores.table.w_MC, axis=0))
    assert found.windows == 3
    assert found.ties["heading"] == BEFORE_RUNS
    assert found.basis == scorer.basis
    names = [row["name"] for row in found.rows]
    assert {"uniform", "proportional", "macro"} < set(names)
    assert found.ties["count"] == sum(row["tied"] for row in found.rows)
    for row in found.rows:
        m = scores.table.names.index(row["name"])
        assert row["dev"] == pytest.approx(value_M[m])


def test_finalists_are_scored_on_test_text(scorer, scores):
    found = search(scorer, target(outside=1.0), scores)
    rows = np.arange(len(scorer.evaluation))
    test_MR = scorer.evaluator.score(scores.table, rows)
    e = scorer.evaluation
    mine = (e.split_R == 1) & (e.domain_R == e.domains.index("outside"))
    bytes_ = e.bytes_R[mine].sum()
    for row in found.rows[:8]:
        m = scores.table.names.index(row["name"])
        bits = test_MR[m, mine].astype(np.float64).sum() / bytes_ / np.log(2)
        assert row["test"] == pytest.approx(bits, rel=2e-5)


def test_the_base_model_is_not_a_mixture_to_train_on(scorer, scores):
    """Its weights have no meaning, whatever its loss."""
    table = concatenate(base_row(scorer.members), scores.table)
    with_base = scorer.score("with-base", table, "dev", windows=3)
    spoiled = with_base.predictors["merge"]
    spoiled.nll_MR[0] = 1e-3  # far better than all others
    found = search(scorer, BY_TABLE, with_base)
    assert "base" not in [row["name"] for row in found.rows]
    assert found.searched == len(np.unique(scores.table.w_MC, axis=0))
    with pytest.raises(UserError, match="holds only the base model"):
        search(scorer, BY_TABLE, with_base.take(np.array([0])))


def test_scaled_rows_are_left_out(scorer, tmp_path, capsys):
    csv = tmp_path / "scaled.csv"
    csv.write_text("name,solo,scale\nmore of it,1,1.5\n")
    scores = scorer.score("scaled", scorer.table(str(csv)), "dev", windows=3)
    found = search(scorer, BY_TABLE, scores)
    assert "more of it" not in [row["name"] for row in found.rows]
    assert "leaving out 1 mixture with a scale" in capsys.readouterr().out


def test_weights_of_six_decimals_are_a_mixture(scorer, tmp_path):
    csv = tmp_path / "six.csv"
    csv.write_text(
        'name,solo,"beta,1900-1909"\na,0.333333,0.666666\nb,0.666667,0.333334\n'
    )
    table = scorer.table(str(csv))
    np.testing.assert_allclose(table.w_MC.sum(axis=1), 1, rtol=1e-12)
    scores = scorer.score("six", table, "dev", windows=3)
    assert search(scorer, BY_TABLE, scores).searched == len(table)


@pytest.mark.parametrize("objective", ["worst", "mean"])
def test_a_table_is_relative_to_the_base_model_on_its_windows(
    scorer, scores, objective
):
    e = scorer.evaluation
    targets = dict.fromkeys(e.domains, 1.0)
    found = search(
        scorer, dataclasses.replace(target(**targets), objective=objective),
        scores,
    )  # fmt: skip
    rows = scores.predictors["merge"].rows
    base_R = scorer.standard().predictors["merge"].nll_MR[0]
    bits_MD = scores.bits_per_byte("merge", "dev")
    bytes_D = np.bincount(e.domain_R[rows], e.bytes_R[rows])
    base_D = np.bincount(e.domain_R[rows], base_R[rows]) / bytes_D / np.log(2)
    value_M = bits_MD.mean(axis=1)
    if objective == "worst":
        value_M = (bits_MD - base_D).max(axis=1) + base_D.mean()
    best = scores.table.names[int(np.argmin(value_M))]
    assert found.best["name"] == best
    assert found.best["dev"] == pytest.approx(value_M.min(), rel=1e-6)


def test_scores_of_another_precision_are_refused(workdir, config):
    other = dataclasses.replace(config.score, precision="bfloat16")
    scorer = Scorer(workdir, other)
    spec = "subsets:1-2"
    scorer.score("subsets-1-2", scorer.table(spec), "dev", windows=3)
    with pytest.raises(UserError, match=r"bfloat16.*score` again"):
        Scorer(workdir, config.score).scored(spec)


def test_a_pool_that_has_grown_is_refused(workdir, config):
    solo = workdir / "pool" / "members" / "solo"
    solo.rename(workdir / "elsewhere")
    old = Scorer(workdir, config.score)
    scores = old.score("mine", old.table("subsets:1"), "dev", windows=3)
    (workdir / "elsewhere").rename(solo)
    new = Scorer(workdir, config.score)
    with pytest.raises(UserError, match="another pool: member 'solo' is new"):
        search(new, BY_TABLE, scores)
    shutil.rmtree(solo)
    found = search(Scorer(workdir, config.score), BY_TABLE, scores)
    assert found.searched == len(np.unique(scores.table.w_MC, axis=0))


def test_a_result_is_saved_and_damage_is_noticed(scorer, scores, tmp_path):
    with pytest.raises(UserError, match="nothing was searched"):
        load_search(tmp_path)
    found = search(scorer, BY_TABLE, scores)
    save_search(tmp_path, found)
    assert load_search(tmp_path) == found
    path = tmp_path / "search" / "result.json"
    text = path.read_text()
    assert json.loads(text, parse_constant=pytest.fail)["target"]
    for bad in (text[:-20], "[]", text.replace('"target"', '"tarket"')):
        path.write_text(bad)
        with pytest.raises(DamagedError, match=r"result.json: unreadable"):
            load_search(tmp_path)


def descent(**settings) -> SearchConfig:
    return SearchConfig(**{"candidates": 2000, "evaluations": 60, "seed": 1} | settings)


def on_dev(scorer, w_MC: np.ndarray, domain: str) -> np.ndarray:
    """Bits per byte of merges, without code of the search."""
    e = scorer.evaluation
    mine = (e.split_R == 0) & (e.domain_R == e.domains.index(domain))
    rows = np.flatnonzero(mine)
    names = tuple(f"w{m}" for m in range(len(w_MC)))
    table = Mixtures(
        scorer.members, names, ("given",) * len(w_MC), w_MC, np.ones(len(w_MC))
    )
    nll_MR = scorer.evaluator.score(table, rows).astype(np.float64)
    return nll_MR.sum(axis=1) / e.bytes_R[rows].sum() / np.log(2)


def weights_of(scorer, row) -> np.ndarray:
    return np.array([row["weights"].get(n, 0.0) for n in scorer.members])


def test_a_descent_beats_tables(scorer):
    found = search(scorer, descent())
    grid = scorer.table("subsets:1-4")
    draws = scorer.table("dirichlet:200")
    rivals = on_dev(scorer, np.concatenate([grid.w_MC, draws.w_MC]), "outside")
    best_C = weights_of(scorer, found.best)
    value = on_dev(scorer, best_C[None], "outside")[0]
    assert value <= rivals.min() * (1 + 1e-6)
    assert found.best["dev"] == pytest.approx(value, rel=2e-5)
    assert found.evaluations <= 60
    assert found.looked_at == 2000


def test_constraints_hold_and_binding_ones_have_a_gain(scorer):
    free = search(scorer, descent())
    first = max(free.best["weights"], key=free.best["weights"].get)
    limit = free.best["weights"][first] / 1.5
    found = search(scorer, descent(max_weight={first: limit}))
    for row in found.rows:
        assert row["weights"].get(first, 0.0) <= limit + 1e-6
    (bound,) = [b for b in found.binding if b["kind"] == "max_weight"]
    assert bound["name"] == first
    assert bound["limit"] == limit
    # The gain is for a percentage point, to first order.
    relaxed = search(scorer, descent(max_weight={first: limit + 0.001}))
    won = 10 * (found.best["dev"] - relaxed.best["dev"])
    assert bound["gain"] == pytest.approx(won, rel=0.05)
    assert won > 0


def test_a_plan_reports_epochs_and_warns_of_more(scorer):
    units = [scorer.corpus.unit(name) for name in scorer.members]
    tokens = 3.0 * sum(unit.tokens for unit in units)
    found = search(scorer, descent(tokens=tokens, epochs=6.0))
    supply = {unit.name: unit.tokens for unit in units}
    assert set(found.sources) == set(supply)
    manifests = scorer.pool.manifests("member")
    for name, source in found.sources.items():
        epochs, own = source["epochs"], max(manifests[name].epochs.values())
        weight = found.best["weights"].get(name, 0.0)
        assert epochs == pytest.approx(weight * tokens / supply[name])
        assert epochs <= 6.0 + 1e-6
        assert source["member_epochs"] == own
        assert source["extrapolated"] == (epochs > own * 1.001)
        warned = any(name in line for line in found.warnings)
        assert warned == (epochs > max(own, 1.0) * 1.001)
    unplanned = search(scorer, descent()).sources.values()
    assert [source["epochs"] for source in unplanned] == [None] * len(supply)


def test_a_regression_limit_is_kept(scorer):
    """A gain outside must not come at the cost of a limited domain."""
    free = search(scorer, descent())
    e = scorer.evaluation
    free_C = weights_of(scorer, free.best)
    standard = scorer.standard()
    base = standard.bits_per_byte("merge", "dev")[0]
    max_regression = {
        name: on_dev(scorer, free_C[None], name)[0] / base[e.domains.index(name)] - 1
        for name in scorer.corpus.domains
        if name != "outside"
    }
    limited = max(max_regression, key=max_regression.get)
    limit = max_regression[limited] - 0.005
    found = search(scorer, descent(max_regression={limited: limit}))
    bits = on_dev(scorer, weights_of(scorer, found.best)[None], limited)[0]
    most = base[e.domains.index(limited)] * (1 + limit)
    assert bits <= most * (1 + 2e-4)
    assert found.best["dev"] > free.best["dev"]
    assert "max_regression" in [b["kind"] for b in found.binding]


def test_a_limit_that_nothing_keeps_is_in_the_result(scorer):
    found = search(scorer, descent(max_regression={"solo": -0.9}, evaluations=4))
    assert not found.within_limits
    assert "no scored mixture keeps all regression limits" in found.warnings[0]
    assert search(scorer, descent(evaluations=4)).within_limits


def test_the_worst_domain_decides(scorer):
    targets = dict.fromkeys(scorer.corpus.domains, 1.0)
    found = search(scorer, descent(target=targets, objective="worst"))
    mean = search(scorer, descent(target=targets))
    base = scorer.standard().bits_per_byte("merge", "dev")[0]

    def worst(row) -> float:
        w_MC = weights_of(scorer, row)[None]
        return max(
            on_dev(scorer, w_MC, name)[0] - base[d]
            for d, name in enumerate(scorer.evaluation.domains)
        )

    assert worst(found.best) < worst(mean.best)


def test_a_second_search_computes_nothing_and_agrees(workdir, config, request):
    first = search(Scorer(workdir, config.score), descent())
    again = Scorer(workdir, config.score)
    evaluator = again.evaluator

    def refuse(*_, **__):
        pytest.fail("nothing is left to compute")

    evaluator.chunks = refuse
    evaluator.jacobian = refuse
    assert search(again, descent()) == first


def test_the_table_takes_part_in_a_descent(scorer, scores):
    found = search(scorer, descent(), scores)
    assert found.table == scores.name
    with pytest.raises(UserError, match="no scored table"):
        search(scorer, BY_TABLE)


def test_marginal_values(scorer):
    """Compared with the merge that has one percent more."""
    found = search(scorer, descent())
    w_C = weights_of(scorer, found.best)
    marginal = found.marginal
    d = marginal["domains"].index("solo")
    c = marginal["members"].index("solo")
    share = 1e-2
    moved_C = (1 - share) * w_C
    moved_C[c] += share
    e = scorer.evaluation
    rows = e.rows("dev", scorer.config.windows)
    rows = rows[e.domain_R[rows] == e.domains.index("solo")]
    table = Mixtures(
        scorer.members,
        ("as it is", "moved"),
        ("given",) * 2,
        np.array([w_C, moved_C]),
        np.ones(2),
    )
    nll = scorer.evaluator.score(table, rows).sum(axis=1)
    change = (nll[1] - nll[0]) / e.bytes_R[rows].sum() / np.log(2)
    assert marginal["bits_DC"][d][c] == pytest.approx(change, rel=0.1)


def test_near_twins_count_once(scorer):
    found = search(scorer, descent(min_effect=0.5))  # everything ties
    rows = [r for r in found.rows if r["kind"] == "found"]
    w_MC = np.array([weights_of(scorer, row) for row in rows])
    apart_MM = np.abs(w_MC[:, None] - w_MC).sum(axis=-1) / 2
    np.fill_diagonal(apart_MM, 1.0)
    assert apart_MM.min() >= 0.01


@pytest.mark.parametrize("limits", [{}, {"max_sources": 2}, {"max_weight": 0.6}])
def test_no_mixture_has_a_trace_of_a_member(scorer, limits):
    """And none is a member with a trace of another beside it."""
    if share := limits.get("max_weight"):
        limits = {"max_weight": dict.fromkeys(scorer.members, share)}
    found = search(scorer, descent(min_effect=0.5, **limits))
    w_MC = np.array([weights_of(scorer, row) for row in found.rows])
    assert not ((w_MC > 0) & (w_MC < LEAST)).any()
    apart_MM = np.abs(w_MC[:, None] - w_MC).sum(axis=-1) / 2
    np.fill_diagonal(apart_MM, 1.0)
    assert apart_MM.min() >= LEAST
    assert w_MC.max() <= (share or 1.0) + 1e-6


def test_equal_mixtures_of_a_table_are_one_row(scorer, tmp_path):
    """Under their standard name, so that none ties with itself."""
    path = tmp_path / "mine.csv"
    quarters = ",".join(["0.25"] * 4)
    members = ",".join(f'"{name}"' for name in scorer.members)
    path.write_text(f"name,{members}\nmine,{quarters}\nyours,{quarters}\n")
    table = scorer.score("mine", scorer.table(str(path)), "dev", windows=3)
    names = [row["name"] for row in search(scorer, BY_TABLE, table).rows]
    assert "uniform" in names
    assert not {"mine", "yours"} & set(names)


def test_the_best_mixture_is_written_as_a_table(scorer, tmp_path):
    found = search(scorer, descent())
    save_search(tmp_path, found)
    table = read_csv(scorer.members, tmp_path / "search" / "best.csv")
    assert table.parts(0) == found.best["weights"]


def test_a_current_folder_that_was_deleted_is_not_needed(scorer, tmp_path, monkeypatch):
    save_search(tmp_path, search(scorer, descent(evaluations=1)))
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    best = tmp_path / "search" / "best.csv"
    check_best(tmp_path, Path("subsets:1-2"))
    check_best(tmp_path, best)
    best.write_text(best.read_text() + "\n")
    check_best(tmp_path, Path("subsets:1-2"))
    with pytest.raises(DamagedError, match=r"not as .* has it"):
        check_best(tmp_path, best)


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_best_mixture_is_a_formula(scorer, tmp_path, first):
    """A spreadsheet sees text; what reads mixtures sees the names as they are."""
    found = search(scorer, descent(evaluations=1))
    names = f"{first}1+1", f"{first}A1,B"
    row = found.best | {"name": f"{first}2", "weights": dict.fromkeys(names, 0.5)}
    save_search(tmp_path, dataclasses.replace(found, rows=[row]))
    path = tmp_path / "search" / "best.csv"
    with path.open(newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not any(cell.startswith(first) for cell in cells)
    if first.strip():  # `prepare` refuses the others in names
        assert read_csv(names, path).parts(0) == row["weights"]
        assert read_csv(names, path).names == (f"{first}2",)


@pytest.mark.parametrize("evaluations", [1, 2, 4])
def test_a_tiny_budget_gives_an_answer(scorer, evaluations):
    found = search(scorer, descent(evaluations=evaluations))
    assert found.evaluations <= evaluations
    assert found.best["tied"]
    # No standard mixture has a fifth of everything.
    min_weight = dict.fromkeys(scorer.members, 0.2)
    found = search(scorer, descent(evaluations=evaluations, min_weight=min_weight))
    assert found.best["name"] == "found 1"
    assert min(found.best["weights"].values()) > 0.2 - 1e-6


def test_few_sources(scorer):
    found = search(scorer, descent(max_sources=2))
    for row in found.rows:
        assert len(row["weights"]) <= 2
    pairs = scorer.table("subsets:1-2")
    best_C = weights_of(scorer, found.best)
    value = on_dev(scorer, best_C[None], "outside")[0]
    assert value <= on_dev(scorer, pairs.w_MC, "outside").min() * (1 + 1e-6)
    assert [b["kind"] for b in found.binding].count("sources") <= 1


class Apart:
    """Reference runs are 4 bits times (1 - squared weights) below merges."""

    def shift(self, w_MC, bits_MD, rows):
        spread_M = 1 - np.sum(w_MC**2, axis=1)
        return np.broadcast_to(-4 * spread_M[:, None], bits_MD.shape)

    def slope(self, w_C, bits_DC, rows):
        return np.broadcast_to(8 * w_C, bits_DC.shape)


def test_a_correction_moves_the_best_mixture(scorer):
    """It lowers merges of several members, and leaves single members as they are."""
    free = search(scorer, descent())
    assert not free.calibrated and len(free.best["weights"]) == 1
    found = search(
        scorer,
        descent(),
        residual_of=lambda goal: Residual(1e-9, 10),
        correction=Apart(),
    )
    assert found.calibrated and len(found.best["weights"]) > 1
    singles = [row for row in found.rows if len(row["weights"]) == 1]
    assert singles and all(row["shift"] == 0 for row in singles)
    for row in found.rows:
        spread = 1 - sum(w**2 for w in row["weights"].values())
        assert row["shift"] == pytest.approx(-4 * spread, abs=1e-6)
        assert found.predicted(row, "dev") == row["dev"] + row["shift"]
        assert row["difference"] == pytest.approx(
            found.predicted(row, "dev") - found.predicted(found.best, "dev")
        )


class Harm(Apart):
    """Training makes everything worse than the base model."""

    def shift(self, w_MC, bits_MD, rows):
        return np.full(bits_MD.shape, 10.0)

    def slope(self, w_C, bits_DC, rows):
        return np.zeros(bits_DC.shape)


def test_a_harmed_target_gives_a_warning(scorer):
    harmed = search(scorer, descent(), correction=Harm())
    assert any("NOTHING HELPS" in line for line in harmed.warnings)
    found = search(scorer, descent())
    assert not any("NOTHING HELPS" in line for line in found.warnings)


def test_limits_apply_to_corrected_losses(scorer):
    """A limit that the merge exceeds, and its corrected loss keeps."""
    free = search(scorer, descent(), correction=Apart())
    lowest = free.predicted(free.best, "dev")
    base = free.domains["outside"]["base"]
    # Between what is predicted for the best and its merge.
    limit = (lowest + free.best["dev"]) / 2 / base - 1
    found = search(
        scorer, descent(max_regression={"outside": limit}), correction=Apart()
    )
    assert not found.warnings
    assert found.domains["outside"]["best"] == pytest.approx(
        found.predicted(found.best, "dev"), rel=1e-6
    )
    assert found.best["dev"] > found.domains["outside"]["limit"]
