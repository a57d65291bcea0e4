"""The answer of a search in sentences, and what training the mixture gave.

A search picks the mixture where its predictor errs in its own favor. A trained
choice therefore says nothing about agreement, only whether the choice held.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from jaxsim.errors import command_line
from jaxsim.log import counted
from jaxsim.report.table import listed, number, percent, signed, target, weights
from jaxsim.scoring.table import STANDARD_MERGES
from jaxsim.search.result import BEST, Ranking, SearchResult, is_single
from jaxsim.search.ties import AFTER_RUNS
from jaxsim.validation.agreement import BELOW_NOISE, ENOUGH_RUNS
from jaxsim.validation.calibration import LEVEL, reach_of
from jaxsim.validation.measured import TrainedChoice, targets_of
from jaxsim.validation.validate import Validation

Lines = list[tuple[str, str]]
REPLICATES = 4  # for a first estimate of noise
# Mixtures are rounded before they are trained; no run can resolve this difference.
_SAME_MIXTURE = 1e-4
_MOST_SIMPLE = 3  # mixtures that a sentence names


def answer(
    found: SearchResult | None,
    validation: Validation | None,
    workdir: str = "DIR",
    token_multiplier: float | None = None,
    chosen: TrainedChoice | None = None,
) -> Lines:
    """Best mixture, ties, commands and open questions, each with its label.

    Args:
      found, validation, chosen: the last results, as far as there are any.
      workdir: as written in commands.
      token_multiplier: tokens of a reference run / tokens of a member, if known.
    """
    if found is None:
        run = f"`{command_line('run', workdir)}`"
        lines = [("Best mixture", "None yet. No search was run.")]
        lines.append(("Next", f"{run} runs every missing step."))
        return [*lines, _open(None, validation, token_multiplier, False)]
    if validation is not None and not found.basis.same_pool(validation.basis):
        validation = None  # it says nothing about this search
    marks = (note.partition(": ") for note in found.notes)
    lines = [(word, text) for word, _, text in marks]
    if found.within_limits:
        lines.append(("Best mixture", _best(found)))
    else:
        text = "No scored mixture keeps every limit of config.search.max_regression."
        lines.append(("NO BEST MIXTURE", f"{text} The nearest: {_best(found)}"))
    lines += [("WARNING", text) for text in found.warnings]
    lines.append(("Ties", ties_sentence(found)))
    lines += _sources(found)
    trained = _trained_best(found, validation, chosen)
    if trained:
        lines.append(("Trained", trained))
    why, command = next_command(found, validation, workdir, token_multiplier)
    steps = [("Next", f"{why}{f': `{command}`' if command else '.'}")] if why else []
    is_known = bool(trained) or _is_member(found)
    if not is_known and found.within_limits:
        train = ("Train it", f"`{train_command(workdir, token_multiplier)}`")
        first = about_training(found) and _enough(validation)
        steps.insert(0 if first else len(steps), train)
    return [*lines, *steps, _open(found, validation, token_multiplier, is_known)]


def _best(found: SearchResult) -> str:
    value = number(found.predicted(found.best, "dev"))
    shares = "" if is_single(found.best) else " (shares of tokens)"
    text = (
        f"{weights(found.best['weights'])}{shares}. Predicted loss on "
        f"{target(found.named, found.objective)}, dev text: {value} bits per byte"
    )
    if found.objective == "mean" and all(n in found.domains for n in found.target):
        bits = sum(w * found.domains[n]["base"] for n, w in found.target.items())
        text += f" (base model: {number(bits / sum(found.target.values()))})"
    if _is_member(found):
        text += ". It is a member, trained as long as the reference runs"
    return f"{text}."


def no_error(found: SearchResult) -> bool:
    """Whether nothing could be resampled, so that no tie means anything."""
    others = found.rows[1:]
    return bool(others) and all(row["error"] == 0 for row in others)


def about_training(found: SearchResult) -> bool:
    return bool(found.ties["heading"] == AFTER_RUNS)


def ties_sentence(found: SearchResult) -> str:
    """How many mixtures tie with the best, and the first of them."""
    if found.searched == 1:
        return "None. No other mixture was scored."
    if no_error(found):
        where = "score" if found.method == "table" else "search"
        return (
            f"Unknown. At most {counted(found.windows, 'window')} per domain: too few "
            f"to estimate an error; raise config.{where}.windows."
        )
    basis = "merges only"
    if about_training(found):
        basis = "error of reference runs included"
    text = (
        f"{found.ties['count'] - 1:,} of "
        f"{counted(found.searched - 1, 'other mixture')} cannot be told apart from it "
        f"({found.ties['level']:.0%} simultaneous, {basis})"
    )
    if simple := simpler(found):
        text += f", among them {listed(simple[:_MOST_SIMPLE])}"
    return f"{text}."


def simpler(found: SearchResult) -> list[str]:
    """What ties and is easier to say than weights: 'a alone', 'uniform', 'a + b'.

    Those of the fewest sources first.
    """
    kinds = (*STANDARD_MERGES, "subset")
    tied = [r for r in found.rows[1:] if r["tied"]]
    tied = [r for r in tied if r["kind"] in kinds or is_single(r)]
    tied.sort(key=lambda row: len(row["weights"]))
    return [f"{r['name']} alone" if is_single(r) else r["name"] for r in tied]


def shift_sentence(found: SearchResult) -> str:
    """How calibration moved the merges shown; '' without calibration."""
    if not found.calibrated:
        return ""
    merges = [r for r in found.rows if not (is_single(r) and found.singles_known)]
    shifts = [row["shift"] for row in merges]
    if not any(shifts):
        return (
            "Calibration changed nothing: no correction predicted left-out runs better."
        )
    ends = dict.fromkeys(map(signed, (min(shifts), max(shifts))))
    text = f"Calibration shifts the merges by {' to '.join(ends)} bits per byte."
    if found.singles_known:
        text += " Single members are trained runs and are not shifted."
    return text


def on_test_text(found: SearchResult) -> str:
    """Whether the choice holds on text that it was not made on."""
    if found.best["test"] is None:
        return "The best mixture was not compared on test text."
    value = found.predicted(found.best, "test")
    has = "is predicted to have" if found.calibrated else "has"
    text = (
        "On test text, not used for the choice, the best mixture "
        f"{has} {number(value)} bits per byte"
    )
    rivals = [
        (found.predicted(row, "test"), row["name"])
        for row in found.rows[1:]
        if (row["kind"] in STANDARD_MERGES or len(row["weights"]) == 1)
        and row["test"] is not None
    ]
    if not rivals:
        return f"{text}. The constraints allow no standard mixture to compare with."
    other, name = min(rivals, key=lambda rival: rival[0])
    lost = "less. The lead of the best mixture on dev text may be chance."
    return (
        f"{text}; {name}, the best other standard mixture, has {number(other)}, "
        f"{number(abs(other - value))} {'more.' if other > value else lost}"
    )


def search_sentences(found: SearchResult) -> list[str]:
    """The constraints, what ranked candidates and how well, and what it cost."""
    texts = []
    if found.constraints:
        texts.append(f"Constraints: {'; '.join(found.constraints)}.")
    if found.ranking is not None:
        texts.append(_ranking(found.ranking))
    if found.evaluations:
        text = (
            f"The search ({found.method}) cost {found.evaluations:,.0f} evaluations of "
            f"a mixture on the dev text ({found.tokens:,} tokens; a gradient counts as "
            f"three). It compared {counted(found.searched, 'merge')}"
        )
        if found.looked_at > found.searched:
            text += f", with the best of {found.looked_at:,} ranked mixtures among them"
        texts.append(f"{text}.")
    return texts


def _ranking(ranking: Ranking) -> str:
    """What ranked candidates, and the quadratic's errors on merges."""
    if ranking.refusal:
        return f"The ensemble ranked candidates, not the quadratic: {ranking.refusal}."
    random, shown = ranking.random, ranking.shown
    assert random is not None
    text = (
        "The quadratic, a closed form for merges, ranked the candidates. It differs "
        f"from {counted(random.count, 'random merge')} by {number(random.error, 5)} "
        f"bits per byte, {percent(random.share, 1)} of their standard deviation"
    )
    if shown is not None:
        text += (
            f", and from {counted(shown.count, 'merge')} that tie with the best by "
            f"{number(shown.error, 5)} ({percent(shown.error / random.spread, 1)})"
        )
    return f"{text}. All mixtures that are shown are real merges."


def _sources(found: SearchResult) -> Lines:
    """How far each weight may move, and how often the planned run reads each text."""
    used = {name: row for name, row in found.sources.items() if row["weight"] > 0}
    ordered = sorted(used.items(), key=lambda pair: -pair[1]["weight"])
    lines = []
    ranges = [
        f"{name} unknown"
        if row["low"] is None
        else f"{name} {number(row['low'], 2)} to {number(row['high'], 2)}"
        for name, row in ordered
    ]
    if any(row["low"] is not None for _, row in ordered):
        text = (
            f"{listed(ranges, 8)}. The quadratic expects mixtures in these ranges to "
            f"be at most {number(found.range_limit)} bits per byte worse than the "
            "best, the limit for the last mixture that ties."
        )
        lines.append(("Range of weights", text))
    epochs = [
        f"{name} {number(row['epochs'], 2)}"
        + (
            f" (extrapolated: its member {number(row['member_epochs'], 2)})"
            if row["extrapolated"]
            else ""
        )
        for name, row in ordered
        if row["epochs"] is not None
    ]
    if epochs:
        lines.append(("Epochs in the planned run", f"{', '.join(epochs)}."))
    return lines


def next_command(
    found: SearchResult,
    validation: Validation | None,
    workdir: str,
    token_multiplier: float | None = None,
) -> tuple[str, str]:
    """What to do next to learn most, and its command; empty where there is none."""
    if len(found.basis.members) == 1:
        return "Add a partition: a pool of one member has nothing to mix", ""
    validate = _validate(workdir, token_multiplier)
    again = command_line("search", workdir)
    if validation is None and about_training(found):
        return "See what is out of date", command_line("report", workdir)
    if (
        validation is not None
        and not about_training(found)
        and validation.residual(found.target) is not None
        # A search needs runs on limited domains, too.
        and set(found.domains) <= set(validation.points["reference"])
    ):
        return "Search again, with the reference runs", again
    if not _enough(validation):
        runs = f"{validate} --config.validate.held_out={ENOUGH_RUNS}"
        return "Test how well merges predict training", f"{runs} && {again}"
    assert validation is not None
    if not validation.given and not validation.replicates:
        runs = f"{validate} --config.validate.held_out={len(validation.reference_runs)}"
        noise = f"--config.validate.replicates={REPLICATES}"
        return "Measure training noise", f"{runs} {noise} && {again}"
    if found.ties["count"] == 1:
        return "", ""
    if found.windows < found.dev_windows:
        more = min(4 * found.windows, found.dev_windows)
        if found.method != "table":
            return "Narrow the ties", f"{again} --config.search.windows={more}"
        windows = f"--config.score.windows={more}"
        score = command_line("score", workdir, windows)
        return "Narrow the ties", f"{score} && {again} {windows}"
    return "Narrow the ties with more dev text or more reference runs", ""


def train_command(workdir: str, token_multiplier: float | None = None) -> str:
    """Trains the best mixture of the last search, as long as other runs."""
    path = PurePosixPath(workdir) / "search" / BEST
    return _validate(workdir, token_multiplier, f"--mixtures={path}")


def _validate(workdir: str, token_multiplier: float | None, *flags: str) -> str:
    """Trains runs as long as those that there are."""
    if token_multiplier is not None and not math.isclose(token_multiplier, 1.0):
        flags = (f"--config.validate.token_multiplier={token_multiplier:g}", *flags)
    return command_line("validate", workdir, *flags)


def _enough(validation: Validation | None) -> bool:
    """Whether there are enough runs that training the answer comes next."""
    return validation is not None and (
        validation.given or len(validation.reference_runs) >= ENOUGH_RUNS
    )


def _is_member(found: SearchResult) -> bool:
    """Whether the best is one member, and runs are as long as members."""
    return is_single(found.best) and found.singles_known


def _open(
    found: SearchResult | None,
    validation: Validation | None,
    token_multiplier: float | None,
    is_trained: bool,
) -> tuple[str, str]:
    """Everything that the report leaves open."""
    left = []
    if found is None or not about_training(found):
        used = "no reference runs used"
        if validation is not None:
            held_out = counted(len(validation.reference_runs), "held-out run")
            used = f"no search used the {held_out}"
        left.append(f"whether merges predict training ({used})")
    if validation is not None:
        if (runs := len(validation.reference_runs)) < ENOUGH_RUNS:
            held_out = counted(runs, "held-out run")
            left.append(f"how well merges rank ({held_out}, fewer than {ENOUGH_RUNS})")
        low = [name for name, v in validation.ceilings.items() if v < BELOW_NOISE]
        if not validation.replicates:
            left.append("training noise (no replicates)")
        elif low:
            what = counted(len(low), "target")
            left.append(f"{what} below the noise floor ({listed(low, 3)})")
    if found is not None and not is_trained:
        left.append("the loss of the best mixture when trained (it was not trained)")
    longer = "longer training or other learning rates"
    if token_multiplier is not None:
        longer += f" (reference runs at token multiplier {token_multiplier:g} only)"
    left += [longer, "larger models and accuracy on tasks (not measured)"]
    return "Open questions", f"{'; '.join(left)}."


# What training the chosen mixtures gave.


class Usual(NamedTuple):
    """The range of one more run's distance from its merge."""

    low: float
    high: float
    reference_runs: int  # that it was estimated from


class Trained(NamedTuple):
    """A mixture that was trained; losses in bits per byte on one objective."""

    label: str
    reference: str
    mixture: Mapping[str, float]
    trained: float
    merge: float

    def has(self, parts: Mapping[str, float]) -> bool:
        """Whether it is this mixture."""
        both = {*parts, *self.mixture}
        gaps = [abs(parts.get(n, 0.0) - self.mixture.get(n, 0.0)) for n in both]
        return max(gaps) < _SAME_MIXTURE


def on_target(
    points: Mapping[str, Sequence[float]], aim: Mapping[str, float]
) -> np.ndarray:
    """[M] weighted mean over the domains of an objective."""
    values_TM = np.array([points[name] for name in aim])
    weights_T = np.array(list(aim.values()))
    return np.asarray(weights_T @ values_TM / weights_T.sum())


def aim_of(chosen: TrainedChoice, found: SearchResult | None) -> dict[str, float]:
    """The search's objective, if it was measured, or the default one."""
    for aim in (found.named, found.target) if found is not None else ():
        if all(name in chosen.targets for name in aim):
            return dict(aim)
    return targets_of(chosen).default


def usual(validation: Validation, aim: Mapping[str, float]) -> Usual | None:
    """None with fewer than three runs, or without runs on the objective."""
    residual = validation.residual(dict(aim))
    if residual is None:
        return None
    gaps = [run.trained - run.merge for run in runs_on(validation, aim)]
    offset = float(np.mean(gaps))
    reach = reach_of(residual.deviation**2, residual.reference_runs)
    return Usual(offset - reach, offset + reach, residual.reference_runs)


def _trained_best(
    found: SearchResult, validation: Validation | None, chosen: TrainedChoice | None
) -> str:
    """What training the best mixture gave; '' if it was not trained."""
    best = _find(found.best["weights"], found, chosen, validation)
    if best is None:
        return ""
    text = (
        f"as {best.reference}: {number(best.trained)} bits per byte on test text; "
        f"the merge predicted {number(best.merge)}."
    )
    if validation is None or best.reference in validation.reference_runs:
        return text
    return f"{text} {_gap(best, usual(validation, found.target))}"


def outcomes(
    chosen: TrainedChoice, found: SearchResult | None, validation: Validation | None
) -> list[str]:
    """What each mixture gave, whether that is usual, and its rivals."""
    aim, known, lines = aim_of(chosen, found), None, []
    if validation is not None and validation.basis.same_pool(chosen.basis):
        known = usual(validation, aim)
    for one in runs_on(chosen, aim):
        text = f"{one.label} ({weights(one.mixture, 4)}) on {target(aim)}: "
        lines.append(text + _gap(one, known))
        if found is not None and found.basis.same_pool(chosen.basis):
            for rival, trained in _rivals(one, found, chosen):
                gap = trained - one.trained
                lines.append(
                    f"{one.label} is {number(abs(gap))} "
                    f"{'better' if gap > 0 else 'worse'} than {rival} "
                    f"({number(trained)}), training noise included."
                )
    return lines


def _gap(one: Trained, known: Usual | None) -> str:
    """Trained minus merge, beside the range of held-out runs."""
    gap = one.trained - one.merge
    text = f"trained minus merge is {signed(gap)}"
    if known is None:
        return f"{text}. There are too few held-out runs to say whether that is usual."
    place = "worse than" if gap > known.high else "better than"
    if known.low <= gap <= known.high:
        place = "within"
    return (
        f"{text}, {place} the {LEVEL:.0%} range of one more run "
        f"({signed(known.low)} to {signed(known.high)}, from "
        f"{counted(known.reference_runs, 'held-out run')})."
    )


def _rivals(
    one: Trained, found: SearchResult, chosen: TrainedChoice
) -> Iterator[tuple[str, float]]:
    """Trained standard mixtures and the best member, and their losses."""
    for row in found.rows:
        if row["kind"] not in STANDARD_MERGES or one.has(row["weights"]):
            continue
        if rival := _find(row["weights"], found, chosen):
            yield f"{row['name']}, trained as {rival.reference}", rival.trained
    singles = [row for row in found.rows if is_single(row) and row["test"] is not None]
    # Values of the worst case are not on the scale of a trained mean.
    if singles and found.objective == "mean":
        best = min(singles, key=lambda row: float(row["test"]))
        yield f"the member {next(iter(best['weights']))}", best["test"]


def runs_on(
    result: TrainedChoice | Validation, aim: Mapping[str, float]
) -> Iterator[Trained]:
    """Every run on an objective."""
    reference_M, merge_M = (
        on_target(result.points[name], aim).tolist() for name in ("reference", "merge")
    )
    runs = result.reference_runs
    labels = result.labels if isinstance(result, TrainedChoice) else runs
    for i, mixture in enumerate(result.mixtures):
        parts = dict(zip(result.members, mixture, strict=True))
        yield Trained(labels[i], runs[i], parts, reference_M[i], merge_M[i])


def _find(
    parts: Mapping[str, float],
    found: SearchResult,
    *results: TrainedChoice | Validation | None,
) -> Trained | None:
    """A mixture among the runs on the pool and text of a search."""
    for result in results:
        if (
            result is not None
            and found.basis.same_pool(result.basis)
            and set(found.target) <= set(result.points["reference"])
        ):
            for one in runs_on(result, found.target):
                if one.has(parts):
                    return one
    return None
