"""What is searched for, where, and with what: a search before it looks."""

import dataclasses

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.table import Mixtures
from jaxsim.search.constraints import Feasible, feasible
from jaxsim.search.loss import Correction, LossOracle, MergeLoss, Slope
from jaxsim.search.objective import Objective, objective

_CHEAP_GRADIENTS = 100  # that finding the minimum of the average may take


@dataclasses.dataclass(frozen=True)
class Problem:
    """An objective on dev text, mixtures that may be chosen, and a budget.

    Attributes:
      config: as asked.
      scorer: of the workdir.
      objective: on the windows of the loss.
      feasible: the mixtures that may be chosen.
      loss: of merges; scores them, and counts.
      plain: single members, uniform, proportional and macro merges. Their
        losses are known already, whether they may be chosen or not.
    """

    config: SearchConfig
    scorer: Scorer
    objective: Objective
    feasible: Feasible
    loss: MergeLoss
    plain: Mixtures

    @property
    def base_R(self) -> np.ndarray:
        """The base's nats on every window of the evaluation set."""
        return _base_nats(self.scorer)

    def objective_on(self, rows: np.ndarray) -> Objective:
        """The objective, measured against the base on these windows."""
        return _against_base(self.scorer, self.objective, rows)


def pose(
    scorer: Scorer,
    config: SearchConfig,
    correction: Correction | None = None,
) -> Problem:
    """The problem that a configuration asks for.

    Args:
      scorer: of the workdir.
      config: objective, constraints and budget.
      correction: of merges towards training, once reference runs exist.

    Raises:
      UserError: a name that there is not, or constraints that exclude each
        other.
    """
    e = scorer.evaluation
    standard = scorer.standard()
    goal = objective(config, e, np.zeros(len(e.domains)))
    rows = windows_of(e, goal, "dev", config.windows)
    goal = _against_base(scorer, goal, rows)
    loss = MergeLoss(scorer, goal, rows, config.evaluations, correction)
    loss.know(standard.table, standard.predictors["merge"])
    plain = standard.table.take(np.flatnonzero(standard.table.scale_M == 1))
    allowed = _feasible(scorer, config)
    return Problem(config, scorer, goal, allowed, loss, plain)


def windows_of(
    evaluation: EvaluationSet, goal: Objective, split: str, windows: int
) -> np.ndarray:
    """Windows of a split in the domains that matter."""
    rows = evaluation.rows(split, windows)
    return rows[goal.needed_D[evaluation.domain_R[rows]]]


def cheap_values(problem: Problem, w_MC: np.ndarray) -> np.ndarray:
    """The penalized objective [M] by the ensemble.

    Averaged token probabilities need no model once each member's are known, so
    a hundred thousand mixtures can be looked at before a merge is scored.
    """
    scorer, loss = problem.scorer, problem.loss
    nll_MD = scorer.predictors.ensemble_sums(w_MC, scorer.token_losses[1:], loss.rows)
    return problem.objective.penalised(loss.per_byte(nll_MD.T).T)


def cheap_loss(problem: Problem) -> LossOracle:
    """The same with its derivatives, to descend on; convex for a mean."""
    scorer, loss = problem.scorer, problem.loss
    at = scorer.predictors.ensemble_slope(scorer.token_losses[1:], loss.rows)

    def slope(w_C: np.ndarray) -> Slope:
        nll_D, dw_DC = at(w_C)
        bits_D = loss.per_byte(nll_D[:, None])[:, 0]
        return Slope(*problem.objective.pieces(bits_D, loss.per_byte(dw_DC)))

    return LossOracle(
        loss.members,
        lambda w_MC: cheap_values(problem, w_MC),
        slope,
        budget=3.0 * _CHEAP_GRADIENTS,
    )


def _base_nats(scorer: Scorer) -> np.ndarray:
    nll_R: np.ndarray = scorer.standard().predictors["merge"].nll_MR[0]
    return nll_R


def _against_base(scorer: Scorer, goal: Objective, rows: np.ndarray) -> Objective:
    """The objective with the base's bits per byte on these windows."""
    e = scorer.evaluation
    size = len(e.domains)
    nats_D = np.bincount(e.domain_R[rows], _base_nats(scorer)[rows], size)
    bytes_D = np.bincount(e.domain_R[rows], e.bytes_R[rows], size)
    with np.errstate(invalid="ignore", divide="ignore"):
        base_D = nats_D / (bytes_D * np.log(2.0))
    return dataclasses.replace(goal, base_D=base_D)


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
