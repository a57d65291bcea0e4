"""Small corpora that the tests write."""

import dataclasses
import hashlib
import json
import random
from pathlib import Path

from jaxsim.config import (
    Config,
    CorpusConfig,
    ModelConfig,
    RecipeConfig,
    SourceConfig,
    SplitConfig,
    TokenizerConfig,
)
from jaxsim.corpus.documents import Document


def words(rng: random.Random, n: int) -> str:
    """n random words; two such texts share no 13 words in a row."""
    return " ".join("".join(rng.choices("abcdefghij", k=4)) for _ in range(n))


def write_jsonl(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def write_partition(
    folder: Path, name: str, documents: int = 30, n_words: int = 40
) -> SourceConfig:
    """A JSON Lines file of random documents, the same for the same name."""
    folder.mkdir(exist_ok=True)
    rng = random.Random(name)
    records = [
        {"id": f"{name}/{i}", "text": words(rng, n_words)} for i in range(documents)
    ]
    path = write_jsonl(folder / f"{name}.jsonl", records)
    return SourceConfig(reader="records", path=str(path))


def config_of(
    partitions: dict[str, SourceConfig],
    kind: str = "bytes",
    steps: int = 4,
    batch: int = 2,
    length: int = 32,
    **corpus,
) -> Config:
    """A config that takes all text, unless `corpus` says otherwise."""
    split = SplitConfig(salt="t", dev=0.2, test=0.2)
    defaults = {"split": split, "unit_budgets": 1000.0, "evaluation_tokens": 0}
    return Config(
        corpus=CorpusConfig(
            partitions=partitions,
            tokenizer=TokenizerConfig(kind=kind, vocab_size=300),
            **(defaults | corpus),
        ),
        model=ModelConfig(length=length),
        recipe=RecipeConfig(steps=steps, batch=batch),
    )


def with_corpus(config: Config, **changes) -> Config:
    return dataclasses.replace(
        config, corpus=dataclasses.replace(config.corpus, **changes)
    )


def in_order(texts: dict[str, str]) -> dict[str, str]:
    """Texts by id, in the order of documents in a corpus."""

    def key(identity: str) -> bytes:
        return hashlib.blake2b(identity.encode(), digest_size=16).digest()

    return {identity: texts[identity] for identity in sorted(texts, key=key)}


def document(identity: str, text: str = "text", **fields) -> Document:
    return Document(id=identity, text=text, source="test", **fields)
