"""The targets that losses are compared on: domains, and means over them.

What a search aims at by default, what ranks and levels are judged on, and what
the means over domains are called is decided here alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxsim.corpus.names import Labels
from jaxsim.scoring.evaluation import EvaluationSet

# Out-of-pool comes first: about its domains, weights alone say nothing.
KINDS = ("out-of-pool", "in-pool")
OUT_OF_POOL, IN_POOL = Labels.MACRO_OUT_OF_POOL, Labels.MACRO_IN_POOL
ALL = Labels.MACRO  # over all domains, in the pool or not
MACROS = (ALL, OUT_OF_POOL, IN_POOL)


@dataclasses.dataclass(frozen=True)
class Targets:
    """Domains, then the macros over them: plain means over domains of a kind.

    A macro needs two domains: over a single one it is that domain.

    Attributes:
      kinds: 'in-pool', 'out-of-pool' or 'macro', by name of the target.
    """

    kinds: Mapping[str, str]

    @classmethod
    def of(cls, evaluation: EvaluationSet, where_D: np.ndarray) -> "Targets":
        """The domains where the mask [D] says so, and the macros over them."""
        kinds = {
            name: "in-pool" if inside else "out-of-pool"
            for name, inside, there in zip(
                evaluation.domains, evaluation.in_pool, where_D, strict=True
            )
            if there
        }
        counts = list(kinds.values())
        pairs = (("in-pool", IN_POOL), ("out-of-pool", OUT_OF_POOL))
        return cls(kinds | {n: "macro" for kind, n in pairs if counts.count(kind) > 1})

    @property
    def all(self) -> tuple[str, ...]:
        """Every target, in the order of tables."""
        return tuple(self.kinds)

    @property
    def domains(self) -> dict[str, tuple[str, ...]]:
        """The domains of each of `KINDS`."""
        kinds = self.kinds.items()
        return {kind: tuple(n for n, k in kinds if k == kind) for kind in KINDS}

    @property
    def macros(self) -> dict[str, str]:
        """The macro of each kind that has one."""
        pairs = zip(KINDS, (OUT_OF_POOL, IN_POOL), strict=True)
        return {kind: n for kind, n in pairs if self.kinds.get(n) == "macro"}

    def weights(self, domains: Sequence[str]) -> dict[str, np.ndarray]:
        """Weights [D] of these domains by target: 1 where it has a part, or 0."""
        parts: dict[str, tuple[str, ...]] = {name: (name,) for name in self.kinds}
        parts |= {name: self.domains[kind] for kind, name in self.macros.items()}
        return {
            name: np.array([domain in part for domain in domains], float)
            for name, part in parts.items()
        }

    def lead(self, kind: str) -> str | None:
        """The macro of a kind or, without one, its first domain."""
        return self.macros.get(kind) or next(iter(self.domains[kind]), None)

    @property
    def level(self) -> str:
        """What levels are judged on: out-of-pool before in-pool."""
        leads = (self.lead(kind) for kind in KINDS)
        return next((name for name in leads if name), self.all[0])

    @property
    def held_out(self) -> tuple[str, ...]:
        """What ranks are judged on: out-of-pool domains, or else `level`."""
        return self.domains["out-of-pool"] or (self.level,)

    @property
    def default(self) -> dict[str, float]:
        """The default target of a search: out-of-pool domains, or else in-pool."""
        names = self.domains["out-of-pool"] or self.domains["in-pool"]
        return dict.fromkeys(names, 1.0)

    @property
    def drawn(self) -> tuple[str, ...]:
        """What the scatter shows: macros and out-of-pool domains, or else all."""
        macros = [name for name in self.all if name in self.macros.values()]
        return (*macros, *self.domains["out-of-pool"]) or self.all

    def groups(self) -> dict[str, tuple[str, ...]]:
        """The targets under each title: macros, single domains, all of a kind.

        A figure for several targets is the mean over them.
        """
        found: dict[str, tuple[str, ...]] = {}
        for kind in KINDS:
            if kind in self.macros:
                found[self.macros[kind]] = (self.macros[kind],)
            names = self.domains[kind]
            if len(names) == 1:
                found[f"{kind} domain {names[0]}"] = names
            elif names:
                found[f"mean over {len(names)} {kind} domains"] = names
        return found
