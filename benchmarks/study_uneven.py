"""Question 2: which merge stands for which mixture, where partitions differ?

Two merges (uniform over members, proportional to tokens) beside two reference runs of
those mixtures, each trained with several orders by benchmarks/winner.py.
"""

from typing import Any

import numpy as np

from benchmarks.study_workdir import INSIDE, OUTSIDE, Workdir

TWO = ("uniform", "proportional")


def uneven(work: Workdir) -> list[dict[str, Any]] | None:
    """Distances for each kind of domain; None without those reference runs."""
    standard, winner = work.table("standard"), work.table("winner")
    if standard is None or winner is None or work.winner is None:
        return None
    domains = np.array(work.scorer.evaluation.domains)
    merge_MD = standard.bits_per_byte("merge", "test")
    merge = {n: merge_MD[standard.table.names.index(n)] for n in TWO}
    reference_MD = winner.bits_per_byte("reference", "test")
    names = winner.table.names
    reference_runs = {
        name: reference_MD[[names.index(run) for run in work.winner["runs"][name]]]
        for name in TWO
    }
    return [
        {"domains": kind, "count": int(here_D.sum())}
        | _distances(
            {n: bits_D[here_D] for n, bits_D in merge.items()},
            {n: bits_OD[:, here_D] for n, bits_OD in reference_runs.items()},
        )
        for kind in (INSIDE, OUTSIDE)
        if (here_D := np.isin(domains, work.targets(kind))).any()
    ]


def _distances(
    merge: dict[str, np.ndarray], reference_runs: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Merges [D] and reference runs [orders, D] of some domains.

    `raw` and `leveled` are mean absolute distances, the latter after the mean
    distance is taken off; `spread` is that of one order from the mean of the
    others, leveled likewise. `contrast` compares what sets the two reference runs
    apart, domain by domain, with what sets the two merges apart.
    """
    mean = {name: bits_OD.mean(axis=0) for name, bits_OD in reference_runs.items()}
    off = {m: {t: merge[m] - mean[t] for t in TWO} for m in TWO}
    leveled = {m: {t: _leveled(off[m][t]) for t in TWO} for m in TWO}
    merges_D, references_D = (
        merge[TWO[0]] - merge[TWO[1]],
        mean[TWO[0]] - mean[TWO[1]],
    )
    contrast = slope = None
    if len(merges_D) > 2:
        contrast = float(np.corrcoef(merges_D, references_D)[0, 1])
        slope = float(np.polyfit(merges_D, references_D, 1)[0])
    return {
        "orders": {name: len(bits_OD) for name, bits_OD in reference_runs.items()},
        "raw": {m: {t: float(np.abs(off[m][t]).mean()) for t in TWO} for m in TWO},
        "leveled": leveled,
        "nearest_merge": {t: min((leveled[m][t], m) for m in TWO)[1] for t in TWO},
        "spread": {name: _spread(bits_OD) for name, bits_OD in reference_runs.items()},
        "contrast": {"correlation": contrast, "slope": slope},
    }


def _leveled(off_D: np.ndarray) -> float:
    return float(np.abs(off_D - off_D.mean()).mean())


def _spread(bits_OD: np.ndarray) -> float | None:
    orders = len(bits_OD)
    if orders < 2:
        return None
    total_D = bits_OD.sum(axis=0)
    return float(
        np.mean(
            [_leveled(bits_D - (total_D - bits_D) / (orders - 1)) for bits_D in bits_OD]
        )
    )
