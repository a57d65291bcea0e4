"""Ways to look for a low point of a landscape over a set of mixtures.

Each method stops when it is done or when the budget is spent, asks only for
mixtures that are allowed, and leaves all that it asked in the landscape's
history. One whose first question is too dear raises `BudgetSpent`.

`descend` and `frank_wolfe` share one loop: a quadratic model around the best
mixture, whose curvature is learnt from successive slopes (BFGS with Powell's
damping; Nocedal and Wright, Numerical Optimization, 2006, procedure 18.2), is
minimised over the set, and the slope is asked there. Where that is no better,
what was seen joins the model, as in a bundle method, so there is no search
along lines: every step costs one slope. An objective that is a maximum stays
one in the model, piece by piece.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from jaxsim.search.constraints import Feasible
from jaxsim.search.landscape import (
    VALUE_COST,
    BudgetSpent,
    Landscape,
    Slope,
)
from jaxsim.search.region import Region

# Of the objective's value; what a certificate has to show is five times it.
GAP = 1e-4
_FIRST_STEP = 0.3  # its length; two members are sqrt(2) apart
_STILL = 1e-7  # no weight moves by more: the step is none
_PATIENCE = 8  # steps in a row that win nothing: the rest is rounding

# From slope, place and curvature to the next place and the pieces' shares.
Step = Callable[[Slope, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Result:
    """Where a method ended.

    Attributes:
      w_C: the lowest mixture that it asked for.
      value: the objective there.
      gap: how much lower the linear function (or the largest of several) that
        touches the objective at `w_C` gets anywhere in the set: the
        Frank-Wolfe gap. If the objective is convex on the set, no allowed
        mixture is better than `value - gap`. None without derivatives.
      spent: units that it cost.
    """

    w_C: np.ndarray
    value: float
    gap: float | None
    spent: float


def subsets(
    landscape: Landscape, feasible: Feasible, evaluations: int
) -> Result:
    """All equal-weight subsets of members, of all sizes that fit.

    In place of a subset that is not allowed it asks for the nearest mixture
    that is. If not even the single members fit, only the first are asked.
    """
    c = len(feasible.members)
    size, count = 1, c
    while size < c and count + math.comb(c, size + 1) <= evaluations:
        size += 1
        count += math.comb(c, size)
    chosen = itertools.chain.from_iterable(
        itertools.combinations(range(c), n) for n in range(1, size + 1)
    )
    asked_MC = [
        feasible.nearest(np.bincount(places, minlength=c) / len(places))
        for places in itertools.islice(chosen, evaluations)
    ]
    return _lowest_of(landscape, asked_MC)


def sample(
    landscape: Landscape,
    feasible: Feasible,
    evaluations: int,
    generator: np.random.Generator,
) -> Result:
    """Random allowed mixtures."""
    return _lowest_of(landscape, feasible.sample(evaluations, generator))


def descend(
    landscape: Landscape,
    feasible: Feasible,
    starts_MC: np.ndarray,
    gap: float = GAP,
) -> Result:
    """Sequential quadratic models over the whole set, from several starts.

    If the number of sources is limited, each start keeps its own sources.

    Args:
      starts_MC: tried in turn, each until its gap is small.
      gap: where to stop, as a share of the objective.
    """
    before, best = landscape.spent, None
    for start_C in starts_MC:
        w_C = feasible.nearest(start_C)
        try:
            found = _descend(
                landscape, feasible, w_C, feasible.face(w_C).model_step, gap
            )
        except BudgetSpent:
            if best is None:
                raise
            break
        if best is None or found.value < best.value:
            best = found
    if best is None:
        raise ValueError("no starts")
    return dataclasses.replace(best, spent=landscape.spent - before)


def frank_wolfe(
    landscape: Landscape,
    feasible: Feasible,
    start_C: np.ndarray,
    gap: float = GAP,
) -> Result:
    """Like `descend`, within the hull of the extreme mixtures met so far.

    Every step adds the extreme mixture that the slope points to, and corrects
    the weights of all by the model: answers are sparse as long as the extreme
    mixtures are (fully corrective Frank-Wolfe; Jaggi, ICML 2013, algorithm 4).
    """
    w_C = feasible.nearest(start_C)
    return _descend(
        landscape, feasible, w_C, _Hull(feasible.face(w_C), w_C).step, gap
    )


def _descend(
    landscape: Landscape,
    feasible: Feasible,
    start_C: np.ndarray,
    step: Step,
    gap: float,
) -> Result:
    before = landscape.spent
    w_C, face = start_C, feasible.face(start_C)
    slope = landscape.slope(w_C)
    # Of the least steep piece: a limit that is broken is steep, and too short
    # steps are more trouble than too long ones.
    flat_PC = slope.slope_PC - slope.slope_PC.mean(axis=1, keepdims=True)
    steepness = max(float(np.linalg.norm(flat_PC, axis=1).min()), 1e-12)
    hessian_CC = steepness / _FIRST_STEP * np.eye(len(w_C))
    rejected: list[tuple[np.ndarray, Slope]] = []
    while len(rejected) < _PATIENCE:
        _, bound = face.lowest_of(slope, w_C)
        if slope.value - bound <= gap * abs(slope.value):
            break
        new_C, share_P = step(_known(slope, rejected, w_C), w_C, hessian_CC)
        if np.abs(new_C - w_C).max() < _STILL:
            break
        try:
            there = landscape.slope(new_C)
        except BudgetSpent:
            break
        share_P = share_P.reshape(-1, len(slope.value_P)).sum(axis=0)
        change_C = share_P @ (there.slope_PC - slope.slope_PC)
        hessian_CC = _updated(hessian_CC, new_C - w_C, change_C)
        if there.value < slope.value:
            w_C, slope, rejected = new_C, there, []
        else:
            rejected.append((new_C, there))
    _, bound = feasible.lowest_of(slope, w_C)
    return Result(
        w_C, slope.value, slope.value - bound, landscape.spent - before
    )


def _known(
    slope: Slope, rejected: Sequence[tuple[np.ndarray, Slope]], w_C: np.ndarray
) -> Slope:
    """The slope at `w_C`, and what rejected steps have shown of the pieces.

    Where pieces bend, as limits do, a step that ignores it lands outside.
    Lines that touch a convex objective elsewhere are below it here; others
    are lowered to it.
    """
    value_NP, slope_NPC = [slope.value_P], [slope.slope_PC]
    for new_C, there in rejected:
        seen_P = there.value_P + there.slope_PC @ (w_C - new_C)
        value_NP.append(np.minimum(seen_P, slope.value_P))
        slope_NPC.append(there.slope_PC)
    return Slope(np.concatenate(value_NP), np.concatenate(slope_NPC))


class _Hull:
    """The convex hull of a start and of the extreme mixtures met since."""

    def __init__(self, face: Feasible, start_C: np.ndarray):
        self._face = face
        self._corners_VC = start_C[None]

    def step(
        self, slope: Slope, at_C: np.ndarray, hessian_CC: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The model's minimum in the hull, with one corner more."""
        corner_C, _ = self._face.lowest_of(slope, at_C)
        self._corners_VC = np.vstack([self._corners_VC, corner_C])
        way_VC = self._corners_VC - at_C
        v = len(way_VC)
        curve_VV = way_VC @ hessian_CC @ way_VC.T
        # Corners may depend on each other; then any of their shares will do.
        curve_VV += 1e-9 * np.trace(curve_VV) * np.eye(v)
        hull = Region(np.zeros((0, v)), np.zeros(0), np.ones(v) / v, np.inf)
        share_V, share_P = hull.model_step(
            slope.value_P, slope.slope_PC @ way_VC.T, np.zeros(v), curve_VV
        )
        return share_V @ self._corners_VC, share_P


def _updated(
    hessian_CC: np.ndarray, step_C: np.ndarray, change_C: np.ndarray
) -> np.ndarray:
    """BFGS with Powell's damping, which keeps it positive definite."""
    pushed_C = hessian_CC @ step_C
    curve, change = step_C @ pushed_C, step_C @ change_C
    if change < 0.2 * curve:
        share = 0.8 * curve / (curve - change)
        change_C = share * change_C + (1 - share) * pushed_C
        change = step_C @ change_C
    return (
        hessian_CC
        - np.outer(pushed_C, pushed_C) / curve
        + np.outer(change_C, change_C) / change
    )


def _lowest_of(
    landscape: Landscape, asked: Sequence[np.ndarray] | np.ndarray
) -> Result:
    """Asks for as many of these as the budget allows."""
    before = landscape.spent
    left = int((landscape.budget - landscape.spent) / VALUE_COST + 1e-6)
    w_MC = np.array(asked)[: max(left, 1)]
    value_M = landscape.values(w_MC)
    best = int(np.argmin(value_M))
    return Result(
        w_MC[best], float(value_M[best]), None, landscape.spent - before
    )
