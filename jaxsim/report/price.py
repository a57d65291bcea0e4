"""What it takes to train the answer: the command, and its price."""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from pathlib import PurePosixPath

from jaxsim.pool import Manifest
from jaxsim.report.wording import duration
from jaxsim.search.found import BEST


@dataclasses.dataclass(frozen=True)
class Price:
    """Of one more run.

    Attributes:
      tokens: that it sees.
      seconds: the median of the runs that it is taken from.
      kind: of those runs, 'truth' or 'member'.
    """

    tokens: int
    seconds: float
    kind: str


def price(entries: Mapping[str, Manifest]) -> Price | None:
    """As the truths took or, where those differ in length, as the members.

    None without a run to go by. Truths of the budget 'sum' differ in length.
    """
    for kind in ("truth", "member"):
        runs = [m for m in entries.values() if m.kind == kind]
        if len({m.tokens for m in runs}) == 1:
            seconds = statistics.median(m.wall_seconds for m in runs)
            return Price(runs[0].tokens, seconds, kind)
    return None


def train_command(workdir: str, horizon: float | None = None) -> str:
    """The command that trains the best mixture of the last search.

    As long as the truths, whose tokens are `horizon` times a member's.
    """
    path = PurePosixPath(workdir) / "search" / BEST
    return (
        f"jaxsim validate --workdir={workdir}{horizon_option(horizon)} "
        f"--ratios={path}"
    )


def horizon_option(horizon: float | None) -> str:
    """' --config.validate.horizon=4', or nothing where it is the default."""
    if horizon is None or math.isclose(horizon, 1.0):
        return ""
    return f" --config.validate.horizon={horizon:g}"


def price_words(one: Price | None) -> str:
    """' (one run of 65,536 tokens; a truth here took 12 s)', or nothing."""
    if one is None:
        return ""
    return (
        f" (one run of {one.tokens:,} tokens; a {one.kind} here took "
        f"{duration(one.seconds)})"
    )
