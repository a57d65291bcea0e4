"""RegMix's regressor (arXiv 2407.01492): boosted trees on weights alone.

A rival of jaxsim's predictors in recorded comparisons. Cross-validation over
mixtures says how much it may trust few runs, and where there is nothing to
learn it predicts the mean loss. All of it is deterministic.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
import sklearn
from sklearn.ensemble import GradientBoostingRegressor

from jaxsim.validation.baselines import (
    Regressor,
    checked,
    constant,
    groups_of,
    held_out_error,
    spread_of,
)

FEWEST = 5  # distinct mixtures that trees take
DEPTHS = (2, 4)
LEAVES = (1, 3, 8)  # runs a leaf; at most a twentieth of all
RATES = {0.1: 100, 0.05: 300}  # learning rate: trees, at most
ENOUGH = 50  # runs that repay asking whether a slower rate is better


@dataclasses.dataclass(frozen=True)
class Trees:
    """Boosted trees that learned losses as `spread`s above `mean`."""

    model: Any
    mean: float
    spread: float

    def predict(self, w_MC: np.ndarray) -> np.ndarray:
        """Losses [M] float64 of any mixtures."""
        predicted_M: np.ndarray = self.model.predict(w_MC)
        return self.mean + self.spread * predicted_M


def fit_trees(w_MC: np.ndarray, loss_M: np.ndarray) -> Regressor:
    """Boosted trees whose number, depth, leaves and rate folds choose.

    RegMix uses LightGBM; these are scikit-learn's, which bring their OpenMP.
    Fewer than FEWEST distinct mixtures give the mean loss.

    Args:
      w_MC: weights of M runs on C partitions.
      loss_M: their losses, of any sign and in any unit.

    Raises:
      ValueError: no runs, other than one loss a run, or not finite.
    """
    w_MC, loss_M = checked(w_MC, loss_M)
    mean, spread = loss_M.mean(), spread_of(loss_M)
    group_M = groups_of(w_MC)
    if not spread or group_M.max() + 1 < FEWEST:
        return constant(w_MC, mean)
    y_M = (loss_M - mean) / spread

    def learn(where_M: np.ndarray, options: dict[str, Any]) -> Any:
        model = GradientBoostingRegressor(subsample=0.5, random_state=0, **options)
        # Of few runs, checks inside every tree take a third of the time.
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            return model.fit(w_MC[where_M], y_M[where_M])

    def stopped(options: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        """The least error over the number of trees, and that number."""

        def residuals(seen_M: np.ndarray, other_M: np.ndarray) -> np.ndarray:
            stages = learn(seen_M, options).staged_predict(w_MC[other_M])
            return np.stack(list(stages), axis=1) - y_M[other_M, None]

        error_S = held_out_error(group_M, residuals)
        trees = int(np.argmin(error_S))
        return float(error_S[trees]), options | {"n_estimators": trees + 1}

    fast, slow = RATES
    leaves = [n for n in LEAVES if n == 1 or 20 * n <= len(y_M)]
    tried = [
        stopped(_options(fast, depth, leaf))
        for depth, leaf in itertools.product(DEPTHS, leaves)
    ]
    best = min(tried, key=lambda result: result[0])
    if len(y_M) >= ENOUGH:
        depth, leaf = best[1]["max_depth"], best[1]["min_samples_leaf"]
        slower = stopped(_options(slow, depth, leaf))
        best = min(best, slower, key=lambda result: result[0])
    return Trees(learn(np.full(len(y_M), True), best[1]), mean, spread)


def _options(rate: float, depth: int, leaf: int) -> dict[str, Any]:
    return {
        "learning_rate": rate,
        "n_estimators": RATES[rate],
        "max_depth": depth,
        "min_samples_leaf": leaf,
    }
