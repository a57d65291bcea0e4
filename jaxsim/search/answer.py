"""What a search has to say about the best mixture and all that ties with it."""

import dataclasses
from typing import Any

import numpy as np

from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.scoring.gradient import marginal_values
from jaxsim.scoring.scores import PredictorScores, Scores, bits_of
from jaxsim.scoring.table import Mixtures
from jaxsim.search.constraints import Feasible, binding, replicates
from jaxsim.search.loss import Slope, corrected
from jaxsim.search.objective import Objective, target_weights
from jaxsim.search.problem import Problem, windows_of
from jaxsim.search.result import SearchResult
from jaxsim.search.ties import Ties

FINALISTS = "finalists"
_FINALISTS = 12  # tied mixtures that are scored on test text
EXCESS = 1e-4  # bits per byte by which a limit may be missed
_ACTIVE = 1e-4  # of the objective: pieces of a maximum that count as largest
_PLAIN = ("uniform", "proportional", "macro")


@dataclasses.dataclass(frozen=True)
class Scored:
    """Mixtures that a merge was scored for, on the windows `losses.rows`."""

    table: Mixtures
    losses: PredictorScores


def answer(
    problem: Problem,
    scored: Scored,
    value_M: np.ndarray,
    shift_M: np.ndarray,
    ties: Ties,
    looked_at: int,
    table: Scores | None,
) -> SearchResult:
    """Everything that is known of the tie set, as it is kept.

    Args:
      value_M: the objective of the merges.
      shift_M: the correction towards training, already in `ties`.
    """
    config, loss = problem.config, problem.loss
    e, goal = problem.scorer.evaluation, problem.objective
    w_C, bits_D = (
        scored.table.w_MC[ties.best],
        _bits(problem, scored, ties.best),
    )
    scale = float(scored.table.scale_M[ties.best])
    slope, marginal = _derivatives(problem, w_C, scale)
    available_D = np.bincount(e.domain_R[windows_of(e, goal, "dev", 0)])
    rows = scored.losses.rows
    rows = rows[goal.needed_D[e.domain_R[rows]] & (e.split_R[rows] == 0)]
    stack = problem.scorer.predictors.stack
    return SearchResult(
        target={
            name: float(w)
            for name, w in zip(e.domains, target_weights(config, e), strict=True)
            if w > 0
        },
        objective=config.objective,
        method=config.method,
        table=table.name if table is not None else "",
        searched=len(scored.table),
        looked_at=looked_at,
        evaluations=loss.spent,
        tokens=loss.spent_tokens,
        windows=int(np.bincount(e.domain_R[rows]).max()),
        dev_windows=int(available_D.max()),
        ties={
            "heading": ties.heading,
            "resampled": ties.unit,
            "level": config.level,
            "min_effect": config.min_effect,
            "count": len(ties.tied),
        },
        rows=_rows(problem, scored, value_M, shift_M, ties),
        binding=_binding(problem, w_C, slope, bits_D),
        constraints=_constraints(problem),
        domains=_domains(goal, bits_D),
        epochs=_epochs(problem.feasible, w_C),
        warnings=_warnings(problem, w_C, bits_D),
        marginal=marginal,
        basis=problem.scorer.basis,
        notes=list(stack.notes),
    )


def _derivatives(
    problem: Problem, w_C: np.ndarray, scale: float
) -> tuple[Slope, dict[str, Any]]:
    """The objective's slope, and the marginal values of every domain."""
    loss, predictors = problem.loss, problem.scorer.predictors
    e = problem.scorer.evaluation
    rows = loss.rows
    found = predictors.jacobian(w_C, scale, rows)
    dw_DC, bytes_D = found.dw_DC, _bytes(e, rows)
    slope = loss.slope_of(w_C, found)
    others = e.rows("dev", problem.scorer.config.windows)
    others = others[~problem.objective.needed_D[e.domain_R[others]]]
    if len(others):
        dw_DC = dw_DC + predictors.jacobian(w_C, scale, others).dw_DC
        bytes_D = bytes_D + _bytes(e, others)
    bits_DC = marginal_values(dw_DC, w_C, bytes_D)
    there = np.flatnonzero(bytes_D)
    damaged = problem.scorer.predictors.stack.damaged
    sound = np.array([c for c, n in enumerate(loss.members) if n not in damaged], int)
    toward_CP = slope.slope_PC.T - (slope.slope_PC @ w_C)
    active = slope.value_P >= slope.value - _ACTIVE * abs(slope.value)
    return slope, {
        "members": [loss.members[c] for c in sound],
        "objective_C": (0.01 * toward_CP[:, active].max(axis=1))[sound].tolist(),
        "domains": [e.domains[d] for d in there],
        "bits_DC": bits_DC[np.ix_(there, sound)].tolist(),
    }


def _bytes(evaluation: EvaluationSet, rows: np.ndarray) -> np.ndarray:
    e = evaluation
    return np.bincount(e.domain_R[rows], e.bytes_R[rows], len(e.domains))


def _rows(
    problem: Problem,
    scored: Scored,
    value_M: np.ndarray,
    shift_M: np.ndarray,
    ties: Ties,
) -> list[dict[str, Any]]:
    """The tied mixtures, the plain ones, and what other predictors say."""
    table = scored.table
    plain = [m for m, kind in enumerate(table.kinds) if kind in _PLAIN]
    singles = [m for m in range(len(table)) if len(table.parts(m)) == 1]
    if singles:
        plain.append(min(singles, key=lambda m: (value_M + shift_M)[m]))
    shown = list(dict.fromkeys([*ties.tied.tolist(), *plain]))
    reported = dict.fromkeys([*ties.tied[:_FINALISTS].tolist(), *plain])
    test_M = _on_test(problem, table, list(reported))
    others = {
        name: _by_predictor(problem, table.take(shown), name)
        for name in ("ensemble", "members")
    }
    tied = set(ties.tied.tolist())
    return [
        {
            "name": table.names[m],
            "kind": table.kinds[m],
            "weights": table.parts(m),
            "scale": float(table.scale_M[m]),
            "dev": float(value_M[m]),
            "test": test_M.get(m),
            "shift": float(shift_M[m]),
            **{name: values[i] for name, values in others.items()},
            "difference": float(ties.difference_M[m]),
            "error": float(ties.error_M[m]),
            "limit": float(ties.limit_M[m]),
            "tied": m in tied,
        }
        for i, m in enumerate(shown)
    ]


def _on_test(problem: Problem, table: Mixtures, some: list[int]) -> dict[int, float]:
    """The objective on all test text, of these rows of the table."""
    scorer, goal = problem.scorer, problem.objective
    rows = windows_of(scorer.evaluation, goal, "test", 0)
    losses = scorer.predictors.merge(FINALISTS, table.take(some), rows)
    there = problem.objective_on(rows)
    value_K = there.value(bits_of(scorer.evaluation, losses, "test"))
    return dict(zip(some, value_K.tolist(), strict=True))


def _by_predictor(
    problem: Problem, table: Mixtures, predictor: str
) -> list[float | None]:
    """The objective on dev text by a predictor that needs no model."""
    scorer, loss = problem.scorer, problem.loss
    sums = getattr(scorer.predictors, f"{predictor}_sums")
    nll_MD = sums(table.w_MC, scorer.token_losses[1:], loss.rows)
    value_M = problem.objective.value(loss.per_byte(nll_MD.T).T)
    return [
        float(value) if scale == 1 else None
        for value, scale in zip(value_M, table.scale_M, strict=True)
    ]


def _binding(
    problem: Problem,
    w_C: np.ndarray,
    slope: Slope,
    bits_D: np.ndarray,
) -> list[dict[str, Any]]:
    """Limits that the best mixture has reached, on weights and on domains."""
    found = [dataclasses.asdict(each) for each in binding(problem.feasible, w_C, slope)]
    goal = problem.objective
    for d in np.flatnonzero(np.isfinite(goal.max_regression_D)):
        if bits_D[d] >= goal.limit_D[d] - EXCESS:
            found.append(
                {
                    "name": goal.domains[d],
                    "kind": "max_regression",
                    "limit": float(goal.limit_D[d]),
                    "value": float(bits_D[d]),
                    "gain": None,
                    "step": "",
                }
            )
    return found


def _bits(problem: Problem, scored: Scored, row: int) -> np.ndarray:
    """[D] bits per byte of a row as limits see it: with the correction."""
    losses = scored.losses
    one = PredictorScores(losses.rows, losses.nll_MR[row : row + 1])
    return corrected(
        problem.loss.correction,
        scored.table.w_MC[row : row + 1],
        bits_of(problem.scorer.evaluation, one, "dev"),
        losses.rows,
    )[0]


def _domains(goal: Objective, bits_D: np.ndarray) -> dict[str, dict[str, float]]:
    """Every domain that matters, at the best mixture and at the base."""
    return {
        goal.domains[d]: {
            "best": float(bits_D[d]),
            "base": float(goal.base_D[d]),
        }
        | ({"limit": float(goal.limit_D[d])} if np.isfinite(goal.limit_D[d]) else {})
        for d in np.flatnonzero(goal.needed_D)
    }


def _constraints(problem: Problem) -> list[str]:
    """What was asked for, in words."""
    config, plan = problem.config, problem.feasible.plan
    lines = [f"at least {s:.1%} of {n}" for n, s in config.min_weight.items()]
    lines += [f"at most {s:.1%} of {n}" for n, s in config.max_weight.items()]
    if config.max_sources:
        lines.append(f"at most {config.max_sources} sources")
    if config.divergence:
        lines.append(f"at most {config.divergence:g} nats from {config.prior}")
    if plan.tokens:
        lines.append(
            f"a run of {config.tokens:,.0f} tokens with at most "
            f"{config.epochs:g} epochs of a source"
        )
    return lines + [
        f"{name} at most {share:+.1%} from the base model"
        for name, share in config.max_regression.items()
    ]


def _epochs(feasible: Feasible, w_C: np.ndarray) -> dict[str, float]:
    """Epochs of each source that the run uses; empty without a plan."""
    if not feasible.plan.tokens:
        return {}
    return {
        name: float(epochs)
        for name, epochs, w in zip(
            feasible.members, feasible.repetition(w_C), w_C, strict=True
        )
        if w > 0
    }


def _warnings(problem: Problem, w_C: np.ndarray, bits_D: np.ndarray) -> list[str]:
    """What should be known before the best mixture is trained."""
    lines = [
        f"the run would repeat the source of {repeat.name} "
        f"{repeat.planned:.1f} times, and its member was trained on "
        f"{repeat.member:.1f}: what more repetition costs was not measured"
        for repeat in replicates(problem.feasible, w_C)
    ]
    goal = problem.objective
    over = float(goal.violation(bits_D[None])[0])
    if over > EXCESS:
        lines.append(
            "NOT WITHIN THE LIMITS: no mixture that was scored keeps all "
            "limits on regret; those shown come nearest, and exceed one by "
            f"{over:.4f} bits per byte"
        )
    harm = float(goal.value(bits_D[None])[0] - goal.value(goal.base_D[None])[0])
    if harm > 0:
        lines.append(
            "NOTHING HELPS: even the best mixture is predicted to be worse "
            f"than the base model, by {harm:.4f} bits per byte: training on these "
            "partitions with this recipe would harm the target"
        )
    return lines
