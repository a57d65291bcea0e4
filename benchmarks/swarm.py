"""What the literature does instead: many small models trained on mixtures.

    python -m benchmarks.swarm --config=configs/fields.py:small \
        --workdir=runs/fields-small --runs=57

Trains each run on a mixture drawn from a Dirichlet distribution, with the same
trainer, tokens and text as the study, and a smaller model. The base model and the
corpus are made first. Safe to kill and to repeat. `benchmarks/study.py` fits
the regressors on these runs.
"""

import argparse
import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsim import commands
from jaxsim.config import Config, from_config_dict, load_config
from jaxsim.corpus import open_corpus
from jaxsim.mesh import training_mesh
from jaxsim.pool import create_pool
from jaxsim.pool.build import train_missing
from jaxsim.scoring.scorer import Scorer
from jaxsim.train import Run, recipe_trainer, reference_run

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
    commands.base(config, workdir)
    corpus = open_corpus(workdir)
    pool = create_pool(workdir, config, corpus)
    mesh = training_mesh(config.train.data_axis, config.train.model_axis)
    trainer = recipe_trainer(pool.model, config, mesh)
    train_missing(runs(config, list(corpus.units), count), pool, corpus, trainer)


def runs(config: Config, units: list[str], count: int) -> list[Run]:
    w_MC = np.random.default_rng(RNG).dirichlet(
        np.full(len(units), CONCENTRATION), count
    )
    return [
        reference_run(dict(zip(units, w_C.tolist(), strict=True)), config.recipe)
        for w_C in w_MC
    ]


@dataclasses.dataclass(frozen=True)
class Swarm:
    """What was trained.

    Attributes:
      w_MC: mixtures, columns as asked for.
      select: by domain, [M] bits per byte on dev text.
      flops_M: of training each.
      scoring: FLOPs of one model on the dev text of a domain.
    """

    w_MC: np.ndarray
    dev: dict[str, np.ndarray]
    flops_M: np.ndarray
    scoring: dict[str, float]


def scored(workdir: Path, members: Sequence[str], windows: int) -> Swarm:
    """Scores every run that is there on dev text; once, then it is kept.

    Args:
      workdir: of the swarm.
      members: order of the columns.
      windows: of each domain, at most; 0 for all.
    """
    config = load_config(workdir / "config.json")
    scorer = Scorer(workdir, config.score)
    manifests = scorer.pool.manifests("reference")
    scores = scorer.score_entries("swarm", list(manifests), "dev", windows)
    bits_MD = scores.bits_per_byte("reference", "dev")
    e, model = scorer.evaluation, scorer.pool.model
    windows_D = np.bincount(
        e.domain_R[scores.predictors["reference"].rows], minlength=len(e.domains)
    )
    mixtures = [manifest.mixture for manifest in manifests.values()]
    return Swarm(
        np.array([[r.get(name, 0.0) for name in members] for r in mixtures]),
        dict(zip(e.domains, bits_MD.T, strict=True)),
        np.array([manifest.flops for manifest in manifests.values()]),
        {
            name: model.forward_flops(int(n) * config.model.length)
            for name, n in zip(e.domains, windows_D, strict=True)
        },
    )


if __name__ == "__main__":
    main()
