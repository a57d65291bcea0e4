"""jaxsim's side of `scoring.py`: its evaluator, as the commands use it."""

import time

import numpy as np
from scoring_work import ScoringWork
from workload import nest

from jaxsim.config import ScoreConfig
from jaxsim.mesh import scoring_mesh
from jaxsim.scoring.evaluator import Evaluator
from jaxsim.scoring.stack import StackedPool, stacked
from jaxsim.scoring.table import Mixtures


class JaxScoring:
    def __init__(self, work: ScoringWork) -> None:
        self._work = work
        self._rows = np.arange(len(work.evaluation))
        self._evaluator = Evaluator(
            work.language_model,
            stack(work).on(scoring_mesh(), work.language_model),
            work.evaluation,
            ScoreConfig(**work.score),
        )

    def nll(self, count: int) -> np.ndarray:
        """[count, R] nats of every window under the first mixtures."""
        return self._evaluator.score(table(self._work, count), self._rows)

    def score(self, count: int) -> float:
        """Seconds for `count` mixtures on all windows."""
        mixtures = table(self._work, count)
        begin = time.perf_counter()
        self._evaluator.score(mixtures, self._rows)
        return time.perf_counter() - begin


def stack(work: ScoringWork) -> StackedPool:
    """The pool, as if it had been read from a workdir."""
    base, delta_C = work.parameters()
    names = tuple(f"member-{c}" for c in range(work.members))
    entries = (
        nest({path: leaf + delta_C[path][c] for path, leaf in base.items()})
        for c in range(work.members)
    )
    delta_C = stacked(nest(base), entries, work.members)
    return StackedPool(names, names, "", nest(base), delta_C)


def table(work: ScoringWork, count: int) -> Mixtures:
    """The first `count` mixtures of the work."""
    return Mixtures(
        members=tuple(f"member-{c}" for c in range(work.members)),
        names=tuple(f"mixture-{m}" for m in range(count)),
        kinds=("subset",) * count,
        w_MC=work.mixtures(count),
        scale_M=np.ones(count),
    )
