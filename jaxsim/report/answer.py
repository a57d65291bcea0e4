"""What a search found, in sentences: the answer, its ties, what to do next."""

import math
from pathlib import PurePosixPath

from jaxsim.report.data import same_basis
from jaxsim.report.format import (
    count,
    listed,
    number,
    target,
    weights,
)
from jaxsim.report.outcome import PLAIN, came_out
from jaxsim.search.result import BEST, SearchResult, is_single
from jaxsim.search.ties import AFTER_RUNS
from jaxsim.validation.agreement import BELOW_NOISE, ENOUGH_RUNS
from jaxsim.validation.chosen import TrainedChoice
from jaxsim.validation.validate import Validation

REPLICATES = 4  # replicates for a first estimate of noise
_MOST_PLAIN = 4


def answer(found: SearchResult | None) -> str:
    """The top of the page, in a sentence or two."""
    if found is None:
        return "There is no answer yet: no mixture was searched. Run `jaxsim search`."
    others = found.ties["count"] - 1
    if no_error(found):
        tied = "how much of that is chance could not be measured"
    elif others:
        tied = (
            f"{count(others, 'other mixture')} of {found.searched:,} cannot "
            "be told apart from it"
        )
    else:
        tied = f"none of the other {found.searched - 1:,} mixtures ties with it"
    basis = (
        "with the error that reference runs showed"
        if about_training(found)
        else "between merges, not yet about training"
    )
    text = (
        f"Judged on {target(found.target, found.objective)}, the mixture with "
        f"the lowest predicted loss is {weights(found.best['weights'], 5)}: "
        f"{number(found.predicted(found.best, 'dev'))} bits per byte on "
        f"the text it was chosen on{_base(found)}; {tied} ({basis})."
    )
    return " ".join(filter(None, (nothing_beats(found), text)))


def nothing_beats(found: SearchResult) -> str:
    """That plain mixtures are as good, as far as can be told; or ''."""
    plain = plain_that_tie(found)
    return f"No mixture is significantly better than {listed(plain)}." if plain else ""


def _base(found: SearchResult) -> str:
    """What the base model has on the same text, where one figure says it."""
    if found.objective != "mean" or any(
        name not in found.domains for name in found.target
    ):
        return ""
    total = sum(found.target.values())
    bits = sum(w * found.domains[n]["base"] for n, w in found.target.items())
    return f" (the base model: {number(bits / total)})"


def plain_that_tie(found: SearchResult) -> list[str]:
    """Plain mixtures that cannot be told apart from the best, or are it."""
    if no_error(found):
        return []
    return [
        row["name"]
        for row in found.rows
        if row["tied"] and (row["kind"] in PLAIN or is_single(row))
    ][:_MOST_PLAIN]


def no_error(found: SearchResult) -> bool:
    """Whether nothing could be resampled, so that no tie means anything."""
    others = found.rows[1:]
    return bool(others) and all(row["error"] == 0 for row in others)


def about_training(found: SearchResult) -> bool:
    return bool(found.ties["heading"] == AFTER_RUNS)


def shift_sentence(found: SearchResult) -> str:
    """By how much calibration moved the merges shown; '' without any."""
    if not found.calibrated:
        return ""
    shifts = [
        float(row.get("shift", 0.0))
        for row in found.rows
        if not (is_single(row) and found.singles_known)
    ]
    if not any(shifts):
        return (
            "Calibration left the merges as they are: no correction predicted "
            "left-out runs any better"
        )
    low, high = f"{min(shifts):+.4f}", f"{max(shifts):+.4f}"
    text = (
        "Differences are calibrated: the merges shown are shifted by "
        + (low if low == high else f"{low} to {high}")
        + " bits per byte"
    )
    if found.singles_known:
        text += "; a single member is a reference run itself and is not shifted"
    return text


def report_check(found: SearchResult) -> str:
    """Whether the choice holds on text that took no part in it."""
    best = found.best
    plain = [
        row
        for row in found.rows[1:]
        if (row["kind"] in PLAIN or len(row["weights"]) == 1)
        and row["test"] is not None
    ]
    if best["test"] is None:
        return "The best mixture was not compared on test text."
    start = (
        "On test text, which took no part in the choice, it "
        f"{'is predicted to have' if found.calibrated else 'has'} "
        f"{number(found.predicted(best, 'test'))} bits per byte"
    )
    if not plain:
        return f"{start}; no plain mixture may be chosen, to compare it with."
    rival = min(plain, key=lambda row: found.predicted(row, "test"))
    value = found.predicted(rival, "test")
    gain = value - found.predicted(best, "test")
    start += f"; the best other plain mixture, {rival['name']}, {number(value)}"
    if gain > 0:
        return f"{start}: the choice is {number(gain)} better."
    return (
        f"{start}: the choice is no better ({number(-gain)} worse), so its "
        "lead on dev text may be chance."
    )


def ties_sentence(found: SearchResult) -> str:
    """How many mixtures tie with the best, and the first of them."""
    if no_error(found):
        where = "score" if found.method == "table" else "search"
        return (
            f"unknown: the choice rests on {count(found.windows, 'window')} "
            "for each domain at most, which leaves no error to compare with; "
            f"raise config.{where}.windows"
        )
    tied = [row for row in found.rows[1:] if row["tied"]]
    basis = f"({found.ties['heading']}, {found.ties['level']:.0%} simultaneous)"
    if not tied:
        return f"no other of {found.searched:,} mixtures {basis}"
    text = (
        f"{found.ties['count'] - 1:,} other of {found.searched:,} mixtures "
        f"{basis}, first {listed([row['name'] for row in tied[:3]])}"
    )
    best = found.best["name"]
    if plain := [name for name in plain_that_tie(found) if name != best]:
        text += f"; among them {listed(plain)}"
        if len(found.best["weights"]) > 1:
            text += ", so nothing here shows that weighting pays"
    return text


def search_sentences(found: SearchResult) -> list[str]:
    """What the planned run repeats, and what the search cost."""
    texts = []
    if found.epochs:
        ordered = sorted(found.epochs.items(), key=lambda pair: -pair[1])
        again = [f"{name} {x:.2f} times" for name, x in ordered if x > 1]
        texts.append(
            f"The planned run would see sources more than once: {listed(again, 4)}"
            if again
            else "The planned run would repeat no source"
        )
    if found.evaluations:
        text = (
            f"The search ({found.method}) cost {found.evaluations:,.0f} "
            "evaluations of a mixture on all dev text that matters, a "
            f"gradient counting as three: {found.tokens:,} tokens. "
            f"{count(found.searched, 'mixture')} scored by merging"
        )
        if found.looked_at > found.searched:
            text += f", of {found.looked_at:,} that the cheap predictor saw"
        texts.append(text)
    return texts


# The last lines of console and page.


def closing_lines(
    found: SearchResult | None,
    validation: Validation | None,
    workdir: str = "DIR",
    token_multiplier: float | None = None,
    chosen: TrainedChoice | None = None,
) -> list[str]:
    """What to train and with what command, what ties, and what is open.

    Args:
      found: the last search, if there was one.
      validation: the last comparison with reference runs, if there was one.
      workdir: as it is to be written in commands.
      token multiplier: tokens of a reference run / tokens of a member, if known.
      chosen: how mixtures that were trained by choice came out, if any were.
    """
    if found is None:
        return [
            "What to train: not answered; nothing was searched. Next: `jaxsim "
            f"run --config=FILE.py --workdir={workdir}` does all that is "
            "missing; with a trained pool `jaxsim search "
            f"--workdir={workdir}` is enough",
            "What ties with it: not answered",
            f"Not answered: {'; '.join(_open(None, validation, token_multiplier, ''))}",
        ]
    if validation is not None and not same_basis(found, validation):
        validation = None  # it says nothing about this search
    out = came_out(found, validation, chosen)
    return [
        *(f"OVERRIDE: {note}" for note in found.notes),
        f"What to train: {_train(found, validation, workdir, out, token_multiplier)}",
        f"What ties with it: {ties_sentence(found)}",
        f"Not answered: {'; '.join(_open(found, validation, token_multiplier, out))}",
    ]


def next_command(
    found: SearchResult,
    validation: Validation | None,
    workdir: str,
    token_multiplier: float | None = None,
) -> str:
    """The command that would teach most, given what there is; or ''."""
    validate = f"jaxsim validate --workdir={workdir}{_length(token_multiplier)}"
    again = f"jaxsim search --workdir={workdir}"
    if validation is None and about_training(found):
        return f"jaxsim report --workdir={workdir}"
    if _does_not_know(found, validation):
        return again
    if not _enough(validation):
        return f"{validate} --config.validate.held_out={ENOUGH_RUNS} && {again}"
    assert validation is not None
    if not validation.given and not validation.replicates:
        return (
            f"{validate} --config.validate.held_out={len(validation.reference_runs)} "
            f"--config.validate.replicates={REPLICATES} && {again}"
        )
    if found.ties["count"] > 1 and found.windows < found.dev_windows:
        more = min(4 * found.windows, found.dev_windows)
        if found.method != "table":
            return f"{again} --config.search.windows={more}"
        windows = f"--config.score.windows={more}"
        return f"jaxsim score --workdir={workdir} {windows} && {again} {windows}"
    return ""


def train_command(workdir: str, token_multiplier: float | None = None) -> str:
    """Trains the best mixture of the last search, as long as other runs."""
    path = PurePosixPath(workdir) / "search" / BEST
    validate = f"jaxsim validate --workdir={workdir}{_length(token_multiplier)}"
    return f"{validate} --mixtures={path}"


def _length(token_multiplier: float | None) -> str:
    """' --config.validate.token_multiplier=4', or nothing where it is the default."""
    if token_multiplier is None or math.isclose(token_multiplier, 1.0):
        return ""
    return f" --config.validate.token_multiplier={token_multiplier:g}"


def _does_not_know(found: SearchResult, validation: Validation | None) -> bool:
    """Whether runs came after the search, and it would use them."""
    return (
        validation is not None
        and not about_training(found)
        and same_basis(found, validation)
        and validation.residual(found.target) is not None
        # A search needs runs on limited domains, too.
        and set(found.domains) <= set(validation.points["reference"])
    )


def _enough(validation: Validation | None) -> bool:
    """Whether there are runs enough that training the answer comes next."""
    return validation is not None and (
        validation.given or len(validation.reference_runs) >= ENOUGH_RUNS
    )


def _train(
    found: SearchResult,
    validation: Validation | None,
    workdir: str,
    out: str,
    token_multiplier: float | None,
) -> str:
    """What the best mixture is, how it came out, and what to type next."""
    shares = weights(found.best["weights"])
    command = next_command(found, validation, workdir, token_multiplier)
    parts = [out] if out else []
    if _is_member(found):
        parts.append("it is a member, trained as long as the reference runs")
    wanted = not out and not _is_member(found)
    simpler = plain_that_tie(found)
    if simpler and found.best["name"] not in simpler:  # or it is as simple
        parts.append(f"{simpler[0]} is simpler and, as far as can be told, as good")
    train = f"`{train_command(workdir, token_multiplier)}`"
    if not about_training(found):
        text = f"the first candidate is {shares}, by merges alone"
        if _does_not_know(found, validation):
            parts.append(f"it did not use the reference runs: `{command}`")
        elif command:
            parts.append(f"first see how far merges can be trusted: `{command}`")
    else:
        text = f"{shares} (shares of tokens; report/tables/proposed.csv, first row)"
        if wanted and _enough(validation):
            parts.append(f"to train it: {train}")
            wanted = False
        if command:
            narrows = ".windows=" in command
            purpose = "to narrow the ties" if narrows else "next"
            parts.append(f"{purpose}: `{command}`")
        elif found.ties["count"] > 1:
            parts.append(
                "all dev text of the objective is used, so only more of it, "
                "more reference runs, or a run on each candidate can narrow "
                "the ties"
            )
    if wanted:
        parts.append(f"to train it at once: {train}")
    return "; ".join([text, *parts])


def _is_member(found: SearchResult) -> bool:
    """Whether the best is one member, and runs are as long as members."""
    return is_single(found.best) and found.singles_known


def _open(
    found: SearchResult | None,
    validation: Validation | None,
    token_multiplier: float | None,
    out: str,
) -> list[str]:
    """Everything that this report leaves open."""
    left = []
    if found is None or not about_training(found):
        left.append("how merges relate to training (no reference run counted)")
    if validation is not None:
        if (runs := len(validation.reference_runs)) < ENOUGH_RUNS:
            left.append(
                f"how well merges rank ({count(runs, 'held-out run')}, fewer "
                f"than {ENOUGH_RUNS})"
            )
        ceilings = validation.ceilings.items()
        low = [name for name, ceiling in ceilings if ceiling < BELOW_NOISE]
        if not validation.replicates:
            left.append("the noise of training (no replicates)")
        elif low:
            left.append(
                f"{count(len(low), 'target')} below the noise floor ({listed(low, 3)})"
            )
    if found is not None and not out and not _is_member(found):
        left.append("the proposed mixture itself (it was not trained)")
    left.append(f"longer training{_multiplier(token_multiplier)}")
    left.append("larger models, and downstream tasks (only losses measured)")
    return left


def _multiplier(token_multiplier: float | None) -> str:
    if token_multiplier is None:
        return ""
    return f" (reference runs at token multiplier {token_multiplier:g} only)"
