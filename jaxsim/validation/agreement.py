"""How well predicted losses agree with those of models really trained.

All comparisons are within one target (a domain, or a macro over domains): pooling easy
and hard evaluation sets inflates any correlation. Beside the predictors stand rules
that look at the weights alone, and the noise that replicates show.

An interval says where the value for the sampling distribution of the runs lies.
`benchmarks/coverage.py` measures its coverage, and that of the alternatives.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import scipy.stats

from jaxsim.records import Row
from jaxsim.scoring.targets import Targets
from jaxsim.validation.measured import PREDICTORS

# With fewer runs an interval on a rank correlation says nothing; the points are
# printed instead.
ENOUGH_RUNS = 12
# A target with a lower ceiling says little: it is shown as below the noise floor.
BELOW_NOISE = 0.9
ENOUGH_PAIRS = 3  # of replicates, for an interval

# Rules that use no model: what a predictor must beat.
CHANCE = "random"
RULES = ("membership", "own weight", "closeness", "best single weight",
         "number of units", CHANCE)  # fmt: skip


class AgreementRow(TypedDict):
    """Predictions beside the losses of trained models; undefined is NaN, or null."""

    spearman: float | None  # correlations of these runs
    pearson: float | None
    # Of the distribution's Spearman correlation; see `mean_spearman`.
    interval: tuple[float, float] | None
    # Share of pairs in the right order; a tie counts as one half. Then the same for
    # pairs of which one, both or neither contains the domain's own partition.
    pairs: float | None
    pairs_mixed: float | None
    pairs_in: float | None
    pairs_out: float | None
    slope: float | None  # of loss on prediction, by least squares
    offset: float | None
    # Loss of the run that the prediction would choose, minus the lowest one. Where
    # predictions tie, it is the mean over them.
    regret: float | None
    gain: float | None  # mean loss of all runs minus that of the chosen one
    gain_share: float | None  # of the gain that choosing the best run would bring


class Claim(TypedDict):
    """A predictor, over the domains of a kind that are not below the noise floor."""

    kind: str
    predictor: str
    targets: list[str]
    ceiling: float | None  # mean
    joint_ceiling: float | None  # mean; with the noise of predictions
    rule: str | None  # the best weight-only baseline
    spearman: float | None  # mean
    spearman_interval: tuple[float, float] | None
    rule_spearman: float | None
    gain: float | None  # the difference to the rule
    gain_interval: tuple[float, float] | None


def agreement(
    predicted_M: np.ndarray, reference_M: np.ndarray, in_M: np.ndarray | None
) -> Row:
    """Compares predictions with the losses of trained models on one target.

    Args:
      predicted_M: any scale, lower is better.
      reference_M: losses.
      in_M: bool, mixtures with at least 1/C of the target's own partition; None
        where there is none.

    Returns:
      An `AgreementRow`.
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
    i, j = np.triu_indices(len(reference_M), 1)
    right_P = np.sign(predicted_M[i] - predicted_M[j])
    right_P = (right_P * np.sign(reference_M[i] - reference_M[j]) + 1) / 2
    inside_P = np.full(len(i), -1) if in_M is None else in_M[i].astype(int) + in_M[j]
    chosen = _mean(reference_M[predicted_M == predicted_M.min()])
    gain, most = reference_M.mean() - chosen, reference_M.mean() - reference_M.min()
    return {
        "spearman": spearman,
        "interval": bounds,
        "pearson": pearson,
        "pairs": _mean(right_P),
        "pairs_mixed": _mean(right_P[inside_P == 1]),
        "pairs_in": _mean(right_P[inside_P == 2]),
        "pairs_out": _mean(right_P[inside_P == 0]),
        "slope": float(slope),
        "offset": float(offset),
        "regret": float(chosen - reference_M.min()),
        "gain": float(gain),
        "gain_share": float(gain / most) if np.ptp(reference_M) else float("nan"),
    }


def guessing(reference_M: np.ndarray) -> Row:
    """What a random order gives on average; nothing is drawn."""
    # Equal predictions choose the mean over all runs, as a random order does.
    equal = agreement(np.zeros(len(reference_M)), reference_M, None)
    halves = ("pairs", "pairs_mixed", "pairs_in", "pairs_out")
    return equal | {"spearman": 0.0, "pearson": 0.0} | dict.fromkeys(halves, 0.5)


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
      own_C: bool, the units of the domain's own partition; None where there is none.
      choose: weights [F, C] and losses [F] of the runs that the best single
        weight is picked on. Without them, or where they do not tell the weights
        apart, the rule is left out.
    """
    rules = {}
    aim_C = np.ones(w_MC.shape[1])
    if own_C is not None:
        rules["membership"] = -is_in(w_MC, own_C).astype(float)
        rules["own weight"] = -w_MC[:, own_C].sum(axis=1)
        aim_C = own_C
    rules["closeness"] = np.linalg.norm(w_MC - aim_C / aim_C.sum(), axis=1)
    if choose is not None:
        column, sign = _best_weight(*choose)
        if sign:
            rules["best single weight"] = sign * w_MC[:, column]
    rules["number of units"] = -np.count_nonzero(w_MC, axis=1).astype(float)
    return rules


def is_in(w_MC: np.ndarray, own_C: np.ndarray) -> np.ndarray:
    """[M] bool: mixtures with at least 1/C of the own partition."""
    # Our weights have six decimals, and those of a user's file may.
    held: np.ndarray = w_MC[:, own_C].sum(axis=1) >= 1 / w_MC.shape[1] - 1e-5
    return held


def _best_weight(w_FC: np.ndarray, loss_F: np.ndarray) -> tuple[int, float]:
    """The column that correlates most with the losses, and the sign; 0 if unknown.

    A weight may hurt: then the rule is to take less of it. Two runs correlate
    perfectly with anything, so three are needed.
    """
    if len(loss_F) < 3 or not np.ptp(loss_F):
        return 0, 0.0
    off_FC, off_F = w_FC - w_FC.mean(axis=0), loss_F - loss_F.mean()
    spread_C = np.linalg.norm(off_FC, axis=0)
    correlation_C = np.divide(
        off_F @ off_FC,
        spread_C * np.linalg.norm(off_F),
        out=np.zeros(w_FC.shape[1]),
        where=spread_C > 1e-12,
    )
    column = int(np.argmax(np.abs(correlation_C)))
    return column, float(np.sign(correlation_C[column]))


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate, and a confidence interval for the sampling distribution.

    Correlations are corrected for the number of runs, so the estimate can
    differ from the sample's value. `low` and `high` are None with too few runs,
    or where a value is undefined.
    """

    estimate: float
    low: float | None = None
    high: float | None = None

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

    A sample's correlation is below that of its distribution, at 0.9 with 12 runs by
    0.04, so the estimate is the unbiased one (Hoeffding 1948).
    """
    return _jackknife(_spearman(predicted_MT, reference_MT), level)


def paired_difference(
    a_MT: np.ndarray, b_MT: np.ndarray, reference_MT: np.ndarray, level: float = 0.95
) -> Interval:
    """Mean Spearman of a minus that of b over T targets, on the same runs.

    Zou (2007): the distance to each end follows from the intervals of both
    means, which are skewed, and from their correlation over left-out runs.
    """
    a_J, b_J = _spearman(a_MT, reference_MT), _spearman(b_MT, reference_MT)
    a, b = _jackknife(a_J, level), _jackknife(b_J, level)
    difference = a.estimate - b.estimate
    if a.bounds is None or b.bounds is None:
        return Interval(difference)
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
    """The mean over T targets of the sample's Spearman correlation."""
    all_JM = np.ones((1, len(reference_MT)))
    return float(spearman_of(all_JM, predicted_MT, reference_MT, False)[0])


def spearman_of(
    count_JM: np.ndarray,
    predicted_MT: np.ndarray,
    reference_MT: np.ndarray,
    unbiased: bool,
) -> np.ndarray:
    """[J] means over targets of Spearman's correlation, ties at average ranks.

    `count_JM` is how often each run is in each of J samples. The correlation is a sum
    over i, j, k of sign(x_i - x_j) sign(y_i - y_k). Terms with j = k belong to
    Kendall's correlation: without them each is, on average, what it is in the
    distribution (Hoeffding 1948, section 9).
    """
    x_MMT, y_MMT = (
        np.sign(v_MT[:, None] - v_MT[None]) for v_MT in (predicted_MT, reference_MT)
    )
    xy, xx, yy = (
        _products(count_JM, p, q, unbiased)
        for p, q in ((x_MMT, y_MMT), (x_MMT, x_MMT), (y_MMT, y_MMT))
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_J: np.ndarray = (xy / np.sqrt(xx * yy)).mean(axis=1)
    return mean_J


def _spearman(predicted_MT: np.ndarray, reference_MT: np.ndarray) -> np.ndarray:
    """[1 + M] mean correlations: of all runs, and without each."""
    count = len(reference_MT)
    without_JM = np.vstack([np.ones(count), 1 - np.eye(count)])
    value_J = spearman_of(without_JM, predicted_MT, reference_MT, True)
    if abs(value_J[0]) > 1 - 1e-9:
        # Where only neighbors are swapped, the unbiased estimate is perfect and
        # shows no spread.
        value_J = spearman_of(without_JM, predicted_MT, reference_MT, False)
    return value_J


def _jackknife(value_J: np.ndarray, level: float) -> Interval:
    """An interval by the jackknife (Tukey 1958), by Student's t, on Fisher's scale.

    `value_J`: correlations of all runs, and of those without each.
    """
    count = len(value_J) - 1
    estimate = float(value_J[0])
    if count < ENOUGH_RUNS or not np.isfinite(value_J).all():
        return Interval(estimate)
    # 1 is infinite on Fisher's scale, so the bound is half the least step of a
    # rank correlation below it. Nearer to 1, one swap of neighbors would decide
    # the interval.
    most = 1 - 6 / count**3
    r_J = np.clip(value_J, -most, most)
    # The spread is measured on the plain scale and converted: on Fisher's, one
    # run without which all others agree would decide it.
    error = np.sqrt((count - 1) * np.var(r_J[1:])) / (1 - r_J[0] ** 2)
    if abs(estimate) >= most:
        # The order is perfect, so nothing varies. This is the error under a
        # normal distribution (Bonett and Wright 2000, at a correlation of 1).
        error = np.sqrt(1.5 / (count - 3))
    reach = scipy.stats.t.ppf((1 + level) / 2, count - 1) * error
    low, high = np.tanh(np.arctanh(r_J[0]) + np.array([-reach, reach]))
    low, high = min(low, estimate), max(high, estimate)
    return Interval(estimate, float(low), float(high))


def _products(
    count_JM: np.ndarray, x_MMT: np.ndarray, y_MMT: np.ndarray, unbiased: bool
) -> np.ndarray:
    """[J, T] sums over i, j, k of x_ij y_ik; unbiased: without j = k."""

    def over_j(v_MMT: np.ndarray) -> np.ndarray:
        return np.tensordot(count_JM, v_MMT, axes=(1, 1))

    sums_JMT = over_j(x_MMT) * over_j(y_MMT)
    if unbiased:
        sums_JMT = sums_JMT - over_j(x_MMT * y_MMT)
    return np.einsum("jm,jmt->jt", count_JM, sums_JMT)


def replicate_noise(first_P: np.ndarray, second_P: np.ndarray) -> float:
    """Standard deviation of a run's noise, as far as it differs between runs.

    Its square is half the variance of the differences of P pairs: what all replicates
    share changes no rank, and is not noise here. A single pair cannot tell it apart.
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
    freedom: float | None = None,
) -> Interval:
    """The highest Pearson correlation that noise allows to a predictor.

    That of a perfect predictor: sqrt(1 - s2_replicate / s2_reference), or 0 if
    there is only noise. The variances have P - 1 and M - 1 degrees of freedom, so
    under normality the quotient over its true value follows Fisher's F. With heavy
    tails the interval covers less.

    Args:
      reference_M: losses of all reference runs, with their noise.
      first_P, second_P: losses of runs and of their replicates.
      level: of the interval; there is none with fewer than three pairs or three runs.
      freedom: degrees of freedom of the noise; P - 1 if the pairs are independent.
    """
    pairs, runs = len(first_P), len(reference_M)
    if runs < 2 or not np.ptp(reference_M):
        return Interval(0.0)
    s2_replicate = replicate_noise(first_P, second_P) ** 2
    quotient = s2_replicate / np.var(reference_M, ddof=1)
    over = [1.0]
    if pairs >= ENOUGH_PAIRS and runs >= 3:
        ends = (1 - level) / 2, (1 + level) / 2
        freedom = pairs - 1 if freedom is None else freedom
        over += scipy.stats.f.ppf(ends, freedom, runs - 1).tolist()
    return Interval(*np.sqrt(np.fmax(0, 1 - quotient / np.array(over))).tolist())


def joint_ceiling(
    runs: Interval, predicted_M: np.ndarray, again_M: np.ndarray, w_MC: np.ndarray
) -> Interval:
    """The highest Pearson correlation that noise of runs and of predictions allows.

    Let runs be r = t + e and predictions x = t + u, up to a straight line: a perfect
    predictor with noisy members. No run has the data seed of a member, so e and u are
    independent, and

        corr(r, x) = var t / sqrt(var r var x)
                   = sqrt(1 - s2_e / s2_r) sqrt(1 - s2_u / s2_x)

    The first factor is the ceiling of the runs. In the second, s2_u is half the
    variance of the differences between predictions from members and from their
    replicates. They all share the noise of C members: to first order a difference is
    sum_c w_c d_c, with independent d_c of one variance. So s2_u is a quadratic form
    with the covariance S of the weights, and has about tr(S)^2 / tr(S^2) degrees of
    freedom (Satterthwaite 1946). The interval takes both factors' errors for small and
    independent.

    Args:
      runs: the ceiling of the runs, see `noise_ceiling`.
      predicted_M: predictions of the M mixtures.
      again_M: the same, from the replicates of all members.
      w_MC: the mixtures.

    Returns:
      NaN with a single run.
    """
    if len(w_MC) < 2:
        return Interval(float("nan"))
    s_CC = np.cov(w_MC, rowvar=False)
    square = float(np.sum(s_CC**2))
    freedom = np.trace(s_CC) ** 2 / square if square else None
    prediction = noise_ceiling(predicted_M, predicted_M, again_M, freedom=freedom)
    a, b = runs.estimate, prediction.estimate
    if runs.bounds is None or prediction.bounds is None:
        return Interval(a * b)
    low, high = (
        np.hypot(b * (a - a_end), a * (b - b_end))
        for a_end, b_end in zip(runs.bounds, prediction.bounds, strict=True)
    )
    return Interval(a * b, max(0.0, a * b - float(low)), min(1.0, a * b + float(high)))


def corrected(correlation: float, ceiling: float) -> float:
    """A correlation divided by its ceiling; NaN where it is below the noise floor."""
    return correlation / ceiling if ceiling >= BELOW_NOISE else float("nan")


def claims(
    targets: Targets,
    points: Mapping[str, Mapping[str, np.ndarray]],
    rules: Mapping[str, Mapping[str, np.ndarray]],
    ceilings: Mapping[str, Interval],
    noisy: Mapping[str, Mapping[str, Row]],
) -> list[Row]:
    """How each predictor compares with the rules; see `Validation.claims`.

    `noisy` is as `Validation.predictor_noise`.
    """
    claimed = []
    for kind, domains in targets.domains.items():
        low = {n for n, found in ceilings.items() if found.estimate < BELOW_NOISE}
        names = [name for name in domains if name not in low]
        if not names:
            continue
        reference_MT = _columns(points["reference"], names)
        known_rules = {
            rule: np.stack([rules[name][rule] for name in names], axis=1)
            for rule in rules[names[0]]
            if all(rule in rules[name] for name in names)
        }
        rule = best_rule(known_rules, reference_MT)
        of_rule = None
        if rule is not None:
            of_rule = mean_spearman(known_rules[rule], reference_MT).estimate
            if of_rule < 0:  # chance is better than every rule
                rule, of_rule = CHANCE, 0.0
        ceiling = [ceilings[n].estimate for n in names if ceilings]
        for predictor in PREDICTORS:
            if predictor not in points:
                continue
            predicted_MT = _columns(points[predictor], names)
            value = gain = mean_spearman(predicted_MT, reference_MT)
            known = [noisy.get(name, {}).get(predictor) for name in names]
            both = [row["ceiling"] for row in known if row is not None]
            if rule is not None and rule != CHANCE:
                gain = paired_difference(predicted_MT, known_rules[rule], reference_MT)
            claimed.append(
                {
                    "kind": kind,
                    "predictor": predictor,
                    "targets": names,
                    "ceiling": float(np.mean(ceiling)) if ceiling else None,
                    "joint_ceiling": float(np.mean(both)) if both else None,
                    "rule": rule,
                    "spearman": value.estimate,
                    "spearman_interval": value.bounds,
                    "rule_spearman": of_rule,
                    "gain": None if rule is None else gain.estimate,
                    "gain_interval": None if rule is None else gain.bounds,
                }
            )
    return claimed


def best_rule(rules: Mapping[str, np.ndarray], reference_MT: np.ndarray) -> str | None:
    """The rule with the highest mean Spearman correlation over T targets.

    It is picked in hindsight, on the runs it is compared on: the hardest to beat.
    The first of equals; a rule [M, T] that is undefined (NaN, or the same everywhere)
    on a target is left out. None if none is left.
    """
    means = {name: sample_spearman(x_MT, reference_MT) for name, x_MT in rules.items()}
    defined = [name for name, mean in means.items() if np.isfinite(mean)]
    return max(defined, key=means.__getitem__, default=None)


def _columns(by_target: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    return np.stack([by_target[name] for name in names], axis=1)
