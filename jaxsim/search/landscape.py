"""A loss over mixtures that costs something to look at, and a budget.

The unit is one mixture on all windows that the objective needs. Values cost
one unit each, values with derivatives three: a forward and a backward pass.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

VALUE_COST = 1.0
GRADIENT_COST = 3.0

Values = Callable[[np.ndarray], np.ndarray]


class BudgetSpent(Exception):
    """Raised before a call that would cost more than is left."""


@dataclasses.dataclass(frozen=True)
class Slope:
    """The objective at one mixture as the largest of P smooth pieces.

    Attributes:
      value_P: of the pieces, in the objective's units.
      slope_PC: their derivatives with respect to the weights, which count as
        free coordinates.
    """

    value_P: np.ndarray
    slope_PC: np.ndarray

    @property
    def value(self) -> float:
        return float(self.value_P.max())


class Landscape(Protocol):
    """What methods minimise. Asking the same again costs nothing.

    Attributes:
      members: names of the C coordinates.
      budget, spent: in units.
    """

    @property
    def members(self) -> tuple[str, ...]: ...
    @property
    def budget(self) -> float: ...
    @property
    def spent(self) -> float: ...

    def values(self, w_MC: np.ndarray) -> np.ndarray:
        """The penalised objective [M], for one unit a mixture.

        Raises:
          BudgetSpent: nothing was computed; more is asked than is left.
        """

    def slope(self, w_C: np.ndarray) -> Slope:
        """Value and derivatives, for three units.

        Raises:
          BudgetSpent: nothing was computed.
        """

    @property
    def history(self) -> tuple[np.ndarray, np.ndarray]:
        """All mixtures asked so far [M, C] with their values [M], in order."""


class Ledger:
    """A `Landscape` over two functions: it counts, remembers and refuses.

    Args:
      members: names of the C coordinates.
      values: [M, C] to [M].
      slope: [C] to `Slope`.
      budget: in units.
    """

    def __init__(
        self,
        members: tuple[str, ...],
        values: Values,
        slope: Callable[[np.ndarray], Slope],
        budget: float,
    ):
        self.members = members
        self.budget = budget
        self.spent = 0.0
        self._compute_values = values
        self._compute_slope = slope
        self._values: dict[bytes, tuple[np.ndarray, float]] = {}
        self._slopes: dict[bytes, Slope] = {}

    def values(self, w_MC: np.ndarray) -> np.ndarray:
        new = {
            key: w_C for w_C in w_MC if (key := _key(w_C)) not in self._values
        }
        if new:
            self._pay(VALUE_COST * len(new))
            value_M = self._compute_values(np.array(list(new.values())))
            for (key, w_C), value in zip(new.items(), value_M, strict=True):
                self._values[key] = w_C.copy(), float(value)
        return np.array([self._values[_key(w_C)][1] for w_C in w_MC])

    def slope(self, w_C: np.ndarray) -> Slope:
        key = _key(w_C)
        if key not in self._slopes:
            self._pay(GRADIENT_COST)
            found = self._slopes[key] = self._compute_slope(w_C)
            self._values.setdefault(key, (w_C.copy(), found.value))
        return self._slopes[key]

    @property
    def history(self) -> tuple[np.ndarray, np.ndarray]:
        asked = list(self._values.values())
        w_MC = np.array([w_C for w_C, _ in asked])
        return (
            w_MC.reshape(-1, len(self.members)),
            np.array([value for _, value in asked]),
        )

    def _pay(self, cost: float) -> None:
        if self.spent + cost > self.budget:
            raise BudgetSpent(
                f"{cost:g} units asked, {self.budget - self.spent:g} left"
            )
        self.spent += cost


def _key(w_C: np.ndarray) -> bytes:
    """The same for weights that differ by rounding only."""
    return np.round(w_C, 12).tobytes()
