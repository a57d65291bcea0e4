"""A regression of losses on weights, from the literature, as a baseline.

Ye et al. (arXiv 2403.16952) and Olmix (2602.12237) fit one log-linear function
per domain to the losses of trained mixtures. All of it is deterministic.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from scipy.optimize import least_squares

from jaxsim.validation.measured import PoolLosses, PredictionTable

FOLDS = 5
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
BENDS = (0.1, 1.0)  # starts: nearly straight, and one spread above c
LEAST_BEND, MOST_BEND = 1e-3, 100.0
MOST_EXPONENT = 50.0  # keeps a far extrapolation finite


class Regressor(Protocol):
    """A fitted regression."""

    def predict(self, w_MC: np.ndarray) -> np.ndarray:
        """Predicted losses [M] float64, in the unit of those fitted."""


Fit = Callable[[np.ndarray, np.ndarray], Regressor]


def from_weights(
    fit: Fit, basis: PoolLosses, held_out: PredictionTable, fitted: PredictionTable
) -> np.ndarray:
    """Bits per byte [M, D] that a baseline predicts for the held-out runs.

    It is fitted on exactly the runs that the calibration is fitted on, and on
    the members if they are as long as the runs.
    """
    w_MC, reference_MD = fitted.w_MC, fitted.dev["reference"]
    if basis.singles_known:
        there = np.isfinite(basis.dev_CD).all(axis=1)
        w_MC = np.concatenate([w_MC, np.eye(len(basis.members))[there]])
        reference_MD = np.concatenate([reference_MD, basis.dev_CD[there]])
    bits_MD = np.full((len(held_out), reference_MD.shape[1]), np.nan)
    for d in np.flatnonzero(np.isfinite(reference_MD).all(axis=0)):
        bits_MD[:, d] = fit(w_MC, reference_MD[:, d]).predict(held_out.w_MC)
    return bits_MD


@dataclasses.dataclass(frozen=True)
class LogLinear:
    """loss = c + exp(a + t.w), in terms that can all be identified.

    Weights sum to 1, so a constant moves freely between a and t; and where the
    function is nearly straight, c, a and t grow without bound. With
    x = w - mean_C the same function is level + (exp(bend slope.x) - 1) / bend:
    c is level - 1 / bend, t is bend slope, and a bend near 0 is a straight line.
    """

    mean_C: np.ndarray  # the mixture where x is 0
    slope_C: np.ndarray  # of the loss at that mixture, per unit of weight
    level: float  # the loss there
    bend: float  # one over the height of the level above c; positive

    def predict(self, w_MC: np.ndarray) -> np.ndarray:
        """Losses [M] float64 of any mixtures."""
        rise_M = (np.asarray(w_MC, float) - self.mean_C) @ self.slope_C
        bent_M: np.ndarray = self.level + _bent(rise_M, self.bend)
        return bent_M


def fit_log_linear(w_MC: np.ndarray, loss_M: np.ndarray) -> LogLinear:
    """The log-linear function by least squares; folds over mixtures choose the ridge.

    Where there is nothing to learn, the mean loss is predicted.

    Args:
      w_MC: weights of M runs on C partitions; every row sums to 1.
      loss_M: their losses, of any sign and in any unit.

    Raises:
      ValueError: no runs, not one loss per run, or values that are not finite.
    """
    w_MC, loss_M = checked(w_MC, loss_M)
    mean, spread = loss_M.mean(), spread_of(loss_M)
    group_M = groups_of(w_MC)
    if not spread or group_M.max() < 1:
        return constant(w_MC, mean)
    y_M = (loss_M - mean) / spread  # so that ridges serve any unit

    def error(ridge: float) -> float:
        return held_out_error(
            group_M,
            lambda seen_M, other_M: (
                _least_squares(w_MC[seen_M], y_M[seen_M], ridge).predict(w_MC[other_M])
                - y_M[other_M]
            ),
        )

    best = _least_squares(w_MC, y_M, min(RIDGES, key=error))
    level = mean + spread * best.level
    return LogLinear(best.mean_C, spread * best.slope_C, level, best.bend / spread)


def _least_squares(w_MC: np.ndarray, y_M: np.ndarray, ridge: float) -> LogLinear:
    """The function that minimizes |y - f(w)|^2 + penalty, from several starts.

    The penalty, ridge (1 + bend^2) |slope|^2, is a ridge on the slopes of a straight
    function and on t of a bent one: with either alone, the other would cost nothing.
    """
    mean_C = w_MC.mean(axis=0)
    x_MC = w_MC - mean_C
    m, c = x_MC.shape
    one_CC = np.eye(c)
    line_C = np.linalg.solve(x_MC.T @ x_MC + ridge * one_CC, x_MC.T @ y_M)

    def residuals(x: np.ndarray) -> np.ndarray:
        level, bend, slope_C = x[0], x[1], x[2:]
        penalty_C = np.sqrt(ridge) * np.hypot(1, bend) * slope_C
        return np.append(level + _bent(x_MC @ slope_C, bend) - y_M, penalty_C)

    def jacobian(x: np.ndarray) -> np.ndarray:
        bend, slope_C = x[1], x[2:]
        rise_M = x_MC @ slope_C
        up_M = np.exp(np.minimum(bend * rise_M, MOST_EXPONENT))
        weight = np.sqrt(ridge) * np.hypot(1, bend)
        by = np.zeros((m + c, 2 + c))
        by[:m, 0] = 1
        by[:m, 1] = (rise_M * up_M - _bent(rise_M, bend)) / bend
        by[:m, 2:] = up_M[:, None] * x_MC
        by[m:, 1] = ridge * bend / weight * slope_C
        by[m:, 2:] = weight * one_CC
        return by

    low = np.full(2 + c, -np.inf)
    high = -low
    low[1], high[1] = LEAST_BEND, MOST_BEND
    starts = (np.concatenate([[y_M.mean(), bend], line_C]) for bend in BENDS)
    found = (
        least_squares(residuals, start, jacobian, bounds=(low, high), max_nfev=100)
        for start in starts
    )
    best = min(found, key=lambda result: result.cost).x
    return LogLinear(mean_C, best[2:], float(best[0]), float(best[1]))


def _bent(rise_M: np.ndarray, bend: float) -> np.ndarray:
    """A straight rise, bent to an exponential of the same slope at 0."""
    exponent_M = np.minimum(bend * rise_M, MOST_EXPONENT)
    bent_M: np.ndarray = np.expm1(exponent_M) / bend
    return bent_M


def constant(w_MC: np.ndarray, level: float) -> LogLinear:
    c = w_MC.shape[1]
    return LogLinear(np.full(c, 1 / c), np.zeros(c), float(level), 1.0)


def checked(w_MC: np.ndarray, loss_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    w_MC, loss_M = np.asarray(w_MC, float), np.asarray(loss_M, float)
    if w_MC.ndim != 2 or loss_M.shape != w_MC.shape[:1] or not loss_M.size:
        raise ValueError(f"weights {w_MC.shape}, losses {loss_M.shape}")
    if not (np.isfinite(w_MC).all() and np.isfinite(loss_M).all()):
        raise ValueError("weights and losses must be finite")
    return w_MC, loss_M


def spread_of(loss_M: np.ndarray) -> float:
    """Standard deviation; 0 if it is only rounding error."""
    spread = float(loss_M.std())
    return spread if spread > 1e-12 * np.abs(loss_M).max() else 0.0


def groups_of(w_MC: np.ndarray) -> np.ndarray:
    """[M] int: equal for equal mixtures, from 0 and shuffled.

    A run and its replicate must not be on both sides of a fold. They are numbered
    as they first occur, so that the order of the columns does not matter.
    """
    _, first_G, group_M = np.unique(
        w_MC, axis=0, return_index=True, return_inverse=True
    )
    number_G = np.empty(len(first_G), int)
    number_G[np.argsort(first_G)] = np.random.default_rng(0).permutation(len(first_G))
    numbers_M: np.ndarray = number_G[group_M.ravel()]
    return numbers_M


def held_out_error(
    group_M: np.ndarray, residuals: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Any:
    """Mean squared residual over held-out runs, for each column.

    Args:
      group_M: of the runs; two groups or more.
      residuals: of held-out runs, from [M] bool of the runs seen and held out.
    """
    count = min(FOLDS, int(group_M.max()) + 1)
    folds = [group_M % count == fold for fold in range(count)]
    off = np.concatenate([residuals(~held_M, held_M) for held_M in folds])
    return np.mean(off**2, axis=0)
