"""How well predicted losses agree with those of models really trained.

Everything is within one target (a domain, or a macro over domains): pooling
easy and hard evaluation sets inflates any correlation. Beside each predictor
stand rules that look at the weights alone, and the noise that replicates show.

Intervals say what a sample of runs says about all runs of its sampling
distribution. They leave out one run at a time, for all targets together: its
noise hits every domain. Values are compared on Fisher's scale, which has no
bounds. Measured in `benchmarks/coverage.py` beside what was not chosen
(bootstraps, which sit low where correlations are high, and Bonett and Wright's
variance, which needs a normal distribution). Nothing tried covers the gain of a
choice, which depends on one run: it has no interval.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from jaxsim.validation.measured import PREDICTORS, Targets

# Below this many runs an interval on a rank correlation says nothing; the
# points are printed instead.
ENOUGH_RUNS = 12
# A target with a lower ceiling says little: it is shown as below the noise floor.
BELOW_NOISE = 0.9
ENOUGH_PAIRS = 3  # of replicates, for an interval

# Rules that know nothing of any model: what a predictor must beat. In small
# prototypes "is the domain's own partition in the mixture?" predicted
# per-domain losses as well as any predictor, and the evenness of the weights ranked
# the in-pool macro nearly as well. Only text from outside the pool can show
# what a predictor knows, so every agreement table has these rules as rows.
CHANCE = "random"
RULES = (
    "membership",
    "own weight",
    "closeness",
    "best single weight",
    "number of units",
    CHANCE,
)

# Takes [J, M] counts of M runs in J samples, and gives the values [J].
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """One predictor against the runs of one target; NaN is undefined.

    Attributes:
      spearman, pearson: correlations of these runs.
      interval: of the Spearman correlation of their distribution at 95 %, from
        12 runs on.
      pairs: share of pairs in the right order; a tie, in predictions or
        losses, counts half.
      pairs_mixed, pairs_in, pairs_out: the same for pairs of which one, both
        or none has the domain's own partition in it.
      slope, offset: of loss on prediction, by least squares.
      regret: loss of the run that the prediction would choose, minus the
        lowest one. Where predictions tie, the mean over them is chosen.
      gain: mean loss of all runs minus that of the chosen one. It depends on
        one run, so it has no interval.
      gain_share: of the gain that choosing the best run would bring.
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
    predicted_M: np.ndarray, reference_M: np.ndarray, in_M: np.ndarray | None
) -> Agreement:
    """Compares predictions with the losses of trained models.

    Args:
      predicted_M: any scale, lower is better.
      reference_M: losses.
      in_M: bool, mixtures that hold the target's own partition with at least
        1/C; None where there is none.
    """
    varies = np.ptp(predicted_M) > 0 and np.ptp(reference_M) > 0  # not if NaN
    spearman = pearson = slope = offset = float("nan")
    bounds = None
    if varies and len(reference_M) > 2:
        pair = predicted_M[:, None], reference_M[:, None]
        spearman = sample_spearman(*pair)
        pearson = float(np.corrcoef(predicted_M, reference_M)[0, 1])
        slope, offset = np.polyfit(predicted_M, reference_M, 1)
        bounds = mean_spearman(*pair).bounds
    right, kinds = _pairs(predicted_M, reference_M, in_M)
    chosen = _mean(reference_M[predicted_M == predicted_M.min()])
    gain, most = reference_M.mean() - chosen, reference_M.mean() - reference_M.min()
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
        regret=float(chosen - reference_M.min()),
        gain=float(gain),
        gain_share=float(gain / most) if np.ptp(reference_M) else float("nan"),
    )


def guessing(reference_M: np.ndarray) -> Agreement:
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
        regret=float(reference_M.mean() - reference_M.min()),
        gain=0.0,
        gain_share=0.0 if np.ptp(reference_M) else nan,
    )


def _pairs(
    predicted_M: np.ndarray, reference_M: np.ndarray, in_M: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """For each pair: right (1, 0, or a split for a tie), and how many are in."""
    i, j = np.triu_indices(len(reference_M), 1)
    product = np.sign(predicted_M[i] - predicted_M[j]) * np.sign(
        reference_M[i] - reference_M[j]
    )
    right = (product + 1) / 2
    if in_M is None:
        return right, np.full(len(i), -1)
    return right, in_M[i].astype(int) + in_M[j].astype(int)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def predictions(
    w_MC: np.ndarray,
    own_C: np.ndarray | None,
    choose: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, np.ndarray]:
    """What each rule predicts: a loss for each mixture; lower is better.

    Args:
      w_MC: weights.
      own_C: bool, the units of the domain's own partition; None for text from
        outside the pool and for a macro: membership and own weight are blank.
      choose: weights [F, C] and losses [F] of the runs that the best single
        weight is picked on, which are not those it is judged on. It is blank
        where this is None or tells no weight from another.

    Returns:
      By rule, [M] float64; "random" predicts nothing.
    """
    c = w_MC.shape[1]
    rules = {}
    if own_C is not None:
        own_M = w_MC[:, own_C].sum(axis=1)
        rules["membership"] = -is_in(w_MC, own_C).astype(float)
        rules["own weight"] = -own_M
        aim_C = own_C / own_C.sum()
    else:
        aim_C = np.full(c, 1 / c)
    rules["closeness"] = np.linalg.norm(w_MC - aim_C, axis=1)
    best = None if choose is None else _best_weight(*choose)
    if best is not None:
        column, sign = best
        rules["best single weight"] = sign * w_MC[:, column]
    rules["number of units"] = -np.count_nonzero(w_MC, axis=1).astype(float)
    return rules


def is_in(w_MC: np.ndarray, own_C: np.ndarray) -> np.ndarray:
    """[M] bool: mixtures that hold the own partition with at least 1/C."""
    # Weights of a user's file may have six decimals, and those of ours have.
    held: np.ndarray = w_MC[:, own_C].sum(axis=1) >= 1 / w_MC.shape[1] - 1e-5
    return held


def _best_weight(w_FC: np.ndarray, loss_F: np.ndarray) -> tuple[int, float] | None:
    """The column most correlated with the losses, and the sign of it.

    A weight may hurt: then less of it is the rule. Two runs correlate
    perfectly with anything, so it takes three.
    """
    if len(loss_F) < 3 or not np.ptp(loss_F):
        return None
    off_FC, off_F = w_FC - w_FC.mean(axis=0), loss_F - loss_F.mean()
    spread_C = np.linalg.norm(off_FC, axis=0)
    correlation_C = np.divide(
        off_F @ off_FC,
        spread_C * np.linalg.norm(off_F),
        out=np.zeros(w_FC.shape[1]),
        where=spread_C > 1e-12,
    )
    column = int(np.argmax(np.abs(correlation_C)))
    sign = float(np.sign(correlation_C[column]))
    return (column, sign) if sign else None


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and where the value of the distribution lies, at a level.

    Correlations are corrected for the number of runs, so the estimate can
    differ from the sample's own figure. `low` and `high` are None with too few
    runs, or where the estimate is undefined with all or without one.
    """

    estimate: float
    low: float | None
    high: float | None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Both ends, if there are any."""
        if self.low is None or self.high is None:
            return None
        return self.low, self.high


def mean_spearman(
    predicted_MT: np.ndarray, reference_MT: np.ndarray, level: float = 0.95
) -> Interval:
    """The mean over T targets of the distribution's Spearman correlation.

    The sample's own correlation lies below that of its distribution: at 0.9 by
    0.04 with 12 runs and 0.02 with 32, and a mean over targets shows it. So the
    estimate is the unbiased one (Hoeffding 1948).
    """
    return _jackknife(_spearman(predicted_MT, reference_MT), level)


def paired_difference(
    a_MT: np.ndarray,
    b_MT: np.ndarray,
    reference_MT: np.ndarray,
    level: float = 0.95,
) -> Interval:
    """Mean Spearman of a minus that of b over T targets, on the same runs.

    Zou (2007): the distance of each end comes from the intervals of both
    means, which are skewed, and from their correlation, which the runs left
    out together give.
    """
    a_J, b_J = _spearman(a_MT, reference_MT), _spearman(b_MT, reference_MT)
    a, b = _jackknife(a_J, level), _jackknife(b_J, level)
    difference = a.estimate - b.estimate
    if a.bounds is None or b.bounds is None:
        return Interval(difference, None, None)
    (a_low, a_high), (b_low, b_high) = a.bounds, b.bounds
    alike = 0.0
    if np.ptp(a_J[1:]) > 0 and np.ptp(b_J[1:]) > 0:
        alike = float(np.corrcoef(a_J[1:], b_J[1:])[0, 1])

    def away(of_a: float, of_b: float) -> float:
        square = of_a**2 + of_b**2 - 2 * alike * of_a * of_b
        return float(np.sqrt(max(square, 0.0)))

    low = difference - away(a.estimate - a_low, b_high - b.estimate)
    high = difference + away(a_high - a.estimate, b.estimate - b_low)
    return Interval(difference, low, high)


def sample_spearman(predicted_MT: np.ndarray, reference_MT: np.ndarray) -> float:
    """The mean over T targets of the sample's own Spearman correlation."""
    all_JM = np.ones((1, len(reference_MT)))
    return float(spearman_statistic(predicted_MT, reference_MT, False)(all_JM)[0])


def spearman_statistic(
    predicted_MT: np.ndarray, reference_MT: np.ndarray, unbiased: bool
) -> Statistic:
    """The mean over targets of Spearman's correlation, ties at average ranks.

    It is a sum over i, j, k of sign(x_i - x_j) sign(y_i - y_k). Those with
    j = k belong to Kendall's correlation: without them each term is, on
    average, what it is in the distribution (Hoeffding 1948, section 9).
    """
    x_MMT, y_MMT = _signs(predicted_MT), _signs(reference_MT)

    def value_J(count_JM: np.ndarray) -> np.ndarray:
        xy, xx, yy = (
            _products(count_JM, p, q, unbiased)
            for p, q in ((x_MMT, y_MMT), (x_MMT, x_MMT), (y_MMT, y_MMT))
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_J: np.ndarray = (xy / np.sqrt(xx * yy)).mean(axis=1)
        return mean_J

    return value_J


def _spearman(predicted_MT: np.ndarray, reference_MT: np.ndarray) -> np.ndarray:
    """[1 + M] mean correlations: of all runs, and without each."""
    count = len(reference_MT)
    without_JM = np.vstack([np.ones(count), 1 - np.eye(count)])
    value_J = spearman_statistic(predicted_MT, reference_MT, True)(without_JM)
    if abs(value_J[0]) > 1 - 1e-9:
        # An order wrong in nothing but neighbors is perfect to the unbiased
        # estimate, and leaves it no spread to judge by.
        value_J = spearman_statistic(predicted_MT, reference_MT, False)(without_JM)
    return value_J


def _jackknife(value_J: np.ndarray, level: float) -> Interval:
    """An interval by the jackknife, with Student's t, on Fisher's scale.

    Tukey (1958).

    Args:
      value_J: correlations of all runs, and of those without each.
      level: share of samples whose interval holds the distribution's value.
    """
    count = len(value_J) - 1
    estimate = float(value_J[0])
    if count < ENOUGH_RUNS or not np.isfinite(value_J).all():
        return Interval(estimate, None, None)
    # On Fisher's scale 1 is infinite: half the least step of a rank correlation
    # below it. Nearer to 1, one swap of neighbors would decide the interval.
    most = 1 - 6 / count**3
    r_J = np.clip(value_J, -most, most)
    # The spread is measured on the plain scale and carried over: one run
    # without which all others agree would decide it on Fisher's.
    error = np.sqrt((count - 1) * np.var(r_J[1:])) / (1 - r_J[0] ** 2)
    if abs(estimate) >= most:
        # All is right, so nothing varies: the error under a normal
        # distribution (Bonett and Wright 2000, at a correlation of 1).
        error = np.sqrt(1.5 / (count - 3))
    reach = scipy.stats.t.ppf((1 + level) / 2, count - 1) * error
    low, high = np.tanh(np.arctanh(r_J[0]) + np.array([-reach, reach]))
    low, high = min(low, estimate), max(high, estimate)
    return Interval(estimate, float(low), float(high))


def _signs(x_MT: np.ndarray) -> np.ndarray:
    """[M, M, T] sign(x_i - x_j)."""
    signs: np.ndarray = np.sign(x_MT[:, None] - x_MT[None])
    return signs


def _sums(count_JM: np.ndarray, x_MMT: np.ndarray) -> np.ndarray:
    """[J, M, T] sums over the runs of each sample."""
    return np.tensordot(count_JM, x_MMT, axes=(1, 1))


def _products(
    count_JM: np.ndarray, x_MMT: np.ndarray, y_MMT: np.ndarray, unbiased: bool
) -> np.ndarray:
    """[J, T] sums over i, j, k of x_ij y_ik; unbiased: without j = k."""
    sums_JMT = _sums(count_JM, x_MMT) * _sums(count_JM, y_MMT)
    if unbiased:
        sums_JMT = sums_JMT - _sums(count_JM, x_MMT * y_MMT)
    return np.einsum("jm,jmt->jt", count_JM, sums_JMT)


def replicate_noise(first_P: np.ndarray, second_P: np.ndarray) -> float:
    """Standard deviation of a run's noise, as far as it differs between runs.

    Half the variance of the differences of P pairs is its square. All first
    runs share one order of every unit's data and all replicates another, so
    part of a difference is the same for all pairs: it changes neither a rank
    nor a correlation, and is no noise here. A single pair cannot tell it apart.
    """
    off_P = second_P - first_P
    if len(off_P) < 2:
        return float(np.sqrt(np.mean(off_P**2) / 2))
    return float(np.sqrt(np.var(off_P, ddof=1) / 2))


def noise_ceiling(
    reference_M: np.ndarray,
    first_P: np.ndarray,
    second_P: np.ndarray,
    level: float = 0.95,
) -> Interval:
    """The highest Pearson correlation that noise allows to a predictor.

    That of one without noise: sqrt(1 - s2_replicate / s2_reference), and 0 if
    noise is all there is. The variances have P - 1 and M - 1 degrees of
    freedom, so under normality their mixture over the distribution's follows
    Fisher's F. Where losses or noise have heavy tails or much skew, it covers
    less.

    Args:
      reference_M: losses of all reference runs, with their noise.
      first_P, second_P: losses of runs and of their replicates.
      level: of the interval; there is none with fewer than three pairs or
        three runs.
    """
    pairs, reference_runs = len(first_P), len(reference_M)
    if reference_runs < 2 or not np.ptp(reference_M):
        return Interval(0.0, None, None)
    s2_reference = np.var(reference_M, ddof=1)
    mixture = float(replicate_noise(first_P, second_P) ** 2 / s2_reference)
    if pairs < ENOUGH_PAIRS or reference_runs < 3:
        return Interval(_ceiling(mixture), None, None)
    distribution = scipy.stats.f(pairs - 1, reference_runs - 1)
    low = _ceiling(mixture / distribution.ppf((1 - level) / 2))
    high = _ceiling(mixture / distribution.ppf((1 + level) / 2))
    return Interval(_ceiling(mixture), low, high)


def _ceiling(mixture: float) -> float:
    return float(np.sqrt(max(0.0, 1 - mixture)))


def corrected(correlation: float, ceiling: float) -> float:
    """A correlation divided by its ceiling; NaN where it is below the noise floor."""
    if not ceiling >= BELOW_NOISE:
        return float("nan")
    return correlation / ceiling


def claims(
    targets: Targets,
    points: Mapping[str, Mapping[str, np.ndarray]],
    rules: Mapping[str, Mapping[str, np.ndarray]],
    ceilings: Mapping[str, Interval],
) -> list[dict[str, Any]]:
    """For each kind of domain and predictor, how it stands to the rules.

    Over the domains of the kind that are not below the noise floor: the mean Spearman
    correlation, the mean ceiling, the best weight-only baselines, and the
    paired difference to it, with intervals that leave one run out at a time.
    """
    found = []
    for kind in ("out-of-pool", "in-pool"):
        names = [
            name
            for name, (k, _) in targets.items()
            if k == kind
            and (name not in ceilings or ceilings[name].estimate >= BELOW_NOISE)
        ]
        if not names:
            continue
        reference_MT = _columns(points["reference"], names)
        known_rules = {
            rule: np.stack([rules[name][rule] for name in names], axis=1)
            for rule in rules[names[0]]
            if all(rule in rules[name] for name in names)
        }
        rule = best_rule(known_rules, reference_MT)
        if rule is not None and (
            mean_spearman(known_rules[rule], reference_MT).estimate < 0
        ):
            rule = CHANCE  # where every rule is worse, chance is to be beaten
        for predictor in PREDICTORS:
            if predictor not in points:
                continue
            predicted_MT = _columns(points[predictor], names)
            if not np.isfinite(predicted_MT).all():
                continue
            value = mean_spearman(predicted_MT, reference_MT)
            ceiling = [ceilings[n].estimate for n in names if ceilings]
            found.append(
                {
                    "kind": kind,
                    "predictor": predictor,
                    "targets": names,
                    "ceiling": float(np.mean(ceiling)) if ceiling else None,
                    "rule": rule,
                    "spearman": value.estimate,
                    "spearman_interval": _ends(value),
                    **_gain(predicted_MT, value, known_rules, rule, reference_MT),
                }
            )
    return found


def best_rule(rules: Mapping[str, np.ndarray], reference_MT: np.ndarray) -> str | None:
    """The one rule with the highest mean Spearman over T targets.

    It is picked in hindsight, on the runs it is judged on: the hardest one
    to beat.

    Args:
      rules: [M, T] predicted losses by name. A rule that is undefined (NaN, or
        the same everywhere) on any target takes no part.
      reference_MT: losses.

    Returns:
      The first of the best; None where no rule is defined on all targets.
    """
    means = {
        name: sample_spearman(rule_MT, reference_MT) for name, rule_MT in rules.items()
    }
    defined = {name: mean for name, mean in means.items() if np.isfinite(mean)}
    return max(defined, key=lambda name: defined[name], default=None)


def _gain(
    predicted_MT: np.ndarray,
    value: Interval,
    rules: Mapping[str, np.ndarray],
    rule: str | None,
    reference_MT: np.ndarray,
) -> dict[str, Any]:
    """The predictor's mean correlation `value` minus the rule's."""
    if rule is None:
        return {"rule_spearman": None, "gain": None, "gain_interval": None}
    gain, of_rule = value, 0.0
    if rule != CHANCE:
        gain = paired_difference(predicted_MT, rules[rule], reference_MT)
        of_rule = mean_spearman(rules[rule], reference_MT).estimate
    return {
        "rule_spearman": of_rule,
        "gain": gain.estimate,
        "gain_interval": _ends(gain),
    }


def _ends(value: Interval) -> list[float] | None:
    return None if value.bounds is None else list(value.bounds)


def _columns(by_target: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    return np.stack([by_target[name] for name in names], axis=1)
