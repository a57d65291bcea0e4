"""The best mixture for an objective under constraints, with all that ties."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.console import say
from jaxsim.errors import UserError
from jaxsim.metrics import progress
from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.mixture.marginal import marginal_values
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.scores import ProxyScores, Scores, domain_sums
from jaxsim.mixture.table import Mixtures
from jaxsim.search.binding import binding, repeats
from jaxsim.search.cascade import Outcome, look, race_error
from jaxsim.search.constraints import Feasible
from jaxsim.search.found import Found
from jaxsim.search.landscape import Slope
from jaxsim.search.objective import Objective, target_weights
from jaxsim.search.problem import Problem, pose, windows_of
from jaxsim.search.race import Race
from jaxsim.search.resample import resampled
from jaxsim.search.ties import Residual, Ties, tie_set

FINALISTS = "finalists"
_FINALISTS = 24  # tied mixtures that are scored on report text
_SINGLE = 1e-6  # share of the tokens that is not a single member's
_APART = 0.01  # share of the tokens by which two mixtures differ at least
_PLAIN = ("uniform", "proportional", "macro")


@dataclasses.dataclass(frozen=True)
class _Scored:
    """Mixtures that a merge was scored for, on the windows `losses.rows`."""

    table: Mixtures
    losses: ProxyScores


def search(
    scorer: Scorer,
    config: SearchConfig,
    table: Scores | None = None,
    residual_of: Callable[[Objective], Residual | None] = lambda _: None,
) -> Found:
    """Chooses on select documents, reports on report documents.

    Args:
      scorer: of the workdir.
      config: objective, constraints, method and budget.
      table: a scored table: what the method 'table' chooses from, and
        candidates of a cascade.
      residual_of: the merge's for an objective, once truths exist.

    Raises:
      UserError: the table is of another pool, the constraints exclude each
        other, or nothing in the table may be trained on.
    """
    if table is not None:
        scorer.check_current(table)
    problem = pose(scorer, config)
    residual = residual_of(problem.objective)
    outcome = Outcome()
    if config.method == "table":
        scored = _rows_of(problem, table)
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
    value_M, draw_MB, unit = resampled(
        scorer.evaluation, scored.losses.rows, scored.losses.nll_MR, "select",
        problem.statistic, config.rng,
    )  # fmt: skip
    # What truths showed of merges of several members: see `Residual`.
    offset = residual.offset if residual is not None else 0.0
    single_M = scored.table.w_MC.max(axis=1) > 1 - _SINGLE
    single_M &= scored.table.scale_M == 1
    shift_M = np.where(single_M, 0.0, offset)
    # A race may have lost the best already; together they keep the level.
    level = config.level
    if outcome.race is not None:
        level += race_error(level)
    ties = tie_set(
        value_M + shift_M, draw_MB + shift_M[:, None], unit, level,
        config.worth, residual, config.rng,
    )  # fmt: skip
    found = _answer(problem, scored, value_M, ties, outcome, table)
    return dataclasses.replace(found, offset=offset)


def _rows_of(problem: Problem, table: Scores | None) -> _Scored:
    """The table's mixtures that may be chosen."""
    if table is None:
        raise UserError(
            "config.search.method='table': there is no scored table; run "
            "`jaxsim score`, or use another method"
        )
    rows = np.flatnonzero(table.table.scale_M)
    if not len(rows):  # the seed is no mixture to be trained on
        raise UserError(f"table {table.name!r}: it holds only the seed")
    rows = rows[problem.feasible.contains(table.table.w_MC[rows])]
    if not len(rows):
        raise UserError(
            f"table {table.name!r}: the constraints of config.search allow "
            "none of its mixtures; relax them, or use another method"
        )
    merge = table.take(rows).proxies["merge"]
    return _Scored(table.table.take(rows), merge)


def _searched(problem: Problem, table: Scores | None) -> _Scored:
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
    labels = [
        names.get(_key(w_MC[m]), (f"found {i + 1}", "found"))
        for i, m in enumerate(allowed)
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
    return _Scored(
        mixtures, ProxyScores(problem.landscape.rows, nll_MR[allowed])
    )


def _answer(
    problem: Problem,
    scored: _Scored,
    value_M: np.ndarray,
    ties: Ties,
    outcome: Outcome,
    table: Scores | None,
) -> Found:
    config, landscape = problem.config, problem.landscape
    e, goal = problem.scorer.evaluation, problem.objective
    w_C = scored.table.w_MC[ties.best]
    scale = float(scored.table.scale_M[ties.best])
    slope, marginal = _derivatives(problem, w_C, scale)
    available_D = np.bincount(e.domain_R[windows_of(e, goal, "select", 0)])
    rows = scored.losses.rows
    rows = rows[goal.needed_D[e.domain_R[rows]] & (e.half_R[rows] == 0)]
    stack = problem.scorer.proxies.stack
    return Found(
        target={
            name: float(w)
            for name, w in zip(
                e.domains, target_weights(config, e), strict=True
            )
            if w > 0
        },
        objective=config.objective,
        method=config.method,
        table=table.name if table is not None else "",
        searched=len(scored.table),
        looked_at=outcome.looked_at,
        evaluations=landscape.spent,
        tokens=landscape.spent_tokens,
        windows=int(np.bincount(e.domain_R[rows]).max()),
        select_windows=int(available_D.max()),
        ties={
            "heading": ties.heading,
            "resampled": ties.unit,
            "level": config.level,
            "worth": config.worth,
            "count": len(ties.tied),
        },
        rows=_rows(problem, scored, value_M, ties),
        race=_looks(outcome.race),
        certificate=_certificate(outcome, value_M),
        binding=_binding(problem, w_C, slope, scored, ties.best),
        epochs=_epochs(problem.feasible, w_C),
        warnings=_warnings(problem, scored, ties.best),
        marginal=marginal,
        evaluation=e.digest,
        digests=stack.pins,
        notes=list(stack.notes),
    )


def _derivatives(
    problem: Problem, w_C: np.ndarray, scale: float
) -> tuple[Slope, dict[str, Any]]:
    """Of the objective, and the marginal values of every domain."""
    landscape, proxies = problem.landscape, problem.scorer.proxies
    e = problem.scorer.evaluation
    rows = landscape.rows
    found = proxies.jacobian(w_C, scale, rows)
    dw_DC, bytes_D = found.dw_DC, _bytes(e, rows)
    slope = Slope(
        *problem.objective.pieces(
            landscape.bits(found.nll_R[None])[0], landscape.per_byte(dw_DC)
        )
    )
    others = e.rows("select", problem.scorer.config.windows)
    others = others[~problem.objective.needed_D[e.domain_R[others]]]
    if len(others):
        dw_DC = dw_DC + proxies.jacobian(w_C, scale, others).dw_DC
        bytes_D = bytes_D + _bytes(e, others)
    bits_DC = marginal_values(dw_DC, w_C, bytes_D)
    there = np.flatnonzero(bytes_D)
    return slope, {
        "members": list(landscape.members),
        "domains": [e.domains[d] for d in there],
        "bits_DC": bits_DC[there].tolist(),
    }


def _bytes(evaluation: EvaluationSet, rows: np.ndarray) -> np.ndarray:
    e = evaluation
    return np.bincount(e.domain_R[rows], e.bytes_R[rows], len(e.domains))


def _rows(
    problem: Problem, scored: _Scored, value_M: np.ndarray, ties: Ties
) -> list[dict[str, Any]]:
    """The tied mixtures, the plain ones, and what other proxies say."""
    table = scored.table
    plain = [m for m, kind in enumerate(table.kinds) if kind in _PLAIN]
    singles = [m for m in range(len(table)) if len(table.parts(m)) == 1]
    if singles:
        plain.append(min(singles, key=lambda m: value_M[m]))
    shown = list(dict.fromkeys([*ties.tied.tolist(), *plain]))
    reported = dict.fromkeys([*ties.tied[:_FINALISTS].tolist(), *plain])
    report_M = _on_report(problem, table, list(reported))
    others = {
        name: _by_proxy(problem, table.take(shown), name)
        for name in ("probability", "members")
    }
    tied = set(ties.tied.tolist())
    return [
        {
            "name": table.names[m],
            "kind": table.kinds[m],
            "weights": table.parts(m),
            "scale": float(table.scale_M[m]),
            "select": float(value_M[m]),
            "report": report_M.get(m),
            **{name: values[i] for name, values in others.items()},
            "difference": float(ties.difference_M[m]),
            "error": float(ties.error_M[m]),
            "limit": float(ties.limit_M[m]),
            "tied": m in tied,
        }
        for i, m in enumerate(shown)
    ]


def _on_report(
    problem: Problem, table: Mixtures, some: list[int]
) -> dict[int, float]:
    """The objective on all report text, of these rows of the table."""
    scorer, goal = problem.scorer, problem.objective
    rows = windows_of(scorer.evaluation, goal, "report", 0)
    losses = scorer.proxies.merge(FINALISTS, table.take(some), rows)
    seed = scorer.references().take(np.array([0])).proxies["merge"]
    there = _objective_on(problem, "report", seed)
    value_K = there.value(_bits(scorer.evaluation, losses, "report"))
    return dict(zip(some, value_K.tolist(), strict=True))


def _objective_on(problem: Problem, half: str, seed: ProxyScores) -> Objective:
    """The objective, measured against the seed on that half."""
    bits_D = _bits(problem.scorer.evaluation, seed, half)[0]
    return dataclasses.replace(problem.objective, seed_D=bits_D)


def _by_proxy(
    problem: Problem, table: Mixtures, proxy: str
) -> list[float | None]:
    """The objective on select text by a proxy that needs no model."""
    scorer, landscape = problem.scorer, problem.landscape
    sums = getattr(scorer.proxies, f"{proxy}_sums")
    nll_MD = sums(table.w_MC, scorer.token_losses[1:], landscape.rows)
    value_M = problem.objective.value(landscape.per_byte(nll_MD.T).T)
    return [
        float(value) if scale == 1 else None
        for value, scale in zip(value_M, table.scale_M, strict=True)
    ]


def _bits(
    evaluation: EvaluationSet, losses: ProxyScores, half: str
) -> np.ndarray:
    nll_MD, sums = domain_sums(evaluation, losses, half)
    with np.errstate(invalid="ignore", divide="ignore"):
        return nll_MD / (sums["bytes"] * np.log(2.0))


def _looks(run: Race | None) -> list[dict[str, Any]]:
    """What the race dropped, look by look."""
    if run is None:
        return []
    return [
        {
            "windows": windows,
            "entered": entered,
            "dropped": int((run.dropped_M == look).sum()),
        }
        for look, (windows, entered) in enumerate(
            zip(run.windows, run.entered, strict=True)
        )
    ]


def _certificate(
    outcome: Outcome, value_M: np.ndarray
) -> dict[str, float] | None:
    """How much lower any allowed mixture can be, if the loss is convex."""
    if outcome.result is None or outcome.result.gap is None:
        return None
    best = float(value_M.min())
    # The bound holds for every mixture, so for the best one seen as well.
    bound = outcome.result.value - outcome.result.gap
    gap = max(best - bound, 0.0)
    return {"gap": gap, "relative": gap / abs(best)}


def _binding(
    problem: Problem,
    w_C: np.ndarray,
    slope: Slope,
    scored: _Scored,
    best: int,
) -> list[dict[str, Any]]:
    """Limits that the best mixture has reached, on weights and on domains."""
    found = [
        dataclasses.asdict(each)
        for each in binding(problem.feasible, w_C, slope)
    ]
    goal = problem.objective
    bits_D = _best_bits(problem, scored, best)
    for d in np.flatnonzero(np.isfinite(goal.regret_D)):
        if bits_D[d] >= goal.limit_D[d] * (1 - 1e-4):
            found.append(
                {
                    "name": goal.domains[d],
                    "kind": "regret",
                    "limit": float(goal.limit_D[d]),
                    "value": float(bits_D[d]),
                    "gain": None,
                    "step": "",
                }
            )
    return found


def _best_bits(problem: Problem, scored: _Scored, best: int) -> np.ndarray:
    losses = ProxyScores(
        scored.losses.rows, scored.losses.nll_MR[best : best + 1]
    )
    return _bits(problem.scorer.evaluation, losses, "select")[0]


def _epochs(feasible: Feasible, w_C: np.ndarray) -> dict[str, float]:
    """Of each source that the planned run uses; empty without a plan."""
    if not feasible.plan.tokens:
        return {}
    return {
        name: float(epochs)
        for name, epochs, w in zip(
            feasible.members, feasible.repetition(w_C), w_C, strict=True
        )
        if w > 0
    }


def _warnings(problem: Problem, scored: _Scored, best: int) -> list[str]:
    """What should be known before the best mixture is trained."""
    lines = [
        f"the run would repeat the source of {repeat.name} "
        f"{repeat.planned:.1f} times, and its member was trained on "
        f"{repeat.member:.1f}: what more repetition costs was not measured"
        for repeat in repeats(problem.feasible, scored.table.w_MC[best])
    ]
    over = float(
        problem.objective.violation(_best_bits(problem, scored, best)[None])[0]
    )
    if over > 0:
        lines.append(
            "no mixture that was scored keeps all limits on regret; the best "
            f"one exceeds them by {over:.4f} bits per byte"
        )
    return lines


def _key(w_C: np.ndarray) -> bytes:
    return np.round(w_C, 12).tobytes()
