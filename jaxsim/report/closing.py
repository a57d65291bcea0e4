"""The last lines: what to train and with what command, and what is open."""

import math

from jaxsim.report.agreement import noise_bound
from jaxsim.report.answer import (
    about_training,
    plain_that_tie,
    ties_sentence,
)
from jaxsim.report.outcome import came_out, same_basis
from jaxsim.report.price import (
    Price,
    horizon_option,
    price_words,
    train_command,
)
from jaxsim.report.wording import count, listed, weights
from jaxsim.search.found import Found, is_single
from jaxsim.study.agreement import ENOUGH_TRUTHS
from jaxsim.study.chosen import Chosen
from jaxsim.study.validate import Validation

REPEATS = 4  # truths whose repeats make a first estimate of noise


def closing_lines(
    found: Found | None,
    validation: Validation | None,
    workdir: str = "DIR",
    horizon: float | None = None,
    chosen: Chosen | None = None,
    price: Price | None = None,
) -> list[str]:
    """The last lines of the report and of the console.

    Args:
      found: the last search, if there was one.
      validation: the last comparison with truths, if there was one.
      workdir: as it is to be written in commands.
      horizon: tokens of a truth / tokens of a member, if known.
      chosen: how ratios that were trained by choice came out, if any were.
      price: of one more run, if there is one to go by.
    """
    if found is None:
        return [
            "What to train: not answered; nothing was searched. Next: `jaxsim "
            f"run --config=FILE.py --workdir={workdir}` does all that is "
            "missing; with a trained pool `jaxsim search "
            f"--workdir={workdir}` is enough",
            "What ties with it: not answered",
            f"Not answered: {'; '.join(_open(None, validation, horizon, ''))}",
        ]
    if validation is not None and found.evaluation:
        # Truths of another pool or text say nothing of this search.
        validation = validation if same_basis(found, validation) else None
    out = came_out(found, validation, chosen)
    train = _train(found, validation, workdir, out, price, horizon)
    return [
        *(f"OVERRIDE: {note}" for note in found.notes),
        f"What to train: {train}",
        f"What ties with it: {ties_sentence(found)}",
        f"Not answered: {'; '.join(_open(found, validation, horizon, out))}",
    ]


def next_command(
    found: Found | None,
    validation: Validation | None,
    workdir: str,
    horizon: float | None = None,
) -> str:
    """The command that would teach most, given what there is."""
    validate = f"jaxsim validate --workdir={workdir}{horizon_option(horizon)}"
    again = f"jaxsim search --workdir={workdir}"
    if found is None:
        return again
    if validation is None and about_training(found):
        return f"jaxsim report --workdir={workdir}"
    if _knows_nothing_of(found, validation):
        return again
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
        if found.method != "table":
            return f"{again} --config.search.windows={more}"
        windows = f"--config.score.windows={more}"
        return (
            f"jaxsim score --workdir={workdir} {windows} && {again} {windows}"
        )
    return ""


def _knows_nothing_of(found: Found, validation: Validation | None) -> bool:
    """Whether truths came after the search, and it would use them."""
    return (
        validation is not None
        and not about_training(found)
        and same_basis(found, validation)
        and validation.residual(found.target) is not None
        # A search needs truths of limited domains, too.
        and set(found.domains) <= set(validation.points["truth"])
    )


def _train(
    found: Found,
    validation: Validation | None,
    workdir: str,
    out: str,
    price: Price | None,
    horizon: float | None,
) -> str:
    """What the best mixture is, how it came out, and what to type next."""
    shares = weights(found.best["weights"])
    command = next_command(found, validation, workdir, horizon)
    train = f"`{train_command(workdir, horizon)}`{price_words(price)}"
    parts = [out] if out else []
    if is_member(found):
        parts.append("it is a member, and trained as long as the truths")
    wanted = not out and not is_member(found)
    simpler = plain_that_tie(found)
    if simpler and found.best["name"] not in simpler:  # or it is as simple
        parts.append(
            f"{simpler[0]} is simpler and, as far as can be told, as good"
        )
    if not about_training(found):
        text = f"the first candidate is {shares}, by merges alone"
        if _knows_nothing_of(found, validation):
            parts.append(f"truths are there that it did not know: `{command}`")
        elif command:
            parts.append(
                "before spending on it, see how far merges can be trusted: "
                f"`{command}`"
            )
    else:
        text = (
            f"{shares} (shares of tokens; report/tables/proposed.csv, first "
            "row)"
        )
        if wanted and _enough(validation):
            parts.append(f"to train it: {train}")
            wanted = False
        if command:
            narrows = ".windows=" in command
            purpose = "to narrow the ties" if narrows else "next"
            parts.append(f"{purpose}: `{command}`")
        elif found.ties["count"] > 1:
            parts.append(
                "all select text of the target is used, so only more of it, "
                "more truths, or a truth of each candidate can narrow the ties"
            )
    if wanted:
        parts.append(f"to train it at once: {train}")
    return "; ".join([text, *parts])


def is_member(found: Found) -> bool:
    """Whether the best is one member, and truths are as long as members."""
    return is_single(found.best) and found.singles_known


def _enough(validation: Validation | None) -> bool:
    """Whether there are truths enough that training the answer comes next."""
    return validation is not None and (
        validation.given or len(validation.truths) >= ENOUGH_TRUTHS
    )


def _open(
    found: Found | None,
    validation: Validation | None,
    horizon: float | None,
    out: str,
) -> list[str]:
    """Everything that this report leaves open."""
    left = []
    trained = found is not None and about_training(found)
    if not trained:
        left.append("how merges relate to training (no truth counted)")
    if validation is not None:
        left += _open_after(validation)
    if found is not None and not out and not is_member(found):
        left.append("the proposed mixture itself (it was not trained)")
    if horizon is not None and math.isclose(horizon, 1.0):
        left.append("longer training (truths at horizon 1 only)")
    elif horizon is not None:
        left.append(f"other lengths (truths at horizon {horizon:g} only)")
    else:
        left.append("longer training")
    left.append("larger models, and downstream tasks (only losses measured)")
    return left


def _open_after(validation: Validation) -> list[str]:
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
    return left
