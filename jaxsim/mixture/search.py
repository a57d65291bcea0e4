"""The best row of a large table for a target, with all that ties with it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.errors import DamagedError, UserError
from jaxsim.mixture import journal
from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.scores import Scores
from jaxsim.mixture.ties import (
    Residual,
    Ties,
    objective,
    resampled_objective,
    tie_set,
)

FINALISTS = "finalists"
_FINALISTS = 8


@dataclasses.dataclass(frozen=True)
class Found:
    """The answer to a search, as the report and programs read it.

    Attributes:
      target: weight of each domain in the objective.
      table: which mixtures were searched, and how many.
      windows: windows for each domain that the choice was made on, at most.
      select_windows: windows of a domain of the target that there are, at most.
      ties: heading, unit that was resampled, level and critical value.
      rows: the tied mixtures and the plain ones: name, kind, weights, scale,
        the objective on select and, where scored, on report documents,
        difference to the best, its standard error, and whether it ties.
      evaluation: digest of the windows.
      digests: of 'seed' and of every member, by name.
      notes: what an override admitted.
    """

    target: dict[str, float]
    table: str
    searched: int
    windows: int
    select_windows: int
    ties: dict[str, Any]
    rows: list[dict[str, Any]]
    evaluation: str = ""
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def best(self) -> dict[str, Any]:
        return self.rows[0]


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


def save_found(workdir: Path, found: Found) -> None:
    folder = Path(workdir) / "search"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(found), indent=1, allow_nan=False)
    journal.replace(
        folder / "found.json", lambda file: file.write(f"{text}\n".encode())
    )


def load_found(workdir: Path) -> Found:
    """The last search of a workdir.

    Raises:
      UserError: there was none.
      DamagedError: its file is unreadable.
    """
    path = Path(workdir) / "search" / "found.json"
    if not path.exists():
        raise UserError(f"{workdir}: nothing was searched; run `jaxsim search`")
    try:
        return Found(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DamagedError(
            f"{path}: unreadable ({error}); run `jaxsim search` again"
        ) from error


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
