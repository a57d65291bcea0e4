"""Which mixtures cannot be told apart from the best: a simultaneous set.

It inverts a test for each candidate (multiple comparisons with the best, Hsu 1984), on
differences that are paired, because all mixtures are scored on the same windows.
docs/search.md derives it; `benchmarks/ties.py` measures its level.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxsim.scoring.evaluation import SPLITS, EvaluationSet
from jaxsim.scoring.scores import bits_per_byte
from jaxsim.search.objective import Objective

BEFORE_RUNS = "ties between merges, not yet about training"
AFTER_RUNS = "ties, about training"
_BLOCK = 512
_ROUNDING = 1e-9  # relative difference between twins
DRAWS = 1000
# Windows of one document are alike. With 8 documents and a level of 90 %, resampling
# windows kept the true best half of the time, resampling documents 98 %; from 5
# documents on, never less than that (`benchmarks/ties.py`).
ENOUGH_DOCUMENTS = 5
_BLOCK_NUMBERS = 4_000_000  # of [mixtures, draws, domains]: 32 MB at a time


@dataclasses.dataclass(frozen=True)
class Residual:
    """How far reference runs scatter around a predictor, for one objective."""

    deviation: float  # of reference run minus prediction, in the objective's units
    reference_runs: int  # how many it was measured on


@dataclasses.dataclass(frozen=True)
class Ties:
    """The rows that cannot be told apart from the lowest objective's."""

    tied: np.ndarray  # these rows and the lowest itself, sorted by objective
    difference_M: np.ndarray  # objective minus the lowest one
    error_M: np.ndarray  # standard error of that difference
    limit_M: np.ndarray  # the largest difference with which a row ties
    heading: str  # what the ties are about


def scatter(residual: Residual, draws: int, seed: int) -> np.ndarray:
    """Deviations [B] that the observed one may stand for.

    From few reference runs it is itself uncertain, and wrong for all mixtures alike:
    one factor per draw.
    """
    freedom = max(residual.reference_runs - 1, 1)
    square_B = np.random.default_rng(seed).chisquare(freedom, draws)
    return np.asarray(residual.deviation * np.sqrt(freedom / square_B))


def tie_set(
    value_M: np.ndarray,
    draw_MB: np.ndarray,
    level: float,
    min_effect: float = 0.0,
    residual: Residual | None = None,
    seed: int = 0,
) -> Ties:
    """All mixtures that tie with the lowest value.

    Memory beyond the arguments is bounded, whatever M.

    Args:
      value_M: the objective.
      draw_MB: the same on text that `resampled` draws.
      level: the probability with which the set is to hold the true best of the M rows:
        of the merges over all text of these domains or, with a residual, of the
        reference runs.
      min_effect: differences below this share of the best value do not matter.
      residual: of the predictor for this objective, if reference runs exist.
      seed: random seed of the residual's draws.
    """
    scatter_B = np.zeros(draw_MB.shape[1])
    if residual is not None:
        scatter_B = scatter(residual, len(scatter_B), seed)

    def errors(number: int) -> tuple[slice, np.ndarray]:
        """Rows of a block, and their errors [K, B]."""
        here = slice(number * _BLOCK, (number + 1) * _BLOCK)
        noise_KB = draw_MB[here] - value_M[here, None]
        if residual is not None:
            generator = np.random.default_rng([seed, number])
            noise_KB += scatter_B * generator.standard_normal(noise_KB.shape)
        return here, noise_KB

    blocks = range(-(-len(value_M) // _BLOCK))
    best = int(np.argmin(value_M))
    difference_M = value_M - value_M[best]
    best_B = errors(best // _BLOCK)[1][best % _BLOCK]
    spent = (1 - level) / 10
    error_M = np.zeros(len(value_M))
    largest_B = np.zeros(draw_MB.shape[1])
    for here, noise_KB in map(errors, blocks):
        off_KB = noise_KB - best_B
        error_K = off_KB.std(axis=1)
        if residual is not None:
            text_KB = draw_MB[here] - value_M[here, None]
            text_KB -= draw_MB[best] - value_M[best]
            others_K = np.arange(len(value_M))[here] != best
            error_K = np.hypot(
                text_KB.std(axis=1), np.sqrt(2) * residual.deviation * others_K
            )
        # Twins may differ by rounding, which is no error to divide by.
        twins_K = np.abs(off_KB).max(axis=1) < _ROUNDING * abs(value_M[best])
        error_M[here] = np.where(twins_K, 0.0, error_K)
        safe_K1 = np.where(twins_K, np.inf, error_K)[:, None]
        # Both sides, though one is enough: it is cheap, and text is skewed.
        np.maximum(largest_B, (np.abs(off_KB) / safe_K1).max(axis=0), out=largest_B)
    # By how much the others are worse than the best, at the very least.
    most = np.quantile(largest_B, 1 - spent)
    surely_M = np.maximum(difference_M - most * error_M, 0.0)
    lowest_B = np.full(draw_MB.shape[1], np.inf)
    for here, noise_KB in map(errors, blocks):
        noise_KB += surely_M[here, None]
        np.minimum(lowest_B, noise_KB.min(axis=0), out=lowest_B)
    limit_M = np.empty(len(value_M))
    for here, noise_KB in map(errors, blocks):
        noise_KB -= lowest_B
        limit_M[here] = np.quantile(noise_KB, level + spent, axis=1)
    least = max(min_effect, _ROUNDING) * abs(value_M[best])
    limit_M = np.maximum(limit_M, least)
    tied = np.flatnonzero(difference_M <= limit_M)
    tied = tied[np.argsort(value_M[tied], kind="stable")]
    heading = BEFORE_RUNS if residual is None else AFTER_RUNS
    return Ties(tied, difference_M, error_M, limit_M, heading)


def _resampler(
    columns: np.ndarray,
    label_R: np.ndarray,
    bytes_R: np.ndarray,
    weight_R: np.ndarray,
    draws: int,
    generator: np.random.Generator,
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Draws B times from the windows of one domain, which are in `columns` of losses.

    Windows with the same label are drawn together, and a byte counts with its weight.
    Returns a function from losses to bits per byte as observed [K], and in every draw
    [K, B].
    """
    order = np.argsort(label_R, kind="stable")
    columns, weight_R = columns[order], weight_R[order]
    starts_G = np.unique(label_R[order], return_index=True)[1]
    g = len(starts_G)
    drawn_BG = generator.integers(g, size=(draws, g))
    drawn_BG += g * np.arange(draws)[:, None]
    times_BG = np.bincount(drawn_BG.ravel(), minlength=draws * g).reshape(draws, g)
    times_GB = times_BG.T.astype(np.float64)
    bytes_G = np.add.reduceat(weight_R * bytes_R[order], starts_G)
    # Of each draw's distance from the observed value.
    wide_B = np.sqrt(g / generator.chisquare(max(g - 1, 1), draws))

    def bits(nll_KR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nll_KG = np.add.reduceat(weight_R * nll_KR[:, columns], starts_G, axis=1)
        point_K = bits_per_byte(nll_KG.sum(axis=1), bytes_G.sum())
        bits_KB = bits_per_byte(nll_KG @ times_GB, bytes_G @ times_GB)
        bits_KB -= point_K[:, None]
        bits_KB *= wide_B
        bits_KB += point_K[:, None]
        return point_K, bits_KB

    return bits


def resampled(
    evaluation: EvaluationSet,
    rows: np.ndarray,
    nll_MR: np.ndarray,
    objective: Objective,
    seed: int,
    draws: int = DRAWS,
    enough: int = ENOUGH_DOCUMENTS,
    base_R: np.ndarray | None = None,
    split: str = "dev",
) -> tuple[np.ndarray, np.ndarray, str]:
    """The objective as observed, and on resampled text.

    If a needed domain has too few documents, windows are resampled: that says how much
    other windows of these documents would differ, not other documents. A bootstrap of
    few units is too narrow, so the draws of n are widened to a t distribution with
    n - 1 degrees of freedom. Memory beyond the result is bounded, whatever M.

    Args:
      evaluation: what `rows` index.
      rows: windows that were scored, in the order of `nll_MR`. Those of the other
        split are ignored.
      nll_MR: nats of M mixtures on them.
      objective: its `value` is applied to every draw.
      seed: random seed; all mixtures get the same text.
      draws: how many.
      enough: how many documents every needed domain must have.
      base_R: the base model's nats on `rows`. Draws are then relative to the base
        model on the same text, which matters to an objective that is relative to it.
      split: of the text that counts.

    Returns:
      value_M, draw_MB, and what was resampled: 'documents' or 'windows'.

    Raises:
      UserError: a needed domain has no window.
    """
    e, count, wide = evaluation, len(nll_MR), len(evaluation.domains)
    here_R = e.split_R[rows] == SPLITS.index(split)
    columns_of = {
        d: np.flatnonzero(here_R & (e.domain_R[rows] == d))
        for d in np.flatnonzero(objective.needed_D)
    }
    objective.check_text(np.isin(range(wide), e.domain_R[rows[here_R]]))
    documents_of = {d: e.document_R[rows[x]] for d, x in columns_of.items()}
    many = all(len(np.unique(x)) >= enough for x in documents_of.values())
    generator = np.random.default_rng(seed)
    bits_of_domain = {}
    for d, columns in columns_of.items():
        label_R = documents_of[d] if many else columns
        text = e.bytes_R[rows[columns]], e.weight_R[rows[columns]]
        bits_of_domain[d] = _resampler(columns, label_R, *text, draws, generator)
    # What bits per byte lack to be relative to the base model's own.
    shift_D, shift_BD = np.zeros(wide), np.zeros((draws, wide))
    if base_R is not None:
        for d, bits in bits_of_domain.items():
            point_1, bits_1B = bits(base_R[None].astype(np.float64))
            shift_D[d] = objective.base_D[d] - point_1[0]
            shift_BD[:, d] = objective.base_D[d] - bits_1B[0]
    value_M, draw_MB = np.empty(count), np.empty((count, draws))
    block = max(_BLOCK_NUMBERS // (draws * wide), 1)
    for start in range(0, count, block):
        here = slice(start, start + block)
        nll_KR = nll_MR[here].astype(np.float64)
        bits_KD = np.full((len(nll_KR), wide), np.nan)
        bits_KBD = np.full((len(nll_KR), draws, wide), np.nan)
        for d, bits in bits_of_domain.items():
            bits_KD[:, d], bits_KBD[:, :, d] = bits(nll_KR)
        bits_KD += shift_D
        bits_KBD += shift_BD
        value_M[here] = objective.value(bits_KD)
        draw_MB[here] = objective.value(bits_KBD.reshape(-1, wide)).reshape(-1, draws)
    return value_M, draw_MB, "documents" if many else "windows"
