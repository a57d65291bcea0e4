"""From scores of ratios and of truths to the tables of agreement."""

import dataclasses
import json

import numpy as np
import pytest

from jaxsim.errors import DamagedError
from jaxsim.mixture.table import dirichlet
from jaxsim.search.objective import Objective
from jaxsim.search.ties import Residual
from jaxsim.study.chosen import Chosen, load_chosen, save_chosen
from jaxsim.study.measured import (
    CALIBRATED,
    IN_POOL,
    OUT_OF_POOL,
    Measured,
    basis_of,
    measured_by_user,
)
from jaxsim.study.validate import compare, load_validation, save_validation


@pytest.fixture(scope="module")
def proxies(scorer):
    table = dirichlet(scorer.members, 16, 1.0, rng=0)
    return scorer.score("ratios", table)


@pytest.fixture(scope="module")
def basis(scorer):
    return basis_of(scorer.corpus, scorer.references(), True)


def truths(proxies, half, rng):
    """Truths that are the merge, but for a shift and a little noise."""
    noise = np.random.default_rng(rng).normal(0, 0.01, (16, 5))
    spread_M1 = 1 - np.sum(proxies.table.w_MC**2, axis=1, keepdims=True)
    return proxies.bits_per_byte("merge", half) - 0.1 * spread_M1 + noise


@pytest.fixture(scope="module")
def everything(proxies):
    halves = {
        half: {
            name: proxies.bits_per_byte(name, half)
            for name in ("merge", "probability", "members")
        }
        | {"truth": truths(proxies, half, 0)}
        for half in ("select", "report")
    }
    return Measured(proxies.table.names, proxies.table.w_MC, **halves)


@pytest.fixture(scope="module")
def judged(everything):
    return everything.take(np.arange(12))


@pytest.fixture(scope="module")
def fitted(everything):
    return everything.take(np.arange(12, 16))


@pytest.fixture(scope="module")
def truth_MD(judged):
    return judged.report["truth"]


@pytest.fixture(scope="module")
def validation(basis, judged, fitted, truth_MD):
    # Four truths, then two members: no truth is beside a member's repeat.
    members_PD = basis.report_CD[:2]
    first_PD = np.concatenate([truth_MD[:4], members_PD])
    shift_P1 = 0.001 * np.array([1, -1, 1, -1, 0, 0])[:, None]
    repeats = first_PD, first_PD + shift_P1
    return compare(
        basis,
        judged,
        fitted,
        repeats=repeats,
        judged_repeats=4,
        laws=["dirichlet"] * 12,
    )


def given(basis, proxies, truth_MD, **more):
    """The same, brought by a user."""
    return compare(basis, measured_by_user(proxies, truth_MD), **more)


def test_targets_and_kinds(validation, scorer):
    kinds = dict(zip(validation.targets, validation.kinds, strict=True))
    assert kinds == dict.fromkeys(scorer.members, "in-pool") | {
        "outside": "out-of-pool",
        IN_POOL: "macro",
    }
    assert OUT_OF_POOL not in kinds  # of a single domain it is that domain


def test_points_are_bits_per_byte(validation, proxies, truth_MD, scorer):
    e = scorer.evaluation
    for predictor in ("merge", "probability", "members"):
        bits_MD = proxies.bits_per_byte(predictor, "report")[:12]
        points = validation.points[predictor]
        for d, domain in enumerate(e.domains):
            np.testing.assert_allclose(points[domain], bits_MD[:, d])
        np.testing.assert_allclose(
            points[IN_POOL], bits_MD[:, np.array(e.in_pool)].mean(1)
        )
    np.testing.assert_allclose(
        validation.points["truth"]["solo"], truth_MD[:, e.domains.index("solo")]
    )


def test_agreement_of_every_target(validation):
    for target, table in validation.agreement.items():
        assert table["merge"]["spearman"] > 0.9
        assert table["merge"]["interval"] is not None
        assert table["random"]["pairs"] == 0.5
        own = {"membership", "own weight"} & set(table)
        inside = target not in ("outside", IN_POOL)
        assert own == ({"membership", "own weight"} if inside else set())
        assert np.isfinite(table["merge"]["pairs_mixed"]) == inside


def test_ceilings_come_from_repeats(validation, basis, judged, proxies):
    assert validation.repeats == 4  # not the members'
    assert min(validation.ceilings.values()) > 0.99
    for target, (low, high) in validation.ceiling_intervals.items():
        assert low <= validation.ceilings[target] <= high
        assert validation.noise[target] == pytest.approx(
            0.001 * np.sqrt(4 / 3 / 2), rel=1e-6
        )
    # Four are too few to say how well truths agree with their repeats.
    assert validation.repeat_agreement == {}
    first_MD = judged.report["truth"]
    every = compare(
        basis,
        judged,
        repeats=(first_MD, first_MD + 0.001),
        judged_repeats=12,
        laws=["dirichlet"] * 12,
    )
    for again in every.repeat_agreement.values():
        assert again["spearman"] == pytest.approx(1)
    without = given(basis, proxies, truths(proxies, "report", 0))
    assert without.ceilings == {} and without.repeats == 0
    assert without.given and not validation.given
    # Nothing that it could be picked on apart from what is judged.
    assert "best single weight" not in without.agreement["outside"]
    assert "best single weight" in validation.agreement["outside"]


def test_calibration_comes_from_truths_that_are_not_judged(
    validation, basis, judged, fitted
):
    """What is judged teaches nothing that it is judged by."""
    other = dataclasses.replace(
        judged, select={**judged.select, "truth": judged.select["truth"] + 9}
    )
    again = compare(basis, other, fitted, laws=["dirichlet"] * 12)
    assert again.points[CALIBRATED] == validation.points[CALIBRATED]
    assert again.check == validation.check
    # What searches use knows all truths.
    assert again.calibration != validation.calibration
    assert again.points["log-linear"] == validation.points["log-linear"]


def test_calibration_learns_the_shift(validation):
    for figures in validation.check.values():
        assert figures["calibrated"] < figures["merge"] / 3
        assert figures["covered"] > 0.5
    assert validation.learning_target == "outside"
    assert [row["truths"] for row in validation.learning] == [0, 3, 4]
    assert validation.learning[-1]["error"] < validation.learning[0]["error"]
    assert validation.calibrated(["outside"]) is not None
    assert validation.calibrated(["outside", "nowhere"]) is None


def test_without_fit_truths_each_is_predicted_from_the_others(basis, judged):
    found = compare(basis, judged, laws=["dirichlet"] * 12)
    assert found.check[IN_POOL]["calibrated"] < found.check[IN_POOL]["merge"]
    changed = judged.select["truth"].copy()
    changed[0] += 9
    other = dataclasses.replace(
        judged, select={**judged.select, "truth": changed}
    )
    again = compare(basis, other, laws=["dirichlet"] * 12)
    calibrated = found.points[CALIBRATED][IN_POOL]
    # The first is predicted from the rest, which did not change.
    assert again.points[CALIBRATED][IN_POOL][0] == calibrated[0]
    assert again.points[CALIBRATED][IN_POOL][1] != calibrated[1]


def test_claims_are_paired_with_the_best_rule(validation):
    by = {(c["kind"], c["predictor"]): c for c in validation.claims}
    claim = by["in-pool", "merge"]
    assert claim["spearman"] > 0.9 and claim["ceiling"] > 0.99
    low, high = claim["spearman_interval"]
    assert low <= claim["spearman"] <= high
    assert claim["gain"] == pytest.approx(
        claim["spearman"] - claim["rule_spearman"]
    )
    assert by["out-of-pool", "merge"]["targets"] == ["outside"]
    assert ("in-pool", "log-linear") in by


def test_a_claim_is_against_chance_where_rules_are_worse(basis, judged, fitted):
    """Truths that lie the other way round: every rule about ratios fails."""
    spread_M1 = 1 - np.sum(judged.w_MC**2, axis=1, keepdims=True)
    backward = np.broadcast_to(spread_M1, judged.report["truth"].shape)
    noise = np.random.default_rng(0).normal(0, 1e-3, backward.shape)
    report = {**judged.report, "truth": backward + noise}
    found = compare(
        basis,
        dataclasses.replace(judged, report=report),
        laws=["dirichlet"] * 12,
    )
    claims = {(c["kind"], c["predictor"]): c for c in found.claims}
    claim = claims["out-of-pool", "merge"]
    assert claim["rule"] == "random" and claim["rule_spearman"] == 0
    assert claim["gain"] == claim["spearman"]
    assert claim["gain_interval"] == claim["spearman_interval"]


def test_repeats_of_members_alone(basis, judged, truth_MD):
    """They measure noise, and no truth is compared with its repeat."""
    members_PD = basis.report_CD[:3]
    shift_P1 = 0.01 * np.arange(3)[:, None]
    found = compare(
        basis,
        judged,
        repeats=(members_PD, members_PD + shift_P1),
        laws=["dirichlet"] * 12,
    )
    assert found.repeat_agreement == {}
    assert found.noise["outside"] == pytest.approx(0.01 / np.sqrt(2))


def test_levels_of_an_unknown_unit_mean_nothing(basis, proxies):
    found = given(basis, proxies, truths(proxies, "report", 0), unit="unknown")
    assert found.agreement["outside"]["merge"]["spearman"] > 0.9
    assert found.residual({"outside": 1.0}) is None
    assert found.calibrated(["outside"]) is None


def test_sizes_are_compared_apart(basis, judged, fitted):
    size_M = np.repeat([2, 3, 4], 4)
    w_MC = np.array(
        [np.roll(np.arange(4) < n, i) / n for i, n in enumerate(size_M)]
    )
    sized = dataclasses.replace(judged, w_MC=w_MC)
    found = compare(basis, sized, fitted, laws=["subset"] * 12, by_size=True)
    assert set(found.sizes) == {"2", "3", "4"}
    here = slice(0, 4)
    truth, merge = (
        np.array(found.points[n]["outside"])[here] for n in ("truth", "merge")
    )
    rank = [np.argsort(np.argsort(x)) for x in (truth, merge)]
    assert found.sizes["2"]["outside"]["merge"] == pytest.approx(
        np.corrcoef(*rank)[0, 1]
    )


def test_truths_of_other_lengths_reach_no_search(basis, judged, fitted):
    """With the budget 'sum' a longer run is no better mixture."""
    found = compare(basis, judged, fitted, laws=["subset"] * 12, by_size=True)
    assert found.agreement["outside"]["merge"]["spearman"] > 0.8
    assert found.residual({"outside": 1.0}) is None
    assert found.calibrated(["outside"]) is None


def test_two_fit_truths_teach_beside_the_judged_ones(basis, judged, fitted):
    """Alone they are too few, so each truth is predicted from all others."""
    two = fitted.take(np.arange(2))
    found = compare(basis, judged, two, laws=["dirichlet"] * 12)
    for figures in found.check.values():
        assert np.isfinite(figures["half"])
        assert figures["calibrated"] < figures["merge"]


def test_two_truths_calibrate_nothing(basis, judged):
    two = judged.take(np.arange(2))
    found = compare(basis, two, laws=["dirichlet"] * 2)
    assert found.calibrated(["outside"]) is None
    assert found.residual({"outside": 1.0}, CALIBRATED) is None


def test_domains_without_truths_are_no_targets(basis, proxies, scorer):
    some_MD = np.full((16, 5), np.nan)
    column = scorer.evaluation.domains.index("outside")
    some_MD[:, column] = truths(proxies, "report", 0)[:, column]
    found = given(basis, proxies, some_MD)
    assert found.targets == ["outside"]


def test_residual_is_the_scatter_and_not_the_shift(validation):
    found = validation.residual({"outside": 1.0})
    truth, merge = (
        np.array(validation.points[name]["outside"])
        for name in ("truth", "merge")
    )
    expected = np.std(truth - merge, ddof=1)
    assert found == Residual(pytest.approx(expected), 12)
    # A calibrated merge has no shift left, and what bias it has is error.
    left = validation.residual({"outside": 1.0}, CALIBRATED)
    assert left.deviation < found.deviation < 0.1
    both = validation.residual({"outside": 3.0, "solo": 1.0})
    assert both.truths == 12 and both.deviation != found.deviation
    assert validation.residual({"outside": 1.0, "later": 1.0}) is None
    points = {
        name: {target: values[:2] for target, values in by.items()}
        for name, by in validation.points.items()
    }
    few = dataclasses.replace(validation, points=points)
    assert few.residual({"outside": 1.0}) is None


def test_residual_of_calibrated_merges_is_of_every_truth_left_out(
    validation, basis, judged, fitted
):
    """Two fit truths teach nothing; all 14 do, and searches use these."""
    known = validation.calibrated(["outside"])
    off_F = known.off_FD[:, known.domains.index("outside")]
    left = validation.residual({"outside": 1.0}, CALIBRATED)
    assert len(off_F) == len(judged) + len(fitted)
    expected = np.sqrt(np.mean(off_F**2))
    assert left == Residual(pytest.approx(expected), len(off_F))
    few = compare(
        basis, judged, fitted.take(np.arange(2)), laws=["dirichlet"] * 12
    )
    again = few.residual({"outside": 1.0}, CALIBRATED)
    assert again.truths == 14
    assert again.deviation < 1.2 * left.deviation


def test_the_worst_gain_is_over_the_seed_on_the_text_of_the_truths(
    validation, basis
):
    names = ("outside", "solo")
    goal = Objective(
        names,
        np.array([0.5, 0.5]),
        "worst",
        np.array([100.0, 0.0]),  # of other text: would decide the maximum
        np.full(2, np.inf),
    )
    truth_MD, merge_MD = (
        np.stack([validation.points[which][n] for n in names], axis=1)
        for which in ("truth", "merge")
    )
    domains = list(basis.evaluation.domains)
    seed_D = basis.seed["report"][[domains.index(n) for n in names]]
    gain_M = (truth_MD - seed_D).max(axis=1) - (merge_MD - seed_D).max(axis=1)
    found = validation.residual_of(goal)
    assert found.deviation == pytest.approx(np.std(gain_M, ddof=1))


def test_what_it_was_computed_from(validation, scorer, proxies):
    assert validation.evaluation == scorer.evaluation.digest
    assert validation.digests == scorer.proxies.stack.pins
    assert validation.is_of(proxies)
    digests = dict(proxies.digests) | {"small": "x"}
    assert not validation.is_of(dataclasses.replace(proxies, digests=digests))
    text = dataclasses.replace(scorer.evaluation, digest="x")
    assert not validation.is_of(dataclasses.replace(proxies, evaluation=text))


def test_kept_as_strict_json(validation, tmp_path):
    assert load_validation(tmp_path) is None
    save_validation(tmp_path, validation)
    path = tmp_path / "study" / "validation.json"
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN
    found = load_validation(tmp_path)
    assert found.points == validation.points
    assert found.digests == validation.digests
    random = found.agreement["outside"]["random"]
    assert np.isnan(random["slope"]) and random["interval"] is None
    assert (
        found.agreement["solo"]["merge"]["spearman"]
        == (validation.agreement["solo"]["merge"]["spearman"])
    )
    altered = path.read_text().replace('"solo"', '"sola"')
    for bad in (path.read_text()[:-30], "[]", "{}", altered):
        path.write_text(bad)
        with pytest.raises(DamagedError, match=r"validation.json: unreadable"):
            load_validation(tmp_path)


def test_an_altered_record_of_chosen_mixtures_is_refused(tmp_path):
    found = Chosen(
        ["mine"], ["truth-1"], ["a", "b"], [[0.5, 0.5]], ["a"], ["in-pool"],
        {"truth": {"a": [1.5]}}, "text", {"seed": "x"}, [],
    )  # fmt: skip
    assert load_chosen(tmp_path) is None
    save_chosen(tmp_path, found)
    assert load_chosen(tmp_path) == found
    path = tmp_path / "study" / "chosen.json"
    path.write_text(path.read_text().replace("1.5", "1.4"))
    with pytest.raises(DamagedError, match=r"chosen\.json: .* --ratios=.* ag"):
        load_chosen(tmp_path)
