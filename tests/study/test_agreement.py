"""Agreement of predictions with truths, on laws whose answer is known."""

import numpy as np
import pytest

from jaxsim.study.agreement import agreement, noise_ceiling, spearman_interval

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
    assert spearman_interval(0.8, 11) is None
    assert spearman_interval(float("nan"), 20) is None
    low, high = spearman_interval(0.8, 12)
    assert -1 < low < 0.8 < high < 1
    wider = spearman_interval(0.8, 12), spearman_interval(0.8, 48)
    assert wider[1][0] > wider[0][0] and wider[1][1] < wider[0][1]
    low, high = spearman_interval(1.0, 12)
    assert 0.9 < low <= high <= 1
    predicted = np.arange(12.0)
    assert agreement(predicted[:11], predicted[:11], None).interval is None
    assert agreement(predicted, predicted, None).interval is not None


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.85])
def test_the_interval_covers_the_truth(correlation):
    """Of 1,500 samples of 12, about 95 % (four standard errors allowed)."""
    generator = np.random.default_rng(round(100 * correlation))
    # A normal law with this Pearson correlation has this Spearman one.
    rank = 6 / np.pi * np.arcsin(correlation / 2)
    covered, samples = 0, 1500
    for _ in range(samples):
        x, e = generator.standard_normal((2, 12))
        y = correlation * x + np.sqrt(1 - correlation**2) * e
        low, high = agreement(x, y, None).interval
        covered += low <= rank <= high
    slack = 4 * np.sqrt(0.95 * 0.05 / samples)
    assert 0.95 - slack < covered / samples < 0.95 + slack


def test_noise_ceiling():
    """What a predictor that knows the truth without its noise reaches."""
    generator = np.random.default_rng(0)
    signal = generator.normal(0, 2, 4000)
    truth, again = signal + generator.normal(0, 1, (2, 4000))
    ceiling = noise_ceiling(truth, truth[:2000], again[:2000])
    assert ceiling == pytest.approx(np.sqrt(4 / 5), abs=0.02)
    assert np.corrcoef(signal, truth)[0, 1] == pytest.approx(ceiling, abs=0.02)
    assert noise_ceiling(truth, truth, truth) == 1


def test_noise_ceiling_where_there_is_only_noise():
    first = np.array([1.0, 1.1, 0.9])
    assert noise_ceiling(first, first, first[::-1] + 5) == 0
    assert noise_ceiling(np.ones(4), np.ones(2), np.ones(2)) == 0
    assert noise_ceiling(np.ones(1), np.ones(1), np.zeros(1)) == 0
