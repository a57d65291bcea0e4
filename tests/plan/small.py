"""A configuration whose every width divides over two devices."""

import dataclasses
from typing import Any

from jaxsim.config import (
    Config,
    CorpusConfig,
    ModelConfig,
    RecipeConfig,
    ScoreConfig,
    SourceConfig,
    TokenizerConfig,
    TrainConfig,
)
from jaxsim.model import LanguageModel

ROWS = 40  # of a batch; no other dimension has this size
VOCABULARY = 256
CONFIG = Config(
    corpus=CorpusConfig(
        partitions={"a": SourceConfig("records", "a"), "b": SourceConfig()},
        tokenizer=TokenizerConfig(kind="bytes"),
    ),
    model=ModelConfig(length=32, layers=2, dim=64, heads=4, kv_heads=2, mlp_dim=128),
    recipe=RecipeConfig(steps=3, batch=ROWS),
    train=TrainConfig(unroll=False, loss_chunk=16),
    score=ScoreConfig(unroll=False, loss_chunk=16, rows=4, chunk=8, memory=1.0),
)
MODEL = LanguageModel(CONFIG.model, VOCABULARY)


def changed(group: str, config: Config = CONFIG, **values: Any) -> Config:
    new = dataclasses.replace(getattr(config, group), **values)
    return dataclasses.replace(config, **{group: new})
