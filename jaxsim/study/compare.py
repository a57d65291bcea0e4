"""Proxies against truths: the points, the agreement, the no-model rules.

Agreement comes from `report` truths on report text. What is fitted on the way
(calibration, scale, baselines on ratios alone) is fitted on select text of
`fit` truths; without any, each report truth is predicted from the others.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxsim.search.objective import weighted_mean
from jaxsim.study.agreement import ENOUGH_TRUTHS, agreement, guessing
from jaxsim.study.calibrating import (
    baselines,
    calibrated,
    deployed,
    learning,
)
from jaxsim.study.claims import claims
from jaxsim.study.measured import Basis, Measured
from jaxsim.study.noise import (
    ENOUGH_PAIRS,
    noise_ceiling,
    repeat_agreement,
    repeat_noise,
)
from jaxsim.study.rules import is_in, predictions
from jaxsim.study.validate import (
    CALIBRATED,
    PREDICTORS,
    SCALED,
    Validation,
    targets_of,
)


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
    bits[CALIBRATED], check = calibrated(basis, judged, fitted, targets)
    if fitted is not None:
        bits |= baselines(basis, judged, fitted)
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
    some = judged_repeats
    # A member's noise can be another one; it will do for want of any.
    pairs = slice(some if some >= ENOUGH_PAIRS else None)
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
            pair = first_P[pairs], second_P[pairs]
            ceilings[target] = noise_ceiling(truth_M, *pair)
            noise[target] = repeat_noise(*pair)
            if some < ENOUGH_TRUTHS:
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
        claims=claims(targets, points, rules, ceilings),
        ceilings={name: c.estimate for name, c in ceilings.items()},
        ceiling_intervals={n: [c.low, c.high] for n, c in ceilings.items()},
        repeat_agreement=again,
        noise=noise,
        sizes=_within_sizes(judged, points, targets) if by_size else {},
        repeats=0 if repeats is None else len(repeats[0][pairs]),
        scale=None if scaled is None else scaled[0],
        calibration=deployed(basis, judged, fitted),
        check=check,
        **learning(basis, judged, fitted, targets),
        given=not laws,
        budget="sum" if by_size else "fixed",
        unit=unit,
        seed={
            half: {
                name: float(bits)
                for name, bits, there in zip(
                    basis.evaluation.domains, bits_D, there_D, strict=True
                )
                if there
            }
            for half, bits_D in basis.seed.items()
        },
        notes=list(basis.notes),
        evaluation=basis.evaluation.digest,
        digests=dict(basis.digests),
    )


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


def _own(basis: Basis, weights_D: np.ndarray) -> np.ndarray | None:
    """[C] bool: the units of a single in-pool domain's partition."""
    chosen = np.flatnonzero(weights_D)
    if len(chosen) > 1 or not basis.own_DC[chosen[0]].any():
        return None
    own_C: np.ndarray = basis.own_DC[chosen[0]]
    return own_C
