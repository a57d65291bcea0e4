"""Mixtures scored per second, against PyTorch, on the same cores.

    python benchmarks/scoring.py --threads=2

Two models, two kinds of text (long addresses, short docstrings), the same
parameters, mixtures and windows on both sides, in turns (`pairs.py`). Before
anything is timed, the losses of every window must agree.

jaxsim's side is its evaluator with the default configuration. PyTorch's is a
batched loop with the batch that suits it best, and beside it the way of the
published code: load checkpoints, average, document by document. With models
as small as these, one window alone is enough work for two cores, so that way
loses less here than it would on a larger machine.
"""

import contextlib
import json
import time
from typing import Any

import machine
import numpy as np
from pairs import Remote, alternate, medians, ratios, remote
from scoring_work import ScoringWork
from texts import windows

LOSS_TOLERANCE = 2e-6  # of a window's nats, relative
# Preset, entries of the vocabulary, mixtures in a block. The quickstart's
# model, and one eight times as large.
MODELS = (("tiny-0.6m", 2048, 16), ("tiny-5m", 4096, 8))
TEXTS = (("addresses", 64), ("docstrings", 256))  # and windows
PUBLISHED_SHARE = 8  # it is slow: so many times fewer mixtures in a block


def measure(work: ScoringWork, count: int, pairs: int) -> dict[str, Any]:
    """Both sides on one model and text, `count` mixtures in a block.

    Raises:
      AssertionError: their losses differ.
    """
    with (
        remote("scoring_jax", "JaxScoring", work) as jax,
        remote("scoring_torch", "TorchScoring", work) as torch,
    ):
        agreement = _agree(jax, torch)
        batch, tried = torch.ask("tune", max(1, count // 4))
        few = max(1, count // PUBLISHED_SHARE)
        rates = alternate(
            {
                "jaxsim": lambda: jax.ask("score", count),
                "torch": lambda: torch.ask("score", count),
                "published": lambda: torch.ask("published", few) * count / few,
            },
            count,
            pairs,
        )
        merge = torch.ask("merges", count) / count
    e = work.evaluation
    return {
        "preset": work.preset,
        "text": e.domains[0],
        "parameters": sum(int(np.prod(a.shape)) for a in work.parameters()[0].values()),
        "vocab": work.vocab,
        "length": work.model.length,
        "members": work.members,
        "windows": len(e),
        "tokens": int(e.length_R.sum()),
        "mixtures": count,
        "score": work.score,
        "agreement": agreement,
        "torch_batch": batch,
        "torch_batches_tried": tried,
        "torch_merge_share": merge * medians(rates)["torch"],
        "mixtures_per_second": medians(rates),
        "best_mixtures_per_second": {k: max(v) for k, v in rates.items()},
        "ratio": ratios(rates, "jaxsim", "torch"),
        "ratio_published": ratios(rates, "jaxsim", "published"),
        "blocks": rates,
    }


def _agree(jax: Remote, torch: Remote) -> dict[str, float]:
    begin = time.perf_counter()
    ours = jax.ask("nll", 2)
    seconds = time.perf_counter() - begin
    theirs = torch.ask("nll", 2)
    worst = float(np.max(np.abs(ours - theirs) / theirs))
    assert worst <= LOSS_TOLERANCE, f"losses differ by {worst} of themselves"
    return {
        "relative_difference": worst,
        "tolerance": LOSS_TOLERANCE,
        "first_call_seconds": seconds,
    }


def sentence(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    box = result["machine"]
    text = (
        f"Float32, {box['cores_used']} of {box['cores']} cores ({box['cpu']}), "
        f"{box['memory_gib']} GiB, jax {box['versions']['jax']}, torch "
        f"{box['versions']['torch']}, {box['date']}, {result['pairs']} rounds. "
        "Mixtures a second; ratios are medians of the rounds' own.\n\n"
        "| model, text | windows, tokens | jaxsim | PyTorch, batched | "
        "published way | jaxsim / PyTorch | jaxsim / published |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    for case in result["cases"]:
        rate = case["mixtures_per_second"]
        ratio, old = case["ratio"], case["ratio_published"]
        text += (
            f"| {case['preset']} ({case['parameters']:,}), {case['text']} | "
            f"{case['windows']}, {case['tokens']:,} | {rate['jaxsim']:.2f} | "
            f"{rate['torch']:.2f} (batch {case['torch_batch']}) | "
            f"{rate['published']:.2f} | **{ratio['median']:.2f}** "
            f"({ratio['min']:.2f} to {ratio['max']:.2f}) | "
            f"{old['median']:.1f} ({old['min']:.1f} to {old['max']:.1f}) |\n"
        )
    return text


def main() -> None:
    machine.keep_freed_memory()
    parser = machine.parser(__doc__, threads=2)
    parser.add_argument("--members", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=9, help="rounds")
    parser.add_argument("--only", help="one preset or text; nothing is saved")
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        help="a field of config.score, as rows=32; nothing is saved",
    )
    args = parser.parse_args()
    machine.pin(args.threads)
    cases = []
    for name, vocab, count in MODELS:
        for text, number in TEXTS:
            if args.only and args.only not in (name, text):
                continue
            length = ScoringWork(name, vocab, 0, None, {}).model.length
            evaluation = windows(text, number, vocab, length)
            work = ScoringWork(name, vocab, args.members, evaluation, dict(args.set))
            cases.append(measure(work, count, args.pairs))
            print(json.dumps(cases[-1]), flush=True)
    result = {
        "pairs": args.pairs,
        "machine": machine.describe(("jax", "jaxlib", "flax", "numpy", "torch")),
        "cases": cases,
    }
    print(sentence(result), end="")
    if args.only or args.set:
        return  # not the whole of it, and not the default
    machine.save(args.out, "scoring", result, sentence(result))


def _setting(text: str) -> tuple[str, Any]:
    key, value = text.split("=")
    with contextlib.suppress(ValueError):
        return key, json.loads(value)
    return key, value


if __name__ == "__main__":
    main()
