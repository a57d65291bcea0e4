"""How far to trust the answer: a verdict, its reasons, and what they rest on."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsim.log import counted
from jaxsim.report.agreement import label
from jaxsim.report.answer import Lines, on_test_text, shift_sentence
from jaxsim.report.data import ReportData
from jaxsim.report.table import interval, listed, number, signed
from jaxsim.scoring.targets import KINDS, MACROS
from jaxsim.search.result import SearchResult
from jaxsim.validation.agreement import BELOW_NOISE, ENOUGH_RUNS
from jaxsim.validation.calibration import ENOUGH
from jaxsim.validation.diagnostics import (
    DO_NOT_TRUST,
    RANKS_ONLY,
    TRUST,
    UNIFORM,
    Diagnostics,
)
from jaxsim.validation.measured import CALIBRATED, targets_of
from jaxsim.validation.validate import Validation

BOUND = "below the noise floor"
UNRESOLVED = "not resolved"
UNKNOWN = "not known"
SLOPES = (0.5, 2.0)  # of runs on predictions, outside which levels are off
SMALL_ERROR = 0.5  # share of the spread of the runs
COVERED = 0.8  # of runs within 90% intervals
# The lowest cosine of random pieces of one source was 0.80, of six eras 0.54.
_ALIKE = 0.75

_MEANING = {
    TRUST: "Predicted ranks and losses agree with held-out runs.",
    RANKS_ONLY: "Predicted ranks agree with held-out runs. Predicted losses do not.",
    DO_NOT_TRUST: "Predictions are not reliable here. Train the candidates "
    "themselves, or fix the pool first.",
    BOUND: "Runs on the same data differ nearly as much as runs on different data. "
    "Use more text, longer runs, or partitions that differ more.",
    UNRESOLVED: "Members differ by less than this evaluation text can resolve. Use "
    "more text, longer runs, or partitions that differ more. Training noise was not "
    "measured.",
    UNKNOWN: "There are no diagnostics and too few reference runs. The command "
    "`validate` makes both.",
}
_BEFORE_RUNS: dict[str, str] = {
    TRUST: "The diagnostics show no problem. Only reference runs can confirm the "
    "predictions.",
    RANKS_ONLY: "The diagnostics say that predicted losses will be off. Only "
    "reference runs can confirm the ranks.",
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One of the words above, why, and whether it rests on reference runs."""

    word: str
    reasons: Sequence[str]
    by_references: bool

    @property
    def meaning(self) -> str:
        """What a reader may do with it."""
        if self.by_references:
            return _MEANING[self.word]
        return _BEFORE_RUNS.get(self.word, _MEANING[self.word])

    @property
    def line(self) -> tuple[str, str]:
        """Its label and sentences, for the console."""
        return "Verdict", f"{self.word}. {self.meaning}"


def verdict(diagnostics: Diagnostics | None, validation: Validation | None) -> Verdict:
    """Applies the first of the rules in docs/validate.md that fits."""
    if diagnostics is not None and diagnostics.verdict == DO_NOT_TRUST:
        return Verdict(DO_NOT_TRUST, diagnostics.reasons, validation is not None)
    runs = 0 if validation is None else len(validation.reference_runs)
    if validation is None or runs < ENOUGH_RUNS or validation.budget == "sum":
        return _before_runs(diagnostics, validation, runs)
    targets, ceilings = targets_of(validation), validation.ceilings
    # Without replicates the diagnostics decide.
    is_bound = diagnostics is not None and diagnostics.below_noise
    if ceilings:
        is_bound = all(ceilings.get(n, 0) < BELOW_NOISE for n in targets.held_out)
    if is_bound:
        names = listed(targets.held_out)
        return Verdict(BOUND, [f"every target that counts: {names}"], True)
    is_calibrated = CALIBRATED in validation.points and validation.tells_levels
    which = CALIBRATED if is_calibrated else "merge"
    holds, ranks = _ranks(validation, which, targets.level)
    if not holds:
        return Verdict(DO_NOT_TRUST, [ranks], True)
    off, error = _levels(validation, which, targets.level)
    word, levels = (RANKS_ONLY, off) if off else (TRUST, [error])
    return Verdict(word, [ranks, *levels], True)


def _before_runs(
    diagnostics: Diagnostics | None, validation: Validation | None, runs: int
) -> Verdict:
    few = f"{counted(runs, 'held-out run')}, fewer than {ENOUGH_RUNS}"
    unknown = f"how well merges rank is not known ({few})"
    if validation is not None and validation.budget == "sum":
        unknown = (
            "how well merges rank at equal budget is not known: a run on n units is "
            "n times as long (budget 'sum')"
        )
    if diagnostics is None:
        return Verdict(UNKNOWN, [unknown], False)
    if not diagnostics.below_noise:
        return Verdict(diagnostics.verdict, [*diagnostics.reasons, unknown], False)
    word, what = UNRESOLVED, "the text can resolve"
    if diagnostics.replicates:
        word, what = BOUND, "training noise"
    why = f"members differ by less than {what} in every domain"
    return Verdict(word, [why, unknown], False)


def _ranks(validation: Validation, which: str, on: str) -> tuple[bool, str]:
    """Whether the ranks of a predictor hold, and the figures that say so."""
    row = validation.agreement[on][which]
    value, bounds = row["spearman"], row["interval"]
    for claim in validation.claims:
        if claim["kind"] != "out-of-pool" or claim["predictor"] != which:
            continue
        if len(claim["targets"]) == 1:  # the row of that target says it
            (on,) = claim["targets"]
            row = validation.agreement[on][which]
            value, bounds = row["spearman"], row["interval"]
        else:
            value, bounds = claim["spearman"], claim["spearman_interval"]
            on = counted(len(claim["targets"]), "out-of-pool domain")
    text = (
        f"Spearman correlation of the {label(which)} with "
        f"{counted(len(validation.reference_runs), 'held-out run')} on {on}: "
        f"{number(value, 2)}{interval(bounds)}"
    )
    if bounds is None:
        return False, f"{text}, without an interval"
    if bounds[0] <= 0:
        return False, f"{text}, which could be chance"
    return True, text


def _levels(validation: Validation, which: str, on: str) -> tuple[list[str], str]:
    """What is off about a predictor's levels, if anything, and its error."""
    if validation.unit == "unknown":
        return ["the runs may be in a unit other than bits per byte"], ""
    reference_M = np.array(validation.points["reference"][on])
    off_M = reference_M - np.array(validation.points[which][on])
    error, spread = float(np.abs(off_M).mean()), float(reference_M.std(ddof=1))
    text = (
        f"mean absolute error of the {label(which)} on {on}: {number(error)} bits per "
        f"byte, {error / spread:.0%} of the standard deviation of the held-out runs"
    )
    off, slope = [], validation.agreement[on][which]["slope"]
    if not SLOPES[0] <= slope <= SLOPES[1]:
        off.append(f"the slope of runs on predictions is {number(slope, 2)}")
    if not error < SMALL_ERROR * spread:
        off.append(text)
    covered = validation.check.get(on, {}).get("covered", np.nan)
    if which != CALIBRATED:
        off.append("merges are not calibrated, so they have no intervals")
    elif np.isnan(covered):
        off.append("the coverage of the 90% intervals is not known")
    elif covered < COVERED:
        off.append(f"the 90% intervals cover only {covered:.0%} of the runs")
    return off, text


# What the verdict rests on.


def trust_lines(data: ReportData) -> Lines:
    """Labels and sentences, below the verdict."""
    lines = diagnostics(data.diagnostics) if data.diagnostics else []
    if validation := data.validation:
        lines.append(("Reference runs", _runs(validation)))
        lines.append(("Noise", noise_sentence(validation)))
        if text := calibration_sentence(validation):
            lines.append(("Calibration", text))
    if data.found is not None:
        lines.append(("The choice", _choice(data.found)))
    return lines


def _runs(validation: Validation) -> str:
    drawn = "brought by the user" if validation.given else "drawn at random"
    text = f"{counted(len(validation.reference_runs), 'held-out run')}, {drawn}."
    if validation.budget == "sum":
        text += " Searches do not use them (budget 'sum')."
    if not validation.calibration_runs and not validation.given:
        text += (
            " No calibration runs (config.validate.calibration_runs): no best single "
            "weight and no regressions on weights, and calibrated merges are fitted on "
            "the other held-out runs."
        )
    if validation.unit == "unknown":
        text += " Their unit is not known, so only ranks can be compared."
    return text


def diagnostics(diagnostics: Diagnostics) -> Lines:
    """What can be seen of a pool before any reference run."""
    drift, barriers = diagnostics.drift, diagnostics.barriers
    to_members = {n: v for n, v in diagnostics.line_barriers.items() if n != UNIFORM}
    low, high = min(drift, key=drift.__getitem__), max(drift, key=drift.__getitem__)
    worst = max(barriers, key=barriers.__getitem__)
    member = max(to_members, key=to_members.__getitem__)
    indices = np.triu_indices(len(diagnostics.members), 1)
    cosine_P = np.array(diagnostics.cosines)[indices]
    cosines = (
        f"{number(cosine_P.min(), 2)} to {number(cosine_P.max(), 2)} between the "
        "members' weight deltas (1: same direction, 0: unrelated)."
    )
    is_noise_known = diagnostics.replicates or diagnostics.below_noise
    if cosine_P.min() > _ALIKE and not is_noise_known:
        cosines += (
            " Members moved in nearly the same direction, as pieces of one source do. "
            "Only replicates can separate their differences from noise."
        )
    windows = diagnostics.windows
    text = f"at most {counted(windows, 'window')}" if windows else "all windows"
    return [
        (
            "Drift",
            f"{drift[low]:.2%} ({low}) to {drift[high]:.2%} ({high}) of the base "
            "model's norm. 3% is little. At 10% losses of merges differ from training, "
            "and ranks may.",
        ),
        ("Cosine similarity", cosines),
        (
            "Barriers",
            "Highest point above the straight line from the base model, in bits per "
            f"byte: {signed(diagnostics.line_barriers[UNIFORM])} to the average of all "
            f"members, {signed(to_members[member])} at worst to one member ({member}). "
            "Worst average minus the mean of its members: "
            f"{signed(barriers[worst])} ({worst}). Positive values mean that "
            f"averaging hurts. Measured on {text} of dev text per domain.",
        ),
        ("Resolution", _resolution(diagnostics)),
    ]


def _resolution(diagnostics: Diagnostics) -> str:
    known = {n: v for n, v in diagnostics.resolution.items() if v is not None}
    if not known:
        return "Not known: there is too little text."
    shown = [f"{v:.2g}% ({n})" for n, v in known.items() if n in MACROS]
    if domains := [v for n, v in known.items() if n not in MACROS]:
        ends = dict.fromkeys(f"{v:.2g}%" for v in (min(domains), max(domains)))
        shown.append(f"{' to '.join(ends)} (single domains)")
    noise = "no training noise, which replicates of members would measure"
    if diagnostics.replicates:
        noise = f"training noise ({counted(diagnostics.replicates, 'replicate')})"
    text = (
        "Smallest difference between two mixtures that this text resolves: "
        f"{listed(shown)} of the loss. This counts document noise and {noise}."
    )
    if diagnostics.below_noise:
        text += " Members differ by less in every domain, so there is nothing to rank."
    return text


def noise_sentence(validation: Validation) -> str:
    """What replicates say about noise, or that there are none."""
    known = validation.ceilings
    if not known:
        return "Not measured (no replicates), so the noise ceiling is not known."
    leads = [targets_of(validation).lead(kind) for kind in KINDS]
    shown = [
        f"{number(known[n], 2)}{interval(validation.ceiling_intervals.get(n))} ({n})"
        for n in leads
        if n in known
    ]
    joint = [
        f"{number(row['ceiling'], 2)}{interval(row['ceiling_interval'])} ({n})"
        for n, rows in validation.predictor_noise.items()
        if n in leads and np.isfinite((row := rows["merge"])["ceiling"])
    ]
    also = f" With the noise of merges as well: {listed(joint)}." if joint else ""
    low = [name for name, v in known.items() if v < BELOW_NOISE]
    names = f", so in no comparison with baselines: {listed(low)}" if low else ""
    return (
        f"{counted(validation.replicates, 'replicate')}. Noise ceiling, the highest "
        f"correlation that noise allows: {listed(shown)}.{also} {len(low)} of "
        f"{counted(len(known), 'target')} below the noise floor (a ceiling under "
        f"{BELOW_NOISE}){names}."
    )


def calibration_sentence(validation: Validation) -> str:
    """What calibration was fitted on, and where it helps; '' if unknown."""
    kinds = targets_of(validation).kinds
    known = {
        name: row
        for name, row in validation.check.items()
        if kinds[name] != "macro" and np.isfinite(row["calibrated"])
    }
    if validation.unit == "unknown" or not known:
        return ""
    fitted = len(validation.calibration_runs)
    runs = counted(fitted, "calibration run")
    held_out = counted(len(validation.reference_runs), "held-out run")
    text = f"With {runs}, each held-out run is predicted from the others."
    if fitted >= ENOUGH:
        text = f"Fitted on {runs}, tested on {held_out}."
    worse = [n for n, row in known.items() if row["calibrated"] >= row["merge"]]
    falls = f"{len(known) - len(worse)} of {counted(len(known), 'domain')}"
    but = f", not in {listed(worse)}" if worse else ""
    return f"{text} The error falls in {falls}{but}."


def _choice(found: SearchResult) -> str:
    made = f"Made on at most {counted(found.windows, 'window')} of dev text per domain."
    return " ".join(filter(None, (made, shift_sentence(found), on_test_text(found))))
