"""Which mixtures cannot be told apart from the best: a simultaneous set.

All mixtures are scored on the same windows, which are resampled together, so
differences are paired. Mixture i ties unless it was seen so much worse than
the lowest of ALL candidates that chance is no explanation. If i were the true
best, its observed distance to the lowest value would be at most

    max_j (e_i - e_j - d_j),    e: errors,  d_j <= (true j) - (true best),

so i is kept where its distance is at most that variable's quantile, which the
draws give for every i in one pass: the maximum over j is e_i minus the lowest
e_j + d_j of the draw. This inverts a test for each candidate (multiple
comparisons with the best, Hsu 1984), so that nothing is assumed about which
one was selected as the lowest, and needs one quantile for each candidate
instead of one for each pair. Taking d_j = 0 is valid but lets candidates that
are far worse widen the set; d_j is instead a simultaneous lower bound, which
costs a tenth of the error (Romano, Shaikh and Wolf 2014).

A statistic studentised for each pair, with the observed lowest as if it had
been fixed beforehand, does not keep the level: where losses are skewed and
mixtures differ in their error, it selects those with an error that is too
small. `benchmarks/ties.py` shows both.

The errors are those of the evaluation text and, once reference runs exist, the
predictor's own residual, which also contains the repeat noise of the reference runs.
Residuals are drawn independently for every candidate. In reference run those of near
twins are nearly equal, up to repeat noise; independence makes the lowest of many lower
and the distance of twins wider, so the set is too large rather than too small,
and near twins of a tied mixture tie with it.

Errors of the text are drawn by resampling it: within each domain documents with
replacement, the same ones for all mixtures, so that what is common to mixtures
cancels in their differences.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from jaxsim.errors import UserError
from jaxsim.scoring.evaluation import SPLITS, EvaluationSet
from jaxsim.search.objective import Objective

BEFORE_RUNS = "ties between merges, not yet about training"
AFTER_RUNS = "ties, about training"
_BLOCK = 512
_ROUNDING = 1e-9  # relative: by what twins differ
DRAWS = 1000
# Windows of one document are alike: drawn instead of 8 documents they held the
# true best half of the time at a level of 90 %, documents 98 %, and from 5 on
# never less than that (`benchmarks/ties.py`).
ENOUGH_DOCUMENTS = 5
_BLOCK_NUMBERS = 4_000_000  # of [mixtures, draws, domains]: 32 MB at a time


@dataclasses.dataclass(frozen=True)
class Residual:
    """How far reference runs scatter around the predictor, for one objective.

    Attributes:
      deviation: standard deviation of reference run minus prediction, in the
        objective's units.
      reference runs: how many it was measured on.
    """

    deviation: float
    reference_runs: int


@dataclasses.dataclass(frozen=True)
class Ties:
    """The tie set of an objective that is to be small.

    Attributes:
      best: row of the lowest objective.
      tied: rows that cannot be told apart from it, itself among them, sorted
        by objective.
      difference_M: objective minus the best one.
      error_M: standard error of that difference.
      limit_M: the largest difference with which a row ties.
      unit: what was resampled, 'documents' or 'windows'.
      heading: what the ties are about.
    """

    best: int
    tied: np.ndarray
    difference_M: np.ndarray
    error_M: np.ndarray
    limit_M: np.ndarray
    unit: str
    heading: str


def tie_set(
    value_M: np.ndarray,
    draw_MB: np.ndarray,
    unit: str,
    level: float,
    min_effect: float = 0.0,
    residual: Residual | None = None,
    seed: int = 0,
) -> Ties:
    """All that ties with the lowest value.

    Memory beyond the arguments is bounded, whatever M.

    Args:
      value_M: the objective.
      draw_MB: the same on resampled text, see `resampled`.
      unit: what was resampled.
      level: the probability that the set is to hold the true best with. The
        true best is that of the M rows: of the merges over all text of these
        domains or, with a residual, of the reference runs.
      min_effect: differences below this share of the best value do not matter.
      residual: if reference runs exist, of the predictor for this objective.
      seed: of the residual's draws.
    """
    noise = _Noise(value_M, draw_MB, residual, seed)
    best = int(np.argmin(value_M))
    difference_M = value_M - value_M[best]
    best_B = noise.row(best)
    spent = (1 - level) / 10
    error_M = np.zeros(len(value_M))
    largest_B = np.zeros(draw_MB.shape[1])
    for here, text_KB, noise_KB in noise.blocks():
        off_KB = noise_KB - best_B
        error_K = off_KB.std(axis=1)
        if residual is not None:
            others_K = np.arange(len(value_M))[here] != best
            error_K = np.hypot(
                (text_KB - noise.text(best)).std(axis=1),
                np.sqrt(2) * residual.deviation * others_K,
            )
        # Twins may differ by rounding, which is no error to be divided by.
        twins_K = np.abs(off_KB).max(axis=1) < _ROUNDING * abs(value_M[best])
        error_M[here] = np.where(twins_K, 0.0, error_K)
        safe_K1 = np.where(twins_K, np.inf, error_K)[:, None]
        # Both sides, though one is needed: cheap, and skewed text is not.
        np.maximum(largest_B, (np.abs(off_KB) / safe_K1).max(axis=0), out=largest_B)
    # What the others are worse than the best by, at the very least.
    surely_M = np.maximum(
        difference_M - np.quantile(largest_B, 1 - spent) * error_M, 0.0
    )
    lowest_B = np.full(draw_MB.shape[1], np.inf)
    for here, _, noise_KB in noise.blocks():
        noise_KB += surely_M[here, None]
        np.minimum(lowest_B, noise_KB.min(axis=0), out=lowest_B)
    limit_M = np.empty(len(value_M))
    for here, _, noise_KB in noise.blocks():
        noise_KB -= lowest_B
        limit_M[here] = np.quantile(noise_KB, level + spent, axis=1)
    least = max(min_effect, _ROUNDING) * abs(value_M[best])
    tied = np.flatnonzero(difference_M <= np.maximum(limit_M, least))
    return Ties(
        best=best,
        tied=tied[np.argsort(value_M[tied], kind="stable")],
        difference_M=difference_M,
        error_M=error_M,
        limit_M=np.maximum(limit_M, least),
        unit=unit,
        heading=BEFORE_RUNS if residual is None else AFTER_RUNS,
    )


class _Noise:
    """Draws of all errors [M, B], made by the block whenever asked for.

    From few reference runs the residual's deviation is itself uncertain, and wrong for
    all mixtures alike: one factor for each draw.
    """

    def __init__(
        self,
        value_M: np.ndarray,
        draw_MB: np.ndarray,
        residual: Residual | None,
        seed: int,
    ) -> None:
        self._value_M, self._draw_MB = value_M, draw_MB
        self._rng = seed
        self._scatter_B = None
        if residual is not None:
            freedom = max(residual.reference_runs - 1, 1)
            square_B = np.random.default_rng(seed).chisquare(freedom, draw_MB.shape[1])
            self._scatter_B = residual.deviation * np.sqrt(freedom / square_B)

    def text(self, row: int) -> np.ndarray:
        """[B] errors of one row from text alone."""
        return self._draw_MB[row] - self._value_M[row]

    def row(self, row: int) -> np.ndarray:
        """[B] errors of one row."""
        return self._block(row // _BLOCK)[2][row % _BLOCK]

    def blocks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Rows, their errors from text alone, and their errors [K, B]."""
        for number in range(-(-len(self._value_M) // _BLOCK)):
            yield self._block(number)

    def _block(self, number: int) -> tuple[slice, np.ndarray, np.ndarray]:
        here = slice(number * _BLOCK, (number + 1) * _BLOCK)
        text_KB = self._draw_MB[here] - self._value_M[here, None]
        if self._scatter_B is None:
            return here, text_KB, text_KB.copy()
        generator = np.random.default_rng([self._rng, number])
        scatter_KB = generator.standard_normal(text_KB.shape)
        scatter_KB *= self._scatter_B
        return here, text_KB, scatter_KB + text_KB


@dataclasses.dataclass(frozen=True)
class _Domain:
    """How G documents or windows of one domain are drawn in B draws.

    Attributes:
      index: of the domain.
      columns: of the losses, sorted by document or window.
      starts_G: where each begins in `columns`.
      bytes_G: of each.
      times_GB: how often each is drawn.
      wide_B: by what a draw's distance is multiplied.
    """

    index: int
    columns: np.ndarray
    starts_G: np.ndarray
    bytes_G: np.ndarray
    times_GB: np.ndarray
    wide_B: np.ndarray

    def bits(self, nll_KR: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bits per byte as observed [K], and in every draw [K, B]."""
        nll_KG = np.add.reduceat(nll_KR[:, self.columns], self.starts_G, axis=1)
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
    split: str,
    objective: Objective,
    seed: int,
    draws: int = DRAWS,
    enough: int = ENOUGH_DOCUMENTS,
    base: tuple[np.ndarray, np.ndarray] | None = None,
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
      split: windows of the other half take no part.
      objective: `value` is applied to every draw.
      seed: of the draws; the same text is drawn for all mixtures.
      draws: how many.
      enough: how many documents every needed domain must have.
      base model: the base model's nats on `rows`, and the bits per byte [D] that the
        objective has of it. An objective that measures against the base model is
        then drawn against the base model on the same text. Where it does not, only
        what all mixtures have in common changes.

    Returns:
      value_M, draw_MB, and what was drawn: 'documents' or 'windows'.

    Raises:
      UserError: a needed domain has no window.
    """
    domains, unit = _plan(
        evaluation, rows, split, objective.needed_D, seed, draws, enough
    )
    count, wide = len(nll_MR), len(evaluation.domains)
    value_M, draw_MB = np.empty(count), np.empty((count, draws))
    block = max(_BLOCK_NUMBERS // (draws * wide), 1)
    shift_D, shift_BD = _against(domains, base, draws, wide)
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
    base: tuple[np.ndarray, np.ndarray] | None,
    draws: int,
    wide: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What bits per byte [D] and [B, D] lack to be against the base model's own."""
    shift_D, shift_BD = np.zeros(wide), np.zeros((draws, wide))
    if base is not None:
        nll_R, base_D = base
        for domain in domains:
            d = domain.index
            point_1, bits_1B = domain.bits(nll_R[None].astype(np.float64))
            shift_D[d] = base_D[d] - point_1[0]
            shift_BD[:, d] = base_D[d] - bits_1B[0]
    return shift_D, shift_BD


def _plan(
    evaluation: EvaluationSet,
    rows: np.ndarray,
    split: str,
    needed_D: np.ndarray,
    seed: int,
    draws: int,
    enough: int,
) -> tuple[list[_Domain], str]:
    """What is drawn, of the needed domains."""
    e = evaluation
    here = np.flatnonzero(e.split_R[rows] == SPLITS.index(split))
    rows = rows[here]
    needed = np.flatnonzero(needed_D)
    mine = [np.flatnonzero(e.domain_R[rows] == d) for d in needed]
    for d, places in zip(needed, mine, strict=True):
        if not len(places):
            raise UserError(
                f"domain {e.domains[d]!r} has no {split} window that was "
                "scored; leave it out of the objective"
            )
    many = all(len(np.unique(e.document_R[rows[places]])) >= enough for places in mine)
    generator = np.random.default_rng(seed)
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
        bytes_R = e.bytes_R[rows[places]].astype(np.float64)
        domains.append(
            _Domain(
                index=int(d),
                columns=here[places],
                starts_G=starts_G,
                bytes_G=np.add.reduceat(bytes_R, starts_G),
                times_GB=times_BG.reshape(draws, count).T.astype(np.float64),
                wide_B=np.sqrt(count / generator.chisquare(freedom, draws)),
            )
        )
    return domains, "documents" if many else "windows"
