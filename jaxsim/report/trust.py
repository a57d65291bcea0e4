"""How far to trust the answer, in plain sentences."""

import numpy as np

from jaxsim.report.answer import no_error, report_check, shift_sentence
from jaxsim.report.data import ReportData, StandardScores
from jaxsim.report.format import (
    count,
    interval,
    listed,
    number,
    signed,
    target,
)
from jaxsim.report.outcome import on_target
from jaxsim.scoring.targets import KINDS, MACROS
from jaxsim.search.result import SearchResult
from jaxsim.validation.agreement import BELOW_NOISE, ENOUGH_RUNS
from jaxsim.validation.calibration import ENOUGH
from jaxsim.validation.diagnostics import UNIFORM, Diagnostics
from jaxsim.validation.measured import targets_of
from jaxsim.validation.validate import Validation

# The lowest cosine of random pieces of one source was 0.80, of six eras 0.54.
_ALIKE = 0.75
Lines = list[tuple[str, str]]


def trust_lines(data: ReportData) -> Lines:
    """Pairs of a catchword and sentences, below the verdict."""
    lines = []
    if data.overrides:
        text = (
            "An override admitted what is normally refused; every figure below "
            f"may rest on it: {'; '.join(data.overrides)}."
        )
        lines.append(("Overrides", text))
    if data.diagnostics is not None:
        lines += diagnostics(data.diagnostics)
    else:
        text = (
            "None: whether averages of these members can stand for training is "
            "not known. `jaxsim validate` checks that first."
        )
        lines.append(("Diagnostics", text))
    lines.append(("Reference runs", _runs(data)))
    if data.validation is not None:
        lines.append(("Noise", noise_sentence(data.validation)))
        lines += unclaimed(data.validation)
        if text := calibration_sentence(data.validation):
            lines.append(("Calibration", text))
        lines += _level(data.validation, data.found)
    if data.found is not None:
        lines.append(("The choice", _choice(data.found)))
    text = (
        "Only losses were measured, on the text of these domains, with models "
        "of one size: nothing here is about downstream tasks, larger models "
        "or runs of other lengths"
    )
    times = data.token_multiplier
    if times is not None and data.validation and not data.validation.given:
        text += f" (token multiplier {times:g})"
    lines.append(("Limits", f"{text}."))
    return lines


def _runs(data: ReportData) -> str:
    validation = data.validation
    if validation is None:
        return (
            "No model was trained on a mixture, so nothing here says how far a "
            "merge predicts training. Run `jaxsim validate`."
        )
    runs = len(validation.reference_runs)
    origin = (
        "brought by the user"
        if validation.given
        else "trained on mixtures drawn at random and never fitted on"
    )
    text = f"{count(runs, 'held-out run')}, {origin}"
    if data.token_multiplier is not None and not validation.given:
        times = (
            "" if data.token_multiplier == 1 else f"{data.token_multiplier:g} times "
        )
        text += f", each {times}as long as a member"
    text += "."
    if validation.budget == "sum":
        text += (
            " A run on n units was n times as long (budget 'sum'), so its loss "
            "says nothing about mixtures at equal budget: searches do not use "
            "it."
        )
    if runs < ENOUGH_RUNS:
        text += (
            f" With fewer than {ENOUGH_RUNS}, no interval on a rank "
            "correlation means anything, so the points are shown."
        )
    if not validation.calibration_runs and not validation.given:
        text += (
            " There were no calibration runs (config.validate.calibration_runs): the "
            "best single weight and regressions on the weights are missing below."
        )
    if validation.unit == "unknown":
        text += " Their unit is not known: only ranks can be compared."
    return text


def diagnostics(diagnostics: Diagnostics) -> Lines:
    """What can be seen of a pool before any reference run."""
    cosine_P = np.array(diagnostics.cosines)[
        np.triu_indices(len(diagnostics.members), 1)
    ]
    low = min(diagnostics.members, key=lambda n: diagnostics.drift[n])
    high = max(diagnostics.members, key=lambda n: diagnostics.drift[n])
    directions = (
        f"Members moved by {diagnostics.drift[low]:.2%} ({low}) to "
        f"{diagnostics.drift[high]:.2%} ({high}) of the base model's norm (3 % is "
        "little, 10 % is much: then levels of merges and of training differ, "
        "and rankings may). Cosine "
        f"similarity of their weight deltas: {number(cosine_P.min(), 2)} to "
        f"{number(cosine_P.max(), 2)} (1: all learned the same, 0: they share "
        "nothing)."
    )
    if (
        not diagnostics.replicates
        and cosine_P.min() > _ALIKE
        and not diagnostics.below_noise
    ):
        directions += (
            " Members moved in nearly the same direction, as pieces of one "
            "source do: only replicates can tell their differences from noise."
        )
    text = f"at most {count(diagnostics.windows, 'window')}" if diagnostics.windows else (
        "all windows"
    )  # fmt: skip
    worst = max(diagnostics.barriers, key=lambda n: diagnostics.barriers[n])
    line_barriers = {n: v for n, v in diagnostics.line_barriers.items() if n != UNIFORM}
    member = max(line_barriers, key=lambda n: line_barriers[n])
    barriers = (
        "The highest point above the straight line from the base model, in "
        f"bits per byte: {signed(diagnostics.line_barriers[UNIFORM])} to the average "
        f"of all members, {signed(line_barriers[member])} at worst to a single member "
        f"({member}). The worst average against the mean of what it averages: "
        f"{signed(diagnostics.barriers[worst])} ({worst}). Above 0 averaging breaks; "
        f"below 0 it helps. Measured on {text} of dev text of each domain."
    )
    return [
        ("Directions", directions),
        ("Barriers", barriers),
        ("Resolution", _resolution(diagnostics)),
    ]


def _resolution(diagnostics: Diagnostics) -> str:
    known = {n: v for n, v in diagnostics.resolution.items() if v is not None}
    if not known:
        return "There is too little text to say what differences it resolves."
    shown = [f"{v:.2g} % ({n})" for n, v in known.items() if n in MACROS]
    if domains := [v for n, v in known.items() if n not in MACROS]:
        low, high = f"{min(domains):.2g} %", f"{max(domains):.2g} %"
        ends = low if low == high else f"{low} to {high}"
        shown.append(f"{ends} (single domains)")
    noise = (
        f"training noise ({count(diagnostics.replicates, 'replicate')})"
        if diagnostics.replicates
        else "no training noise, which was not measured"
    )
    text = (
        "This text resolves differences between two mixtures above "
        f"{listed(shown)} of the loss. That counts the text and {noise}."
    )
    if diagnostics.below_noise:
        text += (
            " Members differ by less than that in every domain (below the "
            "noise floor): there is nothing to rank."
        )
    return text


def noise_sentence(validation: Validation) -> str:
    """What replicates say about noise, or that there are none."""
    known = validation.ceilings
    if not known:
        return (
            "Not measured: no run was repeated (no replicates), so it is not "
            "known how high any agreement could be."
        )
    targets = targets_of(validation)
    shown = [
        f"{number(known[name], 2)}"
        f"{interval(validation.ceiling_intervals.get(name))} ({name})"
        for kind in KINDS
        if (name := targets.lead(kind)) in known
    ]
    text = (
        f"{count(validation.replicates, 'replicate')}. By how much they differ "
        "from their runs, no prediction can reach a higher correlation with "
        f"reference runs than {listed(shown)}. "
    )
    if low := [name for name, v in known.items() if v < BELOW_NOISE]:
        return (
            f"{text}{len(low)} of {count(len(known), 'target')} below the "
            f"noise floor, a ceiling of {BELOW_NOISE}: {listed(low)}."
        )
    text += f"Every target has a ceiling of {BELOW_NOISE} or more"
    if unsure := sum(
        low is not None and low < BELOW_NOISE
        for low, _ in validation.ceiling_intervals.values()
    ):
        text += (
            f", but for {unsure} of {len(known)} its interval reaches below: "
            "there are too few replicates to tell"
        )
    return f"{text}."


def unclaimed(validation: Validation) -> Lines:
    """Kinds of domains about which nothing can be claimed."""
    claimed = {claim["kind"] for claim in validation.claims}
    return [
        (
            f"Predictors and baselines ({kind})",
            f"Nothing can be claimed: {count(len(names), 'domain')}, all of "
            "them below the noise floor.",
        )
        for kind, names in targets_of(validation).domains.items()
        if names and kind not in claimed
    ]


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
        f"Fitted on {runs} and judged on {held_out}."
        if len(validation.calibration_runs) >= ENOUGH
        else f"With {runs}, too few, each run is predicted from the others."
    )
    worse = [n for n, row in known.items() if row["calibrated"] >= row["merge"]]
    text += (
        f" The error falls in {len(known) - len(worse)} of "
        f"{count(len(known), 'domain')}"
    )
    return text + (f", but not in {listed(worse)}." if worse else ".")


def _level(validation: Validation, found: SearchResult | None) -> Lines:
    points = validation.points
    if (
        found is None
        or validation.unit == "unknown"
        or any(n not in points["reference"] for n in found.target)
    ):
        return []
    reference_M, merge_M = (
        on_target(points[name], found.target) for name in ("reference", "merge")
    )
    offset = float(np.mean(reference_M - merge_M))
    text = (
        f"On {target(found.target)} reference runs lie {signed(offset)} bits "
        "per byte from the merges that predict them, on average"
    )
    if residual := validation.residual(found.target):
        text += (
            f", and scatter around that by {number(residual.deviation)} "
            f"({count(residual.reference_runs, 'run')})"
        )
    return [("Level", f"{text}.")]


def _choice(found: SearchResult) -> str:
    text = (
        f"Made on at most {count(found.windows, 'window')} of dev text for "
        "each domain; "
    )
    if no_error(found):
        text += "too few to know any error. "
    elif found.ties["resampled"] == "windows":
        text += (
            "there are too few documents, so windows were resampled, as if "
            "windows of one document were independent. "
        )
    else:
        text += "documents were resampled. "
    if shift := shift_sentence(found):
        text += f"{shift}. "
    return text + report_check(found)


def own_best_sentence(standard: StandardScores, split: str) -> str:
    """For how many in-pool domains an own member is the best one."""
    gain_CD = standard.gains(split)
    best = total = 0
    for d, domain in enumerate(standard.domains):
        own = standard.own(domain)
        if not own or not np.isfinite(gain_CD[:, d]).any():
            continue
        total += 1
        best += standard.members[int(np.nanargmax(gain_CD[:, d]))] in own
    if not total:
        return ""
    return (
        f"The own member is the best single one for {best} of {total} in-pool domains."
    )
