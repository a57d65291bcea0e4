"""What calibration gained, and what one more truth would bring."""

from typing import Any

import numpy as np
import scipy.optimize

from jaxsim.report.agreement import targets_of
from jaxsim.report.wording import count, listed, number
from jaxsim.study.calibration import ENOUGH
from jaxsim.study.validate import Validation

_POINTS = 3  # below that no curve is fitted
_LEAST = 1e-5  # bits per byte that a sentence can show


def gain_sentences(validation: Validation) -> list[str]:
    """The error on truths that were not fitted, before and after."""
    if validation.unit == "unknown":
        return []
    return [
        _gain(validation, name)
        for name in _told(validation)
        if np.isfinite(validation.check[name]["calibrated"])
    ]


def harmed_sentence(validation: Validation) -> str:
    """The domains whose error calibration does not lower; '' if none."""
    if validation.unit == "unknown":
        return ""
    kinds = dict(zip(validation.targets, validation.kinds, strict=True))
    single = {
        target: row
        for target, row in validation.check.items()
        if kinds[target] != "macro" and np.isfinite(row["calibrated"])
    }
    harmed = [t for t, r in single.items() if r["calibrated"] > r["merge"]]
    if not harmed:
        return ""
    return (
        f"The error rises in {len(harmed)} of {count(len(single), 'domain')}: "
        f"{listed(harmed)}"
    )


def _gain(validation: Validation, target: str) -> str:
    check = validation.check[target]
    merge, calibrated = check["merge"], check["calibrated"]
    if calibrated < merge:
        change = (
            f"falls from {number(merge, 4)} to {number(calibrated, 4)} bits "
            f"per byte (by {1 - calibrated / merge:.0%})"
        )
    else:
        change = (
            "does not fall: calibration gains nothing "
            f"({number(merge, 4)} before, {number(calibrated, 4)} after)"
        )
    text = f"on {target} the mean absolute error {change}"
    if np.isfinite(check["covered"]):
        text += (
            f"; the 90 % interval of one more truth, {number(check['half'], 4)}"
            f" to either side, holds {check['covered']:.0%} of them"
        )
    return text


def fitted_on(validation: Validation) -> str:
    """What the calibration learned from, in words."""
    if len(validation.fit) >= ENOUGH:
        return (
            f"Fitted on {count(len(validation.fit), 'truth')} chosen for it "
            f"and judged on {len(validation.truths)} others"
        )
    return (
        f"{len(validation.fit) or 'No'} truths were trained for fitting alone"
        f"{', too few' * bool(validation.fit)}: each one is predicted from the "
        "others"
    )


def curve(learning: list[dict[str, float]]) -> tuple[float, float] | None:
    """a and b of error(k)^2 = a + b / k by non-negative least squares.

    What truths cannot teach, and what k of them still leave open. None with
    fewer than three points; that of no truths has no k.
    """
    known = [
        (row["truths"], row["error"])
        for row in learning
        if row["truths"] > 0 and row["error"] is not None
    ]
    if len(known) < _POINTS:
        return None
    k_P, error_P = np.array(known, float).T
    x_P2 = np.stack([np.ones_like(k_P), 1 / k_P], axis=1)
    (a, b), _ = scipy.optimize.nnls(x_P2, error_P**2)
    return float(a), float(b)


def next_truth_sentence(validation: Validation) -> str:
    """What one more truth would bring, and when to stop; '' if unknown."""
    found = curve(validation.learning)
    if found is None or validation.unit == "unknown":
        return ""
    a, b = found
    fitted = len(validation.fit)
    now, then, never = (
        np.sqrt(a + x) for x in (b / fitted, b / (fitted + 1), 0)
    )
    gain, left = float(now - then), float(now - never)
    target = validation.learning_target
    if not b:
        return (
            f"The error on {target} did not fall with the number of fitted "
            f"truths, up to {fitted}: more of them promise nothing."
        )
    size = f"about {gain:.5f}" if gain >= _LEAST else f"less than {_LEAST:.5f}"
    start = (
        f"By how the error on {target} fell with the number of fitted truths, "
        f"up to {fitted}, one more would lower it by {size} bits per byte."
    )
    noise = validation.noise.get(target)
    if noise is None or not np.isfinite(noise):
        return (
            f"{start} Stop when all that truths can still teach, now "
            f"{number(left, 5)}, is below the noise of a run, which is not "
            "known without repeats."
        )
    place = "below" if left < noise else "above"
    advice = "stop here" if left < noise else "it is worth training"
    return (
        f"{start} However many more, they could lower it by "
        f"{number(left, 5)}. That is {place} the noise of a run "
        f"({number(noise, 5)}): {advice}."
    )


def check_records(validation: Validation) -> list[dict[str, Any]]:
    """Every target's errors and coverage, for files."""
    kinds = dict(zip(validation.targets, validation.kinds, strict=True))
    return [
        {
            "target": target,
            "kind": kinds[target],
            "truths": len(validation.truths),
            "merge_error": _finite(row["merge"]),
            "calibrated_error": _finite(row["calibrated"]),
            "covered_by_90_percent": _finite(row["covered"]),
            "half_interval": _finite(row["half"]),
            "noise_of_a_run": _finite(validation.noise.get(target)),
        }
        for target, row in validation.check.items()
    ]


def learning_records(validation: Validation) -> list[dict[str, Any]]:
    """The error by the number of fitted truths, for files."""
    return [
        {"target": validation.learning_target, **row}
        for row in validation.learning
    ]


def _told(validation: Validation) -> list[str]:
    """Macros and lone domains of a kind, out-of-pool first."""
    found = []
    for kind in ("out-of-pool", "in-pool"):
        names = (f"macro {kind}", *targets_of(validation, kind))
        found += [name for name in names if name in validation.check][:1]
    return found


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
