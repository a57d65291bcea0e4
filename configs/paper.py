"""The models of the paper and their recipe: 130M parameters, or 1B with `:1b`.

    jaxsim run --config=configs/paper.py --workdir=DIR \\
        --config.corpus.tokenizer.path=tokenizer.json \\
        --config.corpus.partitions.s2orc.path=FOLDER \\
        --config.corpus.partitions.wiki.path=FOLDER \\
        --config.corpus.base_text.wikipedia.path=FOLDER \\
        --config.corpus.base_text.gutenberg.path=FOLDER

Values: Na et al., EMNLP 2024, from their code (clarana/ez-data-ablations). Their
tokenizer is of the GPT-NeoX family, with 50,280 entries in 50,304 rows.

Data: Dolma's layout, compressed or not. `metadata.s2fieldsofstudy` of an S2ORC document
is a list, of which the first one counts (`by_list="every"` puts it in all of them), and
`metadata.year` a number. Partitions are named as in the paper, `Biology,1994-1999`. It
split each of 22 fields at different years, so that its 128 units have the same size;
the six periods here are the same for all fields (132 cells). M2D2 Wikipedia documents
need the field `topic`.

Hardware: GPUs of 80 GB; the paper used eight for each run. Not run yet.
With `:smoke` a tiny model reads bytes; it still needs the four folders. The small
model has d 768, 12 layers and 12 heads; the large one d 2048, 24 layers and 16 heads.
"""

import dataclasses

from ml_collections import config_dict

from jaxsim.config import default_config, parse_arg, source
from jaxsim.model.presets import preset

_PERIODS = (
    ("1970", "1993"),
    ("1994", "1999"),
    ("2000", "2004"),
    ("2005", "2009"),
    ("2010", "2014"),
    ("2015", "2022"),
)


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    words = parse_arg(arg, "smoke", "1b")
    size = "1b" if "1b" in words else "130m"
    config = default_config()
    config.name = f"paper-{size}"

    config.corpus.partitions = {
        "s2orc": source(
            reader="records",
            by_field="s2fieldsofstudy",
            date_field="year",
            by_dates=_PERIODS,
        ),
        "wiki": source(reader="records", by_field="topic"),
    }
    config.corpus.base_text = {
        "wikipedia": source(reader="records"),
        "gutenberg": source(reader="records"),
    }
    config.corpus.tokenizer.kind = "file"
    config.corpus.tokenizer.vocab_size = 50_280  # for `jaxsim plan`
    config.corpus.split.dev = 0.01
    config.corpus.split.test = 0.01

    config.model.update(dataclasses.asdict(preset(f"paper-{size}")))

    # 20,000 steps of 1024 x 2048 tokens are 41.9B.
    config.base.steps = 20_000
    config.base.batch = 1024
    config.base.warmup = 400
    config.base.learning_rate = 3e-4 if size == "1b" else 6e-4
    config.base.final_rate = 0.1

    # 500 steps are 1.05B tokens a unit.
    config.recipe.steps = 500
    config.recipe.batch = 1024
    config.recipe.learning_rate = 6e-5
    config.recipe.warmup = 0
    config.recipe.beta1 = 0.9
    config.recipe.beta2 = 0.95
    config.recipe.weight_decay = 0.1
    config.recipe.weight_decay_all = True
    config.recipe.clip = 1.0
    config.recipe.tail = 0.0
    config.recipe.replay = 0.0
    config.recipe.precision = "bfloat16"

    config.train.unroll = False
    config.train.remat = "full" if size == "1b" else "dots"
    config.train.checkpoint_every = 500
    config.score.unroll = False
    config.score.precision = "bfloat16"

    config.score.mixtures = "subsets:1-2"
    config.validate.budget = "sum"
    config.validate.largest = 3
    config.validate.held_out = 24

    if "smoke" in words:
        config.name += "-smoke"
        config.corpus.tokenizer.kind = "bytes"
        config.corpus.split.dev = 0.1
        config.corpus.split.test = 0.1
        config.model.length = 64
        config.model.layers = 2
        config.model.dim = 32
        config.model.heads = 4
        config.model.kv_heads = 4
        config.model.mlp_dim = 64
        config.model.vocab_rows = 0
        config.base.steps = 4
        config.base.batch = 8
        config.base.warmup = 1
        config.recipe.steps = 2
        config.recipe.batch = 8
        config.recipe.precision = "float32"
        config.score.precision = "float32"
        config.score.mixtures = "subsets:1-1"
        config.validate.held_out = 2
    return config
