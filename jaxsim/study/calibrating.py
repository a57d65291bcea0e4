"""Calibrations fitted on truths, and judged on truths that they did not see."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxsim.search.objective import weighted_mean
from jaxsim.study.calibration import ENOUGH as ENOUGH_TO_FIT
from jaxsim.study.calibration import Calibration, fit
from jaxsim.study.measured import Basis, Measured, joined
from jaxsim.study.regressors import fit_log_linear, fit_trees
from jaxsim.study.validate import IN_POOL, OUT_OF_POOL

LEVEL = 0.9  # of the intervals that a calibration is checked at


def fitted_on(
    basis: Basis, truths: Measured, measured_D: np.ndarray
) -> Calibration:
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


def calibrated_merges(
    basis: Basis,
    calibration: Calibration,
    truths: Measured,
    half: str,
    measured_D: np.ndarray,
) -> np.ndarray:
    """[M, D'] corrected merges of the ratios, in the measured domains."""
    bits = truths.select if half == "select" else truths.report
    member_CD = basis.select_CD if half == "select" else basis.report_CD
    merge_MD = bits["merge"][:, measured_D]
    return merge_MD + calibration.correction(
        truths.w_MC,
        basis.own_DC[measured_D],
        merge_MD,
        bits["probability"][:, measured_D],
        member_CD[:, measured_D],
    )


def calibrated(
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
    if fitted is not None and len(fitted) >= ENOUGH_TO_FIT:
        known = fitted_on(basis, fitted, measured_D)
        calibrations = dict.fromkeys(everything.tolist(), known)
    elif len(judged) > 1:
        for m in everything.tolist():
            others = judged.take(everything != m)
            if fitted is not None:
                others = joined(others, fitted)
            calibrations[m] = fitted_on(basis, others, measured_D)
    half: dict[str, list[float]] = {name: [] for name in targets}
    for m, calibration in calibrations.items():
        one = judged.take(everything == m)
        predicted_MD[m, measured_D] = calibrated_merges(
            basis, calibration, one, "report", measured_D
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
            # Without an interval nothing is known of what it holds.
            "covered": float(np.mean(off_M <= half[name]))
            if half[name] and np.isfinite(half[name]).all()
            else float("nan"),
            "half": float(np.mean(half[name])) if half[name] else float("nan"),
        }
    return predicted_MD, check


def learning(
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
    truth_MD = judged.report["truth"]
    measured_D = np.isfinite(truth_MD).all(axis=0)
    share_D = targets[name][1][measured_D]
    share_D = share_D / share_D.sum()
    rows = []
    for count in (0, *range(ENOUGH_TO_FIT, len(fitted) + 1)):
        calibration = fitted_on(
            basis, fitted.take(np.arange(count)), measured_D
        )
        predicted_MD = calibrated_merges(
            basis, calibration, judged, "report", measured_D
        )
        off_M = (truth_MD[:, measured_D] - predicted_MD) @ share_D
        rows.append({"truths": count, "error": float(np.mean(np.abs(off_M)))})
    return {"learning": rows, "learning_target": name}


def deployed(
    basis: Basis, judged: Measured, fitted: Measured | None
) -> dict[str, Any]:
    """What searches use: once all are judged, every truth may teach."""
    measured_D = np.isfinite(judged.report["truth"]).all(axis=0)
    every = judged if fitted is None else joined(judged, fitted)
    return fitted_on(basis, every, measured_D).to_plain()


def baselines(
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
