"""The tokens of all files: what is taken of them, and in which order.

Letters: N documents, P places, E evaluation documents.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim.corpus import choose, encode
from jaxsim.corpus.choose import Chosen, Settled
from jaxsim.corpus.encode import Tools

_BLOCK = 4_000_000  # tokens that are put in order at once


@dataclasses.dataclass(frozen=True)
class Taking:
    """What training text is taken.

    Attributes:
      needed_P: tokens that fill a place, with the borders of documents.
      generation_P: which `prepare` first saw a place, from 0.
      generation_E: which `prepare` first saw an evaluation document.
      borders: tokens around a document.
    """

    needed_P: np.ndarray
    needed_base: float
    generation_P: np.ndarray
    generation_E: np.ndarray
    borders: int


@dataclasses.dataclass(frozen=True)
class Taken:
    """Training documents in order, oldest places first; arrays are [N].

    Attributes:
      pairs: entry and evaluation document of each overlap.
      older: of each pair, whether the evaluation document is as old as the entry's
        place.
    """

    place: np.ndarray
    bytes: np.ndarray
    tokens: np.ndarray  # with borders
    shard: np.ndarray
    offset: np.ndarray
    settled: Settled
    pairs: np.ndarray
    older: np.ndarray

    def sums(self, place: int | None = None) -> tuple[int, int]:
        """Tokens that are kept, and bytes of what was considered, of a place or all."""
        here = self.settled.considered & (place is None or self.place == place)
        size = self.bytes[here].astype(np.int64).sum()
        return int(self.tokens[here & self.settled.kept].sum()), int(size)


class Shards:
    """The folders of `encode.encode`."""

    def __init__(self, tools: Tools):
        self._type = np.dtype(tools.token_type)
        self._near = bool(tools.near_duplicates)
        self.folders: list[Path] = []
        self._abouts: list[encode.Encoded] = []
        self._of_file: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)

    def add(self, f: int, folder: Path) -> None:
        about, rows = encode.load(folder)
        self._of_file[f].append((len(self.folders), rows))
        self.folders.append(folder)
        self._abouts.append(about)

    def has(self, f: int, document: np.ndarray) -> np.ndarray:
        found = np.zeros(len(document), bool)
        for _, rows in self._of_file[f]:
            found |= np.isin(document, rows["document"])
        return found

    def unknown(self) -> Iterator[dict[str, Any]]:
        """Counts of `Coverage` of each folder."""
        for about in self._abouts:
            yield {
                where: list(counts.values()) for where, counts in about.unknown.items()
            }

    def taken(self, chosen: Chosen, taking: Taking, base: bool = False) -> Taken:
        """What becomes of chosen documents, all of which are here."""
        place = np.zeros(len(chosen), np.int64) if base else chosen.place.astype(int)
        age = np.zeros(len(chosen), np.int64) if base else taking.generation_P[place]
        ids = chosen.id
        order = np.lexsort((ids[:, 1], chosen.place, ids[:, 0], age))
        chosen, place, age = chosen[order], place[order], age[order]
        shard, row, tokens = np.zeros((3, len(chosen)), np.int64)
        offset, digest = np.zeros(len(chosen), np.int64), np.zeros(len(chosen), "<u8")
        for f, index in choose.groups(chosen.file):
            for number, rows in self._of_file[f]:
                numbers = rows["document"]
                at = np.searchsorted(numbers, chosen.document[index])
                here = at < len(numbers)
                here[here] = numbers[at[here]] == chosen.document[index[here]]
                some, at = index[here], at[here]
                shard[some], row[some] = number, at
                tokens[some] = rows["tokens"][at]
                offset[some] = (np.cumsum(rows["tokens"], dtype=np.int64))[at]
                digest[some] = rows["digest"][at]
        offset -= tokens
        tokens += taking.borders
        pairs = self._pairs(shard, row)
        older = taking.generation_E[pairs[:, 1]] <= age[pairs[:, 0]]
        overlaps = np.zeros(len(chosen), bool)
        overlaps[pairs[older, 0]] = True
        needed = np.array([taking.needed_base]) if base else taking.needed_P
        document = shard << 32 | row

        def keys() -> Iterator[np.ndarray]:
            yield digest
            yield from self._bands(shard, row)

        settled = choose.settle(place, document, tokens, overlaps, keys, needed)
        return Taken(place, chosen.bytes, tokens, shard, offset, settled, pairs, older)

    def _pairs(self, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """(entry, evaluation document) of all overlaps, in the order of entries."""
        found = [np.zeros((0, 2), np.int64)]
        for number, index in choose.groups(shard):
            overlaps = np.load(self.folders[number] / "overlaps.npy")
            for i in index[np.isin(row[index], overlaps[:, 0])].tolist():
                others = overlaps[overlaps[:, 0] == row[i], 1]
                found.append(np.stack([np.full(len(others), i), others], 1))
        pairs = np.concatenate(found)
        return pairs[np.argsort(pairs[:, 0], kind="stable")]

    def _bands(self, shard: np.ndarray, row: np.ndarray) -> Iterator[np.ndarray]:
        """The hashes of a band of all entries, one band after the other."""
        if not self._near or not len(shard):
            return
        of_shards, b, bands = list(choose.groups(shard)), 0, 1
        while b < bands:
            key = np.zeros(len(shard), np.uint64)
            for number, index in of_shards:
                hashes = np.load(self.folders[number] / "bands.npy", mmap_mode="r")
                key[index], bands = hashes[row[index], b], hashes.shape[1]
            yield key
            b += 1

    def stream(
        self, taken: Taken, kept: np.ndarray, borders: Sequence[int]
    ) -> Iterator[np.ndarray]:
        """The tokens of documents, with borders, in parts of some documents.

        Args:
          kept: indices of the documents.
          borders: begin-of-text and end-of-text; or one token that is both, which
            follows each document, and so precedes the next one.
        """
        *before, after = borders
        part = np.cumsum(taken.tokens[kept]) // _BLOCK
        for block in np.split(kept, np.flatnonzero(np.diff(part)) + 1):
            ends = np.cumsum(taken.tokens[block])
            stream = np.full(ends[-1] if len(ends) else 0, after, np.int32)
            starts = ends - taken.tokens[block]
            for i, token in enumerate(before):
                stream[starts + i] = token
            starts += len(before)
            sizes = taken.tokens[block] - len(borders)
            where = (starts, sizes, taken.offset[block])
            for number, index in choose.groups(taken.shard[block]):
                path = self.folders[number] / "tokens"
                if not path.stat().st_size:
                    continue
                tokens = np.memmap(path, self._type, "r")
                for at, size, offset in zip(*(w[index] for w in where), strict=True):
                    stream[at : at + size] = tokens[offset : offset + size]
            yield stream
