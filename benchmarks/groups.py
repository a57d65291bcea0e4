"""Training many small models at once: in parallel, one by one, and as one model.

    python benchmarks/groups.py --quick

For each size of model, batch and group, in turns and in one process: the
trainer's step of one run, of G runs in parallel, and of ONE run with G times
the batch, which is what the device could do if the G models were a single one.
What counts is the ratio of tokens a second of each pair of blocks.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from typing import Any

import machine
from pairs import alternate, medians, ratios

# Named by their parameters with a vocabulary of 4,096.
SIZES: dict[str, dict[str, int]] = {
    "1M": {"layers": 2, "dim": 128, "heads": 4, "mlp_dim": 352},
    "5M": {"layers": 6, "dim": 256, "heads": 8, "mlp_dim": 688},
    "20M": {"layers": 8, "dim": 448, "heads": 7, "mlp_dim": 1216},
}
VOCABULARY, LENGTH = 4096, 256
WHOLE = {
    "sizes": ["1M", "5M", "20M"],
    "tokens": [2**10, 2**12, 2**14, 2**17],
    "groups": [2, 4, 8, 16, 32],
}
QUICK = {"sizes": ["1M"], "tokens": [2**10, 2**12], "groups": [2, 8]}


def program(size: str, tokens: int, members: int, args: Any) -> Any:
    """The trainer's step for runs of `tokens` tokens a step each."""
    # Imported when the process is pinned: XLA counts the cores at its start.
    from jaxsim.config import Config, ModelConfig
    from jaxsim.mesh import training_mesh
    from jaxsim.model import LanguageModel
    from jaxsim.train import recipe_trainer

    shape = SIZES[size]
    model = ModelConfig(length=LENGTH, kv_heads=shape["heads"], **shape)
    config = Config(model=model)
    config = dataclasses.replace(
        config,
        recipe=dataclasses.replace(
            config.recipe, batch=tokens // LENGTH, precision=args.precision
        ),
        train=dataclasses.replace(config.train, attention=args.attention),
    )
    trainer = recipe_trainer(
        LanguageModel(model, VOCABULARY), config, training_mesh(-1, 1)
    )
    return trainer.program(members)


def stepper(step: Any) -> Callable[[int], float]:
    """Returns a function that trains some steps and returns the seconds."""
    import jax
    import numpy as np

    rng = np.random.default_rng(0)
    batch = jax.device_put(
        rng.integers(0, step.model.vocab_size, step.tokens.shape, dtype=np.int32),
        step.tokens.sharding,
    )
    model = step.model
    state = step.start(jax.jit(model.init)(jax.random.key(0)), 1, 0)

    def run(steps: int) -> float:
        nonlocal state
        begin, last = time.perf_counter(), None
        for _ in range(steps):
            state, sums = step(state, batch)
            if last is not None:  # as the trainer does, one step behind
                jax.device_get(last)
            last = sums
        jax.block_until_ready((state, last))
        return time.perf_counter() - begin

    return run


def measure(size: str, tokens: int, group: int, args: Any) -> dict[str, Any]:
    """Rates of the three ways, if they fit in a device's memory."""
    from jaxsim.devices import usable_memory

    case = {"size": size, "tokens": tokens, "group": group}
    steps = max(1, args.block // (group * tokens))
    programs = {"alone": program(size, tokens, 1, args)}
    alone = stepper(programs["alone"])
    alone(1)
    expected = steps * group * alone(1)
    if args.longest and expected > args.longest:
        return case | {"left_out": f"a block would take {expected:.0f} s"}
    programs["group"] = program(size, tokens, group, args)
    programs["one"] = program(size, group * tokens, 1, args)
    needed = {name: step.needed() for name, step in programs.items()}
    limit = usable_memory(programs["alone"].mesh)
    if limit and sum(needed.values()) > limit:
        return case | {"needed": needed, "left_out": "does not fit"}
    sides = {
        "alone": (alone, group * steps),
        "group": (stepper(programs["group"]), steps),
        "one": (stepper(programs["one"]), steps),
    }
    rates = alternate(
        {name: functools.partial(run, count) for name, (run, count) in sides.items()},
        steps * group * tokens,
        args.pairs,
    )
    return case | {
        "parameters": programs["alone"].model.parameter_count(),
        "needed": needed,
        "tokens_per_second": medians(rates),
        "over_alone": ratios(rates, "group", "alone"),
        "over_one": ratios(rates, "group", "one"),
        "blocks": rates,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    box, work = result["machine"], result["workload"]
    text = (
        f"{box['device']}, {box['cores_used']} of {box['cores']} cores "
        f"({box['cpu']}), {work['precision']}, {work['attention']} attention, "
        f"rows of {LENGTH} tokens, vocabulary {VOCABULARY}, jax "
        f"{box['versions']['jax']}, {box['date']}, {work['pairs']} pairs of "
        f"blocks of about {work['block']:,} tokens"
        f"{'' if box['load'] is None else '; load at the start ' + box['load']}"
        ".\n\nTokens a second of G runs in parallel, over one after the other "
        "and over ONE run with G times the batch (median, least to "
        "largest):\n\n"
        "| parameters | tokens a step of a run | G | alone, tokens/s | in "
        "parallel | over alone | over one |\n| --- | --- | --- | --- | --- | --- | "
        "--- |\n"
    )
    for case in result["cases"]:
        text += f"| {case['size']} | {case['tokens']:,} | {case['group']} | "
        if "left_out" in case:
            text += f"{case['left_out']} | | | |\n"
            continue
        rate = case["tokens_per_second"]
        over = [
            "{median:.2f} ({min:.2f} to {max:.2f})".format(**case[key])
            for key in ("over_alone", "over_one")
        ]
        text += f"{rate['alone']:,.0f} | {rate['group']:,.0f} | {' | '.join(over)} |\n"
    return text


def main() -> None:
    machine.keep_freed_memory()
    args = _arguments()
    if args.threads:
        machine.pin(args.threads)
    import os

    import jax

    load = f"{os.getloadavg()[0]:.1f}"
    cases = []
    for size in args.sizes:
        for tokens in args.tokens:
            for group in args.groups:
                cases.append(measure(size, tokens, group, args))
                print(json.dumps({**cases[-1], "blocks": None}), flush=True)
    device = jax.devices()[0]
    result = {
        "workload": {
            key: getattr(args, key)
            for key in ("precision", "attention", "block", "pairs")
        },
        "machine": machine.describe(("jax", "jaxlib", "flax", "optax", "numpy"))
        | {"device": f"{jax.device_count()} x {device.device_kind}", "load": load},
        "cases": cases,
    }
    machine.save(args.out, "groups", result, table(result))
    print(table(result), end="")


def _arguments() -> argparse.Namespace:
    parser = machine.parser(__doc__, threads=0)
    parser.add_argument("--quick", action="store_true", help="on a laptop")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES))
    parser.add_argument("--tokens", nargs="+", type=int, help="a step of a run")
    parser.add_argument("--groups", nargs="+", type=int)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--attention", default="einsum")
    parser.add_argument("--block", type=int, default=2**16, help="tokens")
    parser.add_argument("--pairs", type=int, default=5, help="of blocks")
    parser.add_argument(
        "--longest", type=float, default=0, help="seconds of a block; 0: any"
    )
    args = parser.parse_args()
    for key, value in (QUICK if args.quick else WHOLE).items():
        if getattr(args, key) is None:
            setattr(args, key, value)
    return args


if __name__ == "__main__":
    main()
