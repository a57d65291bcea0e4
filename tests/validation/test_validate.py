"""`compare`: from scores of mixtures and reference runs to agreement."""

import dataclasses
import json
import re

import numpy as np
import pytest
import scipy.stats

from jaxsim import commands
from jaxsim.errors import DamagedError
from jaxsim.records import Basis
from jaxsim.report.data import ReportData
from jaxsim.report.headline import headline
from jaxsim.scoring.table import dirichlet
from jaxsim.scoring.targets import IN_POOL, OUT_OF_POOL
from jaxsim.search.objective import Objective, objective
from jaxsim.search.result import load_search
from jaxsim.search.ties import AFTER_RUNS, Residual
from jaxsim.validation.measured import (
    CALIBRATED,
    PREDICTED,
    PredictionTable,
    TrainedChoice,
    beside,
    pool_losses,
)
from jaxsim.validation.validate import (
    NEAR_BEST,
    TRAINED,
    compare,
    load_validation,
    save_validation,
)


@pytest.fixture(scope="module")
def predictors(scorer):
    table = dirichlet(scorer.members, 16, 1.0, seed=0)
    return scorer.score("mixtures", table)


@pytest.fixture(scope="module")
def basis(scorer):
    return pool_losses(scorer.corpus, scorer.standard(), True)


def reference_runs(predictors, split, rng):
    """Runs that are the merge, except for a shift and a little noise."""
    noise = np.random.default_rng(rng).normal(0, 0.01, (16, 5))
    spread_M1 = 1 - np.sum(predictors.table.w_MC**2, axis=1, keepdims=True)
    return predictors.bits_per_byte("merge", split) - 0.1 * spread_M1 + noise


@pytest.fixture(scope="module")
def everything(predictors):
    splits = {
        split: {
            name: predictors.bits_per_byte(name, split)
            for name in ("merge", "ensemble", "members")
        }
        | {"reference": reference_runs(predictors, split, 0)}
        for split in ("dev", "test")
    }
    return PredictionTable(predictors.table.names, predictors.table.w_MC, **splits)


@pytest.fixture(scope="module")
def held_out(everything):
    return everything.take(np.arange(12))


@pytest.fixture(scope="module")
def fitted(everything):
    return everything.take(np.arange(12, 16))


@pytest.fixture(scope="module")
def reference_MD(held_out):
    return held_out.test["reference"]


@pytest.fixture(scope="module")
def validation(basis, held_out, fitted, reference_MD):
    # Four reference runs, then two members: no reference run may be compared with
    # the replicate of a member.
    members_PD = basis.test_CD[:2]
    first_PD = np.concatenate([reference_MD[:4], members_PD])
    shift_P1 = 0.001 * np.array([1, -1, 1, -1, 0, 0])[:, None]
    replicates = first_PD, first_PD + shift_P1
    return compare(
        basis,
        held_out,
        fitted,
        replicates=replicates,
        held_out_replicates=4,
        distributions=["dirichlet"] * 12,
    )


def given(basis, predictors, reference_MD, **more):
    """The same as a user's own runs."""
    return compare(basis, beside(predictors, reference_MD, reference_MD), **more)


def test_targets_and_kinds(validation, scorer):
    kinds = dict(zip(validation.targets, validation.kinds, strict=True))
    assert kinds == dict.fromkeys(scorer.members, "in-pool") | {
        "outside": "out-of-pool",
        IN_POOL: "macro",
    }
    assert OUT_OF_POOL not in kinds  # over a single domain it is that domain


def test_points_are_bits_per_byte(validation, predictors, reference_MD, scorer):
    e = scorer.evaluation
    for predictor in ("merge", "ensemble", "members"):
        bits_MD = predictors.bits_per_byte(predictor, "test")[:12]
        points = validation.points[predictor]
        for d, domain in enumerate(e.domains):
            np.testing.assert_allclose(points[domain], bits_MD[:, d])
        np.testing.assert_allclose(
            points[IN_POOL], bits_MD[:, np.array(e.in_pool)].mean(1)
        )
    np.testing.assert_allclose(
        validation.points["reference"]["solo"], reference_MD[:, e.domains.index("solo")]
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


def test_ceilings_come_from_replicates(validation, basis, held_out, predictors):
    assert validation.replicates == 4  # not the members'
    assert min(validation.ceilings.values()) > 0.99
    for target, (low, high) in validation.ceiling_intervals.items():
        assert low <= validation.ceilings[target] <= high
        assert validation.noise[target] == pytest.approx(
            0.001 * np.sqrt(4 / 3 / 2), rel=1e-6
        )
    # Four are too few to say how well reference runs agree with their replicates.
    assert validation.replicate_agreement == {}
    first_MD = held_out.test["reference"]
    every = compare(
        basis,
        held_out,
        replicates=(first_MD, first_MD + 0.001),
        held_out_replicates=12,
        distributions=["dirichlet"] * 12,
    )
    for again in every.replicate_agreement.values():
        assert again["spearman"] == pytest.approx(1)
    without = given(basis, predictors, reference_runs(predictors, "test", 0))
    assert without.ceilings == {} and without.replicates == 0
    assert without.given and not validation.given
    # There are no other runs that it could be picked on.
    assert "best single weight" not in without.agreement["outside"]
    assert "best single weight" in validation.agreement["outside"]


def test_calibration_is_fitted_on_no_held_out_run(validation, basis, held_out, fitted):
    """Held-out runs do not change the predictions that they test."""
    other = dataclasses.replace(
        held_out, dev={**held_out.dev, "reference": held_out.dev["reference"] + 9}
    )
    again = compare(basis, other, fitted, distributions=["dirichlet"] * 12)
    assert again.points[CALIBRATED] == validation.points[CALIBRATED]
    assert again.check == validation.check
    # Searches use all reference runs.
    assert again.calibration != validation.calibration
    assert again.points["log-linear"] == validation.points["log-linear"]


def test_calibration_finds_the_shift(validation):
    for figures in validation.check.values():
        assert figures["calibrated"] < figures["merge"] / 3
        assert figures["covered"] > 0.5
    assert validation.learning_target == "outside"
    assert [row["reference runs"] for row in validation.learning] == [0, 3, 4]
    assert validation.learning[-1]["error"] < validation.learning[0]["error"]
    assert validation.calibrated(["outside"]) is not None
    assert validation.calibrated(["outside", "nowhere"]) is None


def test_without_calibration_runs_each_is_predicted_from_the_others(basis, held_out):
    found = compare(basis, held_out, distributions=["dirichlet"] * 12)
    assert found.check[IN_POOL]["calibrated"] < found.check[IN_POOL]["merge"]
    changed = held_out.dev["reference"].copy()
    changed[0] += 9
    other = dataclasses.replace(held_out, dev={**held_out.dev, "reference": changed})
    again = compare(basis, other, distributions=["dirichlet"] * 12)
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
    assert claim["gain"] == pytest.approx(claim["spearman"] - claim["rule_spearman"])
    assert by["out-of-pool", "merge"]["targets"] == ["outside"]
    assert ("in-pool", "log-linear") in by


def test_a_claim_is_against_chance_where_rules_are_worse(basis, held_out, fitted):
    """Runs in the reverse order: every rule about mixtures fails."""
    spread_M1 = 1 - np.sum(held_out.w_MC**2, axis=1, keepdims=True)
    backward = np.broadcast_to(spread_M1, held_out.test["reference"].shape)
    noise = np.random.default_rng(0).normal(0, 1e-3, backward.shape)
    test = {**held_out.test, "reference": backward + noise}
    found = compare(
        basis,
        dataclasses.replace(held_out, test=test),
        distributions=["dirichlet"] * 12,
    )
    claims = {(c["kind"], c["predictor"]): c for c in found.claims}
    claim = claims["out-of-pool", "merge"]
    assert claim["rule"] == "random" and claim["rule_spearman"] == 0
    assert claim["gain"] == claim["spearman"]
    assert claim["gain_interval"] == claim["spearman_interval"]


def test_replicates_of_members_alone(basis, held_out, reference_MD):
    """They measure noise; no reference run is compared with a replicate."""
    members_PD = basis.test_CD[:3]
    shift_P1 = 0.01 * np.arange(3)[:, None]
    found = compare(
        basis,
        held_out,
        replicates=(members_PD, members_PD + shift_P1),
        distributions=["dirichlet"] * 12,
    )
    assert found.replicate_agreement == {}
    assert found.noise["outside"] == pytest.approx(0.01 / np.sqrt(2))


def test_levels_of_an_unknown_unit_mean_nothing(basis, predictors):
    found = given(
        basis, predictors, reference_runs(predictors, "test", 0), unit="unknown"
    )
    assert found.agreement["outside"]["merge"]["spearman"] > 0.9
    assert found.residual({"outside": 1.0}) is None
    assert found.calibrated(["outside"]) is None


def test_each_size_is_compared_separately(basis, held_out, fitted):
    size_M = np.repeat([2, 3, 4], 4)
    w_MC = np.array([np.roll(np.arange(4) < n, i) / n for i, n in enumerate(size_M)])
    sized = dataclasses.replace(held_out, w_MC=w_MC)
    found = compare(basis, sized, fitted, distributions=["subset"] * 12, by_size=True)
    assert set(found.within) == {"2 units", "3 units", "4 units"}
    here = slice(0, 4)
    reference, merge = (
        np.array(found.points[n]["outside"])[here] for n in ("reference", "merge")
    )
    rank = [np.argsort(np.argsort(x)) for x in (reference, merge)]
    assert found.within["2 units"]["outside"]["merge"] == pytest.approx(
        np.corrcoef(*rank)[0, 1]
    )


def test_each_part_of_the_sampling_distribution_is_compared_separately(basis, held_out):
    near = [*NEAR_BEST]
    parts = ["dirichlet"] * 6 + ["subset"] * 2 + near + near[:1]
    found = compare(basis, held_out, distributions=parts)
    # Of fewer than three runs there is no correlation.
    assert set(found.within) == {"dirichlet", "near the best"}
    for kind, here in (("dirichlet", slice(0, 6)), ("near the best", slice(8, 12))):
        pair = [found.points[n]["outside"][here] for n in ("reference", "merge")]
        expected = scipy.stats.spearmanr(*pair).statistic
        assert found.within[kind]["outside"]["merge"] == pytest.approx(expected)
    assert compare(basis, held_out, distributions=["subset"] * 12).within == {}


def test_reference_runs_of_other_lengths_reach_no_search(basis, held_out, fitted):
    """With the budget 'sum', a longer run does not mean a better mixture."""
    found = compare(
        basis, held_out, fitted, distributions=["subset"] * 12, by_size=True
    )
    assert found.agreement["outside"]["merge"]["spearman"] > 0.8
    assert found.residual({"outside": 1.0}) is None
    assert found.calibrated(["outside"]) is None


def test_two_calibration_runs_join_the_held_out_ones(basis, held_out, fitted):
    """Alone they are too few, so each run is predicted from all others."""
    two = fitted.take(np.arange(2))
    found = compare(basis, held_out, two, distributions=["dirichlet"] * 12)
    for figures in found.check.values():
        assert np.isfinite(figures["margin"])
        assert figures["calibrated"] < figures["merge"]


def test_two_reference_runs_calibrate_nothing(basis, held_out):
    two = held_out.take(np.arange(2))
    found = compare(basis, two, distributions=["dirichlet"] * 2)
    assert found.calibrated(["outside"]) is None
    assert found.residual({"outside": 1.0}, CALIBRATED) is None


def test_domains_without_reference_runs_are_no_targets(basis, predictors, scorer):
    some_MD = np.full((16, 5), np.nan)
    column = scorer.evaluation.domains.index("outside")
    some_MD[:, column] = reference_runs(predictors, "test", 0)[:, column]
    found = given(basis, predictors, some_MD)
    assert found.targets == ["outside"]


def test_residual_is_the_scatter_and_not_the_shift(validation):
    found = validation.residual({"outside": 1.0})
    reference, merge = (
        np.array(validation.points[name]["outside"]) for name in ("reference", "merge")
    )
    expected = np.std(reference - merge, ddof=1)
    assert found == Residual(pytest.approx(expected), 12)
    # A calibrated merge has no shift left; its remaining bias is error.
    left = validation.residual({"outside": 1.0}, CALIBRATED)
    assert left.deviation < found.deviation < 0.1
    both = validation.residual({"outside": 3.0, "solo": 1.0})
    assert both.reference_runs == 12 and both.deviation != found.deviation
    assert validation.residual({"outside": 1.0, "later": 1.0}) is None
    points = {
        name: {target: values[:2] for target, values in by.items()}
        for name, by in validation.points.items()
    }
    few = dataclasses.replace(validation, points=points)
    assert few.residual({"outside": 1.0}) is None


def test_residual_of_calibrated_merges_leaves_out_each_reference_run(
    validation, basis, held_out, fitted
):
    """Two calibration runs are too few; searches use all 14 runs."""
    known = validation.calibrated(["outside"])
    off_F = known.off_FD[:, known.domains.index("outside")]
    left = validation.residual({"outside": 1.0}, CALIBRATED)
    assert len(off_F) == len(held_out) + len(fitted)
    expected = np.sqrt(np.mean(off_F**2))
    assert left == Residual(pytest.approx(expected), len(off_F))
    few = compare(
        basis, held_out, fitted.take(np.arange(2)), distributions=["dirichlet"] * 12
    )
    again = few.residual({"outside": 1.0}, CALIBRATED)
    assert again.reference_runs == 14
    assert again.deviation < 1.2 * left.deviation


def test_a_calibration_that_harms_the_target_is_not_used(validation, scorer, config):
    """Its own left-out runs decide, on the objective that is searched."""
    known = validation.calibration
    worse_FD = known.off_FD.copy()
    merge_FD = np.array(known.merge_off, float)
    column = known.domains.index("outside")
    worse_FD[:, column] = 1.5 * merge_FD[:, column]
    known = dataclasses.replace(known, off=worse_FD.tolist())
    harmed = dataclasses.replace(validation, calibration=known)
    error = np.abs(merge_FD[:, column]).mean()
    why = f"NOT CALIBRATED: .* dev .* by {error:.4f} .* by {1.5 * error:.4f}"
    goal = dataclasses.replace(config.search, target={"solo": 1.0}, evaluations=1)
    assert harmed.calibration_helps(objective(goal, scorer.evaluation)) == (True, "")
    # Test text decides nothing, but is not kept quiet.
    points = harmed.points | {CALIBRATED: harmed.points["members"]}
    doubted = dataclasses.replace(harmed, points=points)
    used, doubt = doubted.calibration_helps(objective(goal, scorer.evaluation))
    assert used and re.match(
        "CALIBRATION IN DOUBT: on the test text .* dev text says", doubt
    )
    goal = dataclasses.replace(goal, target={"outside": 1.0})
    config, workdir = dataclasses.replace(config, search=goal), scorer.workdir
    save_validation(workdir, harmed)
    commands.search(config, workdir, scorer=scorer)
    found = load_search(workdir)
    assert not found.calibrated and found.ties["heading"] == AFTER_RUNS
    assert re.search(why, " ".join(found.warnings))
    first = headline(ReportData(workdir), workdir).first
    assert any(re.search(why, text) for text in first)
    (workdir / TRAINED).unlink()


def test_the_worst_gain_is_over_the_base_model_on_the_text_of_the_reference_runs(
    validation, basis
):
    names = ("outside", "solo")
    goal = Objective.of_domains(
        names,
        np.array([0.5, 0.5]),
        "worst",
        np.array([100.0, 0.0]),  # of other text: would decide the maximum
        np.full(2, np.inf),
    )
    reference_MD, merge_MD = (
        np.stack([validation.points[which][n] for n in names], axis=1)
        for which in ("reference", "merge")
    )
    domains = list(basis.evaluation.domains)
    base_D = basis.base["test"][[domains.index(n) for n in names]]
    gain_M = (reference_MD - base_D).max(axis=1) - (merge_MD - base_D).max(axis=1)
    found = validation.residual_of(goal)
    assert found.deviation == pytest.approx(np.std(gain_M, ddof=1))


def test_what_it_was_computed_from(validation, scorer, predictors):
    basis = validation.basis
    assert basis.text == scorer.evaluation.digest
    assert basis.members == scorer.basis.members
    assert not basis.difference(scorer.now())
    other = scorer.basis.members | {"solo": "x"}
    changed = dataclasses.replace(scorer.now(), members=other)
    assert basis.difference(changed) == "member 'solo' has changed"
    assert basis.difference(dataclasses.replace(scorer.now(), text="x"))


def test_kept_as_strict_json(validation, tmp_path):
    assert load_validation(tmp_path) is None
    save_validation(tmp_path, validation)
    path = tmp_path / "validation" / "validation.json"
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN
    found = load_validation(tmp_path)
    assert found.points == validation.points
    assert found.basis == validation.basis
    random = found.agreement["outside"]["random"]
    assert np.isnan(random["slope"]) and random["interval"] is None
    assert (
        found.agreement["solo"]["merge"]["spearman"]
        == (validation.agreement["solo"]["merge"]["spearman"])
    )
    altered = path.read_text().replace('"solo"', '"sola"')
    for bad in (path.read_text()[:-30], "[]", altered):
        path.write_text(bad)
        with pytest.raises(DamagedError, match=r"validation.json: unreadable"):
            load_validation(tmp_path)


def test_an_altered_record_of_chosen_mixtures_is_refused(tmp_path):
    found = TrainedChoice(
        labels=["mine"], reference_runs=["reference-1"], members=["a", "b"],
        mixtures=[[0.5, 0.5]], targets=["a"], kinds=["in-pool"], groups={"a": "a"},
        points={key: {"a": [1.5]} for key in ("reference", *PREDICTED)},
        basis=Basis("text", base="x"), notes=[],
    )  # fmt: skip
    assert TrainedChoice.load(tmp_path) is None
    found.save(tmp_path)
    assert TrainedChoice.load(tmp_path) == found
    path = tmp_path / "validation" / "chosen.json"
    path.write_text(path.read_text().replace("1.5", "1.4"))
    with pytest.raises(DamagedError, match=r"chosen\.json: .* --mixtures=.* ag"):
        TrainedChoice.load(tmp_path)
