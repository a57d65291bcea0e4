"""Predicts which data mixture a language model should be trained on.

Folders follow the flow of data, and imports run only from later to earlier ones:

    corpus/      documents -> rows of tokens
    model/       tokens -> log-likelihoods
    train/       rows -> parameters: `TrainStep` in step.py, the loop in trainer.py
    pool/        parameters -> members: manifest.json in manifest.py and publish.py
    scoring/     members -> scores: the merge in merge.py
    search/      scores -> a mixture: target and objective in objective.py
    validation/  predictions against reference runs, and calibration
    report/      the HTML report, tables and figures
    plan/        what fits on some hardware, and what it costs

`cli.py` parses a command and calls its function in `commands.py`; `config.py` has
every config key with its type, bound and default, and checks them.

For notebooks:

    import jaxsim
    scorer = jaxsim.Scorer("runs/quickstart")
    table = scorer.table("dirichlet:100")
    scores = scorer.score("mine", table, "dev", windows=5)
    scores.bits_per_byte("merge", "dev")  # [mixtures, domains]
    scorer.load("mine")  # the same scores, from disk
    jaxsim.open_pool("runs/quickstart").manifests("member")

Array names carry their dimensions: `w_MC` is mixtures by members.

    B  rows of a batch        L  tokens of a row      D  model width
    F  feed-forward width     H  heads                G  key-value heads
    K  head size              V  vocabulary           N  layers
    C  members of a pool      M  mixtures             R  evaluation rows
    E  documents              T  scored tokens

In scores and validation, D is domains and B resampled draws; in the scoring program,
K is the mixtures of one call and T its blocks of rows.
"""

from etils import epy

__version__ = "0.1.0"
__all__ = [
    "Mixtures",
    "Pool",
    "Scorer",
    "Scores",
    "load_search",
    "load_validation",
    "open_pool",
]

# Imported at first use: `jaxsim --help` should not wait for JAX.
with epy.lazy_api_imports(globals()):
    from jaxsim.pool import Pool, open_pool
    from jaxsim.scoring import Mixtures, Scorer, Scores
    from jaxsim.search.result import load_search
    from jaxsim.validation.validate import load_validation
