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

In a notebook:

    import jaxsim
    work = jaxsim.run("configs/quickstart.py", "runs/quickstart")
    work.headline
    work.search("messages", max_weight={"1970-1989": 0.5}).plot()
    work.predict({"1970-1989": 0.5, "1990-2009": 0.5})

`jaxsim.Scorer` is below it: losses of windows as arrays.

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
    "Scorer",
    "UserError",
    "Workdir",
    "default_config",
    "open",
    "prepare",
    "run",
    "source",
]

# Imported at first use: `jaxsim --help` should not wait for JAX.
with epy.lazy_api_imports(globals()):
    from jaxsim.config import default_config, source
    from jaxsim.errors import UserError
    from jaxsim.notebook import Workdir, open, prepare, run
    from jaxsim.scoring import Mixtures, Scorer


def __dir__() -> list[str]:
    """What completion offers."""
    return __all__
