"""What the literature does instead: many small models trained on mixtures.

    python -m benchmarks.swarm --config=configs/fields.py:small \
        --workdir=runs/fields-small --runs=57

Trains each run on a ratio drawn from a Dirichlet distribution, with the same
trainer, tokens and text as the study, and a smaller model. The seed and the
corpus are made first. Safe to kill and to repeat. `benchmarks/study.py` fits
the regressors on these runs.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np

from jaxsim import commands
from jaxsim.config import Config, from_config_dict
from jaxsim.corpus import open_corpus
from jaxsim.mesh import training_mesh
from jaxsim.mixture.scorer import Scorer
from jaxsim.pool import create_pool
from jaxsim.pool.build import train_missing
from jaxsim.study.truths import ratio_table
from jaxsim.train import Run, trainer_of_recipe, truth_run

CONCENTRATION = 1.0  # RegMix draws from a Dirichlet around the token shares
RNG = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--runs", type=int, required=True)
    arguments = parser.parse_args()
    train(load(arguments.config), arguments.workdir, arguments.runs)


def load(spec: str) -> Config:
    """The config of `FILE.py[:WORDS]`."""
    path, _, words = spec.partition(":")
    module_spec = importlib.util.spec_from_file_location("config", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return from_config_dict(module.get_config(words or None))


def train(config: Config, workdir: Path, count: int) -> None:
    """Trains what is missing of the first `count` runs."""
    commands.prepare(config, workdir)
    commands.seed(config, workdir)
    corpus = open_corpus(workdir)
    pool = create_pool(
        workdir, config, corpus.tokenizer.vocab_size, corpus.budget_tokens
    )
    mesh = training_mesh(config.train.data_axis, config.train.model_axis)
    trainer = trainer_of_recipe(pool.model, config, mesh)
    train_missing(
        runs(config, list(corpus.units), count), pool, corpus, trainer
    )


def runs(config: Config, units: list[str], count: int) -> list[Run]:
    w_MC = np.random.default_rng(RNG).dirichlet(
        np.full(len(units), CONCENTRATION), count
    )
    return [
        truth_run(dict(zip(units, w_C.tolist(), strict=True)), config.recipe)
        for w_C in w_MC
    ]


def scored(
    config: Config, workdir: Path, count: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Ratios [M, C], bits per byte on select text [M, D], and all FLOPs."""
    scorer = Scorer(workdir, config.score)
    wanted = runs(config, list(scorer.corpus.units), count)
    names = [run.name for run in wanted]
    scores = scorer.score_entries("swarm", names, "select")
    manifests = scorer.pool.manifests("truth")
    return (
        ratio_table(list(scorer.corpus.units), wanted).w_MC,
        scores.bits_per_byte("truth", "select"),
        sum(manifests[name].flops for name in names),
    )


if __name__ == "__main__":
    main()
