"""The mixtures that a search may choose, by name: limits, the planned run, and prices.

All shares are of a run's tokens outside replay, which are what a mixture divides: of
T tokens with replay share b, a member with weight w gets (1 - b) T w. Replay uses the
base model's text, which has its own supply.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal, cast

import numpy as np
from scipy.optimize import nnls

from jaxsim.config import SearchConfig
from jaxsim.corpus.store import BASE, Unit
from jaxsim.errors import UserError, nearest
from jaxsim.log import counted
from jaxsim.search.feasible import REACHED, TOLERANCE, Empty, Feasible, Limit, Plan
from jaxsim.search.objective import Slope

_NEAR = 1e-3  # relative; pieces of a maximum that are this close balance each other
_STEPS = {
    "min_weight": "1 percentage point",
    "max_weight": "1 percentage point",
    "supply": "10 % more tokens or epochs",
    "divergence": "10 % more divergence",
}


def feasible(
    config: SearchConfig,
    units: Sequence[Unit],
    epochs_C: np.ndarray,
    replay: float,
    base_tokens: float = np.inf,
) -> Feasible:
    """The mixtures that `config` allows.

    Args:
      config: the constraints.
      units: what each member was trained on.
      epochs_C: for how many epochs.
      replay: share of the base model's text in every run.
      base_tokens: tokens of that text.

    Raises:
      UserError: an unknown name, or no mixture is allowed; says which limits
        contradict each other.
    """
    plan = _plan_of(config, units, epochs_C, replay, base_tokens)
    partitions = [unit.partition for unit in units]
    few = 0 < config.max_sources < len(set(partitions))
    uniform = config.prior == "uniform"
    weight_C = np.array([1 if uniform else unit.supply for unit in units], float)
    found = Feasible(
        members=tuple(unit.name for unit in units),
        partition_C=np.unique(partitions, return_inverse=True)[1],
        limits=_limits_of(config, units, plan),
        prior_C=weight_C / weight_C.sum(),
        divergence=config.divergence or np.inf,
        max_sources=config.max_sources if few else 0,
        plan=plan,
        open_C=np.ones(len(units), bool),
    )
    _check(found, config)
    return found


def _check(found: Feasible, config: SearchConfig) -> None:
    """Refuses limits that contradict each other, with the simplest reason."""
    try:
        _ = dataclasses.replace(found, max_sources=0).center_C
    except Empty as error:
        if error.limits:
            limits = [found.limits[k] for k in error.limits]
            raise UserError(_contradiction(limits, found.plan, config)) from error
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
            "config.search.max_sources: found no "
            f"{counted(found.max_sources, 'partition')} within the other limits; raise "
            "it, or loosen min_weight, max_weight, divergence or the planned run"
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
        what = " at once; loosen one of them" if len(limits) > 1 else "; loosen it"
        return f"config.search: no mixture meets {weights}{what}"
    return (
        "config.search: no mixture fills the planned run: within epochs="
        f"{config.epochs:g}, {', '.join(x.name for x in supplies)} "
        f"can give {sum(x.share for x in supplies):.1%} of the {plan.tokens:,.0f} "
        "tokens planned outside replay"
        + (f", so none meets {weights}" if weights else "")
        + "; plan fewer tokens, allow more epochs, "
        + ("loosen the other limits, " if weights else "")
        + "or set `supply` to the tokens that exist"
    )


def _columns_of(units: Sequence[Unit], key: str, name: str) -> tuple[int, ...]:
    """The members that a name in `config.search` stands for."""
    names_3C = [[getattr(u, k) for u in units] for k in ("name", "partition", "group")]
    found = {
        tuple(c for c, n in enumerate(names_C) if n == name) for names_C in names_3C
    } - {()}
    if not found:
        known = dict.fromkeys(itertools.chain(*names_3C))
        raise UserError(
            f"config.search.{key}: {name!r} is not a member, partition or group of "
            f"this pool; {nearest(name, known)}there are {', '.join(known)}"
        )
    if len(found) > 1:
        raise UserError(
            f"config.search.{key}: {name!r} names both a partition and a group that "
            "holds others too; name the members"
        )
    return found.pop()


def _plan_of(
    config: SearchConfig,
    units: Sequence[Unit],
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
    sources = {(c,): (u.name, float(u.supply)) for c, u in enumerate(units)}
    given: set[int] = set()
    for name, tokens in config.supply.items():
        if name == BASE:
            continue
        columns = _columns_of(units, "supply", name)
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


def _limits_of(
    config: SearchConfig, units: Sequence[Unit], plan: Plan
) -> tuple[Limit, ...]:
    """Limits on weights, and one for each source that the run could exhaust."""
    limits = [
        Limit(name, kind, _columns_of(units, kind, name), share)
        for kind in ("min_weight", "max_weight")
        for name, share in getattr(config, kind).items()
    ]
    for columns, (name, supply) in plan.sources.items() if plan.tokens else ():
        share = config.epochs * supply / plan.tokens
        limits.append(Limit(name, "supply", columns, share))
    # Weights are between 0 and 1 anyway.
    return tuple(x for x in limits if (x.share > 0 if x.sign < 0 else x.share < 1))


# Those of a `Limit`, and others.
Kind = Literal[
    "min_weight", "max_weight", "supply", "divergence", "sources", "max_regression"
]


@dataclasses.dataclass
class Binding:
    """A limit that a mixture has reached."""

    name: str  # of a member, partition, group or domain; '' for a limit on all
    kind: Kind
    limit: float  # a share, nats, a number of partitions, or bits per byte
    value: float
    step: str = ""  # a relaxation, in words
    gain: float | None = None  # bits of the objective that it would win, if known


def binding(feasible: Feasible, w_C: np.ndarray, slope: Slope) -> list[Binding]:
    """The limits that an allowed mixture has reached.

    Gains are the multipliers that come nearest to the conditions of an optimum, with
    the objective's slope there; they mean most at an optimum.
    """
    found, normals = [], []
    for x, normal_C in zip(feasible.limits, feasible.matrix_KC, strict=True):
        value = float(w_C[list(x.columns)].sum())
        if abs(value - x.share) <= REACHED:
            kind = cast(Kind, x.kind)
            found.append(Binding(x.name, kind, x.share, value, _STEPS[kind]))
            normals.append(normal_C)
    far = float(feasible.divergences(w_C[None])[0])
    if far >= (most := feasible.divergence) - REACHED:
        found.append(Binding("", "divergence", most, far, _STEPS["divergence"]))
        normals.append(feasible.divergence_slope(w_C))
    if found:
        price_J = _prices(feasible, w_C, slope, np.array(normals))
        for bound, price in zip(found, price_J, strict=True):
            size = 0.01 if bound.kind.endswith("weight") else 0.1 * bound.limit
            bound.gain = float(price * size)
    count = feasible.sources(w_C)
    if feasible.max_sources and count >= feasible.max_sources:
        found.append(Binding("", "sources", feasible.max_sources, count))
    return found


def more_epochs(plan: Plan, w_C: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Of whose text the planned run uses more epochs than the member; [C] bool.

    And more than `least`: up to 1, nothing is repeated.
    """
    known_C = np.maximum(plan.epochs_C, least)
    more_C: np.ndarray = plan.epochs(w_C) > known_C * (1 + 1e-6)
    return more_C & (w_C > 0)


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
