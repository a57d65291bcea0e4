"""Twelve fields of science: how far can the prediction be trusted?

    python -m benchmarks.fields --out=runs/fields-text
    jaxsim run --config=configs/fields.py --workdir=runs/fields

The partitions are docstrings of 12 scientific packages. The out-of-pool domains are
docstrings of nine other packages, modules' documentation, source code and addresses.
`benchmarks/fields.py` writes the text to the folder `--out`; if it is another one, set
JAXSIM_FIELDS to it. The results are in docs/study.md. Words after the colon, for other
questions of the study:

  * `shorter`, `short` and `long`: a sixteenth, a quarter and four times the tokens for
    each run;
  * `last`: the last step's parameters instead of a tail average;
  * `small`: a third of the parameters, for many trained mixtures;
  * `smoke`: a test with five fields that takes a few minutes.

Not run yet, a night each:

  * `wide`: five times the parameters; do its reference runs rank like merges of the
    plain config?
  * `repeated`: a fifth of the text, so that runs repeat it five times as often;
  * `replay`: a quarter of every run is base text;
  * `decayed`: the learning rate falls to zero at the end, instead of a tail average.

Hardware: 2 CPU cores, 4 GB.
"""

import os

from ml_collections import config_dict

from jaxsim.config import default_config, parse_arg, source

FIELDS = (
    "mathematics",
    "machine-learning",
    "statistics",
    "music",
    "astronomy",
    "graphs",
    "neuroscience",
    "linguistics",
    "biology",
    "chemistry",
    "quantum",
    "web",
)
OUT_OF_POOL = (
    "scipy",
    "pennylane",
    "librosa",
    "sunpy",
    "biotite",
    "sqlalchemy",
    "igraph",
    "pandas",
    "matplotlib",
    "documentation",
    "code",
    "addresses",
)


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    words = parse_arg(
        arg, "shorter", "short", "long", "last", "small", "wide", "repeated",
        "replay", "decayed", "smoke",
    )  # fmt: skip
    text = os.environ.get("JAXSIM_FIELDS", "runs/fields-text")
    config = default_config()
    config.name = "-".join(["fields", *sorted(words)])

    fields = FIELDS[7:] if "smoke" in words else FIELDS
    config.corpus.partitions = {
        name: source(reader="records", path=f"{text}/{name}.jsonl") for name in fields
    }
    config.corpus.domains = {
        name: source(reader="records", path=f"{text}/{name}.jsonl")
        for name in OUT_OF_POOL
    }
    # Docstrings of one file are similar, so each file is in one split.
    config.corpus.split.key = "file"
    config.corpus.split.dev = 0.06
    config.corpus.split.test = 0.08
    config.corpus.evaluation_tokens = 20_000
    config.corpus.max_epochs = 40.0  # for `web` with `long`; others need far fewer
    config.corpus.tokenizer.vocab_size = 2048

    config.model.length = 256
    config.model.layers = 2
    config.model.dim = 128
    config.model.heads = 4
    config.model.kv_heads = 4
    config.model.mlp_dim = 352

    config.train.log_every = 40
    config.base.steps = 2000
    config.base.batch = 16
    config.base.warmup = 100
    config.recipe.steps = 128
    config.recipe.warmup = 20
    config.recipe.batch = 16
    config.recipe.learning_rate = 5e-4

    config.score.mixtures = ""
    config.score.windows = 2
    config.validate.windows = 40
    config.validate.held_out = 32
    config.validate.calibration_runs = 8
    config.validate.replicates = 12
    config.validate.member_replicates = 12
    if "shorter" in words:
        config.recipe.steps = 8
        config.recipe.warmup = 2
    if "short" in words:
        config.recipe.steps = 32
        config.recipe.warmup = 8
    if "long" in words:
        config.recipe.steps = 512
    if "last" in words:
        config.recipe.tail = 0.0
    if "small" in words:
        config.model.dim = 64
        config.model.heads = config.model.kv_heads = 2
        config.model.mlp_dim = 176
    if "wide" in words:
        config.model.dim = 256
        config.model.heads = config.model.kv_heads = 8
        config.model.layers = 4
        config.model.mlp_dim = 704
    if "repeated" in words:
        config.corpus.split.base = 0.74  # of the documents; plain: 0.2
        config.corpus.max_epochs = 200.0
    if "replay" in words:
        config.recipe.replay = 0.25
    if "decayed" in words:
        config.recipe.decay = 0.25
        config.recipe.tail = 0.0
    if "smoke" in words:
        config.base.steps = 40
        config.base.warmup = 4
        config.recipe.steps = 4
        config.recipe.warmup = 1
        config.validate.held_out = 4
        config.validate.calibration_runs = 2
        config.validate.replicates = 2
        config.validate.member_replicates = 2
    return config
