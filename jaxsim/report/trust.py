"""How far to trust the answer: a verdict, its reasons, and what they rest on."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsim.report.agreement import label
from jaxsim.report.answer import Lines, no_error, on_test_text, shift_sentence
from jaxsim.report.data import ReportData
from jaxsim.report.table import count, interval, listed, number, signed
from jaxsim.scoring.targets import KINDS, MACROS, Targets
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
    UNKNOWN: "There are no diagnostics and too few reference runs: run "
    "`jaxsim validate`.",
}
_BEFORE_RUNS = {
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


def verdict(diagnostics: Diagnostics | None, validation: Validation | None) -> Verdict:
    """Applies the first of these rules that fits:

    1. The diagnostics say 'do not trust': do not trust.
    2. Fewer than 12 held-out runs, or runs whose losses depend on their length
       (budget 'sum'): the verdict of the diagnostics. If members differ by less than
       their noise (without replicates: than the text can resolve): below the noise
       floor (not resolved). Without diagnostics: not known.
    3. Every out-of-pool domain (without any: the in-pool macro) is below the
       noise floor: below the noise floor.
    4. The 95% interval of the predictor's mean Spearman correlation over the
       out-of-pool domains (without any: on the in-pool macro) reaches 0 or
       below, or there is none: do not trust. The predictor is the calibrated
       merge or, without one, the merge.
    5. On the macro of these domains the slope of runs on predictions is in
       0.5..2, the mean absolute error on runs that were not fitted is below
       half of the runs' standard deviation, and the 90% intervals hold at
       least 80% of them: trust.
    6. Otherwise: trust ranks only.
    """
    if diagnostics is not None and diagnostics.verdict == DO_NOT_TRUST:
        return Verdict(DO_NOT_TRUST, diagnostics.reasons, validation is not None)
    runs = 0 if validation is None else len(validation.reference_runs)
    if validation is None or runs < ENOUGH_RUNS or validation.budget == "sum":
        return _before_runs(diagnostics, validation, runs)
    targets = targets_of(validation)
    is_bound = all(
        validation.ceilings.get(n, 0) < BELOW_NOISE for n in targets.held_out
    )
    if not validation.ceilings:  # without replicates the diagnostics decide
        is_bound = diagnostics is not None and diagnostics.below_noise
    if is_bound:
        names = listed(targets.held_out)
        return Verdict(BOUND, [f"every target that counts: {names}"], True)
    holds, ranks = _ranks(validation, targets)
    if not holds:
        return Verdict(DO_NOT_TRUST, [ranks], True)
    is_small, error = _error(validation, targets.level)
    off = _levels(validation, targets.level, is_small, error)
    if off:
        return Verdict(RANKS_ONLY, [ranks, *off], True)
    return Verdict(TRUST, [ranks, error], True)


def _before_runs(
    diagnostics: Diagnostics | None, validation: Validation | None, runs: int
) -> Verdict:
    if validation is not None and validation.budget == "sum":
        unknown = (
            "how well merges rank at equal budget is not known: a run on n units is "
            "n times as long (budget 'sum')"
        )
    else:
        held_out = count(runs, "held-out run")
        unknown = (
            f"how well merges rank is not known ({held_out}, fewer than {ENOUGH_RUNS})"
        )
    if diagnostics is None:
        return Verdict(UNKNOWN, [unknown], False)
    if diagnostics.below_noise:
        what = "training noise" if diagnostics.replicates else "the text can resolve"
        word = BOUND if diagnostics.replicates else UNRESOLVED
        why = f"members differ by less than {what} in every domain"
        return Verdict(word, [why, unknown], False)
    return Verdict(diagnostics.verdict, [*diagnostics.reasons, unknown], False)


def _predictor(validation: Validation) -> str:
    """The predictor that the verdict is about."""
    calibrated = CALIBRATED in validation.points
    return CALIBRATED if calibrated and validation.tells_levels else "merge"


def _ranks(validation: Validation, targets: Targets) -> tuple[bool, str]:
    """Whether ranks hold, and the figures that say so."""
    which, where = _predictor(validation), targets.level
    row = validation.agreement[where][which]
    value, bounds = row["spearman"], row["interval"]
    for claim in validation.claims:
        if claim["kind"] == "out-of-pool" and claim["predictor"] == which:
            value, bounds = claim["spearman"], claim["spearman_interval"]
            where = count(len(claim["targets"]), "out-of-pool domain")
    text = (
        f"Spearman correlation of the {label(which)} with "
        f"{count(len(validation.reference_runs), 'held-out run')} on {where}: "
        f"{number(value, 2)}{interval(bounds)}"
    )
    if bounds is None:
        return False, f"{text}, without an interval"
    if bounds[0] <= 0:
        return False, f"{text}, which could be chance"
    return True, text


def _levels(validation: Validation, on: str, is_small: bool, error: str) -> list[str]:
    """What is off about predicted levels; empty if nothing is."""
    if validation.unit == "unknown":
        return ["the runs may be in a unit other than bits per byte"]
    which, off = _predictor(validation), []
    slope = validation.agreement[on][which]["slope"]
    if not SLOPES[0] <= slope <= SLOPES[1]:
        off.append(f"the slope of runs on predictions is {number(slope, 2)}")
    if not is_small:
        off.append(error)
    if which != CALIBRATED:
        return [*off, "merges are not calibrated, so they have no intervals"]
    covered = validation.check.get(on, {}).get("covered", float("nan"))
    if np.isnan(covered):
        off.append("the coverage of the 90% intervals is not known")
    elif covered < COVERED:
        off.append(f"the 90% intervals cover only {covered:.0%} of the runs")
    return off


def _error(validation: Validation, on: str) -> tuple[bool, str]:
    """Whether the error on levels is small beside the spread of the runs."""
    which = _predictor(validation)
    reference_M = np.array(validation.points["reference"][on])
    off_M = reference_M - np.array(validation.points[which][on])
    error, spread = float(np.abs(off_M).mean()), float(reference_M.std(ddof=1))
    return error < SMALL_ERROR * spread, (
        f"mean absolute error of the {label(which)} on {on}: {number(error)} bits per "
        f"byte, {error / spread:.0%} of the standard deviation of the held-out runs"
    )


# What the verdict rests on.


def trust_lines(data: ReportData) -> Lines:
    """Labels and sentences, below the verdict."""
    lines: Lines = []
    if data.diagnostics is not None:
        lines += diagnostics(data.diagnostics)
    else:
        text = (
            "None yet. `jaxsim validate` checks whether these members can be averaged."
        )
        lines.append(("Diagnostics", text))
    lines.append(("Reference runs", _runs(data)))
    if data.validation is not None:
        lines.append(("Noise", noise_sentence(data.validation)))
        lines += unclaimed(data.validation)
        if text := calibration_sentence(data.validation):
            lines.append(("Calibration", text))
    if data.found is not None:
        lines.append(("The choice", _choice(data.found)))
    return lines


def _runs(data: ReportData) -> str:
    validation = data.validation
    if validation is None:
        return "None yet, so nothing tests the predictions. Run `jaxsim validate`."
    runs = len(validation.reference_runs)
    text = count(runs, "held-out run") + (
        ", brought by the user." if validation.given else ", drawn at random."
    )
    if validation.budget == "sum":
        text += (
            " A run on n units is n times as long (budget 'sum'). That says nothing "
            "about mixtures at equal budget, so searches do not use these runs."
        )
    if runs < ENOUGH_RUNS:
        text += f" Fewer than {ENOUGH_RUNS}: no intervals, single points instead."
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
    drift, line_barriers = diagnostics.drift, diagnostics.line_barriers
    indices = np.triu_indices(len(diagnostics.members), 1)
    cosine_P = np.array(diagnostics.cosines)[indices]
    low, high = (end(drift, key=drift.__getitem__) for end in (min, max))
    distance = (
        f"{drift[low]:.2%} ({low}) to {drift[high]:.2%} ({high}) of the base model's "
        "norm. 3% is little. At 10% losses of merges differ from training, and ranks "
        "may."
    )
    cosines = (
        f"{number(cosine_P.min(), 2)} to {number(cosine_P.max(), 2)} between the "
        "members' weight deltas (1: same direction, 0: unrelated)."
    )
    if (
        not diagnostics.replicates
        and cosine_P.min() > _ALIKE
        and not diagnostics.below_noise
    ):
        cosines += (
            " Members moved in nearly the same direction, as pieces of one source do. "
            "Only replicates can separate their differences from noise."
        )
    windows = diagnostics.windows
    text = f"at most {count(windows, 'window')}" if windows else "all windows"
    worst = max(diagnostics.barriers, key=lambda n: diagnostics.barriers[n])
    members = [name for name in line_barriers if name != UNIFORM]
    member = max(members, key=line_barriers.__getitem__)
    barriers = (
        "Highest point above the straight line from the base model, in bits per byte: "
        f"{signed(line_barriers[UNIFORM])} to the average of all members, "
        f"{signed(line_barriers[member])} at worst to one member ({member}). Worst "
        "average minus the mean of its members: "
        f"{signed(diagnostics.barriers[worst])} ({worst}). Positive values mean that "
        f"averaging hurts. Measured on {text} of dev text per domain."
    )
    return [
        ("Drift", distance),
        ("Cosine similarity", cosines),
        ("Barriers", barriers),
        ("Resolution", _resolution(diagnostics)),
    ]


def _resolution(diagnostics: Diagnostics) -> str:
    known = {n: v for n, v in diagnostics.resolution.items() if v is not None}
    if not known:
        return "Not known: there is too little text."
    shown = [f"{v:.2g}% ({n})" for n, v in known.items() if n in MACROS]
    if domains := [v for n, v in known.items() if n not in MACROS]:
        low, high = f"{min(domains):.2g}%", f"{max(domains):.2g}%"
        ends = low if low == high else f"{low} to {high}"
        shown.append(f"{ends} (single domains)")
    noise = (
        f"training noise ({count(diagnostics.replicates, 'replicate')})"
        if diagnostics.replicates
        else "no training noise, which replicates of members would measure"
    )
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
    text = (
        f"{count(validation.replicates, 'replicate')}. Noise ceiling, the highest "
        f"correlation that noise allows: {listed(shown)}. "
    )
    low = [name for name, v in known.items() if v < BELOW_NOISE]
    return text + (
        f"{len(low)} of {count(len(known), 'target')} below the noise floor (a ceiling "
        f"under {BELOW_NOISE}){f': {listed(low)}' if low else ''}."
    )


def unclaimed(validation: Validation) -> Lines:
    """Kinds of domains about which nothing can be claimed."""
    claimed = {claim["kind"] for claim in validation.claims}
    return [
        (f"No comparison with baselines ({kind})",
         f"{count(len(names), 'domain')}, all below the noise floor.")
        for kind, names in targets_of(validation).domains.items()
        if names and kind not in claimed
    ]  # fmt: skip


def calibration_sentence(validation: Validation) -> str:
    """What calibration was fitted on, and where it helps; '' if unknown."""
    macros = targets_of(validation).macros.values()
    known = {
        name: row
        for name, row in validation.check.items()
        if name not in macros and np.isfinite(row["calibrated"])
    }
    if validation.unit == "unknown" or not known:
        return ""
    runs = count(len(validation.calibration_runs), "calibration run")
    held_out = count(len(validation.reference_runs), "held-out run")
    text = (
        f"Fitted on {runs}, tested on {held_out}."
        if len(validation.calibration_runs) >= ENOUGH
        else f"With {runs}, each held-out run is predicted from the others."
    )
    worse = [n for n, row in known.items() if row["calibrated"] >= row["merge"]]
    text += (
        f" The error falls in {len(known) - len(worse)} of "
        f"{count(len(known), 'domain')}"
    )
    return text + (f", not in {listed(worse)}." if worse else ".")


def _choice(found: SearchResult) -> str:
    text = f"Made on at most {count(found.windows, 'window')} of dev text per domain"
    if no_error(found):
        text += ", too few to estimate an error."
    elif found.ties["resampled"] == "windows":
        text += (
            ". There are too few documents, so windows were resampled as if they were "
            "independent."
        )
    else:
        text += "; documents were resampled."
    return " ".join(filter(None, (text, shift_sentence(found), on_test_text(found))))
