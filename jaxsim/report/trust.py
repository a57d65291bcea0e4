"""How far to trust the answer, in plain sentences, and what it rests on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.report.agreement import label
from jaxsim.report.answer import no_error, report_check, shift_sentence
from jaxsim.report.data import References, ReportData
from jaxsim.report.format import (
    count,
    interval,
    listed,
    number,
    percent,
    signed,
    target,
)
from jaxsim.report.outcome import on_target
from jaxsim.report.targets import KINDS, MACROS, targets_of
from jaxsim.search.found import Found
from jaxsim.study.agreement import ENOUGH_TRUTHS
from jaxsim.study.calibration import ENOUGH
from jaxsim.study.gauge import Gauge
from jaxsim.study.noise import NOISE_BOUND
from jaxsim.study.validate import BASELINES, CALIBRATED, Validation
from jaxsim.study.ways import UNIFORM

# The lowest cosine of random pieces of one source was 0.80, of six eras 0.54.
_ALIKE = 0.75
# Named before anything is measured; the others are in the table.
_IN_WORDS = ("merge", "probability", CALIBRATED)
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
    if known := [v for v in data.drift.values() if np.isfinite(v)]:
        text = (
            f"Members moved by {min(known):.2%} to {max(known):.2%} of the "
            "base model's norm. The further they move, the less the levels of "
            "merges and of training agree (3 % is little, 10 % is much); "
            "rankings suffer later."
        )
        lines.append(("Drift", text))
    lines += diagnostics(data.gauge)
    lines.append(("Reference runs", _runs(data)))
    if data.validation is not None:
        lines.append(("Noise", noise_sentence(data.validation)))
        lines += claim_sentences(data.validation)
        lines += _calibration(data.validation)
        lines += _level(data.validation, data.found)
    if data.found is not None:
        lines.append(("The choice", _choice(data.found)))
    text = (
        "Only losses were measured, on the text of these domains, with models "
        "of one size: nothing here is about downstream tasks, larger models "
        "or runs of other lengths"
    )
    times = data.horizon
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
    runs = len(validation.truths)
    origin = (
        "brought by the user"
        if validation.given
        else "trained on mixtures drawn at random and never fitted on"
    )
    text = f"{count(runs, 'held-out run')}, {origin}"
    if data.horizon is not None and not validation.given:
        times = "" if data.horizon == 1 else f"{data.horizon:g} times "
        text += f", each {times}as long as a member"
    text += "."
    if validation.budget == "sum":
        text += (
            " A run on n units was n times as long (budget 'sum'), so its loss "
            "says nothing about mixtures at equal budget: searches do not use "
            "it."
        )
    if runs < ENOUGH_TRUTHS:
        text += (
            f" With fewer than {ENOUGH_TRUTHS}, no interval on a rank "
            "correlation means anything, so the points are shown."
        )
    if not validation.fit and not validation.given:
        text += (
            " There were no calibration runs (config.validate.fit): the best "
            "single weight and regressions on the weights are missing below."
        )
    if validation.unit == "unknown":
        text += " Their unit is not known: only ranks can be compared."
    return text


# What can be seen of a pool before any reference run.


def diagnostics(gauge: Gauge | None) -> Lines:
    """What the diagnostics measured, for the page."""
    if gauge is None:
        text = (
            "None: nobody looked whether averages of these members can stand "
            "for training. `jaxsim validate` does that first."
        )
        return [("Diagnostics", text)]
    low, high = _cosines(gauge)
    text = f"at most {count(gauge.windows, 'window')}" if gauge.windows else (
        "all windows"
    )  # fmt: skip
    worst = max(gauge.barriers, key=lambda n: gauge.barriers[n])
    bumps = {n: v for n, v in gauge.bumps.items() if n != UNIFORM}
    member = max(bumps, key=lambda n: bumps[n])
    return [
        (
            "Directions",
            "Cosine similarity of the members' weight deltas: "
            f"{number(low, 2)} to {number(high, 2)} (1: all learned the same, "
            "0: they share nothing).",
        ),
        (
            "Barriers",
            "The highest point above the straight line from the base model, in "
            f"bits per byte: {signed(gauge.bumps[UNIFORM])} to the average of "
            f"all members, {signed(bumps[member])} at worst to a single member "
            f"({member}). The worst average against the mean of what it "
            f"averages: {signed(gauge.barriers[worst])} ({worst}). Above 0 "
            f"averaging breaks; below 0 it helps. Measured on {text} of dev "
            "text of each domain.",
        ),
        ("Resolution", _resolution(gauge)),
    ]


def diagnostics_lines(gauge: Gauge) -> list[str]:
    """What the console prints, the verdict first."""
    low = min(gauge.members, key=lambda n: gauge.drift[n])
    high = max(gauge.members, key=lambda n: gauge.drift[n])
    worst = max(gauge.barriers, key=lambda n: gauge.barriers[n])
    cosine, largest = _cosines(gauge)
    lines = [
        f"averages of this pool: {gauge.verdict}",
        *(f"  {reason}" for reason in gauge.reasons),
        f"  drift: {gauge.drift[low]:.1%} ({low}) to {gauge.drift[high]:.1%} "
        f"({high}); cosines {cosine:.2f} to {largest:.2f}",
        f"  highest barrier: {gauge.barriers[worst]:+.4f} bits per byte "
        f"({worst}); below 0 an average beats the mean of its members",
    ]
    if macros := [
        f"{value:.2g} % ({name})"
        for name, value in gauge.resolution.items()
        if name in MACROS and value is not None
    ]:
        lines.append(f"  differences resolved: above {', '.join(macros)}")
    if not gauge.repeats and cosine > _ALIKE and not gauge.noise_bound:
        lines.append(
            "  the members moved in nearly the same direction, as pieces of "
            "one source do: only replicates can tell their differences from "
            "noise"
        )
    if gauge.noise_bound:
        lines.append(
            "  below the noise floor: members differ by less than their noise "
            "in every domain, so there is nothing to rank"
        )
    return lines


def _cosines(gauge: Gauge) -> tuple[float, float]:
    i, j = np.triu_indices(len(gauge.members), 1)
    cosine_P = np.array(gauge.cosines)[i, j]
    return float(cosine_P.min()), float(cosine_P.max())


def _resolution(gauge: Gauge) -> str:
    known = {n: v for n, v in gauge.resolution.items() if v is not None}
    if not known:
        return "There is too little text to say what differences it resolves."
    shown = [f"{v:.2g} % ({n})" for n, v in known.items() if n in MACROS]
    if domains := [v for n, v in known.items() if n not in MACROS]:
        low, high = f"{min(domains):.2g} %", f"{max(domains):.2g} %"
        ends = low if low == high else f"{low} to {high}"
        shown.append(f"{ends} (single domains)")
    noise = (
        f"training noise ({count(gauge.repeats, 'replicate')})"
        if gauge.repeats
        else "no training noise, which was not measured"
    )
    text = (
        "This text resolves differences between two mixtures above "
        f"{listed(shown)} of the loss. That counts the text and {noise}."
    )
    if gauge.noise_bound:
        text += (
            " Members differ by less than that in every domain: there is "
            "nothing to rank."
        )
    return text


# What reference runs showed.


def noise_sentence(validation: Validation) -> str:
    """What replicates say about noise, or that there are none."""
    if not validation.ceilings:
        return (
            "Not measured: no run was repeated (no replicates), so it is not "
            "known how high any agreement could be."
        )
    text = (
        f"{count(validation.repeats, 'replicate')}. By how much they differ "
        "from their runs, no prediction can reach a higher correlation with "
        f"reference runs than {_ceilings(validation)}. "
    )
    total = len(validation.ceilings)
    low = [n for n, v in validation.ceilings.items() if v < NOISE_BOUND]
    if low:
        return (
            f"{text}{len(low)} of {count(total, 'target')} below the noise "
            f"floor, a ceiling of {NOISE_BOUND}: {listed(low)}."
        )
    text += f"Every target has a ceiling of {NOISE_BOUND} or more"
    if unsure := sum(
        low is not None and low < NOISE_BOUND
        for low, _ in validation.ceiling_intervals.values()
    ):
        text += (
            f", but for {unsure} of {total} its interval reaches below: with "
            "so few replicates nobody can tell"
        )
    return f"{text}."


def _ceilings(validation: Validation) -> str:
    """Noise ceilings of macros, and their range over domains."""
    known, targets = validation.ceilings, targets_of(validation)

    def one(name: str) -> str:
        bounds = interval(validation.ceiling_intervals.get(name))
        return f"{number(known[name], 2)}{bounds} ({name})"

    shown = [one(name) for name in targets.macros.values() if name in known]
    for kind, domains in targets.domains.items():
        names = [name for name in domains if name in known]
        values = [known[name] for name in names]
        if len(values) > 1:
            ends = f"{min(values):.2f} to {max(values):.2f}"
            shown.append(f"{ends} ({kind} domains)")
        elif names:
            shown.append(one(names[0]))
    return ", ".join(shown)


def claim_sentences(validation: Validation) -> Lines:
    """A catchword and what may be claimed over baselines, for each kind."""
    found = []
    for kind in KINDS:
        names = targets_of(validation).domains[kind]
        if not names:
            continue
        claims = {
            claim["predictor"]: claim
            for claim in validation.claims
            if claim["kind"] == kind
        }
        told = [claims[p] for p in _IN_WORDS if p in claims]
        text = (
            _told(validation, told)
            if told
            else f"Nothing can be claimed: {count(len(names), 'domain')}, "
            "all of them below the noise floor."
        )
        found.append((f"Predictors and baselines ({kind})", text))
    return found


def _told(validation: Validation, claims: Sequence[Mapping[str, Any]]) -> str:
    first = claims[0]
    over = count(len(first["targets"]), f"{first['kind']} domain")
    text = f"Over {over}"
    if validation.ceilings:
        text += f" (mean noise ceiling {number(first['ceiling'], 2)})"
    if first["rule"] is None:
        text += ", where no weight-only baseline has anything to say: "
    else:
        text += (
            ", the best weight-only baseline, picked in hindsight, is "
            f"{first['rule']} with a mean Spearman of "
            f"{number(first['rule_spearman'], 2)}: "
        )
    return text + "; ".join(_claim(validation, c) for c in claims) + "."


def _claim(validation: Validation, claim: Mapping[str, Any]) -> str:
    text = (
        f"the {label(claim['predictor'])} has "
        f"{number(claim['spearman'], 2)}{interval(claim['spearman_interval'])}"
    )
    if claim["rule"] is None:
        return text
    bounds = claim["gain_interval"]
    if bounds is None and len(validation.truths) < ENOUGH_TRUTHS:
        meaning = f"not tested, with fewer than {ENOUGH_TRUTHS} held-out runs"
    elif bounds is None:
        meaning = "not tested, because no interval could be computed"
    elif bounds[0] > 0:
        meaning = "better than the baseline"
    elif bounds[1] < 0:
        meaning = "worse than the baseline"
    else:
        meaning = "the two cannot be told apart"
    difference = f"{signed(claim['gain'], 2)}{interval(bounds)}"
    return f"{text}, a difference of {difference}: {meaning}"


def _calibration(validation: Validation) -> Lines:
    found = []
    if gains := calibration_gains(validation):
        text = f"{fitted_on(validation)}: {'; '.join(gains)}."
        if harmed := harmed_sentence(validation):
            text += f" {harmed}."
        found.append(("Calibration", text))
    if text := baselines_sentence(validation):
        found.append(("Regressions on weights", text))
    return found


def calibration_gains(validation: Validation) -> list[str]:
    """The error on runs that were not fitted, before and after."""
    targets = targets_of(validation)
    told = [validation.check.get(targets.lead(kind) or "") for kind in KINDS]
    if validation.unit == "unknown":
        return []
    return [
        _gain(str(targets.lead(kind)), row)
        for kind, row in zip(KINDS, told, strict=True)
        if row is not None and np.isfinite(row["calibrated"])
    ]


def _gain(name: str, row: Mapping[str, float]) -> str:
    merge, calibrated = row["merge"], row["calibrated"]
    if calibrated < merge:
        change = (
            f"falls from {number(merge)} to {number(calibrated)} bits per byte "
            f"(by {1 - calibrated / merge:.0%})"
        )
    else:
        change = (
            "does not fall: calibration gains nothing "
            f"({number(merge)} before, {number(calibrated)} after)"
        )
    text = f"on {name} the mean absolute error {change}"
    if np.isfinite(row["covered"]):
        text += (
            f"; 90 % intervals, +/- {number(row['half'])}, hold "
            f"{percent(row['covered'])} of the runs"
        )
    return text


def harmed_sentence(validation: Validation) -> str:
    """The domains whose error calibration raises; '' if none."""
    if validation.unit == "unknown":
        return ""
    macros = targets_of(validation).macros.values()
    single = {
        name: row
        for name, row in validation.check.items()
        if name not in macros and np.isfinite(row["calibrated"])
    }
    harmed = [t for t, r in single.items() if r["calibrated"] > r["merge"]]
    if not harmed:
        return ""
    return (
        f"The error rises in {len(harmed)} of {count(len(single), 'domain')}: "
        f"{listed(harmed)}"
    )


def fitted_on(validation: Validation) -> str:
    """What the calibration learned from, in words."""
    runs = count(len(validation.fit), "calibration run")
    if len(validation.fit) >= ENOUGH:
        return (
            f"Fitted on {runs} and judged on "
            f"{count(len(validation.truths), 'held-out run')}"
        )
    return f"With {runs}, too few, each run is predicted from the others"


def baselines_sentence(validation: Validation) -> str:
    """How well the weights alone rank, by regression; '' if not fitted."""
    for kind in KINDS:
        known = [
            claim
            for claim in validation.claims
            if claim["kind"] == kind and claim["predictor"] in BASELINES
        ]
        if known:
            shown = " and ".join(
                f"{number(c['spearman'], 2)}{interval(c['spearman_interval'])} "
                f"for {label(c['predictor'])}"
                for c in known
            )
            over = count(len(known[0]["targets"]), f"{kind} domain")
            return (
                "Fitted on the same "
                f"{count(len(validation.fit), 'calibration run')}, and on the "
                f"members where these are as long. Mean Spearman over {over}: "
                f"{shown}."
            )
    return ""


def _level(validation: Validation, found: Found | None) -> Lines:
    points = validation.points
    if (
        found is None
        or validation.unit == "unknown"
        or any(n not in points["truth"] for n in found.target)
    ):
        return []
    truth_M, merge_M = (
        on_target(points[name], found.target) for name in ("truth", "merge")
    )
    offset = float(np.mean(truth_M - merge_M))
    text = (
        f"On {target(found.target)} reference runs lie {signed(offset)} bits "
        "per byte from the merges that predict them, on average"
    )
    if residual := validation.residual(found.target):
        text += (
            f", and scatter around that by {number(residual.deviation)} "
            f"({count(residual.truths, 'run')})"
        )
    return [("Level", f"{text}.")]


def _choice(found: Found) -> str:
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


# What was trained, and on what.


def own_best_sentence(references: References, half: str) -> str:
    """For how many in-pool domains an own member is the best one."""
    gain_CD = references.gains(half)
    best = total = 0
    for d, domain in enumerate(references.domains):
        own = references.own(domain)
        if not own or not np.isfinite(gain_CD[:, d]).any():
            continue
        total += 1
        best += references.members[int(np.nanargmax(gain_CD[:, d]))] in own
    if not total:
        return ""
    return (
        f"The own member is the best single one for {best} of {total} in-pool "
        "domains."
    )


def descriptions(data: ReportData) -> list[str]:
    """Base model, recipe, tokenizer and split, as far as they are there."""
    texts = []
    if (seed := data.seed) is not None:
        m, r = seed.model, seed.recipe
        size = sum(math.prod(shape) for shape, _ in seed.leaves.values())
        text = (
            f"The base model: {size:,} parameters "
            f"({count(m['layers'], 'layer')} of width {m['dim']}, "
            f"{count(m['heads'], 'head')}, context {m['length']:,}), trained "
            f"from scratch on {seed.tokens:,} tokens"
        )
        if "warmup" in r:
            text += (
                f" ({r['steps']:,} steps of {r['batch']:,} rows, peak rate "
                f"{r['learning_rate']:g}, {r['warmup']:,} steps of warm-up, "
                "then cosine)"
            )
        if data.corpus is not None:
            text += (
                f" of {count(data.corpus.seed.documents, 'document')} of its "
                "own"
            )
        texts.append(f"{text}.")
    if data.pool is not None:
        texts.append(_recipe(data.pool.identity["recipe"]))
    if data.corpus is not None:
        frozen = data.corpus.record["frozen"]
        kind = {
            "bytes": "bytes",
            "bpe": "a byte-level BPE trained on the base model's text",
            "file": "from a tokenizer.json",
        }[frozen["tokenizer"]["kind"]]
        split = frozen["split"]
        texts.append(
            f"Tokenizer: {kind}, {data.corpus.tokenizer.vocab_size:,} entries. "
            f"Documents were split by a hash of their {split['key']}: "
            f"{split['seed']:.0%} base model, {split['select']:.0%} dev, "
            f"{split['report']:.0%} test, the rest training."
        )
    return texts


def _recipe(r: Mapping[str, Any]) -> str:
    rate = f"the constant rate {r['learning_rate']:g}"
    if r.get("decay"):
        rate = (
            f"the rate {r['learning_rate']:g}, which falls to zero over the "
            f"last {r['decay']:.0%} of the steps"
        )
    tail = (
        f"the result is the mean of the parameters over the last "
        f"{r['tail']:.0%} of the steps"
        if r["tail"]
        else "the result is the parameters after the last step"
    )
    replay = (
        f"; {r['anchor']:.0%} of every run is replay of the base model's text"
        if r["anchor"]
        else ""
    )
    return (
        "The recipe: every run starts from the base model with a fresh AdamW "
        f"and {rate}; a member sees {r['unit_tokens']:,} tokens of its unit in "
        f"{r['steps']:,} steps of {r['batch']:,} rows; {tail}{replay}; "
        f"computed in {r['precision']}."
    )


def dropped_lines(data: ReportData) -> list[str]:
    """Documents that did not get through, and why."""
    if data.corpus is None:
        return []
    found = data.corpus.record["summary"]
    lines = [
        f"{kind} records of source {source}: {times:,} x {cause}"
        for source, kinds in found["quarantine"].items()
        for kind, causes in kinds.items()
        for cause, times in causes.items()
    ]
    lines += [
        f"dropped from source {source}: {times:,} x {cause}"
        for source, causes in found["dropped"].items()
        for cause, times in causes.items()
    ]
    lines += [
        f"dropped from {name}: {count(times, 'document')} that repeat earlier "
        "training text"
        for name, times in found["duplicates"].items()
    ]
    lines += [
        f"overlap of {name} with domain {domain}: dropped "
        f"{count(counts['training'], 'training document')} and "
        f"{count(counts['evaluation'], 'newer evaluation document')}"
        for name, overlaps in found["overlap"].items()
        for domain, counts in overlaps.items()
    ]
    return lines
