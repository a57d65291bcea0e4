"""The best mixture for an objective under constraints, with all that ties.

The cheap predictor looks at very many mixtures; merges of those that it likes
best are scored, and of the best ones in a scored table; from the best of all
that is known, the exact gradient of the merge's loss descends, with the cheap
predictor's curvature to begin with.
"""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.errors import UserError
from jaxsim.log import progress, say
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import PredictorScores, Scores, bits_of
from jaxsim.scoring.table import Mixtures
from jaxsim.search.answer import EXCESS, Scored, answer
from jaxsim.search.loss import BudgetSpent, Correction, corrected, key_of
from jaxsim.search.objective import Objective
from jaxsim.search.optimize import descend
from jaxsim.search.problem import (
    Problem,
    cheap_loss,
    cheap_values,
    pose,
    windows_of,
)
from jaxsim.search.result import SearchResult
from jaxsim.search.ties import Residual, resampled, tie_set

_CANDIDATES = 1 / 8  # of the budget; the rest is for derivatives
_FROM_TABLE = 1 / 4  # of the candidates, at most
_STARTS = 4  # choices of sources to descend from, if their number is limited
_APART = 0.01  # share of the tokens by which two mixtures differ at least


def search(
    scorer: Scorer,
    config: SearchConfig,
    table: Scores | None = None,
    residual_of: Callable[[Objective], Residual | None] = lambda _: None,
    correction: Correction | None = None,
) -> SearchResult:
    """Chooses on dev documents, reports on test documents.

    Args:
      scorer: of the workdir.
      config: objective, constraints, method and budget.
      table: a scored table: what the method 'table' chooses from, and
        candidates of a descent.
      residual_of: how far training lies from what is predicted, for an
        objective; once reference runs exist.
      correction: of merges towards training, once reference runs exist.

    Raises:
      UserError: the table is of another pool, the constraints exclude each
        other, or nothing in the table may be trained on.
    """
    if table is not None:
        scorer.check_current(table)
    problem = pose(scorer, config, correction)
    report = windows_of(scorer.evaluation, problem.objective, "test", 0)
    residual = residual_of(problem.objective_on(report))
    looked_at = 0
    if config.method == "table":
        scored = _rows_of(problem, table)
        goal = problem.objective_on(scored.losses.rows)
        problem = dataclasses.replace(problem, objective=goal)
    else:
        if table is not None:
            problem.loss.know(table.table, table.predictors["merge"])
        say(
            f"search: {config.evaluations} evaluations at most, each of "
            f"{len(problem.loss.rows):,} windows"
        )
        with progress(config.evaluations, "search", "evaluations") as tick:
            problem.loss.tell = tick
            looked_at = look(problem, table)
        scored = _searched(problem, table)
    scored = _within_limits(problem, scored)
    value_M, draw_MB, unit = resampled(
        scorer.evaluation, scored.losses.rows, scored.losses.nll_MR, "dev",
        problem.objective, config.seed,
        base=(
            problem.base_R[scored.losses.rows], problem.objective.base_D
        ),
    )  # fmt: skip
    bits_MD = bits_of(scorer.evaluation, scored.losses, "dev")
    shift_M = problem.objective.value(
        corrected(correction, scored.table.w_MC, bits_MD, scored.losses.rows)
    ) - problem.objective.value(bits_MD)
    ties = tie_set(
        value_M + shift_M, draw_MB + shift_M[:, None], unit, config.level,
        config.min_effect, residual, config.seed,
    )  # fmt: skip
    found = answer(problem, scored, value_M, shift_M, ties, looked_at, table)
    return dataclasses.replace(found, calibrated=correction is not None)


def look(problem: Problem, table: Scores | None = None) -> int:
    """Spends the budget; the problem's loss keeps all that was found.

    Args:
      problem: what is searched.
      table: a scored table, whose mixtures are candidates.

    Returns:
      How many mixtures the cheap predictor looked at.
    """
    w_MC, hessian_CC = _candidates(problem, table)
    say(
        f"search: {problem.config.candidates:,} mixtures by the probability "
        f"average; {len(w_MC)} are merged"
    )
    problem.loss.values(w_MC)
    for start_C in _starts(problem):
        try:
            face = problem.feasible.face(start_C)
            descend(problem.loss, face, start_C, hessian_CC)
        except BudgetSpent:
            break
    return problem.config.candidates


def _candidates(
    problem: Problem, table: Scores | None
) -> tuple[np.ndarray, np.ndarray]:
    """[M, C] different mixtures to merge, and the average's curvature."""
    feasible, config = problem.feasible, problem.config
    count = max(1, int(_CANDIDATES * config.evaluations))
    sample_MC = feasible.sample(config.candidates, np.random.default_rng(config.seed))
    value_M = cheap_values(problem, sample_MC)
    order = np.argsort(value_M, kind="stable")
    face = feasible.face(sample_MC[order[0]])
    # From the center: a descent that begins near its end learns no curvature.
    lowest_C, hessian_CC = descend(cheap_loss(problem), face, face.center_C)
    liked_MC = np.zeros((0, len(lowest_C)))
    if table is not None:
        liked_MC = _liked(problem, table)[: int(_FROM_TABLE * count)]
    w_MC = np.concatenate([lowest_C[None], liked_MC, sample_MC[order[:count]]])
    different = {key_of(w_C): w_C for w_C in w_MC}
    return np.array(list(different.values())[:count]), hessian_CC


def _liked(problem: Problem, table: Scores) -> np.ndarray:
    """Allowed mixtures of a table, the best by its own windows first."""
    bits_MD = table.bits_per_byte("merge", "dev")
    needed = problem.objective.needed_D
    usable = (table.table.scale_M == 1) & np.isfinite(bits_MD[:, needed]).all(1)
    goal = problem.objective_on(table.predictors["merge"].rows)
    value_M = goal.penalised(bits_MD[usable])
    w_MC = table.table.w_MC[usable][np.argsort(value_M, kind="stable")]
    return w_MC[problem.feasible.contains(w_MC)]


def _starts(problem: Problem) -> list[np.ndarray]:
    """The lowest allowed mixture so far.

    With a limited number of sources, which a descent does not exchange, also
    the lowest ones with other sources.
    """
    w_MC, value_M = problem.loss.history
    may_M = problem.feasible.contains(w_MC)
    order = np.argsort(value_M[may_M], kind="stable")
    starts: dict[bytes, np.ndarray] = {}
    for w_C in w_MC[may_M][order]:
        used = (w_C > 0).tobytes() if problem.config.max_sources else b""
        starts.setdefault(used, problem.feasible.nearest(w_C))
    return list(starts.values())[:_STARTS]


def _within_limits(problem: Problem, scored: Scored) -> Scored:
    """Mixtures that keep all limits on domains or, without one, the nearest.

    On the dev text as it is, with a tolerance for a descent that ends where a
    limit begins.
    """
    goal = problem.objective
    bits_MD = bits_of(problem.scorer.evaluation, scored.losses, "dev")
    over_M = goal.violation(
        corrected(
            problem.loss.correction,
            scored.table.w_MC,
            bits_MD,
            scored.losses.rows,
        )
    )
    keeps = over_M <= max(float(over_M.min()), 0.0) + EXCESS
    rows = np.flatnonzero(keeps)
    losses = PredictorScores(scored.losses.rows, scored.losses.nll_MR[rows])
    return Scored(scored.table.take(rows), losses)


def _rows_of(problem: Problem, table: Scores | None) -> Scored:
    """The table's mixtures that may be chosen."""
    if table is None:
        raise UserError(
            "config.search.method='table': there is no scored table; run "
            "`jaxsim score`, or use another method"
        )
    rows = np.flatnonzero(table.table.scale_M == 1)
    if other := np.count_nonzero(table.table.scale_M) - len(rows):
        say(
            f"search: {other} mixtures of another scale than 1 are left out: "
            "a run has token shares and no scale"
        )
    if not len(rows):  # nor is the base model a mixture to be trained on
        raise UserError(
            f"table {table.name!r}: it holds only the base model, or mixtures of "
            "another scale than 1; nothing in it can be trained on"
        )
    rows = rows[problem.feasible.contains(table.table.w_MC[rows])]
    if not len(rows):
        raise UserError(
            f"table {table.name!r}: the constraints of config.search allow "
            "none of its mixtures; relax them, or use another method"
        )
    merge = table.take(rows).predictors["merge"]
    return Scored(table.table.take(rows), merge)


def _searched(problem: Problem, table: Scores | None) -> Scored:
    """All that is known on all windows, if it may be chosen.

    Of mixtures that are nearly the same, as the last steps of a descent are,
    only the best one counts, and those with a name.
    """
    w_MC, value_M = problem.loss.history
    names: dict[bytes, tuple[str, str]] = {}
    for known in (problem.plain, *([table.table] if table else [])):
        for m, w_C in enumerate(known.w_MC):
            if known.scale_M[m] == 1:
                names.setdefault(key_of(w_C), (known.names[m], known.kinds[m]))
    may = np.flatnonzero(problem.feasible.contains(w_MC))
    allowed: list[int] = []
    for m in may[np.argsort(value_M[may], kind="stable")]:
        apart = np.abs(w_MC[allowed] - w_MC[m]).sum(axis=1) / 2
        if key_of(w_MC[m]) in names or (apart >= _APART).all():
            allowed.append(int(m))
    taken = {name for name, _ in names.values()}
    free = (f"found {i}" for i in itertools.count(1))
    free = (name for name in free if name not in taken)
    labels = [names.get(key_of(w_MC[m])) or (next(free), "found") for m in allowed]
    mixtures = Mixtures(
        problem.loss.members,
        tuple(name for name, _ in labels),
        tuple(kind for _, kind in labels),
        w_MC[allowed],
        np.ones(len(allowed)),
    )
    nll_MR = problem.loss.nll_MR[allowed]
    return Scored(mixtures, PredictorScores(problem.loss.rows, nll_MR))
