"""How well does a search spend its evaluations? On a finished workdir.

    python benchmarks/search.py runs/quickstart [--states=20]

For three objectives (a mean over out-of-pool text, a mean over half of the
in-pool domains, the worst of all domains) and many random states: the cascade,
descent and Frank-Wolfe against the best subset, the best of random mixtures
and Optuna's TPE, each with the same token evaluations; a gradient counts as
three. All know the single members and the plain merges beforehand, which a
pool's references have scored anyway. What each one closes of the gap from the
best of random to the best mixture known is reported, and the Frank-Wolfe gap.

The workdir is copied, so its own scores are left alone. `best known` is the
lowest value that anything here has seen, long descents among them. That value
is the merge's on select text: nothing here is about training.
"""

import argparse
import contextlib
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.mixture.scorer import Scorer
from jaxsim.search.cascade import look
from jaxsim.search.landscape import BudgetSpent
from jaxsim.search.methods import descend
from jaxsim.search.problem import Problem, pose

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
    settings = {**vars(config), "rng": state, "evaluations": evaluations}
    return pose(scorer, SearchConfig(**settings))


def by_method(
    scorer: Scorer, config: SearchConfig, state: int, evaluations: int
) -> dict[str, dict[str, float]]:
    """The lowest value and the evaluations of each of our methods."""
    found = {}
    for method in ("cascade", "descend", "frank-wolfe", "sample", "subsets"):
        problem = fresh(
            scorer,
            SearchConfig(**{**vars(config), "method": method}),
            state,
            evaluations,
        )
        outcome = look(problem, None, None)
        _, value_M = problem.landscape.history
        found[method] = {
            "value": float(value_M.min()),
            "spent": problem.landscape.spent,
        }
        if outcome.result is not None and outcome.result.gap is not None:
            found[method]["gap"] = outcome.result.gap / abs(
                outcome.result.value
            )
    return found


def tpe(
    scorer: Scorer, config: SearchConfig, state: int, evaluations: int
) -> float:
    """Optuna's TPE on normalised exponentials, uniform on the simplex."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = fresh(scorer, config, state, evaluations)
    members = len(scorer.members)
    known_M = problem.landscape.history[1]

    def value(trial: Any) -> float:
        u_C = [
            trial.suggest_float(f"u{c}", 1e-6, 1 - 1e-6) for c in range(members)
        ]
        w_C = -np.log(u_C)
        found: float = problem.landscape.values((w_C / w_C.sum())[None])[0]
        return found

    sampler = optuna.samplers.TPESampler(seed=state, multivariate=True)
    study = optuna.create_study(sampler=sampler)
    study.optimize(value, n_trials=evaluations)
    return min(float(study.best_value), float(known_M.min()))


def best_known(scorer: Scorer, config: SearchConfig) -> float:
    """By long descents, from plain mixtures and from random ones."""
    problem = fresh(scorer, config, 0, LONG)
    starts = problem.feasible.sample(4, np.random.default_rng(0))
    starts = np.concatenate([problem.plain.w_MC, starts])
    with contextlib.suppress(BudgetSpent):
        descend(problem.landscape, problem.feasible, starts, gap=1e-6)
    return float(problem.landscape.history[1].min())


def measure(
    scorer: Scorer, config: SearchConfig, states: int, evaluations: int
) -> dict[str, Any]:
    runs = []
    for state in range(states):
        begin = time.monotonic()
        run = by_method(scorer, config, state, evaluations)
        run["tpe"] = {
            "value": tpe(scorer, config, state, evaluations),
            "spent": evaluations,
        }
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
        gaps = [run[name]["gap"] for run in runs if "gap" in run[name]]
        found["methods"][name] = {
            "median": float(np.median(value_S)),
            "worst": float(value_S.max()),
            "spent": float(np.median([run[name]["spent"] for run in runs])),
            "closed_median": float(np.median(closed_S)),
            "closed_least": float(closed_S.min()),
            "worse_than_subset": int((value_S > subset_S + tolerance).sum()),
            "worse_than_random": int((value_S > random_S + tolerance).sum()),
            "largest_gap": max(gaps) if gaps else None,
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
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(shutil.copytree(given.workdir, Path(folder) / "work"))
        scorer = Scorer(workdir)
        found = {}
        for name, goal in objectives(scorer, given.windows).items():
            print(name, flush=True)
            found[name] = measure(scorer, goal, given.states, given.evaluations)
            show(found[name])
    result = {
        "machine": machine.describe(("jax", "numpy", "scipy", "optuna")),
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
        gap = row["largest_gap"]
        print(
            f"  {name:12} median {row['median']:.6f}, closes "
            f"{row['closed_median']:.1%} (least {row['closed_least']:.1%}), "
            f"worse than the best subset {row['worse_than_subset']}, than "
            f"random {row['worse_than_random']}, spent {row['spent']:.0f}"
            + ("" if gap is None else f", gap at most {gap:.3%}"),
            flush=True,
        )


if __name__ == "__main__":
    main()
