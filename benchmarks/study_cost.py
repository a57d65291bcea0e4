"""Question 4: what does an answer cost, and what is it worth?

The question: which of the drawn reference runs is best on out-of-pool text? Every way
chooses on dev text; the choice is worth what it was really trained to on
test text, below the trained proportional baseline. The base model's FLOPs are left
out: all ways start from one.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from benchmarks.study_workdir import OUTSIDE, Workdir
from benchmarks.swarm import Swarm, scored
from benchmarks.trees import fit_trees
from jaxsim.scoring.targets import OUT_OF_POOL
from jaxsim.search.objective import weighted_mean
from jaxsim.validation.baselines import fit_log_linear
from jaxsim.validation.calibration import calibrated_merges, fitted_on

SWARM_RUNS = (8, 16, 32)
SUBSETS = 10  # of a swarm's runs, for each number below all
FITS = {"log-linear": fit_log_linear, "trees": fit_trees}
Z95 = 1.96


def cost(work: Workdir, swarm: Path | None) -> dict[str, Any] | None:
    """FLOPs and gains of every way, and break-evens; None without a macro."""
    if OUT_OF_POOL not in work.validation.targets:
        return None
    v = work.validation
    trained = None
    if swarm is not None:
        windows = work.config.validate.windows
        trained = scored(swarm, v.members, windows)
    spent = flops(work, trained)
    reference_M = np.array(v.points["reference"][OUT_OF_POOL])
    level, orders = proportional(work)
    if not orders:
        level = float(reference_M.mean())
    result: dict[str, Any] = {
        "flops": spent,
        "baseline": {
            "name": "proportional" if orders else "mean of the reference runs",
            "bits_per_byte": level,
            "orders": orders,
        },
        "random": float(level - reference_M.mean()),
        "most": float(level - reference_M.min()),
    }
    if OUT_OF_POOL in v.noise:
        # Of one run against the mean of the baseline's.
        apart = np.sqrt(1 + 1 / orders) if orders else 1.0
        result["noise"] = v.noise[OUT_OF_POOL]
        result["band"] = float(Z95 * apart * v.noise[OUT_OF_POOL])
    ways = [
        {"way": way, "runs": runs, "flops": total}
        | _chosen(predicted_M, reference_M, level)
        for way, runs, total, predicted_M in _ways(work, spent)
    ]
    if trained is not None:
        ways += _swarm(work, trained, reference_M, level)
    ways += _references_alone(work, reference_M, level, spent["one reference run"])
    result["ways"] = ways
    result["break_even"] = break_even(spent)
    return result


def flops(work: Workdir, swarm: Swarm | None) -> dict[str, float]:
    """FLOPs of all that was trained, and of scoring what is asked."""
    v, entries = work.validation, work.manifests
    trained = {
        "pool": v.members,
        "calibration runs": v.calibration_runs,
        "reference runs": v.reference_runs,
    }
    found = {
        what: float(sum(entries[name].flops for name in names))
        for what, names in trained.items()
    }
    found["one member"] = found["pool"] / len(v.members)
    found["one reference run"] = found["reference runs"] / len(v.reference_runs)
    found["one forward pass"] = _pass(work)
    found["merges scored"] = len(v.reference_runs) * _pass(work)
    found["members scored"] = len(v.members) * _pass(work)
    if swarm is not None:
        found["swarm"] = float(swarm.flops_M.sum())
        found["swarm runs"] = len(swarm.flops_M)
    return found


def _pass(work: Workdir) -> float:
    """One model over the target's windows that the choice is made on."""
    e, model = work.scorer.evaluation, work.scorer.pool.model
    rows = np.intersect1d(work.rows, e.rows("dev"))
    wanted = [e.domains.index(name) for name in work.targets(OUTSIDE)]
    windows = int(np.isin(e.domain_R[rows], wanted).sum())
    return model.forward_flops(windows * model.config.length)


def proportional(work: Workdir) -> tuple[float, int]:
    """Bits per byte of that baseline on the reference runs' windows, and its runs.

    NaN and 0 where benchmarks/winner.py did not train it.
    """
    scores = work.table("winner")
    if scores is None or work.winner is None:
        return float("nan"), 0
    bits_MD = scores.on(work.rows).bits_per_byte("reference", "test")
    value_M = weighted_mean(bits_MD, work.weights[OUT_OF_POOL])
    names = work.winner["runs"]["proportional"]
    at = [scores.table.names.index(name) for name in names]
    return float(value_M[at].mean()), len(at)


def _ways(
    work: Workdir, spent: dict[str, float]
) -> Iterator[tuple[str, int, float, np.ndarray]]:
    """Name, trained runs, FLOPs and predictions [M] on dev text."""
    held_out, weights_D = work.held_out, work.weights[OUT_OF_POOL]
    members = len(work.validation.members)
    merges = spent["pool"] + spent["merges scored"]

    def macro(bits_MD: np.ndarray) -> np.ndarray:
        return weighted_mean(bits_MD, weights_D)

    yield "merge", members, merges, macro(held_out.dev["merge"])
    if work.fitted is not None:
        more = len(work.fitted)
        # The merges, the members and the calibration runs themselves.
        passes = (2 * more + members) * spent["one forward pass"]
        yield (
            "calibrated merge",
            members + more,
            merges + spent["calibration runs"] + passes,
            macro(_calibrated(work)),
        )
    yield (
        "ensemble",
        members,
        spent["pool"] + spent["members scored"],
        macro(held_out.dev["ensemble"]),
    )


def _calibrated(work: Workdir) -> np.ndarray:
    """[M, D] calibrated merges of the held-out mixtures, all on dev text."""
    basis, held_out, fitted = work.basis, work.held_out, work.fitted
    assert fitted is not None
    there_D = np.isfinite(held_out.test["reference"]).all(axis=0)
    calibration = fitted_on(basis, fitted, there_D)
    bits_MD = held_out.dev["merge"].copy()
    bits_MD[:, there_D] = calibrated_merges(
        basis, calibration, held_out, "dev", there_D
    )
    return bits_MD


def _chosen(
    predicted_M: np.ndarray, reference_M: np.ndarray, level: float
) -> dict[str, float]:
    return {
        "gain": float(level - reference_M[np.argmin(predicted_M)]),
        "spearman": float(scipy.stats.spearmanr(predicted_M, reference_M)[0]),
    }


def _swarm(
    work: Workdir, swarm: Swarm, reference_M: np.ndarray, level: float
) -> list[dict[str, Any]]:
    """Regressors on the first runs of random orders of the swarm.

    One sampling distribution for each domain, as its users fit it; then the mean.
    """
    domains = work.targets(OUTSIDE)
    scoring = sum(swarm.scoring[name] for name in domains)
    count, rng = len(swarm.flops_M), np.random.default_rng(0)
    rows = []
    for runs in [*(n for n in SWARM_RUNS if n < count), count]:
        several = SUBSETS if runs < count else 1
        subsets = [rng.permutation(count)[:runs] for _ in range(several)]
        for name, learn in FITS.items():
            found = []
            for at in subsets:
                distributions = [learn(swarm.w_MC[at], swarm.dev[d][at])
                        for d in domains]  # fmt: skip
                predicted_M = np.mean(
                    [distribution.predict(work.w_MC) for distribution in distributions],
                    axis=0,
                )
                found.append(_chosen(predicted_M, reference_M, level))
            gains = [one["gain"] for one in found]
            low, middle, high = np.quantile(gains, (0.25, 0.5, 0.75))
            rows.append(
                {
                    "way": f"swarm, {name}",
                    "runs": runs,
                    "flops": runs * (float(swarm.flops_M.mean()) + scoring),
                    "gain": float(middle),
                    "low": float(low),
                    "high": float(high),
                    "spearman": float(np.nanmedian([one["spearman"] for one in found])),
                }
            )
    return rows


def _references_alone(
    work: Workdir, reference_M: np.ndarray, level: float, each: float
) -> list[dict[str, Any]]:
    """The best of n of the reference runs on dev text, over all ways to draw n."""
    dev_M = weighted_mean(work.held_out.dev["reference"], work.weights[OUT_OF_POOL])
    ranked_M = reference_M[np.argsort(dev_M)]
    count = len(ranked_M)
    rows = []
    for runs in range(1, count + 1):
        share_M = np.array(
            [math.comb(count - 1 - m, runs - 1) for m in range(count)], float
        ) / math.comb(count, runs)
        rows.append(
            {
                "way": "reference runs alone",
                "runs": runs,
                "flops": runs * (each + _pass(work)),
                "gain": float(level - share_M @ ranked_M),
            }
        )
    return rows


def break_even(spent: dict[str, float]) -> list[dict[str, Any]]:
    """After how many new sources the pool has cost less than its rivals.

    A new source takes the pool one member and the scoring again. The rivals
    train as many runs again as they had: no run of theirs has seen it.
    """
    pool = spent["pool"] + spent["merges scored"]
    step = spent["one member"] + spent["merges scored"]
    rivals = {
        "8 reference runs": 8 * spent["one reference run"],
        "32 reference runs": 32 * spent["one reference run"],
    }
    if "swarm" in spent:
        rivals[f"a swarm of {spent['swarm runs']}"] = spent["swarm"]
    return [
        {
            "rival": name,
            "pool": pool,
            "each source": step,
            "total": total,
            "questions": max(0, math.ceil((pool - total) / (total - step)))
            if total > step
            else None,
        }
        for name, total in rivals.items()
    ]
