"""What the search found, in sentences: the answer, its ties, its check."""

from typing import Any

from jaxsim.report.outcome import PLAIN
from jaxsim.report.wording import aim, count, listed, number, weights
from jaxsim.search.found import Found, is_single
from jaxsim.search.ties import AFTER_TRUTHS

_MOST_PLAIN = 4


def shift_sentence(found: Found) -> str:
    """By how much truths corrected the merges shown; '' if they did not."""
    if not found.calibrated:
        return ""
    shifts = [
        float(row.get("shift", 0.0))
        for row in found.rows
        if not (is_single(row) and found.singles_known)
    ]
    if not any(shifts):
        return (
            "Truths left the merges as they are: no correction predicted "
            "truths left out any better"
        )
    low, high = f"{min(shifts):+.4f}", f"{max(shifts):+.4f}"
    text = (
        "Differences include what truths taught: the merges shown are shifted "
        + (f"by {low} " if low == high else f"by {low} to {high} ")
        + "bits per byte"
    )
    if found.singles_known:
        text += "; a single member is its own truth and is not shifted"
    return text


def answer(found: Found | None) -> str:
    """The top of the page, in a sentence or two."""
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
    text = (
        f"Judged on {aim(found.target, found.objective)}, the mixture with the "
        f"lowest predicted loss is {weights(best['weights'], 5)}: "
        f"{number(found.predicted(best, 'select'), 4)} bits per "
        f"byte on the text it was chosen on{_seed(found)}; {tied} ({basis})."
    )
    if plain := plain_that_tie(found):
        return f"Nothing is shown to beat {listed(plain)}. {text}"
    return text


def _seed(found: Found) -> str:
    """What the seed has on the same text, where one figure says it."""
    if found.objective != "mean" or any(
        name not in found.domains for name in found.target
    ):
        return ""
    total = sum(found.target.values())
    bits = sum(w * found.domains[n]["seed"] for n, w in found.target.items())
    return f" (the seed: {number(bits / total, 4)})"


def plain_that_tie(found: Found) -> list[str]:
    """Plain mixtures that cannot be told apart from the best, or are it."""
    if no_error(found):
        return []
    return [
        row["name"]
        for row in found.rows
        if row["tied"] and (row["kind"] in PLAIN or is_single(row))
    ][:_MOST_PLAIN]


def plain_rows(found: Found) -> list[dict[str, Any]]:
    """Uniform and its like, and the best single member, that may be chosen."""
    plain = [row for row in found.rows if row["kind"] in PLAIN]
    return plain + [row for row in found.rows if is_single(row)][:1]


def shown_rows(found: Found, most: int) -> list[dict[str, Any]]:
    """The first that tie, then the plain ones, whether they tie or not."""
    first = [row for row in found.rows if row["tied"]][:most]
    return first + [
        row
        for row in found.rows
        if not any(row is each for each in first)
        and (not row["tied"] or any(row is each for each in plain_rows(found)))
    ]


def ties_sentence(found: Found) -> str:
    """How many mixtures tie with the best, and the first of them."""
    tied = [row for row in found.rows[1:] if row["tied"]]
    where = "score" if found.method == "table" else "search"
    if no_error(found):
        return (
            f"unknown: the choice rests on {count(found.windows, 'window')} "
            "for each domain at most, which leaves no error to compare with; "
            f"raise config.{where}.windows"
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
    best = found.best["name"]
    if plain := [name for name in plain_that_tie(found) if name != best]:
        sentence += f"; among them {listed(plain)}"
        if len(found.best["weights"]) > 1:
            sentence += ", so nothing here shows that weighting pays"
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
    if best["report"] is None:
        return "On report text the best mixture was not compared."
    if not plain:
        return (
            "On report text, which took no part in the choice, it has "
            f"{number(best['report'], 4)} bits per byte; no plain mixture may "
            "be chosen, to compare it with."
        )
    rival = min(plain, key=lambda row: found.predicted(row, "report"))
    best_value, rival_value = (
        found.predicted(row, "report") for row in (best, rival)
    )
    gain = rival_value - best_value
    verb = "is predicted to have" if found.calibrated else "has"
    start = (
        f"On report text, which took no part in the choice, it {verb} "
        f"{number(best_value, 4)} bits per byte; the best other plain mixture, "
        f"{rival['name']}, {number(rival_value, 4)}"
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
