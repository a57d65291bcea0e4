"""The mixtures that a search may choose: limits by name, and the set they leave.

All shares are of a run's tokens outside replay, which are what a mixture divides: of
T tokens with replay share b, a member with weight w gets (1 - b) T w. Replay uses the
base model's text, which has its own supply.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from jaxsim.config import SearchConfig
from jaxsim.corpus.store import BASE
from jaxsim.errors import UserError
from jaxsim.search.objective import Slope
from jaxsim.search.optimize import TOLERANCE, Empty, Region, choose

_CONCENTRATIONS = (0.3, 1.0, 4.0)
_CORNERS = 4  # extreme mixtures that `sample` draws per member
_FACES = 32  # choices of partitions that it draws, if their number is limited
_REACHED = 10 * TOLERANCE
# Pieces of a maximum that are this close to it, relative to it, balance each other.
_NEAR = 1e-3
_STEPS = {
    "min_weight": "1 percentage point",
    "max_weight": "1 percentage point",
    "supply": "10 % more tokens or epochs",
    "divergence": "10 % more divergence",
}

# What a name may stand for: the columns of its members. Several sets are ambiguous.
Sets = dict[str, set[tuple[int, ...]]]


@dataclasses.dataclass(frozen=True)
class Limit:
    """A limit on the total weight of some members.

    Attributes:
      name: of a member, partition or group.
      kind: 'min_weight', 'max_weight' or 'supply'.
      columns: of its members.
      share: the limit.
    """

    name: str
    kind: str
    columns: tuple[int, ...]
    share: float

    @property
    def sign(self) -> int:
        return -1 if self.kind == "min_weight" else 1

    def value(self, w_C: np.ndarray) -> float:
        """The total weight of its members."""
        return float(w_C[list(self.columns)].sum())


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The planned run.

    Attributes:
      tokens: outside replay; 0 if no run is planned.
      sources: names and tokens of texts, by the columns of the members that share them.
      epochs_C: how many epochs each member was trained for.
    """

    tokens: float
    sources: dict[tuple[int, ...], tuple[str, float]]
    epochs_C: np.ndarray

    def epochs(self, w_C: np.ndarray) -> np.ndarray:
        """Epochs of each member's source [C]; 0 if no run is planned."""
        epochs_C = np.zeros(len(w_C))
        for columns, (_, supply) in self.sources.items():
            epochs_C[list(columns)] = (self.tokens * w_C[list(columns)]).sum() / supply
        return epochs_C


@dataclasses.dataclass(frozen=True, eq=False)
class Feasible:
    """The mixtures that a search may choose. Build it with `feasible`.

    Without `max_sources` the set is convex. With it, `nearest` keeps the partitions
    with the most weight, which is a heuristic, and a descent stays in the `face` of
    its start.

    Attributes:
      members: names, C.
      partition_C: index of each member's partition.
      limits: on total weights.
      prior_C, divergence: the largest KL(w, prior) in nats; inf for no limit.
      max_sources: most partitions with weight; 0 for no limit.
      plan: the planned run.
      open_C: members that may have weight; all, except in a `face`.
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

    def contains(self, w_MC: np.ndarray, tolerance: float = _REACHED) -> np.ndarray:
        """Which mixtures are allowed [M], within a tolerance."""
        inside_M = self.region.excess(w_MC) <= tolerance
        inside_M &= w_MC[:, ~self.open_C].max(axis=1, initial=0.0) <= tolerance
        if not self.convex:
            count_M = np.array([self.sources(w_C) for w_C in w_MC])
            inside_M &= count_M <= self.max_sources
        return inside_M

    def nearest(self, w_C: np.ndarray) -> np.ndarray:
        """The allowed mixture at the smallest Euclidean distance."""
        if self.contains(w_C[None], TOLERANCE)[0]:
            return w_C
        if not self.convex:
            mass_Q = np.bincount(self.partition_C, w_C)
            return self._face_or_center(mass_Q).nearest(w_C)
        return self._spread(self._open_region.nearest(w_C[self.open_C]))

    def lowest(
        self, slope: Slope, at_C: np.ndarray, hessian_CC: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`Region.lowest` on a convex set, from a mixture in it."""
        here = self.open_C
        part = dataclasses.replace(slope, slope_PC=slope.slope_PC[:, here])
        hessian_cc = hessian_CC[np.ix_(here, here)]
        w_c, share_P = self._open_region.lowest(part, at_C[here], hessian_cc)
        return self._spread(w_c), share_P

    def face(self, w_C: np.ndarray) -> "Feasible":
        """The convex part of the set that uses a mixture's partitions."""
        if self.convex:
            return self
        return self._face(np.bincount(self.partition_C, w_C) > 0)

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Draws random allowed mixtures [count, C].

        They are convex combinations of random corners, with Dirichlet weights of
        several concentrations: Dirichlet draws where nothing is limited.
        """
        if count == 0:
            return np.zeros((0, len(self.members)))
        if not self.convex:
            size = (min(count, _FACES), self.partition_C.max() + 1)
            mass_FQ = generator.exponential(size=size)
            faces = [self._face_or_center(mass_Q) for mass_Q in mass_FQ]
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
            chosen = generator.choice(len(corners_VC), few, replace=False)
            alpha = np.full(few, _CONCENTRATIONS[which])
            w_MC[m] = generator.dirichlet(alpha) @ corners_VC[chosen]
        return w_MC

    def sources(self, w_C: np.ndarray) -> int:
        """The number of partitions with weight."""
        return len(np.unique(self.partition_C[w_C > TOLERANCE]))

    @functools.cached_property
    def center_C(self) -> np.ndarray:
        """An allowed mixture: if convex, the nearest to the prior (KL).

        Raises:
          Empty: there is none.
        """
        if self.convex:
            return self._spread(self._open_region.center_C)
        mass_Q = np.bincount(self.partition_C, self.prior_C)
        return self._face(self._choose(mass_Q)).center_C

    @functools.cached_property
    def region(self) -> Region:
        """The limits on all members, with any number of partitions."""
        matrix_KC = np.zeros((len(self.limits), len(self.members)))
        for limit, row_C in zip(self.limits, matrix_KC, strict=True):
            row_C[list(limit.columns)] = limit.sign
        bound_K = np.array([x.sign * x.share for x in self.limits], float)
        return Region(matrix_KC, bound_K, self.prior_C, self.divergence)

    @functools.cached_property
    def _open_region(self) -> Region:
        """The limits on the open members."""
        here, whole = self.open_C, self.region
        return dataclasses.replace(
            whole, matrix_KC=whole.matrix_KC[:, here], prior_C=self.prior_C[here]
        )

    def _spread(self, w_c: np.ndarray) -> np.ndarray:
        """Weights of all members, from those of the open ones."""
        w_C = np.zeros(len(self.members))
        w_C[self.open_C] = w_c
        return w_C

    def _choose(self, mass_Q: np.ndarray) -> np.ndarray:
        """The possible choice of partitions with the most mass; [Q] bool."""
        return choose(self.region, self.partition_C, self.max_sources, -mass_Q)

    def _face(self, chosen_Q: np.ndarray) -> "Feasible":
        open_C = self.open_C & chosen_Q[self.partition_C]
        return dataclasses.replace(self, max_sources=0, open_C=open_C)

    def _face_or_center(self, mass_Q: np.ndarray) -> "Feasible":
        """The face of these partitions or, if it is empty, the center's."""
        face = self._face(self._choose(mass_Q))
        try:
            _ = face.center_C
        except Empty:
            return self.face(self.center_C)
        return face

    def _corners(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Random extreme mixtures [V, C] of a convex set."""
        here = np.flatnonzero(self.open_C)
        c = len(self.members)
        if not self.limits and not np.isfinite(self.divergence):
            return np.eye(c)[here]
        slope_V1C = generator.standard_normal(
            (min(count + 8, _CORNERS * len(here)), 1, c)
        )
        zero_C, flat_CC = np.zeros(c), np.zeros((c, c))
        return np.array(
            [self.lowest(Slope(np.zeros(1), s), zero_C, flat_CC)[0] for s in slope_V1C]
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
      members, partitions, groups: names, one of each per member.
      tokens_C: tokens of the text that each member was trained on.
      epochs_C: how many epochs it was trained for.
      replay: share of the base model's text in every run.
      base_tokens: tokens of that text.

    Raises:
      UserError: an unknown name, or no mixture is allowed; says which limits
        contradict each other.
    """
    sets = _sets_of(members, partitions, groups)
    plan = _plan_of(config, members, sets, tokens_C, epochs_C, replay, base_tokens)
    weight_C = np.asarray(tokens_C, float)
    if config.prior == "uniform":
        weight_C = np.ones(len(members))
    few = 0 < config.max_sources < len(set(partitions))
    found = Feasible(
        members=tuple(members),
        partition_C=np.unique(partitions, return_inverse=True)[1],
        limits=_limits_of(config, sets, plan),
        prior_C=weight_C / weight_C.sum(),
        divergence=config.divergence or np.inf,
        max_sources=config.max_sources if few else 0,
        plan=plan,
        open_C=np.ones(len(members), bool),
    )
    _check(found, config)
    return found


def _check(found: Feasible, config: SearchConfig) -> None:
    """Refuses limits that contradict each other, with the simplest reason."""
    try:
        _ = dataclasses.replace(found, divergence=np.inf, max_sources=0).center_C
    except Empty as error:
        limits = [found.limits[k] for k in error.rows]
        raise UserError(_contradiction(limits, found.plan, config)) from error
    try:
        _ = dataclasses.replace(found, max_sources=0).center_C
    except Empty as error:
        raise UserError(
            "config.search.divergence: within the other limits, no mixture is nearer "
            f"to the {config.prior} one than {error.divergence:.4g} nats, and "
            f"{found.divergence:g} are allowed; raise it, or loosen min_weight, "
            "max_weight or the planned run"
        ) from error
    try:
        _ = found.center_C
    except Empty as error:
        raise UserError(
            f"config.search.max_sources: found no {found.max_sources} partitions "
            "that meet the other limits; raise it, or loosen min_weight, max_weight, "
            "divergence or the planned run"
        ) from error


def _contradiction(limits: Sequence[Limit], plan: Plan, config: SearchConfig) -> str:
    """Says which limits contradict each other, and what to loosen."""
    weights = " and ".join(
        f"{kind} " + ", ".join(f"{x.name}={x.share:g}" for x in some)
        for kind in ("min_weight", "max_weight")
        if (some := [x for x in limits if x.kind == kind])
    )
    supplies = [x for x in limits if x.kind == "supply"]
    if not supplies:
        return f"config.search: no mixture meets {weights} at once; loosen one of them"
    once = config.epochs == 1
    return (
        "config.search: no mixture fills the planned run: "
        f"{'1 epoch' if once else f'{config.epochs:g} epochs'} of "
        f"{', '.join(x.name for x in supplies)} {'gives' if once else 'give'} "
        f"{sum(x.share for x in supplies):.1%} of the {plan.tokens:,.0f} tokens "
        "planned outside replay"
        + (f", so none meets {weights}" if weights else "")
        + "; plan fewer tokens, allow more epochs, "
        + ("loosen the other limits, " if weights else "")
        + "or set `supply` to the tokens that exist"
    )


def _sets_of(*names_of_members: Sequence[str]) -> Sets:
    """The sets of members that each name may stand for."""
    found: Sets = {}
    for names in names_of_members:
        for name in dict.fromkeys(names):
            columns = tuple(c for c, n in enumerate(names) if n == name)
            found.setdefault(name, set()).add(columns)
    return found


def _columns_of(sets: Sets, key: str, name: str) -> tuple[int, ...]:
    """The members that a name in `config.search` stands for."""
    if name not in sets:
        raise UserError(
            f"config.search.{key}: {name!r} is not a member, partition or group of "
            f"this pool; there are {', '.join(sets)}"
        )
    if len(sets[name]) > 1:
        raise UserError(
            f"config.search.{key}: {name!r} names both a partition and a group that "
            "holds others too; name the members"
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
            f"{base_tokens:.4g} for at most {config.epochs:g} epochs; set "
            f"supply[{BASE!r}] to the tokens that exist, raise epochs, or plan fewer "
            "tokens"
        )
    sources: dict[tuple[int, ...], tuple[str, float]]
    sources = {(c,): (name, float(tokens_C[c])) for c, name in enumerate(members)}
    given: set[int] = set()
    for name, tokens in config.supply.items():
        if name == BASE:
            continue
        columns = _columns_of(sets, "supply", name)
        if given & set(columns):
            raise UserError(
                f"config.search.supply.{name}: the supply of one of its members is "
                "given already; name each source once"
            )
        given |= set(columns)
        for c in columns:
            sources.pop((c,))
        sources[columns] = name, tokens
    return Plan((1 - replay) * config.tokens, sources, np.array(epochs_C, float))


def _limits_of(config: SearchConfig, sets: Sets, plan: Plan) -> tuple[Limit, ...]:
    """Limits on weights, and one for each source that the run could exhaust.

    Raises:
      UserError: an unknown name.
    """
    limits = [
        Limit(name, kind, _columns_of(sets, kind, name), share)
        for kind in ("min_weight", "max_weight")
        for name, share in getattr(config, kind).items()
    ]
    for columns, (name, supply) in plan.sources.items() if plan.tokens else ():
        share = config.epochs * supply / plan.tokens
        limits.append(Limit(name, "supply", columns, share))
    # Weights are between 0 and 1 anyway.
    return tuple(x for x in limits if (x.share > 0 if x.sign < 0 else x.share < 1))


@dataclasses.dataclass(frozen=True)
class Binding:
    """A limit that a mixture has reached.

    Attributes:
      name: of a member, partition, group or domain; empty for a limit on all.
      kind: 'min_weight', 'max_weight', 'supply', 'divergence', 'sources' or
        'max_regression'.
      limit, value: shares, nats, a number of partitions, or bits per byte.
      step: the relaxation that `gain` is for, in words.
      gain: bits of the objective that it would win, to first order; None if unknown.
    """

    name: str
    kind: str
    limit: float
    value: float
    step: str = ""
    gain: float | None = None


def binding(
    feasible: Feasible, w_C: np.ndarray, slope: Slope | None = None
) -> list[Binding]:
    """The limits that a mixture has reached.

    Args:
      w_C: an allowed mixture.
      slope: of the objective there. With it, gains are the multipliers that come
        nearest to the conditions of an optimum; they mean most at an optimum.
    """
    found, normals = [], []
    for x in feasible.limits:
        if abs(x.value(w_C) - x.share) <= _REACHED:
            found.append(Binding(x.name, x.kind, x.share, x.value(w_C), _STEPS[x.kind]))
            normals.append(x.sign * np.isin(np.arange(len(w_C)), x.columns))
    far = float(feasible.region.divergences(w_C[None])[0])
    if far >= (most := feasible.divergence) - _REACHED:
        found.append(Binding("", "divergence", most, far, _STEPS["divergence"]))
        normals.append(feasible.region.divergence_slope(w_C))
    if slope is not None and found:
        price_J = _prices(feasible, w_C, slope, np.array(normals, float))
        for j, bound in enumerate(found):
            size = 0.01 if bound.kind.endswith("weight") else 0.1 * bound.limit
            found[j] = dataclasses.replace(bound, gain=float(price_J[j] * size))
    count = feasible.sources(w_C)
    if feasible.max_sources and count >= feasible.max_sources:
        found.append(Binding("", "sources", feasible.max_sources, count))
    return found


def more_epochs(feasible: Feasible, w_C: np.ndarray) -> list[tuple[str, float, float]]:
    """Members whose source the planned run uses for more epochs than they did.

    Returns their names, the planned epochs if more than one, and their own.
    """
    planned_C, own_C = feasible.plan.epochs(w_C), feasible.plan.epochs_C
    more_C = planned_C > np.maximum(own_C, 1.0) * (1 + 1e-6)
    return [
        (feasible.members[c], float(planned_C[c]), float(own_C[c]))
        for c in np.flatnonzero(more_C & (w_C > 0))
    ]


def _prices(
    feasible: Feasible, w_C: np.ndarray, slope: Slope, normal_JC: np.ndarray
) -> np.ndarray:
    """Multipliers [J] of limits with these normals, by least squares.

    At an optimum, a convex combination of the largest pieces' slopes plus
    non-negative multiples of the normals is the same for all members with weight,
    and no less for the others.
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
