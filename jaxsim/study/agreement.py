"""How well predicted losses agree with those of models really trained.

Everything is within one target (a domain, or a macro over domains): pooling
easy and hard evaluation sets inflates any correlation.
"""

import dataclasses

import numpy as np
import scipy.stats

# Below this many truths an interval on a rank correlation says nothing; the
# points are printed instead.
ENOUGH_TRUTHS = 12


@dataclasses.dataclass(frozen=True)
class Agreement:
    """One predictor against the truths of one target; NaN is undefined.

    Attributes:
      spearman, pearson: correlations.
      interval: of the Spearman correlation at 95 %, from 12 truths on.
      pairs: share of pairs in the right order; a tie, in predictions or
        truths, counts half.
      pairs_mixed, pairs_in, pairs_out: the same for pairs of which one, both
        or none has the domain's own partition in it.
      slope, offset: of truth on prediction, by least squares.
      regret: loss of the truth that the prediction would choose, minus the
        lowest one.
    """

    spearman: float
    interval: tuple[float, float] | None
    pearson: float
    pairs: float
    pairs_mixed: float
    pairs_in: float
    pairs_out: float
    slope: float
    offset: float
    regret: float


def agreement(
    predicted_M: np.ndarray, truth_M: np.ndarray, in_M: np.ndarray | None
) -> Agreement:
    """Compares predictions with truths.

    Args:
      predicted_M: any scale, lower is better.
      truth_M: losses.
      in_M: bool, mixtures that hold the target's own partition with at least
        1/C; None where there is none.
    """
    constant = np.ptp(predicted_M) == 0 or np.ptp(truth_M) == 0
    spearman = pearson = slope = offset = float("nan")
    if not constant and len(truth_M) > 2:
        spearman = float(scipy.stats.spearmanr(predicted_M, truth_M).statistic)
        pearson = float(np.corrcoef(predicted_M, truth_M)[0, 1])
        slope, offset = np.polyfit(predicted_M, truth_M, 1)
    right, kinds = _pairs(predicted_M, truth_M, in_M)
    chosen = truth_M[predicted_M == predicted_M.min()].mean()
    return Agreement(
        spearman=spearman,
        interval=spearman_interval(spearman, len(truth_M)),
        pearson=pearson,
        pairs=_mean(right),
        pairs_mixed=_mean(right[kinds == 1]),
        pairs_in=_mean(right[kinds == 2]),
        pairs_out=_mean(right[kinds == 0]),
        slope=float(slope),
        offset=float(offset),
        regret=float(chosen - truth_M.min()),
    )


def spearman_interval(correlation: float, n: int) -> tuple[float, float] | None:
    """95 % by Fisher's z with the variance of Bonett and Wright (2000).

    Their (1 + r^2 / 2) / (n - 3) keeps its level in small samples, where a
    percentile bootstrap sits low. None below 12 truths.
    """
    if n < ENOUGH_TRUTHS or not np.isfinite(correlation):
        return None
    r = min(max(correlation, -1 + 1e-9), 1 - 1e-9)
    half = 1.959964 * np.sqrt((1 + r**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(r) + np.array([-half, half]))
    return float(low), float(high)


def noise_ceiling(
    truth_M: np.ndarray, first_P: np.ndarray, second_P: np.ndarray
) -> float:
    """The highest correlation that repeat noise allows.

    Args:
      truth_M: losses of all truths.
      first_P, second_P: losses of runs and of their repeats.

    Returns:
      sqrt(1 - s2_repeat / s2_truth), and 0 if noise is all there is.
    """
    if len(truth_M) < 2 or not np.ptp(truth_M):
        return 0.0
    s2_repeat = np.mean((first_P - second_P) ** 2) / 2
    s2_truth = np.var(truth_M, ddof=1)
    return float(np.sqrt(max(0.0, 1 - s2_repeat / s2_truth)))


def _pairs(
    predicted_M: np.ndarray, truth_M: np.ndarray, in_M: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """For each pair: right (1, 0, or a half for a tie), and how many are in."""
    i, j = np.triu_indices(len(truth_M), 1)
    product = np.sign(predicted_M[i] - predicted_M[j]) * np.sign(
        truth_M[i] - truth_M[j]
    )
    right = (product + 1) / 2
    if in_M is None:
        return right, np.full(len(i), -1)
    return right, in_M[i].astype(int) + in_M[j].astype(int)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
