"""How well predicted losses agree with those of models really trained.

Everything is within one target (a domain, or a macro over domains): pooling
easy and hard evaluation sets inflates any correlation.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxsim.study.intervals import ENOUGH_TRUTHS as ENOUGH_TRUTHS
from jaxsim.study.intervals import mean_spearman, spearman_statistic


@dataclasses.dataclass(frozen=True)
class Agreement:
    """One predictor against the truths of one target; NaN is undefined.

    Attributes:
      spearman, pearson: correlations of these truths.
      interval: of the Spearman correlation of their law at 95 %, from 12
        truths on.
      pairs: share of pairs in the right order; a tie, in predictions or
        truths, counts half.
      pairs_mixed, pairs_in, pairs_out: the same for pairs of which one, both
        or none has the domain's own partition in it.
      slope, offset: of truth on prediction, by least squares.
      regret: loss of the truth that the prediction would choose, minus the
        lowest one. Where predictions tie, the mean over them is chosen.
      gain: mean loss of all truths minus that of the chosen one. It hangs on
        one truth, so it has no interval.
      gain_share: of the gain that choosing the best truth would bring.
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
    gain: float
    gain_share: float


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
    varies = np.ptp(predicted_M) > 0 and np.ptp(truth_M) > 0  # not if NaN
    spearman = pearson = slope = offset = float("nan")
    bounds = None
    if varies and len(truth_M) > 2:
        pair = predicted_M[:, None], truth_M[:, None]
        all_JM = np.ones((1, len(truth_M)))
        spearman = float(spearman_statistic(*pair, False)(all_JM)[0])
        pearson = float(np.corrcoef(predicted_M, truth_M)[0, 1])
        slope, offset = np.polyfit(predicted_M, truth_M, 1)
        law = mean_spearman(*pair)
        if law.low is not None and law.high is not None:
            bounds = law.low, law.high
    right, kinds = _pairs(predicted_M, truth_M, in_M)
    chosen = _mean(truth_M[predicted_M == predicted_M.min()])
    gain, most = truth_M.mean() - chosen, truth_M.mean() - truth_M.min()
    return Agreement(
        spearman=spearman,
        interval=bounds,
        pearson=pearson,
        pairs=_mean(right),
        pairs_mixed=_mean(right[kinds == 1]),
        pairs_in=_mean(right[kinds == 2]),
        pairs_out=_mean(right[kinds == 0]),
        slope=float(slope),
        offset=float(offset),
        regret=float(chosen - truth_M.min()),
        gain=float(gain),
        gain_share=float(gain / most) if np.ptp(truth_M) else float("nan"),
    )


def guessing(truth_M: np.ndarray) -> Agreement:
    """What a random order gives on average; nothing is drawn."""
    nan = float("nan")
    return Agreement(
        spearman=0.0,
        interval=None,
        pearson=0.0,
        pairs=0.5,
        pairs_mixed=0.5,
        pairs_in=0.5,
        pairs_out=0.5,
        slope=nan,
        offset=nan,
        regret=float(truth_M.mean() - truth_M.min()),
        gain=0.0,
        gain_share=0.0 if np.ptp(truth_M) else nan,
    )


def best_rule(
    rules: Mapping[str, np.ndarray], truth_MT: np.ndarray
) -> str | None:
    """The one rule with the highest mean Spearman over T targets.

    It is picked in hindsight, on the truths it is judged on: the hardest one
    to beat.

    Args:
      rules: [M, T] predicted losses by name. A rule that is undefined (NaN, or
        the same everywhere) on any target takes no part.
      truth_MT: losses.

    Returns:
      The first of the best; None where no rule is defined on all targets.
    """
    all_JM = np.ones((1, len(truth_MT)))
    means = {
        name: float(spearman_statistic(rule_MT, truth_MT, False)(all_JM)[0])
        for name, rule_MT in rules.items()
    }
    defined = {name: mean for name, mean in means.items() if np.isfinite(mean)}
    return max(defined, key=lambda name: defined[name], default=None)


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
