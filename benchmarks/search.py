"""How well does a search spend its evaluations? On a finished workdir.

    python benchmarks/search.py runs/quickstart [--states=20]

For three objectives (a mean over out-of-pool text, a mean over half of the
in-pool domains, the worst of all domains) and many random states: the search
against the best equal-weight subset, the best of random mixtures and Optuna's
TPE, each with the same token evaluations at most; a gradient counts as three.
All know the single members and the plain merges beforehand, which a pool's
references have scored anyway. What each one closes of the gap from the best of
random to the best mixture known is reported. Without Optuna it says so, and
leaves TPE out.

The workdir is copied, so its own scores are left alone. `best known` is the
lowest value that anything here has seen, long descents among them. That value
is the merge's on dev text: nothing here is about training.
"""

import argparse
import contextlib
import itertools
import json
import math
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.scoring.scorer import Scorer
from jaxsim.search.loss import BudgetSpent
from jaxsim.search.optimize import descend
from jaxsim.search.problem import Problem, pose
from jaxsim.search.search import look

try:
    import optuna
except ImportError:
    optuna = None

LONG = 2000  # evaluations of the descents that look for the best known


def objectives(scorer: Scorer, windows: int) -> dict[str, SearchConfig]:
    inside = [n for n, d in scorer.corpus.domains.items() if d.in_pool]
    outside = [n for n, d in scorer.corpus.domains.items() if not d.in_pool]
    few = max(2, windows // 4)
    return {
        "mean out-of-pool": SearchConfig(
            target=dict.fromkeys(outside, 1.0), windows=windows
        ),
        "mean of half the in-pool domains": SearchConfig(
            target=dict.fromkeys(inside[::2], 1.0), windows=few
        ),
        "worst of all domains": SearchConfig(
            target=dict.fromkeys([*inside, *outside], 1.0),
            objective="worst",
            windows=few,
        ),
    }


def fresh(
    scorer: Scorer, config: SearchConfig, state: int, evaluations: int
) -> Problem:
    """A problem of which only the references are known."""
    settings = {**vars(config), "seed": state, "evaluations": evaluations}
    return pose(scorer, SearchConfig(**settings))


def subsets(problem: Problem) -> np.ndarray:
    """[M, C] equal-weight subsets of all sizes of which all are affordable."""
    c, budget = len(problem.loss.members), problem.config.evaluations
    size, count = 1, c
    while size < c and count + math.comb(c, size + 1) <= budget:
        size += 1
        count += math.comb(c, size)
    chosen = itertools.chain.from_iterable(
        itertools.combinations(range(c), n) for n in range(1, size + 1)
    )
    return np.array(
        [np.bincount(places, minlength=c) / len(places) for places in chosen][:budget]
    )


def by_method(
    scorer: Scorer, config: SearchConfig, state: int, evaluations: int
) -> dict[str, dict[str, float]]:
    """The lowest value and the evaluations of each method."""

    def sample(problem: Problem) -> np.ndarray:
        generator = np.random.default_rng(state)
        return problem.feasible.sample(evaluations, generator)

    methods = {
        "descend": look,
        "sample": lambda problem: problem.loss.values(sample(problem)),
        "subsets": lambda problem: problem.loss.values(subsets(problem)),
    }
    if optuna is not None:
        methods["tpe"] = tpe
    found = {}
    for name, method in methods.items():
        problem = fresh(scorer, config, state, evaluations)
        method(problem)
        found[name] = {
            "value": float(problem.loss.history[1].min()),
            "spent": problem.loss.spent,
        }
    return found


def tpe(problem: Problem) -> None:
    """Optuna's TPE on normalized exponentials, uniform on the simplex."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def value(trial: Any) -> float:
        u_C = np.array(
            [
                trial.suggest_float(f"u{c}", 1e-6, 1 - 1e-6)
                for c in range(len(problem.loss.members))
            ]
        )
        w_C = -np.log(u_C)
        found: float = problem.loss.values((w_C / w_C.sum())[None])[0]
        return found

    config = problem.config
    sampler = optuna.samplers.TPESampler(seed=config.seed, multivariate=True)
    study = optuna.create_study(sampler=sampler)
    study.optimize(value, n_trials=config.evaluations)


def best_known(scorer: Scorer, config: SearchConfig) -> float:
    """By long descents, from plain mixtures and from random ones."""
    problem = fresh(scorer, config, 0, LONG)
    starts = problem.feasible.sample(4, np.random.default_rng(0))
    starts = np.concatenate([problem.plain.w_MC, starts])
    with contextlib.suppress(BudgetSpent):
        for start_C in starts:
            descend(problem.loss, problem.feasible, start_C, improvement=1e-8)
    return float(problem.loss.history[1].min())


def measure(
    scorer: Scorer, config: SearchConfig, states: int, evaluations: int
) -> dict[str, Any]:
    runs = []
    for state in range(states):
        begin = time.monotonic()
        run = by_method(scorer, config, state, evaluations)
        runs.append(run)
        print(
            f"  state {state}: "
            + ", ".join(f"{k} {v['value']:.5f}" for k, v in run.items())
            + f" ({time.monotonic() - begin:.0f} s)",
            flush=True,
        )
    lowest = min(
        best_known(scorer, config),
        *(each["value"] for run in runs for each in run.values()),
    )
    found: dict[str, Any] = {"best_known": lowest, "methods": {}, "runs": runs}
    for name in runs[0]:
        value_S = np.array([run[name]["value"] for run in runs])
        random_S = np.array([run["sample"]["value"] for run in runs])
        subset_S = np.array([run["subsets"]["value"] for run in runs])
        closed_S = (random_S - value_S) / (random_S - lowest)
        tolerance = 1e-6 * abs(lowest)  # of float32 losses
        found["methods"][name] = {
            "median": float(np.median(value_S)),
            "worst": float(value_S.max()),
            "spent": float(np.median([run[name]["spent"] for run in runs])),
            "closed_median": float(np.median(closed_S)),
            "closed_least": float(closed_S.min()),
            "worse_than_subset": int((value_S > subset_S + tolerance).sum()),
            "worse_than_random": int((value_S > random_S + tolerance).sum()),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--states", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    machine.pin(given.threads)
    versions = ["jax", "numpy", "scipy", "clarabel"]
    if optuna is None:
        print("optuna is not installed: without TPE", flush=True)
    else:
        versions.append("optuna")
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(shutil.copytree(given.workdir, Path(folder) / "work"))
        scorer = Scorer(workdir)
        found = {}
        for name, goal in objectives(scorer, given.windows).items():
            print(name, flush=True)
            found[name] = measure(scorer, goal, given.states, given.evaluations)
            show(found[name])
    result = {
        "machine": machine.describe(tuple(versions)),
        "states": given.states,
        "evaluations": given.evaluations,
        "windows": given.windows,
        "members": len(scorer.members),
        "objectives": found,
    }
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")


def show(found: dict[str, Any]) -> None:
    print(f"  best known {found['best_known']:.6f}")
    for name, row in found["methods"].items():
        print(
            f"  {name:12} median {row['median']:.6f}, closes "
            f"{row['closed_median']:.2%} (least {row['closed_least']:.2%}), "
            f"worse than the best subset {row['worse_than_subset']}, than "
            f"random {row['worse_than_random']}, spent {row['spent']:.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
