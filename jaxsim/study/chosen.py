"""Mixtures that were trained because they were chosen, not drawn.

They say how a choice came out. They enter no agreement: what a search picked
is where its proxy errs in its own favor, so as a sample it would mislead.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxsim.mixture.scores import Scores
from jaxsim.study.measured import (
    PROXIES,
    by_target,
    load_record,
    plain_points,
    save_record,
    targets_of,
)

FILE = "chosen.json"


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What training the chosen mixtures gave, on report text.

    Attributes:
      labels: what the user called them.
      truths: their names in the pool, in the same order.
      members: columns of `ratios`.
      ratios: token shares, one row a run.
      targets: domains, then the macros over them.
      kinds: of the targets: 'in-pool', 'out-of-pool' or 'macro'.
      points: bits per byte by predictor ('truth' and the proxies) and target.
      evaluation: digest of the windows.
      digests: of the base model ('seed') and of every member, by name.
      notes: what an override admitted.
    """

    labels: list[str]
    truths: list[str]
    members: list[str]
    ratios: list[list[float]]
    targets: list[str]
    kinds: list[str]
    points: dict[str, dict[str, list[float]]]
    evaluation: str
    digests: Mapping[str, str]
    notes: list[str]


def compare_chosen(
    labels: Sequence[str], proxies: Scores, truth_MD: np.ndarray
) -> Chosen:
    """Predicted beside trained.

    Args:
      labels: what the user called each mixture.
      proxies: scores of the merges at the mixtures, on report text.
      truth_MD: bits per byte of the runs on report text.
    """
    targets = targets_of(proxies.evaluation, truth_MD)
    bits = {p: proxies.bits_per_byte(p, "report") for p in PROXIES}
    bits["truth"] = truth_MD
    return Chosen(
        labels=list(labels),
        truths=list(proxies.table.names),
        members=list(proxies.table.members),
        ratios=proxies.table.w_MC.tolist(),
        targets=list(targets),
        kinds=[kind for kind, _ in targets.values()],
        points=plain_points(by_target(bits, targets)),
        evaluation=proxies.evaluation.digest,
        digests=dict(proxies.digests),
        notes=list(proxies.notes),
    )


def save_chosen(workdir: Path, chosen: Chosen) -> None:
    """Replaces what the last `validate --ratios` of a workdir found."""
    save_record(workdir, FILE, dataclasses.asdict(chosen))


def load_chosen(workdir: Path) -> Chosen | None:
    """What the last `validate --ratios` of a workdir found, if there was one.

    Raises:
      DamagedError: its file is unreadable.
    """
    again = "run `jaxsim validate --ratios=...` again"
    return load_record(workdir, FILE, lambda record: Chosen(**record), again)
