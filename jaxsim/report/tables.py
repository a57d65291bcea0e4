"""What the commands print when they are done, as console tables."""

from collections.abc import Iterable

import numpy as np

from jaxsim.console import say, show_table
from jaxsim.mixture.scores import Scores, as_arrow
from jaxsim.pool import Pool
from jaxsim.report import agreement
from jaxsim.report.closing import report_check
from jaxsim.report.references import (
    References,
    own_best_sentence,
    own_members,
    references_of,
)
from jaxsim.report.wording import (
    duration,
    listed,
    number,
    shares,
    signed,
    target,
    weights,
)
from jaxsim.search.found import Found
from jaxsim.study.validate import PROXIES, Validation

_MOST_DOMAINS = 6  # out-of-pool columns that fit a console
_MOST_ROWS = 12


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
        note=_marks(references.notes),
    )
    if has_inside:
        show_table(
            "in-pool domains: which member is best?",
            ["domain", "best member", "bits per byte", "gain over the seed",
             "the own member's rank"],
            list(_best_members(references, half)),
            note=own_best_sentence(references, half),
        )  # fmt: skip


def show_agreement(validation: Validation) -> None:
    """Prints how well proxies and no-model rules agree with the truths."""
    truths = len(validation.truths)
    source = "given" if validation.given else "trained"
    for group in agreement.groups(validation):
        lines = agreement.lines(validation, group)
        columns = agreement.columns(lines)
        show_table(
            f"agreement with {truths} {source} truths: {group.title}",
            ["predictor", *columns.values()],
            [
                [
                    ("no model: " if line.is_rule else "") + line.label,
                    *agreement.cells(line, columns),
                ]
                for line in lines
            ],
        )
    if not agreement.enough_truths(validation):
        _show_points(validation)
    say(agreement.ceilings_sentence(validation))
    if marks := _marks(validation.notes):
        say(marks)


def show_found(found: Found) -> None:
    """Prints the best mixture and all that ties with it."""
    rows = found.rows[:_MOST_ROWS]
    rows += [row for row in found.rows[_MOST_ROWS:] if not row["tied"]]
    show_table(
        f"{found.ties['heading']} ({found.ties['count']} of "
        f"{found.searched:,} mixtures, for {target(found.target)})",
        ["mixture", "weights", "select", "report", "difference", "error",
         "ties"],
        [
            [
                row["name"],
                shares(row, 4),
                number(row["select"], 4),
                number(row["report"], 4),
                signed(row["difference"]),
                number(row["error"], 4),
                "yes" if row["tied"] else "no",
            ]
            for row in rows
        ],
        note=f"bits per byte; {found.ties['resampled']} were resampled",
    )  # fmt: skip
    if left := len(found.rows) - len(rows):
        say(f"and {left} more that tie, in search/found.json")
    say(report_check(found))


def _show_points(validation: Validation) -> None:
    """Every truth, where there are too few for an interval."""
    for group in agreement.groups(validation):
        if len(group.targets) > 1:
            continue
        (name,) = group.targets
        show_table(
            f"the points: {group.title}, bits per byte",
            ["truth", "ratio", "trained", *agreement.LABELS.values()],
            [
                [
                    truth,
                    weights(
                        dict(zip(validation.members, ratio, strict=True)), 3
                    ),
                    *(
                        number(validation.points[which][name][i], 4)
                        for which in ("truth", *PROXIES)
                    ),
                ]
                for i, (truth, ratio) in enumerate(
                    zip(validation.truths, validation.ratios, strict=True)
                )
            ],
        )


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


def _marks(notes: Iterable[str]) -> str:
    return "\n".join(f"OVERRIDE: {note}" for note in notes)
