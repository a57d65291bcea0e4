"""Scoring on one GPU: how much of a matrix product's speed, and what takes it.

    python benchmarks/gpu_scoring.py            # one H100 or H200, under ten minutes
    python benchmarks/gpu_scoring.py --smoke    # a tiny shape on anything

First cuDNN's attention under `vmap` over mixtures is compared with XLA's. Then
mixtures of 16 random members of the paper's 130M shape are scored in bfloat16, and the
model's floating-point operations per second (two for every parameter that multiplies
and token, and causal attention) are given as a share of a product of two 8192 x 8192
bfloat16 matrices, measured in the same run.

The same mixtures are scored in each precision and compared with float32 on the device,
and float32 on the device with float32 on the host's CPU. Then the time of a call is
explained by its pieces, each measured alone in the shapes of one block: merge, dense
layers, attention, loss. Last, the published way, one checkpoint average and one
document at a time, runs on the same device. `--sweep` tries other layouts.

Every part is saved when it is done. A smoke run shows that every line works, and saves
nothing.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import gpu_pieces
import jax
import machine
import numpy as np
from gpu_published import published
from random_pool import mixtures, random_stack, random_windows

from jaxsim.config import ModelConfig, ScoreConfig
from jaxsim.errors import JaxsimError
from jaxsim.mesh import scoring_mesh
from jaxsim.model import LanguageModel, preset
from jaxsim.scoring.evaluator import Evaluator
from jaxsim.scoring.stack import StackedPool

TARGET = 0.45
REPLICATES = 3
COMPARED, ON_HOST = (16, 8), (4, 2)  # mixtures and windows; a CPU is slow
SWEPT: tuple[dict[str, Any], ...] = (
    {"chunk": 1},
    {"chunk": 4},
    {"chunk": 16},
    {"rows": 4},
    {"attention": "xla"},
    {"deltas": "bfloat16"},
)


@dataclasses.dataclass(frozen=True)
class Size:
    """What is run: the real thing, or a tiny one of the same kind."""

    model: ModelConfig
    vocab: int
    members: int
    mixtures: int
    windows: int
    product: int  # width of the reference product


# The vocabulary is that of the paper's tokenizer.
FULL = Size(preset("paper-130m"), 50_280, 16, 128, 64, 8192)
SMOKE = Size(
    dataclasses.replace(
        preset("paper-130m"),
        length=64, layers=2, dim=64, heads=4, kv_heads=4, mlp_dim=96,
        vocab_rows=0,
    ),
    300, 3, 16, 8, 128,
)  # fmt: skip


class Scoring:
    """The evaluator with one configuration, timed."""

    def __init__(self, size: Size, pool: StackedPool, config: ScoreConfig) -> None:
        self._size, self._model = size, LanguageModel(size.model, size.vocab)
        evaluation = random_windows(size.windows, size.vocab, size.model)
        self._bytes_R, self._rows = evaluation.bytes_R, np.arange(size.windows)
        self._evaluator = Evaluator(self._model, pool, evaluation, config)
        self.programs = self._evaluator.programs
        self.layout = self.programs.layout()
        program = self.programs.compiled(self.layout, size.model.length)
        self.planned = self.programs.needed(program)

    @property
    def at_once(self) -> int:
        """Mixtures of a call."""
        return self.layout.mixtures * self.programs.across

    def measure(self) -> dict[str, float]:
        """Seconds, and mixtures, tokens and FLOP a second."""
        count, length = self._size.mixtures, self._size.model.length
        table = mixtures(self._size.members, count)
        first = table.take(np.arange(min(count, self.at_once)))
        self._evaluator.score(first, self._rows)
        seconds = []
        for _ in range(REPLICATES):
            begin = time.perf_counter()
            nll_MR = self._evaluator.score(table, self._rows)
            seconds.append(time.perf_counter() - begin)
        assert np.isfinite(nll_MR).all(), "a loss is not finite"
        tokens, median = count * self._size.windows * length, float(np.median(seconds))
        return {
            "seconds": median,
            "seconds_of_call": median / -(-count // self.at_once),
            "mixtures_per_second": count / median,
            "tokens_per_second": tokens / median,
            "flops": self._model.forward_flops(tokens, length) / median,
        }

    def bits(self, count: int, windows: int) -> np.ndarray:
        """Bits per byte of the first mixtures and windows, [count, windows]."""
        table, rows = mixtures(self._size.members, count), self._rows[:windows]
        nll_MR = self._evaluator.score(table, rows).astype(np.float64)
        return nll_MR / (self._bytes_R[rows] * np.log(2))


def precisions(
    size: Size, pool: StackedPool, config: ScoreConfig, in_bfloat16: Scoring
) -> dict[str, Any]:
    """How far losses move in bits per byte, by how they are computed."""

    def on_device(precision: Any) -> np.ndarray:
        changed = dataclasses.replace(config, precision=precision)
        return Scoring(size, pool, changed).bits(*COMPARED)

    def on_host() -> np.ndarray:
        mesh = scoring_mesh(devices=jax.devices("cpu")[:1])
        here = pool.on(mesh, LanguageModel(size.model, size.vocab))
        changed = dataclasses.replace(config, precision="float32", attention="auto")
        return Scoring(size, here, changed).bits(*ON_HOST)

    reference_MR = on_device("float32")
    ways: dict[str, Callable[[], np.ndarray]] = {
        "tf32": lambda: on_device("tf32"),
        "bfloat16": lambda: in_bfloat16.bits(*COMPARED),
        "float32 on the host's CPU": on_host,
    }
    found: dict[str, dict[str, Any]] = {}
    for name, way in ways.items():
        try:
            bits_MR = way()
        # Without a CPU in JAX_PLATFORMS, JAX raises RuntimeError.
        except (JaxsimError, RuntimeError) as error:
            found[name] = {"error": str(error).splitlines()[0]}
            continue
        m, r = bits_MR.shape
        change_MR = bits_MR - reference_MR[:m, :r]
        # What all mixtures have in common moves no rank.
        own_MR = change_MR - change_MR.mean(axis=0)
        found[name] = {
            "max": float(np.abs(change_MR).max()),
            "rms": float(np.sqrt(np.mean(change_MR**2))),
            "rms_between_mixtures": float(np.sqrt(np.mean(own_MR**2))),
        }
    return {"spread": float(reference_MR.mean(axis=1).std()), "ways": found}


def sweep(size: Size, pool: StackedPool, config: ScoreConfig) -> list[dict[str, Any]]:
    """Other layouts, one change at a time; what does not fit says so."""
    model, found = LanguageModel(size.model, size.vocab), []
    for choice in SWEPT:
        if "deltas" in choice:
            pool = random_stack(model, size.members, choice["deltas"])
        try:
            one = Scoring(size, pool, dataclasses.replace(config, **choice))
            result: dict[str, Any] = {**one.measure(), "planned_bytes": one.planned}
        except (JaxsimError, jax.errors.JaxRuntimeError) as error:
            result = {"error": str(error).splitlines()[0]}
        found.append({"choice": choice, **result})
        print(json.dumps(found[-1]), flush=True)
    return found


def peak_bytes() -> int:
    """The most memory the device has held since the process started."""
    stats = jax.devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use", 0))


def run(
    size: Size, with_sweep: bool, save: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Everything, in the order of the module's docstring."""
    model = LanguageModel(size.model, size.vocab)
    on_gpu = jax.devices()[0].platform == "gpu"
    attention = gpu_pieces.check_attention(size.model, on_gpu)
    print(json.dumps(attention), flush=True)
    pool = random_stack(model, size.members, "float32")
    config = ScoreConfig(
        precision="bfloat16",
        unroll=False,  # compiled sooner
        attention="auto" if "difference" in attention else "xla",
    )
    before, main_one = peak_bytes(), Scoring(size, pool, config)
    scored = main_one.measure()
    product = gpu_pieces.product_flops(size.product)
    result = {
        "machine": machine.describe(("jax", "jaxlib", "flax", "numpy"))
        | {"device": jax.devices()[0].device_kind},
        **dataclasses.asdict(size),
        "parameters": model.parameter_count(),
        "attention": attention,
        "layout": dataclasses.asdict(main_one.layout),
        "scoring": scored,
        "product_flops": product,
        "share": scored["flops"] / product,
        "target": TARGET,
        # What came before may have needed more; then `measured` says nothing.
        "memory": {
            "planned": main_one.planned,
            "measured": peak_bytes(),
            "before": before,
        },
    }
    save(result)
    result["precisions"] = precisions(size, pool, config, main_one)
    save(result)
    result["bandwidth"] = gpu_pieces.bandwidth(size.product)
    result["pieces"] = gpu_pieces.measure(
        main_one.programs, main_one.layout, size.windows, product, result["bandwidth"]
    )
    save(result)
    result["published"] = published(model, pool, config, size.windows)
    save(result)
    if with_sweep:
        result["sweep"] = sweep(size, pool, config)
        save(result)
    return result


def report(result: dict[str, Any]) -> str:
    """What is known so far, in Markdown."""
    box, memory, scored = result["machine"], result["memory"], result["scoring"]
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
        f"{result['attention']['verdict']}.\n"
    )
    if "precisions" in result:
        text += (
            f"\nAgainst float32 on the device, {COMPARED[0]} mixtures (on the host "
            f"{ON_HOST[0]}), in bits per byte of a window; mixtures differ by "
            f"{result['precisions']['spread']:.1e}.\n\n"
            "| computed in | largest difference | rms | rms between mixtures |\n"
            "| --- | --- | --- | --- |\n"
        )
        for name, row in result["precisions"]["ways"].items():
            columns = "max", "rms", "rms_between_mixtures"
            values = " | ".join(f"{row[c]:.1e}" for c in columns if c in row)
            text += f"| {name} | {values or row['error'] + ' | |'} |\n"
    if "pieces" in result:
        whole = scored["seconds_of_call"]
        text += (
            "\n| piece of a call, alone | share of its time | of the product's "
            "FLOP/s | of the bandwidth |\n| --- | --- | --- | --- |\n"
        )
        for name, piece in result["pieces"].items():
            text += (
                f"| {name} | {piece['seconds'] / whole:.1%} | "
                f"{piece['flops_share']:.1%} | {piece['bandwidth_share']:.1%} |\n"
            )
        rest = 1 - sum(piece["seconds"] for piece in result["pieces"].values()) / whole
        text += f"| everything else | {rest:.1%} | | |\n"
    for name, rate in result.get("published", {}).items():
        ratio = scored["mixtures_per_second"] / rate
        text += f"\n- {name}: {rate:.2f} mixtures/s; {ratio:.1f} times slower\n"
    if "sweep" in result:
        text += "\n| choice | mixtures/s | planned GB |\n| --- | --- | --- |\n"
        for row in result["sweep"]:
            name = ", ".join(f"{k}={v}" for k, v in row["choice"].items())
            if "error" in row:
                text += f"| {name} | {row['error']} | |\n"
                continue
            text += (
                f"| {name} | {row['mixtures_per_second']:.1f} | "
                f"{row['planned_bytes'] / 1e9:.2f} |\n"
            )
    return text


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny, unsaved")
    parser.add_argument("--sweep", action="store_true", help="other layouts, as well")
    args = parser.parse_args()
    if not args.smoke and jax.devices()[0].platform != "gpu":
        raise SystemExit("no GPU here; --smoke runs a tiny shape anywhere")

    def save(result: dict[str, Any]) -> None:
        if args.smoke:
            return
        machine.save(args.out, "gpu_scoring", result, report(result))

    print(report(run(SMOKE if args.smoke else FULL, args.sweep, save)), end="")
    if args.smoke:
        print("smoke run: these numbers mean nothing, and nothing was saved")


if __name__ == "__main__":
    main()
