"""Ways to spend a budget of evaluations on a problem, by name.

The cascade: the cheap proxy looks at very many mixtures; those it likes best
race on growing shares of the text; who is left at the end is scored on all of
it; from the best one, or a plain one, the exact gradient descends.
"""

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np

from jaxsim.log import say
from jaxsim.mixture.scores import ProxyScores, Scores, bits_of
from jaxsim.search.cheap import cheap_landscape, cheap_values
from jaxsim.search.correction import corrected
from jaxsim.search.landscape import BudgetSpent
from jaxsim.search.methods import (
    Result,
    descend,
    frank_wolfe,
    sample,
    subsets,
)
from jaxsim.search.problem import Problem
from jaxsim.search.race import Race, looks_at, nested_looks, race
from jaxsim.search.ties import Residual

# Of the budget, for mixtures that race; the rest is for derivatives.
_RACE_SHARE = 1 / 4
# Of those, by what the scored table says of them rather than the cheap proxy.
_TABLE_SHARE = 1 / 4
_RACE_ERROR = 0.05
_STARTS = 4


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was found on the way; the landscape has the rest.

    Attributes:
      result: of the method that went last, if any did.
      looked_at: mixtures that the cheap proxy alone ruled out.
      race: if there was one.
    """

    result: Result | None = None
    looked_at: int = 0
    race: Race | None = None


def look(
    problem: Problem, table: Scores | None, residual: Residual | None
) -> Outcome:
    """Spends the problem's budget by the method that its config names.

    Args:
      problem: what is searched.
      table: a scored table; its mixtures are candidates of a cascade.
      residual: of the merge, once truths exist.
    """
    methods: dict[str, Callable[[], Outcome]] = {
        "subsets": lambda: _subsets(problem),
        "sample": lambda: _sample(problem),
        "descend": lambda: Outcome(_descend(problem)),
        "frank-wolfe": lambda: Outcome(_frank_wolfe(problem)),
        "cascade": lambda: _cascade(problem, table, residual),
    }
    return methods[problem.config.method]()


def race_error(level: float) -> float:
    """With which a race may lose the best, if the answer is to have `level`."""
    return min(_RACE_ERROR, (1 - level) / 2)


def _subsets(problem: Problem) -> Outcome:
    left = problem.config.evaluations
    return Outcome(subsets(problem.landscape, problem.feasible, left))


def _sample(problem: Problem) -> Outcome:
    return Outcome(
        sample(
            problem.landscape,
            problem.feasible,
            problem.config.evaluations,
            np.random.default_rng(problem.config.rng),
        )
    )


def _descend(problem: Problem) -> Result | None:
    """From the best that is known, then from others while there is budget."""
    starts_MC = _starts(problem)
    try:
        return descend(problem.landscape, problem.feasible, starts_MC)
    except BudgetSpent:  # not even for one slope: what is known has to do
        return None


def _frank_wolfe(problem: Problem) -> Result | None:
    start_C = _starts(problem)[0]
    try:
        return frank_wolfe(problem.landscape, problem.feasible, start_C)
    except BudgetSpent:
        return None


def _cascade(
    problem: Problem, table: Scores | None, residual: Residual | None
) -> Outcome:
    landscape = problem.landscape
    racing = max(2, int(_RACE_SHARE * problem.config.evaluations))
    w_MC, looked_at = _entrants(problem, table, racing)
    say(
        f"search: {looked_at:,} mixtures by the probability average; "
        f"{len(w_MC)} race on growing shares of {len(landscape.rows):,} windows"
    )
    e = problem.scorer.evaluation
    looks = nested_looks(
        e, landscape.rows, problem.objective.needed_D, problem.config.rng
    )

    def score(some: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return landscape.nll(w_MC[some], np.searchsorted(landscape.rows, rows))

    def shift(
        some: np.ndarray, rows: np.ndarray, nll_KR: np.ndarray
    ) -> np.ndarray:
        order = np.argsort(rows)
        losses = ProxyScores(rows[order], nll_KR[:, order])
        bits_KD = bits_of(e, losses, "select")
        goal = problem.objective_on(losses.rows)
        return goal.penalised(
            corrected(landscape.correction, w_MC[some], bits_KD, losses.rows)
        ) - goal.penalised(bits_KD)

    try:
        run = race(
            looks,
            score,
            looks_at(
                e,
                landscape.rows,
                "select",
                problem.statistic,
                problem.config.rng,
                seed=(problem.seed_R, problem.objective.seed_D),
            ),
            len(w_MC),
            error=race_error(problem.config.level),
            worth=problem.config.worth,
            residual=residual,
            rng=problem.config.rng,
            shift=None if landscape.correction is None else shift,
        )
    except BudgetSpent:  # not even for the first look
        return Outcome(_descend(problem), looked_at)
    with contextlib.suppress(BudgetSpent):
        landscape.values(w_MC[run.alive[:1]])  # it may have won half-way
    return Outcome(_descend(problem), looked_at, run)


def _entrants(
    problem: Problem, table: Scores | None, count: int
) -> tuple[np.ndarray, int]:
    """Who races: mixtures of several members that cost something.

    The plain ones are known on all windows already. Single members are never
    raced: truths say that merges of several compare with them otherwise.

    Returns:
      [M, C] different mixtures, and how many the cheap proxy looked at.
    """
    feasible, config = problem.feasible, problem.config
    cheap = cheap_landscape(problem)
    sample_MC = feasible.sample(
        config.candidates, np.random.default_rng(config.rng)
    )
    value_M = cheap_values(problem, sample_MC)
    order = np.argsort(value_M, kind="stable")
    lowest_C = descend(cheap, feasible, sample_MC[order[:1]]).w_C
    liked_MC = np.zeros((0, len(problem.landscape.members)))
    if table is not None:
        liked_MC = _liked(problem, table)[: int(_TABLE_SHARE * count)]
    paid_MC = _different(
        np.concatenate([lowest_C[None], liked_MC, sample_MC[order[:count]]])
    )[:count]
    return paid_MC, len(sample_MC)


def _liked(problem: Problem, table: Scores) -> np.ndarray:
    """Allowed mixtures of a table, the best by its own windows first."""
    bits_MD = table.bits_per_byte("merge", "select")
    needed = problem.objective.needed_D
    usable = (table.table.scale_M == 1) & np.isfinite(bits_MD[:, needed]).all(1)
    usable &= table.table.w_MC.max(axis=1) < 1
    goal = problem.objective_on(table.proxies["merge"].rows)
    value_M = goal.penalised(bits_MD[usable])
    order = np.argsort(value_M, kind="stable")
    return _allowed(problem, table.table.w_MC[usable][order])


def _allowed(problem: Problem, w_MC: np.ndarray) -> np.ndarray:
    return w_MC[problem.feasible.contains(w_MC)]


def _different(w_MC: np.ndarray) -> np.ndarray:
    """Each mixture once, in order; rounding makes no difference."""
    first = {np.round(w_C, 12).tobytes(): m for m, w_C in enumerate(w_MC[::-1])}
    return w_MC[sorted(len(w_MC) - 1 - m for m in first.values())]


def _starts(problem: Problem) -> np.ndarray:
    """The lowest allowed mixture so far, others, and the middle of the set.

    The others are for a limited number of sources, which a descent does not
    exchange: the lowest ones with other sources.
    """
    w_MC, value_M = problem.landscape.history
    w_MC, value_M = (
        x[problem.feasible.contains(w_MC)] for x in (w_MC, value_M)
    )
    starts: dict[bytes, np.ndarray] = {}
    for w_C in w_MC[np.argsort(value_M, kind="stable")]:
        used = (w_C > 0).tobytes() if problem.config.max_sources else b""
        starts.setdefault(used, w_C)
    some = list(starts.values())[:_STARTS]
    return np.array([*some, problem.feasible.centre_C])
