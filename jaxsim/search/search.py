"""The best mixture for an objective under constraints, with all that ties."""

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.errors import UserError
from jaxsim.log import progress, say
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.scores import ProxyScores, Scores, bits_of
from jaxsim.mixture.table import Mixtures
from jaxsim.search.answer import EXCESS, Scored, answer
from jaxsim.search.cascade import Outcome, look, race_error
from jaxsim.search.correction import Correction, corrected
from jaxsim.search.found import Found
from jaxsim.search.objective import Objective
from jaxsim.search.problem import Problem, pose, windows_of
from jaxsim.search.resample import resampled
from jaxsim.search.ties import Residual, tie_set

_APART = 0.01  # share of the tokens by which two mixtures differ at least


def search(
    scorer: Scorer,
    config: SearchConfig,
    table: Scores | None = None,
    residual_of: Callable[[Objective], Residual | None] = lambda _: None,
    correction: Correction | None = None,
) -> Found:
    """Chooses on select documents, reports on report documents.

    Args:
      scorer: of the workdir.
      config: objective, constraints, method and budget.
      table: a scored table: what the method 'table' chooses from, and
        candidates of a cascade.
      residual_of: how far truths lie from what is predicted, for an objective;
        once truths exist.
      correction: of merges towards training, once truths exist.

    Raises:
      UserError: the table is of another pool, the constraints exclude each
        other, or nothing in the table may be trained on.
    """
    if table is not None:
        scorer.check_current(table)
    problem = pose(scorer, config, correction)
    report = windows_of(scorer.evaluation, problem.objective, "report", 0)
    residual = residual_of(problem.objective_on(report))
    outcome = Outcome()
    if config.method == "table":
        scored = _rows_of(problem, table)
        goal = problem.objective_on(scored.losses.rows)
        problem = dataclasses.replace(problem, objective=goal)
    else:
        if table is not None:
            problem.landscape.know(table.table, table.proxies["merge"])
        say(
            f"search: {config.evaluations} evaluations at most, each of "
            f"{len(problem.landscape.rows):,} windows"
        )
        with progress(config.evaluations, "search", "evaluations") as tick:
            problem.landscape.tell = tick
            outcome = look(problem, table, residual)
        scored = _searched(problem, table)
    scored = _within_limits(problem, scored)
    value_M, draw_MB, unit = resampled(
        scorer.evaluation, scored.losses.rows, scored.losses.nll_MR, "select",
        problem.objective, config.rng,
        seed=(
            problem.seed_R[scored.losses.rows], problem.objective.seed_D
        ),
    )  # fmt: skip
    bits_MD = bits_of(scorer.evaluation, scored.losses, "select")
    shift_M = problem.objective.value(
        corrected(correction, scored.table.w_MC, bits_MD, scored.losses.rows)
    ) - problem.objective.value(bits_MD)
    # A race may have lost the best already; together they keep the level.
    level = config.level
    if outcome.race is not None:
        level += race_error(level)
    ties = tie_set(
        value_M + shift_M, draw_MB + shift_M[:, None], unit, level,
        config.worth, residual, config.rng,
    )  # fmt: skip
    found = answer(problem, scored, value_M, shift_M, ties, outcome, table)
    return dataclasses.replace(found, calibrated=correction is not None)


def _within_limits(problem: Problem, scored: Scored) -> Scored:
    """Mixtures that keep all limits on regret or, without one, the nearest.

    On the select text as it is, with a tolerance for a descent that ends where
    a limit begins.
    """
    goal = problem.objective
    bits_MD = bits_of(problem.scorer.evaluation, scored.losses, "select")
    over_M = goal.violation(
        corrected(
            problem.landscape.correction,
            scored.table.w_MC,
            bits_MD,
            scored.losses.rows,
        )
    )
    keeps = over_M <= max(float(over_M.min()), 0.0) + EXCESS
    rows = np.flatnonzero(keeps)
    losses = ProxyScores(scored.losses.rows, scored.losses.nll_MR[rows])
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
    if not len(rows):  # nor is the seed a mixture to be trained on
        raise UserError(
            f"table {table.name!r}: it holds only the seed, or mixtures of "
            "another scale than 1; nothing in it can be trained on"
        )
    rows = rows[problem.feasible.contains(table.table.w_MC[rows])]
    if not len(rows):
        raise UserError(
            f"table {table.name!r}: the constraints of config.search allow "
            "none of its mixtures; relax them, or use another method"
        )
    merge = table.take(rows).proxies["merge"]
    return Scored(table.table.take(rows), merge)


def _searched(problem: Problem, table: Scores | None) -> Scored:
    """All that the landscape knows on all windows, if it may be chosen.

    Of mixtures that are nearly the same, as the steps of a descent come to
    be, only the best one counts, and those with a name.
    """
    w_MC, value_M = problem.landscape.history
    _, nll_MR = problem.landscape.complete()
    names: dict[bytes, tuple[str, str]] = {}
    for known in (problem.plain, *([table.table] if table else [])):
        for m, w_C in enumerate(known.w_MC):
            if known.scale_M[m] == 1:
                names.setdefault(_key(w_C), (known.names[m], known.kinds[m]))
    may = np.flatnonzero(problem.feasible.contains(w_MC))
    allowed: list[int] = []
    for m in may[np.argsort(value_M[may], kind="stable")]:
        apart = np.abs(w_MC[allowed] - w_MC[m]).sum(axis=1) / 2
        if _key(w_MC[m]) in names or (apart >= _APART).all():
            allowed.append(int(m))
    taken = {name for name, _ in names.values()}
    free = (f"found {i}" for i in itertools.count(1))
    free = (name for name in free if name not in taken)
    labels = [
        names.get(_key(w_MC[m])) or (next(free), "found") for m in allowed
    ]
    if not allowed:
        raise UserError(
            f"config.search.evaluations={problem.config.evaluations} is too "
            "little to score one mixture that the constraints allow; raise it"
        )
    mixtures = Mixtures(
        problem.landscape.members,
        tuple(name for name, _ in labels),
        tuple(kind for _, kind in labels),
        w_MC[allowed],
        np.ones(len(allowed)),
    )
    return Scored(
        mixtures, ProxyScores(problem.landscape.rows, nll_MR[allowed])
    )


def _key(w_C: np.ndarray) -> bytes:
    return np.round(w_C, 12).tobytes()
