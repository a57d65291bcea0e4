"""Token ids become rows of L + 1 tokens: for training, and for evaluation.

Letters: R rows, L length, E documents.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


def training_rows(
    documents: Sequence[np.ndarray], eot: int, length: int
) -> np.ndarray:
    """Documents in order, each followed by end-of-text, cut in rows.

    Row r is `stream[r * L : r * L + L + 1]`: it shares one token with the next
    row, so every token but the first is a target once. The incomplete tail is
    dropped.

    Returns:
      int32 [R, L + 1]; no rows for a stream of fewer than L + 1 tokens.
    """
    end = np.array([eot], np.int32)
    parts = [part for ids in documents for part in (ids, end)]
    stream = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    rows = max(0, (len(stream) - 1) // length)
    index_RL1 = (
        np.arange(rows)[:, None] * length + np.arange(length + 1)[None, :]
    )
    return stream[index_RL1].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Evaluation rows; see `evaluation_rows`."""

    tokens_RL1: np.ndarray  # int32
    first_scored_R: np.ndarray  # int32, the first scored target of the row
    n_scored_R: np.ndarray  # int32, scored targets are consecutive
    document_R: np.ndarray  # int32, index of the document
    bytes_R: np.ndarray  # int64, UTF-8 bytes of the scored targets
    length_R: np.ndarray  # int32, valid targets; below L in a padded row


def evaluation_rows(
    documents: Sequence[np.ndarray],
    byte_counts: Sequence[np.ndarray],
    eot: int,
    length: int,
) -> Windows:
    """Windows over each document such that every token is scored once.

    The first window is conditioned on end-of-text, later ones start from the
    last token before them, and the last one is right-aligned: it overlaps the
    one before it, and `first_scored` says where its own targets begin. A
    document of fewer than L tokens gets one row, padded on the right.

    Args:
      documents: ids of each document, without end-of-text, none empty.
      byte_counts: for each document, the bytes each of its tokens stands for.
    """
    tokens, first, scored, owner, n_bytes, valid = [], [], [], [], [], []
    for e, (ids, counts) in enumerate(zip(documents, byte_counts, strict=True)):
        n = len(ids)
        conditioned = np.concatenate([np.array([eot], np.int32), ids])
        for done in range(0, n, length):
            start = max(0, min(done, n - length))
            row = conditioned[start : start + length + 1]
            fresh = min(length, n - done)
            tokens.append(
                np.pad(row, (0, length + 1 - len(row)), constant_values=eot)
            )
            first.append(done - start)
            scored.append(fresh)
            owner.append(e)
            n_bytes.append(int(counts[done : done + fresh].sum()))
            valid.append(len(row) - 1)
    return Windows(
        np.asarray(tokens, np.int32).reshape(-1, length + 1),
        np.asarray(first, np.int32),
        np.asarray(scored, np.int32),
        np.asarray(owner, np.int32),
        np.asarray(n_bytes, np.int64),
        np.asarray(valid, np.int32),
    )
