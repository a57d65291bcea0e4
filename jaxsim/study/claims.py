"""What there is to claim: predictors beside the best rule without a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.study.agreement import best_rule
from jaxsim.study.intervals import (
    Interval,
    mean_spearman,
    paired_difference,
)
from jaxsim.study.noise import NOISE_BOUND
from jaxsim.study.validate import PREDICTORS

CHANCE = "random"


def claims(
    targets: Mapping[str, tuple[str, np.ndarray]],
    points: Mapping[str, Mapping[str, np.ndarray]],
    rules: Mapping[str, Mapping[str, np.ndarray]],
    ceilings: Mapping[str, Interval],
) -> list[dict[str, Any]]:
    """For each kind and predictor, what there is to claim.

    Over the domains of the kind that are not noise-bound: the mean Spearman
    correlation, the mean ceiling, the best rule that knows no model, and the
    paired difference to it, with intervals that leave one truth out at a time.
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
