"""What is searched for, where, and with what: a search before its method."""

import dataclasses

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.table import Mixtures
from jaxsim.search.constraints import Feasible, feasible
from jaxsim.search.correction import Correction
from jaxsim.search.objective import Objective, objective
from jaxsim.search.pool_landscape import PoolLandscape


@dataclasses.dataclass(frozen=True)
class Problem:
    """An objective on select text, mixtures that may be chosen, and a budget.

    Attributes:
      config: as asked.
      scorer: of the workdir.
      objective: on the windows of the landscape.
      feasible: the mixtures that may be chosen.
      landscape: scores them, and counts.
      plain: single members, uniform, proportional and macro merges. The
        landscape knows them already, whether they may be chosen or not.
    """

    config: SearchConfig
    scorer: Scorer
    objective: Objective
    feasible: Feasible
    landscape: PoolLandscape
    plain: Mixtures

    @property
    def seed_R(self) -> np.ndarray:
        """The seed's nats on every window of the evaluation set."""
        return self.scorer.references().proxies["merge"].nll_MR[0]

    def objective_on(self, rows: np.ndarray) -> Objective:
        """The objective, measured against the seed on these windows."""
        e = self.scorer.evaluation
        size = len(e.domains)
        nats_D = np.bincount(e.domain_R[rows], self.seed_R[rows], size)
        bytes_D = np.bincount(e.domain_R[rows], e.bytes_R[rows], size)
        with np.errstate(invalid="ignore", divide="ignore"):
            seed_D = nats_D / (bytes_D * np.log(2.0))
        return dataclasses.replace(self.objective, seed_D=seed_D)

    @property
    def statistic(self) -> "Penalised":
        """The objective as races and tie sets resample it."""
        return Penalised(self.objective)


@dataclasses.dataclass(frozen=True)
class Penalised:
    """An objective that counts what its limits cost."""

    objective: Objective

    @property
    def needed_D(self) -> np.ndarray:
        return self.objective.needed_D

    def value(self, bits_MD: np.ndarray) -> np.ndarray:
        return self.objective.penalised(bits_MD)


def pose(
    scorer: Scorer,
    config: SearchConfig,
    correction: Correction | None = None,
) -> Problem:
    """The problem that a configuration asks for.

    Args:
      scorer: of the workdir.
      config: objective, constraints and budget.
      correction: of merges towards training, once truths exist.

    Raises:
      UserError: a name that there is not, or constraints that exclude each
        other.
    """
    e = scorer.evaluation
    references = scorer.references()
    goal = objective(config, e, np.zeros(len(e.domains)))
    rows = windows_of(e, goal, "select", config.windows)
    landscape = PoolLandscape(
        scorer, goal, rows, config.evaluations, correction
    )
    landscape.know(references.table, references.proxies["merge"])
    plain = np.flatnonzero(references.table.scale_M == 1)
    problem = Problem(
        config,
        scorer,
        goal,
        _feasible(scorer, config),
        landscape,
        references.table.take(plain),
    )
    landscape.objective = problem.objective_on(rows)
    return dataclasses.replace(problem, objective=landscape.objective)


def windows_of(
    evaluation: EvaluationSet, goal: Objective, half: str, windows: int
) -> np.ndarray:
    """Windows of a half in the domains that matter."""
    rows = evaluation.rows(half, windows)
    return rows[goal.needed_D[evaluation.domain_R[rows]]]


def _feasible(scorer: Scorer, config: SearchConfig) -> Feasible:
    corpus, members = scorer.corpus, scorer.members
    units = [corpus.unit(name) for name in members]
    manifests = scorer.pool.manifests("member")
    shut = dict.fromkeys(scorer.proxies.stack.damaged, 0.0)
    return feasible(
        dataclasses.replace(config, ceilings=config.ceilings | shut),
        members,
        [unit.partition for unit in units],
        [unit.group for unit in units],
        np.array([unit.tokens for unit in units], float),
        np.array([max(manifests[n].epochs.values()) for n in members]),
        scorer.pool.identity["recipe"]["anchor"],
        corpus.seed.tokens,
    )
