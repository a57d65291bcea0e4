"""Intervals over truths, on laws whose values are known.

A coverage may lie below its level by four standard errors of the simulation.
The jackknife is on the safe side, the more so the fewer truths and the higher
the correlation, so above it may lie anywhere short of certainty.
"""

import numpy as np
import pytest
import scipy.stats

from jaxsim.study.intervals import (
    Interval,
    interval,
    mean_pairs,
    mean_spearman,
    paired_difference,
    pairs_statistic,
    spearman_statistic,
)

SAMPLES = 1000
LEAST = 0.95 - 4 * np.sqrt(0.95 * 0.05 / SAMPLES)
MOST = 0.998


def rank(correlation: float) -> float:
    """Spearman's of a normal law with this Pearson correlation."""
    return 6 / np.pi * np.arcsin(correlation / 2)


def normal(generator, count, targets, *correlations):
    """Truths [M, T] and predictors of them, half of whose errors is shared.

    So is half of a truth's variance over the targets, as of a run's noise.
    """
    shape = count, targets

    def draw():
        both_M1 = generator.standard_normal((count, 1))
        return np.sqrt(0.5) * (both_M1 + generator.standard_normal(shape))

    truth_MT, error_MT = draw(), draw()
    return truth_MT, *(
        r * truth_MT + np.sqrt(1 - r**2) * np.sqrt(0.5) * (error_MT + draw())
        for r in correlations
    )


def coverage(ask, value: float) -> tuple[float, float]:
    """Of `ask(generator)` over many samples; and the mean length."""
    generator = np.random.default_rng(0)
    found = [ask(generator) for _ in range(SAMPLES)]
    covered = [i.low <= value <= i.high for i in found]
    length = [i.high - i.low for i in found]
    return float(np.mean(covered)), float(np.mean(length))


def tied(seed: int, count: int = 15):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 5, (2, count, 3)).astype(float)


def test_spearman_is_that_of_scipy_with_ties():
    predicted_MT, truth_MT = tied(0)
    expected = np.mean(
        [
            scipy.stats.spearmanr(predicted_MT[:, t], truth_MT[:, t])[0]
            for t in range(3)
        ]
    )
    statistic = spearman_statistic(predicted_MT, truth_MT, unbiased=False)
    assert statistic(np.ones((1, 15)))[0] == pytest.approx(expected)


def test_pairs_are_counted_one_by_one():
    predicted_MT, truth_MT = tied(1)
    among_MMT = np.random.default_rng(2).random((15, 15, 3)) < 0.5
    among_MMT |= among_MMT.transpose(1, 0, 2)
    shares = []
    for t in range(3):
        right = [
            (np.sign(np.subtract(*predicted_MT[[i, j], t])
             * np.subtract(*truth_MT[[i, j], t])) + 1) / 2
            for i in range(15) for j in range(i) if among_MMT[i, j, t]
        ]  # fmt: skip
        shares.append(np.mean(right))
    found = mean_pairs(predicted_MT, truth_MT, among_MMT)
    assert found.estimate == pytest.approx(np.mean(shares))
    everything = mean_pairs(predicted_MT, truth_MT)
    assert everything.estimate != pytest.approx(found.estimate)


@pytest.mark.parametrize("unbiased", [False, True])
def test_a_count_is_how_often_a_truth_is_there(unbiased):
    """0 leaves it out, whatever the figure."""
    predicted_MT, truth_MT = tied(3)
    count_JM = np.ones((2, 15))
    count_JM[1, 4] = 0
    for statistic in (
        lambda x, y: spearman_statistic(x, y, unbiased),
        lambda x, y: pairs_statistic(x, y, None),
    ):
        without = (np.delete(x, 4, axis=0) for x in (predicted_MT, truth_MT))
        expected = statistic(*without)(np.ones((1, 14)))[0]
        found_J = statistic(predicted_MT, truth_MT)(count_JM)
        assert found_J[1] == pytest.approx(expected)
        assert found_J[0] != pytest.approx(expected)


def test_the_unbiased_correlation_is_unbiased():
    """The sample's own is not, by far more than four standard errors."""
    truth_MT, predicted_MT = np.random.default_rng(4).standard_normal(
        (2, 8, 5000)
    )
    predicted_MT = 0.9 * truth_MT + np.sqrt(1 - 0.81) * predicted_MT
    one_JM = np.ones((1, 8))
    mean, sample = (
        spearman_statistic(predicted_MT, truth_MT, unbiased)(one_JM)[0]
        for unbiased in (True, False)
    )
    slack = 4 * 0.15 / np.sqrt(5000)  # deviation of one estimate: 0.12
    assert mean == pytest.approx(rank(0.9), abs=slack)
    assert sample < rank(0.9) - 4 * slack


@pytest.mark.parametrize("count", [12, 32])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_mean_spearman_covers(correlation, count):
    def ask(generator):
        truth_MT, predicted_MT = normal(generator, count, 12, correlation)
        return mean_spearman(predicted_MT, truth_MT)

    covered, _ = coverage(ask, rank(correlation))
    assert LEAST < covered < MOST


@pytest.mark.parametrize("count", [12, 32])
@pytest.mark.parametrize("a, b", [(0.7, 0.7), (0.9, 0.6)])
def test_a_paired_difference_covers(a, b, count):
    def ask(generator):
        truth_MT, a_MT, b_MT = normal(generator, count, 6, a, b)
        return paired_difference(a_MT, b_MT, truth_MT)

    covered, _ = coverage(ask, rank(a) - rank(b))
    assert LEAST < covered < MOST


def test_what_predictors_share_leaves_their_difference():
    """So it is known better than from two intervals as if of other truths."""
    generator = np.random.default_rng(5)
    truth_MT, a_MT = normal(generator, 24, 6, 0.7)
    b_MT = a_MT + 0.05 * generator.standard_normal(a_MT.shape)
    difference = paired_difference(a_MT, b_MT, truth_MT)
    one = mean_spearman(a_MT, truth_MT)
    assert difference.high - difference.low < (one.high - one.low) / 2
    back = paired_difference(b_MT, a_MT, truth_MT)
    assert [back.low, back.high] == pytest.approx(
        [-difference.high, -difference.low]
    )


@pytest.mark.parametrize("count", [12, 32])
def test_mean_pairs_covers(count):
    def ask(generator):
        truth_MT, predicted_MT = normal(generator, count, 6, 0.8)
        return mean_pairs(predicted_MT, truth_MT)

    # The chance that two pairs of a normal law are in the same order.
    covered, _ = coverage(ask, 0.5 + np.arcsin(0.8) / np.pi)
    assert LEAST < covered < MOST


def test_a_higher_level_and_fewer_truths_widen():
    truth_MT, predicted_MT = normal(np.random.default_rng(6), 48, 6, 0.7)
    lengths = [
        found.high - found.low
        for found in (
            mean_spearman(predicted_MT, truth_MT, level=0.5),
            mean_spearman(predicted_MT, truth_MT),
            mean_spearman(predicted_MT[:12], truth_MT[:12]),
        )
    ]
    assert lengths == sorted(lengths) and lengths[0] < lengths[1] / 2


def test_no_interval_below_twelve_truths():
    truth_MT, a_MT, b_MT = normal(np.random.default_rng(7), 12, 2, 0.7, 0.5)
    for ask in (
        lambda m: mean_spearman(a_MT[:m], truth_MT[:m]),
        lambda m: mean_pairs(a_MT[:m], truth_MT[:m]),
        lambda m: paired_difference(a_MT[:m], b_MT[:m], truth_MT[:m]),
    ):
        few, enough = ask(11), ask(12)
        assert few.low is None and few.high is None
        assert np.isfinite(few.estimate)
        assert enough.low < enough.estimate < enough.high


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_order_is_not_certain(sign):
    truth_MT = np.random.default_rng(8).standard_normal((12, 2))
    found = mean_spearman(sign * truth_MT, truth_MT)
    assert found.estimate == pytest.approx(sign)
    low, high = sorted([sign * found.low, sign * found.high])
    assert 0.9 < low < 0.99 and high == pytest.approx(1)
    pairs = mean_pairs(sign * truth_MT, truth_MT)
    assert pairs.estimate == (sign + 1) / 2
    assert 0 < pairs.high - pairs.low < 0.1


def test_an_order_wrong_in_neighbours_only():
    """Perfect to the unbiased estimate, which then says nothing of spread."""
    truth_MT = np.arange(12.0)[:, None]
    predicted_MT = truth_MT.copy()
    predicted_MT[[3, 4]] = predicted_MT[[4, 3]]
    unbiased = spearman_statistic(predicted_MT, truth_MT, True)
    assert unbiased(np.ones((1, 12)))[0] == pytest.approx(1)
    found = mean_spearman(predicted_MT, truth_MT)
    assert found.estimate == pytest.approx(1 - 12 / (12 * 143))
    assert 0.8 < found.low < found.estimate < found.high < 1


def test_no_interval_where_a_predictor_says_nothing():
    truth_MT, a_MT = normal(np.random.default_rng(9), 16, 2, 0.7)
    once_MT = np.zeros((16, 2))
    assert np.isnan(mean_spearman(once_MT, truth_MT).estimate)
    once_MT[3] = 1  # all the same without the fourth
    for found in (
        mean_spearman(once_MT, truth_MT),
        paired_difference(a_MT, once_MT, truth_MT),
    ):
        assert np.isfinite(found.estimate)
        assert found.low is None and found.high is None


def test_a_planted_law_gives_its_correlations_back():
    truth_MT, a_MT, b_MT = normal(np.random.default_rng(10), 128, 12, 0.9, 0.5)
    level = 0.999  # one sample: it is not to be the one of twenty
    for found, value in (
        (mean_spearman(a_MT, truth_MT, level), rank(0.9)),
        (mean_spearman(b_MT, truth_MT, level), rank(0.5)),
        (
            paired_difference(a_MT, b_MT, truth_MT, level),
            rank(0.9) - rank(0.5),
        ),
        (
            mean_pairs(a_MT, truth_MT, level=level),
            0.5 + np.arcsin(0.9) / np.pi,
        ),
    ):
        assert found.estimate == pytest.approx(value, abs=0.1)
        assert found.low < value < found.high < found.low + 0.3


def test_of_any_figure():
    """A mean within wide bounds: Student's interval, near enough."""
    x_M = np.random.default_rng(11).standard_normal(20)

    def mean_J(count_JM):
        return count_JM @ x_M / count_JM.sum(axis=1)

    found = interval(mean_J, 20, (-1e3, 1e3), level=0.9)
    low, high = scipy.stats.t.interval(
        0.9, 19, x_M.mean(), x_M.std(ddof=1) / np.sqrt(20)
    )
    assert isinstance(found, Interval) and found.level == 0.9
    assert [found.low, found.high] == pytest.approx([low, high], abs=1e-4)
