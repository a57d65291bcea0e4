"""The scale of merges, fitted on truths.

A truth of several units trains as long as a member but mixes their text, and
may move further, or less far, than the average of members. Each scale here is
a table of merges; the one whose losses lie nearest to the truths wins.
"""

import dataclasses

import numpy as np

from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.table import Mixtures
from jaxsim.study.measured import Measured

SCALES = (0.75, 1.0, 1.25, 1.5, 2.0)
_TABLE, _AT_BEST = "scales", "ratios-scaled"


def scale_of(
    scorer: Scorer,
    fit_table: Mixtures,
    fitted: Measured,
    table: Mixtures,
    windows: int = 0,
) -> tuple[float, np.ndarray]:
    """The best of `SCALES`, and the merges of `table` at it.

    Args:
      scorer: of the workdir.
      fit_table: ratios of the truths that are fitted on.
      fitted: these truths.
      table: ratios of the truths that are judged.
      windows: of each domain and half that the truths were scored on.

    Returns:
      The scale with the least squared error over all domains on select text,
      and bits per byte [M, D] of the merges of `table` on report text.
    """
    grid = Mixtures(
        fit_table.members,
        tuple(f"{n} at {scale:g}" for n in fit_table.names for scale in SCALES),
        ("given",) * (len(fit_table) * len(SCALES)),
        np.repeat(fit_table.w_MC, len(SCALES), axis=0),
        np.tile(SCALES, len(fit_table)),
    )
    scores = scorer.score(_TABLE, grid, "select", windows)
    bits_FSD = scores.bits_per_byte("merge", "select").reshape(
        len(fit_table), len(SCALES), -1
    )
    off_FSD = bits_FSD - fitted.select["truth"][:, None]
    best = SCALES[int(np.argmin(np.nanmean(off_FSD**2, axis=(0, 2))))]
    table = dataclasses.replace(table, scale_M=np.full(len(table), best))
    at_best = scorer.score(_AT_BEST, table, "report", windows)
    return best, at_best.bits_per_byte("merge", "report")
