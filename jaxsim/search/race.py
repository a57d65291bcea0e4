"""The best of many mixtures without scoring all of them on all text.

All candidates are scored on a share of the windows; those that no longer tie
with the best are dropped; the others go on to a larger share that contains the
first, up to all windows.

At each look the set that ties holds the true best, if it was there, with
probability at least 1 - error / looks (`ties`), so by the union bound over all
looks it is lost with probability at most `error`, however the looks depend on
one another. Two approximations are in this, and in `benchmarks/ties.py` their
effect is measured: the level of the tie set itself, which is a bootstrap's, and
that later looks draw only the survivors, which were selected on a part of the
same text.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.search.landscape import BudgetSpent
from jaxsim.search.resample import Value, resampled
from jaxsim.search.ties import Residual, tie_set

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
_FIRST = 20  # windows of a domain in the first look, of other documents if any
# A look's error is around a hundredth, of which ties take a tenth apart.
_DRAWS = 4000

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]
Shift = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Statistic = Callable[
    [np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, str]
]


@dataclasses.dataclass(frozen=True)
class Race:
    """How M candidates fared.

    Attributes:
      alive: the survivors, sorted by value.
      dropped_M: the look after which each was dropped, from 0; -1: alive.
      value_M: the objective on the last windows that each was scored on.
      windows: how many windows each look had, of the looks that took place.
      entered: how many candidates each of them began with.
      complete: whether the survivors were scored on all windows.
      spent: windows that were scored, summed over mixtures.
      saved: the share of scoring all on all windows that was not needed.
    """

    alive: np.ndarray
    dropped_M: np.ndarray
    value_M: np.ndarray
    windows: tuple[int, ...]
    entered: tuple[int, ...]
    complete: bool
    spent: int
    saved: float


def nested_looks(
    evaluation: EvaluationSet,
    rows: np.ndarray,
    needed_D: np.ndarray,
    rng: int,
    shares: Sequence[float] = SHARES,
) -> list[np.ndarray]:
    """Growing shares of windows, each of which contains the one before.

    Each share holds every domain, and as many of its documents as it can:
    documents are what is independent. The first has 20 windows of a domain, if
    there are so many.

    Args:
      evaluation: what `rows` index.
      rows: all windows of the race.
      needed_D: [D] bool, domains whose windows take part.
      rng: of the order of documents, and of windows within them.
      shares: of each domain's windows, growing.

    Returns:
      Sorted indices into the evaluation set, without repeated looks.
    """
    generator = np.random.default_rng(rng)
    ordered = []
    for d in np.flatnonzero(needed_D):
        mine = rows[evaluation.domain_R[rows] == d]
        if len(mine):
            mine = generator.permutation(mine)
            ordered.append(mine[_turns(evaluation, mine, generator)])
    looks: list[np.ndarray] = []
    for share in shares:
        look = np.concatenate(
            [
                mine[: max(int(np.ceil(share * len(mine))), _FIRST)]
                for mine in ordered
            ]
        )
        if not looks or len(look) > len(looks[-1]):
            looks.append(np.sort(look))
    return looks


def looks_at(
    evaluation: EvaluationSet,
    whole: np.ndarray,
    half: str,
    objective: Value,
    rng: int,
    draws: int = _DRAWS,
    seed: tuple[np.ndarray, np.ndarray] | None = None,
) -> Statistic:
    """The statistic of a race: `resampled`, on a share of `whole`.

    Args:
      seed: as for `resampled`, but the nats are of every window there is.
    """

    def statistic(
        rows: np.ndarray, nll_MR: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, str]:
        against = None if seed is None else (seed[0][rows], seed[1])
        return resampled(
            evaluation,
            rows,
            nll_MR,
            half,
            objective,
            rng,
            draws,
            whole,
            seed=against,
        )

    return statistic


def race(
    looks: Sequence[np.ndarray],
    score: Score,
    statistic: Statistic,
    count: int,
    error: float = 0.05,
    keep: int = 1,
    worth: float = 0.0,
    residual: Residual | None = None,
    rng: int = 0,
    shift: Shift | None = None,
) -> Race:
    """Drops candidates that are worse than another, on growing text.

    The last look drops nobody: whoever gets there is scored on all windows,
    and what ties is for `tie_set` to say. A tie set of the survivors at level
    1 - a holds the true best of all candidates with probability at least
    1 - a - error.

    Args:
      looks: growing, nested windows, see `nested_looks`.
      score: (candidates [K], windows [S]) to nats [K, S]; asked only for
        candidates that are alive and windows that they were not scored on.
      statistic: (windows [R], nats [K, R]) to value_K, draw_KB and the unit,
        see `looks_at`.
      count: M, how many candidates.
      error: the probability that the true best may be dropped with.
      keep: stop once so few are left.
      worth: as in `tie_set`: who is so close to the best stays.
      residual: as in `tie_set`: to keep the best truth, not the best merge.
      rng: of the residual's draws.
      shift: (candidates [K], windows [R], nats [K, R]) to what is added to
        each candidate's value, without error: what truths taught.

    Returns:
      The survivors. Where `score` raises BudgetSpent the race ends before
      that look, unless it is the first.
    """
    alive = np.arange(count)
    dropped_M, value_M = np.full(count, -1), np.full(count, np.nan)
    rows = np.zeros(0, looks[0].dtype)
    nll_KR = np.zeros((count, 0))
    windows: list[int] = []
    entered: list[int] = []
    spent = 0
    for number, look in enumerate(looks):
        new = np.setdiff1d(look, rows)
        if len(rows) + len(new) != len(look):
            raise ValueError(f"look {number} does not contain the one before")
        try:
            nll_KS = score(alive, new)
        except BudgetSpent:
            if not windows:
                raise
            break
        rows = np.concatenate([rows, new])
        nll_KR = np.concatenate([nll_KR, nll_KS], axis=1)
        windows.append(len(rows))
        entered.append(len(alive))
        spent += nll_KS.size
        value_K, draw_KB, unit = statistic(rows, nll_KR)
        if shift is not None:
            shift_K = shift(alive, rows, nll_KR)
            value_K, draw_KB = value_K + shift_K, draw_KB + shift_K[:, None]
        value_M[alive] = value_K
        if number == len(looks) - 1:
            break
        level = 1 - error / (len(looks) - 1)
        ties = tie_set(value_K, draw_KB, unit, level, worth, residual, rng)
        stays_K = np.isin(np.arange(len(alive)), ties.tied)
        dropped_M[alive[~stays_K]] = number
        alive, nll_KR = alive[stays_K], nll_KR[stays_K]
        if len(alive) <= keep:
            break
    return Race(
        alive=alive[np.argsort(value_M[alive], kind="stable")],
        dropped_M=dropped_M,
        value_M=value_M,
        windows=tuple(windows),
        entered=tuple(entered),
        complete=windows[-1] == len(looks[-1]),
        spent=spent,
        saved=1 - spent / (count * len(looks[-1])),
    )


def _turns(
    evaluation: EvaluationSet, rows: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """[R] an order: one window of every document, then a second of each.

    Documents come in an order that has nothing to do with their length. In
    the order of `rows` the long ones would come first, and a share of the
    text would be of long documents.
    """
    _, document_R = np.unique(evaluation.document_R[rows], return_inverse=True)
    by_document = np.argsort(document_R, kind="stable")
    _, starts, count_E = np.unique(
        document_R[by_document], return_index=True, return_counts=True
    )
    turn_R = np.empty(len(rows), int)
    turn_R[by_document] = np.arange(len(rows)) - np.repeat(starts, count_E)
    rank_E = generator.permutation(len(count_E))
    return np.lexsort((rank_E[document_R], turn_R))
