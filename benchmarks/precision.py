"""How far each precision moves a score and a rank, on a trained pool.

    python benchmarks/precision.py runs/quickstart

Mixtures drawn over the simplex are scored on the dev windows in float32
with float32 differences, and again with one thing changed:

- the model in float64, merged in float64: what float32 itself costs;
- the model in bfloat16, differences held in bfloat16, or both;
- the merge at an accelerator's default precision, which jaxsim never uses.
  A CPU has no such mode, so it is emulated on the host: weights and
  differences are rounded to what the device would multiply (TF32 has 10 bits
  behind the point, one pass of bfloat16 has 7) and summed in float64;
- members, not differences, held in bfloat16.

Changes are in bits per byte of a domain. Ranks are by the mean over domains;
beside them stands the standard error that the text itself gives the difference
between a mixture and the best one.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import machine
import numpy as np
import scipy.stats

from jaxsim.model import Execution
from jaxsim.scoring.evaluation import scored_mask
from jaxsim.scoring.evaluator import Evaluator
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import PredictorScores, bits_of
from jaxsim.scoring.stack import load_stack
from jaxsim.scoring.table import dirichlet
from jaxsim.search.objective import Objective
from jaxsim.search.ties import resampled

Rounding = Callable[[np.ndarray], np.ndarray]

FLOAT64 = 40  # mixtures; it is slow
TOP = 10


def bfloat16(x: np.ndarray) -> np.ndarray:
    """Rounded to bfloat16, as float32."""
    return np.asarray(x).astype(jnp.bfloat16).astype(np.float32)


def tf32(x: np.ndarray) -> np.ndarray:
    """Float32 rounded to the 10 bits behind the point of TF32."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    even = (bits >> 13) & 1
    return ((bits + 0x0FFF + even) & 0xFFFFE000).view(np.float32)


class Variants:
    """One pool, table and windows, scored in different ways."""

    def __init__(self, workdir: Path, mixtures: int, windows: int) -> None:
        self.scorer = Scorer(workdir)
        self.evaluation = self.scorer.evaluation
        self.rows = self.evaluation.rows("dev", windows)
        self.table = dirichlet(self.scorer.members, mixtures, 1.0, seed=0)
        self._float32 = self._evaluator()
        pool = self._float32.programs.pool
        self._base, self._delta_C = jax.device_get((pool.base, pool.delta_C))

    def evaluator(self, **score: Any) -> np.ndarray:
        """By the evaluator, with these fields of config.score."""
        return self._evaluator(**score).score(self.table, self.rows)

    def host_merges(self, round_weight: Rounding, round_delta: Rounding) -> np.ndarray:
        """Merged on the host in float64 from rounded numbers."""
        w_MC = round_weight(self.table.w_MC.astype(np.float32)).astype(np.float64)
        delta_C = jax.tree.map(round_delta, self._delta_C)
        return self._scored(_merged(self._base, delta_C, w_C) for w_C in w_MC)

    def bfloat16_members(self) -> np.ndarray:
        """Merged on the host from members rounded to bfloat16."""
        member_C = jax.tree.map(
            lambda s, d_C: bfloat16(s[:, None] + d_C), self._base, self._delta_C
        )
        zero = jax.tree.map(np.zeros_like, self._base)
        return self._scored(_merged(zero, member_C, w_C) for w_C in self.table.w_MC)

    def float64(self) -> np.ndarray:
        """The first mixtures, merge and model in float64.

        Angles of rotary embeddings stay float32, as they are everywhere.
        """
        model, rows = self.scorer.pool.model, self.rows
        tokens = self.evaluation.tokens_RL1[rows]
        mask = scored_mask(self.evaluation, rows)
        with jax.enable_x64(True):
            execution = Execution(precision="float64")
            nll = jax.jit(functools.partial(model.token_nll, execution=execution))
            found = []
            for w_C in self.table.w_MC[:FLOAT64]:
                params = _merged(self._base, self._delta_C, w_C)
                nll_R = [
                    np.asarray(nll(params, tokens[i : i + 16]))
                    for i in range(0, len(rows), 16)
                ]
                found.append((np.concatenate(nll_R) * mask).sum(1))
        return np.stack(found)

    def bits(self, nll_MR: np.ndarray) -> np.ndarray:
        """[M, D] bits per byte of the dev split."""
        scores = PredictorScores(self.rows, nll_MR)
        return bits_of(self.evaluation, scores, "dev")

    def _evaluator(self, **score: Any) -> Evaluator:
        s = self.scorer
        settings = {"precision": "float32", "deltas": "float32", **score}
        config = dataclasses.replace(s.config, **settings)
        pool = load_stack(s.pool, s.members, s.corpus, config)
        return Evaluator(s.pool.model, pool, self.evaluation, config)

    def _scored(self, merged: Iterator[Any]) -> np.ndarray:
        """Trees in float64, rounded to float32 and scored."""
        narrow = functools.partial(jax.tree.map, lambda leaf: leaf.astype(np.float32))
        return np.stack(
            [self._float32.score_model(narrow(one), self.rows) for one in merged]
        )


def _merged(base: Any, delta_C: Any, w_C: np.ndarray) -> Any:
    """Merged on the host, in float64."""
    return jax.tree.map(
        lambda s, d_C: s + np.tensordot(d_C, w_C, axes=(1, 0)), base, delta_C
    )


def compare(bits_MD: np.ndarray, reference_MD: np.ndarray) -> dict[str, Any]:
    """What a change of precision does to scores and ranks."""
    change_MD = np.abs(bits_MD - reference_MD)
    value_M, reference_M = bits_MD.mean(1), reference_MD.mean(1)
    # What all mixtures have in common moves no rank.
    own_M = (value_M - reference_M) - (value_M - reference_M).mean()
    top = set(np.argsort(value_M)[:TOP])
    return {
        "mixtures": len(bits_MD),
        "max_change": float(change_MD.max()),
        "mean_change": float(change_MD.mean()),
        "relative_change": float((change_MD / reference_MD).mean()),
        "mean_signed_change": float((value_M - reference_M).mean()),
        "spread_of_change": float(own_M.std()),
        "spearman": float(scipy.stats.spearmanr(value_M, reference_M).statistic),
        "same_best": bool(np.argmin(value_M) == np.argmin(reference_M)),
        "top_overlap": len(top & set(np.argsort(reference_M)[:TOP])),
    }


def text_error(variants: Variants, nll_MR: np.ndarray) -> dict[str, Any]:
    """Standard errors of differences to the best mixture, from the text."""
    e = variants.evaluation
    count = len(e.domains)
    objective = Objective.of_domains(
        domains=e.domains,
        weights_D=np.full(count, 1 / count),
        kind="mean",
        base_D=np.zeros(count),
        max_regression_D=np.full(count, np.inf),
    )
    value_M, draw_MB, unit = resampled(e, variants.rows, nll_MR, objective, seed=0)
    best = int(np.argmin(value_M))
    error_M = (draw_MB - draw_MB[best]).std(axis=1)
    others = np.arange(len(value_M)) != best
    return {
        "unit": unit,
        "median_error": float(np.median(error_M[others])),
        "smallest_error": float(error_M[others].min()),
        "spread_of_values": float(value_M.std()),
        "best_to_second": float(np.sort(value_M)[1] - value_M[best]),
    }


def measure(variants: Variants) -> dict[str, Any]:
    """Every variant against float32."""
    same: Rounding = np.asarray
    reference_MR = variants.evaluator()
    reference_MD = variants.bits(reference_MR)
    changed: dict[str, Callable[[], np.ndarray]] = {
        "model in float64, merge in float64": variants.float64,
        "merge in float64": lambda: variants.host_merges(same, same),
        "deltas held in bfloat16": lambda: variants.evaluator(deltas="bfloat16"),
        "model in bfloat16": lambda: variants.evaluator(precision="bfloat16"),
        "both in bfloat16": lambda: variants.evaluator(
            precision="bfloat16", deltas="bfloat16"
        ),
        "merge at TF32 (emulated)": lambda: variants.host_merges(tf32, tf32),
        "merge in one bfloat16 pass (emulated)": lambda: variants.host_merges(
            bfloat16, bfloat16
        ),
        "members held in bfloat16": variants.bfloat16_members,
    }
    found = {}
    for name, losses in changed.items():
        bits_MD = variants.bits(losses())
        found[name] = compare(bits_MD, reference_MD[: len(bits_MD)])
        print(name, json.dumps(found[name]), flush=True)
    return {"text": text_error(variants, reference_MR), "variants": found}


def report(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    box, text = result["machine"], result["text"]
    lines = (
        f"{result['mixtures']} mixtures of {result['members']} members, "
        f"{result['windows']} dev windows of {result['domains']} domains, "
        f"{box['cpu']}, jax {box['versions']['jax']}, {box['date']}. "
        "Reference: float32 throughout. Changes in bits per byte.\n\n"
        "For comparison: mixtures differ by a standard deviation of "
        f"{text['spread_of_values']:.1e}; the text ({text['unit']}) gives the "
        "difference to the best mixture a standard error of "
        f"{text['median_error']:.1e} (median; least "
        f"{text['smallest_error']:.1e}); the second best is "
        f"{text['best_to_second']:.1e} behind.\n\n"
        "| changed | largest change of a domain | mean | of the score | moves "
        "mixtures relative to each other by | Spearman | same best | of the best "
        f"{TOP} |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    for name, row in result["variants"].items():
        some = (
            ""
            if row["mixtures"] == result["mixtures"]
            else (f" ({row['mixtures']} mixtures)")
        )
        lines += (
            f"| {name}{some} | {row['max_change']:.1e} | "
            f"{row['mean_change']:.1e} | {row['relative_change']:.1e} | "
            f"{row['spread_of_change']:.1e} | {row['spearman']:.6f} | "
            f"{'yes' if row['same_best'] else 'no'} | {row['top_overlap']} |\n"
        )
    return lines


def main() -> None:
    parser = machine.parser(__doc__, threads=2)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--mixtures", type=int, default=200)
    parser.add_argument("--windows", type=int, default=5, help="of each domain")
    args = parser.parse_args()
    machine.pin(args.threads)
    variants = Variants(args.workdir, args.mixtures, args.windows)
    result = {
        "mixtures": args.mixtures,
        "members": len(variants.scorer.members),
        "windows": len(variants.rows),
        "domains": len(variants.evaluation.domains),
        **measure(variants),
        "machine": machine.describe(("jax", "jaxlib", "flax", "numpy")),
    }
    print(report(result), end="")
    machine.save(args.out, "precision", result, report(result))


if __name__ == "__main__":
    main()
