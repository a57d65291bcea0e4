"""What holds a mixture back, and what relaxing it would give."""

import dataclasses

import numpy as np
from scipy.optimize import nnls

from jaxsim.search.constraints import Feasible
from jaxsim.search.landscape import Slope
from jaxsim.search.limits import Limit
from jaxsim.search.region import TOLERANCE

_REACHED = 10 * TOLERANCE
# Pieces of a maximum this near to it, as a share of it, balance each other.
_NEAR = 1e-3
_STEPS = {
    "floor": "1 percentage point",
    "ceiling": "1 percentage point",
    "supply": "10 % more tokens or epochs",
    "divergence": "10 % more divergence",
}


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


def repeats(feasible: Feasible, w_C: np.ndarray) -> list[Repeat]:
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
    dual, _ = nnls(
        np.vstack([forces.T, sums]), np.append(np.zeros(here.sum()), heavy)
    )
    return dual[len(slope_PC) :][: len(normal_JC)]
