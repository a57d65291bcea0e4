"""Losses by document: scores/NAME.documents.parquet, for analyses of one's own.

A row for each mixture and document, in the order of the table and of the corpus:

    mixture, predictor     of the table; the predictor is 'merge'
    domain, split, id      of the document
    nats                   of its scored tokens, summed
    tokens, bytes          that these are sums over

`nats / bytes / ln 2` are a document's bits per byte. Their mean over the documents of a
domain of task records is that domain's loss; running text is pooled instead: the sum of
nats over the sum of bytes. The file's metadata say what it was computed from, as the
JSON of the table does.
"""

import json
from collections.abc import Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxsim import records
from jaxsim.corpus.split import SPLITS
from jaxsim.scoring.scores import Scores, document_starts

PREDICTOR = "merge"
_NUMBERS = 2**20  # losses of windows that become a row group, as a rule


def write_documents(scores: Scores, file: IO[bytes]) -> None:
    """Writes the merges' losses by document, some mixtures at a time."""
    e, merge = scores.evaluation, scores.predictors[PREDICTOR]
    names = scores.table.names
    starts_E = document_starts(e, merge.rows)
    first_E = merge.rows[starts_E]
    tokens_E, bytes_E = (
        np.add.reduceat(x_R[merge.rows].astype(np.int64), starts_E)
        for x_R in (e.count_R, e.bytes_R)
    )
    ids = [e.documents[i] for i in e.document_R[first_E]]

    def rows(start: int, stop: int) -> pa.Table:
        count, size = stop - start, len(first_E)

        def named(values: Sequence[str], index_E: np.ndarray) -> pa.Array:
            index = np.tile(index_E, count).astype(np.int32)
            return pa.DictionaryArray.from_arrays(index, pa.array(values, pa.string()))

        mixture = np.repeat(np.arange(start, stop, dtype=np.int32), size)
        nll_KR = merge.nll_MR[start:stop].astype(np.float64)
        columns = {
            "mixture": pa.DictionaryArray.from_arrays(mixture, pa.array(names)),
            "predictor": named([PREDICTOR], np.zeros(size)),
            "domain": named(e.domains, e.domain_R[first_E]),
            "split": named(SPLITS, e.split_R[first_E]),
            "id": named(ids, np.arange(size)),
            "nats": np.add.reduceat(nll_KR, starts_E, axis=1).ravel(),
            "tokens": np.tile(tokens_E, count),
            "bytes": np.tile(bytes_E, count),
        }
        return pa.table(columns)

    facts = {
        "jaxsim.version": str(records.VERSION),
        "jaxsim.evaluation": e.digest,
        "jaxsim.basis": json.dumps(records.plain(scores.basis)),
        "jaxsim.how": json.dumps(dict(scores.how)),
        "jaxsim.notes": json.dumps(scores.notes),
    }
    schema = rows(0, 1).schema.with_metadata(facts)
    step = max(1, _NUMBERS // len(merge.rows))
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, len(names), step):
            writer.write_table(rows(start, min(start + step, len(names))).cast(schema))
