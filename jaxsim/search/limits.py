"""Limits on a mixture by name, and the run that is planned with it.

All shares are of the run's tokens outside the anchor, which are what a mixture
divides: of T tokens with an anchor share b, a member with weight w gets
(1 - b) T w. The anchor is the seed's text and has a supply of its own.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.corpus.store import SEED
from jaxsim.errors import UserError

# What a name may stand for: places of members, one set or, if ambiguous, more.
Sets = dict[str, set[tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class Limit:
    """A limit on the summed weight of some members.

    Attributes:
      name: of a member, partition or group.
      kind: 'floor', 'ceiling' or 'supply'.
      places: of its members.
      share: the limit.
    """

    name: str
    kind: str
    places: tuple[int, ...]
    share: float

    @property
    def sign(self) -> int:
        return -1 if self.kind == "floor" else 1


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The run that a mixture is for.

    Attributes:
      tokens: outside the anchor; 0 if no run is planned.
      sources: names of S texts; several members may share one.
      source_C: which source each member's text comes from.
      supply_S: tokens of each source.
      epochs_C: how often each member's own run repeated its source.
    """

    tokens: float
    sources: tuple[str, ...]
    source_C: np.ndarray
    supply_S: np.ndarray
    epochs_C: np.ndarray

    def repetition(self, w_C: np.ndarray) -> np.ndarray:
        """[C] epochs of each member's source; 0 if no run is planned."""
        tokens_S = np.bincount(
            self.source_C, self.tokens * w_C, len(self.sources)
        )
        return (tokens_S / self.supply_S)[self.source_C]


def sets_of(
    members: Sequence[str], partitions: Sequence[str], groups: Sequence[str]
) -> Sets:
    """All the sets of members that a name may stand for."""
    found: dict[str, set[tuple[int, ...]]] = {}
    for names in (members, partitions, groups):
        for name in dict.fromkeys(names):
            places = tuple(c for c, n in enumerate(names) if n == name)
            found.setdefault(name, set()).add(places)
    return found


def places_of(sets: Sets, key: str, name: str) -> tuple[int, ...]:
    if name not in sets:
        raise UserError(
            f"config.search.{key}: {name!r} is not a member, partition or "
            f"group of this pool; there are {', '.join(sets)}"
        )
    if len(sets[name]) > 1:
        raise UserError(
            f"config.search.{key}: {name!r} names different things, a "
            "partition and a group that holds others too; name the members"
        )
    return next(iter(sets[name]))


def plan_of(
    config: SearchConfig,
    members: Sequence[str],
    sets: Sets,
    tokens_C: np.ndarray,
    epochs_C: np.ndarray,
    anchor: float,
    seed_tokens: float,
) -> Plan:
    seed_tokens = config.supply.get(SEED, seed_tokens)
    needed = anchor * config.tokens
    if needed > config.epochs * seed_tokens * (1 + 1e-9):
        raise UserError(
            f"config.search.tokens: the anchor, {anchor:.0%} of the run, needs "
            f"{needed:.4g} tokens of the seed's text, which has "
            f"{seed_tokens:.4g} for at most {config.epochs:g} epochs; say how "
            f"many there are in supply[{SEED!r}], raise epochs, or plan fewer "
            "tokens"
        )
    text: dict[tuple[int, ...], tuple[str, float]] = {
        (c,): (name, float(tokens_C[c])) for c, name in enumerate(members)
    }
    given: set[int] = set()
    for name, tokens in config.supply.items():
        if name == SEED:
            continue
        places = places_of(sets, "supply", name)
        if given & set(places):
            raise UserError(
                f"config.search.supply.{name}: the supply of one of its "
                "members is given already; name each source once"
            )
        given |= set(places)
        for c in places:
            text.pop((c,))
        text[places] = name, tokens
    source_C = np.zeros(len(members), int)
    for s, places in enumerate(text):
        source_C[list(places)] = s
    return Plan(
        tokens=(1 - anchor) * config.tokens,
        sources=tuple(name for name, _ in text.values()),
        source_C=source_C,
        supply_S=np.array([tokens for _, tokens in text.values()]),
        epochs_C=np.array(epochs_C, float),
    )


def limits_of(
    config: SearchConfig, sets: Sets, plan: Plan
) -> tuple[Limit, ...]:
    """Floors, ceilings, and a limit for each source that could be exhausted.

    Raises:
      UserError: an unknown name.
    """
    limits = []
    for name, share in config.floors.items():
        places = places_of(sets, "floors", name)
        if share > 0:
            limits.append(Limit(name, "floor", places, share))
    for name, share in config.ceilings.items():
        places = places_of(sets, "ceilings", name)
        if share < 1:
            limits.append(Limit(name, "ceiling", places, share))
    for s, name in enumerate(plan.sources if plan.tokens else ()):
        places = tuple(np.flatnonzero(plan.source_C == s).tolist())
        share = float(config.epochs * plan.supply_S[s] / plan.tokens)
        if share < 1:
            limits.append(Limit(name, "supply", places, share))
    return tuple(limits)
