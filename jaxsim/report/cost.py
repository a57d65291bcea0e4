"""What was spent, beside what other ways to an answer would have cost.

Training figures come from manifests. The passes of scoring are counted from
the tables; nobody recorded their time. The other ways are estimates; each
carries its formula.
"""

import dataclasses
import math
from collections.abc import Iterable

from jaxsim.pool import Manifest
from jaxsim.report.collect import Facts

# RegMix (arXiv 2407.01492) fits its regression on 512 small models.
SWARM_MODELS = 512
SCORING = ("scoring", "searching")
SWARM_SIZE = 0.1  # parameters of a swarm model / parameters of a member


@dataclasses.dataclass(frozen=True)
class Cost:
    """One line of the table.

    Attributes:
      what: in words.
      runs: trained models.
      tokens, flops, seconds: of all of them together; NaN is unknown.
      basis: how it is known, or by which formula it is estimated.
      kind: 'spent', 'sum' or 'estimate'.
    """

    what: str
    runs: int
    tokens: int
    flops: float
    seconds: float
    basis: str
    kind: str = "spent"


def spent(facts: Facts) -> list[Cost]:
    """Seed, members, truths and repeats, their sum, scoring, searching."""
    lines = []
    if facts.seed is not None:
        lines.append(_sum("seed", [facts.seed]))
    for kind in ("member", "truth", "repeat"):
        if manifests := facts.of_kind(kind).values():
            lines.append(_sum(f"{kind}s", manifests))
    if lines:
        lines.append(
            Cost(
                "all training",
                sum(line.runs for line in lines),
                sum(line.tokens for line in lines),
                sum(line.flops for line in lines),
                sum(line.seconds for line in lines),
                "sum",
                "sum",
            )
        )
    if facts.pool is not None and facts.scored_windows:
        tokens = facts.scored_windows * facts.pool.model.config.length
        lines.append(
            Cost(
                SCORING[0],
                0,
                tokens,
                facts.pool.model.forward_flops(tokens),
                math.nan,
                "forward passes, counted from the tables, without the gauge "
                "and the candidates of truths; time not recorded",
            )
        )
    if facts.pool is not None and facts.found is not None:
        tokens = facts.found.tokens
        if tokens:
            lines.append(
                Cost(
                    SCORING[1],
                    0,
                    tokens,
                    facts.pool.model.forward_flops(tokens),
                    math.nan,
                    "evaluations of the search, a gradient counted as three "
                    "forward passes; time not recorded",
                )
            )
    return lines


def alternatives(facts: Facts) -> list[Cost]:
    """Truths alone for as many mixtures, and a swarm of small models."""
    members = list(facts.of_kind("member").values())
    truths = list(facts.of_kind("truth").values())
    lines = []
    if facts.found is not None and (runs := truths or members):
        one = _sum("", runs)
        times = facts.found.searched / one.runs
        lines.append(
            Cost(
                "truths alone",
                facts.found.searched,
                round(one.tokens * times),
                one.flops * times,
                one.seconds * times,
                f"{facts.found.searched:,} mixtures searched x the mean cost "
                f"of a {'truth' if truths else 'member'}",
                "estimate",
            )
        )
    if members:
        one = _sum("", members)
        times = SWARM_MODELS / one.runs
        lines.append(
            Cost(
                "a swarm of small models",
                SWARM_MODELS,
                round(one.tokens * times),
                one.flops * times * SWARM_SIZE,
                one.seconds * times * SWARM_SIZE,
                f"{SWARM_MODELS} models, as RegMix trains, x the tokens of a "
                f"member x {SWARM_SIZE:g} of its parameters, at the speed of "
                "a member in FLOPs",
                "estimate",
            )
        )
    return lines


def cheaper_sentence(facts: Facts) -> str:
    """Whether training all that ties had cost less than scoring; or ''."""
    runs = facts.of_kind("truth") or facts.of_kind("member")
    if facts.found is None or facts.found.ties["count"] < 2 or not runs:
        return ""
    scoring = sum(c.flops for c in spent(facts) if c.what in SCORING)
    one = _sum("", runs.values())
    training = one.flops / one.runs * facts.found.ties["count"]
    if training >= scoring:
        return ""
    return (
        f"Training all {facts.found.ties['count']:,} mixtures that tie would "
        f"cost {training:.1e} FLOPs, less than scoring and searching did "
        f"({scoring:.1e}): with models of this size, train them"
    )


def _sum(what: str, manifests: Iterable[Manifest]) -> Cost:
    several = list(manifests)
    return Cost(
        what,
        len(several),
        sum(m.tokens for m in several),
        sum(m.flops for m in several),
        sum(m.wall_seconds for m in several),
        "recorded with every run",
    )
