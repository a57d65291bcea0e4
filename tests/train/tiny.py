"""The smallest project that trains: three partitions, bytes, 8 rows a step."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxsim.checkpoints import TrainingCheckpoints
from jaxsim.config import (
    BaseConfig,
    Config,
    CorpusConfig,
    ModelConfig,
    RecipeConfig,
    SourceConfig,
    SplitConfig,
    TokenizerConfig,
    TrainConfig,
)
from jaxsim.corpus import Corpus, open_corpus, prepare
from jaxsim.mesh import training_mesh
from jaxsim.model import LanguageModel
from jaxsim.train.program import TrainProgram

PARTITIONS = ("a", "b", "c")


def write_texts(folder: Path) -> None:
    """Words of a few letters that differ by partition."""
    for name in PARTITIONS:
        rng = random.Random(name)
        letters = rng.sample("abcdefghijklmnop", 8)
        with (folder / f"{name}.jsonl").open("w") as file:
            for i in range(40):
                words = ["".join(rng.choices(letters, k=4)) for _ in range(40)]
                record = {"id": f"{name}/{i}", "text": " ".join(words)}
                file.write(json.dumps(record) + "\n")


def config_of(folder: Path, **recipe: Any) -> Config:
    """Every width divides over four devices, so that any mesh can hold it."""
    return Config(
        corpus=CorpusConfig(
            partitions={
                name: SourceConfig("records", str(folder / f"{name}.jsonl"))
                for name in PARTITIONS
            },
            tokenizer=TokenizerConfig(kind="bytes"),
            split=SplitConfig(salt="t", dev=0.2, test=0.2),
        ),
        model=ModelConfig(
            length=32, layers=2, dim=16, heads=4, kv_heads=2, mlp_dim=32, vocab_rows=264
        ),
        base=BaseConfig(steps=6, batch=8, warmup=2, learning_rate=1e-2),
        recipe=RecipeConfig(
            **{"steps": 6, "batch": 8, "learning_rate": 3e-3, "warmup": 0} | recipe
        ),
        train=TrainConfig(log_every=1, unroll=False, loss_chunk=32),
    )


def changed(config: Config, part: str, /, **values: Any) -> Config:
    new = dataclasses.replace(getattr(config, part), **values)
    return dataclasses.replace(config, **{part: new})


def mesh_of(data: int = 1, model: int = 1) -> Mesh:
    return training_mesh(data, model, jax.devices()[: data * model])


def make_corpus(folder: Path) -> tuple[Config, Corpus]:
    """Texts in `folder`, and the corpus of a workdir below it."""
    write_texts(folder)
    config = config_of(folder)
    prepare(config, folder / "work")
    return config, open_corpus(folder / "work")


def model_of(config: Config, corpus: Corpus) -> LanguageModel:
    return LanguageModel(config.model, corpus.tokenizer.vocab_size)


def start_of(model: LanguageModel) -> Any:
    """Parameters on the host, like those of a loaded base model."""
    return jax.tree.map(np.array, jax.jit(model.init)(jax.random.key(0)))


def rows_of_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows after the header."""
    return [json.loads(line) for line in path.read_text().splitlines()][1:]


def stop_after(steps: int, error: type[BaseException] | None = None):
    """Returns true, or raises, at its call number `steps`."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        if error and asked == steps:
            raise error
        return asked == steps

    return stop


def poison(scratch: Path, program: TrainProgram, member: int = 0) -> None:
    """Makes a parameter infinite in the last checkpoint."""
    with TrainingCheckpoints(scratch) as checkpoints:
        step = checkpoints.latest_step()
        state = checkpoints.restore(step, program.state)
        scale = state.params["final_norm"]["scale"]
        state.params["final_norm"]["scale"] = scale.at[member, 1].set(jnp.inf)
        checkpoints.save(step, state)
