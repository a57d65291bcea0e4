"""Removes training text that repeats evaluation text.

Word n-grams are hashed to 64 bits and looked up in sorted arrays. Two documents
overlap if one of them has at least a given share of its n-grams in the other: the
training document is mostly evaluation text, or contains an evaluation document.
Case, punctuation and white space do not count, so re-wrapped copies are found.
Documents of fewer than n words are compared whole.

Results depend only on the texts, up to hash collisions, and one n-gram never
decides for a document of several.

The older text stays. Members and base model may already be trained on text of an
earlier `prepare`, so a newer evaluation document that repeats it is dropped, and
counted. Within one `prepare`, evaluation text stays and training text is dropped.
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from jaxsim.config import CorpusConfig
from jaxsim.corpus.documents import Document
from jaxsim.corpus.split import BASE, Gathered
from jaxsim.errors import UserError
from jaxsim.log import counted, progress

# In scripts without spaces each character is a word. Otherwise whole sentences
# would be words, and copies inside other sentences would not be found.
_WORD = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying loses nothing
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def fingerprint(text: str, n: int) -> tuple[str, np.ndarray]:
    """(digest of the normalized text, sorted unique hashes of n-grams, uint64)."""
    normal = unicodedata.normalize("NFKC", text).casefold()
    # A text with only punctuation is one word.
    words = _WORD.findall(normal) or [" ".join(normal.split())]
    whole = " ".join(words).encode("utf-8")
    digest = hashlib.blake2b(whole, digest_size=16).hexdigest()
    hashes = np.array(list(map(_word_hash, words)), np.uint64)
    count = max(1, len(hashes) - n + 1)
    total = np.zeros(count, np.uint64)
    for i in range(len(hashes) - count + 1):
        total = total * _FACTOR + hashes[i : i + count]
    total ^= total >> np.uint64(31)
    return digest, np.unique(total * _MIX)


@functools.lru_cache(1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest())


class EvaluationIndex:
    """The n-grams of all evaluation documents, sorted by hash."""

    def __init__(self, documents: Sequence[np.ndarray]):
        """Takes the unique n-gram hashes of each document."""
        self.sizes_E = np.array([len(grams) for grams in documents], np.int64)
        owners = np.repeat(np.arange(len(documents)), self.sizes_E)
        hashes = np.concatenate([np.zeros(0, np.uint64), *documents])
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.owners = hashes[order], owners[order]

    def find(self, grams: np.ndarray, share: float) -> np.ndarray:
        """The evaluation documents that overlap with one of these n-grams, sorted.

        They have at least `share` of the n-grams of the smaller of the two in common.
        """
        start = np.searchsorted(self.hashes, grams, "left")
        counts = np.searchsorted(self.hashes, grams, "right") - start
        # Positions of all matches: start[i], start[i] + 1, ... (counts[i] of them).
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        owners = self.owners[np.repeat(start, counts) + within]
        documents, common = np.unique(owners, return_counts=True)
        smaller = np.minimum(len(grams), self.sizes_E[documents])
        return documents[common >= np.maximum(share * smaller, 1)]


def decontaminate(
    gathered: Gathered,
    config: CorpusConfig,
    generations: Mapping[str, int],
    frozen_base: list[Document] | None,
) -> None:
    """Removes duplicates and overlaps from `gathered`, in place, and counts them.

    Args:
      generations: the number of the `prepare` that first saw each partition and
        domain, from 0.
      frozen_base: the base text, if it is frozen.

    Raises:
      UserError: there is overlap and `corpus.overlap` is 'refuse'.
    """
    words = config.overlap_words
    evaluation = [
        (domain, document)
        for domain, splits in gathered.evaluation.items()
        for documents in splits.values()
        for document in documents
    ]
    index = EvaluationIndex([fingerprint(d.text, words)[1] for _, d in evaluation])
    repeated: set[int] = set()  # evaluation documents to drop

    def clean(
        name: str, documents: list[Document], generation: int, seen: set[str]
    ) -> list[Document]:
        kept = []
        for document in documents:
            digest, grams = fingerprint(document.text, words)
            if digest in seen:
                gathered.duplicates[name] += 1
                continue
            seen.add(digest)
            found = index.find(grams, config.overlap_share).tolist()
            domains = dict.fromkeys(evaluation[e][0] for e in found)
            older = [d for d in domains if generations[d] <= generation]
            for domain in older:
                gathered.overlap[name][domain]["training"] += 1
            if older:
                continue
            for e in found:
                if e not in repeated:
                    gathered.overlap[name][evaluation[e][0]]["evaluation"] += 1
            repeated.update(found)
            kept.append(document)
        return kept

    seen_in_base: set[str] = set()
    if frozen_base is not None:
        # Generation -1: it is older than all evaluation text.
        clean(BASE, frozen_base, -1, seen_in_base)
        del gathered.duplicates[BASE]
    else:
        for name, documents in gathered.base.items():
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
    if gathered.overlap and config.overlap == "refuse":
        raise UserError(
            "config.corpus.overlap='refuse': training text repeats evaluation text: "
            + "; ".join(
                f"{name!r} and domain {domain!r}: "
                + counted(sum(counts.values()), "document")
                for name, domains in gathered.overlap.items()
                for domain, counts in domains.items()
            )
            + ". Remove it, or set config.corpus.overlap='drop'"
        )
    gone = {id(evaluation[e][1]) for e in repeated}
    for splits in gathered.evaluation.values():
        for split, documents in splits.items():
            splits[split] = [d for d in documents if id(d) not in gone]
