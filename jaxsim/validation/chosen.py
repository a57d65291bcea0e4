"""Mixtures that were trained because they were chosen, not drawn.

They say how a choice came out. They enter no agreement: what a search picked
is where its predictor errs in its own favor, so as a sample it would mislead.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from jaxsim import records
from jaxsim.records import Basis
from jaxsim.scoring.scores import Scores
from jaxsim.validation.measured import (
    PREDICTED,
    by_target,
    plain_points,
    targets_of,
)

FILE = "chosen.json"


@dataclasses.dataclass(frozen=True)
class TrainedChoice:
    """What training the chosen mixtures gave, on test text.

    Attributes:
      labels: what the user called them.
      reference runs: their names in the pool, in the same order.
      members: columns of `mixtures`.
      mixtures: token shares, one row a run.
      targets: domains, then the macros over them.
      kinds: of the targets: 'in-pool', 'out-of-pool' or 'macro'.
      points: bits per byte by predictor ('reference run' and the predictors) and
        target.
      basis: what it was computed from.
      notes: what an override admitted.
    """

    labels: list[str]
    reference_runs: list[str]
    members: list[str]
    mixtures: list[list[float]]
    targets: list[str]
    kinds: list[str]
    points: dict[str, dict[str, list[float]]]
    basis: Basis
    notes: list[str]


def compare_chosen(
    labels: Sequence[str], predictors: Scores, trained: Scores
) -> TrainedChoice:
    """Predicted beside trained.

    Args:
      labels: what the user called each mixture.
      predictors: scores of the merges at the mixtures, on test text.
      trained: scores of the runs, on test text.
    """
    reference_MD = trained.bits_per_byte("reference", "test")
    targets = targets_of(predictors.evaluation, reference_MD)
    bits = {p: predictors.bits_per_byte(p, "test") for p in PREDICTED}
    bits["reference"] = reference_MD
    return TrainedChoice(
        labels=list(labels),
        reference_runs=list(predictors.table.names),
        members=list(predictors.table.members),
        mixtures=predictors.table.w_MC.tolist(),
        targets=list(targets),
        kinds=[kind for kind, _ in targets.values()],
        points=plain_points(by_target(bits, targets)),
        basis=dataclasses.replace(predictors.basis, others=trained.basis.others),
        notes=list(predictors.notes),
    )


def save_chosen(workdir: Path, chosen: TrainedChoice) -> None:
    """Replaces what the last `validate --mixtures` of a workdir found."""
    records.save(workdir / "validation" / FILE, chosen)


def load_chosen(workdir: Path) -> TrainedChoice | None:
    """What the last `validate --mixtures` of a workdir found, if there was one.

    Raises:
      DamagedError: its file is unreadable.
    """
    path = workdir / "validation" / FILE
    advice = "run `jaxsim validate --mixtures=...` again"
    return records.load(path, TrainedChoice, advice) if path.exists() else None
