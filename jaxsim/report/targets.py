"""Which domains a figure is about; the one place where the report decides."""

import dataclasses

from jaxsim.validation.chosen import TrainedChoice
from jaxsim.validation.measured import ALL, IN_POOL, OUT_OF_POOL
from jaxsim.validation.validate import Validation

# Out-of-pool first: there no weight-only baseline has anything to know.
KINDS = ("out-of-pool", "in-pool")
MACROS = (ALL, OUT_OF_POOL, IN_POOL)


@dataclasses.dataclass(frozen=True)
class Targets:
    """What predictions are judged on.

    Attributes:
      all: every target, in the order of its owner.
      domains: those of each kind in `KINDS`.
      macros: the mean over a kind's domains, where there is one.
    """

    all: tuple[str, ...]
    domains: dict[str, tuple[str, ...]]
    macros: dict[str, str]

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
        """What ranks are judged on: out-of-pool domains, else `level`."""
        return self.domains["out-of-pool"] or (self.level,)

    @property
    def default(self) -> dict[str, float]:
        """What a search would aim at: out-of-pool domains, else in-pool."""
        names = self.domains["out-of-pool"] or self.domains["in-pool"]
        return dict.fromkeys(names, 1.0)

    @property
    def drawn(self) -> tuple[str, ...]:
        """What the scatter shows: macros and out-of-pool domains, else all."""
        macros = [name for name in self.all if name in self.macros.values()]
        return (*macros, *self.domains["out-of-pool"]) or self.all

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Titles of macros, lone domains and means over domains, and targets.

        The figures of several targets are shown as a mean.
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


def targets_of(result: Validation | TrainedChoice) -> Targets:
    """The targets of reference runs, drawn or chosen."""
    kinds = list(zip(result.targets, result.kinds, strict=True))
    macros = zip(KINDS, (OUT_OF_POOL, IN_POOL), strict=True)
    return Targets(
        tuple(result.targets),
        {kind: tuple(n for n, k in kinds if k == kind) for kind in KINDS},
        {kind: name for kind, name in macros if (name, "macro") in kinds},
    )
