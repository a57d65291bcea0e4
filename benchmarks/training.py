"""Training tokens per second, against a plain PyTorch loop of the same model.

    python benchmarks/training.py --preset=tiny-0.6m --threads=2

Both sides run here, in turns, and what counts is the ratio of each pair of
blocks of steps (`pairs.py`).

Before anything is timed, both get the same parameters, and the loss of a batch
and then the change of every tensor in three steps must agree.

JAX runs the trainer's own step, which also sums the tail average and checks
every gradient for being finite; PyTorch's loop does neither.
"""

import functools
import time
from typing import Any

import machine
import numpy as np
from pairs import Rates, Remote, alternate, medians, ratios, remote
from workload import Arrays, Workload

LOSS_TOLERANCE = 1e-5  # nats a token, of about 8
# Adam moves a parameter by about the learning rate in the direction of its
# gradient's sign, which is rounding where the gradient is. So not every element
# can agree, but a tensor can.
STEP_TOLERANCE = 1e-3  # L2 of the difference, in that of the tensor's change
CHECKED_STEPS = 3  # the first says nothing about Adam's betas


def agree(jax: Remote, torch: Remote) -> dict[str, Any]:
    """Checks that both compute the same; returns by how much they differ.

    Raises:
      AssertionError: they differ by more than the tolerances.
    """
    before = _jittered(jax.ask("parameters"))
    losses, seconds, after = {}, {}, {}
    for name, side in (("jax", jax), ("torch", torch)):
        side.ask("load", before)
        begin = time.perf_counter()
        losses[name] = side.ask("loss")
        seconds[name] = {"score": time.perf_counter() - begin}
        seconds[name]["train"] = side.ask("train", 1)
        side.ask("train", CHECKED_STEPS - 1)
        after[name] = side.ask("parameters")
    loss = abs(losses["jax"] - losses["torch"])
    assert loss <= LOSS_TOLERANCE, f"losses differ: {losses}"
    changes = {
        path: _relative(after["jax"][path], after["torch"][path], before[path])
        for path in before
    }
    path = max(changes, key=changes.__getitem__)
    assert changes[path] <= STEP_TOLERANCE, f"{path} differs: {changes[path]}"
    return {
        "loss": losses["jax"],
        "loss_difference": loss,
        "loss_tolerance": LOSS_TOLERANCE,
        "step_difference": changes[path],
        "step_difference_in": path,
        "steps_checked": CHECKED_STEPS,
        "step_tolerance": STEP_TOLERANCE,
        "first_call_seconds": seconds,
    }


def _jittered(arrays: Arrays) -> Arrays:
    """Parameters that no longer hide a scale or bias at the wrong place."""
    rng = np.random.default_rng(1)
    return {
        path: (leaf + 0.02 * rng.standard_normal(leaf.shape)).astype(leaf.dtype)
        for path, leaf in arrays.items()
    }


def _relative(a: np.ndarray, b: np.ndarray, start: np.ndarray) -> float:
    a, b = a.reshape(start.shape), b.reshape(start.shape)
    return float(np.linalg.norm(a - b) / np.linalg.norm(a - start))


def blocks(
    sides: dict[str, Remote], what: str, steps: int, pairs: int, tokens: int
) -> Rates:
    """Tokens a second of blocks of `steps` steps, in turns."""
    asked = {
        name: functools.partial(side.ask, what, steps) for name, side in sides.items()
    }
    return alternate(asked, steps * tokens, pairs)


def summarize(rates: Rates) -> dict[str, Any]:
    """Medians, and the ratios of the pairs."""
    return {
        "tokens_per_second": medians(rates),
        "ratio": ratios(rates, "jax", "torch"),
        "blocks": rates,
    }


def sentence(result: dict[str, Any]) -> str:
    """The result as one paragraph of Markdown."""
    work, box = result["workload"], result["machine"]
    versions = box["versions"]
    text = (
        f"`{work['preset']}`, vocabulary {work['vocab']}, {work['batch']} rows "
        f"of {work['length']} tokens, {work['parameters']:,} parameters, "
        f"float32, {box['cores_used']} of {box['cores']} cores "
        f"({box['cpu']}), {box['memory_gib']} GiB, jax {versions['jax']}, "
        f"torch {versions['torch']}, {box['date']}, {work['pairs']} pairs of "
        f"blocks of {work['steps']} steps:\n"
    )
    for what, label in (("train", "training"), ("score", "forward only")):
        rate, ratio = (result[what][k] for k in ("tokens_per_second", "ratio"))
        text += (
            f"\n- {label}: **{ratio['median']:.2f}** times PyTorch "
            f"({ratio['min']:.2f} to {ratio['max']:.2f}); "
            f"{rate['jax']:,.0f} and {rate['torch']:,.0f} tokens/s; first call "
            f"{result['agreement']['first_call_seconds']['jax'][what]:.1f} s "
            "with compilation, PyTorch "
            f"{result['agreement']['first_call_seconds']['torch'][what]:.1f} s"
        )
    return text + "\n"


def main() -> None:
    machine.keep_freed_memory()
    parser = machine.parser(__doc__, threads=2)
    parser.add_argument("--preset", default="tiny-0.6m")
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=8, help="rows")
    parser.add_argument("--steps", type=int, default=30, help="of a block")
    parser.add_argument("--pairs", type=int, default=15, help="of blocks")
    args = parser.parse_args()
    machine.pin(args.threads)
    workload = Workload(args.preset, args.vocab, args.batch)
    with (
        remote("side_jax", "JaxSide", workload) as jax,
        remote("side_torch", "TorchSide", workload) as torch,
    ):
        sides = {"jax": jax, "torch": torch}
        agreement = agree(jax, torch)
        parameters = sum(a.size for a in jax.ask("parameters").values())
        measured = {
            what: summarize(
                blocks(sides, what, args.steps, args.pairs, workload.tokens)
            )
            for what in ("train", "score")
        }
    result = {
        "workload": {
            "preset": args.preset,
            "vocab": args.vocab,
            "batch": args.batch,
            "length": workload.model.length,
            "parameters": parameters,
            "steps": args.steps,
            "pairs": args.pairs,
        },
        "machine": machine.describe(
            ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
        ),
        "agreement": agreement,
        **measured,
    }
    machine.save(args.out, "training", result, sentence(result))
    print(sentence(result), end="")


if __name__ == "__main__":
    main()
