"""Mixtures that were trained because they were chosen, not drawn.

They show how a choice turned out. They do not count in any agreement: a search picks
mixtures where its predictor errs in its favor, so as a sample they would mislead.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsim import records
from jaxsim.scoring.scores import Scores
from jaxsim.scoring.targets import Targets
from jaxsim.validation.measured import PREDICTED, Comparison, by_target, plain_points

FILE = "chosen.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedChoice(Comparison):
    """The chosen mixtures, predicted and trained.

    Attributes:
      labels: what the user called the mixtures, in the order of the runs.
    """

    labels: list[str]


def compare_chosen(
    labels: Sequence[str], predictors: Scores, trained: Scores
) -> TrainedChoice:
    """Compares the predictions of chosen mixtures with their runs, on test text.

    Args:
      labels: what the user called each mixture.
      predictors: scores of the mixtures.
      trained: scores of the runs.
    """
    e, table = predictors.evaluation, predictors.table
    bits = {p: predictors.bits_per_byte(p, "test") for p in PREDICTED}
    bits["reference"] = trained.bits_per_byte("reference", "test")
    targets = Targets.of(e, np.isfinite(bits["reference"]).all(axis=0))
    return TrainedChoice(
        labels=list(labels),
        reference_runs=list(table.names),
        members=list(table.members),
        mixtures=table.w_MC.tolist(),
        targets=list(targets.all),
        kinds=list(targets.kinds.values()),
        points=plain_points(by_target(bits, targets.weights(e.domains))),
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
