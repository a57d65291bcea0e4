"""A descent to a low point of a loss of mixtures, within a budget.

`descend` is sequential quadratic programming. It minimizes a quadratic model around
the best mixture so far and evaluates the derivatives at the minimum. The curvature
comes from successive derivatives (BFGS with Powell's damping; Nocedal and Wright,
Numerical Optimization, 2006, procedure 18.2). If a step is no better, its tangents join
the model, as in a bundle method. So there is no line search: every step costs one
gradient.

The unit of cost is one mixture on all windows that the objective needs.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxsim.scoring.table import mixture_key
from jaxsim.search.feasible import Feasible
from jaxsim.search.objective import Slope

GRADIENT_COST = 3.0  # a forward and a backward pass
_IMPROVEMENT = 1e-7  # of the objective: stop when a step promises less
_FIRST_STEP = 0.3  # its length without limits, before any curvature is known
_NO_STEP = 1e-7  # stop when no weight moves by more
_PATIENCE = 8  # stop after so many steps without improvement: the rest is rounding


class BudgetSpent(Exception):
    """Raised before a call that would cost more than is left."""


@dataclasses.dataclass(eq=False)
class LossOracle:
    """Gives values and derivatives of a loss until its budget is spent.

    Asking again for the value of a mixture costs nothing.
    """

    compute_values: Callable[[np.ndarray], np.ndarray]  # [M, C] to [M]
    compute_slope: Callable[[np.ndarray], Slope]  # of one mixture [C]
    budget: float
    spent: float = 0.0
    tell: Callable[[int], None] = lambda _: None  # called with each payment
    _values: dict[bytes, tuple[np.ndarray, float]] = dataclasses.field(
        default_factory=dict
    )

    def values(self, w_MC: np.ndarray) -> np.ndarray:
        """The penalized objective [M].

        Raises:
          BudgetSpent: it would cost more than is left; nothing was computed.
        """
        keys = [mixture_key(w_C) for w_C in w_MC]
        new = {k: w for k, w in zip(keys, w_MC, strict=True) if k not in self._values}
        if new:
            self.pay(len(new))
            new_MC = np.array(list(new.values()))
            self.keep(new_MC, self.compute_values(new_MC))
        return np.array([self._values[key][1] for key in keys])

    def slope(self, w_C: np.ndarray) -> Slope:
        """The value and its derivatives with respect to the weights.

        Raises:
          BudgetSpent: it would cost more than is left; nothing was computed.
        """
        self.pay(GRADIENT_COST)
        found = self.compute_slope(w_C)
        self.keep(w_C[None], np.array([found.value]))
        return found

    @property
    def history(self) -> tuple[np.ndarray, np.ndarray]:
        """All mixtures so far [M, C] and their values [M], in order."""
        w_MC, value_M = zip(*self._values.values(), strict=True)
        return np.array(w_MC), np.array(value_M)

    def keep(self, w_MC: np.ndarray, value_M: np.ndarray) -> None:
        """Takes in values that were known before, at no cost."""
        for w_C, value in zip(w_MC, value_M, strict=True):
            self._values.setdefault(mixture_key(w_C), (w_C.copy(), float(value)))

    def pay(self, cost: float) -> None:
        """Takes a cost from the budget.

        Raises:
          BudgetSpent: it is more than is left.
        """
        if self.spent + cost > self.budget:
            raise BudgetSpent(
                f"{self.spent:g} of {self.budget:g} evaluations are spent, and "
                f"{cost:g} more are needed"
            )
        self.spent += cost
        self.tell(round(cost))


def descend(
    loss: LossOracle,
    allowed: Feasible,
    start_C: np.ndarray,
    hessian_CC: np.ndarray | None = None,
    improvement: float = _IMPROVEMENT,
) -> tuple[np.ndarray, np.ndarray]:
    """Descends until a step promises too little, or the budget is spent.

    Args:
      loss: what is minimized; its history keeps everything evaluated.
      allowed: the set, convex.
      start_C: an allowed mixture.
      hessian_CC: the curvature of a similar loss, if known.
      improvement: share of the objective that a further step must promise.

    Returns:
      The lowest mixture, and the curvature there.

    Raises:
      BudgetSpent: the budget does not even cover the derivatives at the start.
    """
    w_C, slope = start_C, loss.slope(start_C)
    if hessian_CC is None:
        # From the least steep piece: a violated limit is steep, and a step that is
        # too short costs more than one that is too long.
        flat_PC = slope.slope_PC - slope.slope_PC.mean(axis=1, keepdims=True)
        steepness = max(float(np.linalg.norm(flat_PC, axis=1).min()), 1e-12)
        hessian_CC = steepness / _FIRST_STEP * np.eye(len(w_C))
    rejected: list[tuple[np.ndarray, Slope]] = []
    while len(rejected) < _PATIENCE:
        model = _with_tangents(slope, rejected, w_C)
        new_C, share_P = allowed.lowest(model, w_C, hessian_CC)
        step_C = new_C - w_C
        promised = slope.value - (model.value_P + model.slope_PC @ step_C).max()
        promised -= step_C @ hessian_CC @ step_C / 2
        least = improvement * abs(slope.value)
        if np.abs(step_C).max() < _NO_STEP or promised <= least:
            break
        try:
            there = loss.slope(new_C)
        except BudgetSpent:
            break
        share_P = share_P.reshape(-1, len(slope.value_P)).sum(axis=0)
        change_C = share_P @ (there.slope_PC - slope.slope_PC)
        hessian_CC = _updated(hessian_CC, step_C, change_C)
        if there.value < slope.value:
            w_C, slope, rejected = new_C, there, []
        else:
            rejected.append((new_C, there))
    return w_C, hessian_CC


def _with_tangents(
    slope: Slope, rejected: Sequence[tuple[np.ndarray, Slope]], w_C: np.ndarray
) -> Slope:
    """The pieces at `w_C`, and their tangents at rejected steps.

    Where pieces bend, as limits do, a step that ignores it lands outside. Tangents of
    a convex objective lie below it at `w_C`; others are lowered to it.
    """
    seen_NP = [x.value_P + x.slope_PC @ (w_C - new_C) for new_C, x in rejected]
    lower_NP = [np.minimum(seen_P, slope.value_P) for seen_P in seen_NP]
    slope_NPC = [slope.slope_PC, *(x.slope_PC for _, x in rejected)]
    return Slope(np.concatenate([slope.value_P, *lower_NP]), np.concatenate(slope_NPC))


def _updated(
    hessian_CC: np.ndarray, step_C: np.ndarray, change_C: np.ndarray
) -> np.ndarray:
    """The BFGS update with Powell's damping, which keeps it positive definite."""
    pushed_C = hessian_CC @ step_C
    curve, change = step_C @ pushed_C, step_C @ change_C
    if change < 0.2 * curve:
        share = 0.8 * curve / (curve - change)
        change_C = share * change_C + (1 - share) * pushed_C
        change = step_C @ change_C
    less_CC = hessian_CC - np.outer(pushed_C, pushed_C) / curve
    return less_CC + np.outer(change_C, change_C) / change
