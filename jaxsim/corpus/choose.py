"""Choices among documents, made on the entries of all files and never on text.

A document's place in the order is a hash of its id. Of each partition and domain those
that come first are taken, as many as are needed. Nothing depends on the order of files,
or on what file a document is in.

Letters: N entries, F files, P places, S splits, B bins of the order.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from jaxsim.corpus.duplicates import repeated
from jaxsim.corpus.scan import ALL_SPLITS, ENTRY, digest
from jaxsim.corpus.split import BASE, TRAIN, Place

BINS = 4096  # of the order; thresholds are bounds of bins
RANGE = 4_000_000  # entries that are sorted at once
_SHIFT = np.uint64(64 - 12)
KEPT, SAME, OTHER_TEXT = range(3)  # causes
_TRAIN, _BASE = ALL_SPLITS.index(TRAIN), ALL_SPLITS.index(BASE)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Entries of several files, in order; all arrays are [N]."""

    file: np.ndarray
    document: np.ndarray  # in its file
    place: np.ndarray
    split: np.ndarray
    id: np.ndarray  # uint64 [N, 2]
    text: np.ndarray  # the first halves of digests
    bytes: np.ndarray

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, index: np.ndarray) -> "Chosen":
        parts = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Chosen(*(part[index] for part in parts))


def groups(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each value, and where it is, in order."""
    order = np.argsort(values, kind="stable")
    bounds = np.flatnonzero(np.diff(values[order])) + 1
    for index in np.split(order, bounds) if len(order) else ():
        yield int(values[index[0]]), index


def keys_of(
    places: Sequence[Place], place_N: np.ndarray, id_N: np.ndarray, text_N: np.ndarray
) -> np.ndarray:
    """What says which documents these are, by names of places and halves of digests."""
    names = [digest(place.name.encode())[0] for place in places]
    return np.array(names, np.uint64)[place_N] ^ id_N ^ text_N


def seen_before(
    places: Sequence[Place], evaluation: Chosen, known: np.ndarray, new: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which `prepare` first saw each evaluation document, and the next `known`.

    Args:
      known: `SEEN` of earlier calls, sorted.
      new: the number of this call.
    """
    key_E = keys_of(places, evaluation.place, evaluation.id[:, 0], evaluation.text)
    is_new = ~np.isin(key_E, known["document"])
    more = np.unique(key_E[is_new])
    seen = np.zeros(len(known) + len(more), known.dtype)
    seen[: len(known)] = known
    seen["document"][len(known) :], seen["generation"][len(known) :] = more, new
    seen.sort(order="document")
    at = np.searchsorted(seen["document"], key_E)
    return seen["generation"][at].astype(np.int64), seen


class Entries:
    """The entries of all files.

    Attributes:
      places: all partitions and domains.
      cause_F: of each file's entries: KEPT, SAME (as an entry that stays) or
        OTHER_TEXT (than another document of its source with this id).
    """

    def __init__(
        self,
        entries_F: Sequence[np.ndarray],
        places: Sequence[Place],
        place_F: Sequence[Sequence[int]],
        gives_base: Iterable[bool],
    ):
        """Takes the entries of each file.

        Args:
          place_F: which of the places each file's places are.
          gives_base: whether a place's 'base' split is base text.
        """
        self.entries_F = entries_F
        self.places = places
        self.cause_F = [np.zeros(len(entries), np.uint8) for entries in self.entries_F]
        self._place_F = [np.array(indices, np.uint32) for indices in place_F]
        self._gives_base_P = np.array(list(gives_base), bool)
        sources = [(place.section, place.source) for place in places]
        self.source_P = np.array([sources.index(source) for source in sources])
        self.total = sum(map(len, self.entries_F))

    def place(self, f: int) -> np.ndarray:
        return self._place_F[f][self.entries_F[f]["place"]]

    def split(self, f: int) -> np.ndarray:
        """Indices into `ALL_SPLITS`; 'train' where a place gives no base text."""
        split = self.entries_F[f]["split"]
        unused = (split == _BASE) & ~self._gives_base_P[self.place(f)]
        return np.where(unused, _TRAIN, split)

    def counts(self) -> np.ndarray:
        """How many entries there are, by place, split and cause: [P, S, 3]."""
        total = np.zeros((len(self.places), len(ALL_SPLITS), 3), np.int64)
        for f, cause in enumerate(self.cause_F):
            self._add(total, f, cause, np.ones(len(cause)))
        return total

    def _add(
        self, total: np.ndarray, f: int, last: np.ndarray, amount: np.ndarray
    ) -> None:
        """Adds amounts of a file's entries to `total`, [P, S, last]."""
        places = self._place_F[f]
        shape = len(places), *total.shape[1:]
        at = self.entries_F[f]["place"], self.split(f), last
        key = np.ravel_multi_index(at, shape) if len(amount) else np.zeros(0, int)
        sums = np.bincount(key, amount, int(np.prod(shape))).reshape(shape)
        np.add.at(total, places, sums.astype(total.dtype))

    def drop_repeated_ids(self, generation_P: np.ndarray) -> None:
        """Of the documents of a source with one id, one stays: the oldest, by content.

        Evaluation documents repeat others of their domain alone.
        """
        every_F = [np.ones(len(cause), bool) for cause in self.cause_F]
        for found, file_N, row_N in self._repeated("id", every_F):
            text, ids, place = found["text"], found["id"], found["place"]
            trained = (found["split"] == _TRAIN) | (found["split"] == _BASE)
            domain = np.where(trained, len(self.places), place)
            keys = ids[:, 0], ids[:, 1], self.source_P[place], domain
            rank = place, text[:, 1], text[:, 0], generation_P[place]
            order = np.lexsort((*rank, *keys))
            lead = _leaders(order, keys)
            same = (text[order] == text[lead]).all(1)
            causes = np.where(same, SAME, OTHER_TEXT)
            own = _of_leader(order, lead, file_N, found["document"])
            self._mark(file_N, row_N, order, causes, own)

    def drop_repeated_texts(self, generation_P: np.ndarray) -> None:
        """Of training documents with one text, one stays: the oldest, then by id.

        A document in several partitions is no copy of itself.
        """
        wanted_F = []
        for f, cause in enumerate(self.cause_F):
            split = self.split(f)
            wanted_F.append((cause == KEPT) & ((split == _TRAIN) | (split == _BASE)))
        for found, file_N, row_N in self._repeated("text", wanted_F):
            text, ids, place = found["text"], found["id"], found["place"]
            keys = text[:, 0], text[:, 1], found["split"]
            rank = (place, ids[:, 1], ids[:, 0], generation_P[place])
            order = np.lexsort((*rank, *keys))
            lead = _leaders(order, keys)
            own = _of_leader(order, lead, file_N, found["document"])
            causes = np.full(len(order), SAME)
            self._mark(file_N, row_N, order, causes, own)

    def _mark(
        self,
        file_N: np.ndarray,
        row_N: np.ndarray,
        order: np.ndarray,
        causes: np.ndarray,
        stays: np.ndarray,
    ) -> None:
        for f, index in groups(file_N[order]):
            gone = index[~stays[index]]
            self.cause_F[f][row_N[order[gone]]] = causes[gone]

    def _repeated(
        self, field: str, wanted_F: Sequence[np.ndarray]
    ) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Entries whose digest occurs more than once: they, their files and rows.

        By ranges of digests, so that memory is bounded. Places are those of `places`,
        splits those of `split`.
        """
        parts = -(-self.total // RANGE)
        for part in range(parts):
            found = []
            for f, wanted in enumerate(wanted_F):
                key = self.entries_F[f][field][:, 0]
                range_of = (key >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)
                row = np.flatnonzero(wanted & (range_of == part))
                found.append((key[row], np.full(len(row), f, np.int32), row))
            key_N, file_N, row_N = map(np.concatenate, zip(*found, strict=True))
            order = np.argsort(key_N, kind="stable")
            same = key_N[order[1:]] == key_N[order[:-1]]
            twice = np.zeros(len(order), bool)
            twice[:-1] |= same
            twice[1:] |= same
            some = order[twice]
            file_N, row_N = file_N[some], row_N[some]
            entries = np.zeros(len(some), ENTRY)
            for f, index in groups(file_N):
                rows = row_N[index]
                entries[index] = self.entries_F[f][rows]
                entries["place"][index] = self.place(f)[rows]
                entries["split"][index] = self.split(f)[rows]
            yield entries, file_N, row_N

    def bytes_by_bin(self, most_P: np.ndarray | None = None) -> np.ndarray:
        """Bytes of text that is kept, [P, S, B].

        Args:
          most_P: of an evaluation document, at most so many count.
        """
        total = np.zeros((len(self.places), len(ALL_SPLITS), BINS))
        for f, entries in enumerate(self.entries_F):
            split = self.split(f)
            size = entries["bytes"].astype(np.float64)
            if most_P is not None:
                evaluated = (split != _TRAIN) & (split != _BASE)
                most = most_P[self.place(f)]
                size = np.where(evaluated, np.minimum(size, most), size)
            size *= self.cause_F[f] == KEPT
            self._add(total, f, _bin(entries), size)
        return total

    def take(self, bins_PS: np.ndarray, known: np.ndarray | None = None) -> Chosen:
        """The entries of the first bins of each place and split, by place and id.

        Args:
          known: evaluation documents that are taken from all bins, see `seen_before`.
        """
        parts = []
        for f, entries in enumerate(self.entries_F):
            place, split = self.place(f), self.split(f)
            taken = _bin(entries) < bins_PS[place, split]
            if known is not None and len(known):
                evaluated = np.flatnonzero((split != _TRAIN) & (split != _BASE))
                some = entries[evaluated]
                digests = some["id"][:, 0], some["text"][:, 0]
                keys = keys_of(self.places, place[evaluated], *digests)
                taken[evaluated] |= np.isin(keys, known["document"])
            row = np.flatnonzero((self.cause_F[f] == KEPT) & taken)
            parts.append(
                (
                    np.full(len(row), f, np.int32), entries["document"][row],
                    place[row], split[row], entries["id"][row], entries["text"][row, 0],
                    entries["bytes"][row],
                )
            )  # fmt: skip
        found = Chosen(*map(np.concatenate, zip(*parts, strict=True)))
        ids = found.id
        return found[np.lexsort((ids[:, 1], ids[:, 0], found.split, found.place))]


def _bin(entries: np.ndarray) -> np.ndarray:
    return (entries["id"][:, 0] >> _SHIFT).astype(np.int64)


def _leaders(order: np.ndarray, keys: Sequence[np.ndarray]) -> np.ndarray:
    """For each in this order, the first one with the same keys."""
    new = np.ones(len(order), bool)
    new[1:] = False
    for key in keys:
        new[1:] |= key[order][1:] != key[order][:-1]
    return order[np.flatnonzero(new)[np.cumsum(new) - 1]]


def _of_leader(
    order: np.ndarray, lead: np.ndarray, file_N: np.ndarray, document_N: np.ndarray
) -> np.ndarray:
    """Whether entries are of the same document as their leaders."""
    same_file = file_N[order] == file_N[lead]
    return same_file & (document_N[order] == document_N[lead])


def bins_for(bytes_B: np.ndarray, needed: float) -> int:
    """How many bins hold the bytes that are needed, if all do."""
    return min(BINS, int(np.searchsorted(np.cumsum(bytes_B), needed)) + 1)


def prefix(chosen: Chosen, needed: float, most_P: np.ndarray) -> np.ndarray:
    """Whether entries are among the first of their place and split with enough bytes.

    Args:
      most_P: of a document, at most so many bytes count.
    """
    size = np.minimum(chosen.bytes, most_P[chosen.place])
    before = np.cumsum(size) - size
    new = np.ones(len(size), bool)
    new[1:] = (chosen.place[1:] != chosen.place[:-1]) | (
        chosen.split[1:] != chosen.split[:-1]
    )
    first = np.flatnonzero(new)[np.cumsum(new) - 1]
    return before - before[first] < needed


@dataclasses.dataclass(frozen=True)
class Settled:
    """What becomes of training documents in their order; all arrays are [N].

    Attributes:
      considered: none of the others is looked at: their partitions are full.
      repeated, near: a copy of an earlier document that was considered.
      kept: is trained on.
    """

    considered: np.ndarray
    repeated: np.ndarray
    near: np.ndarray
    kept: np.ndarray


def settle(
    place_N: np.ndarray,
    document_N: np.ndarray,
    tokens_N: np.ndarray,
    overlaps_N: np.ndarray,
    keys: Callable[[], Iterable[np.ndarray]],
    needed_P: np.ndarray,
) -> Settled:
    """Takes documents in order until their partitions are full.

    A document is left out if it overlaps with evaluation text, or has a key in common
    with an earlier one that was considered: the first key is that of its text, the
    others are those of its bands. So the result for the first documents does not depend
    on how many come after them. A document of several partitions is no copy of itself.

    Args:
      document_N: which document an entry is of.
      keys: gives them one after the other, [N] each; they may be too many for memory.
      needed_P: tokens that fill a partition.
    """
    considered = np.ones(len(place_N), bool)
    by_place = np.argsort(place_N, kind="stable")
    new = np.ones(len(by_place), bool)
    new[1:] = place_N[by_place][1:] != place_N[by_place][:-1]
    first = np.flatnonzero(new)[np.cumsum(new) - 1]
    # Fewer documents that are considered leave more that are kept, and so on: it ends.
    while True:
        index = np.flatnonzero(considered)
        same, near = np.zeros((2, len(place_N)), bool)
        for number, key in enumerate(keys()):
            (near if number else same)[index] |= repeated(key[index], document_N[index])
        near &= ~same
        kept = considered & ~same & ~near & ~overlaps_N
        taken = np.where(kept, tokens_N, 0)[by_place]
        before = np.cumsum(taken) - taken
        now = np.zeros(len(place_N), bool)
        now[by_place] = before - before[first] < needed_P[place_N[by_place]]
        if (now == considered).all():
            return Settled(considered, same, near, kept)
        considered = now
