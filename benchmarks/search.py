"""How well does a search spend its evaluations? On a finished workdir.

    python benchmarks/search.py runs/quickstart [--states=20]

For three objectives (a mean over the out-of-pool domains, a mean over every second
in-pool domain, the worst of all domains) and many random states, it compares the search
with the best of random mixtures, the best equal-weight subset and Optuna's TPE. Each
has the same budget of evaluations; a gradient counts as three. All know the losses of
the single members and the standard merges beforehand, because every pool has scored
them. It reports how much of the gap each method closes, from the best of random to the
best known mixture, and how many gradients the search needs until it is within 0.01 % of
that, the one of the quadratic included. Without Optuna it says so, and leaves TPE out.

The best known value is the lowest that anything here has seen, also at ten times the
budget: random mixtures, subsets, and descents from many starts. The random mixtures of
a state are drawn from the same ones, so they are merged once. The loss is the merge's,
on dev text: nothing here is about training. It works on a copy of the workdir, so it
adds nothing to the workdir's scores.
"""

import contextlib
import dataclasses
import itertools
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.scoring.scorer import Scorer
from jaxsim.search.objective import Slope
from jaxsim.search.optimize import BudgetSpent, descend
from jaxsim.search.problem import Problem
from jaxsim.search.search import look

try:
    import optuna
except ImportError:
    optuna = None

MORE = 10  # times the budget, for the best known mixture
WITHIN = 1e-4  # of its value: where a search has arrived


def objectives(scorer: Scorer, windows: int) -> dict[str, SearchConfig]:
    domains = scorer.corpus.domains.items()
    inside = [name for name, domain in domains if domain.in_pool]
    outside = [name for name, domain in domains if not domain.in_pool]
    few = max(2, windows // 4)

    def over(names: list[str], windows: int, **more: Any) -> SearchConfig:
        return SearchConfig(target=dict.fromkeys(names, 1.0), windows=windows, **more)

    return {
        "mean of the out-of-pool domains": over(outside, windows),
        "mean of every second in-pool domain": over(inside[::2], few),
        "worst of all domains": over([*inside, *outside], few, objective="worst"),
    }


def subsets(problem: Problem, budget: int) -> np.ndarray:
    """Equal-weight subsets [M, C]: all of each size, as far as the budget goes."""
    c = len(problem.scorer.members)
    size, count = 1, c
    while size < c and count + math.comb(c, size + 1) <= budget:
        size += 1
        count += math.comb(c, size)
    chosen = itertools.chain.from_iterable(
        itertools.combinations(range(c), n) for n in range(1, size + 1)
    )
    w_MC = [np.bincount(places, minlength=c) / len(places) for places in chosen]
    return np.array(w_MC[:budget])


def many(problem: Problem, budget: int) -> np.ndarray:
    """Random allowed mixtures [M, C], the same for every state."""
    return problem.feasible.sample(MORE * budget, np.random.default_rng(0))


def sample(problem: Problem, budget: int) -> np.ndarray:
    """A state's own choice of them."""
    generator = np.random.default_rng(problem.config.seed)
    return generator.permutation(many(problem, budget))[:budget]


def tpe(problem: Problem) -> None:
    """Optuna's TPE on normalized exponentials, which are uniform on the simplex."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def value(trial: Any) -> float:
        places = range(len(problem.scorer.members))
        u_C = [trial.suggest_float(f"u{c}", 1e-6, 1 - 1e-6) for c in places]
        w_C = -np.log(u_C)
        found: float = problem.loss.values((w_C / w_C.sum())[None])[0]
        return found

    config = problem.config
    sampler = optuna.samplers.TPESampler(seed=config.seed, multivariate=True)
    optuna.create_study(sampler=sampler).optimize(value, n_trials=config.evaluations)


def arrival(problem: Problem) -> list[tuple[int, float, float]]:
    """Searches; (gradients, evaluations, lowest value) after each computation."""
    loss, steps = problem.loss, []
    compute_values, compute_slope = loss.compute_values, loss.compute_slope
    gradients, lowest = 0, float(loss.history[1].min())

    def after(value: float) -> None:
        nonlocal lowest
        lowest = min(lowest, value)
        steps.append((gradients, loss.spent, lowest))

    def values(w_MC: np.ndarray) -> np.ndarray:
        value_M = compute_values(w_MC)
        after(float(value_M.min()))
        return value_M

    def slope(w_C: np.ndarray) -> Slope:
        nonlocal gradients
        gradients += 1
        found = compute_slope(w_C)
        after(found.value)
        return found

    loss.compute_values, loss.compute_slope = values, slope
    cheap = look(problem)
    fitted = int(cheap.misfit is not None)  # its gradient was paid, too
    return [(count + fitted, spent, value) for count, spent, value in steps]


METHODS: dict[str, Callable[[Problem], Any]] = {
    "descend": arrival,
    "sample": lambda p: p.loss.values(sample(p, p.config.evaluations)),
    "subsets": lambda p: p.loss.values(subsets(p, p.config.evaluations)),
} | ({"tpe": tpe} if optuna is not None else {})


def by_method(scorer: Scorer, config: SearchConfig) -> dict[str, dict[str, Any]]:
    """The lowest value and the evaluations of each method."""
    found = {}
    for name, method in METHODS.items():
        problem = Problem(scorer, config)
        steps = method(problem)
        lowest = float(problem.loss.history[1].min())
        found[name] = {"value": lowest, "spent": problem.loss.spent}
        if method is arrival:
            found[name]["steps"] = steps
    return found


def best_known(scorer: Scorer, config: SearchConfig) -> float:
    """The lowest value of each method at `MORE` times the budget.

    The descents start at standard and at random mixtures.
    """
    budget = MORE * config.evaluations
    problem = Problem(scorer, dataclasses.replace(config, evaluations=budget))
    starts = np.concatenate([problem.loss.history[0], many(problem, 1)[:4]])
    with contextlib.suppress(BudgetSpent):
        for start_C in starts:
            descend(problem.loss, problem.feasible, start_C, improvement=1e-8)
    values = [problem.loss.history[1].min()]
    for w_MC in (many(problem, config.evaluations), subsets(problem, budget)):
        other = Problem(scorer, problem.config)
        values.append(other.loss.values(w_MC).min())
    return float(min(values))


def measure(scorer: Scorer, config: SearchConfig, states: int) -> dict[str, Any]:
    runs = []
    for state in range(states):
        begin = time.monotonic()
        run = by_method(scorer, dataclasses.replace(config, seed=state))
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
    value = {n: np.array([run[n]["value"] for run in runs]) for n in METHODS}
    tolerance = 1e-6 * abs(lowest)  # of float32 losses
    found: dict[str, Any] = {"best_known": lowest, "methods": {}, "runs": runs}
    for name, value_S in value.items():
        gap_S = np.maximum(value["sample"] - lowest, tolerance)
        closed_S = (value["sample"] - value_S) / gap_S
        found["methods"][name] = {
            "median": float(np.median(value_S)),
            "worst": float(value_S.max()),
            "spent": float(np.median([run[name]["spent"] for run in runs])),
            "closed_median": float(np.median(closed_S)),
            "closed_least": float(closed_S.min()),
            "worse_than_subset": int((value_S > value["subsets"] + tolerance).sum()),
            "worse_than_random": int((value_S > value["sample"] + tolerance).sum()),
        }
    near, arrived = lowest + WITHIN * abs(lowest), []
    for run in runs:
        steps = run["descend"].pop("steps")
        here = [step for step in steps if step[2] <= near]
        run["descend"]["arrived"] = bool(here)
        arrived.append((here or steps[-1:])[0][:2])
    gradients_S, spent_S = np.array(arrived).T
    found["arrived"] = {
        "states": sum(run["descend"]["arrived"] for run in runs),
        "gradients_median": float(np.median(gradients_S)),
        "gradients_most": float(gradients_S.max()),
        "evaluations_median": float(np.median(spent_S)),
        "evaluations_most": float(spent_S.max()),
    }
    return found


def show(found: dict[str, Any]) -> None:
    print(f"  best known {found['best_known']:.6f}")
    row = found["arrived"]
    print(
        f"  within {WITHIN:.2%} of it in {row['states']} states: gradients median "
        f"{row['gradients_median']:g}, at most {row['gradients_most']:g}; evaluations "
        f"{row['evaluations_median']:g}, at most {row['evaluations_most']:g}"
    )
    for name, row in found["methods"].items():
        print(
            f"  {name:8} median {row['median']:.6f}, closes "
            f"{row['closed_median']:.2%} of the gap (at least "
            f"{row['closed_least']:.2%}), worse than the best subset in "
            f"{row['worse_than_subset']} states, than random in "
            f"{row['worse_than_random']}, spent {row['spent']:.0f}",
            flush=True,
        )


def main() -> None:
    parser = machine.parser(__doc__, threads=2)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--states", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--windows", type=int, default=16)
    given = parser.parse_args()
    machine.pin(given.threads)
    versions = ["jax", "numpy", "scipy", "clarabel"]
    if optuna is None:
        print("optuna is not installed: leaving out TPE", flush=True)
    else:
        versions.append("optuna")
    found = {}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        scorer = Scorer(shutil.copytree(given.workdir, Path(folder) / "work"))
        for name, config in objectives(scorer, given.windows).items():
            print(name, flush=True)
            config = dataclasses.replace(config, evaluations=given.evaluations)
            found[name] = measure(scorer, config, given.states)
            show(found[name])
    result = {
        "machine": machine.describe(tuple(versions)),
        "states": given.states,
        "evaluations": given.evaluations,
        "windows": given.windows,
        "members": len(scorer.members),
        "seconds": round(time.monotonic() - begin, 1),
        "objectives": found,
    }
    machine.save(given.out, "search", result)


if __name__ == "__main__":
    main()
