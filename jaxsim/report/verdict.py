"""How far the predictions can be trusted, in one phrase and its reasons."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsim.report.agreement import label
from jaxsim.report.format import count, interval, number
from jaxsim.scoring.targets import Targets
from jaxsim.validation.agreement import BELOW_NOISE, ENOUGH_RUNS
from jaxsim.validation.diagnostics import DO_NOT_TRUST, RANKS_ONLY, TRUST, Diagnostics
from jaxsim.validation.measured import CALIBRATED, targets_of
from jaxsim.validation.validate import Validation

BOUND = "below the noise floor: nothing can be told apart"
UNRESOLVED = "not resolved: there is too little text to tell members apart"
UNKNOWN = "not known"
SLOPES = (0.5, 2.0)  # of runs on predictions, outside which levels are off
SMALL_ERROR = 0.5  # share of the spread of the runs
COVERED = 0.8  # of runs within 90 % intervals

_MEANING = {
    TRUST: "A mixture predicted to be better tends to train better, and the "
    "losses predicted for it hold within the intervals below.",
    RANKS_ONLY: "A mixture predicted to be better tends to train better, but "
    "do not read a predicted loss as what training would give.",
    DO_NOT_TRUST: "The predictions say nothing reliable about training. Train "
    "the candidates themselves, or fix the pool first.",
    BOUND: "Two runs on the same data differ nearly as much as runs on "
    "different data. No mixture can be preferred without more text, longer "
    "runs or partitions that differ more.",
    UNRESOLVED: "Members differ by no more than this evaluation text can "
    "resolve. No mixture can be preferred without more text, longer runs or "
    "partitions that differ more. Training noise was not measured.",
    UNKNOWN: "There are no diagnostics of the pool and too few reference "
    "runs: run `jaxsim validate`.",
}
_SO_FAR = {
    TRUST: "The diagnostics of the pool show no problem. Only reference runs "
    "can say whether the predictions hold.",
    RANKS_ONLY: "By the diagnostics of the pool, predicted losses will be off. "
    "Only reference runs can say whether the ranking holds.",
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One of the phrases above, why, and whether it rests on reference runs."""

    word: str
    reasons: Sequence[str]
    by_references: bool

    @property
    def meaning(self) -> str:
        """What a reader may do with it."""
        if self.by_references:
            return _MEANING[self.word]
        return _SO_FAR.get(self.word, _MEANING[self.word])


def verdict(diagnostics: Diagnostics | None, validation: Validation | None) -> Verdict:
    """The rule. The first that applies:

    1. The diagnostics say 'do not trust': so does this.
    2. Fewer than 12 held-out runs, or runs whose losses depend on their length
       (budget 'sum'): what the diagnostics say (that members are below the
       noise floor or, without replicates, that the text resolves nothing).
       Without diagnostics nothing is known.
    3. Every out-of-pool domain (without any: the in-pool macro) is below the
       noise floor: nothing can be told apart.
    4. The 95 % interval of the predictor's mean Spearman correlation over the
       out-of-pool domains (without any: on the in-pool macro) reaches 0 or
       below, or there is none: do not trust. The predictor is the calibrated
       merge or, without one, the merge.
    5. On the macro of these domains the slope of runs on predictions is in
       0.5..2, the mean absolute error on runs that were not fitted is below
       half of the runs' standard deviation, and the 90 % intervals hold at
       least 80 % of them: trust.
    6. Else ranks hold and levels are off: trust ranks only.
    """
    if diagnostics is not None and diagnostics.verdict == DO_NOT_TRUST:
        return Verdict(DO_NOT_TRUST, diagnostics.reasons, validation is not None)
    if (
        validation is None
        or len(validation.reference_runs) < ENOUGH_RUNS
        or validation.budget == "sum"
    ):
        return _so_far(diagnostics, validation)
    targets = targets_of(validation)
    if _all_bound(diagnostics, validation, targets):
        why = f"{count(len(targets.held_out), 'target')} that count, all of them"
        return Verdict(BOUND, [f"{why} below the noise floor"], True)
    holds, ranks = _ranks(validation, targets)
    if not holds:
        return Verdict(DO_NOT_TRUST, [ranks], True)
    is_small, error = _error(validation, targets.level)
    off = _levels(validation, targets.level, is_small, error)
    if off:
        return Verdict(RANKS_ONLY, [ranks, *off], True)
    return Verdict(TRUST, [ranks, error], True)


def predictor(validation: Validation) -> str:
    """What a user of this pool would go by."""
    calibrated = CALIBRATED in validation.points
    return CALIBRATED if calibrated and validation.tells_levels else "merge"


def _so_far(diagnostics: Diagnostics | None, validation: Validation | None) -> Verdict:
    runs = 0 if validation is None else len(validation.reference_runs)
    unknown = (
        "how well merges rank is not known yet "
        f"({count(runs, 'held-out run')}, fewer than {ENOUGH_RUNS})"
    )
    if validation is not None and validation.budget == "sum":
        unknown = (
            "how well merges rank mixtures at equal budget is not known: a run "
            "on n units is n times as long (budget 'sum')"
        )
    if diagnostics is None:
        return Verdict(UNKNOWN, [unknown], False)
    if diagnostics.below_noise:
        what = "their noise" if diagnostics.replicates else "the text can resolve"
        why = f"members differ by less than {what} in every domain"
        word = BOUND if diagnostics.replicates else UNRESOLVED
        return Verdict(word, [why, unknown], False)
    return Verdict(diagnostics.verdict, [*diagnostics.reasons, unknown], False)


def _all_bound(
    diagnostics: Diagnostics | None, validation: Validation, targets: Targets
) -> bool:
    """By the ceilings or, without replicates, by the diagnostics."""
    if not validation.ceilings:
        return diagnostics is not None and diagnostics.below_noise
    return all(validation.ceilings[n] < BELOW_NOISE for n in targets.held_out)


def _ranks(validation: Validation, targets: Targets) -> tuple[bool, str]:
    """Whether ranks hold, and the figures that say so."""
    which, where = predictor(validation), targets.level
    row = validation.agreement[where][which]
    value, bounds = row["spearman"], row["interval"]
    for claim in validation.claims:
        if claim["kind"] == "out-of-pool" and claim["predictor"] == which:
            value, bounds = claim["spearman"], claim["spearman_interval"]
            where = count(len(claim["targets"]), "out-of-pool domain")
    text = (
        f"{label(which)} and held-out runs have a Spearman correlation of "
        f"{number(value, 2)}{interval(bounds)} on {where} "
        f"({count(len(validation.reference_runs), 'run')})"
    )
    if bounds is None:
        return False, f"{text}, without an interval"
    if bounds[0] <= 0:
        return False, f"{text}, which could be chance"
    return True, text


def _levels(
    validation: Validation, target: str, is_small: bool, error: str
) -> list[str]:
    """What is off about predicted levels; empty if nothing is."""
    if validation.unit == "unknown":
        return ["the runs may be in a unit other than bits per byte"]
    which, off = predictor(validation), []
    slope = validation.agreement[target][which]["slope"]
    if not SLOPES[0] <= slope <= SLOPES[1]:
        off.append(f"where predictions differ by 1, runs differ by {number(slope, 2)}")
    if not is_small:
        off.append(error)
    if which != CALIBRATED:
        return [*off, "merges are not calibrated, so they have no intervals"]
    covered = validation.check.get(target, {}).get("covered", float("nan"))
    if np.isnan(covered):
        off.append("the coverage of the 90 % intervals is not known")
    elif covered < COVERED:
        off.append(f"the 90 % intervals cover only {covered:.0%} of the runs")
    return off


def _error(validation: Validation, target: str) -> tuple[bool, str]:
    """Whether the error on levels is small beside the spread of the runs."""
    which = predictor(validation)
    reference_M = np.array(validation.points["reference"][target])
    off_M = reference_M - np.array(validation.points[which][target])
    error, spread = float(np.abs(off_M).mean()), float(reference_M.std(ddof=1))
    if error < SMALL_ERROR * spread:
        size = "less than half"
    elif error <= spread:
        size = "more than half"
    else:
        size = "more than all"
    return error < SMALL_ERROR * spread, (
        f"on {target} the mean absolute error of the {label(which)} is "
        f"{number(error)} bits per byte, {size} of the standard deviation of "
        f"the held-out runs ({number(spread)})"
    )
