"""Corpora with a planted answer, and tiny pools really trained on them."""

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from jaxsim import commands
from jaxsim.config import Config, default_config, from_config_dict, source
from jaxsim.mesh import training_mesh
from jaxsim.scoring import Scorer
from jaxsim.train import recipe_trainer
from jaxsim.validation.runs import validate_trained
from jaxsim.validation.validate import Validation

LENGTH = 32
Texts = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Control:
    """A pool, and the validation of it."""

    config: Config
    scorer: Scorer
    validation: Validation


def texts(name: str, count: int, *alphabets: str) -> list[str]:
    """Documents of about one window, each word from one of the alphabets."""
    rng = random.Random(name)
    return [
        " ".join("".join(rng.choices(rng.choice(alphabets), k=4)) for _ in range(6))
        for _ in range(count)
    ]


def control(
    folder: Path, partitions: Texts, domains: Texts, **validate: int
) -> Control:
    """Trains base model, members, reference runs and replicates as the commands do."""
    config = _config(folder, partitions, domains, validate)
    workdir = folder / "work"
    commands.prepare(config, workdir)
    commands.base(config, workdir)
    commands.train(config, workdir)
    scorer = Scorer(workdir, config.score)
    trainer = recipe_trainer(scorer.pool.model, config, training_mesh(-1, 1))
    return Control(config, scorer, validate_trained(config, scorer, trainer))


def _config(
    folder: Path, partitions: Texts, domains: Texts, validate: dict[str, int]
) -> Config:
    c = default_config()
    c.corpus.partitions = _sources(folder, partitions)
    c.corpus.domains = _sources(folder, domains)
    c.corpus.tokenizer.kind = "bytes"
    # Not the id: texts with the same number are in the same split everywhere.
    c.corpus.split.key = "number"
    c.corpus.split.salt = "4"  # puts some of a few documents in every split
    c.corpus.split.base = 0.1
    c.corpus.split.dev = 0.25
    c.corpus.split.test = 0.25
    c.corpus.evaluation_tokens = 12 * LENGTH
    c.model.length = LENGTH
    c.model.layers = 1
    c.model.dim = 16
    c.model.heads = 2
    c.model.kv_heads = 2
    c.model.mlp_dim = 32
    c.model.vocab_rows = 264
    c.base.steps = 32
    c.base.batch = 8
    c.base.learning_rate = 1e-2
    c.base.warmup = 4
    c.recipe.steps = 8
    c.recipe.warmup = 0
    c.recipe.batch = 8
    c.recipe.learning_rate = 3e-3
    c.train.unroll = False
    c.score.unroll = False
    c.validate.candidates = 400
    c.validate.update(validate)
    return from_config_dict(c)


def _sources(folder: Path, named: Texts) -> dict[str, ConfigDict]:
    found = {}
    for name, documents in named.items():
        path = folder / f"{name}.jsonl"
        with path.open("w") as file:
            for i, text in enumerate(documents):
                record = {"id": f"{name}/{i}", "text": text, "number": str(i)}
                file.write(json.dumps(record) + "\n")
        found[name] = source(reader="records", path=str(path))
    return found
