"""What a run costs beyond its steps: rows, checkpoints, digests, manifests.

    python benchmarks/overhead.py

A member of the quickstart's first era is trained as `jaxsim train` does it,
from its lock to its manifest; then as many steps are done on one batch that
lies on the device, and nothing else. They take turns, and what counts is the
ratio of each pair. The quickstart's own run is the shortest that anybody
would train, and commits nothing on the way; the others are longer and commit
their state three times. The base model is a random one: it does not matter here.
"""

import dataclasses
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
from groups import SIZES, stepper
from pairs import alternate, medians, ratios

# Model, steps, and commits on the way.
CASES = [("quickstart", 32, 0), ("quickstart", 256, 3), ("5M", 64, 3)]
TARGET = 0.03


def settings(size: str, steps: int, commits: int) -> Any:
    """The quickstart's config with a model of `size`, or its own."""
    from jaxsim.cli import parse

    config = parse(
        ["train", "--config=configs/quickstart.py", "--workdir=nowhere"]
    ).config
    assert config is not None
    model = config.model
    if size != "quickstart":
        shape = SIZES[size]
        model = dataclasses.replace(model, **shape, kv_heads=shape["heads"])
    every = -(-steps // (commits + 1)) if commits else 0
    return dataclasses.replace(
        config,
        model=model,
        base=dataclasses.replace(config.base, steps=2, warmup=1),
        recipe=dataclasses.replace(config.recipe, steps=steps),
        train=dataclasses.replace(config.train, checkpoint_every=every),
    )


def measure(case: tuple[str, int, int], workdir: Path, pairs: int) -> dict[str, Any]:
    """Rates of whole runs and of bare steps, in tokens a second."""
    from jaxsim import commands
    from jaxsim.corpus import open_corpus
    from jaxsim.mesh import training_mesh
    from jaxsim.pool import open_pool
    from jaxsim.pool.build import train_missing
    from jaxsim.train import member_run, recipe_trainer, replicate_of

    config = settings(*case)
    commands.prepare(config, workdir)
    commands.base(config, workdir)
    corpus = open_corpus(workdir)
    first = member_run(next(iter(corpus.units)), config.recipe)
    model = commands.create_pool(workdir, config, corpus).model
    trainer = recipe_trainer(model, config, training_mesh(-1, 1))
    batch = config.recipe.batch * corpus.length
    bare = stepper(trainer.program())
    orders = itertools.count(1)

    def whole() -> float:
        run = replicate_of(first, next(orders))  # not in the pool yet
        begin = time.perf_counter()
        train_missing([run], open_pool(workdir), corpus, trainer)
        return time.perf_counter() - begin

    size, steps, commits = case
    sides: dict[str, Callable[[], float]] = {"run": whole, "steps": lambda: bare(steps)}
    rates = alternate(sides, steps * batch, pairs)
    return {
        "size": size,
        "parameters": model.parameter_count(),
        "steps": steps,
        "commits": commits,
        "tokens_per_step": batch,
        "tokens_per_second": medians(rates),
        "ratio": ratios(rates, "run", "steps"),
        "blocks": rates,
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    box = result["machine"]
    text = (
        f"{box['cores_used']} of {box['cores']} cores ({box['cpu']}), jax "
        f"{box['versions']['jax']}, {box['date']}, {result['pairs']} pairs. A "
        "run from its lock to its manifest against its bare steps; overhead "
        "is 1 minus the ratio (median, least to largest; target "
        f"{TARGET:.0%}):\n\n"
        "| parameters | steps of tokens | commits | run, tokens/s | steps, "
        "tokens/s | overhead |\n| --- | --- | --- | --- | --- | --- |\n"
    )
    for case in result["cases"]:
        rate, ratio = case["tokens_per_second"], case["ratio"]
        text += (
            f"| {case['parameters']:,} | {case['steps']} of "
            f"{case['tokens_per_step']:,} | {case['commits']} | "
            f"{rate['run']:,.0f} | "
            f"{rate['steps']:,.0f} | {1 - ratio['median']:.1%} "
            f"({1 - ratio['max']:.1%} to {1 - ratio['min']:.1%}) |\n"
        )
    return text


def main() -> None:
    machine.keep_freed_memory()
    parser = machine.parser(__doc__, threads=0)
    parser.add_argument(
        "--cases", type=int, default=len(CASES), help="the first so many"
    )
    parser.add_argument("--pairs", type=int, default=5, help="of blocks")
    args = parser.parse_args()
    if args.threads:
        machine.pin(args.threads)
    cases = []
    for case in CASES[: args.cases]:
        with tempfile.TemporaryDirectory() as folder:
            cases.append(measure(case, Path(folder) / "work", args.pairs))
        print(json.dumps({**cases[-1], "blocks": None}), flush=True)
    result = {
        "pairs": args.pairs,
        "machine": machine.describe(("jax", "jaxlib", "orbax-checkpoint")),
        "cases": cases,
    }
    machine.save(args.out, "overhead", result, table(result))
    print(table(result), end="")


if __name__ == "__main__":
    main()
