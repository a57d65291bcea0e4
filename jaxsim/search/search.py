"""The best row of a large table for a target, with all that ties with it."""

from typing import Any

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.errors import UserError
from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.scores import Scores
from jaxsim.search.found import Found
from jaxsim.search.ties import (
    Residual,
    Ties,
    objective,
    resampled_objective,
    tie_set,
)

FINALISTS = "finalists"
_FINALISTS = 8


def target_weights(
    config: SearchConfig, evaluation: EvaluationSet
) -> np.ndarray:
    """[D] weights of the objective.

    An empty target is every out-of-pool domain or, with none, every domain.

    Raises:
      UserError: names a domain that there is not.
    """
    e = evaluation
    if not config.target:
        outside = np.array([not inside for inside in e.in_pool], float)
        return outside if outside.any() else np.ones(len(e.domains))
    unknown = [name for name in config.target if name not in e.domains]
    if unknown:
        raise UserError(
            f"config.search.target: {unknown[0]!r} is not a domain; domains "
            f"are {', '.join(e.domains)}"
        )
    weights_D = np.array([config.target.get(n, 0.0) for n in e.domains])
    if (weights_D < 0).any() or not weights_D.any():
        raise UserError(
            "config.search.target: weights must be zero or more, and one of "
            "them positive"
        )
    return weights_D


def search(
    scorer: Scorer,
    scores: Scores,
    config: SearchConfig,
    residual: Residual | None,
) -> Found:
    """Chooses on select documents, reports on report documents.

    Args:
      scorer: of the workdir; it scores the finalists on report text.
      scores: the table to choose from.
      config: target, level and worth.
      residual: of the merge for this target, once truths exist.

    Raises:
      UserError: the scores are of another pool, or nothing in the table can
        be trained on.
    """
    scorer.check_current(scores)
    scores = _candidates(scores)
    e = scores.evaluation
    target_D = target_weights(config, e)
    merge = scores.proxies["merge"]
    value_M = objective(scores.bits_per_byte("merge", "select"), target_D)
    draw_MB, unit = resampled_objective(
        e, merge, "select", target_D, config.rng
    )
    ties = tie_set(
        value_M, draw_MB, unit, config.level, config.worth, residual,
        config.rng,
    )  # fmt: skip
    finals = _finalists(scorer, scores, ties)
    available_D = np.bincount(e.domain_R[e.rows("select")])
    windows = np.bincount(e.domain_R[merge.rows[e.half_R[merge.rows] == 0]])
    return Found(
        target={
            name: float(w)
            for name, w in zip(e.domains, target_D, strict=True)
            if w > 0
        },
        table=scores.name,
        searched=len(scores.table),
        windows=int(windows.max()),
        select_windows=int(available_D[target_D > 0].max()),
        ties={
            "heading": ties.heading,
            "resampled": ties.unit,
            "level": config.level,
            "worth": config.worth,
            "critical": ties.critical,
            "count": len(ties.tied),
        },
        rows=_rows(
            scores, [scorer.references(), finals], value_M, target_D, ties
        ),
        evaluation=e.digest,
        digests=scores.digests,
        notes=list(scores.notes),
    )


def _candidates(scores: Scores) -> Scores:
    """Without rows of scale 0: the seed is no mixture to be trained on."""
    rows = np.flatnonzero(scores.table.scale_M)
    if not len(rows):
        raise UserError(f"table {scores.name!r}: it holds only the seed")
    return scores.take(rows)


def _finalists(scorer: Scorer, scores: Scores, ties: Ties) -> Scores:
    """The first mixtures, on every window of the report half."""
    order = np.argsort(ties.difference_M, kind="stable")[:_FINALISTS]
    return scorer.score(FINALISTS, scores.table.take(order), "report")


def _rows(
    scores: Scores,
    everywhere: list[Scores],
    value_M: np.ndarray,
    target_D: np.ndarray,
    ties: Ties,
) -> list[dict[str, Any]]:
    reported: dict[str, float] = {}
    for each in everywhere:
        values = objective(each.bits_per_byte("merge", "report"), target_D)
        reported.update(zip(each.table.names, values.tolist(), strict=True))
    table = scores.table
    plain = [
        row
        for row, kind in enumerate(table.kinds)
        if kind in ("uniform", "proportional", "macro")
    ]
    singles = [m for m in range(len(table)) if len(table.parts(m)) == 1]
    if singles:
        plain.append(min(singles, key=lambda m: value_M[m]))
    shown = list(dict.fromkeys([*ties.tied.tolist(), *plain]))
    return [
        {
            "name": table.names[m],
            "kind": table.kinds[m],
            "weights": table.parts(m),
            "scale": float(table.scale_M[m]),
            "select": float(value_M[m]),
            "report": reported.get(table.names[m]),
            "difference": float(ties.difference_M[m]),
            "error": float(ties.error_M[m]),
            "tied": bool(m in ties.tied),
        }
        for m in shown
    ]
