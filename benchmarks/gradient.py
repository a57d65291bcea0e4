"""Measures the cost and exactness of gradients on a finished workdir's pool.

    python benchmarks/gradient.py runs/quickstart [--threads=2]

Cost: the time of a Jacobian (the gradients of all domains) over that of a forward
evaluation of one of several mixtures on the same windows. Both alternate; the ratio of
each round is what counts. The search counts a gradient as three evaluations.

Exactness: the largest difference from central differences of the model in
float64, extrapolated from two steps, as a share of the largest derivative.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine

STEP = 3e-5  # of weights and scale
CHECKED_WINDOWS = 2  # of each domain, in float64


def cost(scorer: Any, windows: int, rounds: int) -> dict[str, Any]:
    """Times a forward evaluation and a Jacobian, in seconds."""
    from jaxsim.scoring.table import dirichlet

    rows = scorer.evaluation.rows("dev", windows)
    table = dirichlet(scorer.members, 8, 1.0, seed=0)
    evaluator, w_C = scorer.evaluator, table.w_MC[0]
    calls: dict[str, Callable[[], Any]] = {
        "forward": lambda: evaluator.score(table, rows),
        "jacobian": lambda: evaluator.jacobian(w_C, 1.0, rows),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-1, rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if turn >= 0:  # the first round compiles
                seconds[name].append(time.perf_counter() - begin)
    seconds["forward"] = [s / len(table) for s in seconds["forward"]]
    result: dict[str, Any] = {
        "windows": len(rows),
        "domains": len(scorer.evaluation.domains),
        "members": len(scorer.members),
        "rounds": rounds,
        "seconds": {k: statistics.median(v) for k, v in seconds.items()},
    }
    pairs = zip(seconds["jacobian"], seconds["forward"], strict=True)
    ratios = [one / forward for one, forward in pairs]
    result["jacobian_over_forward"] = {
        "median": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
    }
    return result


def exactness(scorer: Any) -> dict[str, Any]:
    """Compares with finite differences, by precision of the derivatives."""
    import jax
    import numpy as np

    from jaxsim.model import Execution
    from jaxsim.scoring.evaluation import scored_mask
    from jaxsim.scoring.evaluator import Evaluator
    from jaxsim.scoring.program import merge
    from jaxsim.scoring.table import dirichlet

    e, model = scorer.evaluation, scorer.pool.model
    rows = e.rows("dev", CHECKED_WINDOWS)
    (w_C,) = dirichlet(scorer.members, 1, 1.0, seed=1).w_MC
    stack = scorer.stack
    found = {"float32": scorer.evaluator.jacobian(w_C, 1.0, rows)}
    with jax.enable_x64(True):
        base, delta_C = jax.tree.map(
            lambda x: np.asarray(x, np.float64), (stack.base, stack.delta_C)
        )
        config = dataclasses.replace(scorer.config, precision="float64")
        wide = dataclasses.replace(stack, base=base, delta_C=delta_C)
        wide = wide.on(stack.mesh, model)
        evaluator = Evaluator(model, wide, e, config)
        found["float64"] = evaluator.jacobian(w_C, 1.0, rows)
        execution = Execution(precision="float64")
        scored_RL = scored_mask(e, rows)

        @jax.jit
        def losses(x_C1: Any) -> Any:
            params = merge(base, delta_C, x_C1[:-1], x_C1[-1])
            nll_RL = model.token_nll(params, e.tokens_RL1[rows], execution)
            return (nll_RL * scored_RL).sum(-1)

        def domains(x_C1: Any) -> Any:
            return np.bincount(e.domain_R[rows], losses(x_C1), len(e.domains))

        def slope(move_C1: Any) -> Any:
            at_C1 = np.append(w_C, 1.0)
            near, far = (
                (domains(at_C1 + h * move_C1) - domains(at_C1 - h * move_C1)) / (2 * h)
                for h in (STEP, 2 * STEP)
            )
            return (4 * near - far) / 3

        expected_DC1 = np.transpose([slope(v) for v in np.eye(len(w_C) + 1)])
    largest = np.abs(expected_DC1).max()
    return {"windows": len(rows), "step": STEP} | {
        name: float(
            np.abs(np.column_stack([j.dw_DC, j.dscale_D]) - expected_DC1).max()
            / largest
        )
        for name, j in found.items()
    }


def main() -> None:
    machine.keep_freed_memory()
    parser = machine.parser(__doc__, threads=2)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--windows", type=int, default=20, help="of a domain")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    machine.pin(arguments.threads)
    # Imported on the pinned cores.
    import jaxsim

    scorer = jaxsim.Scorer(arguments.workdir)
    result = {
        "workload": {
            "pool": arguments.workdir.name,
            "parameters": scorer.pool.model.parameter_count(),
            "length": scorer.pool.model.config.length,
        },
        "machine": machine.describe(("jax", "jaxlib", "flax", "numpy")),
        "cost": cost(scorer, arguments.windows, arguments.rounds),
        "exactness": exactness(scorer),
    }
    print(json.dumps(result, indent=2))
    machine.save(arguments.out, "gradient", result)


if __name__ == "__main__":
    main()
