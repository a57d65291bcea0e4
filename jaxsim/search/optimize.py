"""Convex sets of mixtures, and a descent to a low point of a loss on them.

A `Region` is what linear limits and a limit on the KL divergence from a prior mixture
leave of the simplex. Clarabel, a conic solver, solves linear and quadratic programs on
it; the divergence is a sum of exponential cones. Which few partitions to use is a
mixed-integer program, for HiGHS.

`descend` is sequential quadratic programming. It minimizes a quadratic model around
the best mixture so far and evaluates the derivatives at the minimum. The model's
curvature comes from successive derivatives (BFGS with Powell's damping; Nocedal and
Wright, Numerical Optimization, 2006, procedure 18.2). If a step is no better, its
tangents join the model, as in a bundle method. So there is no line search: every step
costs one gradient. An objective that is a maximum stays one in the model, piece by
piece.

The unit of cost is one mixture on all windows that the objective needs.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import clarabel
import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from jaxsim.scoring.table import mixture_key
from jaxsim.search.objective import Slope

VALUE_COST = 1.0
GRADIENT_COST = 3.0  # a forward and a backward pass

# A share of a run: far below one row of any run that can be trained.
TOLERANCE = 1e-7
_ZERO = 1e-8  # smaller weights from the solver are zero
_SMALLEST = 1e-14  # weight whose logarithm is taken
_PRECISION = 1e-10  # of the solvers
_IMPROVEMENT = 1e-7  # of the objective: stop when a step promises less
_FIRST_STEP = 0.3  # its length without limits, before any curvature is known
_NO_STEP = 1e-7  # stop when no weight moves by more
_PATIENCE = 8  # stop after so many steps without improvement: the rest is rounding


class Empty(Exception):
    """No mixture is in the region.

    Attributes:
      rows: of the matrix, whose limits contradict each other; none if the limit on
        the divergence is the reason.
      divergence: the smallest that the rows allow.
    """

    def __init__(self, rows: tuple[int, ...], divergence: float = 0.0):
        super().__init__(f"rows {rows}, {divergence:g} nats")
        self.rows = rows
        self.divergence = divergence


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """Mixtures w with matrix w <= bound and KL(w, prior) <= divergence.

    Attributes:
      matrix_KC, bound_K: linear limits.
      prior_C: positive; sums to 1 over the members of the whole set.
      divergence: in nats; inf for no limit.
    """

    matrix_KC: np.ndarray
    bound_K: np.ndarray
    prior_C: np.ndarray
    divergence: float

    def excess(self, w_MC: np.ndarray) -> np.ndarray:
        """By how much the worst limit is exceeded [M]; 0 or less inside."""
        over_MK = w_MC @ self.matrix_KC.T - self.bound_K
        parts = [-w_MC.min(axis=1), np.abs(w_MC.sum(axis=1) - 1)]
        parts.append(over_MK.max(axis=1, initial=-1.0))
        if np.isfinite(self.divergence):
            parts.append(self.divergences(w_MC) - self.divergence)
        return np.max(parts, axis=0)

    def divergences(self, w_MC: np.ndarray) -> np.ndarray:
        """KL(w, prior) [M] in nats."""
        return (w_MC * (self.divergence_slope(w_MC) - 1)).sum(axis=1)

    def divergence_slope(self, w: np.ndarray) -> np.ndarray:
        """The derivatives of the divergence with respect to the weights."""
        return np.log(np.maximum(w, _SMALLEST) / self.prior_C) + 1

    @functools.cached_property
    def center_C(self) -> np.ndarray:
        """The mixture with the smallest divergence from the prior.

        Raises:
          Empty: says which limits contradict each other.
        """
        linear = dataclasses.replace(self, divergence=np.inf)
        w_C = self.prior_C
        if linear.excess(w_C[None])[0] > _ZERO:
            self._check_linear()
            c = len(w_C)
            none = np.zeros((c, c)), np.zeros(c), np.zeros((0, c)), np.zeros(0)
            w_C, _ = self._solve(*none, (1.0, 0.0))
        least = float(self.divergences(w_C[None])[0])
        if least > self.divergence + TOLERANCE:
            raise Empty((), least)
        return w_C

    def lowest(
        self, slope: Slope, at_C: np.ndarray, hessian_CC: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Minimizes the largest of P linear functions plus a quadratic.

        Args:
          slope: of the functions, at `at_C`.
          hessian_CC: of the quadratic around `at_C`; positive semidefinite.

        Returns:
          The mixture, and the functions' multipliers [P], which sum to 1.
        """
        # A slope's mean is the same for all mixtures, and would hide small slopes.
        mean_P1 = slope.slope_PC.mean(axis=1, keepdims=True)
        flat_PC = slope.slope_PC - mean_P1
        value_P = slope.value_P + mean_P1[:, 0] * (1 - at_C.sum())
        scale = max(float(np.ptp(flat_PC, axis=1).max()), np.ptp(hessian_CC))
        scale = scale or 1.0  # all mixtures are alike
        w_C, price_P = self._solve(
            hessian_CC / scale,
            -hessian_CC @ at_C / scale,
            flat_PC / scale,
            (flat_PC @ at_C - value_P) / scale,
            (0.0, self.divergence) if np.isfinite(self.divergence) else None,
        )
        return w_C, price_P / price_P.sum()

    def nearest(self, w_C: np.ndarray) -> np.ndarray:
        """The mixture at the smallest Euclidean distance."""
        flat = Slope(np.zeros(1), np.zeros((1, len(w_C))))
        return self.lowest(flat, w_C, np.eye(len(w_C)))[0]

    def _check_linear(self) -> None:
        """Raises `Empty` if the linear limits contradict each other."""
        k, c = self.matrix_KC.shape
        # One slack for all limits. If it cannot be zero, the limits with a nonzero
        # multiplier contradict each other (Farkas).
        found = linprog(
            np.append(np.zeros(c), 1.0),
            np.hstack([self.matrix_KC, -np.ones((k, 1))]),
            self.bound_K,
            np.append(np.ones(c), 0.0)[None],
            [1.0],
            options=dict.fromkeys(
                ["primal_feasibility_tolerance", "dual_feasibility_tolerance"],
                _PRECISION,
            ),
        )
        if found.fun > _PRECISION:
            rows = np.flatnonzero(found.ineqlin.marginals < -1e-9)
            raise Empty(tuple(rows.tolist()))

    def _solve(
        self,
        hessian_CC: np.ndarray,
        linear_C: np.ndarray,
        piece_PC: np.ndarray,
        bound_P: np.ndarray,
        far: tuple[float, float] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Minimizes w hessian w / 2 + linear w + t on the linear limits.

        Args:
          piece_PC, bound_P: piece w - t <= bound.
          far: a, b where divergence(w) - a t <= b; None for no such limit.

        Returns:
          w_C, and the multipliers of the pieces [P].
        """
        c = len(linear_C)
        # Unknowns: weights, t, and each weight's part of the divergence.
        wide = c + 1 + c * (far is not None)
        w_CN, t_1N, part_CN = np.split(np.eye(wide), [c, c + 1])
        less_JN = np.vstack([piece_PC @ w_CN - t_1N, self.matrix_KC @ w_CN, -w_CN])
        bound_J = np.concatenate([bound_P, self.bound_K, np.zeros(c)])
        if far is not None:
            less_JN = np.vstack([less_JN, part_CN.sum(axis=0) - far[0] * t_1N])
            bound_J = np.append(bound_J, far[1])
        # w log(w / r) <= part where (-part, w, r) is in the exponential cone.
        cones = len(part_CN)
        zero_CN = np.zeros((cones, wide))
        cone_C3N = np.stack([part_CN, -w_CN[:cones], zero_CN], axis=1)
        room_C3 = np.zeros((cones, 3))
        room_C3[:, 2] = self.prior_C[:cones]
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = _PRECISION
        found = clarabel.DefaultSolver(
            sparse.csc_matrix(w_CN.T @ np.triu(hessian_CC) @ w_CN),
            linear_C @ w_CN + t_1N[0],
            sparse.csc_matrix(
                np.vstack([w_CN.sum(axis=0), less_JN, cone_C3N.reshape(-1, wide)])
            ),
            np.concatenate([[1.0], bound_J, room_C3.ravel()]),
            [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(len(bound_J))]
            + [clarabel.ExponentialConeT()] * cones,
            settings,
        ).solve()
        w_C = np.array(found.x)[:c]
        w_C = np.where(w_C > _ZERO, w_C, 0.0)
        if not abs(w_C.sum() - 1) < 0.01:
            raise RuntimeError(f"conic program: no solution ({found.status})")
        return w_C / w_C.sum(), np.array(found.z)[1 : 1 + len(bound_P)]


def choose(
    region: Region, partition_C: np.ndarray, most: int, cost_Q: np.ndarray
) -> np.ndarray:
    """The cheapest partitions that the linear limits allow; [Q] bool.

    Args:
      region: the limits.
      partition_C: index of each member's partition, below Q.
      most: how many partitions may be chosen.
      cost_Q: of choosing each.

    Raises:
      Empty: no choice is allowed.
    """
    k, c = region.matrix_KC.shape
    q = len(cost_Q)
    # Unknowns: weights, then choices. A weight is at most its choice.
    w_CN, chosen_QN = np.split(np.eye(c + q), [c])
    found = milp(
        cost_Q @ chosen_QN,
        integrality=chosen_QN.sum(axis=0),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(w_CN.sum(axis=0), 1, 1),
            LinearConstraint(chosen_QN.sum(axis=0), 0, most),
            LinearConstraint(w_CN - chosen_QN[partition_C], -np.inf, 0),
            LinearConstraint(region.matrix_KC @ w_CN, -np.inf, region.bound_K),
        ],
    )
    if found.x is None:
        raise Empty(tuple(range(k)))
    chosen_Q: np.ndarray = found.x[c:] > 0.5
    return chosen_Q


class BudgetSpent(Exception):
    """Raised before a call that would cost more than is left."""


@dataclasses.dataclass(eq=False)
class LossOracle:
    """Gives values and derivatives of a loss until its budget is spent.

    Asking again for the same mixture costs nothing.

    Attributes:
      members: names of the C coordinates.
      compute_values: [M, C] to [M].
      compute_slope: [C] to `Slope`.
      budget: in units.
      spent: units so far.
      tell: called with the units of each payment.
    """

    members: tuple[str, ...]
    compute_values: Callable[[np.ndarray], np.ndarray]
    compute_slope: Callable[[np.ndarray], Slope]
    budget: float
    spent: float = 0.0
    tell: Callable[[int], None] = lambda _: None
    _values: dict[bytes, tuple[np.ndarray, float]] = dataclasses.field(
        default_factory=dict
    )
    _slopes: dict[bytes, Slope] = dataclasses.field(default_factory=dict)

    def values(self, w_MC: np.ndarray) -> np.ndarray:
        """The penalized objective [M].

        Raises:
          BudgetSpent: it would cost more than is left; nothing was computed.
        """
        keys = [mixture_key(w_C) for w_C in w_MC]
        new = {k: w for k, w in zip(keys, w_MC, strict=True) if k not in self._values}
        if new:
            self._pay(VALUE_COST * len(new))
            new_MC = np.array(list(new.values()))
            self._keep(new_MC, self.compute_values(new_MC))
        return np.array([self._values[key][1] for key in keys])

    def slope(self, w_C: np.ndarray) -> Slope:
        """The value and its derivatives with respect to the weights.

        Raises:
          BudgetSpent: it would cost more than is left; nothing was computed.
        """
        key = mixture_key(w_C)
        if key not in self._slopes:
            self._pay(GRADIENT_COST)
            found = self._slopes[key] = self.compute_slope(w_C)
            self._keep(w_C[None], np.array([found.value]))
        return self._slopes[key]

    @property
    def history(self) -> tuple[np.ndarray, np.ndarray]:
        """All mixtures so far [M, C] and their values [M], in order."""
        w_MC = np.array([w_C for w_C, _ in self._values.values()])
        value_M = np.array([value for _, value in self._values.values()])
        return w_MC.reshape(-1, len(self.members)), value_M

    def _keep(self, w_MC: np.ndarray, value_M: np.ndarray) -> None:
        for w_C, value in zip(w_MC, value_M, strict=True):
            self._values.setdefault(mixture_key(w_C), (w_C.copy(), float(value)))

    def _pay(self, cost: float) -> None:
        if self.spent + cost > self.budget:
            raise BudgetSpent(
                f"{self.spent:g} of {self.budget:g} evaluations are spent, and "
                f"{cost:g} more are needed"
            )
        self.spent += cost
        self.tell(round(cost))


class Convex(Protocol):
    """A convex set of mixtures to descend on: a `Region` or `Feasible` face."""

    def lowest(
        self, slope: Slope, at_C: np.ndarray, hessian_CC: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `Region.lowest`."""


def descend(
    loss: LossOracle,
    allowed: Convex,
    start_C: np.ndarray,
    hessian_CC: np.ndarray | None = None,
    improvement: float = _IMPROVEMENT,
) -> tuple[np.ndarray, np.ndarray]:
    """Descends until a step promises too little, or the budget is spent.

    Args:
      loss: what is minimized; its history keeps everything evaluated.
      allowed: the set.
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
        if np.abs(step_C).max() < _NO_STEP or promised <= improvement * abs(
            slope.value
        ):
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
    value_NP, slope_NPC = [slope.value_P], [slope.slope_PC]
    for new_C, there in rejected:
        seen_P = there.value_P + there.slope_PC @ (w_C - new_C)
        value_NP.append(np.minimum(seen_P, slope.value_P))
        slope_NPC.append(there.slope_PC)
    return Slope(np.concatenate(value_NP), np.concatenate(slope_NPC))


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
    return (
        hessian_CC
        - np.outer(pushed_C, pushed_C) / curve
        + np.outer(change_C, change_C) / change
    )
