"""Losses of mixtures of token distributions: convex and quick to compute."""

import numpy as np
from scipy.optimize import minimize

from jaxsim.search.feasible import Feasible
from jaxsim.search.objective import Objective, Slope
from jaxsim.search.optimize import LossOracle


class Mixed:
    """bits_d(w) = -mean over tokens t of log2 sum_c w_c p_ct, three domains."""

    def __init__(self, members: int, kind: str, seed: int):
        generator = np.random.default_rng(seed)
        size = (3, 200, members)
        liked_DC = generator.normal(0, 1, (3, 1, members))
        logit_DTC = generator.normal(-1, 0.8, size) + liked_DC
        self.p_DTC = 1 / (1 + np.exp(-logit_DTC))
        self.objective = Objective.of_domains(
            domains=("a", "b", "c"),
            weights_D=np.array([0.5, 0.3, 0.2]),
            kind="worst" if kind == "worst" else "mean",
            base_D=np.array([1.9, 2.0, 2.1]),
            max_regression_D=np.array(
                [np.inf, np.inf, -0.15 if kind == "max_regression" else np.inf]
            ),
        )
        self.asked: list[np.ndarray] = []

    def bits(self, w_C: np.ndarray) -> np.ndarray:
        return -np.log2(self.p_DTC @ w_C).mean(axis=1)

    def values(self, w_MC: np.ndarray) -> np.ndarray:
        self.asked += list(w_MC)
        return self.objective.penalised(np.array([self.bits(w) for w in w_MC]))

    def slope(self, w_C: np.ndarray) -> Slope:
        self.asked.append(w_C)
        share_DTC = self.p_DTC / (self.p_DTC @ w_C)[:, :, None]
        bits_DC = -share_DTC.mean(axis=1) / np.log(2)
        return self.objective.pieces(self.bits(w_C), bits_DC)

    def oracle(self, budget: float = 1e9) -> LossOracle:
        return LossOracle(self.values, self.slope, budget)

    def lowest_value(self, feasible: Feasible) -> float:
        """The minimum by another solver, on the epigraph, without a budget."""
        c = self.p_DTC.shape[2]
        limits = [
            (x.sign * np.isin(np.arange(c), x.columns), x.sign * x.share)
            for x in feasible.limits
        ]

        def above(z: np.ndarray) -> np.ndarray:
            return z[c] - self.slope(np.maximum(z[:c], 0)).value_P

        def above_slope(z: np.ndarray) -> np.ndarray:
            found = self.slope(np.maximum(z[:c], 0))
            ones_P1 = np.ones((len(found.value_P), 1))
            return np.hstack([-found.slope_PC, ones_P1])

        def room(z: np.ndarray) -> np.ndarray:
            left = [bound - row_C @ z[:c] for row_C, bound in limits]
            if np.isfinite(feasible.divergence):
                far = feasible.divergences(np.maximum(z[None, :c], 0))[0]
                left.append(feasible.divergence - far)
            return np.array([*left, 1.0])

        start_C = feasible.center_C
        found = minimize(
            lambda z: z[c],
            np.append(start_C, self.values(start_C[None])[0]),
            jac=lambda z: np.eye(c + 1)[c],
            bounds=[(0, 1)] * c + [(None, None)],
            constraints=[
                {"type": "eq", "fun": lambda z: z[:c].sum() - 1},
                {"type": "ineq", "fun": above, "jac": above_slope},
                {"type": "ineq", "fun": room},
            ],
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 2000},
        )
        return float(found.fun)
