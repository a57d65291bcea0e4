"""What repeats say: the noise of a run, and how high it lets agreement be."""

import numpy as np
import scipy.stats

from jaxsim.study.agreement import Agreement, agreement
from jaxsim.study.intervals import Interval

# A target with a lower ceiling says little: it is shown as noise-bound.
NOISE_BOUND = 0.9
ENOUGH_PAIRS = 3  # of repeats, for an interval


def repeat_noise(first_P: np.ndarray, second_P: np.ndarray) -> float:
    """Standard deviation of a run's noise, as far as it differs between runs.

    Half the variance of the differences of P pairs is its square. All first
    runs share one order of every unit's data and all repeats another, so part
    of a difference is the same for all pairs: it changes neither a rank nor a
    correlation, and is no noise here. A single pair cannot tell it apart.
    """
    off_P = second_P - first_P
    if len(off_P) < 2:
        return float(np.sqrt(np.mean(off_P**2) / 2))
    return float(np.sqrt(np.var(off_P, ddof=1) / 2))


def noise_ceiling(
    truth_M: np.ndarray,
    first_P: np.ndarray,
    second_P: np.ndarray,
    level: float = 0.95,
) -> Interval:
    """The highest Pearson correlation that repeat noise allows to a proxy.

    That of a proxy without noise: sqrt(1 - s2_repeat / s2_truth), and 0 if
    noise is all there is. The variances have P - 1 and M - 1 degrees of
    freedom, so under normality their ratio over the law's follows Fisher's F.
    Where truths or noise have heavy tails or much skew, it covers less.

    Args:
      truth_M: losses of all truths, with their noise.
      first_P, second_P: losses of runs and of their repeats.
      level: of the interval; there is none with fewer than three pairs or
        three truths.
    """
    pairs, truths = len(first_P), len(truth_M)
    if truths < 2 or not np.ptp(truth_M):
        return Interval(0.0, None, None, level)
    s2_truth = np.var(truth_M, ddof=1)
    ratio = float(repeat_noise(first_P, second_P) ** 2 / s2_truth)
    if pairs < ENOUGH_PAIRS or truths < 3:
        return Interval(_ceiling(ratio), None, None, level)
    law = scipy.stats.f(pairs - 1, truths - 1)
    low = _ceiling(ratio / law.ppf((1 - level) / 2))
    high = _ceiling(ratio / law.ppf((1 + level) / 2))
    return Interval(_ceiling(ratio), low, high, level)


def corrected(correlation: float, ceiling: float) -> float:
    """A correlation divided by its ceiling; NaN where it is noise-bound."""
    if not ceiling >= NOISE_BOUND:
        return float("nan")
    return correlation / ceiling


def repeat_agreement(
    first_P: np.ndarray, second_P: np.ndarray, in_P: np.ndarray | None
) -> Agreement:
    """How well truths agree with their own repeats, over the repeated ones.

    The reference for a proxy's pair accuracies on the same truths. It is no
    upper bound: a repeat brings noise of its own, so its Pearson correlation
    is near the ceiling squared, and a proxy without noise can beat it.

    Args:
      first_P: losses of runs: what is predicted.
      second_P: losses of their repeats: what predicts.
      in_P: bool, runs that hold the target's own partition with at least
        1/C; None where there is none.
    """
    return agreement(second_P, first_P, in_P)


def _ceiling(ratio: float) -> float:
    return float(np.sqrt(max(0.0, 1 - ratio)))
