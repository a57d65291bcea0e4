"""Rows: no token is lost or scored twice, for all lengths."""

import numpy as np
import pytest

from jaxsim.corpus.rows import evaluation_rows, training_rows

BOT, EOT = 98, 99
L = 8


def ids_of(lengths):
    starts = np.cumsum([0, *lengths[:-1]])
    return [
        np.arange(s, s + n, dtype=np.int32) % 90
        for s, n in zip(starts, lengths, strict=True)
    ]


def rows_of(stream, start=0, stop=None):
    chunks = training_rows(stream, L, start, stop)
    return np.concatenate([np.zeros((0, L + 1), np.int32), *chunks])


@pytest.mark.parametrize("begin", [BOT, EOT])
@pytest.mark.parametrize("lengths", [[3, 20, 1], [7], [8], [16], [15, 1]])
def test_training_rows_are_the_stream(lengths, begin):
    documents = ids_of(lengths)
    before = [BOT] if begin == BOT else []
    stream = [t for d in documents for t in [*before, *d.tolist(), EOT]]
    parts = [np.array([*before, *d, EOT], np.int32) for d in documents]
    rows_RL1 = rows_of(parts)
    assert rows_RL1.dtype == np.int32
    assert rows_RL1.tolist() == rows_of([np.concatenate(parts)]).tolist()
    some = rows_of(parts, 1, len(rows_RL1) - 1)
    assert some.tolist() == rows_RL1[1:-1].tolist()
    assert len(rows_RL1) == (len(stream) - 1) // L
    for r, row in enumerate(rows_RL1):
        assert row.tolist() == stream[r * L : r * L + L + 1]


def test_less_than_a_row_gives_no_rows():
    assert rows_of(ids_of([8])).shape == (0, 9)
    assert rows_of([]).shape == (0, 9)
    assert rows_of(ids_of([9])).shape == (1, 9)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 16, 17, 24, 25, 61])
def test_every_token_is_scored_once_in_its_context(n):
    others = [5, 12]
    documents = ids_of([others[0], n, others[1]])
    counts = [np.arange(len(d)) + 1 for d in documents]
    w = evaluation_rows(documents, counts, BOT, EOT, L)
    assert w.tokens_RL1.dtype == np.int32
    assert w.document_R.tolist() == sorted(w.document_R.tolist())
    for e, ids in enumerate(documents):
        whole = [BOT, *ids.tolist()]
        scored = []
        for r in np.flatnonzero(w.document_R == e):
            row, valid = w.tokens_RL1[r].tolist(), int(w.length_R[r])
            first, k = int(w.first_R[r]), int(w.count_R[r])
            assert 0 <= first < first + k <= valid <= L
            # The row is a slice of the conditioned document.
            position = len(scored) - first
            assert row[: valid + 1] == whole[position : position + valid + 1]
            assert row[valid + 1 :] == [EOT] * (L - valid)
            targets = row[1:][first : first + k]
            at = len(scored)
            scored += targets
            assert w.bytes_R[r] == counts[e][at : at + k].sum()
            # Only documents shorter than a row are padded.
            assert valid == min(L, len(ids))
        assert scored == ids.tolist()
    last = np.flatnonzero(w.document_R == 1)[-1]
    if n > L:
        assert w.tokens_RL1[last, -1] == documents[1][-1]
    assert w.count_R.sum() == sum(map(len, documents))


def test_only_long_documents_lose_windows_to_the_cap():
    documents = ids_of([5, 200, 12])
    counts = [np.ones(len(d), np.int64) for d in documents]
    whole = evaluation_rows(documents, counts, BOT, EOT, L)
    some = evaluation_rows(documents, counts, BOT, EOT, L, most=4)
    assert np.bincount(whole.document_R).tolist() == [1, 25, 2]
    assert np.bincount(some.document_R).tolist() == [1, 4, 2]
    kept = [0, 1 + 3, 1 + 9, 1 + 15, 1 + 21, 26, 27]
    for name in ("tokens_RL1", "first_R", "count_R", "length_R", "bytes_R"):
        assert (getattr(some, name) == getattr(whole, name)[kept]).all()
