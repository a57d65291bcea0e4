"""The loss over mixtures that a search minimizes, what it costs, and a budget.

The unit is one mixture on all windows that the objective needs. A value costs
one unit, a value with derivatives three: a forward and a backward pass.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from jaxsim.scoring.gradient import Jacobian
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import PredictorScores, bits_of
from jaxsim.scoring.table import Mixtures
from jaxsim.search.objective import Objective

VALUE_COST = 1.0
GRADIENT_COST = 3.0


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


class LossOracle:
    """Gives values and derivatives of a loss until a budget is spent.

    The same question costs nothing a second time.

    Args:
      members: names of the C coordinates.
      values: [M, C] to [M].
      slope: [C] to `Slope`.
      budget: in units.

    Attributes:
      spent: units so far.
      tell: may be set to hear of units that were spent.
    """

    def __init__(
        self,
        members: tuple[str, ...],
        values: Callable[[np.ndarray], np.ndarray],
        slope: Callable[[np.ndarray], Slope],
        budget: float,
    ) -> None:
        self.members = members
        self.budget = budget
        self.spent = 0.0
        self.tell: Callable[[int], None] = lambda _: None
        self._compute_values = values
        self._compute_slope = slope
        self._values: dict[bytes, tuple[np.ndarray, float]] = {}
        self._slopes: dict[bytes, Slope] = {}

    def values(self, w_MC: np.ndarray) -> np.ndarray:
        """The penalized objective [M].

        Raises:
          BudgetSpent: nothing was computed; more is asked than is left.
        """
        new = {key: w_C for w_C in w_MC if (key := key_of(w_C)) not in self._values}
        if new:
            cost = VALUE_COST * len(new)
            self._check(cost)
            new_MC = np.array(list(new.values()))
            self._keep(new_MC, self._compute_values(new_MC))
            self._pay(cost)
        return np.array([self._values[key_of(w_C)][1] for w_C in w_MC])

    def slope(self, w_C: np.ndarray) -> Slope:
        """Value and derivatives with respect to the weights.

        Raises:
          BudgetSpent: nothing was computed.
        """
        key = key_of(w_C)
        if key not in self._slopes:
            self._check(GRADIENT_COST)
            found = self._slopes[key] = self._compute_slope(w_C)
            self._keep(w_C[None], np.array([found.value]))
            self._pay(GRADIENT_COST)
        return self._slopes[key]

    @property
    def history(self) -> tuple[np.ndarray, np.ndarray]:
        """All mixtures so far [M, C] with their values [M], in order."""
        w_MC = np.array([w_C for w_C, _ in self._values.values()])
        value_M = np.array([value for _, value in self._values.values()])
        return w_MC.reshape(-1, len(self.members)), value_M

    def _keep(self, w_MC: np.ndarray, value_M: np.ndarray) -> None:
        for w_C, value in zip(w_MC, value_M, strict=True):
            self._values.setdefault(key_of(w_C), (w_C.copy(), float(value)))

    def _check(self, cost: float) -> None:
        if self.spent + cost > self.budget:
            raise BudgetSpent(
                f"{self.spent:g} of {self.budget:g} evaluations are spent, "
                f"and {cost:g} more are asked for"
            )

    def _pay(self, cost: float) -> None:
        self.spent += cost
        self.tell(round(cost))


class Correction(Protocol):
    """What to add to bits per byte of merges, on the windows `rows`.

    A search knows no reference runs and no statistics of them: it is handed
    something that says how far training lies from a merge.
    """

    def shift(
        self, w_MC: np.ndarray, bits_MD: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """[M, D] for mixtures with these bits per byte."""

    def slope(
        self, w_C: np.ndarray, bits_DC: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """[D, C] derivatives of the shift, from those of the bits."""


def corrected(
    correction: Correction | None,
    w_MC: np.ndarray,
    bits_MD: np.ndarray,
    rows: np.ndarray,
) -> np.ndarray:
    """[M, D] bits per byte that training is expected to give."""
    if correction is None:
        return bits_MD
    return bits_MD + correction.shift(w_MC, bits_MD, rows)


class MergeLoss(LossOracle):
    """The penalized objective of merges on dev text, by the members' weights.

    The losses of every mixture are kept by window, so that the statistics at
    the end need no further call.

    Args:
      scorer: of the workdir.
      objective: what is to be small, on `rows`.
      rows: windows that are evaluated, indices into the evaluation set.
      budget: evaluations allowed; one is one mixture on all of `rows`.
      correction: of merges towards training, once reference runs exist.
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
        self._tokens = int(e.count_R[rows].sum())
        self._bytes_D = np.bincount(e.domain_R[rows], e.bytes_R[rows], len(e.domains))
        self.objective = objective
        self.correction = correction
        self.rows = rows
        self._nll: dict[bytes, np.ndarray] = {}

    @property
    def spent_tokens(self) -> int:
        """What was spent, in scored tokens."""
        return round(self.spent * self._tokens)

    @property
    def nll_MR(self) -> np.ndarray:
        """[M, R] nats of the mixtures in `history` on `rows`."""
        nll_MR = [self._nll[key] for key in self._values]
        return np.array(nll_MR).reshape(-1, len(self.rows))

    def know(self, table: Mixtures, known: PredictorScores) -> None:
        """Takes in losses of mixtures that were scored for another reason.

        Only those of mixtures that were scored on all of `rows`.
        """
        column = {row: i for i, row in enumerate(known.rows)}
        if not all(row in column for row in self.rows):
            return
        nll_MR = known.nll_MR[:, [column[row] for row in self.rows]]
        usable = np.isfinite(nll_MR).all(axis=1) & (table.scale_M == 1)
        if usable.any():
            w_MC = np.asarray(table.w_MC, np.float64)[usable]
            self._keep(w_MC, self._take(w_MC, nll_MR[usable]))

    def slope_of(self, w_C: np.ndarray, found: Jacobian) -> Slope:
        """The pieces at a mixture, from its losses and their derivatives."""
        bits_1D = self.bits(found.nll_R[None])
        bits_DC = self.per_byte(found.dw_DC)
        if self.correction is not None:
            shift_DC = self.correction.slope(w_C, bits_DC, self.rows)
            bits_1D = corrected(self.correction, w_C[None], bits_1D, self.rows)
            bits_DC = bits_DC + shift_DC
        return Slope(*self.objective.pieces(bits_1D[0], bits_DC))

    def bits(self, nll_MR: np.ndarray) -> np.ndarray:
        """[M, D] bits per byte; NaN for domains that do not matter."""
        losses = PredictorScores(self.rows, nll_MR)
        return bits_of(self._scorer.evaluation, losses, "dev")

    def per_byte(self, nats_DX: np.ndarray) -> np.ndarray:
        """Nats of each domain [D, ...] as bits per byte of these windows."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return nats_DX / (self._bytes_D[:, None] * np.log(2.0))

    def _merged(self, w_MC: np.ndarray) -> np.ndarray:
        count = len(w_MC)
        table = Mixtures(
            self.members,
            tuple(f"candidate {i + 1}" for i in range(count)),
            ("candidate",) * count,
            w_MC,
            np.ones(count),
        )
        scored = self._scorer.predictors.merge("", table, self.rows)
        return self._take(w_MC, scored.nll_MR)

    def _derived(self, w_C: np.ndarray) -> Slope:
        found = self._scorer.predictors.jacobian(w_C, 1.0, self.rows)
        self._nll.setdefault(key_of(w_C), found.nll_R.astype(np.float32))
        return self.slope_of(w_C, found)

    def _take(self, w_MC: np.ndarray, nll_MR: np.ndarray) -> np.ndarray:
        """Keeps the losses; their values [M]."""
        for w_C, nll_R in zip(w_MC, nll_MR, strict=True):
            self._nll.setdefault(key_of(w_C), nll_R.astype(np.float32))
        return self.objective.penalised(
            corrected(self.correction, w_MC, self.bits(nll_MR), self.rows)
        )


def key_of(w_C: np.ndarray) -> bytes:
    """The same for weights that differ by rounding only."""
    return np.round(w_C, 12).tobytes()
