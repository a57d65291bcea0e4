"""Documents to rows of tokens: the corpus that everything else reads.

    sources -> split -> decontaminate -> tokenizer -> rows -> store

`prepare` runs the whole chain once and freezes what later runs rest on;
`open_corpus` reads the result; `order` says which rows a run sees, as a pure
function.
"""

from jaxsim.corpus.prepare import prepare
from jaxsim.corpus.rows import EvalWindows
from jaxsim.corpus.store import Corpus, Domain, RowReader, Unit, open_corpus

__all__ = [
    "Corpus",
    "Domain",
    "EvalWindows",
    "RowReader",
    "Unit",
    "open_corpus",
    "prepare",
]
