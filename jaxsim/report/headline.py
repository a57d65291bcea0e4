"""The answer of a workdir, in a few sentences: what to train on, and how sure that is.

Console, page, notebook and JSON take the answer from here. Gains are shares of the
other mixture's loss on test text, positive if the answer is better. What was trained
comes before what is predicted; what should stop a reader comes before both.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.stats

from jaxsim.corpus.names import Labels
from jaxsim.errors import command_line
from jaxsim.log import counted
from jaxsim.report import trust
from jaxsim.report.answer import (
    about_training,
    next_command,
    same_mixture,
    ties_sentence,
)
from jaxsim.report.data import ReportData
from jaxsim.report.table import listed, percent, target
from jaxsim.search.result import BEST, SHORTLIST, SearchResult
from jaxsim.validation.calibration import LEVEL
from jaxsim.validation.diagnostics import DO_NOT_TRUST
from jaxsim.validation.measured import TrainedChoice, targets_of
from jaxsim.validation.validate import Validation

State = Literal["no search", "not trained", "won", "lost", "tied", "unclear"]
SEEDS = 3  # of a decision that one run's noise should not make
_SEEDS_FLAG = "--config.validate.seeds={}"


@dataclasses.dataclass(frozen=True)
class TrainedGain:
    """What training the answer gave, against training another mixture."""

    against: str  # 'proportional', or 'base' for the base model as it is
    gain: float  # share of its loss; positive if the answer is better
    low: float | None  # 90 % interval of training noise; None if it is not known
    high: float | None
    seeds: int  # runs of the answer

    @property
    def state(self) -> State:
        """Whether the answer won, as far as noise allows to say."""
        if self.low is None or self.high is None:
            return "unclear"
        return "won" if self.low > 0 else "lost" if self.high < 0 else "tied"


@dataclasses.dataclass(frozen=True)
class Headline:
    """The answer of a workdir.

    Attributes:
      state: what training the answer showed against the proportional mixture.
      first: what must be read before the answer.
      answer: one sentence.
      evidence: short sentences with a label, trained before predicted.
      trust: one line.
      why, command: what to do next; the command is empty if there is none.
    """

    state: State
    first: Sequence[str]
    answer: str
    evidence: Sequence[tuple[str, str]]
    trust: str
    why: str
    command: str

    def lines(self) -> list[str]:
        """All of it for a console, labels first."""
        shown = [f"Read first: {text}" for text in self.first]
        shown.append(f"Answer: {self.answer}")
        shown += [f"{label}: {text}" for label, text in self.evidence]
        shown.append(f"Verdict: {self.trust}")
        if self.why:
            shown.append(f"Next: {self.why}{'' if self.command else '.'}")
        return shown + ([f"  {self.command}"] if self.command else [])


def headline(data: ReportData, place: Path) -> Headline:
    """The answer of what is on disk; `place` is the workdir as commands name it."""
    found, workdir = data.found, place.as_posix()
    known = trust.verdict(data.diagnostics, data.validation)
    trusted = f"{known.word}. {known.meaning}"
    if found is None:
        return Headline(
            "no search",
            [],
            "None yet: nothing was searched.",
            [],
            trusted,
            "Run every step that is missing",
            command_line("run", workdir),
        )
    validation = data.validation
    if validation is not None and not found.basis.same_pool(validation.basis):
        validation = None  # it says nothing about this search
    gains = _trained(found, data.chosen, validation, data)
    against = next((g for g in gains if g.against == Labels.PROPORTIONAL), None)
    state: State = against.state if against else "not trained"
    first = [*data.stale, *found.notes, *found.warnings]
    first += _stops(found, validation, known, data, state)
    evidence = [*_evidence(found, gains), ("Ties", ties_sentence(found))]
    why, command = _next(found, validation, data, workdir, state, against)
    reason = f" {_sentence(known.reasons[0])}" if known.reasons else ""
    return Headline(
        state,
        first,
        _answer(found, against, known),
        evidence,
        f"{trusted}{reason}",
        why,
        command,
    )


def _sentence(clause: str) -> str:
    return f"{clause[0].upper()}{clause[1:]}."


def shares(parts: Mapping[str, float], most: int = 4) -> str:
    """A mixture in per cent, the largest share first: '53% a, 47% b'."""
    ordered = sorted(((w, n) for n, w in parts.items() if w > 0), key=lambda x: -x[0])
    if len(ordered) == 1:
        return f"{ordered[0][1]} alone"
    rest = ordered[most:] if len(ordered) > most + 1 else []
    shown = [f"{percent(w)} {name}" for w, name in ordered[: len(ordered) - len(rest)]]
    if rest:
        together = percent(sum(w for w, _ in rest))
        shown.append(f"{together} {counted(len(rest), 'other')}")
    return listed(shown, most + 1)


def compared(
    gain: float, low: float | None, high: float | None, other: str, on: str = ""
) -> str:
    """'1.9% lower loss [0.7, 2.9] on a than b', or 'higher', or 'the same loss ... as'.

    The interval counts in the direction of the word.
    """
    text, than = f"{change(gain)}", "than"
    if text == "the same loss":
        than = "as"
    ends = (low, high) if gain >= 0 else (high, low)
    if ends[0] is not None and ends[1] is not None:
        sign = 100 if gain >= 0 else -100
        text += f" [{sign * ends[0]:z.1f}, {sign * ends[1]:z.1f}]"
    return f"{text}{f' on {on}' if on else ''} {than} {other}"


def change(gain: float) -> str:
    """'1.9% lower loss', '0.3% higher loss' or 'the same loss'."""
    if (text := percent(abs(gain), 1)) == "0.0%":
        return "the same loss"
    return f"{text} {'lower' if gain > 0 else 'higher'} loss"


def _answer(
    found: SearchResult, trained: TrainedGain | None, known: trust.Verdict
) -> str:
    """The sentence that a reader remembers."""
    mixture, on = shares(found.best["weights"]), target(found.named, found.objective)
    if not found.within_limits:
        return (
            "None: no scored mixture keeps every limit of "
            f"config.search.max_regression. The nearest is {mixture}."
        )
    predicted = found.against.get(Labels.PROPORTIONAL)
    if trained is not None and predicted is not None:
        runs = "once" if trained.seeds == 1 else f"with {trained.seeds} data seeds"
        other = f"{Labels.PROPORTIONAL}, trained alike"
        gave = compared(trained.gain, trained.low, trained.high, other, on)
        gave = (
            f"Trained {runs}, it has {gave} (predicted: {change(predicted['gain'])})."
        )
        if trained.state == "lost":
            return f"Do not train on {mixture}. {gave}"
        if trained.state == "tied":
            return f"No difference is shown between proportional and {mixture}. {gave}"
        if trained.state == "won":
            return f"Train on {mixture}. {gave}"
        gave += " Training noise was not measured."
        if trained.gain <= 0:
            return f"No gain is shown by {mixture}. {gave}"
        return f"Train on {mixture}. {gave}"
    if known.word == DO_NOT_TRUST:
        return (
            f"None to act on: predictions are not reliable here. For {on} they name "
            f"{mixture}. Train it beside proportional before you use it."
        )
    if predicted is None:
        return f"Train on {mixture}, for {on}."
    low, high = predicted["low"], predicted["high"]
    hoped = compared(predicted["gain"], low, high, Labels.PROPORTIONAL, on)
    how = "predicted" if about_training(found) else "by merges alone, predicted"
    if low is None:
        return f"Nothing is predicted to beat all in proportion, on {on}."
    if high < 0:
        return (
            "Nothing that the constraints allow is predicted to match proportional. "
            f"The best is {mixture}: {hoped}."
        )
    if low <= 0:
        return (
            f"Nothing is shown to beat proportional on {on}. The best prediction is "
            f"{mixture}: {hoped}."
        )
    return f"Train on {mixture}: {how} {hoped}. It was not trained."


def _evidence(
    found: SearchResult, gains: Sequence[TrainedGain]
) -> list[tuple[str, str]]:
    """Gains against everything that the answer is compared with."""
    names = {Labels.BASE: "the base model"}
    lines = []
    if gains:
        texts = [
            compared(g.gain, g.low, g.high, names.get(g.against, g.against))
            for g in gains
        ]
        is_known = any(g.low is not None for g in gains)
        noise = f" ({LEVEL:.0%}: training noise)" if is_known else ""
        runs = counted(gains[0].seeds, "run")
        lines.append(("Trained", f"{runs}: {listed(texts)}{noise}."))
    texts = [
        compared(row["gain"], row["low"], row["high"], names.get(name, name))
        for name, row in found.against.items()
    ]
    if texts:
        error = "reference runs and text" if about_training(found) else "text alone"
        lines.append(
            ("Predicted", f"{listed(texts)} on test text ({LEVEL:.0%}: {error}).")
        )
    return lines


def _stops(
    found: SearchResult,
    validation: Validation | None,
    known: trust.Verdict,
    data: ReportData,
    state: State,
) -> list[str]:
    """What should stop a reader before the answer."""
    on = target(found.named, found.objective)
    texts = []
    best = max(found.sources, key=lambda n: found.sources[n]["gain"], default=None)
    if best is not None and (gain := found.sources[best]["gain"]) <= 0:
        text = f"No source alone improves {on} over the base model. The best, {best}"
        texts.append(f"{text}, has {change(gain)}.")
    if known.word == DO_NOT_TRUST and state == "not trained":
        texts.append(
            "The predictions of this pool cannot be trusted: "
            f"{'; '.join(known.reasons)}."
        )
    if validation is not None:
        texts += _weights_only(validation)
    if state == "not trained" and (ratio := _shortlist_cost(found, data)):
        count = len(found.shortlist)
        texts.append(
            f"Training the {count} mixtures of the shortlist costs {ratio:.2g} times "
            "what members, scoring and searching cost (in FLOPs): train them all to "
            "answer this one question."
        )
    return texts


def _weights_only(validation: Validation) -> list[str]:
    """Says so if a rule that sees weights alone ranks runs as well as merges."""
    for claim in validation.claims:
        if claim["kind"] != "out-of-pool" or claim["predictor"] != "merge":
            continue
        gain, bounds = claim["gain"], claim["gain_interval"]
        if gain is None or bounds is None or bounds[0] > 0:
            continue
        return [
            f"The runs do not show that merges rank better than {claim['rule']}, a "
            "rule that sees the weights alone (Spearman correlations of "
            f"{claim['spearman']:.2f} and {claim['rule_spearman']:.2f})."
        ]
    return []


def _shortlist_cost(found: SearchResult, data: ReportData) -> float | None:
    """Cost of training the shortlist / what the pool has cost; None if not below 1."""
    members = data.of_kind("member").values()
    count = len(found.shortlist)
    if data.pool is None or not members or count < 2:
        return None
    trained = sum(m.flops for m in members)
    model = data.pool.model
    tokens = data.scored_windows * model.config.length + found.tokens
    one = trained / len(members) * (data.token_multiplier or 1.0)
    ratio = float(count * one / (trained + model.forward_flops(tokens)))
    return ratio if ratio < 1 else None


def _next(
    found: SearchResult,
    validation: Validation | None,
    data: ReportData,
    workdir: str,
    state: State,
    trained: TrainedGain | None,
) -> tuple[str, str]:
    """What to do next, and its command."""
    multiplier = data.token_multiplier
    flags = []
    if multiplier is not None and abs(multiplier - 1) > 1e-9:
        flags.append(f"--config.validate.token_multiplier={multiplier:g}")
    best = f"--mixtures={workdir}/search/{BEST}"
    if state in ("won", "lost", "tied") and trained and trained.seeds >= SEEDS:
        if state == "won":
            flags = ["--what=best", "--recipe=json", f"--to={workdir}/best"]
            return "Export the mixture", command_line("export", workdir, *flags)
        return next_command(found, validation, workdir, multiplier)
    if state != "not trained":
        flags.append(_SEEDS_FLAG.format(SEEDS))
        train = command_line("validate", workdir, *flags, best)
        return f"Train it with {SEEDS} data seeds, to know what is noise", train
    why, command = next_command(found, validation, workdir, multiplier)
    gain = found.against.get(Labels.PROPORTIONAL, {"low": 0.0})
    is_proportional = gain["low"] is None
    if not found.within_limits or is_proportional or (validation is None and why):
        return why, command
    if _shortlist_cost(found, data):
        mixtures = f"--mixtures={workdir}/search/{SHORTLIST}"
        train = command_line("validate", workdir, *flags, mixtures)
        return "Train the shortlist and proportional", train
    train = command_line("validate", workdir, *flags, best)
    return "Train it and proportional, and compare", train


def _trained(
    found: SearchResult,
    chosen: TrainedChoice | None,
    validation: Validation | None,
    data: ReportData,
) -> list[TrainedGain]:
    """What training the answer gave against proportional and the base model."""
    if (
        chosen is None
        or not found.basis.same_pool(chosen.basis)
        or not set(found.named) <= set(chosen.targets)
    ):
        return []
    base = data.bits.get("test", {}).get(Labels.BASE, {})
    value_M, base_value = _values(found, chosen, base)
    rows = [
        dict(zip(chosen.members, mixture, strict=True)) for mixture in chosen.mixtures
    ]
    best_M = np.array([same_mixture(row, found.best["weights"]) for row in rows])
    other_M = np.array([name == Labels.PROPORTIONAL for name in chosen.labels])
    if not best_M.any():
        return []
    deviation, freedom = _noise(found, chosen, value_M, validation)
    mine_K, gains = value_M[best_M], []
    known = [(Labels.BASE, base_value, 0.0)]
    if other_M.any() and not (other_M & best_M).any():
        others = value_M[other_M]
        known.insert(0, (Labels.PROPORTIONAL, float(others.mean()), 1 / len(others)))
    for name, value, share in known:
        if not value > 0:  # not known
            continue
        gain, low, high = float(1 - mine_K.mean() / value), None, None
        if deviation is not None:
            half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom)) * deviation
            half *= np.sqrt(1 / len(mine_K) + share) / value
            low, high = gain - float(half), gain + float(half)
        gains.append(TrainedGain(name, gain, low, high, len(mine_K)))
    return gains


def _values(
    found: SearchResult, chosen: TrainedChoice, base: Mapping[str, float]
) -> tuple[np.ndarray, float]:
    """The search's objective of each run [M], and of the base model; test text."""
    weights_T = np.array(list(found.named.values())) / sum(found.named.values())
    known, names = targets_of(chosen), list(base)
    nothing = np.full(len(names), np.nan)
    base_D = np.array([base[n] for n in names]) if names else nothing
    base_T = np.array(
        [float(np.nansum(known.parts(n, names) * base_D)) for n in found.named]
    )
    run_MT = np.array([chosen.points["reference"][n] for n in found.named]).T
    mean = float(base_T @ weights_T)
    if found.objective == "worst":
        return (run_MT - base_T).max(axis=1) + mean, mean
    return run_MT @ weights_T, mean


def _noise(
    found: SearchResult,
    chosen: TrainedChoice,
    value_M: np.ndarray,
    validation: Validation | None,
) -> tuple[float | None, int]:
    """Standard deviation of a run on the target, and its degrees of freedom.

    From the data seeds of the chosen mixtures or, with one seed each, from the
    replicates of reference runs.
    """
    w_MC = np.round(np.array(chosen.mixtures), 6)
    groups = [value_M[(w_MC == w_C).all(axis=1)] for w_C in np.unique(w_MC, axis=0)]
    if freedom := sum(len(group) - 1 for group in groups):
        square = sum(float(np.sum((group - group.mean()) ** 2)) for group in groups)
        return float(np.sqrt(square / freedom)), freedom
    only = next(iter(found.named)) if len(found.named) == 1 else ""
    if validation is not None and only in validation.noise:
        return float(validation.noise[only]), max(validation.replicates - 1, 1)
    return None, 0
