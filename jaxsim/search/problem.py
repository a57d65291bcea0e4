"""What is searched for, where, and with what: a search before its method."""

import dataclasses

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.scores import Scores
from jaxsim.mixture.table import Mixtures
from jaxsim.search.constraints import Feasible, feasible
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


def pose(scorer: Scorer, config: SearchConfig) -> Problem:
    """The problem that a configuration asks for.

    Raises:
      UserError: a name that there is not, or constraints that exclude each
        other.
    """
    e = scorer.evaluation
    references = scorer.references()
    goal = objective(config, e, seed_bits(references, "select"))
    allowed = _feasible(scorer, config)
    rows = windows_of(e, goal, "select", config.windows)
    # The seed's loss is that on the windows which are searched on.
    landscape = PoolLandscape(scorer, goal, rows, config.evaluations)
    seed = references.proxies["merge"]
    goal = dataclasses.replace(
        goal, seed_D=landscape.bits(seed.nll_MR[:1, rows])[0]
    )
    landscape.objective = goal
    landscape.know(references.table, seed)
    plain = np.flatnonzero(references.table.scale_M == 1)
    return Problem(
        config, scorer, goal, allowed, landscape, references.table.take(plain)
    )


def seed_bits(references: Scores, half: str) -> np.ndarray:
    """[D] bits per byte of the seed on all windows of a half."""
    return references.bits_per_byte("merge", half)[0]


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
