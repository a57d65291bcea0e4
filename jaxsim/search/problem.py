"""A search problem: an objective, the mixtures that may be chosen, and a budget."""

import dataclasses
from typing import Protocol

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.scoring.evaluator import Jacobian
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import PredictorScores, bits_of, bits_per_byte
from jaxsim.scoring.table import Mixtures, mixture_key
from jaxsim.search.constraints import Feasible, feasible
from jaxsim.search.objective import Objective, Slope, objective
from jaxsim.search.optimize import GRADIENT_COST, LossOracle

_CHEAP_GRADIENTS = 100  # most gradients for the minimum of the ensemble


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
        scored = self._scorer.merge(table, self.rows)
        return self._take(w_MC, scored.nll_MR)

    def _derived(self, w_C: np.ndarray) -> Slope:
        found = self._scorer.jacobian(w_C, 1.0, self.rows)
        self._nll.setdefault(mixture_key(w_C), found.nll_R.astype(np.float32))
        return self.slope_of(w_C, found)

    def _take(self, w_MC: np.ndarray, nll_MR: np.ndarray) -> np.ndarray:
        """Keeps the losses, and gives their values [M]."""
        for w_C, nll_R in zip(w_MC, nll_MR, strict=True):
            self._nll.setdefault(mixture_key(w_C), nll_R.astype(np.float32))
        return self._objective.penalised(self._bits(w_MC, nll_MR))


@dataclasses.dataclass(frozen=True)
class Scored:
    """Mixtures and the losses of their merges.

    Attributes:
      table: M mixtures.
      losses: on some windows of dev text.
      bits_MD: the same in bits per byte.
      corrected_MD: the bits per byte that training is expected to give.
    """

    table: Mixtures
    losses: PredictorScores
    bits_MD: np.ndarray
    corrected_MD: np.ndarray

    def take(self, rows: np.ndarray) -> "Scored":
        """Keeps the mixtures at these indices."""
        losses = PredictorScores(self.losses.rows, self.losses.nll_MR[rows])
        bits = self.bits_MD[rows], self.corrected_MD[rows]
        return Scored(self.table.take(rows), losses, *bits)


@dataclasses.dataclass(frozen=True)
class Problem:
    """An objective on dev text, mixtures that may be chosen, and a budget.

    Attributes:
      config: what was asked for.
      scorer: of the workdir.
      objective: on the windows of the loss.
      feasible: the mixtures that may be chosen.
      loss: of merges; scores them, and counts.
      base_R: the base model's nats on every window of the evaluation set.
    """

    config: SearchConfig
    scorer: Scorer
    objective: Objective
    feasible: Feasible
    loss: MergeLoss
    base_R: np.ndarray

    def objective_on(self, rows: np.ndarray) -> Objective:
        """The objective, relative to the base model on these windows."""
        e = self.scorer.evaluation
        return _relative_to_base(self.objective, e, self.base_R, rows)

    def scored(self, table: Mixtures, losses: PredictorScores) -> Scored:
        """Converts the losses of merges."""
        bits_MD = bits_of(self.scorer.evaluation, losses, "dev")
        corrected_MD = self.loss.corrected(table.w_MC, bits_MD, losses.rows)
        return Scored(table, losses, bits_MD, corrected_MD)


def pose(
    scorer: Scorer, config: SearchConfig, correction: Correction | None = None
) -> Problem:
    """The problem that a configuration asks for.

    Args:
      scorer: of the workdir.
      config: objective, constraints and budget.
      correction: from merges to training, if reference runs exist.

    Raises:
      UserError: an unknown name, or constraints that contradict each other.
    """
    e, known = scorer.evaluation, scorer.standard()
    base_R = known.predictors["merge"].nll_MR[0]
    goal = objective(config, e, np.zeros(len(e.domains)))
    rows = windows_of(e, goal, "dev", config.windows)
    goal = _relative_to_base(goal, e, base_R, rows)
    loss = MergeLoss(scorer, goal, rows, config.evaluations, correction)
    loss.know(known.table, known.predictors["merge"])
    return Problem(config, scorer, goal, _feasible(scorer, config), loss, base_R)


def windows_of(
    evaluation: EvaluationSet, goal: Objective, split: str, windows: int
) -> np.ndarray:
    """Windows of a split in the domains that matter."""
    rows = evaluation.rows(split, windows)
    return rows[goal.needed_D[evaluation.domain_R[rows]]]


def cheap_values(problem: Problem, w_MC: np.ndarray) -> np.ndarray:
    """The penalized objective of the ensemble [M].

    It runs no model once the members' token probabilities are known, so a search can
    score a hundred thousand mixtures before it scores a merge.
    """
    scorer, loss = problem.scorer, problem.loss
    nll_MD = scorer.ensemble(loss.rows).sums(w_MC)
    return problem.objective.penalised(bits_per_byte(nll_MD, loss.bytes_D))


def cheap_loss(problem: Problem) -> LossOracle:
    """The same with its derivatives, to descend on; convex for a mean."""
    scorer, loss = problem.scorer, problem.loss
    ensemble = scorer.ensemble(loss.rows)

    def slope(w_C: np.ndarray) -> Slope:
        nll_D, dw_DC = ensemble.slope(w_C)
        bits_DC = bits_per_byte(dw_DC, loss.bytes_D[:, None])
        return problem.objective.pieces(bits_per_byte(nll_D, loss.bytes_D), bits_DC)

    return LossOracle(
        loss.members,
        lambda w_MC: cheap_values(problem, w_MC),
        slope,
        budget=GRADIENT_COST * _CHEAP_GRADIENTS,
    )


def _relative_to_base(
    goal: Objective, evaluation: EvaluationSet, base_R: np.ndarray, rows: np.ndarray
) -> Objective:
    """The objective with the base model's bits per byte on these windows."""
    e, size = evaluation, len(evaluation.domains)
    nats_D = np.bincount(e.domain_R[rows], base_R[rows], size)
    bytes_D = np.bincount(e.domain_R[rows], e.bytes_R[rows], size)
    return dataclasses.replace(goal, base_D=bits_per_byte(nats_D, bytes_D))


def _feasible(scorer: Scorer, config: SearchConfig) -> Feasible:
    corpus, members = scorer.corpus, scorer.members
    units = [corpus.unit(name) for name in members]
    manifests = scorer.pool.manifests("member")
    shut = dict.fromkeys(scorer.stack.damaged, 0.0)
    return feasible(
        dataclasses.replace(config, max_weight=config.max_weight | shut),
        members,
        [unit.partition for unit in units],
        [unit.group for unit in units],
        np.array([unit.tokens for unit in units], float),
        np.array([max(manifests[n].epochs.values()) for n in members]),
        scorer.pool.identity["recipe"]["replay"],
        corpus.base.tokens,
    )
