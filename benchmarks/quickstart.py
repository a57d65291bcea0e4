"""Do the quickstart's numbers make sense? Read from a finished workdir.

    python benchmarks/quickstart.py runs/quickstart

For every era, on its test addresses: is its own member the best single
member, and do losses grow with distance in time? And: the agreement of every
predictor and weight-only baseline with the reference runs.
"""

import json
from pathlib import Path
from typing import Any

import machine
import numpy as np
import scipy.stats

import jaxsim
from jaxsim.scoring.scorer import STANDARD
from jaxsim.validation.validate import Validation, load_validation


def eras(workdir: Path) -> dict[str, Any]:
    """Own-member wins, and Spearman of distance and loss, for each era."""
    scores = jaxsim.Scorer(workdir).load(STANDARD)
    bits_MD = scores.bits_per_byte("merge", "test")
    members = [m for m, k in enumerate(scores.table.kinds) if k == "member"]
    names = [scores.table.names[m] for m in members]
    found = {}
    for d, domain in enumerate(scores.evaluation.domains):
        if domain not in names:
            continue
        loss_C = bits_MD[members, d]
        own = names.index(domain)
        distance_C = np.abs(np.arange(len(names)) - own)
        found[domain] = {
            "best": names[int(np.argmin(loss_C))],
            "spearman": float(scipy.stats.spearmanr(distance_C, loss_C).statistic),
            "gain_over_base": float(bits_MD[0, d] - loss_C[own]),
        }
    return {
        "own_member_best": sum(v["best"] == k for k, v in found.items()),
        "spearman_above_half": sum(v["spearman"] > 0.5 for v in found.values()),
        "eras": found,
    }


def agreement(workdir: Path) -> dict[str, Any]:
    """Spearman by predictor: macro in-pool, and means over domains."""
    validation = load_validation(workdir)
    if validation is None:
        return {}
    macro = validation.agreement["macro in-pool"]
    return {
        name: {
            "macro in-pool": values["spearman"],
            "interval": values["interval"],
            **{
                kind: mean_spearman(validation, kind, name)
                for kind in ("in-pool", "out-of-pool")
            },
        }
        for name, values in macro.items()
    }


def mean_spearman(validation: Validation, kind: str, predictor: str) -> float:
    """Over the domains of a kind where it is defined; NaN without any."""
    values = [
        validation.agreement[target][predictor]["spearman"]
        for target, k in zip(validation.targets, validation.kinds, strict=True)
        if k == kind and predictor in validation.agreement[target]
    ]
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("workdir", type=Path)
    arguments = parser.parse_args()
    result = {**eras(arguments.workdir), "agreement": agreement(arguments.workdir)}
    print(json.dumps(result, indent=2))
    machine.save(arguments.out, "quickstart", result)


if __name__ == "__main__":
    main()
