"""Intervals of what a sample of truths says about all truths of its law.

One truth is left out at a time, for all targets together: its noise hits every
domain. Values are compared on Fisher's scale, which has no bounds. Measured in
`benchmarks/coverage.py` beside what was not chosen (bootstraps, which sit low
where correlations are high, and Bonett and Wright's variance, which needs a
normal law). Nothing tried covers the gain of a choice, which hangs on one
truth: it has no interval.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.stats

# Below this many truths an interval on a rank correlation says nothing; the
# points are printed instead.
ENOUGH_TRUTHS = 12

# Of [J, M] counts of M truths in J samples, the values [J].
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and where the value of the law lies, at a level.

    Correlations are corrected for the number of truths, so the estimate can
    differ from the sample's own figure. `low` and `high` are None with too few
    truths, or where the estimate is undefined with all or without one.
    """

    estimate: float
    low: float | None
    high: float | None
    level: float


def interval(
    statistic: Statistic,
    count: int,
    bounds: tuple[float, float],
    level: float = 0.95,
) -> Interval:
    """By the jackknife, with Student's t (Tukey 1958), on Fisher's scale.

    Args:
      statistic: of [J, M] counts: 0 leaves a truth out.
      count: M.
      bounds: of the statistic.
      level: share of samples whose interval holds the law's value.
    """
    return _jackknife(statistic(_without_one(count)), bounds, level)


def mean_spearman(
    predicted_MT: np.ndarray, truth_MT: np.ndarray, level: float = 0.95
) -> Interval:
    """Of the mean over T targets of the law's Spearman correlation.

    The sample's own correlation lies below that of the law: at 0.9 by 0.04
    with 12 truths and 0.02 with 32, and a mean over targets shows it. So the
    estimate is the unbiased one (Hoeffding 1948).
    """
    return _jackknife(_spearman(predicted_MT, truth_MT), (-1.0, 1.0), level)


def mean_pairs(
    predicted_MT: np.ndarray,
    truth_MT: np.ndarray,
    among_MMT: np.ndarray | None = None,
    level: float = 0.95,
) -> Interval:
    """Of the mean over T targets of the share of pairs in the right order.

    Args:
      predicted_MT, truth_MT: losses; a tie in either counts half.
      among_MMT: bool, symmetric: the pairs that count for each target; None:
        all.
      level: of the interval.
    """
    statistic = pairs_statistic(predicted_MT, truth_MT, among_MMT)
    return interval(statistic, len(truth_MT), (0.0, 1.0), level)


def paired_difference(
    a_MT: np.ndarray,
    b_MT: np.ndarray,
    truth_MT: np.ndarray,
    level: float = 0.95,
) -> Interval:
    """Of mean Spearman of a minus that of b over T targets, same truths.

    Zou (2007): the distance of each end comes from the intervals of both
    means, which are skewed, and from their correlation, which the truths left
    out together give.
    """
    a_J, b_J = _spearman(a_MT, truth_MT), _spearman(b_MT, truth_MT)
    a = _jackknife(a_J, (-1.0, 1.0), level)
    b = _jackknife(b_J, (-1.0, 1.0), level)
    difference = a.estimate - b.estimate
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return Interval(difference, None, None, level)
    alike = 0.0
    if np.ptp(a_J[1:]) > 0 and np.ptp(b_J[1:]) > 0:
        alike = float(np.corrcoef(a_J[1:], b_J[1:])[0, 1])

    def away(of_a: float, of_b: float) -> float:
        square = of_a**2 + of_b**2 - 2 * alike * of_a * of_b
        return float(np.sqrt(max(square, 0.0)))

    low = difference - away(a.estimate - a.low, b.high - b.estimate)
    high = difference + away(a.high - a.estimate, b.estimate - b.low)
    return Interval(difference, low, high, level)


def spearman_statistic(
    predicted_MT: np.ndarray, truth_MT: np.ndarray, unbiased: bool
) -> Statistic:
    """Mean over targets of Spearman's correlation, ties at average ranks.

    It is a sum over i, j, k of sign(x_i - x_j) sign(y_i - y_k). Those with
    j = k belong to Kendall's correlation: without them each term is, on
    average, what it is in the law (Hoeffding 1948, section 9).
    """
    x_MMT, y_MMT = _signs(predicted_MT), _signs(truth_MT)

    def value_J(count_JM: np.ndarray) -> np.ndarray:
        xy, xx, yy = (
            _products(count_JM, p, q, unbiased)
            for p, q in ((x_MMT, y_MMT), (x_MMT, x_MMT), (y_MMT, y_MMT))
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_J: np.ndarray = (xy / np.sqrt(xx * yy)).mean(axis=1)
        return mean_J

    return value_J


def pairs_statistic(
    predicted_MT: np.ndarray,
    truth_MT: np.ndarray,
    among_MMT: np.ndarray | None,
) -> Statistic:
    """Mean over targets of the share of pairs in the right order."""
    right_MMT = (_signs(predicted_MT) * _signs(truth_MT) + 1) / 2
    among = np.ones_like(right_MMT) if among_MMT is None else among_MMT + 0.0
    # No truth is a pair with itself.
    among = among * (1 - np.eye(len(among)))[:, :, None]

    def value_J(count_JM: np.ndarray) -> np.ndarray:
        right_JT, all_JT = (
            np.einsum("jm,jmt->jt", count_JM, _sums(count_JM, of))
            for of in (right_MMT * among, among)
        )
        with np.errstate(invalid="ignore"):
            mean_J: np.ndarray = (right_JT / all_JT).mean(axis=1)
        return mean_J

    return value_J


def _spearman(predicted_MT: np.ndarray, truth_MT: np.ndarray) -> np.ndarray:
    """[1 + M] mean correlations: of all truths, and without each."""
    without_JM = _without_one(len(truth_MT))
    value_J = spearman_statistic(predicted_MT, truth_MT, True)(without_JM)
    if abs(value_J[0]) > 1 - 1e-9:
        # An order wrong in nothing but neighbours is perfect to the unbiased
        # estimate, and leaves it no spread to judge by.
        value_J = spearman_statistic(predicted_MT, truth_MT, False)(without_JM)
    return value_J


def _jackknife(
    value_J: np.ndarray, bounds: tuple[float, float], level: float
) -> Interval:
    """From the value of all truths and those without each."""
    count = len(value_J) - 1
    estimate = float(value_J[0])
    if count < ENOUGH_TRUTHS or not np.isfinite(value_J).all():
        return Interval(estimate, None, None, level)
    middle, half = (bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) / 2
    # On Fisher's scale 1 is infinite: half the least step of a rank correlation
    # below it. Nearer to 1, one swap of neighbours would decide the interval.
    most = 1 - 6 / count**3
    r_J = np.clip((value_J - middle) / half, -most, most)
    # The spread is measured on the plain scale and carried over: one truth
    # without which all others agree would decide it on Fisher's.
    error = np.sqrt((count - 1) * np.var(r_J[1:])) / (1 - r_J[0] ** 2)
    if abs(estimate - middle) >= half * most:
        # All is right, so nothing varies: the error under a normal law
        # (Bonett and Wright 2000, at a correlation of 1).
        error = np.sqrt(1.5 / (count - 3))
    reach = scipy.stats.t.ppf((1 + level) / 2, count - 1) * error
    low, high = middle + half * np.tanh(
        np.arctanh(r_J[0]) + np.array([-reach, reach])
    )
    low, high = min(low, estimate), max(high, estimate)
    return Interval(estimate, float(low), float(high), level)


def _without_one(count: int) -> np.ndarray:
    """[1 + M, M]: all truths, then all but each."""
    return np.vstack([np.ones(count), 1 - np.eye(count)])


def _signs(x_MT: np.ndarray) -> np.ndarray:
    """[M, M, T] sign(x_i - x_j)."""
    signs: np.ndarray = np.sign(x_MT[:, None] - x_MT[None])
    return signs


def _sums(count_JM: np.ndarray, x_MMT: np.ndarray) -> np.ndarray:
    """[J, M, T] sums over the truths of each sample."""
    return np.tensordot(count_JM, x_MMT, axes=(1, 1))


def _products(
    count_JM: np.ndarray, x_MMT: np.ndarray, y_MMT: np.ndarray, unbiased: bool
) -> np.ndarray:
    """[J, T] sums over i, j, k of x_ij y_ik; unbiased: without j = k."""
    sums_JMT = _sums(count_JM, x_MMT) * _sums(count_JM, y_MMT)
    if unbiased:
        sums_JMT = sums_JMT - _sums(count_JM, x_MMT * y_MMT)
    return np.einsum("jm,jmt->jt", count_JM, sums_JMT)
