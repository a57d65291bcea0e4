"""A search problem: an objective, the mixtures that may be chosen, and a budget."""

import dataclasses

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import PredictorScores, bits_of, bits_per_byte
from jaxsim.scoring.table import Mixtures
from jaxsim.search.constraints import Feasible, feasible
from jaxsim.search.loss import Correction, LossOracle, MergeLoss
from jaxsim.search.objective import Objective, Slope, objective

_CHEAP_GRADIENTS = 100  # most gradients for the minimum of the ensemble


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
    nll_MD = scorer.predictors.ensemble_sums(w_MC, scorer.token_losses[1:], loss.rows)
    return problem.objective.penalised(bits_per_byte(nll_MD, loss.bytes_D))


def cheap_loss(problem: Problem) -> LossOracle:
    """The same with its derivatives, to descend on; convex for a mean."""
    scorer, loss = problem.scorer, problem.loss
    at = scorer.predictors.ensemble_slope(scorer.token_losses[1:], loss.rows)

    def slope(w_C: np.ndarray) -> Slope:
        nll_D, dw_DC = at(w_C)
        bits_DC = bits_per_byte(dw_DC, loss.bytes_D[:, None])
        return problem.objective.pieces(bits_per_byte(nll_D, loss.bytes_D), bits_DC)

    return LossOracle(
        loss.members,
        lambda w_MC: cheap_values(problem, w_MC),
        slope,
        budget=3.0 * _CHEAP_GRADIENTS,
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
    shut = dict.fromkeys(scorer.predictors.stack.damaged, 0.0)
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
