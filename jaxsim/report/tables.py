"""What the commands print when they are done, as console tables."""

from collections.abc import Iterable

import numpy as np

from jaxsim.log import say, show_table
from jaxsim.mixture.scores import Scores, as_arrow
from jaxsim.mixture.summary import summarize
from jaxsim.pool import Pool
from jaxsim.report import effort, outcome
from jaxsim.report.agreement import LABELS
from jaxsim.report.agreement_tables import show_agreement as show_agreement
from jaxsim.report.answer import (
    plain_that_tie,
    report_check,
    shift_sentence,
    shown_rows,
)
from jaxsim.report.references import (
    References,
    own_best_sentence,
    own_members,
    references_of,
)
from jaxsim.report.wording import (
    BLANK,
    aim,
    duration,
    largest,
    listed,
    marks,
    number,
    short,
    signed,
    weights,
)
from jaxsim.search.found import Found
from jaxsim.study.chosen import Chosen
from jaxsim.study.measured import PROXIES
from jaxsim.study.validate import Validation

_MOST_DOMAINS = 6  # out-of-pool columns that fit a console
_MOST_ROWS = 8
_NARROW = {
    "probability": "probability\naverage",
    "members": "mean of\nmembers",
}
_MOST_SCORES, _MOST_TARGETS = 12, 3
_EXTREMES = 3  # members shown at either end


def show_pool(pool: Pool) -> None:
    """Prints what each member was trained on, and what it took."""
    members = pool.manifests("member")
    show_table(
        f"members of the pool ({len(members)})",
        ["member", "tokens", "epochs", "final loss (nats/token)", "time"],
        [
            [
                name,
                f"{m.tokens:,}",
                number(max(m.epochs.values(), default=0.0), 2),
                number(m.final_loss, 4),
                duration(m.wall_seconds),
            ]
            for name, m in members.items()
        ],
    )


def show_members(scores: Scores) -> None:
    """Prints the references, and the best member for each in-pool domain."""
    references = references_of(as_arrow(scores))
    half = "select"
    outside = [n for n, i in _domains(references) if not i][:_MOST_DOMAINS]
    columns = [references.domains.index(name) for name in outside]
    has_inside = any(references.in_pool)
    macro_M = (
        references.macro_in_pool(half)
        if has_inside
        else np.full(len(references.names), np.nan)
    )
    show_table(
        "bits per byte on select text",
        ["mixture", *["macro in-pool"] * has_inside, *outside],
        [
            [name]
            + [number(macro_M[m], 4)] * has_inside
            + [number(references.bits[half][m, d], 4) for d in columns]
            for m, name in enumerate(references.names)
        ],
        note=marks(references.notes),
    )
    if has_inside:
        show_table(
            "in-pool domains: which member is best?",
            ["domain", "best member", "bits per byte", "gain over the seed",
             "the own member's rank"],
            list(_best_members(references, half)),
            note=own_best_sentence(references, half),
        )  # fmt: skip


def show_scores(scores: Scores) -> None:
    """Prints the best rows of a table by the merge, and the plain merges."""
    best = summarize(scores, "select", _MOST_SCORES)
    targets = list(enumerate(best.targets))[:_MOST_TARGETS]
    proxies = ["merge", *(p for p in _NARROW if p in best.bits)]
    table = scores.table
    show_table(
        f"best of {len(table):,} mixtures by the merge on {best.targets[0]}: "
        "bits per byte on select text",
        ["mixture", "weights"]
        + [f"{name},\n{_NARROW.get(p, p)}" for _, name in targets
           for p in proxies],
        [
            [
                short(table.names[m], 40),
                largest({"weights": table.parts(m)}),
                *(number(best.bits[p][i, t], 4) for t, _ in targets
                  for p in proxies),
            ]
            for i, m in enumerate(best.rows)
        ],
        note=marks(scores.notes),
    )  # fmt: skip
    say(f"All on the same windows, at most {best.windows} of each domain.")


def show_found(found: Found) -> None:
    """Prints the best mixture, what ties with it, and how it was found.

    The command that trains it is in the closing lines, which follow.
    """
    if plain := plain_that_tie(found):
        say(f"Nothing is shown to beat {listed(plain)}.")
    tied = [row for row in found.rows if row["tied"]]
    rows = shown_rows(found, _MOST_ROWS)
    others = [p for p in ("probability", "members") if p in found.best]
    shifted = found.calibrated
    show_table(
        f"{found.ties['heading']} ({found.ties['count']} of "
        f"{found.searched:,} mixtures, for "
        f"{aim(found.target, found.objective)})",
        ["mixture", "weights", "merge,\nselect", "merge,\nreport",
         *(f"{_NARROW[p]},\nselect" for p in others), *["shift"] * shifted,
         "difference", "error",
         "limit", "ties"],
        [
            [
                short(row["name"], 40),
                largest(row),
                number(row["select"], 4),
                number(row["report"], 4),
                *(number(row[p], 4) for p in others),
                *[signed(row.get("shift", 0.0))] * shifted,
                signed(row["difference"]),
                *(
                    BLANK if row is found.best else number(row.get(key), 4)
                    for key in ("error", "limit")
                ),
                "yes" if row["tied"] else "no",
            ]
            for row in rows
        ],
        note=f"bits per byte; {found.ties['resampled']} were resampled; a "
        "difference up to its limit, simultaneous over all mixtures, ties"
        + _worth(found),
    )  # fmt: skip
    if left := len(tied) - sum(row["tied"] for row in rows):
        say(f"and {left} more that tie, in search/found.json")
    say(f"The best: {weights(found.best['weights'], 12)}")
    if found.constraints:
        say(f"Under: {'; '.join(found.constraints)}")
    if text := shift_sentence(found):
        say(text)
    say(report_check(found))
    for text in found.warnings:
        say(f"WARNING: {text}")
    for text in effort.sentences(found):
        say(text)
    _show_next_percent(found)


def _worth(found: Found) -> str:
    """What was said not to matter."""
    if not found.ties["worth"]:
        return ""
    return (
        f"; differences below {found.ties['worth']:.2%} of the best were said "
        "not to matter"
    )


def show_chosen(
    chosen: Chosen, found: Found | None, validation: Validation | None
) -> None:
    """Prints what training the chosen ratios gave, beside the predictions."""
    show_table(
        "chosen ratios: predicted against trained, bits per byte on report "
        "text",
        ["ratio", "on", "trained", *(LABELS[p] for p in PROXIES),
         "trained - merge"],
        [
            [
                one.label,
                on,
                number(one.trained, 4),
                *(number(one.predicted[p], 4) for p in PROXIES),
                signed(one.trained - one.predicted["merge"]),
            ]
            for on, these in outcome.comparisons(chosen, found)
            for one in these
        ],
        note=marks(chosen.notes),
    )  # fmt: skip
    for text in outcome.sentences(chosen, found, validation):
        say(text)


def _show_next_percent(found: Found) -> None:
    """The members that are worth most and least, on the target's domains."""
    percent = effort.next_percent(found)
    if percent is None:
        return
    shown = [d for d, n in enumerate(percent.domains) if n in found.target]
    # Of one domain they are the same, but for what truths taught.
    several = len(shown) > 1 or found.calibrated
    shown = shown[:_MOST_DOMAINS]
    show_table(
        "what the next percent is worth, at the best mixture",
        ["1 % more of", *["the objective"] * several,
         *(percent.domains[d] for d in shown)],
        [
            ["..."] + [""] * (several + len(shown))
            if c is None
            else [
                percent.members[c],
                *[effort.thousandths(percent.aim_C[c])] * several,
                *(effort.thousandths(percent.bits_CD[c, d]) for d in shown),
            ]
            for c in percent.extremes(_EXTREMES)
        ],
        note=f"change in {effort.THOUSANDTHS}, negative is better, "
        f"{effort.next_percent_words(found)}",
    )  # fmt: skip


def _best_members(references: References, half: str) -> Iterable[list[str]]:
    gain_CD = references.gains(half)
    for d, (domain, inside) in enumerate(_domains(references)):
        gain_C = gain_CD[:, d]
        if not inside or not np.isfinite(gain_C).any():
            continue
        best = int(np.nanargmax(gain_C))
        own = own_members(domain, references.members)
        ranks = [
            str(1 + int((gain_C > gain_C[references.members.index(n)]).sum()))
            for n in own
        ]
        bits = references.row(references.members[best], half)[d]
        yield [
            domain,
            references.members[best],
            number(bits, 4),
            signed(gain_C[best]),
            listed(ranks) or "no own member",
        ]


def _domains(references: References) -> list[tuple[str, bool]]:
    return list(zip(references.domains, references.in_pool, strict=True))
