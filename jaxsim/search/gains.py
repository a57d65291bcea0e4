"""What the answer of a search gains on test text, and what each member does alone.

A gain is a share of the other one's loss, and positive if the answer is better. Its
interval holds the error of the text, by the same draws as those of ties, and, with
reference runs, how far training lies from predictions.
"""

from typing import Any

import numpy as np

from jaxsim.corpus.names import Labels
from jaxsim.scoring.scores import bits_of
from jaxsim.scoring.table import Mixtures, mixture_key
from jaxsim.search.problem import Problem
from jaxsim.search.ties import Residual, resampled, scatter

Gain = dict[str, float | None]
_STANDARD = (Labels.PROPORTIONAL, Labels.UNIFORM)


def rivals(problem: Problem, w_C: np.ndarray) -> Mixtures:
    """A mixture as 'best', and the standard ones that it is compared with.

    They are compared whether the constraints allow them or not, but for those with a
    damaged member.
    """
    merges, damaged = problem.scorer.merges(), problem.scorer.stack.damaged
    kept = [
        m
        for m, kind in enumerate(merges.kinds)
        if kind in _STANDARD and not damaged & merges.parts(m).keys()
    ]
    table = merges.take(kept)
    return Mixtures(
        table.members,
        (Labels.BEST, *table.names),
        (Labels.BEST, *table.kinds),
        np.concatenate([w_C[None], table.w_MC]),
        np.ones(1 + len(table)),
    )


def gains(
    problem: Problem, w_C: np.ndarray, residual: Residual | None
) -> tuple[dict[str, dict[str, Any]], dict[str, Gain]]:
    """`SearchResult.against`, and the gain of each member over the base model.

    The members' intervals hold the error of the text alone: they are trained runs.

    Args:
      problem: what was searched.
      w_C: the answer.
      residual: how far training lies from predictions, if reference runs exist.
    """
    scorer, e, config = problem.scorer, problem.scorer.evaluation, problem.config
    rows = problem.windows("test")
    goal = problem.objective_on(rows)
    table = rivals(problem, w_C)
    losses = scorer.merge(table, rows)
    sound = [c for c, n in enumerate(scorer.members) if n not in scorer.stack.damaged]
    trained = scorer.window_losses[[0, *(1 + c for c in sound)]][:, rows]
    nll_NR = np.concatenate([losses.nll_MR, trained])
    value_N, draw_NB, _ = resampled(
        e, rows, nll_NR, goal, config.seed, split="test", base_R=problem.base_R[rows]
    )
    merged, sure_M = slice(len(table)), np.zeros(len(table), bool)
    if problem.correction is not None:
        bits_MD = bits_of(e, losses, "test")
        trained_MD = bits_MD + problem.correction.shift(table.w_MC, bits_MD, rows)
        shift_M = goal.value(trained_MD) - goal.value(bits_MD)
        value_N[merged] += shift_M
        draw_NB[merged] += shift_M[:, None]
        # A single member that is not shifted is its own reference run.
        sure_M = (np.count_nonzero(table.w_MC, axis=1) == 1) & (shift_M == 0)
    if residual is not None:
        generator = np.random.default_rng([config.seed, len(table)])
        noise_MB = generator.standard_normal(draw_NB[merged].shape)
        noise_MB[sure_M] = 0.0
        draw_NB[merged] += scatter(residual, draw_NB.shape[1], config.seed) * noise_MB

    def gain(of: int, over: int) -> Gain:
        share_B = 1 - draw_NB[of] / draw_NB[over]
        ends = (1 - config.level) / 2, (1 + config.level) / 2
        low, high = np.quantile(share_B, ends).tolist()
        share = float(1 - value_N[of] / value_N[over])
        return {"gain": share, "low": low, "high": high}

    base = len(table)
    same = [mixture_key(row_C) == mixture_key(w_C) for row_C in table.w_MC]
    against = {
        name: {"value": float(value_N[n]), **gain(0, n)}
        for n, name in enumerate((*table.names, Labels.BASE))
        if n
    }
    for name, is_same in zip(table.names[1:], same[1:], strict=True):
        if is_same:
            against[name] |= {"gain": 0.0, "low": None, "high": None}
    alone = {scorer.members[c]: gain(base + 1 + i, base) for i, c in enumerate(sound)}
    return against, alone
