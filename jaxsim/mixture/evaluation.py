"""The windows that scores are computed on, of all domains and both halves."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from jaxsim.corpus import Corpus
from jaxsim.corpus.order import shares

HALVES = ("select", "report")


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Every evaluation window of a corpus, in a fixed order.

    Attributes:
      tokens_RL1: int32 ids, right-padded.
      first_R, count_R: first scored target, and how many are scored.
      length_R: valid targets; below L in the padded row of a short document.
      domain_R, half_R, document_R: indices into `domains`, `HALVES` and
        `documents`.
      bytes_R: UTF-8 bytes of the scored targets.
      domains: names, in-pool ones first, in the corpus's order.
      in_pool: whether each domain is the held-out text of some partition.
      documents: ids, over all domains.
      digest: of everything here that a score depends on.
    """

    tokens_RL1: np.ndarray
    first_R: np.ndarray
    count_R: np.ndarray
    length_R: np.ndarray
    domain_R: np.ndarray
    half_R: np.ndarray
    document_R: np.ndarray
    bytes_R: np.ndarray
    domains: tuple[str, ...]
    in_pool: tuple[bool, ...]
    documents: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.first_R)

    def rows(self, half: str | None = None, windows: int = 0) -> np.ndarray:
        """Indices of windows, all or of one half.

        Args:
          half: 'select', 'report' or None for both.
          windows: at most so many for each domain and half, 0 for all; at
            least one of every document if there are enough, the others in
            proportion to its length, evenly spaced in it.
        """
        chosen = []
        for d in range(len(self.domains)):
            for h, name in enumerate(HALVES):
                if half not in (None, name):
                    continue
                rows = np.flatnonzero((self.domain_R == d) & (self.half_R == h))
                if windows and windows < len(rows):
                    rows = rows[_spread(self.document_R[rows], windows)]
                chosen.append(rows)
        return np.sort(np.concatenate(chosen))


def gather(corpus: Corpus) -> EvaluationSet:
    """Everything that `corpus` has to evaluate on, checked by digest."""
    parts: dict[str, list[np.ndarray]] = {
        key: []
        for key in (
            "tokens", "first", "count", "length", "domain", "half",
            "document", "bytes",
        )
    }  # fmt: skip
    documents: list[str] = []
    digests = []
    names = sorted(corpus.domains, key=lambda n: not corpus.domains[n].in_pool)
    for d, name in enumerate(names):
        for h, half in enumerate(HALVES):
            rows = corpus.evaluation(name, half)
            count = len(rows.first_scored_R)
            parts["tokens"].append(rows.tokens_RL1)
            parts["first"].append(rows.first_scored_R)
            parts["count"].append(rows.n_scored_R)
            parts["length"].append(rows.length_R)
            parts["domain"].append(np.full(count, d, np.int32))
            parts["half"].append(np.full(count, h, np.int32))
            parts["document"].append(rows.document_R + len(documents))
            parts["bytes"].append(rows.bytes_R)
            documents += rows.ids
            digests.append([name, half, rows.digest])
    whole = {key: np.concatenate(value) for key, value in parts.items()}
    return EvaluationSet(
        tokens_RL1=whole["tokens"],
        first_R=whole["first"],
        count_R=whole["count"],
        length_R=whole["length"],
        domain_R=whole["domain"],
        half_R=whole["half"],
        document_R=whole["document"],
        bytes_R=whole["bytes"],
        domains=tuple(names),
        in_pool=tuple(corpus.domains[n].in_pool for n in names),
        documents=tuple(documents),
        digest=hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
    )


def scored_mask(
    evaluation: EvaluationSet, rows: Sequence[int] | np.ndarray
) -> np.ndarray:
    """[len(rows), L] bool: which targets of these windows are scored."""
    first_R1 = evaluation.first_R[rows][:, None]
    position_L = np.arange(evaluation.tokens_RL1.shape[1] - 1)
    stop_R1 = first_R1 + evaluation.count_R[rows][:, None]
    return (position_L >= first_R1) & (position_L < stop_R1)


def _spread(document_R: np.ndarray, windows: int) -> np.ndarray:
    """Places of `windows` windows, fewer than R, over all documents."""
    starts, count_E = np.unique(
        document_R, return_index=True, return_counts=True
    )[1:]
    if len(starts) > windows:
        kept = _even(len(starts), windows)
        starts, count_E = starts[kept], count_E[kept]
    quota_E = np.ones(len(starts), int)
    if windows > len(starts):
        quota_E += shares(count_E - 1, windows - len(starts))
    places = [
        start + _even(count, quota)
        for start, count, quota in zip(starts, count_E, quota_E, strict=True)
    ]
    return np.concatenate(places)


def _even(size: int, count: int) -> np.ndarray:
    """`count` of the indices below `size`, evenly spaced."""
    return ((np.arange(count) + 0.5) * size / count).astype(int)
