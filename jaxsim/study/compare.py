"""Proxies against truths: the points, the agreement, the no-model rules.

Agreement comes from `report` truths on report text. What is fitted on the way
(calibration, scale, baselines on ratios alone) is fitted on select text of
`fit` truths; without any, each report truth is predicted from the others.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.search.objective import weighted_mean
from jaxsim.study.agreement import agreement, best_rule, guessing
from jaxsim.study.calibration import ENOUGH as ENOUGH_TO_FIT
from jaxsim.study.calibration import Calibration, fit
from jaxsim.study.intervals import (
    Interval,
    mean_spearman,
    paired_difference,
)
from jaxsim.study.measured import Basis, Measured
from jaxsim.study.noise import (
    ENOUGH_PAIRS,
    NOISE_BOUND,
    noise_ceiling,
    repeat_agreement,
    repeat_noise,
)
from jaxsim.study.regressors import fit_log_linear, fit_trees
from jaxsim.study.rules import is_in, predictions
from jaxsim.study.validate import (
    CALIBRATED,
    IN_POOL,
    OUT_OF_POOL,
    PREDICTORS,
    SCALED,
    Validation,
    targets_of,
)

CHANCE = "random"
LEVEL = 0.9  # of the intervals that a calibration is checked at


def compare(
    basis: Basis,
    judged: Measured,
    fitted: Measured | None = None,
    scaled: tuple[float, np.ndarray] | None = None,
    repeats: tuple[np.ndarray, np.ndarray] | None = None,
    judged_repeats: int = 0,
    laws: Sequence[str] = (),
    unit: str = "bits per byte",
    by_size: bool = False,
) -> Validation:
    """Agreement of every predictor and every rule with the truths.

    Args:
      basis: what truths and proxies are of.
      judged: truths that agreement comes from.
      fitted: truths that the calibration, the baselines and the best single
        weight come from.
      scaled: a scale, and bits per byte [M, D] on report text of the merges
        of the judged ratios at it.
      repeats: bits per byte [P, D] on report text of runs and of their
        repeats, of truths before members.
      judged_repeats: how many of them are of the first of `judged`.
      laws: of the judged truths; none if the user brought them.
      unit: of the truths.
      by_size: also compare within ratios of one number of units.
    """
    targets = targets_of(basis.evaluation, judged.report["truth"])
    bits = dict(judged.report)
    if scaled is not None:
        bits[SCALED] = scaled[1]
    bits[CALIBRATED], check = _calibrated(basis, judged, fitted, targets)
    if fitted is not None:
        bits |= _baselines(basis, judged, fitted)
    there_D = np.isfinite(judged.report["truth"]).all(axis=0)
    bits = {
        name: bits_MD
        for name, bits_MD in bits.items()
        if np.isfinite(bits_MD[:, there_D]).all()
    }
    points = {
        name: {
            target: weighted_mean(values_MD, weights_D)
            for target, (_, weights_D) in targets.items()
        }
        for name, values_MD in bits.items()
    }
    tables, rules, ceilings, again, noise = {}, {}, {}, {}, {}
    for target, (_, weights_D) in targets.items():
        own_C = _own(basis, weights_D)
        in_M = None
        if own_C is not None:
            in_M = is_in(judged.w_MC, own_C)
        choose = None
        if fitted is not None:
            loss_F = weighted_mean(fitted.select["truth"], weights_D)
            choose = fitted.w_MC, loss_F
        truth_M = points["truth"][target]
        rules[target] = predictions(judged.w_MC, own_C, choose)
        predicted = {p: points[p][target] for p in PREDICTORS if p in points}
        tables[target] = {
            name: dataclasses.asdict(agreement(predicted_M, truth_M, in_M))
            for name, predicted_M in (predicted | rules[target]).items()
        } | {"random": dataclasses.asdict(guessing(truth_M))}
        if repeats is not None:
            first_P, second_P = (
                weighted_mean(bits_PD, weights_D) for bits_PD in repeats
            )
            some = judged_repeats
            # A member's noise can be another one; it will do for want of any.
            of = slice(some if some >= ENOUGH_PAIRS else None)
            pair = first_P[of], second_P[of]
            ceilings[target] = noise_ceiling(truth_M, *pair)
            noise[target] = repeat_noise(*pair)
            if not some:
                continue
            again[target] = dataclasses.asdict(
                repeat_agreement(
                    first_P[:some],
                    second_P[:some],
                    in_M[:some] if in_M is not None else None,
                )
            )
    return Validation(
        truths=list(judged.names),
        laws=list(laws) or ["given"] * len(judged),
        members=list(basis.members),
        ratios=judged.w_MC.tolist(),
        fit=[] if fitted is None else list(fitted.names),
        fit_ratios=[] if fitted is None else fitted.w_MC.tolist(),
        targets=list(targets),
        kinds=[kind for kind, _ in targets.values()],
        points={
            name: {target: values_M.tolist() for target, values_M in by.items()}
            for name, by in points.items()
        },
        agreement=tables,
        claims=_claims(targets, points, rules, ceilings),
        ceilings={name: c.estimate for name, c in ceilings.items()},
        ceiling_intervals={n: [c.low, c.high] for n, c in ceilings.items()},
        repeat_agreement=again,
        noise=noise,
        sizes=_within_sizes(judged, points, targets) if by_size else {},
        repeats=0 if repeats is None else len(repeats[0]),
        scale=None if scaled is None else scaled[0],
        calibration=_deployed(basis, judged, fitted),
        check=check,
        **_learning(basis, judged, fitted, targets),
        given=not laws,
        unit=unit,
        notes=list(basis.notes),
        evaluation=basis.evaluation.digest,
        digests=dict(basis.digests),
    )


def _fit(basis: Basis, truths: Measured, measured_D: np.ndarray) -> Calibration:
    """A calibration from truths on select text, for the measured domains."""
    names = np.array(basis.evaluation.domains)[measured_D]
    return fit(
        tuple(names.tolist()),
        basis.own_DC[measured_D],
        truths.w_MC,
        truths.select["merge"][:, measured_D],
        truths.select["probability"][:, measured_D],
        basis.select_CD[:, measured_D],
        truths.select["truth"][:, measured_D],
        basis.singles_known,
    )


def _calibrated(
    basis: Basis,
    judged: Measured,
    fitted: Measured | None,
    targets: Mapping[str, tuple[str, np.ndarray]],
) -> tuple[np.ndarray, dict[str, dict[str, float]]]:
    """Predictions [M, D] of calibrations that did not see what they predict.

    Also, by target, the mean absolute error of the merge and of the calibrated
    merge, and the share of truths within the 90 % interval.
    """
    truth_MD, merge_MD = judged.report["truth"], judged.report["merge"]
    measured_D = np.isfinite(truth_MD).all(axis=0)
    predicted_MD = np.full(truth_MD.shape, np.nan)
    everything = np.arange(len(judged))
    calibrations: dict[int, Calibration] = {}
    if fitted is not None:
        one = _fit(basis, fitted, measured_D)
        calibrations = dict.fromkeys(everything.tolist(), one)
    elif len(judged) > 1:
        calibrations = {
            m: _fit(basis, judged.take(everything != m), measured_D)
            for m in everything.tolist()
        }
    half: dict[str, list[float]] = {name: [] for name in targets}
    for m, calibration in calibrations.items():
        merge_1D = merge_MD[m : m + 1, measured_D]
        predicted_MD[m, measured_D] = (
            merge_1D
            + calibration.correction(
                judged.w_MC[m : m + 1],
                basis.own_DC[measured_D],
                merge_1D,
                judged.report["probability"][m : m + 1, measured_D],
                basis.report_CD[:, measured_D],
            )
        )[0]
        for name, (_, weights_D) in targets.items():
            share_D = weights_D[measured_D] / weights_D.sum()
            half[name].append(calibration.half_interval(share_D, LEVEL))
    check = {}
    for name, (_, weights_D) in targets.items():
        truth_M, merge_M, calibrated_M = (
            weighted_mean(bits_MD, weights_D)
            for bits_MD in (truth_MD, merge_MD, predicted_MD)
        )
        off_M = np.abs(truth_M - calibrated_M)
        check[name] = {
            "merge": float(np.abs(truth_M - merge_M).mean()),
            "calibrated": float(off_M.mean()),
            "covered": float(np.mean(off_M <= half[name]))
            if half[name]
            else float("nan"),
            "half": float(np.mean(half[name])) if half[name] else float("nan"),
        }
    return predicted_MD, check


def _learning(
    basis: Basis,
    judged: Measured,
    fitted: Measured | None,
    targets: Mapping[str, tuple[str, np.ndarray]],
) -> dict[str, Any]:
    """How the error falls with the number of truths that are fitted.

    The first n of a design are the design of n, so its prefixes say what
    fewer truths would have taught.
    """
    outside = [n for n, (kind, _) in targets.items() if kind == "out-of-pool"]
    wanted = (OUT_OF_POOL, *outside, IN_POOL, *targets)
    name = next((n for n in wanted if n in targets), None)
    if fitted is None or name is None:
        return {}
    truth_MD, merge_MD = judged.report["truth"], judged.report["merge"]
    measured_D = np.isfinite(truth_MD).all(axis=0)
    share_D = targets[name][1][measured_D]
    share_D = share_D / share_D.sum()
    rows = []
    for count in (0, *range(ENOUGH_TO_FIT, len(fitted) + 1)):
        calibration = _fit(basis, fitted.take(np.arange(count)), measured_D)
        predicted_MD = merge_MD[:, measured_D] + calibration.correction(
            judged.w_MC,
            basis.own_DC[measured_D],
            merge_MD[:, measured_D],
            judged.report["probability"][:, measured_D],
            basis.report_CD[:, measured_D],
        )
        off_M = (truth_MD[:, measured_D] - predicted_MD) @ share_D
        rows.append({"truths": count, "error": float(np.mean(np.abs(off_M)))})
    return {"learning": rows, "learning_target": name}


def _within_sizes(
    judged: Measured,
    points: Mapping[str, Mapping[str, np.ndarray]],
    targets: Mapping[str, tuple[str, np.ndarray]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Spearman correlations of ratios with the same number of units.

    A run on more units is longer, so its loss is lower whatever is in it:
    over all sizes "more is better" ranks well.
    """
    size_M = np.count_nonzero(judged.w_MC, axis=1)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for size in np.unique(size_M):
        here = size_M == size
        if here.sum() < 3:
            continue
        found[str(size)] = {
            target: {
                predictor: agreement(
                    values[target][here], points["truth"][target][here], None
                ).spearman
                for predictor, values in points.items()
                if predictor != "truth"
            }
            for target in targets
        }
    return found


def _deployed(
    basis: Basis, judged: Measured, fitted: Measured | None
) -> dict[str, Any]:
    """What searches use: once all are judged, every truth may teach."""
    measured_D = np.isfinite(judged.report["truth"]).all(axis=0)
    every = judged
    if fitted is not None:
        every = Measured(
            judged.names + fitted.names,
            np.concatenate([judged.w_MC, fitted.w_MC]),
            {
                name: np.concatenate([bits_MD, fitted.select[name]])
                for name, bits_MD in judged.select.items()
            },
            {},
        )
    return _fit(basis, every, measured_D).to_plain()


def _baselines(
    basis: Basis, judged: Measured, fitted: Measured
) -> dict[str, np.ndarray]:
    """Ratios alone, from exactly the runs that the calibrated merge has seen.

    Each member is the truth of its single, if it is as long as the truths.
    """
    w_MC, truth_MD = fitted.w_MC, fitted.select["truth"]
    if basis.singles_known:
        there = np.isfinite(basis.select_CD).all(axis=1)
        w_MC = np.concatenate([w_MC, np.eye(len(basis.members))[there]])
        truth_MD = np.concatenate([truth_MD, basis.select_CD[there]])
    found = {}
    for name, learn in (("log-linear", fit_log_linear), ("trees", fit_trees)):
        bits_MD = np.full((len(judged), truth_MD.shape[1]), np.nan)
        for d in np.flatnonzero(np.isfinite(truth_MD).all(axis=0)):
            bits_MD[:, d] = learn(w_MC, truth_MD[:, d]).predict(judged.w_MC)
        found[name] = bits_MD
    return found


def _claims(
    targets: Mapping[str, tuple[str, np.ndarray]],
    points: Mapping[str, Mapping[str, np.ndarray]],
    rules: Mapping[str, Mapping[str, np.ndarray]],
    ceilings: Mapping[str, Interval],
) -> list[dict[str, Any]]:
    """For each kind and predictor, what there is to claim.

    Over the domains of the kind that are not noise-bound: the mean Spearman
    correlation, the mean ceiling, the best rule that knows no model, and the
    paired difference to it, with intervals over resampled truths.
    """
    found = []
    for kind in ("out-of-pool", "in-pool"):
        names = [
            name
            for name, (k, _) in targets.items()
            if k == kind
            and (name not in ceilings or ceilings[name].estimate >= NOISE_BOUND)
        ]
        if not names:
            continue
        truth_MT = _columns(points["truth"], names)
        known_rules = {
            rule: np.stack([rules[name][rule] for name in names], axis=1)
            for rule in rules[names[0]]
            if all(rule in rules[name] for name in names)
        }
        rule = best_rule(known_rules, truth_MT)
        if rule is not None and (
            mean_spearman(known_rules[rule], truth_MT).estimate < 0
        ):
            rule = CHANCE
        for predictor in PREDICTORS:
            if predictor not in points:
                continue
            predicted_MT = _columns(points[predictor], names)
            if not np.isfinite(predicted_MT).all():
                continue
            found.append(
                {
                    "kind": kind,
                    "predictor": predictor,
                    "targets": names,
                    "ceiling": float(
                        np.mean([ceilings[n].estimate for n in names])
                    )
                    if ceilings
                    else None,
                    "rule": rule,
                    **_correlation(predicted_MT, truth_MT),
                    **_gain(predicted_MT, known_rules, rule, truth_MT),
                }
            )
    return found


def _correlation(
    predicted_MT: np.ndarray, truth_MT: np.ndarray
) -> dict[str, Any]:
    value = mean_spearman(predicted_MT, truth_MT)
    return {
        "spearman": value.estimate,
        "spearman_interval": _bounds(value),
    }


def _gain(
    predicted_MT: np.ndarray,
    rules: Mapping[str, np.ndarray],
    rule: str | None,
    truth_MT: np.ndarray,
) -> dict[str, Any]:
    """The predictor's mean correlation minus the best rule's, chance at least.

    Where the best rule is worse than chance, chance is what is to be beaten.
    """
    if rule is None:
        return {"rule_spearman": None, "gain": None, "gain_interval": None}
    if rule == CHANCE:
        value = mean_spearman(predicted_MT, truth_MT)
        return {
            "rule_spearman": 0.0,
            "gain": value.estimate,
            "gain_interval": _bounds(value),
        }
    gain = paired_difference(predicted_MT, rules[rule], truth_MT)
    return {
        "rule_spearman": mean_spearman(rules[rule], truth_MT).estimate,
        "gain": gain.estimate,
        "gain_interval": _bounds(gain),
    }


def _bounds(value: Interval) -> list[float] | None:
    if value.low is None or value.high is None:
        return None
    return [value.low, value.high]


def _columns(
    by_target: Mapping[str, np.ndarray], names: Sequence[str]
) -> np.ndarray:
    return np.stack([by_target[name] for name in names], axis=1)


def _own(basis: Basis, weights_D: np.ndarray) -> np.ndarray | None:
    """[C] bool: the units of a single in-pool domain's partition."""
    chosen = np.flatnonzero(weights_D)
    if len(chosen) > 1 or not basis.own_DC[chosen[0]].any():
        return None
    own_C: np.ndarray = basis.own_DC[chosen[0]]
    return own_C
