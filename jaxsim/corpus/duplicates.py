"""Finds copies: training text that repeats evaluation text, or other training text.

Texts are compared by their words, without case, punctuation and white space, so that
re-wrapped copies are found. Words are hashed to 64 bits. Results depend only on the
texts, up to hash collisions.

Overlap with evaluation text: two documents overlap if one of them has at least a given
share of its n-grams of words in the other: the training document is mostly evaluation
text, or contains an evaluation document. Documents of fewer than n words are compared
whole, and one n-gram never decides for a document of several.

Near duplicates: MinHash (Broder, "On the resemblance and containment of documents",
1997) of the 5-grams of words, in bands (Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", chapter 3). Two documents whose sets of 5-grams have Jaccard
similarity s agree in one of b bands of r hashes with probability 1 - (1 - s^r)^b.

Letters: W words, G n-grams, D documents of a batch, E evaluation documents.
"""

import functools
import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np

NEAR_WORDS = 5  # of the n-grams that near duplicates are compared by
_HASHES = 128  # most MinHashes of a document
_FACTOR = 0x9E3779B97F4A7C15  # odd: multiplying loses nothing
_MIX = np.uint64(0xBF58476D1CE4E5B9)
# In scripts without spaces each character is a word. Otherwise whole sentences would
# be words, and copies inside other sentences would not be found.
_ALONE = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
_LARGEST_FILTER = 1 << 26  # bytes


@functools.cache
def _classes() -> np.ndarray:
    """Of each code point: 0 in no word, 1 a part of one, 2 a word of its own."""
    classes = np.zeros(0x110000, np.uint8)
    # There are no letters and digits in planes 4 and above.
    classes[[c for c in range(0x40000) if chr(c).isalnum()]] = 1
    classes[ord("_")] = 1
    for first, last in _ALONE:
        classes[first : last + 1] = 2
    return classes


@functools.lru_cache(4)
def _powers(factor: int, size: int) -> np.ndarray:
    """factor**0, factor**1, ... modulo 2**64."""
    powers = np.full(size, factor, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _mixed(hashes: np.ndarray) -> np.ndarray:
    hashes = (hashes ^ (hashes >> np.uint64(31))) * _MIX
    return hashes ^ (hashes >> np.uint64(29))


def word_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the words of texts, and where those of each text begin.

    Returns:
      uint64 [W] and int64 [D + 1]; no text is without a word.
    """
    normal = [unicodedata.normalize("NFKC", text).casefold() for text in texts]
    code_N = np.frombuffer(" ".join(normal).encode("utf-32-le"), np.uint32)
    class_N = _classes()[code_N]
    in_N = np.concatenate([[False], class_N == 1, [False]])
    alone_N = class_N == 2
    start_W = np.flatnonzero((in_N[1:-1] & ~in_N[:-2]) | alone_N)
    end_W = np.flatnonzero((in_N[1:-1] & ~in_N[2:]) | alone_N) + 1
    # A word's polynomial is a difference of sums, moved to the same place.
    size = 1 << len(code_N).bit_length()
    sums_N = np.zeros(len(code_N) + 1, np.uint64)
    np.cumsum(code_N * _powers(_FACTOR, size)[: len(code_N)], out=sums_N[1:])
    inverse = _powers(pow(_FACTOR, -1, 1 << 64), size)
    hash_W = _mixed((sums_N[end_W] - sums_N[start_W]) * inverse[start_W])
    at_D = np.cumsum([0, *(len(text) + 1 for text in normal)])
    begin_D = np.searchsorted(start_W, at_D)
    # A text with only punctuation is one word.
    for d in np.flatnonzero(np.diff(begin_D) == 0).tolist():
        whole = " ".join(normal[d].split()).encode()
        value = hashlib.blake2b(whole, digest_size=8).digest()
        hash_W = np.insert(hash_W, begin_D[d], np.frombuffer(value, np.uint64))
        begin_D[d + 1 :] += 1
    return hash_W, begin_D


def text_digests(hash_W: np.ndarray, begin_D: np.ndarray) -> np.ndarray:
    """A digest of the words of each text, uint64 [D]."""
    pairs = zip(begin_D[:-1].tolist(), begin_D[1:].tolist(), strict=True)
    digests = [
        hashlib.blake2b(hash_W[a:b].tobytes(), digest_size=8).digest() for a, b in pairs
    ]
    return np.frombuffer(b"".join(digests), np.uint64)


def grams_of(
    hash_W: np.ndarray, begin_D: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of the n-grams of texts, and where those of each text begin.

    A text of fewer than n words has one, of all its words.
    """
    words_D = np.diff(begin_D)
    short_D = words_D < n
    count_D = np.where(short_D, 1, words_D - n + 1)
    at_D = np.concatenate([[0], np.cumsum(count_D)])
    rolled = np.zeros(max(0, len(hash_W) - n + 1), np.uint64)
    for i in range(n if len(rolled) else 0):
        rolled = rolled * np.uint64(_FACTOR) + hash_W[i : i + len(rolled)]
    index_G = np.arange(at_D[-1]) + np.repeat(begin_D[:-1] - at_D[:-1], count_D)
    gram_G = np.zeros(len(index_G), np.uint64)
    is_long_G = np.repeat(~short_D, count_D)
    gram_G[is_long_G] = rolled[index_G[is_long_G]]
    short = np.flatnonzero(short_D)
    for i in range(n - 1 if len(short) else 0):
        some = short[words_D[short] > i]
        word = hash_W[begin_D[some] + i]
        gram_G[at_D[some]] = gram_G[at_D[some]] * np.uint64(_FACTOR) + word
    return _mixed(gram_G), at_D


class EvaluationIndex:
    """The n-grams of evaluation documents, sorted by hash; arrays may be mapped."""

    _ARRAYS = ("hash_G", "owner_G", "size_E", "filter")

    def __init__(
        self,
        hash_G: np.ndarray,
        owner_G: np.ndarray,
        size_E: np.ndarray,
        filter: np.ndarray,
    ):
        """See `of`.

        Args:
          hash_G: sorted hashes.
          owner_G: the document of each.
          size_E: the number of n-grams of each document.
          filter: of the first bits of a hash, whether any has them: of most n-grams one
            look here tells that they are nowhere.
        """
        self.hash_G, self.owner_G, self.size_E = hash_G, owner_G, size_E
        self.filter, self._shift = filter, np.uint64(65 - len(filter).bit_length())

    @classmethod
    def of(cls, documents: Iterable[np.ndarray]) -> Self:
        """Takes the n-gram hashes of each document."""
        unique = [np.unique(grams) for grams in documents]
        size_E = np.array([len(grams) for grams in unique], np.int64)
        owner_G = np.repeat(np.arange(len(unique), dtype=np.int32), size_E)
        hash_G = np.concatenate([np.zeros(0, np.uint64), *unique])
        order = np.argsort(hash_G, kind="stable")
        size = 1 << max(10, (8 * len(hash_G)).bit_length())
        found = cls(
            hash_G[order],
            owner_G[order],
            size_E,
            np.zeros(min(size, _LARGEST_FILTER), bool),
        )
        found.filter[found.hash_G >> found._shift] = True
        return found

    def save(self, folder: Path) -> None:
        for name in self._ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path) -> Self:
        files = (folder / f"{name}.npy" for name in cls._ARRAYS)
        return cls(*(np.load(file, mmap_mode="r") for file in files))

    def find(self, gram_G: np.ndarray, share: float) -> np.ndarray:
        """The evaluation documents that overlap with one of these n-grams, sorted.

        They have at least `share` of the n-grams of the smaller of the two in common.
        """
        grams = np.unique(gram_G)
        start = np.searchsorted(self.hash_G, grams, "left")
        counts = np.searchsorted(self.hash_G, grams, "right") - start
        # Positions of all matches: start[i], start[i] + 1, ... (counts[i] of them).
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        owners = self.owner_G[np.repeat(start, counts) + within]
        documents, common = np.unique(owners, return_counts=True)
        smaller = np.minimum(len(grams), self.size_E[documents])
        return documents[common >= np.maximum(share * smaller, 1)]

    def find_all(
        self, gram_G: np.ndarray, begin_D: np.ndarray, share: float
    ) -> list[tuple[int, int]]:
        """(document, evaluation document) of all overlaps of a batch."""
        maybe = np.flatnonzero(self.filter[gram_G >> self._shift])
        at = np.searchsorted(self.hash_G, gram_G[maybe])
        here = at < len(self.hash_G)
        here[here] = self.hash_G[at[here]] == gram_G[maybe[here]]
        suspects = np.unique(np.searchsorted(begin_D, maybe[here], "right") - 1)
        return [
            (d, e)
            for d in suspects.tolist()
            for e in self.find(gram_G[begin_D[d] : begin_D[d + 1]], share).tolist()
        ]


def band_shape(share: float) -> tuple[int, int]:
    """(bands, hashes of a band) that find half of the pairs of this similarity.

    For 0.75 these are 12 bands of 10 hashes: they find 15 % of the pairs of similarity
    0.65, half of those of 0.75, 93 % of those of 0.85 and all of those above 0.95.
    """

    def off(rows: int) -> float:
        return abs((1 - 0.5 ** (1 / (_HASHES // rows))) ** (1 / rows) - share)

    rows = min(range(1, _HASHES // 2), key=off)
    return _HASHES // rows, rows


@functools.cache
def _multipliers(count: int) -> np.ndarray:
    raw = np.random.Philox(key=0).random_raw(count)
    return raw.astype(np.uint64) | np.uint64(1)


def band_hashes(gram_G: np.ndarray, begin_D: np.ndarray, share: float) -> np.ndarray:
    """The bands of each document's MinHashes, uint64 [D, bands]."""
    bands, rows = band_shape(share)
    hashes = np.zeros((len(begin_D) - 1, bands), np.uint64)
    for i, multiplier in enumerate(_multipliers(bands * rows)):
        least_D = np.minimum.reduceat(gram_G * multiplier, begin_D[:-1])
        hashes[:, i // rows] = hashes[:, i // rows] * np.uint64(_FACTOR) + least_D
    return _mixed(hashes)


def repeated(key_N: np.ndarray, document_N: np.ndarray) -> np.ndarray:
    """Whether the first entry with the same key is of another document, bool [N]."""
    order = np.argsort(key_N, kind="stable")
    new = np.ones(len(order), bool)
    new[1:] = key_N[order[1:]] != key_N[order[:-1]]
    first = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    found = np.zeros(len(order), bool)
    found[order] = document_N[order] != document_N[first]
    return found
