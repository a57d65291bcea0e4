"""Agreement of predictions with truths, on laws whose answer is known."""

import numpy as np
import pytest
import scipy.stats

from jaxsim.study.agreement import agreement, best_rule, guessing
from jaxsim.study.intervals import mean_spearman

TRUTH = np.array([1.0, 1.3, 1.1, 1.9, 1.6])


def test_a_perfect_predictor():
    found = agreement(2 * TRUTH - 5, TRUTH, None)
    assert found.spearman == pytest.approx(1)
    assert found.pearson == pytest.approx(1)
    assert found.pairs == 1
    assert (found.slope, found.offset) == pytest.approx((0.5, 2.5))
    assert found.regret == 0


def test_a_reversed_predictor():
    found = agreement(-TRUTH, TRUTH, None)
    assert (found.spearman, found.pearson) == pytest.approx((-1, -1))
    assert found.pairs == 0
    assert found.regret == pytest.approx(0.9)


def test_a_monotone_predictor_is_perfect_in_rank_only():
    found = agreement(np.exp(5 * TRUTH), TRUTH, None)
    assert found.spearman == pytest.approx(1)
    assert 0 < found.pearson < 0.95


def test_a_constant_predictor():
    found = agreement(np.ones(5), TRUTH, None)
    assert np.isnan([found.spearman, found.pearson, found.slope]).all()
    assert found.interval is None
    assert found.pairs == 0.5
    assert found.regret == pytest.approx(TRUTH.mean() - 1)


def test_ties_count_half():
    predicted = np.array([1.0, 1.0, 2.0])
    assert agreement(predicted, np.array([1.0, 2.0, 3.0]), None).pairs == (
        pytest.approx(2.5 / 3)
    )
    # Neither can a predictor be wrong about truths that are equal.
    assert agreement(np.array([1.0, 2.0, 3.0]), predicted, None).pairs == (
        pytest.approx(2.5 / 3)
    )
    found = agreement(predicted, np.array([1.0, 2.0, 0.5]), None)
    assert found.regret == pytest.approx(1.0)  # the mean of the two chosen


def test_pairs_by_side():
    in_M = np.array([True, True, True, False, False])
    truth_M = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    predicted_M = np.array([1.0, 3.0, 2.0, 0.0, 9.0])
    found = agreement(predicted_M, truth_M, in_M)
    assert found.pairs_in == pytest.approx(2 / 3)  # of 12, 13, 23
    assert found.pairs_out == 1.0  # 45
    assert found.pairs_mixed == pytest.approx(0.5)  # three of six
    assert found.pairs == pytest.approx(6 / 10)
    nothing = agreement(predicted_M, truth_M, None)
    assert np.isnan([nothing.pairs_in, nothing.pairs_out]).all()


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_truths_for_a_correlation(count):
    found = agreement(TRUTH[:count], TRUTH[:count], None)
    assert np.isnan([found.spearman, found.pearson, found.slope]).all()


def test_interval_from_twelve_truths_on():
    truth, error = np.random.default_rng(0).standard_normal((2, 12))
    predicted = truth + error
    assert agreement(predicted[:11], truth[:11], None).interval is None
    low, high = agreement(predicted, truth, None).interval
    law = mean_spearman(predicted[:, None], truth[:, None])
    assert (low, high) == (law.low, law.high)
    # The figure is that of these truths; the interval is of their law.
    found = agreement(predicted, truth, None).spearman
    assert found == pytest.approx(scipy.stats.spearmanr(predicted, truth)[0])
    assert low < found < high


def test_predictions_that_are_missing():
    """All is undefined, and nothing fails or warns."""
    with np.errstate(invalid="raise"):
        found = agreement(np.full(5, np.nan), TRUTH, None)
    assert found.interval is None
    figures = found.spearman, found.slope, found.pairs, found.regret, found.gain
    assert np.isnan(figures).all()


def test_gain_of_a_choice():
    predicted = np.array([5.0, 4.0, 1.0, 3.0, 2.0])  # the third is chosen
    found = agreement(predicted, TRUTH, None)
    assert found.gain == pytest.approx(TRUTH.mean() - 1.1)
    assert found.gain_share == pytest.approx(
        (TRUTH.mean() - 1.1) / (TRUTH.mean() - 1.0)
    )
    assert agreement(TRUTH, TRUTH, None).gain_share == 1
    assert agreement(-TRUTH, TRUTH, None).gain_share < 0
    flat = agreement(TRUTH, np.ones(5), None)
    assert flat.gain == 0 and np.isnan(flat.gain_share)


def test_a_tied_choice_is_the_mean_of_it():
    predicted = np.array([1.0, 1.0, 2.0, 2.0, 2.0])
    found = agreement(predicted, TRUTH, None)
    assert found.gain == pytest.approx(TRUTH.mean() - 1.15)
    assert found.gain + found.regret == pytest.approx(TRUTH.mean() - 1.0)


def test_guessing_is_the_mean_of_random_orders():
    generator = np.random.default_rng(1)
    drawn = [
        agreement(generator.permutation(5.0 + np.arange(5)), TRUTH, None)
        for _ in range(2000)
    ]
    found = guessing(TRUTH)
    for name in ("spearman", "pearson", "pairs", "regret", "gain_share"):
        values = [getattr(one, name) for one in drawn]
        slack = 4 * np.std(values) / np.sqrt(len(values))
        assert getattr(found, name) == pytest.approx(np.mean(values), abs=slack)
    assert found.interval is None
    assert (found.gain, found.pairs_mixed, found.pairs_in) == (0, 0.5, 0.5)
    assert np.isnan(guessing(np.ones(3)).gain_share)


def test_the_best_rule_is_picked_in_hindsight():
    """By the mean over targets: good on both beats perfect on one."""
    truth_MT = np.stack([np.arange(12.0), np.arange(12.0)], axis=1)
    good_MT = truth_MT.copy()
    good_MT[[0, 3]] = good_MT[[3, 0]]
    half_MT = truth_MT * [1.0, -1.0]
    silent_MT = truth_MT * [1.0, 0.0]
    rules = {"half": half_MT, "good": good_MT, "silent": silent_MT}
    assert best_rule(rules, truth_MT) == "good"
    assert best_rule(rules, half_MT) == "half"
    assert best_rule({"first": good_MT, "good": good_MT}, truth_MT) == "first"
    missing_MT = np.full((12, 2), np.nan)
    assert best_rule({"a": silent_MT, "b": missing_MT}, truth_MT) is None
    assert best_rule({}, truth_MT) is None
