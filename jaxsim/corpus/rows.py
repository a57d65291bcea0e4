"""Rows of L + 1 tokens, for training and for evaluation.

Letters: R rows (windows), L length, E documents.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxsim.config import Config
from jaxsim.corpus.names import check_free
from jaxsim.errors import UserError
from jaxsim.log import counted


def training_rows(
    stream: Iterable[np.ndarray], length: int, start: int = 0, stop: int | None = None
) -> Iterator[np.ndarray]:
    """Cuts documents with their borders, one after the other, into rows.

    Row r is `stream[r * L : r * L + L + 1]`: it shares one token with the next row, so
    every token but the first is a target once. The incomplete tail is dropped.

    Args:
      stream: the tokens, in parts of any size.
      start, stop: the rows that are made; None: to the last one.

    Yields:
      int32 [R, L + 1], from each part of the stream the rows that end in it.
    """
    left, row = np.zeros(0, np.int32), 0
    for part in stream:
        tokens = np.concatenate([left, part]).astype(np.int32, copy=False)
        rows = max(0, (len(tokens) - 1) // length)
        first = max(0, min(rows, start - row))
        last = rows if stop is None else max(first, min(rows, stop - row))
        if last > first:
            window = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)
            yield window[first * length : last * length : length]
        left, row = tokens[rows * length :], row + rows
        if stop is not None and row >= stop:
            return


@dataclasses.dataclass(frozen=True)
class Piece:
    """The rows of a partition that are one unit."""

    name: str
    start: int
    stop: int
    documents: int


def pieces_of(partition: str, sizes: np.ndarray, config: Config) -> list[Piece]:
    """The units of a partition: itself, or numbered pieces of it.

    A partition of at least two budgets is cut if `corpus.max_units` allows it. A unit
    below the budget is trained on for several epochs; one above keeps rows for at most
    `corpus.unit_budgets` runs.

    Args:
      sizes: tokens of the documents, with their borders, in order.
    """
    length = config.model.length
    budget = config.recipe.steps * config.recipe.batch  # rows of one run
    if not len(sizes):
        raise UserError(
            f"partition {partition!r}: no training document is left after the "
            "split, duplicates and overlap; give it more text or remove it"
        )
    ends = np.cumsum(sizes)
    rows = min(int(ends[-1] - 1) // length, most_rows(config))
    needed = max(1, math.ceil(budget / config.corpus.max_epochs))
    if rows < needed:
        epochs = f"{budget / rows:.1f}" if rows else "endless"
        raise UserError(
            f"partition {partition!r}: {counted(rows, 'row')} of {length} "
            f"tokens for a budget of {counted(budget, 'row')}: {epochs} epochs, more "
            f"than config.corpus.max_epochs={config.corpus.max_epochs:g}; give it at "
            f"least {counted(needed, 'row')}, join it with another partition, lower "
            "config.recipe.steps or config.recipe.batch, or raise "
            "config.corpus.max_epochs"
        )
    pieces = max(1, min(config.corpus.max_units, rows // budget))
    units = []
    for piece in range(pieces):
        start, stop = rows * piece // pieces, rows * (piece + 1) // pieces
        first, last = np.searchsorted(ends, (start * length, stop * length), "right")
        name = partition
        if pieces > 1:
            name = f"{partition}_{piece + 1}of{pieces}"
            check_free(name, "a piece of a partition")
        touched = int(min(last, len(ends) - 1) - first + 1)
        units.append(Piece(name, start, stop, touched))
    return units


def most_rows(config: Config) -> int:
    """The rows of a partition that are kept, if it has so many."""
    budget = config.recipe.steps * config.recipe.batch * config.corpus.unit_budgets
    return math.ceil(budget * config.corpus.max_units)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalWindows:
    """Windows of evaluation documents; see `evaluation_rows` and `record_windows`.

    Attributes:
      tokens_RL1: int32 ids, right-padded; targets are `tokens[1:]`.
      first_R, count_R: int32, the first scored target of a window, and how
        many consecutive targets are scored.
      length_R: int32, valid targets; below L in the padded window of a short document.
      document_R: int32, indices into `documents`.
      bytes_R: int64, UTF-8 bytes of the scored targets.
      documents: ids of the documents.
      digest: a digest of all of these and the tokenizer, once they are stored.
    """

    tokens_RL1: np.ndarray
    first_R: np.ndarray
    count_R: np.ndarray
    length_R: np.ndarray
    document_R: np.ndarray
    bytes_R: np.ndarray
    documents: tuple[str, ...] = ()
    digest: str = ""

    def __len__(self) -> int:
        return len(self.first_R)


def evaluation_rows(
    documents: Sequence[np.ndarray],
    byte_counts: Sequence[np.ndarray],
    begin: int,
    end: int,
    length: int,
    names: Sequence[str] = (),
    most: int = 0,
) -> EvalWindows:
    """Cuts documents into windows such that no token is scored twice.

    The first window is conditioned on begin-of-text, and later ones start from the
    last token before them. The last one is right-aligned: it overlaps the one
    before it, and `first_R` says where its scored targets begin. A document of
    fewer than L tokens gets one window, padded on the right with end-of-text.

    Args:
      documents: ids of each document alone; at least one document, and none empty.
      byte_counts: the bytes of each token, for each document.
      names: ids of the documents.
      most: at most so many windows of a document, evenly spaced; 0: all windows.
    """
    windows = []
    for e, (ids, counts) in enumerate(zip(documents, byte_counts, strict=True)):
        n = len(ids)
        conditioned = np.concatenate([np.array([begin], np.int32), ids])
        starts = np.arange(0, n, length)
        if most and most < len(starts):
            starts = starts[evenly(len(starts), most)]
        for done in starts.tolist():
            start = max(0, min(done, n - length))
            row = conditioned[start : start + length + 1]
            padded = np.pad(row, (0, length + 1 - len(row)), constant_values=end)
            count = min(length, n - done)
            n_bytes = counts[done : done + count].sum()
            windows.append((padded, done - start, count, len(row) - 1, e, n_bytes))
    tokens, first, scored, valid, owner, size = zip(*windows, strict=True)
    return EvalWindows(
        tokens_RL1=np.array(tokens, np.int32),
        first_R=np.array(first, np.int32),
        count_R=np.array(scored, np.int32),
        length_R=np.array(valid, np.int32),
        document_R=np.array(owner, np.int32),
        bytes_R=np.array(size, np.int64),
        documents=tuple(names),
    )


def evenly(size: int, count: int) -> np.ndarray:
    """`count` of the indices below `size`, evenly spaced."""
    return ((np.arange(count) + 0.5) * size / count).astype(int)
