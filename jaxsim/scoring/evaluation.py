"""The windows that scores are computed on, of all domains and both splits."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxsim.corpus import Corpus, EvalWindows
from jaxsim.corpus.order import shares
from jaxsim.corpus.rows import evenly
from jaxsim.corpus.split import SPLITS
from jaxsim.errors import check_known
from jaxsim.pool import Manifest, Pool
from jaxsim.records import Basis, digest, need


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSet(EvalWindows):
    """Every evaluation window of a corpus, in a fixed order.

    Attributes, beside those of `EvalWindows`, where `documents` are those of
    all domains and `digest` is of everything that a score depends on:
      domain_R, split_R: int32, indices into `domains` and `SPLITS`.
      domains: names, in-pool ones first, in the corpus's order.
      in_pool: whether each domain is the held-out text of some partition.
      groups: the group of each domain.
      by_document: whether a domain's loss is the mean over its documents of their bits
        per byte. Otherwise it is the bits of all its text over the bytes of all of it.
    """

    domain_R: np.ndarray
    split_R: np.ndarray
    domains: tuple[str, ...]
    in_pool: tuple[bool, ...]
    groups: tuple[str, ...]
    by_document: tuple[bool, ...]

    @functools.cached_property
    def weight_R(self) -> np.ndarray:
        """What a byte of each window counts in its domain, float64.

        1, or where all documents count alike, 1 over the bytes of the document.
        """
        weight_R = np.ones(len(self))
        if any(self.by_document):
            bytes_E = np.bincount(self.document_R, self.bytes_R)
            here_R = np.array(self.by_document)[self.domain_R]
            weight_R[here_R] /= bytes_E[self.document_R[here_R]]
        return weight_R

    def sums(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Sums over the windows of each domain, every byte with its weight.

        A domain's bits per byte are those of its sum of nats over its sum of bytes.

        Args:
          x: numbers [..., R] of the windows `rows`.
          rows: indices of windows.

        Returns:
          [..., D], float64; 0 for a domain without windows.
        """
        weight_RD = np.eye(len(self.domains))[self.domain_R[rows]]
        weight_RD *= self.weight_R[rows, None]
        sums: np.ndarray = x.astype(np.float64) @ weight_RD
        return sums

    def rows(self, split: str | None = None, windows: int = 0) -> np.ndarray:
        """Indices of windows, all or of one split.

        Args:
          split: 'dev', 'test' or None for both.
          windows: at most so many for each domain and split, 0 for all; at
            least one of every document if there are enough, the others in
            proportion to its length, evenly spaced in it.
        """
        if split is not None:
            check_known("split", split, SPLITS, "the evaluation text")
        need(windows in range(2**31), "a whole number, from 0", windows, "windows")
        chosen = []
        for d in range(len(self.domains)):
            for h, name in enumerate(SPLITS):
                if split not in (None, name):
                    continue
                rows = np.flatnonzero((self.domain_R == d) & (self.split_R == h))
                if windows and windows < len(rows):
                    rows = rows[_spread(self.document_R[rows], windows)]
                chosen.append(rows)
        return np.sort(np.concatenate(chosen))


def gather(corpus: Corpus) -> EvaluationSet:
    """Everything that `corpus` has to evaluate on, checked by digest."""
    names = _domain_names(corpus)
    places = [(d, h) for d in range(len(names)) for h in range(len(SPLITS))]
    parts = [corpus.evaluation(names[d], SPLITS[h]) for d, h in places]
    sizes = [len(part) for part in parts]
    # Documents are counted on from one part to the next.
    counts = [len(part.documents) for part in parts]
    before_R = np.repeat(np.cumsum([0, *counts[:-1]]), sizes)
    whole = {
        field: np.concatenate([getattr(part, field) for part in parts])
        for field in (
            "tokens_RL1", "first_R", "count_R", "length_R", "document_R",
            "bytes_R",
        )
    }  # fmt: skip
    whole["document_R"] = (whole["document_R"] + before_R).astype(np.int32)
    return EvaluationSet(
        **whole,
        documents=tuple(name for part in parts for name in part.documents),
        digest=text_digest(corpus),
        domain_R=np.repeat(np.array([d for d, _ in places], np.int32), sizes),
        split_R=np.repeat(np.array([h for _, h in places], np.int32), sizes),
        domains=tuple(names),
        in_pool=tuple(corpus.domains[n].in_pool for n in names),
        groups=tuple(corpus.domains[n].group for n in names),
        by_document=tuple(corpus.domains[n].by_document for n in names),
    )


def _domain_names(corpus: Corpus) -> list[str]:
    """All domains, in-pool ones first."""
    return sorted(corpus.domains, key=lambda n: not corpus.domains[n].in_pool)


def text_digest(corpus: Corpus) -> str:
    """The digest of `gather(corpus)`, without reading a window."""
    domains = [corpus.domains[name] for name in _domain_names(corpus)]
    return digest(
        [[d.name, d.by_document, s, d.digests[s]] for d in domains for s in SPLITS]
    )


def make_basis(
    corpus: Corpus,
    base: str,
    members: Mapping[str, str],
    others: Mapping[str, str] | None = None,
) -> Basis:
    """The basis of a result; see `Basis` for the digests."""
    units: Iterable[str] = members.keys() & corpus.units.keys()
    about = {f"unit {n}": corpus.units[n] for n in sorted(units)} | {
        f"domain {n}": domain for n, domain in corpus.domains.items()
    }
    return Basis(
        text_digest(corpus),
        {name: digest(dataclasses.asdict(each)) for name, each in about.items()},
        base,
        dict(members),
        dict(others or {}),
    )


def current_basis(
    corpus: Corpus, pool: Pool, entries: Mapping[str, Manifest] | None = None
) -> Basis:
    """What there is now: compare it with the basis of a result."""
    entries = pool.manifests() if entries is None else entries
    members = {
        name: manifest.params_digest
        for name, manifest in entries.items()
        if manifest.kind == "member" and name in corpus.units
    }
    others = {n: m.params_digest for n, m in entries.items() if n not in members}
    return make_basis(corpus, pool.identity["base_digest"], members, others)


def gaps(corpus: Corpus, members: Iterable[str]) -> list[str]:
    """How the members of a pool differ from the units of its corpus, in words."""
    units, there, lines = set(corpus.units), set(members), list[str]()
    if missing := sorted(units - there):
        lines.append(
            f"INCOMPLETE: {len(missing)} of {len(units)} units have no member "
            f"({'; '.join(missing)}), and mixtures are of the others; run `jaxsim "
            "train`"
        )
    if extra := sorted(there - units):
        lines.append(
            f"LEFT OUT: {len(extra)} of {len(there)} members are of no unit of the "
            f"corpus ({'; '.join(extra)}); restore their partitions in the config and "
            "run `jaxsim prepare`, or delete their folders in pool/members"
        )
    return lines


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
    starts, count_E = np.unique(document_R, return_index=True, return_counts=True)[1:]
    if len(starts) > windows:
        kept = evenly(len(starts), windows)
        starts, count_E = starts[kept], count_E[kept]
    quota_E = np.ones(len(starts), int)
    if windows > len(starts):
        quota_E += shares(count_E - 1, windows - len(starts))
    places = [
        start + evenly(count, quota)
        for start, count, quota in zip(starts, count_E, quota_E, strict=True)
    ]
    return np.concatenate(places)
