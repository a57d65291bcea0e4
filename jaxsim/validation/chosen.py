"""Mixtures that were trained because they were chosen, not drawn.

They say how a choice came out. They enter no agreement: what a search picked
is where its predictor errs in its own favor, so as a sample it would mislead.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxsim.scoring.scores import Scores
from jaxsim.validation.measured import (
    PREDICTED,
    by_target,
    load_record,
    plain_points,
    save_record,
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
      evaluation: digest of the windows.
      digests: of the base model ('base model') and of every member, by name.
      notes: what an override admitted.
    """

    labels: list[str]
    reference_runs: list[str]
    members: list[str]
    mixtures: list[list[float]]
    targets: list[str]
    kinds: list[str]
    points: dict[str, dict[str, list[float]]]
    evaluation: str
    digests: Mapping[str, str]
    notes: list[str]


def compare_chosen(
    labels: Sequence[str], predictors: Scores, reference_MD: np.ndarray
) -> TrainedChoice:
    """Predicted beside trained.

    Args:
      labels: what the user called each mixture.
      predictors: scores of the merges at the mixtures, on test text.
      reference_MD: bits per byte of the runs on test text.
    """
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
        evaluation=predictors.evaluation.digest,
        digests=dict(predictors.digests),
        notes=list(predictors.notes),
    )


def save_chosen(workdir: Path, chosen: TrainedChoice) -> None:
    """Replaces what the last `validate --mixtures` of a workdir found."""
    save_record(workdir, FILE, dataclasses.asdict(chosen))


def load_chosen(workdir: Path) -> TrainedChoice | None:
    """What the last `validate --mixtures` of a workdir found, if there was one.

    Raises:
      DamagedError: its file is unreadable.
    """
    again = "run `jaxsim validate --mixtures=...` again"
    return load_record(workdir, FILE, lambda record: TrainedChoice(**record), again)
