"""The mixtures that may be chosen: limits by name, and the set they leave.

All shares are of the run's tokens outside the replay, which are what a mixture
divides: of T tokens with a replay share b, a member with weight w gets
(1 - b) T w. Replay is the base's text and has a supply of its own.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from jaxsim.config import SearchConfig
from jaxsim.corpus.store import BASE
from jaxsim.errors import UserError
from jaxsim.search.loss import Slope
from jaxsim.search.optimize import TOLERANCE, Empty, Region, choose

_CONCENTRATIONS = (0.3, 1.0, 4.0)
_CORNERS = 4  # extreme mixtures that `sample` draws for a member
_FACES = 32  # choices of sources that it draws, if their number is limited
_REACHED = 10 * TOLERANCE
# Pieces of a maximum this near to it, as a share of it, balance each other.
_NEAR = 1e-3
_STEPS = {
    "floor": "1 percentage point",
    "ceiling": "1 percentage point",
    "supply": "10 % more tokens or epochs",
    "divergence": "10 % more divergence",
}

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
      tokens: outside replay; 0 if no run is planned.
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
        tokens_S = np.bincount(self.source_C, self.tokens * w_C, len(self.sources))
        return (tokens_S / self.supply_S)[self.source_C]


@dataclasses.dataclass(frozen=True, eq=False)
class Feasible:
    """The mixtures that may be chosen. Build it with `feasible`.

    Without `max_sources` the set is convex. With it, `nearest` keeps the
    partitions that hold most weight, which is a heuristic, and descents stay
    in the `face` of their start.

    Attributes:
      members: names, C.
      partition_C: index of each member's partition.
      limits: on sums of weights.
      prior_C, divergence: most KL(w, reference) in nats; inf for any.
      max_sources: partitions with a weight, at most; 0 for any number.
      plan: the run that the mixture is for.
      open_C: members that may have a weight; not all only in a `face`.
    """

    members: tuple[str, ...]
    partition_C: np.ndarray
    limits: tuple[Limit, ...]
    prior_C: np.ndarray
    divergence: float
    max_sources: int
    plan: Plan
    open_C: np.ndarray

    @property
    def convex(self) -> bool:
        return self.max_sources == 0

    def contains(
        self, w_MC: np.ndarray, tolerance: float = 10 * TOLERANCE
    ) -> np.ndarray:
        """[M] bool: which mixtures are allowed, give or take a share."""
        inside_M = self._whole.excess(w_MC) <= tolerance
        inside_M &= w_MC[:, ~self.open_C].max(axis=1, initial=0.0) <= tolerance
        if not self.convex:
            count_M = np.array([self.sources(w_C) for w_C in w_MC])
            inside_M &= count_M <= self.max_sources
        return inside_M

    def nearest(self, w_C: np.ndarray) -> np.ndarray:
        """The allowed mixture at the least Euclidean distance."""
        if self.contains(w_C[None], TOLERANCE)[0]:
            return w_C
        if not self.convex:
            mass_Q = np.bincount(self.partition_C, w_C)
            return self._face_or_center(self._choose(-mass_Q)).nearest(w_C)
        return self._spread(self._region.nearest(w_C[self.open_C]))

    def lowest(
        self, slope: Slope, at_C: np.ndarray, hessian_CC: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`Region.lowest` on a convex set, from a mixture in it."""
        here = self.open_C
        part = dataclasses.replace(slope, slope_PC=slope.slope_PC[:, here])
        w_c, share_P = self._region.lowest(
            part, at_C[here], hessian_CC[np.ix_(here, here)]
        )
        return self._spread(w_c), share_P

    def face(self, w_C: np.ndarray) -> "Feasible":
        """The convex part of the set with the partitions of a mixture."""
        if self.convex:
            return self
        return self._face(np.bincount(self.partition_C, w_C) > 0)

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """[count, C] random allowed mixtures.

        Convex combinations of random corners, with Dirichlet weights of
        several concentrations: on the bare simplex, Dirichlet draws.
        """
        if count == 0:
            return np.zeros((0, len(self.members)))
        if not self.convex:
            size = (min(count, _FACES), self.partition_C.max() + 1)
            faces = [
                self._face_or_center(self._choose(-mass_Q))
                for mass_Q in generator.exponential(size=size)
            ]
            parts = np.array_split(np.arange(count), len(faces))
            draws = [
                face.sample(len(part), generator)
                for face, part in zip(faces, parts, strict=True)
            ]
            return generator.permutation(np.concatenate(draws))
        corners_VC = self._corners(count, generator)
        few = min(len(corners_VC), int(self.open_C.sum()))
        which_M = generator.integers(len(_CONCENTRATIONS), size=count)
        w_MC = np.empty((count, len(self.members)))
        for m, which in enumerate(which_M):
            places = generator.choice(len(corners_VC), few, replace=False)
            alpha = np.full(few, _CONCENTRATIONS[which])
            w_MC[m] = generator.dirichlet(alpha) @ corners_VC[places]
        return w_MC

    def repetition(self, w_C: np.ndarray) -> np.ndarray:
        """[C] epochs of each member's source; 0 if no run is planned."""
        return self.plan.repetition(w_C)

    def sources(self, w_C: np.ndarray) -> int:
        """How many partitions have a weight."""
        return len(np.unique(self.partition_C[w_C > TOLERANCE]))

    def divergence_of(self, w_C: np.ndarray) -> float:
        """KL(w, reference) in nats."""
        return float(self._whole.divergences(w_C[None])[0])

    def divergence_slope(self, w_C: np.ndarray) -> np.ndarray:
        """[C] its derivative."""
        return self._whole.divergence_slope(w_C)

    @functools.cached_property
    def center_C(self) -> np.ndarray:
        """An allowed mixture: if convex, the nearest to the reference (KL).

        Raises:
          Empty: there is none.
        """
        if self.convex:
            return self._spread(self._region.center_C)
        mass_Q = np.bincount(self.partition_C, self.prior_C)
        return self._face(self._choose(-mass_Q)).center_C

    @functools.cached_property
    def _whole(self) -> Region:
        """Of all members and any number of partitions."""
        matrix_KC = np.zeros((len(self.limits), len(self.members)))
        for limit, row_C in zip(self.limits, matrix_KC, strict=True):
            row_C[list(limit.places)] = limit.sign
        bound_K = np.array([x.sign * x.share for x in self.limits], float)
        return Region(matrix_KC, bound_K, self.prior_C, self.divergence)

    @functools.cached_property
    def _region(self) -> Region:
        """Of the open members."""
        here = self.open_C
        return dataclasses.replace(
            self._whole,
            matrix_KC=self._whole.matrix_KC[:, here],
            prior_C=self.prior_C[here],
        )

    def _spread(self, w_c: np.ndarray) -> np.ndarray:
        """Over all members what is over the open ones."""
        w_C = np.zeros(len(self.members))
        w_C[self.open_C] = w_c
        return w_C

    def _choose(self, cost_Q: np.ndarray) -> np.ndarray:
        return choose(self._whole, self.partition_C, self.max_sources, cost_Q)

    def _face(self, chosen_Q: np.ndarray) -> "Feasible":
        open_C = self.open_C & chosen_Q[self.partition_C]
        return dataclasses.replace(self, max_sources=0, open_C=open_C)

    def _face_or_center(self, chosen_Q: np.ndarray) -> "Feasible":
        """The face of these partitions or, if it is empty, the center's."""
        face = self._face(chosen_Q)
        try:
            _ = face.center_C
        except Empty:
            return self.face(self.center_C)
        return face

    def _corners(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """[V, C] random extreme mixtures of a convex set."""
        here = np.flatnonzero(self.open_C)
        if not self.limits and not np.isfinite(self.divergence):
            return np.eye(len(self.members))[here]
        size = (min(count + 8, _CORNERS * len(here)), 1, len(self.members))
        zero_C, flat_CC = np.zeros(size[2]), np.zeros((size[2], size[2]))
        return np.array(
            [
                self.lowest(Slope(np.zeros(1), slope_1C), zero_C, flat_CC)[0]
                for slope_1C in generator.standard_normal(size)
            ]
        )


def feasible(
    config: SearchConfig,
    members: Sequence[str],
    partitions: Sequence[str],
    groups: Sequence[str],
    tokens_C: np.ndarray,
    epochs_C: np.ndarray,
    replay: float,
    base_tokens: float = np.inf,
) -> Feasible:
    """The mixtures that `config` allows.

    Args:
      members, partitions, groups: names, one of each for every member.
      tokens_C: tokens of the text that each member was trained on.
      epochs_C: how often its run repeated them.
      replay: share of the base model's text in every run.
      base_tokens: tokens of that text.

    Raises:
      UserError: an unknown name, or no mixture is allowed; says which limits
        exclude each other.
    """
    sets = _sets_of(members, partitions, groups)
    plan = _plan_of(config, members, sets, tokens_C, epochs_C, replay, base_tokens)
    limits = _limits_of(config, sets, plan)
    weight_C = np.asarray(tokens_C, float)
    if config.prior == "uniform":
        weight_C = np.ones(len(members))
    _, partition_C = np.unique(partitions, return_inverse=True)
    few = 0 < config.max_sources < len(set(partitions))
    found = Feasible(
        members=tuple(members),
        partition_C=partition_C,
        limits=limits,
        prior_C=weight_C / weight_C.sum(),
        divergence=config.divergence or np.inf,
        max_sources=config.max_sources if few else 0,
        plan=plan,
        open_C=np.ones(len(members), bool),
    )
    _check(found, config)
    return found


def _check(found: Feasible, config: SearchConfig) -> None:
    """Refuses limits that exclude each other, the simplest reason first."""
    try:
        _ = dataclasses.replace(found, divergence=np.inf, max_sources=0).center_C
    except Empty as error:
        limits = [found.limits[k] for k in error.rows]
        raise UserError(_contradiction(limits, found.plan, config)) from error
    try:
        _ = dataclasses.replace(found, max_sources=0).center_C
    except Empty as error:
        raise UserError(
            "config.search.divergence: within the other limits no mixture "
            f"is nearer to the {config.prior} one than "
            f"{error.divergence:.4g} nats, and {found.divergence:g} are "
            "allowed; raise it, or loosen min_weight, max_weight or the plan"
        ) from error
    try:
        _ = found.center_C
    except Empty as error:
        raise UserError(
            f"config.search.max_sources: found no {found.max_sources} "
            "partitions that meet the other limits; raise it, or loosen "
            "min_weight, max_weight, divergence or the plan"
        ) from error


def _contradiction(limits: Sequence[Limit], plan: Plan, config: SearchConfig) -> str:
    named = {
        kind: [x for x in limits if x.kind == kind]
        for kind in ("floor", "ceiling", "supply")
    }
    said = [
        f"{kind}s " + ", ".join(f"{x.name}={x.share:g}" for x in some)
        for kind, some in named.items()
        if some and kind != "supply"
    ]
    if some := named["supply"]:
        share = sum(x.share for x in some)
        once = config.epochs == 1
        epochs = "1 epoch" if once else f"{config.epochs:g} epochs"
        enough = (
            f"{epochs} of {', '.join(x.name for x in some)} "
            f"{'gives' if once else 'give'} {share:.1%} of the "
            f"{plan.tokens:,.0f} tokens that are planned outside the "
            "replay"
        )
        others = f", so none meets {' and '.join(said)}" if said else ""
        return (
            f"config.search: no mixture fills the plan: {enough}{others}; "
            "plan fewer tokens, allow more epochs, "
            + ("loosen the other limits, " if said else "")
            + "or give `supply` the tokens that there really are"
        )
    return (
        f"config.search: no mixture meets {' and '.join(said)} at once; "
        "loosen one of them"
    )


def _sets_of(
    members: Sequence[str], partitions: Sequence[str], groups: Sequence[str]
) -> Sets:
    """All the sets of members that a name may stand for."""
    found: dict[str, set[tuple[int, ...]]] = {}
    for names in (members, partitions, groups):
        for name in dict.fromkeys(names):
            places = tuple(c for c, n in enumerate(names) if n == name)
            found.setdefault(name, set()).add(places)
    return found


def _places_of(sets: Sets, key: str, name: str) -> tuple[int, ...]:
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


def _plan_of(
    config: SearchConfig,
    members: Sequence[str],
    sets: Sets,
    tokens_C: np.ndarray,
    epochs_C: np.ndarray,
    replay: float,
    base_tokens: float,
) -> Plan:
    base_tokens = config.supply.get(BASE, base_tokens)
    needed = replay * config.tokens
    if needed > config.epochs * base_tokens * (1 + 1e-9):
        raise UserError(
            f"config.search.tokens: replay, {replay:.0%} of the run, needs "
            f"{needed:.4g} tokens of the base model's text, which has "
            f"{base_tokens:.4g} for at most {config.epochs:g} epochs; say how "
            f"many there are in supply[{BASE!r}], raise epochs, or plan fewer "
            "tokens"
        )
    text: dict[tuple[int, ...], tuple[str, float]] = {
        (c,): (name, float(tokens_C[c])) for c, name in enumerate(members)
    }
    given: set[int] = set()
    for name, tokens in config.supply.items():
        if name == BASE:
            continue
        places = _places_of(sets, "supply", name)
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
        tokens=(1 - replay) * config.tokens,
        sources=tuple(name for name, _ in text.values()),
        source_C=source_C,
        supply_S=np.array([tokens for _, tokens in text.values()]),
        epochs_C=np.array(epochs_C, float),
    )


def _limits_of(config: SearchConfig, sets: Sets, plan: Plan) -> tuple[Limit, ...]:
    """Floors, ceilings, and a limit for each source that could be exhausted.

    Raises:
      UserError: an unknown name.
    """
    limits = []
    for name, share in config.min_weight.items():
        places = _places_of(sets, "min_weight", name)
        if share > 0:
            limits.append(Limit(name, "floor", places, share))
    for name, share in config.max_weight.items():
        places = _places_of(sets, "max_weight", name)
        if share < 1:
            limits.append(Limit(name, "ceiling", places, share))
    for s, name in enumerate(plan.sources if plan.tokens else ()):
        places = tuple(np.flatnonzero(plan.source_C == s).tolist())
        share = float(config.epochs * plan.supply_S[s] / plan.tokens)
        if share < 1:
            limits.append(Limit(name, "supply", places, share))
    return tuple(limits)


@dataclasses.dataclass(frozen=True)
class Binding:
    """A limit that a mixture has reached.

    Attributes:
      name: of a member, partition or group; empty for a limit on all.
      kind: 'floor', 'ceiling', 'supply', 'divergence' or 'sources'.
      limit, value: shares, nats or a number of partitions.
      step: the relaxation that `gain` is for, in words.
      gain: bits of the objective that it would win, to first order; None
        where that is not known.
    """

    name: str
    kind: str
    limit: float
    value: float
    step: str
    gain: float | None = None


@dataclasses.dataclass(frozen=True)
class Repeat:
    """A member whose source the plan repeats more often than its run did."""

    name: str
    planned: float
    member: float


def binding(
    feasible: Feasible, w_C: np.ndarray, slope: Slope | None = None
) -> list[Binding]:
    """The limits that a mixture has reached.

    Args:
      w_C: an allowed mixture.
      slope: of the objective there. With it, gains are the multipliers that
        come nearest to an optimum's conditions; they mean most at an optimum.
    """
    reached = [
        limit
        for limit in feasible.limits
        if abs(_share(limit, w_C) - limit.share) <= _REACHED
    ]
    far = feasible.divergence_of(w_C)
    bent = far >= feasible.divergence - _REACHED
    found = [
        Binding(x.name, x.kind, x.share, _share(x, w_C), _STEPS[x.kind])
        for x in reached
    ]
    if bent:
        most, step = feasible.divergence, _STEPS["divergence"]
        found.append(Binding("", "divergence", most, far, step))
    if slope is not None:
        normal_JC = np.zeros((len(found), len(w_C)))
        for normal_C, limit in zip(normal_JC, reached, strict=False):
            normal_C[list(limit.places)] = limit.sign
        if bent:
            normal_JC[-1] = feasible.divergence_slope(w_C)
        price_J = _prices(feasible, w_C, slope, normal_JC)
        found = [
            dataclasses.replace(x, gain=float(price * _size(x)))
            for x, price in zip(found, price_J, strict=True)
        ]
    count = feasible.sources(w_C)
    if feasible.max_sources and count >= feasible.max_sources:
        found.append(Binding("", "sources", feasible.max_sources, count, ""))
    return found


def replicates(feasible: Feasible, w_C: np.ndarray) -> list[Repeat]:
    """Members whose source the plan repeats, and more than their run did.

    A plan of at most one epoch repeats nothing.
    """
    planned_C, own_C = feasible.repetition(w_C), feasible.plan.epochs_C
    more_C = planned_C > np.maximum(own_C, 1.0) * (1 + 1e-6)
    return [
        Repeat(feasible.members[c], float(planned_C[c]), float(own_C[c]))
        for c in np.flatnonzero(more_C & (w_C > 0))
    ]


def _share(limit: Limit, w_C: np.ndarray) -> float:
    return float(w_C[list(limit.places)].sum())


def _size(binding: Binding) -> float:
    """Of the step, in the limit's units."""
    if binding.kind in ("floor", "ceiling"):
        return 0.01
    return 0.1 * binding.limit


def _prices(
    feasible: Feasible, w_C: np.ndarray, slope: Slope, normal_JC: np.ndarray
) -> np.ndarray:
    """Multipliers [J] of limits with these normals.

    An optimum balances forces: a convex combination of the largest pieces'
    slopes, plus non-negative multiples of the normals, is the same for all
    members with a weight and no less for the others. Here in least squares.
    """
    here = feasible.face(w_C).open_C
    top = slope.value_P >= slope.value - _NEAR * abs(slope.value)
    slope_PC, normal_JC = slope.slope_PC[top][:, here], normal_JC[:, here]
    unused_ZC = -np.eye(here.sum())[w_C[here] <= TOLERANCE]
    level_C = np.ones((1, here.sum()))
    forces = np.vstack([slope_PC, normal_JC, unused_ZC, level_C, -level_C])
    # One more row: the slopes' shares sum to 1.
    heavy = 1e3 * max(float(np.abs(slope_PC).max()), 1e-12)
    sums = heavy * (np.arange(len(forces)) < len(slope_PC))
    dual, _ = nnls(np.vstack([forces.T, sums]), np.append(np.zeros(here.sum()), heavy))
    return dual[len(slope_PC) :][: len(normal_JC)]
