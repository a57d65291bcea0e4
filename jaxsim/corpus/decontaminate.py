"""Takes training text that repeats evaluation text out of the corpus.

Word n-grams are hashed to 64 bits and compared through sorted arrays. A pair
counts as found if one of the two documents has at least a share of its own
n-grams in the other: a training document that is (mostly) evaluation text, or
an evaluation document embedded in a longer training document. Words are taken
without case, punctuation and white space, so re-wrapped copies are found.
Documents of fewer words than n are compared whole.

Everything is a function of the texts; a collision of hashes is the only chance
in it, and one n-gram alone never decides for a document of several.

The older text stays: what an earlier `prepare` gave to training or to the base model
is in members already, and taking it out now would cost them. So a document of
a domain that is newer than the training text it repeats is dropped instead,
and counted as such. Within one `prepare`, evaluation stays and training text
goes.
"""

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from jaxsim.config import CorpusConfig
from jaxsim.corpus.sources import Document
from jaxsim.corpus.split import BASE, Gathered
from jaxsim.errors import UserError
from jaxsim.log import progress

FROZEN = -1  # generation of a base model that no later evaluation can change

# Scripts without spaces: each character is a word, or else a whole sentence
# would be one and copies inside other sentences would not be found.
_WORD = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
    "|[^\\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying loses nothing
_MIX = np.uint64(0xBF58476D1CE4E5B9)


class Fingerprinter:
    """Texts to n-gram hashes; remembers the hash of every word it saw."""

    def __init__(self, words: int):
        self.words = words
        self._hashes: dict[str, int] = {}

    def __call__(self, text: str) -> tuple[str, np.ndarray]:
        """(digest of the normalised text, sorted unique hashes uint64)."""
        normal = unicodedata.normalize("NFKC", text).casefold()
        # A text of nothing but punctuation is one word.
        words = _WORD.findall(normal) or [" ".join(normal.split())]
        whole = " ".join(words).encode("utf-8")
        digest = hashlib.blake2b(whole, digest_size=16).hexdigest()
        known = self._hashes
        for word in set(words).difference(known):
            data = hashlib.blake2b(word.encode("utf-8"), digest_size=8)
            known[word] = int.from_bytes(data.digest())
        hashes = np.array([known[word] for word in words], np.uint64)
        return digest, _grams(hashes, self.words)


def _grams(hashes: np.ndarray, words: int) -> np.ndarray:
    n = min(words, len(hashes))
    count = len(hashes) - n + 1
    total = np.zeros(count, np.uint64)
    for i in range(n):
        total = total * _FACTOR + hashes[i : i + count]
    total ^= total >> np.uint64(31)
    return np.unique(total * _MIX)


@dataclasses.dataclass(frozen=True)
class EvaluationIndex:
    """The n-grams of all evaluation documents, sorted by hash."""

    hashes: np.ndarray  # uint64 [n-grams]
    owners: np.ndarray  # int64 [n-grams], index of the document
    sizes_E: np.ndarray  # int64, unique n-grams of each document


def build_index(documents: Sequence[np.ndarray]) -> EvaluationIndex:
    """From the unique n-gram hashes of each evaluation document."""
    sizes_E = np.array([len(grams) for grams in documents], np.int64)
    owners = np.repeat(np.arange(len(documents)), sizes_E)
    hashes = np.concatenate(list(documents)) if documents else np.zeros(0, np.uint64)
    order = np.argsort(hashes, kind="stable")
    return EvaluationIndex(hashes[order], owners[order], sizes_E)


def find(grams: np.ndarray, index: EvaluationIndex, share: float) -> np.ndarray:
    """Evaluation documents that this training document repeats, or holds.

    Args:
      grams: the unique n-gram hashes of the training document.
      share: of the n-grams of either document, to count as found.
    """
    start = np.searchsorted(index.hashes, grams, "left")
    stop = np.searchsorted(index.hashes, grams, "right")
    counts = stop - start
    if not counts.any():
        return np.zeros(0, np.int64)
    # Positions of all matches: start[i], start[i] + 1, ..., stop[i] - 1.
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    owners = index.owners[np.repeat(start, counts) + within]
    documents, common = np.unique(owners, return_counts=True)
    smaller = np.minimum(len(grams), index.sizes_E[documents])
    return documents[common >= np.maximum(share * smaller, 1)]


@dataclasses.dataclass(frozen=True)
class OverlapReport:
    """Documents taken out.

    `found[partition][domain]` counts training documents (of a partition, or of
    the base model) that repeat the domain, and evaluation documents that repeat
    older training text.
    """

    found: dict[str, dict[str, dict[str, int]]]
    duplicates: dict[str, int]  # of earlier training text, by partition


def decontaminate(
    gathered: Gathered,
    config: CorpusConfig,
    generations: Mapping[str, int],
    frozen_base: list[Document] | None,
) -> OverlapReport:
    """Removes duplicates and overlaps from `gathered`, in place.

    Args:
      generations: the `prepare`, counted from 0, that first saw a partition or
        domain.
      frozen_base: the base model's text, if it is frozen.

    Raises:
      UserError: there is overlap and `corpus.overlap` is 'refuse'.
    """
    fingerprint = Fingerprinter(config.overlap_words)
    places = [
        (domain, split, position)
        for domain, splits in gathered.evaluation.items()
        for split, documents in splits.items()
        for position in range(len(documents))
    ]
    index = build_index(
        [
            fingerprint(gathered.evaluation[domain][split][position].text)[1]
            for domain, split, position in places
        ]
    )
    report = OverlapReport({}, {})
    repeated: set[int] = set()  # evaluation documents to drop

    def clean(
        name: str, documents: list[Document], generation: int, seen: set[str]
    ) -> list[Document]:
        kept = []
        for document in documents:
            digest, grams = fingerprint(document.text)
            if digest in seen:
                report.duplicates[name] = report.duplicates.get(name, 0) + 1
                continue
            seen.add(digest)
            found = find(grams, index, config.overlap_share).tolist()
            older = [e for e in found if generations[places[e][0]] <= generation]
            for domain in dict.fromkeys(places[e][0] for e in older):
                _count(report, name, domain, "training")
            if older:
                continue
            for e in found:
                if e not in repeated:
                    _count(report, name, places[e][0], "evaluation")
            repeated.update(found)
            kept.append(document)
        return kept

    seen_in_base: set[str] = set()
    if frozen_base is not None:
        clean(BASE, frozen_base, FROZEN, seen_in_base)
        report.duplicates.pop(BASE, None)
    for name, documents in gathered.base.items():
        if frozen_base is None:
            gathered.base[name] = clean(BASE, documents, 0, seen_in_base)
    seen: set[str] = set()
    # Older partitions first: of two copies the older one stays.
    names = sorted(gathered.train, key=lambda name: generations[name])
    label = "looking for evaluation text in training text"
    with progress(len(names), label, "partitions") as advance:
        for name in names:
            gathered.train[name] = clean(
                name, gathered.train[name], generations[name], seen
            )
            advance(1)
    if report.found and config.overlap == "refuse":
        raise UserError(
            "corpus.overlap='refuse': training text repeats evaluation text: "
            + "; ".join(
                f"{name!r} and domain {domain!r}: {sum(counts.values())} documents"
                for name, domains in report.found.items()
                for domain, counts in domains.items()
            )
            + ". Remove it, or set corpus.overlap='drop'"
        )
    gone = {places[e] for e in repeated}
    for domain, splits in gathered.evaluation.items():
        for split, documents in splits.items():
            splits[split] = [
                document
                for position, document in enumerate(documents)
                if (domain, split, position) not in gone
            ]
    return report


def _count(report: OverlapReport, name: str, domain: str, side: str) -> None:
    counts = report.found.setdefault(name, {}).setdefault(
        domain, {"training": 0, "evaluation": 0}
    )
    counts[side] += 1
