"""The loss over mixtures that a search minimizes, what it costs, and its budget.

The unit of cost is one mixture on all windows that the objective needs. A value costs
one unit; a value with derivatives costs three, for a forward and a backward pass.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from jaxsim.scoring.gradient import Jacobian
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import PredictorScores, bits_of, bits_per_byte
from jaxsim.scoring.table import Mixtures, mixture_key
from jaxsim.search.objective import Objective, Slope

VALUE_COST = 1.0
GRADIENT_COST = 3.0


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


class Correction(Protocol):
    """What to add to the bits per byte of merges, on the windows `rows`.

    A search knows nothing of reference runs. This tells it how far training is
    expected to lie from a merge.
    """

    def shift(
        self, w_MC: np.ndarray, bits_MD: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """The shift [M, D] for mixtures with these bits per byte."""

    def slope(
        self, w_C: np.ndarray, bits_DC: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """The derivatives of the shift [D, C], from those of the bits."""


class MergeLoss(LossOracle):
    """The penalized objective of merges on dev text, by the members' weights.

    It keeps the losses of every mixture by window, so that the statistics at the end
    need no further calls.

    Args:
      scorer: of the workdir.
      objective: what to minimize, on `rows`.
      rows: windows that are evaluated, indices into the evaluation set.
      budget: evaluations allowed; one is one mixture on all of `rows`.
      correction: from merges to training, if reference runs exist.
    """

    def __init__(
        self,
        scorer: Scorer,
        objective: Objective,
        rows: np.ndarray,
        budget: float,
        correction: Correction | None = None,
    ) -> None:
        super().__init__(scorer.members, self._merged, self._derived, budget)
        e = scorer.evaluation
        self._scorer = scorer
        self._objective = objective
        self._tokens = int(e.count_R[rows].sum())
        self._nll: dict[bytes, np.ndarray] = {}
        self.bytes_D = np.bincount(e.domain_R[rows], e.bytes_R[rows], len(e.domains))
        self.correction = correction
        self.rows = rows

    @property
    def spent_tokens(self) -> int:
        """What was spent, in scored tokens."""
        return round(self.spent * self._tokens)

    @property
    def nll_MR(self) -> np.ndarray:
        """Nats of the mixtures in `history` on `rows`; [M, R]."""
        nll_MR = [self._nll[key] for key in self._values]
        return np.array(nll_MR).reshape(-1, len(self.rows))

    def know(self, table: Mixtures, known: PredictorScores) -> None:
        """Takes in losses that are known already, if they cover all of `rows`."""
        column = {row: i for i, row in enumerate(known.rows)}
        if not all(row in column for row in self.rows):
            return
        nll_MR = known.nll_MR[:, [column[row] for row in self.rows]]
        usable = np.isfinite(nll_MR).all(axis=1) & (table.scale_M == 1)
        if usable.any():
            w_MC = np.asarray(table.w_MC, np.float64)[usable]
            self._keep(w_MC, self._take(w_MC, nll_MR[usable]))

    def corrected(
        self, w_MC: np.ndarray, bits_MD: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """The bits per byte that training is expected to give; [M, D]."""
        if self.correction is None:
            return bits_MD
        return bits_MD + self.correction.shift(w_MC, bits_MD, rows)

    def slope_of(self, w_C: np.ndarray, found: Jacobian) -> Slope:
        """The objective's pieces at a mixture, from losses and their derivatives."""
        bits_DC = bits_per_byte(found.dw_DC, self.bytes_D[:, None])
        if self.correction is not None:
            bits_DC = bits_DC + self.correction.slope(w_C, bits_DC, self.rows)
        bits_1D = self._bits(w_C[None], found.nll_R[None])
        return self._objective.pieces(bits_1D[0], bits_DC)

    def _bits(self, w_MC: np.ndarray, nll_MR: np.ndarray) -> np.ndarray:
        """Corrected bits per byte [M, D]; NaN for domains that do not matter."""
        losses = PredictorScores(self.rows, nll_MR)
        bits_MD = bits_of(self._scorer.evaluation, losses, "dev")
        return self.corrected(w_MC, bits_MD, self.rows)

    def _merged(self, w_MC: np.ndarray) -> np.ndarray:
        count = len(w_MC)
        names = tuple(f"candidate {i + 1}" for i in range(count))
        kinds = ("candidate",) * count
        table = Mixtures(self.members, names, kinds, w_MC, np.ones(count))
        scored = self._scorer.predictors.merge("", table, self.rows)
        return self._take(w_MC, scored.nll_MR)

    def _derived(self, w_C: np.ndarray) -> Slope:
        found = self._scorer.predictors.jacobian(w_C, 1.0, self.rows)
        self._nll.setdefault(mixture_key(w_C), found.nll_R.astype(np.float32))
        return self.slope_of(w_C, found)

    def _take(self, w_MC: np.ndarray, nll_MR: np.ndarray) -> np.ndarray:
        """Keeps the losses, and gives their values [M]."""
        for w_C, nll_R in zip(w_MC, nll_MR, strict=True):
            self._nll.setdefault(mixture_key(w_C), nll_R.astype(np.float32))
        return self._objective.penalised(self._bits(w_MC, nll_MR))
