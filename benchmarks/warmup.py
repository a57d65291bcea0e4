"""What a warm-up from a fresh Adam changes, at the same sum of learning rates.

    python benchmarks/warmup.py runs/quickstart

Members of the workdir's corpus and base model are trained anew, each with two data
seeds, by three schedules of its recipe: with a warm-up; at the constant rate that has
the same sum over the steps of a run; and at the full rate from the first step. The
second says what the warm-up itself does, the third what leaving it out does.

For each member, as the mean of its two data seeds: how far it moved from the base
model, the bits per byte of its own domain, and how many more bits than the base model
the out-of-pool domains have, which is what it forgot. For the two data seeds of a
member: the cosine of the ways they moved, and how far apart their losses are, which is
the noise of training. Losses are over dev and test text. Differences between schedules
are paired by member.
"""

import dataclasses
import functools
import math
import tempfile
from pathlib import Path
from typing import Any

import jax
import machine
import numpy as np
import scipy.stats

from jaxsim.config import RecipeConfig, load_config
from jaxsim.corpus import open_corpus
from jaxsim.corpus.rows import evenly
from jaxsim.mesh import training_mesh
from jaxsim.model import Execution, LanguageModel
from jaxsim.pool.manifest import load_verified, read_manifest
from jaxsim.scoring.evaluation import gather, scored_mask
from jaxsim.train import member_run, recipe_trainer
from jaxsim.train.step import constant_rate

WARM, SAME_SUM, FULL = "warm-up", "constant, same sum", "constant, full rate"
SEEDS = (0, 1)
ROWS = 16  # windows in a call
# What is measured of a member; in the table: its name, a factor, and digits.
MEASURES = {
    "drift": ("drift, %", 100, 2),
    "own": ("own loss, bits per byte", 1, 4),
    "forgotten": ("forgotten, 1e-4 bits", 1e4, 1),
    "cosine": ("cosine of two data seeds", 1, 3),
}
# Differences between two data seeds, of which the table has root mean squares.
NOISE = {
    "own_apart": "own loss of two data seeds apart, rms, 1e-4 bits",
    "outside_apart": "out-of-pool loss of two data seeds apart, rms, 1e-4 bits",
}


def schedules(recipe: RecipeConfig, warmup: int) -> dict[str, RecipeConfig]:
    """The three recipes, by name."""
    warm = dataclasses.replace(recipe, warmup=warmup)
    full = dataclasses.replace(recipe, warmup=0)
    rate = constant_rate(warm, recipe.steps)
    mean = float(np.mean([rate(step) for step in range(recipe.steps)]))
    same = dataclasses.replace(full, learning_rate=mean)
    return {WARM: warm, SAME_SUM: same, FULL: full}


class Losses:
    """Bits per byte of domains, of a model's parameters."""

    def __init__(self, workdir: Path, model: LanguageModel, unroll: bool) -> None:
        self._evaluation = gather(open_corpus(workdir))
        nll = functools.partial(model.token_nll, execution=Execution(unroll=unroll))
        self._nll = jax.jit(nll)

    @property
    def out_of_pool(self) -> list[str]:
        e = self._evaluation
        return [n for n, own in zip(e.domains, e.in_pool, strict=True) if not own]

    def __call__(self, params: Any, domains: list[str]) -> np.ndarray:
        """[len(domains)] bits per byte of all text of these domains."""
        e = self._evaluation
        columns = [e.domains.index(name) for name in domains]
        rows = np.flatnonzero(np.isin(e.domain_R, columns))
        nll_BL = [
            np.asarray(self._nll(params, e.tokens_RL1[rows[i : i + ROWS]]))
            for i in range(0, len(rows), ROWS)
        ]
        nll_R = np.where(scored_mask(e, rows), np.concatenate(nll_BL), 0.0).sum(1)
        bits_D = e.sums(nll_R, rows)[columns] / math.log(2)
        found: np.ndarray = bits_D / e.sums(e.bytes_R[rows], rows)[columns]
        return found


def flat(params: Any) -> np.ndarray:
    """All parameters [P], float64."""
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(params)]
    return np.concatenate(leaves, dtype=np.float64)


def measured(
    arguments: Any, recipes: dict[str, RecipeConfig]
) -> tuple[list[str], dict[str, dict[str, list[float]]]]:
    """The members, and by schedule and measure the values of each."""
    workdir = arguments.workdir
    config, corpus = load_config(workdir / "config.json"), open_corpus(workdir)
    model = LanguageModel(config.model, corpus.tokenizer.vocab_size)
    entry = workdir / "base"
    start = load_verified(entry, read_manifest(entry), model.shapes())
    losses = Losses(workdir, model, config.train.unroll)
    outside, base_P = losses.out_of_pool, flat(start)
    base_loss = losses(start, outside).mean()
    units = list(corpus.units)
    members = [units[i] for i in evenly(len(units), arguments.members)]
    found: dict[str, dict[str, list[float]]] = {}
    for schedule, recipe in recipes.items():
        mesh = training_mesh(config.train.data_axis, config.train.model_axis)
        trainer = recipe_trainer(
            model, dataclasses.replace(config, recipe=recipe), mesh
        )
        values = found.setdefault(schedule, {n: [] for n in [*MEASURES, *NOISE]})
        for name in members:
            way_SP, own_S, outside_S = [], [], []
            for seed in SEEDS:
                run = dataclasses.replace(member_run(name, recipe), data_seed=seed)
                with tempfile.TemporaryDirectory() as scratch:
                    (trained,) = trainer.train(
                        [run], corpus, start, Path(scratch), [None]
                    )
                if isinstance(trained, Exception):
                    raise trained
                own, *others = losses(trained.params, [name, *outside])
                way_SP.append(flat(trained.params) - base_P)
                own_S.append(own)
                outside_S.append(np.mean(others))
            length_S = np.linalg.norm(way_SP, axis=1)
            for measure, value in zip(
                [*MEASURES, *NOISE],
                (
                    length_S.mean() / np.linalg.norm(base_P),
                    np.mean(own_S),
                    np.mean(outside_S) - base_loss,
                    way_SP[0] @ way_SP[1] / length_S.prod(),
                    own_S[1] - own_S[0],
                    outside_S[1] - outside_S[0],
                ),
                strict=True,
            ):
                values[measure].append(float(value))
    return members, found


def paired(a_M: list[float], b_M: list[float]) -> tuple[float, float, float]:
    """The mean of a - b over members, and its 95 % interval (Student's t)."""
    differences = np.subtract(a_M, b_M)
    half = scipy.stats.sem(differences) * scipy.stats.t.ppf(0.975, len(a_M) - 1)
    mean = float(differences.mean())
    return mean, mean - float(half), mean + float(half)


def rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def markdown(result: dict[str, Any], recipes: dict[str, RecipeConfig]) -> str:
    values, recipe = result["values"], recipes[WARM]
    count, (full, same) = len(result["members"]), (FULL, SAME_SUM)
    lines = [
        "# A warm-up from a fresh Adam\n",
        f"{count} members, two data seeds each, {recipe.steps} steps; {WARM}: "
        f"{recipe.warmup} steps to a rate of {recipe.learning_rate:g}; {same}: "
        f"{recipes[same].learning_rate:g}. Differences are paired by member, with 95 % "
        f"intervals (Student's t, {count} members).\n",
        f"| | {WARM} | {same} | {full} | {WARM} less {same} | {WARM} less {full} |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for measure, (name, factor, digits) in MEASURES.items():
        cells = [
            f"{factor * np.mean(values[schedule][measure]):.{digits}f}"
            for schedule in recipes
        ]
        for other in (same, full):
            mean, low, high = (
                f"{factor * x:+.{digits}f}"
                for x in paired(values[WARM][measure], values[other][measure])
            )
            cells.append(f"{mean} [{low}, {high}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for measure, name in NOISE.items():
        cells = [f"{1e4 * rms(values[s][measure]):.1f}" for s in recipes]
        lines.append(f"| {name} | {' | '.join(cells)} | | |")
    on = result["machine"]
    end = f"\n{on['cpu']}, {on['cores_used']} cores, {on['date']}.\n"
    return "\n".join([*lines, end])


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--warmup", type=int, default=8, help="steps")
    parser.add_argument("--members", type=int, default=8)
    arguments = parser.parse_args()
    machine.keep_freed_memory()
    config = load_config(arguments.workdir / "config.json")
    recipes = schedules(config.recipe, arguments.warmup)
    members, values = measured(arguments, recipes)
    result = {
        "machine": machine.describe(("jax", "jaxlib", "optax", "numpy")),
        "recipes": {name: dataclasses.asdict(each) for name, each in recipes.items()},
        "members": members,
        "values": values,
    }
    machine.save(arguments.out, "warmup", result, markdown(result, recipes))


if __name__ == "__main__":
    main()
