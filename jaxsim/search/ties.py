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

The errors are those of the evaluation text and, once truths exist, the proxy's
own residual, which also contains the repeat noise of the truths. Residuals are
drawn independently for every candidate. In truth those of near twins are
nearly equal, up to repeat noise; independence makes the lowest of many lower
and the distance of twins wider, so the set is too large rather than too small,
and near twins of a tied mixture tie with it.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

BEFORE_TRUTHS = "ties between merges, not yet about training"
AFTER_TRUTHS = "ties, about training"
_BLOCK = 512
_ROUNDING = 1e-9  # relative: by what twins differ


@dataclasses.dataclass(frozen=True)
class Residual:
    """How far truths scatter around the proxy, for one objective.

    Attributes:
      deviation: standard deviation of truth minus prediction, in the
        objective's units.
      truths: how many it was measured on.
    """

    deviation: float
    truths: int


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
      more_M: how many times as much text (of the unit) would bring the limit
        down to the difference, if the difference stays; inf where none would:
        the residual remains, or the difference is not worth it.
      unit: what was resampled, 'documents' or 'windows'.
      heading: what the ties are about.
    """

    best: int
    tied: np.ndarray
    difference_M: np.ndarray
    error_M: np.ndarray
    limit_M: np.ndarray
    more_M: np.ndarray
    unit: str
    heading: str


def tie_set(
    value_M: np.ndarray,
    draw_MB: np.ndarray,
    unit: str,
    level: float,
    worth: float = 0.0,
    residual: Residual | None = None,
    rng: int = 0,
) -> Ties:
    """All that ties with the lowest value.

    Memory beyond the arguments is bounded, whatever M.

    Args:
      value_M: the objective.
      draw_MB: the same on resampled text, see `resampled`.
      unit: what was resampled.
      level: the probability that the set is to hold the true best with. The
        true best is that of the M rows: of the merges over all text of these
        domains or, with a residual, of the truths.
      worth: differences below this share of the best value do not matter.
      residual: if truths exist, of the proxy for this objective.
      rng: of the residual's draws.
    """
    noise = _Noise(value_M, draw_MB, residual, rng)
    best = int(np.argmin(value_M))
    difference_M = value_M - value_M[best]
    best_B = noise.row(best)
    spent = (1 - level) / 10
    text_M, error_M = np.zeros((2, len(value_M)))
    largest_B = np.zeros(draw_MB.shape[1])
    for here, text_KB, noise_KB in noise.blocks():
        off_KB = noise_KB - best_B
        text_M[here] = (text_KB - noise.text(best)).std(axis=1)
        error_K = off_KB.std(axis=1)
        if residual is not None:
            others_K = np.arange(len(value_M))[here] != best
            error_K = np.hypot(
                text_M[here], np.sqrt(2) * residual.deviation * others_K
            )
        # Twins may differ by rounding, which is no error to be divided by.
        twins_K = np.abs(off_KB).max(axis=1) < _ROUNDING * abs(value_M[best])
        error_M[here] = np.where(twins_K, 0.0, error_K)
        safe_K1 = np.where(twins_K, np.inf, error_K)[:, None]
        # Both sides, though one is needed: cheap, and skewed text is not.
        np.maximum(
            largest_B, (np.abs(off_KB) / safe_K1).max(axis=0), out=largest_B
        )
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
    least = max(worth, _ROUNDING) * abs(value_M[best])
    tied = np.flatnonzero(difference_M <= np.maximum(limit_M, least))
    return Ties(
        best=best,
        tied=tied[np.argsort(value_M[tied], kind="stable")],
        difference_M=difference_M,
        error_M=error_M,
        limit_M=np.maximum(limit_M, least),
        more_M=_more(difference_M, text_M, error_M, limit_M, least),
        unit=unit,
        heading=BEFORE_TRUTHS if residual is None else AFTER_TRUTHS,
    )


class _Noise:
    """Draws of all errors [M, B], made by the block whenever asked for.

    From few truths the residual's deviation is itself uncertain, and wrong for
    all mixtures alike: one factor for each draw.
    """

    def __init__(
        self,
        value_M: np.ndarray,
        draw_MB: np.ndarray,
        residual: Residual | None,
        rng: int,
    ) -> None:
        self._value_M, self._draw_MB = value_M, draw_MB
        self._rng = rng
        self._scatter_B = None
        if residual is not None:
            freedom = max(residual.truths - 1, 1)
            square_B = np.random.default_rng(rng).chisquare(
                freedom, draw_MB.shape[1]
            )
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


def _more(
    difference_M: np.ndarray,
    text_M: np.ndarray,
    error_M: np.ndarray,
    limit_M: np.ndarray,
    least: float,
) -> np.ndarray:
    """Times as much text at which the limit is the difference: [M].

    The text's part of the variance falls with the text, the residual's stays.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        critical_M = limit_M / error_M
        stays_M = error_M**2 - text_M**2
        room_M = (difference_M / critical_M) ** 2 - stays_M
        more_M = text_M**2 / room_M
    possible_M = (room_M > 0) & (difference_M > least)
    return np.where(possible_M, more_M, np.inf)
