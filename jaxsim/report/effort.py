"""How a search went, in sentences: what binds, what is proved, what it cost.

Every claim carries its condition. A search of an earlier version has less to
say, and then there is no sentence.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsim.report.wording import BLANK, count, listed, number, signed
from jaxsim.search.found import Found

# Of what `marginal` holds.
THOUSANDTHS = "thousandths of a bit per byte"
_NEXT_PERCENT = (
    "by the merge, to first order, on select text: one percent of the tokens "
    "moves to a member, taken from all in proportion; what averaging alone "
    "wins is part of it"
)
_MOST_SOURCES = 4
_MOST_WORST = 5


def certificate_sentence(found: Found) -> str:
    """Frank-Wolfe's gap, with what it rests on."""
    if found.certificate is None:
        return ""
    gap, share = found.certificate["gap"], found.certificate["relative"]
    return (
        "Certificate: were the merged loss convex in the weights, which nobody "
        "has shown, no mixture within the constraints would have a merge more "
        f"than {number(gap, 6)} bits per byte ({share:.3%} of the objective) "
        "below the lowest one here, on select text (Frank-Wolfe's gap)"
    )


def binding_sentence(found: Found) -> str:
    """What binds at the best mixture, and what relaxing it would give."""
    if not found.binding:
        return ""
    at_least = {r["name"] for r in found.binding if r["kind"] == "floor"}
    at_most = {r["name"] for r in found.binding if r["kind"] == "ceiling"}
    fixed = at_least & at_most
    texts = [f"{name} is fixed" for name in sorted(fixed)]
    texts += [
        f"{constraint_words(row)} (if relaxed: {relaxing_words(row)})"
        for row in found.binding
        if row["name"] not in fixed
    ]
    return "What binds: " + "; ".join(texts)


def domains_sentence(found: Found) -> str:
    """The domains of a worst case, or with limits, worst first."""
    if found.objective != "worst" and not any(
        "limit" in row for row in found.domains.values()
    ):
        return ""
    ordered = sorted(
        found.domains.items(),
        key=lambda pair: pair[1]["seed"] - pair[1]["best"],
    )
    words = [
        f"{name} {signed(row['best'] - row['seed'])}"
        + (f" (at most {row['limit']:.4f})" if "limit" in row else "")
        for name, row in ordered[:_MOST_WORST]
    ]
    text = "Against the seed, on select text, least gain first: "
    text += ", ".join(words)
    if left := len(ordered) - len(words):
        text += f" and {left} more"
    if found.objective == "worst" and len(found.target) == 1:
        text += "; of one domain the worst is the mean"
    return text


def constraint_words(row: dict[str, Any]) -> str:
    """A constraint with its limit, as in 'at most 30.0% of alpha'."""
    limit, name = row["limit"], row["name"]
    words = {
        "floor": f"at least {limit:.1%} of {name}",
        "ceiling": f"at most {limit:.1%} of {name}",
        "supply": f"the supply of {name}, {limit:.1%} of the run",
        "divergence": f"at most {limit:g} nats from the reference",
        "regret": f"at most {limit:.4f} bits per byte on {name}",
        "sources": f"at most {count(round(limit), 'source')}",
    }
    return words.get(row["kind"], f"{row['kind']} {limit:g} {name}".strip())


def relaxing_words(row: dict[str, Any]) -> str:
    """What relaxing a constraint a little would give."""
    if row["gain"] is None:
        return "not known"
    return (
        f"{number(row['gain'], 4)} bits per byte better for {row['step']}, "
        "to first order"
    )


def repetition_sentence(found: Found) -> str:
    """Sources that the planned run sees more than once."""
    if not found.epochs:
        return ""
    ordered = sorted(found.epochs.items(), key=lambda pair: -pair[1])
    again = [
        f"{name} {times:.2f} times" for name, times in ordered if times > 1
    ]
    if not again:
        return "The planned run would repeat no source"
    text = listed(again, _MOST_SOURCES)
    return f"The planned run would see sources more than once: {text}"


def effort_sentence(found: Found) -> str:
    """What the search cost, and how many mixtures each proxy looked at."""
    if not found.evaluations:
        return ""
    text = (
        f"The search ({found.method}) cost {found.evaluations:,.0f} "
        "evaluations of a mixture on all select text that matters, a gradient "
        f"counting as three: {found.tokens:,} tokens. "
    )
    if found.looked_at > found.searched:
        text += f"The cheap proxy looked at {found.looked_at:,} mixtures, "
        return text + f"{found.searched:,} were scored by merging"
    return text + f"{count(found.searched, 'mixture')} scored by merging"


def race_sentence(found: Found) -> str:
    """How many mixtures were dropped at each look, on how much text."""
    if not found.race:
        return ""
    looks = [
        f"{look['dropped']:,} of {look['entered']:,} on "
        f"{count(look['windows'], 'window')}"
        for look in found.race
    ]
    return f"The race dropped {', then '.join(looks)}"


@dataclasses.dataclass(frozen=True)
class NextPercent:
    """What one percent more of each member is worth.

    Attributes:
      members: C.
      domains: D.
      bits_CD: change in bits per byte; NaN where it was not computed.
      aim_C: the same for the objective; for the weighted mean of the target
        where an earlier version has left no more.
    """

    members: tuple[str, ...]
    domains: tuple[str, ...]
    bits_CD: np.ndarray
    aim_C: np.ndarray

    def extremes(self, most: int) -> list[int | None]:
        """The best and the worst members, None between if some are left out."""
        order = [int(c) for c in np.argsort(self.aim_C, kind="stable")]
        if len(order) <= 2 * most:
            return list(order)
        return [*order[:most], None, *order[-most:]]


def next_percent(found: Found) -> NextPercent | None:
    """None if it was not computed."""
    if not found.marginal:
        return None
    domains = tuple(found.marginal["domains"])
    bits_CD = np.array(found.marginal["bits_DC"], float).T
    if (objective_C := found.marginal.get("objective_C")) is not None:
        return NextPercent(
            tuple(found.marginal["members"]),
            domains,
            bits_CD,
            np.array(objective_C),
        )
    weights_D = np.array([found.target.get(name, 0.0) for name in domains])
    used = weights_D > 0
    aim_C = bits_CD[:, used] @ (weights_D[used] / weights_D[used].sum())
    return NextPercent(
        tuple(found.marginal["members"]), domains, bits_CD, aim_C
    )


def next_percent_words(found: Found) -> str:
    """What the figures of the next percent are of."""
    if found.calibrated:
        return (
            f"{_NEXT_PERCENT}; the target's column has what truths taught in "
            "it, single domains have not"
        )
    return _NEXT_PERCENT


def thousandths(value: float) -> str:
    """A change in bits per byte, in thousandths."""
    return f"{1000 * value:+.2f}" if np.isfinite(value) else BLANK


def sentences(found: Found) -> Sequence[str]:
    """All that there is to say, most important first."""
    return [
        text
        for text in (
            domains_sentence(found),
            binding_sentence(found),
            repetition_sentence(found),
            certificate_sentence(found),
            effort_sentence(found),
            race_sentence(found),
        )
        if text
    ]
