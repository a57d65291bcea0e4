"""Scoring on one GPU: how much of a matrix product's speed, and what takes it.

    python benchmarks/gpu_scoring.py            # one H100 or H200
    python benchmarks/gpu_scoring.py --smoke    # a tiny shape on anything

First cuDNN's attention under `vmap` over mixtures is compared with XLA's. Then
512 mixtures of 16 random members of the paper's 130M shape are scored in
bfloat16, and the model's floating-point operations per second (two for every
parameter that multiplies and token, and causal attention) are given as a share
of a product of two 8192 x 8192 bfloat16 matrices, measured in the same run.
The rest is explained by its pieces, each measured alone in the shapes of one
block: merge, dense layers, attention, loss. Then the plan's choices are swept,
and the published way, one checkpoint average and one document at a time, runs
on the same device.

A smoke run shows that every line works, and saves nothing.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gpu_pieces
import jax
import machine
import numpy as np
from gpu_published import published
from random_pool import mixtures, random_resident, random_windows

from jaxsim.config import ModelConfig, ScoreConfig
from jaxsim.errors import JaxsimError
from jaxsim.model import LanguageModel, preset
from jaxsim.scoring.evaluator import Evaluator
from jaxsim.scoring.plan import settled
from jaxsim.scoring.stack import Resident

TARGET = 0.45
REPLICATES = 3
VOCAB = 50_280  # of the paper's tokenizer


@dataclasses.dataclass(frozen=True)
class Size:
    """What is run: the real thing, or a tiny one of the same kind."""

    model: ModelConfig
    vocab: int
    members: int
    mixtures: int
    swept: int  # mixtures of each choice of a sweep
    windows: int
    product: int  # width of the reference product
    chunks: tuple[int, ...]
    rows: tuple[int, ...]


def full(name: str) -> Size:
    return Size(
        model=preset(name),
        vocab=VOCAB,
        members=16,
        mixtures=512,
        swept=64,
        windows=8,
        product=8192,
        chunks=(1, 2, 4, 8, 16),
        rows=(1, 2, 4, 8),
    )


def smoke(name: str) -> Size:
    model = dataclasses.replace(
        preset(name), length=64, layers=2, dim=64, heads=4, mlp_dim=96
    )
    model = dataclasses.replace(
        model, kv_heads=min(4, preset(name).kv_heads), vocab_multiple=1
    )
    return Size(
        model=model,
        vocab=300,
        members=3,
        mixtures=6,
        swept=4,
        windows=4,
        product=128,
        chunks=(1, 2),
        rows=(1, 2),
    )


class Scoring:
    """The evaluator of one choice, timed."""

    def __init__(self, size: Size, pool: Resident, config: ScoreConfig) -> None:
        self._model = LanguageModel(size.model, size.vocab)
        self._evaluation = random_windows(size.windows, size.vocab, size.model)
        self._rows = np.arange(size.windows)
        self._evaluator = Evaluator(self._model, pool, self._evaluation, config)
        self.plan = self._evaluator.plan(self._rows)
        self._size = size

    def measure(self, count: int) -> dict[str, float]:
        """Seconds, tokens and FLOP/s of `count` mixtures; compiles first."""
        table = mixtures(self._size.members, count)
        first = table.take(np.arange(min(count, self.plan.mixtures)))
        self._evaluator.score(first, self._rows)
        seconds = []
        for _ in range(REPLICATES):
            begin = time.perf_counter()
            nll_MR = self._evaluator.score(table, self._rows)
            seconds.append(time.perf_counter() - begin)
        assert np.isfinite(nll_MR).all(), "a loss is not finite"
        length = self._size.model.length
        tokens = count * self._size.windows * length
        best = float(np.median(seconds))
        return {
            "seconds": best,
            "mixtures_per_second": count / best,
            "tokens_per_second": tokens / best,
            "flops": self._model.forward_flops(tokens, length) / best,
        }


def sweep(
    size: Size, pools: Mapping[str, Resident], config: ScoreConfig
) -> list[dict[str, Any]]:
    """Each choice of the plan on its own; what does not fit says so."""
    choices: list[dict[str, Any]] = [{}]
    choices += [{"chunk": k} for k in size.chunks]
    choices += [{"rows": r} for r in size.rows]
    choices += [{"merge": "tree"}, {"merge": "layer"}, {"unroll": False}]
    choices += [{"deltas": "bfloat16"}, {"attention": "xla"}]
    found = []
    for choice in choices:
        pool = pools[choice.get("deltas", "float32")]
        try:
            one = Scoring(size, pool, dataclasses.replace(config, **choice))
            result: dict[str, Any] = one.measure(size.swept)
            result["planned_bytes"] = one.plan.expected.total
            result["mixtures_a_call"] = one.plan.mixtures
            result["rows"] = one.plan.rows
        except (JaxsimError, jax.errors.JaxRuntimeError) as error:
            result = {"error": str(error).splitlines()[0]}
        found.append({"choice": choice, **result})
        print(json.dumps(found[-1]), flush=True)
    return found


def peak_bytes() -> int:
    """The most memory the device has held since the process started."""
    stats = jax.devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use", 0))


def run(size: Size, sweeps: bool) -> dict[str, Any]:
    """Everything, in the order of the module's docstring."""
    model = LanguageModel(size.model, size.vocab)
    on_gpu = jax.devices()[0].platform == "gpu"
    attention = gpu_pieces.check_attention(size.model, on_gpu)
    print(json.dumps(attention), flush=True)
    pool = random_resident(model, size.members, "float32")
    before = peak_bytes()
    config = ScoreConfig(precision="bfloat16")
    main_one = Scoring(size, pool, config)
    print(main_one.plan)
    scored = main_one.measure(size.mixtures)
    memory = {
        "planned": main_one.plan.expected.total,
        # What came before may have needed more; then this says nothing.
        "measured": peak_bytes(),
        "before": before,
    }
    product = gpu_pieces.product_flops(size.product)
    bandwidth = gpu_pieces.bandwidth(size.product)
    pieces = gpu_pieces.measure(
        model,
        pool,
        main_one.plan,
        settled(config, model, pool.mesh),
        size.windows,
        product,
        bandwidth,
    )
    calls = -(-size.mixtures // main_one.plan.mixtures)
    whole = scored["seconds"] / calls
    result = {
        "model": dataclasses.asdict(size.model),
        "parameters": model.parameter_count(),
        "vocab": size.vocab,
        "members": size.members,
        "mixtures": size.mixtures,
        "windows": size.windows,
        "attention": attention,
        "plan": str(main_one.plan),
        "scoring": scored,
        "product_flops": product,
        "share": scored["flops"] / product,
        "target": TARGET,
        "bandwidth": bandwidth,
        "memory": memory,
        "call_seconds": whole,
        "pieces": pieces,
        "unexplained": 1 - sum(p["seconds"] for p in pieces.values()) / whole,
    }
    if sweeps:
        pools = {"float32": pool}
        pools["bfloat16"] = random_resident(model, size.members, "bfloat16")
        result["sweeps"] = sweep(size, pools, config)
    result["published"] = published(model, pool, size.windows)
    return result


def report(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    box, memory = result["machine"], result["memory"]
    scored, whole = result["scoring"], result["call_seconds"]
    text = (
        f"{box['device']}, jax {box['versions']['jax']}, {box['date']}: "
        f"{result['mixtures']} mixtures of {result['members']} members of "
        f"{result['parameters']:,} parameters on {result['windows']} windows "
        f"of {result['model']['length']} tokens, bfloat16: "
        f"**{result['share']:.1%}** of a bfloat16 product "
        f"({scored['flops'] / 1e12:.0f} of "
        f"{result['product_flops'] / 1e12:.0f} TFLOP/s; target "
        f"{result['target']:.0%}), {scored['mixtures_per_second']:.1f} "
        f"mixtures/s, {scored['tokens_per_second']:,.0f} tokens/s. Memory "
        f"planned {memory['planned'] / 1e9:.2f} GB, peak measured "
        f"{memory['measured'] / 1e9:.2f} GB (before scoring "
        f"{memory['before'] / 1e9:.2f} GB). cuDNN's attention under vmap: "
        f"{result['attention']['verdict']}.\n\n"
        "| piece of a call, alone | share of its time | of the product's "
        "FLOP/s | of the bandwidth |\n| --- | --- | --- | --- |\n"
    )
    for name, piece in result["pieces"].items():
        text += (
            f"| {name} | {piece['seconds'] / whole:.1%} | "
            f"{piece['flops_share']:.1%} | {piece['bandwidth_share']:.1%} |\n"
        )
    text += f"| everything else | {result['unexplained']:.1%} | | |\n\n"
    if "sweeps" in result:
        text += "| choice | mixtures/s | planned GB |\n| --- | --- | --- |\n"
        for row in result["sweeps"]:
            name = ", ".join(f"{k}={v}" for k, v in row["choice"].items())
            if "error" in row:
                text += f"| {name} | {row['error']} | |\n"
                continue
            text += (
                f"| {name or 'as planned'} | "
                f"{row['mixtures_per_second']:.1f} | "
                f"{row['planned_bytes'] / 1e9:.2f} |\n"
            )
        text += "\n"
    for name, rate in result["published"].items():
        ratio = scored["mixtures_per_second"] / rate
        text += f"- {name}: {rate:.2f} mixtures/s; {ratio:.1f} times slower\n"
    return text


def main() -> None:
    args = _arguments()
    if not args.smoke and jax.devices()[0].platform != "gpu":
        raise SystemExit("no GPU here; --smoke runs a tiny shape anywhere")
    size = smoke(args.preset) if args.smoke else full(args.preset)
    result = run(size, sweeps=not args.no_sweeps)
    result["machine"] = machine.describe(("jax", "jaxlib", "flax", "numpy"))
    result["machine"]["device"] = jax.devices()[0].device_kind
    print(report(result), end="")
    if args.smoke:
        print("smoke run: these numbers mean nothing, and nothing was saved")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2) + "\n"
    (args.out / "gpu_scoring.json").write_text(text)
    (args.out / "gpu_scoring.md").write_text(report(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="paper-130m")
    parser.add_argument("--smoke", action="store_true", help="tiny, unsaved")
    parser.add_argument("--no-sweeps", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
