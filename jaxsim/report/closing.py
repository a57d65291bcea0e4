"""The answer in sentences: what to train, what ties, what was not answered."""

import math
from typing import Any

from jaxsim.report.agreement import noise_bound
from jaxsim.report.wording import count, listed, number, target, weights
from jaxsim.search.found import Found
from jaxsim.search.ties import AFTER_TRUTHS
from jaxsim.study.agreement import ENOUGH_TRUTHS
from jaxsim.study.validate import Validation

PLAIN = ("uniform", "proportional", "macro")
REPEATS = 4  # truths whose repeats make a first estimate of noise


def closing_lines(
    found: Found | None,
    validation: Validation | None,
    workdir: str = "DIR",
    horizon: float | None = None,
) -> list[str]:
    """The last lines of the report and of the console.

    Args:
      found: the last search, if there was one.
      validation: the last comparison with truths, if there was one.
      workdir: as it is to be written in commands.
      horizon: tokens of a truth / tokens of a member, if known.
    """
    if found is None:
        return [
            "What to train: not answered; nothing was searched. Next: `jaxsim "
            f"run --config=FILE.py --workdir={workdir}` does all that is "
            "missing; with a scored table `jaxsim search "
            f"--workdir={workdir}` is enough",
            "What ties with it: not answered",
            f"Not answered: {'; '.join(_open(None, validation, horizon))}",
        ]
    return [
        *(f"OVERRIDE: {note}" for note in found.notes),
        f"What to train: {_train(found, validation, workdir)}",
        f"What ties with it: {ties_sentence(found)}",
        f"Not answered: {'; '.join(_open(found, validation, horizon))}",
    ]


def answer(found: Found | None) -> str:
    """One sentence for the top of the page."""
    if found is None:
        return (
            "No mixture was searched yet, so there is no answer: run "
            "`jaxsim search`."
        )
    best = found.best
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
        "with the error that truths showed"
        if about_training(found)
        else "between merges, not yet about training"
    )
    return (
        f"Judged on {target(found.target)}, the mixture with the lowest "
        f"predicted loss is "
        f"{weights(best['weights'])}: {number(best['select'], 4)} bits per "
        f"byte on the text it was chosen on; {tied} ({basis})."
    )


def ties_sentence(found: Found) -> str:
    """How many mixtures tie with the best, and the first of them."""
    tied = [row for row in found.rows[1:] if row["tied"]]
    if no_error(found):
        return (
            f"unknown: the choice rests on {count(found.windows, 'window')} "
            "for each domain at most, which leaves no error to compare with; "
            "raise config.score.windows"
        )
    heading = found.ties["heading"]
    if not tied:
        return (
            f"no other of {found.searched:,} mixtures ({heading}, "
            f"{found.ties['level']:.0%} simultaneous)"
        )
    sentence = (
        f"{found.ties['count'] - 1:,} other of {found.searched:,} mixtures "
        f"({heading}, {found.ties['level']:.0%} simultaneous), first "
        f"{listed([row['name'] for row in tied[:3]])}"
    )
    if plain := [row["name"] for row in tied if row["kind"] in PLAIN]:
        sentence += (
            f"; among them {listed(plain)}, so nothing here shows that "
            "weighting pays"
        )
    return sentence


def report_check(found: Found) -> str:
    """Whether the choice holds on text that took no part in it."""
    best = found.best
    plain = [
        row
        for row in found.rows[1:]
        if (row["kind"] in PLAIN or len(row["weights"]) == 1)
        and row["report"] is not None
    ]
    if best["report"] is None or not plain:
        return "On report text the best mixture was not compared."
    rival = min(plain, key=lambda row: row["report"])
    gain = rival["report"] - best["report"]
    start = (
        "On report text, which took no part in the choice, it has "
        f"{number(best['report'], 4)} bits per byte; the best plain mixture, "
        f"{rival['name']}, has {number(rival['report'], 4)}"
    )
    if gain > 0:
        return f"{start}: the choice is {number(gain, 4)} better."
    return (
        f"{start}: the choice is no better ({number(-gain, 4)} worse), so "
        "its lead on select text may be chance."
    )


def no_error(found: Found) -> bool:
    """Whether nothing could be resampled, so that no tie means anything."""
    others = found.rows[1:]
    return bool(others) and all(row["error"] == 0 for row in others)


def about_training(found: Found) -> bool:
    return bool(found.ties["heading"] == AFTER_TRUTHS)


def next_command(
    found: Found | None, validation: Validation | None, workdir: str
) -> str:
    """The command that would teach most, given what there is."""
    validate = f"jaxsim validate --workdir={workdir}"
    again = f"jaxsim search --workdir={workdir}"
    if found is None:
        return again
    if validation is None and about_training(found):
        return f"jaxsim report --workdir={workdir}"
    if validation is None or (
        not validation.given and len(validation.truths) < ENOUGH_TRUTHS
    ):
        return f"{validate} --config.validate.truths={ENOUGH_TRUTHS} && {again}"
    if not validation.given and not validation.repeats:
        return (
            f"{validate} --config.validate.truths={len(validation.truths)} "
            f"--config.validate.repeats={REPEATS} && {again}"
        )
    if found.ties["count"] > 1 and found.windows < found.select_windows:
        more = min(4 * found.windows, found.select_windows)
        windows = f"--config.score.windows={more}"
        return (
            f"jaxsim score --workdir={workdir} {windows} && {again} {windows}"
        )
    return ""


def _train(found: Found, validation: Validation | None, workdir: str) -> str:
    shares = weights(found.best["weights"])
    command = next_command(found, validation, workdir)
    if not about_training(found):
        return (
            f"the first candidate is {shares}, by merges alone; before "
            f"spending on it, see how far merges can be trusted: `{command}`"
        )
    text = f"{shares} (shares of tokens; report/tables/proposed.csv, first row)"
    if not command and found.ties["count"] > 1:
        return (
            f"{text}; all select text of the target is used, so only more of "
            "it, or a truth of each candidate, can narrow the ties"
        )
    if not command:
        return text
    aim = "to narrow the ties" if "jaxsim score" in command else "next"
    return f"{text}; {aim}: `{command}`"


def _open(
    found: Found | None, validation: Validation | None, horizon: float | None
) -> list[str]:
    """Everything that this report leaves open."""
    left = []
    trained = found is not None and about_training(found)
    if validation is None:
        if not trained:
            left.append("how merges relate to training (no truth counted)")
    else:
        left += _open_after(found, validation)
    if horizon is not None and math.isclose(horizon, 1.0):
        left.append("longer training (truths at horizon 1 only)")
    elif horizon is not None:
        left.append(f"other lengths (truths at horizon {horizon:g} only)")
    else:
        left.append("longer training")
    left.append("larger models, and downstream tasks (only losses measured)")
    return left


def _open_after(found: Found | None, validation: Validation) -> list[str]:
    left = []
    truths = len(validation.truths)
    if truths < ENOUGH_TRUTHS:
        left.append(
            f"how well merges rank ({count(truths, 'truth')}, fewer than "
            f"{ENOUGH_TRUTHS})"
        )
    if not validation.repeats:
        left.append("the noise of training (no repeats)")
    elif bound := noise_bound(validation):
        left.append(
            f"{count(len(bound), 'target')} with a ceiling below 0.9 "
            f"({listed(bound, 3)})"
        )
    if found is not None and not _was_trained(found.best, validation):
        left.append("the proposed mixture itself (it is no truth)")
    return left


def _was_trained(row: dict[str, Any], validation: Validation) -> bool:
    wanted = [row["weights"].get(name, 0.0) for name in validation.members]
    return any(
        max(abs(a - b) for a, b in zip(wanted, ratio, strict=True)) < 1e-6
        for ratio in validation.ratios
    )
