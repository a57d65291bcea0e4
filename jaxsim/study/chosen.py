"""Ratios that were trained because they were chosen, not drawn.

They say how a choice came out. They enter no agreement: what a search picked
is where its proxy errs in its own favour, so it would flatter no one and
mislead everyone as a sample.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxsim.errors import DamagedError
from jaxsim.mixture.files import replace
from jaxsim.mixture.scores import Scores
from jaxsim.search.objective import weighted_mean
from jaxsim.study.validate import PROXIES, targets_of


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What training the chosen ratios gave, on report text.

    Attributes:
      labels: what the user called them.
      truths: their names in the pool, in the same order.
      members: columns of `ratios`.
      ratios: token shares, one row a truth.
      targets: domains, then the macros over them.
      kinds: of the targets: 'in-pool', 'out-of-pool' or 'macro'.
      points: bits per byte by predictor ('truth' and the proxies) and target.
      evaluation: digest of the windows.
      digests: of 'seed' and of every member, by name.
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
      labels: what the user called each ratio.
      proxies: scores of the merges at the ratios, on report text.
      truth_MD: bits per byte of the truths on report text.
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
        points={
            name: {
                target: weighted_mean(values_MD, weights_D).tolist()
                for target, (_, weights_D) in targets.items()
            }
            for name, values_MD in bits.items()
        },
        evaluation=proxies.evaluation.digest,
        digests=dict(proxies.digests),
        notes=list(proxies.notes),
    )


def save_chosen(workdir: Path, chosen: Chosen) -> None:
    folder = Path(workdir) / "study"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(chosen), indent=1, allow_nan=False)
    replace(
        folder / "chosen.json", lambda file: file.write(f"{text}\n".encode())
    )


def load_chosen(workdir: Path) -> Chosen | None:
    """What the last `validate --ratios` of a workdir found, if there was one.

    Raises:
      DamagedError: its file is unreadable.
    """
    path = Path(workdir) / "study" / "chosen.json"
    if not path.exists():
        return None
    try:
        return Chosen(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DamagedError(
            f"{path}: unreadable ({error}); run `jaxsim validate --ratios=...`"
            " again"
        ) from error
