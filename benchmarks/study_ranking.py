"""Question 1: does a prediction rank mixtures at equal budget?"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.study_workdir import INSIDE, OUTSIDE, TREES, Workdir, plain
from jaxsim.records import Row
from jaxsim.scoring.targets import IN_POOL, OUT_OF_POOL
from jaxsim.validation.agreement import RULES, agreement, mean_spearman
from jaxsim.validation.measured import PREDICTORS


def scopes(work: Workdir) -> dict[str, list[str]]:
    """The targets that a table looks at together, by its heading."""
    found = {
        IN_POOL: [IN_POOL],
        OUT_OF_POOL: [OUT_OF_POOL],
        "out-of-pool domains": work.targets(OUTSIDE),
        "out-of-pool domains that are not below the noise floor": work.sound(OUTSIDE),
        "in-pool domains": work.targets(INSIDE),
    }
    known = set(work.validation.targets)
    return {n: ts for n, ts in found.items() if ts and known.issuperset(ts)}


def ranking(work: Workdir) -> dict[str, Any]:
    """By scope: its targets, mean ceiling, and a row for every name."""
    ceilings = work.validation.ceilings
    return {
        scope: {
            "targets": targets,
            "ceiling": float(np.mean([ceilings[t] for t in targets]))
            if ceilings
            else None,
            "rows": [
                row
                for name in names(work)
                if (row := _row(work, name, targets)) is not None
            ],
        }
        for scope, targets in scopes(work).items()
    }


def names(work: Workdir) -> list[str]:
    """Predictors, then the weight-only baselines."""
    known = [p for p in PREDICTORS if p in work.validation.points]
    return [*known, TREES, *RULES]


def _row(work: Workdir, name: str, targets: Sequence[str]) -> dict[str, Any] | None:
    """Means over the targets; None where a name is undefined."""
    if name == "random":
        tables = work.validation.agreement
        return {"name": name, "spearman": {"value": 0.0}} | {
            key: float(np.mean([tables[t][name][key] for t in targets]))
            for key in ("gain", "gain_share", "pairs")
        }
    predicted_MT = work.values_MT(name, targets)
    if predicted_MT is None:
        return None
    reference_MT = work.reference_MT(targets)
    each = [
        agreement(predicted_MT[:, t], reference_MT[:, t], work.within(target))
        for t, target in enumerate(targets)
    ]
    return {
        "name": name,
        "spearman": plain(mean_spearman(predicted_MT, reference_MT)),
        "sample": _mean(each, "spearman"),
        "pairs": _mean(each, "pairs"),
        "pairs_in": _mean(each, "pairs_in"),
        "pairs_out": _mean(each, "pairs_out"),
        "gain": _mean(each, "gain"),
        "gain_share": _mean(each, "gain_share"),
    }


def by_law(work: Workdir, target: str = OUT_OF_POOL) -> dict[str, Any]:
    """Spearman correlations within each part of the sampling distribution."""
    distributions = np.array(work.validation.distributions)
    if target not in work.validation.targets:
        return {}
    reference_MT = work.reference_MT([target])
    rows = []
    for name in names(work):
        predicted_MT = work.values_MT(name, [target])
        if predicted_MT is not None:
            rows.append(
                {"name": name}
                | {
                    distribution: agreement(
                        predicted_MT[distributions == distribution, 0],
                        reference_MT[distributions == distribution, 0],
                        None,
                    )["spearman"]
                    for distribution in dict.fromkeys(distributions.tolist())
                }
            )
    counts = {
        distribution: int(np.sum(distributions == distribution))
        for distribution in dict.fromkeys(distributions.tolist())
    }
    return {"target": target, "reference runs": counts, "rows": rows}


def _mean(each: Sequence[Row], field: str) -> float:
    """Over the targets that have one: a side of a domain may be empty."""
    values = np.array([one[field] for one in each])
    there = np.isfinite(values)
    return float(values[there].mean()) if there.any() else float("nan")
