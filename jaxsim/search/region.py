"""Convex sets of mixtures, and the small programmes that are solved on them.

A region is what is left of the simplex under linear limits and a limit on the
divergence from a reference mixture. Linear programmes go to HiGHS. Quadratic
ones become a least-distance problem, which non-negative least squares solves
exactly (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23).
With a limit on the divergence, Newton's method solves a sequence of those.
"""

import dataclasses
import functools

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import OptimizeResult, linprog, nnls

# A share of a run: far below one row of any run that can be trained.
TOLERANCE = 1e-7
_NOTHING = 1e-10  # a weight by which solvers mean zero
_LEAST = 1e-14  # a weight that has a logarithm
_NEWTON_STEPS = 60
# What limits give way by where they leave no room but for rounding.
_SLACK = 1e-11


class Empty(Exception):
    """No mixture is in the region.

    Attributes:
      rows: of the matrix, whose limits contradict each other; none if the
        divergence is in the way.
      divergence: the least that the rows allow.
    """

    def __init__(self, rows: tuple[int, ...], divergence: float = 0.0):
        super().__init__(f"rows {rows}, {divergence:g} nats")
        self.rows = rows
        self.divergence = divergence


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """Mixtures w with matrix w <= bound and a limit on KL(w, reference).

    Attributes:
      matrix_KC, bound_K: linear limits.
      reference_C: positive; sums to 1 over the members of the whole set.
      divergence: most nats from it; inf for any.
    """

    matrix_KC: np.ndarray
    bound_K: np.ndarray
    reference_C: np.ndarray
    divergence: float

    def excess(self, w_MC: np.ndarray) -> np.ndarray:
        """By how much the worst limit is exceeded [M]; not positive inside."""
        over_MK = w_MC @ self.matrix_KC.T - self.bound_K
        parts = [
            -w_MC.min(axis=1),
            np.abs(w_MC.sum(axis=1) - 1),
            over_MK.max(axis=1, initial=-1.0),
        ]
        if np.isfinite(self.divergence):
            parts.append(self.divergences(w_MC) - self.divergence)
        return np.max(parts, axis=0)

    def divergences(self, w_MC: np.ndarray) -> np.ndarray:
        """KL(w, reference) [M] in nats."""
        return (w_MC * (self.divergence_slope(w_MC) - 1)).sum(axis=1)

    @functools.cached_property
    def centre_C(self) -> np.ndarray:
        """The mixture of the least divergence from the reference.

        Raises:
          Empty: says which limits exclude each other.
        """
        linear = dataclasses.replace(self, divergence=np.inf)
        w_C = self.reference_C
        if linear.excess(w_C[None])[0] > _NOTHING:
            w_C = _least_divergence(linear, self._any())
        least = float(self.divergences(w_C[None])[0])
        if least > self.divergence + TOLERANCE:
            raise Empty((), least)
        return w_C

    def lowest(
        self, value_P: np.ndarray, slope_PC: np.ndarray, at_C: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Minimises the largest of P linear functions.

        Args:
          value_P, slope_PC: of the functions, at `at_C`.

        Returns:
          A mixture [C], and a lower bound of the minimum, which the mixture
          reaches but for the solvers' tolerance.
        """
        w_C, bound = self._linear(value_P, slope_PC, at_C)
        if self._too_far(w_C):
            no_CC = np.zeros((len(w_C), len(w_C)))
            w_C, _ = self._newton(value_P, slope_PC, at_C, no_CC)
            _, bound = self._linear(value_P, slope_PC, at_C, self._cut(w_C))
        return w_C, bound

    def model_step(
        self,
        value_P: np.ndarray,
        slope_PC: np.ndarray,
        at_C: np.ndarray,
        hessian_CC: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Minimises the largest of P linear functions plus a quadratic.

        With P > 1 functions, how far the largest of them falls is damped,
        which leaves the solution alone where `at_C` is it.

        Args:
          value_P, slope_PC: of the functions, at `at_C`.
          hessian_CC: positive definite, of the quadratic around `at_C`.

        Returns:
          A mixture, and the functions' shares [P] in holding it there: their
          multipliers, which sum to 1.
        """
        pull_C = hessian_CC @ at_C
        w_C, share_P, _ = self._quadratic(
            value_P, slope_PC, at_C, hessian_CC, pull_C
        )
        if self._too_far(w_C):
            return self._newton(value_P, slope_PC, at_C, hessian_CC)
        return w_C, share_P

    def corner(self, slope_C: np.ndarray) -> np.ndarray:
        """A mixture at the edge, near `lowest` and much quicker to find.

        It is that of the linear limits, moved to the centre until the
        divergence is allowed.
        """
        zero_C = np.zeros(len(slope_C))
        return self._inside(self._linear(np.zeros(1), slope_C[None], zero_C)[0])

    def divergence_slope(self, w: np.ndarray) -> np.ndarray:
        """The derivative of the divergence with respect to weights."""
        return np.log(np.maximum(w, _LEAST) / self.reference_C) + 1

    def nearest(self, w_C: np.ndarray) -> np.ndarray:
        """The mixture at the least Euclidean distance."""
        none_1C, eye_CC = np.zeros((1, len(w_C))), np.eye(len(w_C))
        return self.model_step(np.zeros(1), none_1C, w_C, eye_CC)[0]

    def _too_far(self, w_C: np.ndarray) -> bool:
        return bool(self.divergences(w_C[None])[0] > self._most)

    @functools.cached_property
    def _most(self) -> float:
        """The divergence that is allowed, with room around the centre."""
        if not np.isfinite(self.divergence):
            return self.divergence
        least = float(self.divergences(self.centre_C[None])[0])
        return max(self.divergence, least + _NOTHING)

    def _cut(self, w_C: np.ndarray) -> tuple[np.ndarray, float]:
        """a, b such that a x <= b wherever the divergence is allowed."""
        slope_C = self.divergence_slope(w_C)
        value = self.divergences(w_C[None])[0]
        return slope_C, float(self._most - value + slope_C @ w_C)

    def _rows(
        self, cut: tuple[np.ndarray, float] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        if cut is None:
            return self.matrix_KC, self.bound_K
        return np.vstack([self.matrix_KC, cut[0]]), np.append(
            self.bound_K, cut[1]
        )

    def _any(self) -> np.ndarray:
        """A mixture within the linear limits.

        Raises:
          Empty: there is none.
        """
        k, c = self.matrix_KC.shape
        # One slack for all limits, which is to be zero: where it is not, the
        # limits with a price contradict each other (Farkas).
        found = _solve_linear(
            np.append(np.zeros(c), 1.0),
            np.hstack([self.matrix_KC, -np.ones((k, 1))]),
            self.bound_K,
            np.append(np.ones(c), 0.0)[None],
            [(0, None)] * (c + 1),
        )
        if found.fun > _NOTHING:
            rows = np.flatnonzero(found.ineqlin.marginals < -1e-9)
            raise Empty(tuple(rows.tolist()))
        return _clean(found.x[:c])

    def _linear(
        self,
        value_P: np.ndarray,
        slope_PC: np.ndarray,
        at_C: np.ndarray,
        cut: tuple[np.ndarray, float] | None = None,
    ) -> tuple[np.ndarray, float]:
        """`lowest` without the divergence, but for one `_cut`."""
        c, p = slope_PC.shape[1], len(value_P)
        matrix_KC, bound_K = self._rows(cut)
        zero_K1 = np.zeros((len(bound_K), 1))
        found = _solve_linear(
            np.append(np.zeros(c), 1.0),
            np.vstack(
                [
                    np.hstack([matrix_KC, zero_K1]),
                    np.hstack([slope_PC, -np.ones((p, 1))]),
                ]
            ),
            np.append(bound_K, slope_PC @ at_C - value_P),
            np.append(np.ones(c), 0.0)[None],
            [(0, None)] * c + [(None, None)],
        )
        return _clean(found.x[:c]), float(found.fun)

    def _quadratic(
        self,
        value_P: np.ndarray,
        slope_PC: np.ndarray,
        at_C: np.ndarray,
        hessian_CC: np.ndarray,
        pull_C: np.ndarray,
        cut: tuple[np.ndarray, float] | None = None,
        lower_C: np.ndarray | float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """`model_step` without the divergence, but for one `_cut`.

        The quadratic is x hessian x / 2 - pull x.

        Returns:
          The mixture, the functions' shares, and the price of the cut.
        """
        c, p = slope_PC.shape[1], len(value_P)
        matrix_KC, bound_K = self._rows(cut)
        bound_K = bound_K + _SLACK
        # Means are the same for all mixtures, and would hide small slopes.
        mean_P = slope_PC.mean(axis=1)
        lead_P = slope_PC @ at_C - value_P + value_P.max() - mean_P
        slope_PC = slope_PC - mean_P[:, None]
        one_1C = np.ones((1, c))
        limit_JC = np.vstack([matrix_KC, -np.eye(c), one_1C, -one_1C])
        bound_J = np.concatenate([bound_K, -lower_C * np.ones(c), [1, -1]])
        share_P = np.ones(p)
        if p == 1:
            x_C, price_J = _solve_quadratic(
                hessian_CC, slope_PC[0] - pull_C, limit_JC, bound_J
            )
        else:
            # One more coordinate: the largest function less its value now.
            extra = np.append(-pull_C, 1.0)
            hessian = np.zeros((c + 1, c + 1))
            hessian[:c, :c] = hessian_CC
            hessian[c, c] = 1 / max(float(np.ptp(slope_PC, axis=1).max()), 1e-9)
            x_C, price_J = _solve_quadratic(
                hessian,
                extra,
                np.block(
                    [
                        [limit_JC, np.zeros((len(bound_J), 1))],
                        [slope_PC, -np.ones((p, 1))],
                    ]
                ),
                np.append(bound_J, lead_P),
            )
            share_P = price_J[-p:] / price_J[-p:].sum()
        price = price_J[len(bound_K) - 1] if cut is not None else 0.0
        return _clean(x_C[:c]), share_P, float(price)

    def _newton(
        self,
        value_P: np.ndarray,
        slope_PC: np.ndarray,
        at_C: np.ndarray,
        hessian_CC: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """`model_step` where the divergence is what binds."""
        w_C = self.centre_C
        scale = max(float(np.ptp(slope_PC, axis=1).max()), 1e-9)
        price, share_P = scale, np.ones(len(value_P))
        for _ in range(_NEWTON_STEPS):
            curve_C = price / np.maximum(w_C, _LEAST)
            new_C, share_P, price = self._quadratic(
                value_P,
                slope_PC,
                at_C,
                hessian_CC + np.diag(curve_C),
                hessian_CC @ at_C + curve_C * w_C,
                self._cut(w_C),
                0.1 * w_C,
            )
            price = max(price, 1e-6 * scale)
            moved = float(np.abs(new_C - w_C).max())
            w_C = new_C
            if moved < _NOTHING:
                break
        return self._inside(w_C), share_P

    def _inside(self, w_C: np.ndarray) -> np.ndarray:
        """Towards the centre, until the divergence is allowed."""
        low, high = 0.0, 1.0
        if not self._too_far(w_C):
            return w_C
        for _ in range(50):
            share = (low + high) / 2
            mixed_C = w_C + share * (self.centre_C - w_C)
            low, high = (
                (share, high) if self._too_far(mixed_C) else (low, share)
            )
        return w_C + high * (self.centre_C - w_C)


def _least_divergence(region: Region, start_C: np.ndarray) -> np.ndarray:
    """Newton's method for KL(w, reference) under linear limits."""
    w_C = start_C
    for _ in range(_NEWTON_STEPS):
        curve_C = 1 / np.maximum(w_C, 1e-6)
        slope_C = region.divergence_slope(w_C)
        step_C, _, _ = region._quadratic(
            np.zeros(1), slope_C[None], w_C, np.diag(curve_C), curve_C * w_C
        )
        way_C = step_C - w_C
        if np.abs(way_C).max() < _NOTHING:
            break
        share, value = 1.0, region.divergences(w_C[None])[0]
        while share > 1e-6 and region.divergences((w_C + share * way_C)[None])[
            0
        ] > value + 0.1 * share * (slope_C @ way_C):
            share /= 2
        w_C = w_C + share * way_C
    return w_C


def _solve_linear(
    cost_N: np.ndarray,
    limit_JN: np.ndarray,
    bound_J: np.ndarray,
    ones_1N: np.ndarray,
    range_N2: list[tuple[float | None, float | None]],
) -> OptimizeResult:
    """The least cost . x with limit x <= bound and ones x = 1."""
    tight = {
        "primal_feasibility_tolerance": 1e-10,
        "dual_feasibility_tolerance": 1e-10,
    }
    found = linprog(
        cost_N, limit_JN, bound_J, ones_1N, [1.0], range_N2, options=tight
    )
    if found.status:
        raise RuntimeError(f"linear programme: {found.message}")
    return found


def _solve_quadratic(
    hessian_NN: np.ndarray,
    linear_N: np.ndarray,
    limit_JN: np.ndarray,
    bound_J: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """x minimising x hessian x / 2 + linear x where limit x <= bound; prices.

    With hessian = L L', y = L' x + inverse(L) linear is to be short. Scaled, so
    that rows of the least-squares problem are of one size.
    """
    scale = np.trace(hessian_NN) / len(linear_N)
    root_NN = np.linalg.cholesky(hessian_NN / scale)
    shift_N = solve_triangular(root_NN, linear_N / scale, lower=True)
    turned_NJ = solve_triangular(root_NN, limit_JN.T, lower=True)
    room_J = bound_J + shift_N @ turned_NJ
    far = max(float(np.abs(room_J).max()), 1.0)
    system = -np.vstack([turned_NJ, room_J / far])
    target = np.append(np.zeros(len(linear_N)), 1.0)
    dual_J, _ = nnls(system, target, maxiter=30 * len(bound_J))
    price_J = far * dual_J / (1 + room_J / far @ dual_J)
    x_N = solve_triangular(
        root_NN, -turned_NJ @ price_J - shift_N, lower=True, trans="T"
    )
    return x_N, scale * price_J


def _clean(w_C: np.ndarray) -> np.ndarray:
    """Without the rounding of a solver."""
    w_C = np.where(w_C > _NOTHING, w_C, 0.0)
    return w_C / w_C.sum()
