"""What scoring was planned to need, against what it needed.

    python benchmarks/memory.py --threads=2

Every case is a process of its own: it makes a pool of random members as the
commands load one, scores two chunks, and tells its plan and the most memory it
had, which is resident memory on a CPU and the device's own count elsewhere.
What Python, JAX and the libraries take is measured before, for the record.

A program that only merges says what share of the time merging takes.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import machine

TOLERANCE = 0.2  # of the measured peak
MODELS = {"tiny-5m": {}, "30m": {"layers": 8, "dim": 512, "heads": 8, "mlp_dim": 1376}}
DELTAS = ("float32", "bfloat16")


def case(model: str, deltas: str, args: Any) -> dict[str, Any]:
    """Scores in this process; see `main` for what comes back."""
    import jax
    import numpy as np
    from random_pool import mixtures, random_windows

    from jaxsim.config import ScoreConfig
    from jaxsim.devices import is_cpu
    from jaxsim.mesh import scoring_mesh
    from jaxsim.model import LanguageModel, preset
    from jaxsim.scoring.evaluator import Evaluator
    from jaxsim.scoring.layout import bytes_of, process_bytes
    from jaxsim.scoring.program import merge
    from jaxsim.scoring.stack import StackedPool, stacked

    devices = jax.devices()
    before = process_bytes()
    shape = dataclasses.replace(preset("tiny-5m"), **_widths(model))
    language_model = LanguageModel(shape, args.vocab)
    table = mixtures(args.members, 2 * len(devices))
    rng = np.random.default_rng(0)

    def random(like: Any, std: float) -> np.ndarray:
        return std * rng.standard_normal(like.shape, dtype=np.float32)

    def members(base: Any) -> Iterator[Any]:
        for _ in range(args.members):
            yield jax.tree.map(lambda s: s + random(s, 0.002), base)

    def pool() -> StackedPool:
        base = jax.tree.map(lambda s: random(s, 0.02), language_model.shapes())
        delta_C = stacked(base, members(base), args.members, deltas)
        on_host = StackedPool(table.members, table.members, "", base, delta_C)
        return on_host.on(scoring_mesh(), language_model)

    stack = pool()
    evaluation = random_windows(args.windows, args.vocab, shape)
    config = ScoreConfig(chunk=1, deltas=deltas)
    evaluator = Evaluator(language_model, stack, evaluation, config)
    programs, rows = evaluator.programs, np.arange(args.windows)
    layout = programs.layout()
    planned = programs.needed(programs.compiled(layout, shape.length))
    evaluator.score(table.take(range(len(devices))), rows)
    begin = time.perf_counter()
    evaluator.score(table, rows)
    seconds = (time.perf_counter() - begin) / 2
    if is_cpu(stack.mesh):
        kilobyte = 1024 if sys.platform == "linux" else 1
        usage = resource.getrusage(resource.RUSAGE_SELF)
        measured = usage.ru_maxrss * kilobyte
    else:
        measured = devices[0].memory_stats()["peak_bytes_in_use"]
    # Afterwards, because it needs memory of its own.
    program = jax.jit(merge)
    w_C = table.w_MC[0].astype(np.float32)
    mixture = stack.base, stack.delta_C, w_C, np.float32(1)
    jax.block_until_ready(program(*mixture))
    begin = time.perf_counter()
    for _ in range(5):
        jax.block_until_ready(program(*mixture))
    merging = (time.perf_counter() - begin) / 5
    held = bytes_of((stack.base, stack.delta_C))
    return {
        "model": model,
        "parameters": language_model.parameter_count(),
        "deltas": deltas,
        "before": before,
        "pool": held,
        "planned": planned,
        "measured": measured,
        "rows": layout.windows,
        # The pool is read once, and the merged model written.
        "merge_bytes": held + bytes_of(stack.base),
        "flops": language_model.forward_flops(args.windows * shape.length),
        "seconds_per_mixture": seconds,
        "merge_share": merging / seconds,
        "device": devices[0].device_kind,
    }


def _widths(model: str) -> dict[str, int]:
    widths = MODELS[model]
    return widths | {"kv_heads": widths["heads"]} if widths else widths


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    box = result["machine"]
    lines = [
        f"{result['members']} random members, {result['windows']} windows of "
        f"256 tokens, vocabulary {result['vocab']}; {box['cores_used']} of "
        f"{box['cores']} cores ({box['cpu']}), {box['memory_gib']} GiB, jax "
        f"{box['versions']['jax']}, {box['date']}. MB of "
        f"{'the process' if result['on_cpu'] else 'the device'}; the share of "
        "the time is that of a program that only merges, over a mixture's.",
        "",
        "| parameters | deltas | before | pool | planned peak | measured | "
        "planned / measured | merge moves | forward | merge's share of the time |",
        "|" + " --- |" * 2 + " ---: |" * 8,
    ]
    for one in result["cases"]:
        mb = {
            key: f"{value / 1e6:,.0f}"
            for key, value in one.items()
            if key in ("before", "pool", "planned", "measured", "merge_bytes")
        }
        lines.append(
            f"| {one['parameters'] / 1e6:.1f}M | "
            f"{one['deltas']} | {mb['before']} | {mb['pool']} | "
            f"{mb['planned']} | {mb['measured']} | "
            f"{one['planned'] / one['measured']:.2f} | "
            f"{mb['merge_bytes']} MB | {one['flops'] / 1e12:.2f} TFLOP | "
            f"{one['merge_share']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    machine.keep_freed_memory()
    parser = machine.parser(__doc__, threads=2)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--case", default="", help="MODEL,DELTAS: one")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(case(*args.case.split(","), args)))
        return
    machine.pin(args.threads)
    cases = []
    for model in MODELS:
        for deltas in DELTAS:
            command = [sys.executable, *sys.argv, f"--case={model},{deltas}"]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True
            )
            one = json.loads(done.stdout.splitlines()[-1])
            print(json.dumps(one), flush=True)
            cases.append(one)
    result = {
        "members": args.members,
        "windows": args.windows,
        "vocab": args.vocab,
        "on_cpu": cases[0]["device"] == "cpu",
        "machine": machine.describe(("jax", "jaxlib", "flax", "numpy")),
        "cases": cases,
    }
    machine.save(args.out, "memory", result, table(result))
    print(table(result), end="")
    for one in cases:
        off = abs(one["planned"] / one["measured"] - 1)
        assert off <= TOLERANCE, f"{one} is {off:.0%} off its plan"


if __name__ == "__main__":
    main()
