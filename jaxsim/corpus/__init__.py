"""Documents become rows of tokens: the corpus that everything else reads.

    sources -> documents -> scan -> choose -> encode -> merge -> store

`prepare` runs this chain and freezes what a pool depends on; `pipeline` says what it
does with each file. `open_corpus` reads the result. `order` gives the rows of a run, as
a pure function.
"""

from jaxsim.corpus.prepare import prepare
from jaxsim.corpus.rows import EvalWindows
from jaxsim.corpus.store import Corpus, Domain, Unit, open_corpus

__all__ = ["Corpus", "Domain", "EvalWindows", "Unit", "open_corpus", "prepare"]
