"""Question 3: what raises agreement, and when does it break?"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from benchmarks.study_workdir import OUTSIDE, Workdir, plain
from jaxsim.scoring.targets import OUT_OF_POOL
from jaxsim.search.objective import weighted_mean
from jaxsim.validation.agreement import mean_spearman, paired_difference

PREDICTED = ("merge", "ensemble")
SCALES = (0.75, 1.0, 1.25, 1.5, 2.0)
GAIN_SPREAD = 0.5  # of log gains before any reference run: a factor of 1.6
STEP, MOST_STEPS = 0.02, 20


def pools(works: Mapping[str, Workdir]) -> dict[str, Any]:
    """A row for each pool, on the same out-of-pool domains.

    They are all that every pool has, and those below the noise floor in none of them.
    """
    shared = _shared([work.targets(OUTSIDE) for work in works.values()])
    sound = _shared([work.sound(OUTSIDE) for work in works.values()])
    return {
        "domains": shared,
        "sound": sound,
        "rows": [
            {"pool": name} | _pool(work, shared, sound) for name, work in works.items()
        ],
    }


def _shared(lists: Sequence[list[str]]) -> list[str]:
    return [t for t in lists[0] if all(t in others for others in lists)]


def _pool(work: Workdir, shared: list[str], sound: list[str]) -> dict[str, Any]:
    v, diagnostics = work.validation, work.diagnostics
    row: dict[str, Any] = {
        "member_steps": work.steps("member"),
        "reference_steps": work.steps("reference"),
        "token_multiplier": work.steps("reference") / work.steps("member"),
        "tail": work.config.recipe.tail,
        "drift": (
            float(np.mean(list(diagnostics.drift.values()))) if diagnostics else None
        ),
        "verdict": diagnostics.verdict if diagnostics else None,
        "below_noise": len(work.targets(OUTSIDE)) - len(work.sound(OUTSIDE)),
        "loss": {t: float(np.mean(v.points["reference"][t]))
                 for t in work.targets("macro")},
    }  # fmt: skip
    if v.ceilings:
        row["ceiling"] = float(np.mean([v.ceilings[t] for t in shared]))
        row["noise"] = float(np.mean([v.noise[t] for t in shared]))
    for predictor in PREDICTED:
        row[predictor] = {
            "all": _spearman(work, predictor, shared),
            "sound": _spearman(work, predictor, sound),
        }
        if OUT_OF_POOL in v.targets:
            figures = v.agreement[OUT_OF_POOL][predictor]
            off_M = np.subtract(
                v.points["reference"][OUT_OF_POOL], v.points[predictor][OUT_OF_POOL]
            )
            row[predictor] |= {
                "macro": figures["spearman"],
                "slope": figures["slope"],
                "level_error": float(np.abs(off_M).mean()),
            }
    return row


def _spearman(work: Workdir, name: str, targets: list[str]) -> dict[str, Any] | None:
    values_MT = work.values_MT(name, targets) if targets else None
    if values_MT is None:
        return None
    return plain(mean_spearman(values_MT, work.reference_MT(targets)))


def scopes(work: Workdir) -> dict[str, list[str]]:
    """What two predictors are compared on."""
    found = {name: [name] for name in work.targets("macro")}
    if sound := work.sound(OUTSIDE):
        found["out-of-pool domains that are not below the noise floor"] = sound
    return found


def versus(
    work: Workdir, values_MT: np.ndarray, targets: list[str], rivals: Any
) -> dict[str, Any]:
    """Its mean Spearman, and the paired difference to some others."""
    reference_MT = work.reference_MT(targets)
    row: dict[str, Any] = {
        "spearman": plain(mean_spearman(values_MT, reference_MT)),
        "against": {},
    }
    for rival in rivals:
        other_MT = work.values_MT(rival, targets)
        if other_MT is not None:
            difference = paired_difference(values_MT, other_MT, reference_MT)
            row["against"][rival] = plain(difference)
    return row


def together(work: Workdir) -> list[dict[str, Any]]:
    """Merge and ensemble as one predictor."""
    rows = []
    for scope, targets in scopes(work).items():
        each = [work.values_MT(predictor, targets) for predictor in PREDICTED]
        a_MT, b_MT = each
        assert a_MT is not None and b_MT is not None
        for how, values_MT in (
            ("mean of the bits", (a_MT + b_MT) / 2),
            ("mean of z-scores", (_z(a_MT) + _z(b_MT)) / 2),
        ):
            found = versus(work, values_MT, targets, PREDICTED)
            rows.append({"scope": scope, "how": how} | found)
    return rows


def _z(x_MT: np.ndarray) -> np.ndarray:
    z_MT: np.ndarray = (x_MT - x_MT.mean(axis=0)) / x_MT.std(axis=0)
    return z_MT


def scale(work: Workdir) -> dict[str, Any] | None:
    """What scale of the merges fits levels, and whether it ranks better.

    A run on several units may move further, or less far, than the average of
    members: the scale with the least squared error on the calibration runs wins.
    """
    fitted = work.fitted
    if fitted is None:
        return None
    error_S = np.sqrt(
        [
            np.nanmean((bits_FD - fitted.dev["reference"]) ** 2)
            for bits_FD in (
                _merges(work, "calibration-mixtures", s, "dev") for s in SCALES
            )
        ]
    )
    best = SCALES[int(np.argmin(error_S))]
    bits_MD = _merges(work, "mixtures", best, "test")
    rows = []
    for scope, targets in scopes(work).items():
        scaled_MT = np.stack(
            [weighted_mean(bits_MD, work.weights[t]) for t in targets], axis=1
        )
        merge_MT = work.values_MT("merge", targets)
        assert merge_MT is not None
        reference_MT = work.reference_MT(targets)
        errors = {
            name: float(np.abs(reference_MT - values_MT).mean())
            for name, values_MT in (("scaled", scaled_MT), ("merge", merge_MT))
        }
        found = versus(work, scaled_MT, targets, ["merge"])
        rows.append({"scope": scope, "error": errors} | found)
    return {
        "scale": best,
        "errors": dict(zip(map(str, SCALES), error_S.tolist(), strict=True)),
        "rows": rows,
    }


def _merges(work: Workdir, name: str, scale: float, split: str) -> np.ndarray:
    """Bits per byte [M, D] of a table's mixtures, merged at a scale."""
    table = work.scorer.load(name).table
    table = dataclasses.replace(table, scale_M=np.full(len(table), scale))
    scores = work.scorer.score(
        f"{name} at {scale:g}", table, split, work.config.validate.windows
    )
    return scores.bits_per_byte("merge", split)


def gains(work: Workdir) -> dict[str, Any] | None:
    """A gain per partition between token share and weight.

    A reference run of shares w is predicted by the ensemble at weights in
    proportion to g w. The gains are fitted on the calibration runs' dev text,
    with an offset for each domain, which no rank sees.
    """
    fitted = work.fitted
    if fitted is None:
        return None
    reference_FD = fitted.dev["reference"]
    there_D = np.isfinite(reference_FD).all(axis=0)
    reference_FD = reference_FD[:, there_D] - reference_FD[:, there_D].mean(axis=0)

    def off_NFD(log_NC: np.ndarray) -> np.ndarray:
        """Errors of several settings of the gains, in one pass over tokens."""
        w_NFC = np.stack([moved(fitted.w_MC, log_C) for log_C in log_NC])
        bits = _ensemble(work, w_NFC.reshape(-1, len(zero_C)), "dev")
        bits_NFD = bits.reshape(len(log_NC), len(fitted), -1)[..., there_D]
        return bits_NFD - bits_NFD.mean(axis=1, keepdims=True) - reference_FD

    def residuals_N(log_NC: np.ndarray) -> np.ndarray:
        off_NK = off_NFD(log_NC).reshape(len(log_NC), -1)
        return np.hstack([off_NK / unit, log_NC / GAIN_SPREAD])

    def jacobian(log_C: np.ndarray) -> np.ndarray:
        # Losses are summed in float32: smaller steps would measure rounding.
        step_NC = np.vstack([zero_C, STEP * np.eye(len(log_C))])
        at_NK = residuals_N(log_C + step_NC)
        slope_KC: np.ndarray = (at_NK[1:] - at_NK[0]).T / STEP
        return slope_KC

    zero_C = np.zeros(len(work.validation.members))
    unit = np.sqrt(np.mean(off_NFD(zero_C[None]) ** 2))
    found = least_squares(
        lambda log_C: residuals_N(log_C[None])[0], zero_C, jacobian, max_nfev=MOST_STEPS
    )
    after = np.sqrt(np.mean(off_NFD(found.x[None]) ** 2))
    log_C = found.x - found.x.mean()
    at_w, at_gained = (
        _ensemble(work, w_MC, "test") for w_MC in (work.w_MC, moved(work.w_MC, log_C))
    )
    rows = []
    for scope, targets in scopes(work).items():
        plain_MT, gained_MT = (
            np.stack([weighted_mean(b_MD, work.weights[t]) for t in targets], axis=1)
            for b_MD in (at_w, at_gained)
        )
        row = versus(work, gained_MT, targets, ["ensemble", "merge"])
        before = mean_spearman(plain_MT, work.reference_MT(targets))
        rows.append({"scope": scope, "at_shares": plain(before)} | row)
    return {
        "gains": dict(
            zip(work.validation.members, np.exp(log_C).tolist(), strict=True)
        ),
        "fit_error": {"before": float(unit), "after": float(after)},
        "rows": rows,
    }


def moved(w_MC: np.ndarray, log_C: np.ndarray) -> np.ndarray:
    """Weights in proportion to gains times shares."""
    w_MC = w_MC * np.exp(log_C)
    weights_MC: np.ndarray = w_MC / w_MC.sum(axis=1, keepdims=True)
    return weights_MC


def _ensemble(work: Workdir, w_MC: np.ndarray, split: str) -> np.ndarray:
    """Bits per byte [M, D] on that split of the reference runs' windows."""
    e = work.scorer.evaluation
    rows = np.intersect1d(work.rows, e.rows(split))
    sums_MD = work.scorer.ensemble(rows).sums(w_MC)
    bytes_D = np.bincount(e.domain_R[rows], e.bytes_R[rows], len(e.domains))
    with np.errstate(invalid="ignore"):
        bits_MD: np.ndarray = sums_MD / (bytes_D * np.log(2.0))
    return bits_MD
