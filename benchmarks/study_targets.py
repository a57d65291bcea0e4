"""Question 0: what was to be shown, named before anything was run."""

from typing import Any

import numpy as np
import scipy.stats

from benchmarks.study_workdir import INSIDE, OUTSIDE, Workdir
from jaxsim.validation.agreement import agreement, paired_difference
from jaxsim.validation.measured import CALIBRATED

DOMAINS, SPEARMAN, BELOW_CEILING, PAIRS = 5, 0.90, 0.05, 0.03
ERROR, COVERED, GAIN = 0.5, (0.85, 0.95), 0.90
PRIMARY = ("merge", "ensemble")
LEVEL = 0.95


def targets(work: Workdir) -> list[dict[str, Any]]:
    """A row for each target: what was wanted, what came out, by how much.

    `by` is positive where the target is met; rows that nothing is there for
    are left out.
    """
    return [*_out_of_pool(work), *_pairs(work), *_calibration(work), *_decision(work)]


def _row(
    what: str, wanted: str, value: float, by: float, interval: Any = None, **more: Any
) -> dict[str, Any]:
    met = bool(by >= 0)
    low, high = interval or (None, None)
    row = {"target": what, "wanted": wanted, "value": value}
    return row | {"low": low, "high": high, "met": met, "by": by} | more


def _out_of_pool(work: Workdir) -> list[dict[str, Any]]:
    enough = len(work.sound(OUTSIDE)) - DOMAINS
    rows = [
        _row(
            "out-of-pool domains with a ceiling of 0.9 or more",
            f"at least {DOMAINS}",
            len(work.sound(OUTSIDE)),
            enough,
        )
    ]
    for claim in work.validation.claims:
        name = claim["predictor"]
        if claim["kind"] != OUTSIDE or name not in PRIMARY:
            continue
        tables = [work.validation.agreement[t] for t in claim["targets"]]
        sample = float(np.mean([table[name]["spearman"] for table in tables]))
        rows.append(
            _row(
                f"{name}: mean Spearman over these domains",
                f"at least {SPEARMAN:.2f}",
                claim["spearman"],
                claim["spearman"] - SPEARMAN,
                claim["spearman_interval"],
                sample=sample,
            )
        )
        if claim["ceiling"] is not None:
            below = claim["ceiling"] - claim["spearman"]
            rows.append(
                _row(
                    f"{name}: below the mean ceiling of {claim['ceiling']:.3f}",
                    f"at most {BELOW_CEILING:.2f}",
                    below,
                    BELOW_CEILING - below,
                    sample=claim["ceiling"] - sample,
                )
            )
        if claim["gain_interval"] is not None:
            rows.append(
                _row(
                    f"{name}: gain over the best weight-only baseline "
                    f"({claim['rule']})",
                    "interval above 0",
                    claim["gain"],
                    claim["gain_interval"][0],
                    claim["gain_interval"],
                )
            )
    return rows


def _pairs(work: Workdir) -> list[dict[str, Any]]:
    """Same-side pairs in-pool, beside the replicates of the same reference runs."""
    within = {
        target: within_M
        for target in work.targets(INSIDE)
        if (within_M := work.within(target)) is not None
    }
    inside = list(within)
    at_P, replicates = work.repeated()
    if len(at_P) < 3 or not inside:
        return []
    within_PT = np.stack([within[t][at_P] for t in inside], axis=1)
    reference_PT = work.reference_MT(inside)[at_P]
    again_PT = np.stack([replicates[t] for t in inside], axis=1)
    replicate_J = same_side(again_PT, reference_PT, within_PT)
    rows = []
    for name in PRIMARY:
        predicted_MT = work.values_MT(name, inside)
        assert predicted_MT is not None, "both predictors see every domain"
        predictor_J = same_side(predicted_MT[at_P], reference_PT, within_PT)
        below_J = replicate_J - predictor_J
        rows.append(
            _row(
                f"{name}: in-pool same-side pairs ({predictor_J[0]:.3f}) below "
                f"those of a replicate ({replicate_J[0]:.3f}), {len(at_P)} reference "
                "runs",
                f"at most {PAIRS:.2f}",
                float(below_J[0]),
                PAIRS - float(below_J[0]),
                jackknife(below_J),
            )
        )
    return rows


def same_side(
    predicted_PT: np.ndarray, reference_PT: np.ndarray, within_PT: np.ndarray
) -> np.ndarray:
    """[1 + P] share of pairs in the right order, with all and without each.

    Pooled over targets, of pairs that both have the own partition or both
    not; a tie counts half.
    """

    def signs(x_PT: np.ndarray) -> np.ndarray:
        return np.sign(x_PT[:, None] - x_PT[None])

    count = len(reference_PT)
    among = (within_PT[:, None] == within_PT[None]).astype(float)
    among *= (1 - np.eye(count))[:, :, None]
    right = among * (signs(predicted_PT) * signs(reference_PT) + 1) / 2
    with_JP = np.vstack([np.ones(count), 1 - np.eye(count)])
    sums = [
        np.einsum("jp,jq,pqt->j", with_JP, with_JP, x, optimize=True)
        for x in (right, among)
    ]
    return sums[0] / sums[1]


def jackknife(value_J: np.ndarray) -> tuple[float, float]:
    """An interval from the value of all, and those without each."""
    count = len(value_J) - 1
    error = np.sqrt((count - 1) * np.var(value_J[1:]))
    reach = scipy.stats.t.ppf((1 + LEVEL) / 2, count - 1) * error
    return float(value_J[0] - reach), float(value_J[0] + reach)


def _calibration(work: Workdir) -> list[dict[str, Any]]:
    check, fit = work.validation.check, len(work.validation.calibration_runs)
    if not fit:
        return []
    domains = [*work.targets(INSIDE), *work.targets(OUTSIDE)]
    rows = []
    for what, names in [
        (f"all {len(domains)} domains", domains),
        *((macro, [macro]) for macro in work.targets("macro")),
    ]:
        merge, calibrated, covered = (
            float(np.mean([check[name][key] for name in names]))
            for key in ("merge", "calibrated", "covered")
        )
        rows.append(
            _row(
                f"calibrated with {fit} reference runs, {what}: mean absolute error "
                f"({calibrated:.5f}) as a share of the merge's ({merge:.5f})",
                f"at most {ERROR}",
                calibrated / merge,
                ERROR - calibrated / merge,
            )
        )
        rows.append(
            _row(
                f"90 % intervals, {what}: share of reference runs covered",
                f"{COVERED[0]:.0%} to {COVERED[1]:.0%}",
                covered,
                min(covered - COVERED[0], COVERED[1] - covered),
            )
        )
    for macro in work.targets("macro"):
        calibrated_MT, merge_MT = (
            work.values_MT(name, [macro]) for name in (CALIBRATED, "merge")
        )
        if calibrated_MT is None or merge_MT is None:
            continue
        reference_MT = work.reference_MT([macro])
        # An equal rank is not worse: the sample's own correlations decide.
        better = agreement(calibrated_MT[:, 0], reference_MT[:, 0], None)["spearman"]
        better -= agreement(merge_MT[:, 0], reference_MT[:, 0], None)["spearman"]
        distribution = paired_difference(calibrated_MT, merge_MT, reference_MT)
        rows.append(
            _row(
                f"calibrated minus merge, {macro}: Spearman",
                "not below 0",
                better,
                better,
                (distribution.low, distribution.high),
            )
        )
    return rows


def _decision(work: Workdir) -> list[dict[str, Any]]:
    if work.winner is None:
        return []
    share = work.winner["share_of_gain"]["without_first"]
    if share["share"] is None:
        return [
            _row(
                "the chosen mixture: gain over the best plain baseline "
                f"({share['plain']}), which no reference run beats",
                "not below 0",
                share["gain"],
                share["gain"],
            )
        ]
    return [
        _row(
            "the chosen mixture: share of the gain from the best plain "
            f"baseline ({share['plain']}) to the best reference run",
            f"at least {GAIN:.0%}",
            share["share"],
            share["share"] - GAIN,
            (share["low"], share["high"]),
        )
    ]
