"""Documents to rows of tokens: the corpus that everything else reads.

    sources -> partition -> split -> overlap -> tokenizer -> rows -> store

`prepare` runs the whole chain once and freezes what later runs rest on;
`open_corpus` reads the result; `order` says which rows a run sees, as a pure
function.
"""

from jaxsim.corpus.prepare import prepare
from jaxsim.corpus.store import (
    Corpus,
    Domain,
    EvaluationRows,
    RowReader,
    Unit,
    open_corpus,
)

__all__ = [
    "Corpus",
    "Domain",
    "EvaluationRows",
    "RowReader",
    "Unit",
    "open_corpus",
    "prepare",
]
