"""What a search reports about the best mixture and all that ties with it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxsim.log import counted
from jaxsim.scoring.quadratic import Misfit
from jaxsim.scoring.scores import Scores, bits_of, bits_per_byte
from jaxsim.scoring.table import Mixtures
from jaxsim.search.constraints import Binding, binding, more_epochs
from jaxsim.search.feasible import LEAST
from jaxsim.search.gains import Gain, gains
from jaxsim.search.objective import EXCESS, Objective, means, target_weights
from jaxsim.search.problem import Problem
from jaxsim.search.result import Ranking, SearchResult
from jaxsim.search.surrogate import Surrogate
from jaxsim.search.ties import Residual, Ties, resampled, tie_set

_FINALISTS = 12  # tied mixtures that are scored on test text
_RESOLVED = 1e-5  # bits; smaller differences may come from float32 losses
_ALIKE = 0.1  # share of the tokens by which mixtures of a group differ from its first
_ACTIVE = 1e-4  # of the objective: pieces this close to the maximum are active


def answer(
    problem: Problem,
    scored: Scores,
    residual: Residual | None,
    cheap: Surrogate | None = None,
) -> SearchResult:
    """The result of a search.

    Args:
      problem: what was searched.
      scored: mixtures that may be chosen, by the name of the table that took part.
      residual: how far training lies from predictions, if reference runs exist.
      cheap: what ranked candidates, if anything did.
    """
    config, loss, scorer = problem.config, problem.loss, problem.scorer
    e, losses = scorer.evaluation, scored.predictors["merge"]
    goal = problem.objective_on(losses.rows)
    bits_MD, trained_MD = problem.bits(scored.table.w_MC, losses)
    # Mixtures that keep all regression limits or, without one, those nearest to it;
    # with a tolerance for a descent that ends at a limit.
    over_M = goal.violation(trained_MD)
    kept = np.flatnonzero(over_M <= over_M.min() + EXCESS)
    table, nll_MR = scored.table.take(kept), losses.nll_MR[kept]
    bits_MD, trained_MD = bits_MD[kept], trained_MD[kept]
    base_R = problem.base_R[losses.rows]
    value_M, draw_MB, unit = resampled(
        e, losses.rows, nll_MR, goal, config.seed, base_R=base_R
    )
    shift_M = goal.value(trained_MD) - goal.value(bits_MD)
    ties = tie_set(
        value_M + shift_M, draw_MB + shift_M[:, None], config.level, config.min_effect,
        residual, config.seed,
    )  # fmt: skip
    w_C, bits_D = table.w_MC[ties.tied[0]], trained_MD[ties.tied[0]]
    here, marginal = _derivatives(problem, w_C)
    slope = problem.objective.pieces(*here)
    named = target_weights(config, e)
    weights_D = goal.weights_D * sum(named.values())
    weights = zip(e.domains, weights_D.tolist(), strict=True)
    dev = problem.windows("dev")
    windows, dev_windows = (
        int(np.bincount(e.domain_R[rows]).max())
        for rows in (np.intersect1d(dev, losses.rows), dev)
    )
    limits = zip(
        config.max_regression,
        goal.limit_L.tolist(),
        means(bits_D, goal.limits_LD).tolist(),
        strict=True,
    )
    bound = binding(problem.feasible, w_C, slope) + [
        Binding(name, "max_regression", limit, bits)
        for name, limit, bits in limits
        if bits >= limit - EXCESS
    ]
    compared = _compared(problem, goal, bits_D)
    rows = _rows(problem, goal, table, value_M, shift_M, ties, cheap)
    against, alone = gains(problem, w_C, residual)
    reach = _reach(value_M + shift_M, ties)
    return SearchResult(
        target={name: weight for name, weight in weights if weight > 0},
        named=named,
        objective=config.objective,
        method=config.method,
        table=scored.name,
        searched=len(table),
        looked_at=0 if config.method == "table" else config.candidates,
        evaluations=loss.spent,
        tokens=round(loss.spent * int(e.length_R[problem.rows].sum())),
        windows=windows,
        dev_windows=dev_windows,
        ties={
            "heading": ties.heading,
            "resampled": unit,
            "level": config.level,
            "min_effect": config.min_effect,
            "count": len(ties.tied),
        },
        rows=rows,
        ranking=None if cheap is None else _ranking(cheap, rows),
        calibrated=problem.correction is not None,
        binding=[dataclasses.asdict(each) for each in bound],
        constraints=_constraints(problem),
        domains={n: row for n, row in compared.items() if n in e.domains},
        means={n: row for n, row in compared.items() if n not in e.domains},
        sources=_sources(problem, w_C, _ranges(cheap, here, w_C, reach), alone),
        range_limit=reach or None,
        against=against,
        warnings=_warnings(problem, goal, w_C, bits_D),
        marginal=marginal,
        basis=scorer.basis,
        notes=list(scorer.stack.notes),
    )


def _derivatives(
    problem: Problem, w_C: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, Any]]:
    """Bits per byte with derivatives, and the marginal values on every domain."""
    scorer, members = problem.scorer, problem.scorer.members
    e = scorer.evaluation
    bits_D, corrected_DC, found = problem.derivatives(w_C)
    slope = problem.objective.pieces(bits_D, corrected_DC)
    dw_DC, bytes_D = found.dw_DC, problem.bytes_D
    others = e.rows("dev", scorer.config.windows)
    others = others[~problem.objective.needed_D[e.domain_R[others]]]
    if len(others):
        dw_DC = dw_DC + scorer.jacobian(w_C, 1.0, others).dw_DC
        bytes_D = bytes_D + e.sums(e.bytes_R[others], others)
    bits_DC = marginal_values(dw_DC, w_C, bytes_D)
    there = np.flatnonzero(bytes_D)
    damaged = scorer.stack.damaged
    sound = np.array([c for c, n in enumerate(members) if n not in damaged], int)
    toward_CP = slope.slope_PC.T - (slope.slope_PC @ w_C)
    active = slope.value_P >= slope.value - _ACTIVE * abs(slope.value)
    return (bits_D, corrected_DC), {
        "members": [members[c] for c in sound],
        "objective_C": (0.01 * toward_CP[:, active].max(axis=1))[sound].tolist(),
        "domains": [e.domains[d] for d in there],
        "bits_DC": bits_DC[np.ix_(there, sound)].tolist(),
    }


def _rows(
    problem: Problem,
    goal: Objective,
    table: Mixtures,
    value_M: np.ndarray,
    shift_M: np.ndarray,
    ties: Ties,
    cheap: Surrogate | None,
) -> list[dict[str, Any]]:
    """The tied and the standard mixtures, with what other predictors say."""
    scorer, e = problem.scorer, problem.scorer.evaluation
    standard = table.standard_merges()
    singles = [m for m in range(len(table)) if len(table.parts(m)) == 1]
    # Two, because the best mixture may be one of them.
    standard += sorted(singles, key=lambda m: (value_M + shift_M)[m])[:2]
    shown = list(dict.fromkeys([*ties.tied.tolist(), *standard]))
    tested = list(dict.fromkeys([*ties.tied[:_FINALISTS].tolist(), *standard]))
    rows, w_KC = problem.windows("test"), table.w_MC[tested]
    losses = scorer.merge(table.take(tested), rows, "finalists")
    bits_KD, on_test = bits_of(e, losses, "test"), problem.objective_on(rows)
    test_K, change_K = on_test.value(bits_KD), np.zeros(len(tested))
    if problem.correction is not None:
        trained_KD = bits_KD + problem.correction.shift(w_KC, bits_KD, rows)
        change_K = on_test.value(trained_KD) - test_K
    test_M = dict(zip(tested, test_K.tolist(), strict=True))
    change_M = dict(zip(tested, change_K.tolist(), strict=True))
    group_M = groups(table.w_MC, ties.tied)
    w_MC, rows = table.w_MC[shown], problem.rows
    nll_2MD = scorer.ensemble(rows).sums(w_MC), scorer.members_sums(w_MC, rows)
    ensemble, members = (goal.value(bits_per_byte(x, problem.bytes_D)) for x in nll_2MD)
    quadratic: Sequence[float | None] = [None] * len(shown)
    if cheap is not None and cheap.quadratic:
        quadratic = goal.value(cheap.bits(w_MC)).tolist()
    return [
        {
            "name": table.names[m],
            "kind": table.kinds[m],
            "weights": table.parts(m),
            "scale": float(table.scale_M[m]),
            "dev": float(value_M[m]),
            "test": test_M.get(m),
            "shift": float(shift_M[m]),
            "test_shift": change_M.get(m),
            "quadratic": quadratic[i],
            "ensemble": float(ensemble[i]),
            "members": float(members[i]),
            "difference": float(ties.difference_M[m]),
            "error": float(ties.error_M[m]),
            "limit": float(ties.limit_M[m]),
            "tied": m in ties.tied,
            "group": group_M.get(m),
        }
        for i, m in enumerate(shown)
    ]


def groups(w_MC: np.ndarray, tied: np.ndarray) -> dict[int, int]:
    """The group of each tied row, which are in order: from 0, the answer's.

    A row joins the first group whose first row differs from it by less than
    `_ALIKE` of the tokens.
    """
    group_M: dict[int, int] = {}
    firsts: list[int] = []
    for m in tied.tolist():
        apart_G = np.abs(w_MC[firsts] - w_MC[m]).sum(axis=1) / 2
        near = np.flatnonzero(apart_G < _ALIKE)
        if not len(near):
            firsts.append(m)
        group_M[m] = int(near[0]) if len(near) else len(firsts) - 1
    return group_M


def _ranking(cheap: Surrogate, rows: Sequence[dict[str, Any]]) -> Ranking:
    """What ranked candidates, and the quadratic's errors."""
    # Of single members and the uniform mixture, it knows the merge.
    pairs = [
        (row["quadratic"], row["dev"])
        for row in rows
        if row["tied"] and len(row["weights"]) > 1 and row["kind"] != "uniform"
    ]
    shown = Misfit.of(*np.array(pairs).T) if cheap.quadratic and pairs else None
    return Ranking(cheap.name, cheap.refusal, cheap.misfit, shown)


def _reach(value_M: np.ndarray, ties: Ties) -> float:
    """The difference to the best up to which mixtures tie, as a single number.

    It is the tie limit of the worst mixture that ties or, if none does, of the next
    best one; 0 if there is no other mixture, or no error to speak of.
    """
    others = np.argsort(value_M, kind="stable")[1:]
    last = [*others[:1], *ties.tied[1:]][-1:]
    reach = float(ties.limit_M[last].sum())
    return reach if reach >= _RESOLVED else 0.0


def _ranges(
    cheap: Surrogate | None,
    here: tuple[np.ndarray, np.ndarray],
    w_C: np.ndarray,
    reach: float,
) -> np.ndarray:
    """Lowest and highest weight of each member [C, 2]; NaN if not known.

    Among mixtures that a quadratic with the merge's own value and derivatives at the
    best mixture, and the closed form's curvature, expects to be worse by `reach` at
    most, and to keep the regression limits.

    Args:
      here: bits per byte [D] of the best mixture, and derivatives [D, C].
    """
    if cheap is None or not cheap.quadratic or not reach:
        return np.full((len(w_C), 2), np.nan)
    goal, excess = cheap.problem.objective.apart(*here)
    room_P = np.concatenate(
        [goal.value + reach - goal.value_P, np.maximum(-excess.value_P, EXCESS)]
    )
    slope_PC = np.concatenate([goal.slope_PC, excess.slope_PC])
    hessian_PCC, kept_P = cheap.hessians_apart(w_C)
    face = cheap.problem.feasible.face(w_C)
    range_CE = face.ranges(slope_PC, hessian_PCC, w_C, room_P)
    if not kept_P.all():
        # A function that was made convex is nowhere below what it was. So it does no
        # harm where it limits nothing.
        parts = (slope_PC[kept_P], hessian_PCC[kept_P], w_C, room_P[kept_P])
        wide_CE = face.ranges(*parts)
        same_C = (np.abs(wide_CE - range_CE) < LEAST).all(axis=1)
        range_CE[~same_C] = np.nan
    return range_CE


def _sources(
    problem: Problem, w_C: np.ndarray, range_CE: np.ndarray, alone: dict[str, Gain]
) -> dict[str, dict[str, Any]]:
    """What the best mixture takes from each member's text."""
    plan, damaged = problem.feasible.plan, problem.scorer.stack.damaged
    epochs_C, more_C = plan.epochs(w_C), more_epochs(plan, w_C)
    ends_CE = [[None if np.isnan(x) else float(x) for x in pair] for pair in range_CE]
    return {
        name: {
            "weight": float(w_C[c]),
            "low": ends_CE[c][0],
            "high": ends_CE[c][1],
            "epochs": float(epochs_C[c]) if plan.tokens else None,
            "member_epochs": float(plan.epochs_C[c]),
            "extrapolated": bool(more_C[c]),
            "gain": alone[name]["gain"],
            "gain_low": alone[name]["low"],
            "gain_high": alone[name]["high"],
        }
        for c, name in enumerate(problem.scorer.members)
        if name not in damaged
    }


def _compared(
    problem: Problem, goal: Objective, bits_D: np.ndarray
) -> dict[str, dict[str, float]]:
    """The base model, the best mixture and the limit, by name of what matters."""
    config, e = problem.config, problem.scorer.evaluation
    limits = dict(zip(config.max_regression, goal.limit_L.tolist(), strict=True))
    needed = np.flatnonzero(goal.needed_D)
    parts = dict(zip(goal.needed, np.eye(len(e.domains))[needed], strict=True))
    parts |= dict(zip(target_weights(config, e), goal.parts_TD, strict=True))
    parts |= dict(zip(limits, goal.limits_LD, strict=True))
    rows = {}
    for name, part_D in parts.items():
        pair = np.array([bits_D, goal.base_D])
        best, base = means(pair, part_D[None])[:, 0].tolist()
        rows[name] = {"best": best, "base": base}
        if name in limits:
            rows[name]["limit"] = limits[name]
    return rows


def _constraints(problem: Problem) -> list[str]:
    """The constraints, in words."""
    config = problem.config
    lines = [f"at least {s:.1%} of {n}" for n, s in config.min_weight.items()]
    lines += [f"at most {s:.1%} of {n}" for n, s in config.max_weight.items()]
    if config.max_sources:
        lines.append(f"at most {counted(config.max_sources, 'source')}")
    if far := config.divergence:
        lines.append(f"at most {far:g} nats from the {config.prior} mixture")
    if problem.feasible.plan.tokens:
        lines.append(
            f"a run of {config.tokens:,.0f} tokens with at most {config.epochs:g} "
            "epochs of a source"
        )
    return lines + [
        f"{name} at most {share:+.1%} from the base model"
        for name, share in config.max_regression.items()
    ]


def _warnings(
    problem: Problem, goal: Objective, w_C: np.ndarray, bits_D: np.ndarray
) -> list[str]:
    """What to know before the best mixture is trained."""
    more_C = more_epochs(problem.feasible.plan, w_C, least=1.0)
    lines = []
    if more_C.any():
        names = [problem.scorer.members[c] for c in np.flatnonzero(more_C)]
        lines.append(
            f"the planned run repeats the text of {', '.join(names)} more often than "
            "the member did: what that costs was not measured"
        )
    over = float(goal.violation(bits_D[None])[0])
    if over > EXCESS:
        lines.append(
            "NOT WITHIN THE LIMITS: no scored mixture keeps all regression limits; "
            f"those shown come nearest, and exceed one by {over:.4f} bits per byte"
        )
    harm = float(goal.value(bits_D[None])[0] - goal.value(goal.base_D[None])[0])
    if harm > 0:
        lines.append(
            "NOTHING HELPS: even the best mixture is predicted to be worse than the "
            f"base model, by {harm:.4f} bits per byte: training on these partitions "
            "with this recipe would harm the target"
        )
    return lines


def marginal_values(
    dw_DC: np.ndarray, w_C: np.ndarray, bytes_D: np.ndarray, share: float = 0.01
) -> np.ndarray:
    """Change of every domain's loss if a share of the tokens goes to a member.

    Member c takes `share` of all tokens from all members in proportion to their
    weights: w + share * (e_c - w), which stays on the simplex. To first order,
    the loss changes by share * (J_c - sum_j w_j J_j), where J are derivatives
    of the domain's nats. Weighted by w, a domain's values sum to 0: not every
    member can be worth more than the mixture.

    Args:
      dw_DC: derivatives of the domains' sums of nats with respect to the
        weights, see `Evaluator.jacobian`.
      w_C: the mixture at which they were taken; sums to 1.
      bytes_D: the same sums of bytes; may be 0.
      share: share of the tokens that moves.

    Returns:
      Bits per byte [D, C], negative if more of c lowers the domain's loss; NaN
      for a domain without text.
    """
    mean_D1 = dw_DC @ w_C[:, None]
    return bits_per_byte(share * (dw_DC - mean_D1), bytes_D[:, None])
