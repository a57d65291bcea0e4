"""An objective on resampled evaluation text: what its error is drawn from.

Within each domain documents are drawn with replacement, the same ones for all
mixtures, so that what is common to mixtures cancels in their differences.
"""

import dataclasses
from typing import Protocol

import numpy as np

from jaxsim.errors import UserError
from jaxsim.mixture.evaluation import HALVES, EvaluationSet

DRAWS = 1000
# Windows of one document are alike: drawn instead of 8 documents they held the
# true best half of the time at a level of 90 %, documents 98 %, and from 5 on
# never less than that (`benchmarks/ties.py`).
ENOUGH_DOCUMENTS = 5
_BLOCK_NUMBERS = 4_000_000  # of [mixtures, draws, domains]: 32 MB at a time


class Value(Protocol):
    """What is to be small: a function of the domains' bits per byte."""

    @property
    def needed_D(self) -> np.ndarray:
        """[D] bool: domains whose bits matter."""

    def value(self, bits_MD: np.ndarray) -> np.ndarray:
        """The objective [M]; domains that are not needed hold NaN."""


@dataclasses.dataclass(frozen=True)
class _Domain:
    """How G documents or windows of one domain are drawn in B draws.

    Attributes:
      index: of the domain.
      columns: of the losses, sorted by document or window.
      starts_G: where each begins in `columns`.
      scale_R: what a column counts for.
      bytes_G: of each, scaled.
      times_GB: how often each is drawn.
      wide_B: by what a draw's distance is multiplied.
    """

    index: int
    columns: np.ndarray
    starts_G: np.ndarray
    scale_R: np.ndarray
    bytes_G: np.ndarray
    times_GB: np.ndarray
    wide_B: np.ndarray

    def bits(self, nll_KR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bits per byte as observed [K], and in every draw [K, B]."""
        nll_KR = nll_KR[:, self.columns] * self.scale_R
        nll_KG = np.add.reduceat(nll_KR, self.starts_G, axis=1)
        point_K = nll_KG.sum(axis=1) / (self.bytes_G.sum() * np.log(2.0))
        bits_KB = nll_KG @ self.times_GB
        bits_KB /= (self.bytes_G @ self.times_GB) * np.log(2.0)
        bits_KB -= point_K[:, None]
        bits_KB *= self.wide_B
        bits_KB += point_K[:, None]
        return point_K, bits_KB


def resampled(
    evaluation: EvaluationSet,
    rows: np.ndarray,
    nll_MR: np.ndarray,
    half: str,
    objective: Value,
    rng: int,
    draws: int = DRAWS,
    whole: np.ndarray | None = None,
    enough: int = ENOUGH_DOCUMENTS,
    seed: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, str]:
    """The objective as observed, and on resampled text.

    If a needed domain has too few documents, windows are drawn, which ignores
    that windows of one document are alike: it says how much other windows of
    these documents would differ, not other documents. A bootstrap of n draws is
    too narrow for a small n: the draws are widened to a t distribution of
    n - 1 degrees of freedom. From one window nothing can be drawn: its draws
    are all equal. Memory beyond the result is bounded, whatever M.

    Args:
      evaluation: what `rows` index.
      rows: windows that were scored, in the order of `nll_MR`.
      nll_MR: nats of M mixtures on them.
      half: windows of the other half take no part.
      objective: `value` is applied to every draw.
      rng: of the draws; the same text is drawn for all mixtures.
      draws: how many.
      whole: windows that `rows` are a share of. Then a document counts with
        all the bytes it has there, however few of its windows were scored,
        so that shares of the text estimate the same as all of it.
      enough: how many documents every needed domain must have.
      seed: the seed's nats on `rows`, and the bits per byte [D] that the
        objective has of it. An objective that measures against the seed is
        then drawn against the seed on the same text. Where it does not, only
        what all mixtures have in common changes.

    Returns:
      value_M, draw_MB, and what was drawn: 'documents' or 'windows'.

    Raises:
      UserError: a needed domain has no window.
    """
    domains, unit = _plan(
        evaluation, rows, half, objective.needed_D, rng, draws, whole, enough
    )
    count, wide = len(nll_MR), len(evaluation.domains)
    value_M, draw_MB = np.empty(count), np.empty((count, draws))
    block = max(_BLOCK_NUMBERS // (draws * wide), 1)
    shift_D, shift_BD = _against(domains, seed, draws, wide)
    for start in range(0, count, block):
        here = slice(start, start + block)
        nll_KR = nll_MR[here].astype(np.float64)
        bits_KD = np.full((len(nll_KR), wide), np.nan)
        bits_KBD = np.full((len(nll_KR), draws, wide), np.nan)
        for domain in domains:
            found = domain.bits(nll_KR)
            bits_KD[:, domain.index], bits_KBD[:, :, domain.index] = found
        bits_KD += shift_D
        bits_KBD += shift_BD
        value_M[here] = objective.value(bits_KD)
        drawn = objective.value(bits_KBD.reshape(-1, wide))
        draw_MB[here] = drawn.reshape(len(nll_KR), draws)
    return value_M, draw_MB, unit


def _against(
    domains: list[_Domain],
    seed: tuple[np.ndarray, np.ndarray] | None,
    draws: int,
    wide: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What bits per byte [D] and [B, D] lack to be against the seed's own."""
    shift_D, shift_BD = np.zeros(wide), np.zeros((draws, wide))
    if seed is not None:
        nll_R, seed_D = seed
        for domain in domains:
            d = domain.index
            point_1, bits_1B = domain.bits(nll_R[None].astype(np.float64))
            shift_D[d] = seed_D[d] - point_1[0]
            shift_BD[:, d] = seed_D[d] - bits_1B[0]
    return shift_D, shift_BD


def _plan(
    evaluation: EvaluationSet,
    rows: np.ndarray,
    half: str,
    needed_D: np.ndarray,
    rng: int,
    draws: int,
    whole: np.ndarray | None,
    enough: int,
) -> tuple[list[_Domain], str]:
    """What is drawn, of the needed domains."""
    e = evaluation
    here = np.flatnonzero(e.half_R[rows] == HALVES.index(half))
    rows = rows[here]
    scale_R = np.ones(len(rows))
    if whole is not None:
        whole = whole[e.half_R[whole] == HALVES.index(half)]
        seen_E, whole_E = (
            np.bincount(e.document_R[r], e.bytes_R[r], len(e.documents))
            for r in (rows, whole)
        )
        document_R = e.document_R[rows]
        scale_R = whole_E[document_R] / np.maximum(seen_E[document_R], 1)
    needed = np.flatnonzero(needed_D)
    mine = [np.flatnonzero(e.domain_R[rows] == d) for d in needed]
    for d, places in zip(needed, mine, strict=True):
        if not len(places):
            raise UserError(
                f"domain {e.domains[d]!r} has no {half} window that was "
                "scored; leave it out of the objective"
            )
    many = all(
        len(np.unique(e.document_R[rows[places]])) >= enough for places in mine
    )
    generator = np.random.default_rng(rng)
    domains = []
    for d, places in zip(needed, mine, strict=True):
        label = e.document_R[rows[places]] if many else places
        places = places[np.argsort(label, kind="stable")]
        starts_G = np.unique(np.sort(label), return_index=True)[1]
        count = len(starts_G)
        drawn_BG = generator.integers(count, size=(draws, count))
        drawn_BG += count * np.arange(draws)[:, None]
        times_BG = np.bincount(drawn_BG.ravel(), minlength=draws * count)
        freedom = max(count - 1, 1)
        bytes_R = e.bytes_R[rows[places]] * scale_R[places]
        domains.append(
            _Domain(
                index=int(d),
                columns=here[places],
                starts_G=starts_G,
                scale_R=scale_R[places],
                bytes_G=np.add.reduceat(bytes_R, starts_G),
                times_GB=times_BG.reshape(draws, count).T.astype(np.float64),
                wide_B=np.sqrt(count / generator.chisquare(freedom, draws)),
            )
        )
    return domains, "documents" if many else "windows"
