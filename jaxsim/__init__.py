"""Which data should a language model be trained on?

For notebooks; the commands use the same:

    import jaxsim
    scorer = jaxsim.Scorer("runs/quickstart")
    table = scorer.table("dirichlet:100")
    scores = scorer.score("mine", table, half="select", windows=5)
    scores.bits_per_byte("merge", "select")  # [mixtures, domains]
    scorer.load("mine")  # the same, later
    jaxsim.open_pool("runs/quickstart").manifests("member")

Array names carry their dimensions: `w_MC` is mixtures by members.

    B  rows of a batch        L  tokens of a row      D  model width
    F  feed-forward width     H  heads                G  key-value heads
    K  head size              V  vocabulary           N  layers
    C  members of a pool      M  mixtures             R  evaluation rows
    E  documents              T  scored tokens

In `mixture` and `study`, D is domains and B resampled draws; in the scoring
program, K is the mixtures of one call and T its blocks of rows.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxsim.pool import Pool, open_pool
    from jaxsim.scoring import Mixtures, Scorer, Scores
    from jaxsim.search.result import load_search
    from jaxsim.validation.validate import load_validation

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

# Imported when first used: `jaxsim --help` should not wait for JAX.
_HOMES = {
    "Mixtures": "jaxsim.scoring",
    "Pool": "jaxsim.pool",
    "Scorer": "jaxsim.scoring",
    "Scores": "jaxsim.scoring",
    "load_search": "jaxsim.search.found",
    "load_validation": "jaxsim.validation.validate",
    "open_pool": "jaxsim.pool",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxsim' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
