"""Documents become rows of tokens: the corpus that everything else reads.

    sources -> split -> decontaminate -> tokenizer -> rows -> store

`prepare` runs this chain and freezes what a pool depends on. `open_corpus` reads
the result. `order` gives the rows of a run, as a pure function.
"""

from jaxsim.corpus.prepare import prepare
from jaxsim.corpus.rows import EvalWindows
from jaxsim.corpus.store import Corpus, Domain, Unit, open_corpus

__all__ = ["Corpus", "Domain", "EvalWindows", "Unit", "open_corpus", "prepare"]
