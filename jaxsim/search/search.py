"""The best mixture for an objective under constraints, with all that ties with it.

A surrogate, the quadratic of merges or else the ensemble, ranks very many mixtures. Its
minimum and its best ones are merged and scored, and the best ones of a scored table.
From the best mixture so far, a descent follows the exact gradient of the merge's loss,
starting with the surrogate's curvature.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.corpus.names import Labels
from jaxsim.errors import UserError
from jaxsim.log import counted, detail, progress, say
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import PredictorScores, Scores
from jaxsim.scoring.table import STANDARD_MERGES, Mixtures, mixture_key
from jaxsim.search.answer import answer
from jaxsim.search.feasible import LEAST
from jaxsim.search.objective import Objective
from jaxsim.search.optimize import BudgetSpent, descend
from jaxsim.search.problem import Correction, Problem
from jaxsim.search.result import SearchResult
from jaxsim.search.surrogate import Surrogate, surrogate
from jaxsim.search.ties import Residual

_CANDIDATES = 1 / 8  # of the budget; the rest is for derivatives
_FROM_TABLE = 1 / 4  # of the candidates, at most
_STARTS = 4  # choices of sources to descend from, if their number is limited
_APART = 0.01  # two mixtures differ by at least this share of the tokens


def search(
    scorer: Scorer,
    config: SearchConfig,
    table: Scores | None = None,
    residual_of: Callable[[Objective], Residual | None] = lambda _: None,
    correction: Correction | None = None,
) -> SearchResult:
    """Chooses on dev text, and reports on test text.

    Args:
      scorer: of the workdir.
      config: objective, constraints, method and budget.
      table: a scored table: what method 'table' chooses from, and candidates of a
        descent.
      residual_of: how far training lies from predictions of an objective; None
        without reference runs.
      correction: from merges to training, if reference runs exist.

    Raises:
      UserError: the table is of another pool, the constraints contradict each other,
        or the table has no mixture to train on.
    """
    if table is not None:
        scorer.check_current(table)
    problem = Problem(scorer, config, correction, table)
    residual = residual_of(problem.objective_on(problem.windows("test")))
    if config.method == "table":
        return answer(problem, _rows_of(problem), residual)
    detail(
        f"search: at most {counted(config.evaluations, 'evaluation')}, each of "
        f"{counted(len(problem.rows), 'window')}"
    )
    with progress(config.evaluations, "search", "evaluations") as tick:
        problem.loss.tell = tick
        ranked_by = look(problem)
    return answer(problem, _searched(problem), residual, ranked_by)


def look(problem: Problem) -> Surrogate:
    """Spends the budget; the problem's loss keeps everything it evaluates."""
    cheap = surrogate(problem)
    w_MC, hessian_CC = _candidates(problem, cheap)
    detail(
        f"search: {counted(problem.config.candidates, 'mixture')} ranked by the "
        f"{cheap.name}; merging {len(w_MC)}"
    )
    problem.loss.values(w_MC)
    with contextlib.suppress(BudgetSpent):
        for start_C in _starts(problem):
            descend(problem.loss, problem.feasible.face(start_C), start_C, hessian_CC)
    return cheap


def _candidates(problem: Problem, cheap: Surrogate) -> tuple[np.ndarray, np.ndarray]:
    """Different mixtures to merge [M, C], and the surrogate's curvature."""
    feasible, config = problem.feasible, problem.config
    count = max(1, int(_CANDIDATES * config.evaluations))
    sample_MC = feasible.sample(config.candidates, np.random.default_rng(config.seed))
    order = np.argsort(cheap.values(sample_MC), kind="stable")
    faces = [feasible.face(sample_MC[order[0]])]
    if feasible.max_sources:
        # The sources that the minimum without this limit uses most.
        free_C, _ = cheap.lowest(dataclasses.replace(feasible, max_sources=0))
        faces.append(feasible.heaviest_face(free_C))
    found = [cheap.lowest(face) for face in faces]
    value_F = cheap.values(np.array([w_C for w_C, _ in found]))
    found = [found[f] for f in np.argsort(value_F, kind="stable")]
    hessian_CC = found[0][1]
    w_MC = [w_C for w_C, _ in found]
    if problem.table is not None:
        w_MC += list(_best_of(problem, problem.table)[: int(_FROM_TABLE * count)])
    w_MC += map(feasible.cleaned, sample_MC[order[:count]])
    different = {mixture_key(w_C): w_C for w_C in w_MC}
    return np.array(list(different.values())[:count]), hessian_CC


def _best_of(problem: Problem, table: Scores) -> np.ndarray:
    """Allowed mixtures of a table, the best on its own windows first."""
    bits_MD = table.bits_per_byte("merge", "dev")
    goal = problem.objective_on(table.predictors["merge"].rows)
    known_M = np.isfinite(bits_MD[:, goal.needed_D]).all(axis=1)
    usable = known_M & (table.table.scale_M == 1)
    value_M = goal.penalised(bits_MD[usable])
    w_MC = table.table.w_MC[usable][np.argsort(value_M, kind="stable")]
    return w_MC[problem.feasible.contains(w_MC)]


def _starts(problem: Problem) -> list[np.ndarray]:
    """The best allowed mixture so far.

    If the number of sources is limited, also the best ones with other sources, since
    a descent does not exchange sources.
    """
    w_MC, value_M = problem.loss.history
    may_M = problem.feasible.contains(w_MC)
    order = np.argsort(value_M[may_M], kind="stable")
    starts: dict[bytes, np.ndarray] = {}
    for w_C in w_MC[may_M][order]:
        used = (w_C > 0).tobytes() if problem.config.max_sources else b""
        starts.setdefault(used, w_C)
    return list(starts.values())[:_STARTS]


def _rows_of(problem: Problem) -> Scores:
    """The mixtures of a table that may be chosen."""
    table = problem.table
    if table is None:
        raise UserError(
            "config.search.method='table': there is no scored table; run `jaxsim "
            "score`, or use another method"
        )
    rows = np.flatnonzero(table.table.scale_M == 1)
    if other := int(np.count_nonzero(table.table.scale_M)) - len(rows):
        say(
            f"search: leaving out {counted(other, 'mixture')} with a scale other than "
            "1: a run has token shares but no scale"
        )
    if not len(rows):  # the base model is no mixture to train on
        raise UserError(
            f"table {table.name!r}: it holds only the base model, or mixtures with a "
            "scale other than 1; there is nothing to train on"
        )
    rows = rows[problem.feasible.contains(table.table.w_MC[rows])]
    # Of equal mixtures, the standard one.
    ordered = sorted(rows, key=lambda m: table.table.kinds[m] not in STANDARD_MERGES)
    first = {mixture_key(table.table.w_MC[m]): m for m in reversed(ordered)}
    rows = np.sort(np.array(list(first.values()), int))
    if not len(rows):
        raise UserError(
            f"table {table.name!r}: the constraints of config.search allow none of its "
            "mixtures; relax them, or use another method"
        )
    return table.take(rows)


def _searched(problem: Problem) -> Scores:
    """The allowed mixtures that are scored on all windows of the loss.

    Of mixtures that are nearly the same, like the last steps of a descent, it keeps
    the best one and those with a name. One that equals a named one takes its name.
    """
    w_MC, value_M = problem.loss.history
    names: dict[bytes, tuple[str, str]] = {}
    for known in (scores.table for scores in problem.known):
        for m in np.flatnonzero(known.scale_M == 1):
            label = known.names[m], known.kinds[m]
            names.setdefault(mixture_key(known.w_MC[m]), label)
    may = np.flatnonzero(problem.feasible.contains(w_MC))
    is_named_M = np.isin(range(len(w_MC)), may)
    is_named_M &= [mixture_key(w_C) in names for w_C in w_MC]
    kept: list[int] = []
    for m in may[np.argsort(value_M[may], kind="stable")]:
        apart_M = np.abs(w_MC - w_MC[m]).sum(axis=1) / 2
        is_new = (apart_M[kept] >= _APART).all()
        if is_named_M[m] or (is_new and (apart_M[is_named_M] >= LEAST).all()):
            kept.append(int(m))
    taken = {name for name, _ in names.values()}
    free = (n for n in map(Labels.FOUND.format, itertools.count(1)) if n not in taken)
    labels = [names.get(mixture_key(w_MC[m])) or (next(free), "found") for m in kept]
    found, kinds = zip(*labels, strict=True)
    scorer, w_MC = problem.scorer, w_MC[kept]
    mixtures = Mixtures(scorer.members, found, kinds, w_MC, np.ones(len(kept)))
    nll_MR = np.array([problem.nll[mixture_key(w_C)] for w_C in w_MC])
    losses = {"merge": PredictorScores(problem.rows, nll_MR)}
    name = problem.table.name if problem.table else ""
    return Scores(name, mixtures, scorer.evaluation, losses)
