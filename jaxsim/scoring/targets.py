"""The targets that losses are compared on: domains, and means over them.

Names have two levels. A group of several domains has a mean under its own name: a task
over its subjects, a source over its parts. The macro over what is out of the pool is
the mean over names of the first level, groups and domains that are alone, so a task of
57 subjects counts as one task. In the pool, every partition counts alike.

What a search aims at by default, what ranks and levels are judged on, and what
the means over domains are called is decided here alone.
"""

import dataclasses
from collections import Counter
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
    """Domains, then the means over groups out of the pool, then the macros.

    A mean needs two domains: over a single one it is that domain. If all domains are
    one group, its mean is the macro, and is no target of its own.

    Attributes:
      kinds: 'in-pool', 'out-of-pool' or 'macro', by name of the target.
      groups: of the domains, by name.
    """

    kinds: Mapping[str, str]
    groups: Mapping[str, str]

    @classmethod
    def of(cls, evaluation: EvaluationSet, where_D: np.ndarray) -> "Targets":
        """The domains where the mask [D] says so, and the means over them."""
        e, there = evaluation, np.flatnonzero(where_D).tolist()
        kinds = {
            e.domains[d]: "in-pool" if e.in_pool[d] else "out-of-pool" for d in there
        }
        groups = {e.domains[d]: e.groups[d] for d in there}
        counts = Counter(kinds.values())
        sizes = Counter(groups[n] for n, kind in kinds.items() if kind == "out-of-pool")
        means = [group for group, n in sizes.items() if 1 < n < counts["out-of-pool"]]
        pairs = (("in-pool", IN_POOL), ("out-of-pool", OUT_OF_POOL))
        means += [macro for kind, macro in pairs if counts[kind] > 1]
        return cls(kinds | dict.fromkeys(means, "macro"), groups)

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
        """Weights [D] of these domains by target, see `parts`."""
        return {name: self.parts(name, domains) for name in self.kinds}

    def parts(self, name: str, domains: Sequence[str]) -> np.ndarray:
        """Weights [D] of these domains in a domain, a group or a macro.

        They sum to 1; all are 0 if there is nothing of that name.
        """
        groups = self.groups
        inside = [n for n in groups if n == name] or [
            n for n, group in groups.items() if group == name
        ]
        for kind, macro in zip(KINDS, (OUT_OF_POOL, IN_POOL), strict=True):
            if name == macro:
                inside = [*self.domains[kind]]
        share = dict.fromkeys(inside, 1.0)
        if name == OUT_OF_POOL:
            sizes = Counter(groups[n] for n in inside)
            share = {n: 1 / sizes[groups[n]] for n in inside}
        weights_D = np.array([share.get(n, 0.0) for n in domains])
        return weights_D / (weights_D.sum() or 1.0)

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
    def firsts(self) -> tuple[str, ...]:
        """What the macro out-of-pool is over: groups, and domains that are alone."""
        names = self.domains["out-of-pool"]
        means, groups = self._means(names), self.groups
        firsts = (groups[n] if groups[n] in means else n for n in names)
        return tuple(dict.fromkeys(firsts))

    @property
    def default(self) -> dict[str, float]:
        """The default target of a search: what the macro is over, out-of-pool first."""
        return dict.fromkeys(self.firsts or self.domains["in-pool"], 1.0)

    @property
    def drawn(self) -> tuple[str, ...]:
        """What the scatter shows: macros and out-of-pool domains, or else all."""
        macros = [name for name in self.all if name in self.macros.values()]
        names = self.domains["out-of-pool"]
        return (*macros, *self._means(names), *names) or self.all

    def _means(self, domains: Sequence[str]) -> list[str]:
        """The groups of these domains whose mean is a target."""
        groups = dict.fromkeys(self.groups[name] for name in domains)
        return [group for group in groups if self.kinds.get(group) == "macro"]

    def titles(self) -> dict[str, tuple[str, ...]]:
        """The targets under each title: means, single domains, all of a kind.

        A figure for several targets is the mean over them.
        """
        found: dict[str, tuple[str, ...]] = {}
        for kind in KINDS:
            if kind in self.macros:
                found[self.macros[kind]] = (self.macros[kind],)
            names = self.domains[kind]
            found |= {group: (group,) for group in self._means(names)}
            if len(names) == 1:
                found[f"{kind} domain {names[0]}"] = names
            elif names:
                found[f"mean over {len(names)} {kind} domains"] = names
        return found
