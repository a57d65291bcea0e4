"""Which mixtures cannot be told apart from the best: a simultaneous set.

Differences to the best mixture are paired: all mixtures are scored on the same
windows, which are resampled together. The maximum of the studentised
differences over ALL candidates gives one critical value, so the set holds the
true best with the stated probability however many candidates there are. The
error that is resampled is that of the evaluation text and, once truths exist,
the proxy's own residual, which also contains the repeat noise of the truths.
"""

import dataclasses

import numpy as np

from jaxsim.mixture.evaluation import HALVES, EvaluationSet
from jaxsim.mixture.scores import ProxyScores, domain_sums

BEFORE_TRUTHS = "ties between merges, not yet about training"
AFTER_TRUTHS = "ties, about training"
_DRAWS = 1000
_ENOUGH_DOCUMENTS = 20


@dataclasses.dataclass(frozen=True)
class Residual:
    """How far truths scatter around the proxy, for one objective.

    Attributes:
      deviation: standard deviation of truth minus proxy around their mean
        difference, in the objective's units.
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
      critical: critical value of the maximum statistic.
      unit: what was resampled, 'documents' or 'windows'.
      heading: what the ties are about.
    """

    best: int
    tied: np.ndarray
    difference_M: np.ndarray
    error_M: np.ndarray
    critical: float
    unit: str
    heading: str


def objective(bits_MD: np.ndarray, target_D: np.ndarray) -> np.ndarray:
    """Weighted mean over domains of bits per byte: [M]."""
    used = target_D > 0
    return bits_MD[:, used] @ (target_D[used] / target_D[used].sum())


def resampled_objective(
    evaluation: EvaluationSet,
    proxy: ProxyScores,
    half: str,
    target_D: np.ndarray,
    rng: int,
    draws: int = _DRAWS,
) -> tuple[np.ndarray, str]:
    """The objective on resampled evaluation text.

    Within each domain documents are drawn with replacement; if any domain of
    the target has fewer than 20 of them, windows are, which ignores that
    windows of one document are alike. A bootstrap of n draws is too narrow
    for a small n: the draws are widened to a t distribution of n - 1 degrees
    of freedom. From one window nothing can be drawn: its draws are all equal.

    Returns:
      [M, draws] float64, and 'documents' or 'windows'.
    """
    e = evaluation
    here = np.flatnonzero(e.half_R[proxy.rows] == HALVES.index(half))
    rows = proxy.rows[here]
    nll_MR = proxy.nll_MR[:, here].astype(np.float64)
    weights_D = target_D / target_D.sum()
    _, sums = domain_sums(e, proxy, half)
    enough = sums["documents"][target_D > 0] >= _ENOUGH_DOCUMENTS
    unit = "documents" if enough.all() else "windows"
    generator = np.random.default_rng(rng)
    total_MB = np.zeros((len(nll_MR), draws))
    for d in np.flatnonzero(target_D > 0):
        mine = np.flatnonzero(e.domain_R[rows] == d)
        label = e.document_R[rows[mine]] if unit == "documents" else mine
        _, group = np.unique(label, return_inverse=True)
        count = group.max() + 1
        nll_MG = np.zeros((len(nll_MR), count))
        np.add.at(nll_MG.T, group, nll_MR[:, mine].T)
        bytes_G = np.bincount(group, e.bytes_R[rows[mine]], count)
        times_BG = generator.multinomial(
            count, np.full(count, 1 / count), draws
        )
        bits_MB = (nll_MG @ times_BG.T) / (times_BG @ bytes_G) / np.log(2.0)
        point_M1 = nll_MG.sum(1, keepdims=True) / bytes_G.sum() / np.log(2.0)
        wide_B = np.sqrt(count / generator.chisquare(max(count - 1, 1), draws))
        bits_MB = point_M1 + wide_B * (bits_MB - point_M1)
        total_MB += weights_D[d] * bits_MB
    return total_MB, unit


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

    Args:
      value_M: the objective.
      draw_MB: the same on resampled text.
      unit: what was resampled.
      level: the probability that the set is to hold the true best with.
      worth: differences below this share of the best value do not matter.
      residual: if truths exist, of the proxy for this objective.
      rng: of the residual's draws.
    """
    best = int(np.argmin(value_M))
    difference_M = value_M - value_M[best]
    noise_MB = draw_MB - draw_MB[best] - difference_M[:, None]
    variance_M = noise_MB.var(axis=1)
    if residual is not None:
        scatter_MB = _scatter(residual, draw_MB.shape, rng)
        noise_MB = noise_MB + scatter_MB - scatter_MB[best]
        variance_M += 2 * residual.deviation**2
        variance_M[best] = 0.0
    # Twins may differ by rounding, which is no error to be divided by.
    same_M = np.abs(noise_MB).max(axis=1) < 1e-9 * abs(value_M[best])
    error_M = np.where(same_M, 0.0, np.sqrt(variance_M))
    safe_M = np.where(error_M > 0, error_M, np.inf)
    largest_B = (np.abs(noise_MB) / safe_M[:, None]).max(axis=0)
    critical = float(np.quantile(largest_B, level))
    least = max(worth, 1e-9) * abs(value_M[best])
    limit_M = np.maximum(critical * error_M, least)
    tied = np.flatnonzero(difference_M <= limit_M)
    return Ties(
        best=best,
        tied=tied[np.argsort(value_M[tied], kind="stable")],
        difference_M=difference_M,
        error_M=error_M,
        critical=critical,
        unit=unit,
        heading=BEFORE_TRUTHS if residual is None else AFTER_TRUTHS,
    )


def _scatter(
    residual: Residual, shape: tuple[int, int], rng: int
) -> np.ndarray:
    """[M, B] draws of truth minus proxy.

    From few truths the deviation itself is uncertain, and wrong for all
    mixtures alike: one factor for each draw.
    """
    generator = np.random.default_rng(rng)
    freedom = max(residual.truths - 1, 1)
    factor_B = np.sqrt(freedom / generator.chisquare(freedom, shape[1]))
    return residual.deviation * factor_B * generator.standard_normal(shape)
