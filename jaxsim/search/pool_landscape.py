"""The loss of merges of a pool on select text, as searches see it.

Every mixture that was ever asked for is kept with its losses by window, so the
same one costs nothing twice, a race can look at a part of the windows and go
on later, and the final statistics need no further call.
"""

from collections.abc import Callable, Sequence

import numpy as np

from jaxsim.mixture.gradient import Jacobian
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.scores import ProxyScores, domain_sums
from jaxsim.mixture.table import Mixtures
from jaxsim.search.correction import Correction, corrected
from jaxsim.search.landscape import GRADIENT_COST, BudgetSpent, Slope
from jaxsim.search.objective import Objective


class PoolLandscape:
    """The penalised objective over the weights of a pool's members.

    Args:
      scorer: of the workdir.
      objective: what is to be small.
      rows: windows that are evaluated, indices into the evaluation set.
      budget: evaluations allowed; one is one mixture on all of `rows`.
      correction: of merges towards training, once truths exist.

    `tell` may be set to hear of every evaluation that is done.
    """

    def __init__(
        self,
        scorer: Scorer,
        objective: Objective,
        rows: np.ndarray,
        budget: float,
        correction: Correction | None = None,
    ) -> None:
        self._scorer = scorer
        e = scorer.evaluation
        self._tokens_R = e.count_R[rows]
        self._bytes_D = np.bincount(
            e.domain_R[rows], e.bytes_R[rows], len(e.domains)
        )
        self.objective = objective
        self.correction = correction
        self.rows = rows
        self.budget = budget
        self.spent = 0.0
        self.tell: Callable[[int], None] = lambda _: None
        self.members = scorer.members
        self._told = 0
        self._at: dict[bytes, int] = {}
        self._w: list[np.ndarray] = []
        self._nll: list[np.ndarray] = []
        self._slopes: dict[int, Slope] = {}

    @property
    def spent_tokens(self) -> int:
        """The same in scored tokens."""
        return round(self.spent * int(self._tokens_R.sum()))

    @property
    def history(self) -> tuple[np.ndarray, np.ndarray]:
        """[M, C] mixtures with all their windows, and their values [M]."""
        w_MC, nll_MR = self.complete()
        return w_MC, self._values(w_MC, nll_MR)

    def complete(self) -> tuple[np.ndarray, np.ndarray]:
        """[M, C] mixtures with all their windows, and their [M, R] nats."""
        full = [m for m, nll_R in enumerate(self._nll) if _known(nll_R).all()]
        empty = np.zeros((0, len(self.members)))
        w_MC = np.array([self._w[m] for m in full]).reshape(-1, empty.shape[1])
        nll_MR = np.array([self._nll[m] for m in full])
        return w_MC, nll_MR.reshape(-1, len(self.rows))

    def values(self, w_MC: np.ndarray) -> np.ndarray:
        """[M] of the objective on all windows.

        Raises:
          BudgetSpent: before it would cost more than there is.
        """
        nll_MR = self.nll(w_MC, np.arange(len(self.rows)))
        return self._values(np.asarray(w_MC), nll_MR)

    def nll(self, w_MC: np.ndarray, part: np.ndarray) -> np.ndarray:
        """[M, len(part)] nats of the windows `rows[part]`.

        Raises:
          BudgetSpent: before it would cost more than there is.
        """
        places = [self._place(w_C) for w_C in w_MC]
        missing: dict[bytes, list[int]] = {}
        for m in dict.fromkeys(places):
            lacks_P = ~_known(self._nll[m][part])
            if lacks_P.any():
                missing.setdefault(lacks_P.tobytes(), []).append(m)
        wanted = [
            (part[np.frombuffer(lacks, bool)], some)
            for lacks, some in missing.items()
        ]
        tokens = sum(
            self._tokens_R[where].sum() * len(some) for where, some in wanted
        )
        self._pay(tokens / self._tokens_R.sum())
        for where, some in wanted:
            scored = self._scorer.proxies.merge(
                "",
                _table(self.members, [self._w[m] for m in some]),
                self.rows[where],
            )
            for m, nll_P in zip(some, scored.nll_MR, strict=True):
                self._nll[m][where] = nll_P
        self._tell()
        return np.array([self._nll[m][part] for m in places])

    def slope(self, w_C: np.ndarray) -> Slope:
        """Value and derivatives with respect to the weights.

        Raises:
          BudgetSpent: before it would cost more than there is.
        """
        m = self._place(w_C)
        if m not in self._slopes:
            self._pay(GRADIENT_COST)
            found = self._scorer.proxies.jacobian(self._w[m], 1.0, self.rows)
            self._nll[m][:] = found.nll_R
            self._tell()
            self._slopes[m] = self.slope_of(self._w[m], found)
        return self._slopes[m]

    def slope_of(self, w_C: np.ndarray, found: Jacobian) -> Slope:
        """The same, of losses and derivatives that are there."""
        bits_1D = self.bits(found.nll_R[None])
        bits_DC = self.per_byte(found.dw_DC)
        if self.correction is not None:
            shift_DC = self.correction.slope(w_C, bits_DC, self.rows)
            bits_1D = corrected(self.correction, w_C[None], bits_1D, self.rows)
            bits_DC = bits_DC + shift_DC
        return Slope(*self.objective.pieces(bits_1D[0], bits_DC))

    def know(self, table: Mixtures, known: ProxyScores) -> None:
        """Takes in losses of mixtures that were scored for another reason."""
        column = {row: i for i, row in enumerate(known.rows)}
        here = np.array([row in column for row in self.rows])
        there = [column[row] for row in self.rows[here]]
        for m, w_C in enumerate(table.w_MC):
            if table.scale_M[m] == 1:
                self._nll[self._place(w_C)][here] = known.nll_MR[m, there]

    def bits(self, nll_MR: np.ndarray) -> np.ndarray:
        """[M, D] bits per byte; NaN for domains that do not matter."""
        nll_MD, _ = domain_sums(
            self._scorer.evaluation, ProxyScores(self.rows, nll_MR), "select"
        )
        return self.per_byte(nll_MD.T).T

    def per_byte(self, nats_DX: np.ndarray) -> np.ndarray:
        """Nats of each domain [D, ...] as bits per byte of these windows."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return nats_DX / (self._bytes_D[:, None] * np.log(2.0))

    def _values(self, w_MC: np.ndarray, nll_MR: np.ndarray) -> np.ndarray:
        if not len(nll_MR):
            return np.zeros(0)
        bits_MD = self.bits(nll_MR)
        return self.objective.penalised(
            corrected(self.correction, w_MC, bits_MD, self.rows)
        )

    def _place(self, w_C: np.ndarray) -> int:
        key = np.round(w_C, 12).tobytes()  # the same but for rounding
        if key not in self._at:
            self._at[key] = len(self._w)
            self._w.append(np.array(w_C, np.float64))
            self._nll.append(np.full(len(self.rows), np.nan, np.float32))
        return self._at[key]

    def _pay(self, cost: float) -> None:
        # A thousandth of an evaluation is rounding.
        if self.spent + cost > self.budget + 1e-3:
            raise BudgetSpent(
                f"{self.spent:.1f} of {self.budget:g} evaluations are spent, "
                f"and {cost:.1f} more are asked for"
            )
        self.spent += cost

    def _tell(self) -> None:
        """Passes on whole evaluations, once they are done."""
        whole = int(self.spent)
        if whole > self._told:
            self.tell(whole - self._told)
            self._told = whole


def _known(nll_R: np.ndarray) -> np.ndarray:
    return np.isfinite(nll_R)


def _table(members: Sequence[str], w: Sequence[np.ndarray]) -> Mixtures:
    w_MC = np.array(w)
    return Mixtures(
        tuple(members),
        tuple(f"candidate {i + 1}" for i in range(len(w_MC))),
        ("candidate",) * len(w_MC),
        w_MC,
        np.ones(len(w_MC)),
    )
