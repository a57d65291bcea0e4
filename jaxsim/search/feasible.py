"""The set of mixtures that a search may choose.

Limits on total weights and on the KL divergence from a prior mixture leave a convex
part of the simplex. Clarabel, a conic solver, solves linear and quadratic programs on
it; the divergence is a sum of exponential cones, and a limit on a convex quadratic is a
second-order cone. Which few partitions to use is a mixed-integer program, for HiGHS.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence

import clarabel
import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from jaxsim.search.objective import Slope

# A share of a run: far below one row of any run that can be trained.
TOLERANCE = 1e-7
REACHED = 10 * TOLERANCE
LEAST = 1e-5  # smallest weight of what a search proposes, as a share of a run
_ZERO = 1e-8  # smaller weights from the solver are zero
_SMALLEST = 1e-14  # weight whose logarithm is taken
_PRECISION = 1e-10  # of the solvers
_CONCENTRATIONS = (0.3, 1.0, 4.0)
_CORNERS = 4  # extreme mixtures that `sample` draws per member
_FACES = 32  # choices of partitions that it draws, if their number is limited


@dataclasses.dataclass(eq=False)
class Empty(Exception):
    """No mixture is allowed."""

    limits: tuple[int, ...] = ()  # which of `Feasible.limits` contradict each other
    divergence: float = 0.0  # the smallest that they allow


@dataclasses.dataclass(frozen=True)
class Limit:
    """A limit on the total weight of some members."""

    name: str  # of a member, partition or group
    kind: str  # 'min_weight', 'max_weight' or 'supply'
    columns: tuple[int, ...]  # of its members
    share: float

    @property
    def sign(self) -> int:
        return -1 if self.kind == "min_weight" else 1


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """The planned run.

    `sources` are names and tokens of texts, by the columns of members that share them.
    """

    tokens: float  # outside replay; 0 if no run is planned
    sources: dict[tuple[int, ...], tuple[str, float]]
    epochs_C: np.ndarray  # for how many epochs each member was trained

    def epochs(self, w_C: np.ndarray) -> np.ndarray:
        """Epochs of each member's source [C]; 0 if no run is planned."""
        epochs_C = np.zeros(len(w_C))
        for columns, (_, supply) in self.sources.items():
            epochs_C[list(columns)] = (self.tokens * w_C[list(columns)]).sum() / supply
        return epochs_C


@dataclasses.dataclass(frozen=True, eq=False)
class Feasible:
    """The mixtures that a search may choose. Build it with `constraints.feasible`.

    Without `max_sources` the set is convex. With it, a descent stays in the `face` of
    its start, which is. A `c` in the names of arrays counts open members only.
    """

    members: tuple[str, ...]
    partition_C: np.ndarray  # index of each member's partition, below Q
    limits: tuple[Limit, ...]  # K, on total weights
    prior_C: np.ndarray  # positive; sums to 1
    divergence: float  # the largest KL(w, prior) in nats; inf for no limit
    max_sources: int  # most partitions with weight; 0 for no limit
    plan: Plan
    open_C: np.ndarray  # members that may have weight: all, except in a `face`

    @functools.cached_property
    def matrix_KC(self) -> np.ndarray:
        """The linear limits: matrix w <= `bound_K`."""
        matrix_KC = np.zeros((len(self.limits), len(self.members)))
        for limit, row_C in zip(self.limits, matrix_KC, strict=True):
            row_C[list(limit.columns)] = limit.sign
        return matrix_KC

    @functools.cached_property
    def bound_K(self) -> np.ndarray:
        return np.array([x.sign * x.share for x in self.limits], float)

    def divergences(self, w_MC: np.ndarray) -> np.ndarray:
        """KL(w, prior) [M] in nats."""
        return (w_MC * (self.divergence_slope(w_MC) - 1)).sum(axis=1)

    def divergence_slope(self, w: np.ndarray) -> np.ndarray:
        """The derivatives of the divergence with respect to the weights."""
        return np.log(np.maximum(w, _SMALLEST) / self.prior_C) + 1

    def sources(self, w_C: np.ndarray) -> int:
        """The number of partitions with weight."""
        return len(np.unique(self.partition_C[w_C > TOLERANCE]))

    def contains(self, w_MC: np.ndarray, tolerance: float = REACHED) -> np.ndarray:
        """Which mixtures are allowed [M], within a tolerance."""
        over_MK = w_MC @ self.matrix_KC.T - self.bound_K
        inside_M = w_MC.min(axis=1) >= -tolerance
        inside_M &= np.abs(w_MC.sum(axis=1) - 1) <= tolerance
        inside_M &= over_MK.max(axis=1, initial=-1.0) <= tolerance
        inside_M &= w_MC[:, ~self.open_C].max(axis=1, initial=0.0) <= tolerance
        if np.isfinite(self.divergence):
            inside_M &= self.divergences(w_MC) - self.divergence <= tolerance
        if self.max_sources:
            count_M = np.array([self.sources(w_C) for w_C in w_MC])
            inside_M &= count_M <= self.max_sources
        return inside_M

    @functools.cached_property
    def center_C(self) -> np.ndarray:
        """An allowed mixture: if convex, the nearest to the prior (KL).

        Raises:
          Empty: there is none; says which limits contradict each other.
        """
        if self.max_sources:
            mass_Q = np.bincount(self.partition_C, self.prior_C)
            return self._heaviest(mass_Q).center_C
        w_C = np.where(self.open_C, self.prior_C, 0.0)
        linear = dataclasses.replace(self, divergence=np.inf)
        if not linear.contains(w_C[None], _ZERO)[0]:
            self._check_linear()
            c = self.open_C.sum()
            none = np.zeros((c, c)), np.zeros(c), np.zeros((0, c)), np.zeros(0)
            w_C, _ = self._solve(*none, (1.0, 0.0))
        least = float(self.divergences(w_C[None])[0])
        if least > self.divergence + TOLERANCE:
            raise Empty(divergence=least)
        return w_C

    def lowest(
        self, slope: Slope, at_C: np.ndarray, hessian_CC: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Minimizes the largest of P linear functions plus a quadratic.

        Args:
          slope: of the functions, at `at_C`.
          at_C: an allowed mixture of a convex set.
          hessian_CC: of the quadratic around `at_C`; positive semidefinite.

        Returns:
          The mixture, and the functions' multipliers [P], which sum to 1.
        """
        here = self.open_C
        slope_Pc, at_c = slope.slope_PC[:, here], at_C[here]
        hessian_cc = hessian_CC[np.ix_(here, here)]
        # A slope's mean is the same for all mixtures, and would hide small slopes.
        mean_P1 = slope_Pc.mean(axis=1, keepdims=True)
        flat_Pc = slope_Pc - mean_P1
        value_P = slope.value_P + mean_P1[:, 0] * (1 - at_c.sum())
        scale = max(float(np.ptp(flat_Pc, axis=1).max()), np.ptp(hessian_cc))
        scale = scale or 1.0  # all mixtures are alike
        w_C, price_P = self._solve(
            hessian_cc / scale,
            -hessian_cc @ at_c / scale,
            flat_Pc / scale,
            (flat_Pc @ at_c - value_P) / scale,
            (0.0, self.divergence) if np.isfinite(self.divergence) else None,
        )
        return self.cleaned(w_C), price_P / price_P.sum()

    def ranges(
        self,
        slope_PC: np.ndarray,
        hessian_PCC: np.ndarray,
        at_C: np.ndarray,
        room_P: np.ndarray,
    ) -> np.ndarray:
        """How far each weight can move while each of P quadratics stays low.

        Args:
          slope_PC: derivatives of the quadratics, at `at_C`.
          hessian_PCC: of each; positive semidefinite.
          at_C: an allowed mixture of a convex set.
          room_P: how far each may rise above its value at `at_C`; positive.

        Returns:
          The lowest and the highest weight of every member [C, 2]; the other weights
          move with it. NaN where the solver fails, which it does for tiny rises.
        """
        here, c = self.open_C, int(self.open_C.sum())
        slope_Pc, at_c = slope_PC[:, here] / room_P[:, None], at_C[here]
        hessian_PCC = hessian_PCC / room_P[:, None, None]
        cones = []
        for slope_c, hessian_CC in zip(slope_Pc, hessian_PCC, strict=True):
            curve_c, axis_cc = np.linalg.eigh(hessian_CC[np.ix_(here, here)])
            root_cc = np.sqrt(np.maximum(curve_c, 0.0))[:, None] * axis_cc.T
            # |root s|^2 / 2 <= 1 - slope s: a rotated second-order cone.
            left = 1 + slope_c @ at_c
            cones.append(
                (
                    np.vstack([-slope_c, -slope_c, root_cc]),
                    np.concatenate([[left + 0.5, left - 0.5], -root_cc @ at_c]),
                )
            )
        none = np.zeros((c, c)), np.zeros(c)
        far = (0.0, self.divergence) if np.isfinite(self.divergence) else None
        ends_CE = np.where(here[:, None], np.nan, 0.0) + np.zeros(2)
        ends_CE[at_C == 0, 0] = 0.0
        for place, column in enumerate(np.flatnonzero(here)):
            for end, choose in enumerate((min, max)):
                if np.isnan(ends_CE[column, end]):
                    toward_1c = (1 - 2 * end) * np.eye(c)[[place]]
                    with contextlib.suppress(RuntimeError):
                        w_C, _ = self._solve(*none, toward_1c, np.zeros(1), far, cones)
                        ends_CE[column, end] = choose(w_C[column], at_C[column])
        ends_CE[np.isnan(ends_CE).any(axis=1)] = np.nan
        return ends_CE

    def cleaned(self, w_C: np.ndarray) -> np.ndarray:
        """The mixture without weights below `LEAST`, if the limits allow that.

        Solvers and random draws leave a trace of members that they do not use.
        """
        small_C = (w_C > 0) & (w_C < LEAST)
        if not small_C.any():
            return w_C
        new_C = np.where(small_C, 0.0, w_C)
        new_C /= new_C.sum()
        if not self.contains(new_C[None])[0]:
            # A limit is in the way: the nearest mixture that keeps it.
            open_C, c = self.open_C & (new_C > 0), len(w_C)
            face = dataclasses.replace(self, max_sources=0, open_C=open_C)
            flat = Slope(np.zeros(1), np.zeros((1, c)))
            with contextlib.suppress(RuntimeError):
                new_C, _ = face.lowest(flat, new_C, np.eye(c))
        return new_C if self.contains(new_C[None])[0] else w_C

    def face(self, w_C: np.ndarray) -> "Feasible":
        """The convex part of the set that uses a mixture's partitions."""
        if self.max_sources:
            return self._face(np.bincount(self.partition_C, w_C) > 0)
        return self

    def heaviest_face(self, w_C: np.ndarray) -> "Feasible":
        """A convex part of the set with the partitions that a mixture uses most.

        The mixture need not be allowed. Where no mixture of these partitions is, the
        part around the center.
        """
        return self._face_or_center(np.bincount(self.partition_C, w_C))

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Draws random allowed mixtures [count, C].

        They are convex combinations of random corners, with Dirichlet weights of
        several concentrations: Dirichlet draws where nothing is limited.
        """
        if self.max_sources:
            size = min(count, _FACES), self.partition_C.max() + 1
            mass_FQ = generator.exponential(size=size)
            faces = [self._face_or_center(mass_Q) for mass_Q in mass_FQ]
            parts = np.array_split(np.arange(count), len(faces))
            pairs = zip(faces, parts, strict=True)
            draws = [face.sample(len(part), generator) for face, part in pairs]
            return generator.permutation(np.concatenate(draws))
        here, c = np.flatnonzero(self.open_C), len(self.members)
        if self.limits or np.isfinite(self.divergence):
            shape = min(count + 8, _CORNERS * len(here)), 1, c
            slopes = [Slope(np.zeros(1), x) for x in generator.standard_normal(shape)]
            zero_C, flat_CC = np.zeros(c), np.zeros((c, c))
            corners_VC = np.array([self.lowest(x, zero_C, flat_CC)[0] for x in slopes])
        else:
            corners_VC = np.eye(c)[here]
        few = min(len(corners_VC), len(here))
        w_MC = np.empty((count, c))
        which_M = generator.integers(len(_CONCENTRATIONS), size=count)
        for m, which in enumerate(which_M):
            chosen = generator.choice(len(corners_VC), few, replace=False)
            alpha = np.full(few, _CONCENTRATIONS[which])
            w_MC[m] = generator.dirichlet(alpha) @ corners_VC[chosen]
        return w_MC

    def _heaviest(self, mass_Q: np.ndarray) -> "Feasible":
        """The face of the partitions with the most mass, by the linear limits alone.

        Raises:
          Empty: they allow no face.
        """
        # Unknowns: weights, then choices. A weight is at most its choice.
        c, q = len(self.members), len(mass_Q)
        w_CN, chosen_QN = np.split(np.eye(c + q), [c])
        found = milp(
            -mass_Q @ chosen_QN,
            integrality=chosen_QN.sum(axis=0),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(w_CN.sum(axis=0), 1, 1),
                LinearConstraint(chosen_QN.sum(axis=0), 0, self.max_sources),
                LinearConstraint(w_CN - chosen_QN[self.partition_C], -np.inf, 0),
                LinearConstraint(self.matrix_KC @ w_CN, -np.inf, self.bound_K),
            ],
        )
        if found.x is None:
            raise Empty
        return self._face(found.x[c:] > 0.5)

    def _face(self, chosen_Q: np.ndarray) -> "Feasible":
        open_C = self.open_C & chosen_Q[self.partition_C]
        return dataclasses.replace(self, max_sources=0, open_C=open_C)

    def _face_or_center(self, mass_Q: np.ndarray) -> "Feasible":
        """The heaviest face or, if it is empty, the center's."""
        face = self._heaviest(mass_Q)
        try:
            _ = face.center_C
        except Empty:
            return self.face(self.center_C)
        return face

    def _check_linear(self) -> None:
        """Raises `Empty` if the linear limits contradict each other."""
        matrix_Kc = self.matrix_KC[:, self.open_C]
        k, c = matrix_Kc.shape
        # One slack for all limits. If it cannot be zero, the limits with a nonzero
        # multiplier contradict each other (Farkas).
        found = linprog(
            np.append(np.zeros(c), 1.0),
            np.hstack([matrix_Kc, -np.ones((k, 1))]),
            self.bound_K,
            np.append(np.ones(c), 0.0)[None],
            [1.0],
            options={
                f"{x}_feasibility_tolerance": _PRECISION for x in ("primal", "dual")
            },
        )
        if found.fun > _PRECISION:
            limits = np.flatnonzero(found.ineqlin.marginals < -1e-9)
            raise Empty(tuple(limits.tolist()))

    def _solve(
        self,
        hessian_cc: np.ndarray,
        linear_c: np.ndarray,
        piece_Pc: np.ndarray,
        bound_P: np.ndarray,
        far: tuple[float, float] | None,
        within: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Minimizes w hessian w / 2 + linear w + t on the linear limits.

        Args:
          piece_Pc, bound_P: piece w - t <= bound.
          far: a, b where divergence(w) - a t <= b; None for no such limit.
          within: a, b where a w + b is in the second-order cone.

        Returns:
          w_C, and the multipliers of the pieces [P].
        """
        here, c = self.open_C, len(linear_c)
        # Unknowns: weights, t, and each weight's part of the divergence.
        wide = c + 1 + c * (far is not None)
        w_cN, t_1N, part_cN = np.split(np.eye(wide), [c, c + 1])
        matrix_KN = self.matrix_KC[:, here] @ w_cN
        less_JN = np.vstack([piece_Pc @ w_cN - t_1N, matrix_KN, -w_cN])
        bound_J = np.concatenate([bound_P, self.bound_K, np.zeros(c)])
        if far is not None:
            less_JN = np.vstack([less_JN, part_cN.sum(axis=0) - far[0] * t_1N])
            bound_J = np.append(bound_J, far[1])
        # w log(w / r) <= part where (-part, w, r) is in the exponential cone.
        cones = len(part_cN)
        cone_c3N = np.stack([part_cN, -w_cN[:cones], 0 * part_cN], axis=1)
        room_c3 = np.outer(self.prior_C[here][:cones], [0.0, 0.0, 1.0])
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = _PRECISION
        found = clarabel.DefaultSolver(
            sparse.csc_matrix(w_cN.T @ np.triu(hessian_cc) @ w_cN),
            linear_c @ w_cN + t_1N[0],
            sparse.csc_matrix(
                np.vstack(
                    [w_cN.sum(axis=0), less_JN, cone_c3N.reshape(-1, wide)]
                    + [-a @ w_cN for a, _ in within]
                )
            ),
            np.concatenate([[1.0], bound_J, room_c3.ravel(), *(b for _, b in within)]),
            [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(len(bound_J))]
            + [clarabel.ExponentialConeT()] * cones
            + [clarabel.SecondOrderConeT(len(b)) for _, b in within],
            settings,
        ).solve()
        w_c = np.array(found.x)[:c]
        w_c = np.where(w_c > _ZERO, w_c, 0.0)
        if not abs(w_c.sum() - 1) < 0.01:
            raise RuntimeError(f"conic program: no solution ({found.status})")
        w_C = np.zeros(len(self.members))
        w_C[here] = w_c / w_c.sum()
        return w_C, np.array(found.z)[1 : 1 + len(bound_P)]
