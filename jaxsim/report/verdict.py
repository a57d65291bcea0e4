"""How far the predictions can be trusted, in one word and its reasons."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsim.report.agreement import enough_truths, label, targets_of
from jaxsim.report.claims import of_kind
from jaxsim.report.wording import count, interval, number
from jaxsim.study.agreement import ENOUGH_TRUTHS, NOISE_BOUND
from jaxsim.study.diagnostics import DO_NOT_TRUST, RANKS_ONLY, TRUST, Gauge
from jaxsim.study.measured import CALIBRATED, IN_POOL, OUT_OF_POOL
from jaxsim.study.validate import Validation

BOUND = "noise-bound: nothing can be told apart"
UNRESOLVED = "not resolved: there is too little text to tell members apart"
UNKNOWN = "not known"
SLOPES = (0.5, 2.0)  # of truth on prediction, outside which levels are off
SMALL_ERROR = 0.5  # share of the truths' spread
COVERED = 0.8  # of truths within 90 % intervals

_MEANING = {
    TRUST: "A mixture predicted to be better tends to train better, and the "
    "losses predicted for it hold within the intervals below.",
    RANKS_ONLY: "A mixture predicted to be better tends to train better, but "
    "do not read a predicted loss as what training would give.",
    DO_NOT_TRUST: "What is predicted here says nothing sure about training. "
    "Train the candidates themselves, or mend the pool first.",
    BOUND: "Two runs on the same data differ nearly as much as runs on "
    "different data. More text, longer runs or partitions that differ more "
    "are needed before any mixture can be preferred.",
    UNRESOLVED: "Members differ by no more than this evaluation text can "
    "resolve. More text, longer runs or partitions that differ more are needed "
    "before any mixture can be preferred. The noise of training was not "
    "measured.",
    UNKNOWN: "There is neither a gauge of the pool nor are there truths "
    "enough to say: run `jaxsim validate`.",
}
_SO_FAR = {
    TRUST: "Nothing that the pool shows speaks against predicting from it; "
    "whether the predictions hold, only truths can say.",
    RANKS_ONLY: "By what the pool shows, predicted losses will be off, and "
    "whether the order of mixtures holds, only truths can say.",
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One of the words above, why, and whether truths have had their say."""

    word: str
    reasons: Sequence[str]
    by_truths: bool

    @property
    def meaning(self) -> str:
        """What a reader may do with it."""
        if self.by_truths:
            return _MEANING[self.word]
        return _SO_FAR.get(self.word, _MEANING[self.word])


def verdict(gauge: Gauge | None, validation: Validation | None) -> Verdict:
    """The rule. The first that applies:

    1. The gauge says 'do not trust': so does this.
    2. Fewer than 12 truths, or truths whose losses tell of their length (budget
       'sum'): what the gauge says ('noise-bound' if it finds the members
       within their noise, 'not resolved' if nothing was repeated), and how
       well merges rank is not known yet. Without a gauge nothing is known.
    3. Every out-of-pool domain (without any: the in-pool macro) is
       noise-bound: nothing can be told apart.
    4. The 95 % interval of the predictor's mean Spearman correlation over the
       out-of-pool domains (without any: on the in-pool macro) reaches 0 or
       below, or there is none: do not trust. The predictor is the calibrated
       merge or, without one, the merge.
    5. On the macro of these domains the slope of truth on prediction is in
       0.5..2, the mean absolute error on truths that were not fitted is below
       half of the truths' standard deviation, and the 90 % intervals hold at
       least 80 % of them: trust.
    6. Else ranks hold and levels are off: trust ranks only.
    """
    if gauge is not None and gauge.verdict == DO_NOT_TRUST:
        return Verdict(DO_NOT_TRUST, gauge.reasons, validation is not None)
    if (
        validation is None
        or not enough_truths(validation)
        or validation.budget == "sum"
    ):
        return _so_far(gauge, validation)
    matters = targets_of(validation, "out-of-pool") or (aim(validation),)
    if _all_bound(gauge, validation, matters):
        return Verdict(
            BOUND,
            [f"{count(len(matters), 'target')} that matter, all noise-bound"],
            True,
        )
    holds, ranks = _ranks(validation)
    if not holds:
        return Verdict(DO_NOT_TRUST, [ranks], True)
    off = _levels(validation)
    if off:
        return Verdict(RANKS_ONLY, [ranks, *off], True)
    return Verdict(TRUST, [ranks, _error(validation)[1]], True)


def predictor(validation: Validation) -> str:
    """What a user of this pool would go by."""
    calibrated = CALIBRATED in validation.points
    return CALIBRATED if calibrated and validation.tells_levels else "merge"


def aim(validation: Validation) -> str:
    """The target that levels are judged on."""
    for macro, kind in ((OUT_OF_POOL, "out-of-pool"), (IN_POOL, "in-pool")):
        if macro in validation.targets:
            return macro
        if names := targets_of(validation, kind):
            return names[0]
    return validation.targets[0]


def _so_far(gauge: Gauge | None, validation: Validation | None) -> Verdict:
    there = 0 if validation is None else len(validation.truths)
    few = (
        f"how well merges rank is not known yet ({count(there, 'truth')}, "
        f"fewer than {ENOUGH_TRUTHS})"
    )
    if validation is not None and validation.budget == "sum":
        few = (
            "how well merges rank ratios at equal budget is not known: a truth "
            "of n units is n times as long (budget 'sum')"
        )
    if gauge is None:
        return Verdict(UNKNOWN, [few], False)
    if gauge.noise_bound:
        what = "their noise" if gauge.repeats else "the text can resolve"
        why = f"members differ by less than {what} in every domain"
        word = BOUND if gauge.repeats else UNRESOLVED
        return Verdict(word, [why, few], False)
    return Verdict(gauge.verdict, [*gauge.reasons, few], False)


def _all_bound(
    gauge: Gauge | None, validation: Validation, matters: Sequence[str]
) -> bool:
    """By the ceilings or, where nothing was repeated, by the gauge."""
    if not validation.ceilings:
        return gauge is not None and gauge.noise_bound
    return all(validation.ceilings[name] < NOISE_BOUND for name in matters)


def _ranks(validation: Validation) -> tuple[bool, str]:
    """Whether ranks hold, and the figures that say so."""
    which = predictor(validation)
    table = validation.agreement[aim(validation)][which]
    value, bounds, where = table["spearman"], table["interval"], aim(validation)
    for claim in of_kind(validation, "out-of-pool"):
        if claim["predictor"] == which:
            value, bounds = claim["spearman"], claim["spearman_interval"]
            names = claim["targets"]
            where = f"{count(len(names), 'out-of-pool domain')}"
    text = (
        f"{label(which, validation)} and truths agree with a Spearman "
        f"correlation of {number(value, 2)}{interval(bounds)} on {where} "
        f"({len(validation.truths)} truths)"
    )
    if bounds is None:
        return False, f"{text}, without an interval"
    if bounds[0] <= 0:
        return False, f"{text}, which chance alone could give"
    return True, text


def _levels(validation: Validation) -> list[str]:
    """What is off about predicted levels; empty if nothing is."""
    if validation.unit == "unknown":
        return ["the truths may be in another unit than bits per byte"]
    target, which = aim(validation), predictor(validation)
    off = []
    slope = validation.agreement[target][which]["slope"]
    if not SLOPES[0] <= slope <= SLOPES[1]:
        off.append(
            "where predictions differ by 1, truths differ by "
            f"{number(slope, 2)}"
        )
    small, text = _error(validation)
    if not small:
        off.append(text)
    covered = validation.check.get(target, {}).get("covered", float("nan"))
    if which == CALIBRATED and not covered >= COVERED:
        off.append(
            "how often 90 % intervals hold the truth is not known"
            if np.isnan(covered)
            else f"only {covered:.0%} of the truths lie in their 90 % intervals"
        )
    if which != CALIBRATED:
        off.append("merges are not calibrated, so they have no intervals")
    return off


def _error(validation: Validation) -> tuple[bool, str]:
    """Whether the error on levels is small beside the truths' spread."""
    target, which = aim(validation), predictor(validation)
    truth_M = np.array(validation.points["truth"][target])
    off_M = truth_M - np.array(validation.points[which][target])
    error, spread = float(np.abs(off_M).mean()), float(truth_M.std(ddof=1))
    if error < SMALL_ERROR * spread:
        size = "less than half"
    elif error <= spread:
        size = "more than half"
    else:
        size = "more than all"
    return error < SMALL_ERROR * spread, (
        f"on {target} the mean absolute error of the {label(which, validation)}"
        f" is {number(error, 4)} bits per byte, {size} of the truths' standard "
        f"deviation ({number(spread, 4)})"
    )
