"""A project with an imported base model: a tiny Llama with begin-of-text."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import tokenizers
from scoring import tiny

from jaxsim.config import ModelConfig
from jaxsim.model import LanguageModel
from jaxsim.model.huggingface import save_checkpoint

MEMBERS = ("solo", "texts")
# Grouped key-value heads, and rows of padding in the embedding.
MODEL = ModelConfig(
    length=64, layers=1, dim=16, heads=4, kv_heads=2, mlp_dim=32, vocab_rows=264
)
CONFIG = """
from pathlib import Path

from jaxsim.config import default_config, source

HERE = Path(__file__).parent


def get_config(arg=None):
    c = default_config()
    c.name = "imported"
    c.corpus.partitions = {
        name: source(reader="records", path=str(HERE / f"{name}.jsonl"))
        for name in ("solo", "texts")
    }
    c.corpus.domains = {
        "outside": source(reader="records", path=str(HERE / "outside.jsonl")),
    }
    c.corpus.split.salt = "tiny"
    c.corpus.split.dev = 0.25
    c.corpus.split.test = 0.25
    c.model.length = 32
    c.base.path = str(HERE / "llama")
    c.recipe.steps = 2
    c.recipe.warmup = 0
    c.recipe.batch = 8
    c.recipe.learning_rate = 3e-2
    c.train.unroll = False
    c.score.unroll = False
    c.score.rows = 8
    c.score.mixtures = "subsets:1-2"
    return c
"""


def write_folder(folder: Path, seed: int = 0) -> Path:
    """A Hugging Face folder, with the tokenizer that a Llama has."""
    params = LanguageModel(MODEL, 258).init(jax.random.key(seed))
    host = jax.tree.map(np.array, params)
    save_checkpoint(folder, host, MODEL, 258, None, "float32")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    letters = {letter: index for index, letter in enumerate(alphabet)}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens(["<s>", "</s>"])
    bpe.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


@functools.cache
def project(folder: Path) -> Path:
    """A workdir with a scored pool, beside it imported.py and the folder llama."""
    folder.mkdir()
    tiny.write_sources(folder)
    write_folder(folder / "llama")
    config, workdir = folder / "imported.py", folder / "work"
    config.write_text(CONFIG)
    for command in ("prepare", "base", "train", "score"):
        assert tiny.run(command, workdir, config) == 0
    return workdir
