"""Selects the rows of a scored table to show: the best and the standard."""

import dataclasses

import numpy as np

from jaxsim.scoring.evaluation import SPLITS
from jaxsim.scoring.scores import PredictorScores, Scores
from jaxsim.scoring.targets import Targets
from jaxsim.search.objective import weighted_mean


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """Bits per byte of some mixtures on some targets.

    Attributes:
      rows: indices into the table: the best by the merge on the first target,
        then the standard merges.
      targets: names of domains or of means over domains.
      bits: by predictor, [rows, targets] float64, all on the merge's windows;
        NaN where there is no score.
      windows: the largest number of windows of a domain.
    """

    rows: np.ndarray
    targets: tuple[str, ...]
    bits: dict[str, np.ndarray]
    windows: int


def summarize(scores: Scores, split: str, most: int) -> Summary:
    """Selects at most `most` rows, ranked by the first target.

    The first target is the default of a search: the mean of the out-of-pool
    domains or, if there are none, of all.
    """
    e = scores.evaluation
    known = Targets.of(e, np.ones(len(e.domains), bool))
    names = known.lead("out-of-pool"), *known.firsts, known.lead("in-pool")
    weights = known.weights(e.domains)
    targets = {n: weights[n] for n in names if n is not None}
    merge = scores.predictors["merge"]
    bits = {}
    for name, predictor in scores.predictors.items():
        at = np.flatnonzero(np.isin(predictor.rows, merge.rows))
        same = PredictorScores(predictor.rows[at], predictor.nll_MR[:, at])
        only = dataclasses.replace(scores, predictors={name: same})
        bits_MD = only.bits_per_byte(name, split)
        bits[name] = np.stack(
            [weighted_mean(bits_MD, w_D) for w_D in targets.values()], axis=1
        )
    table = scores.table
    standard = table.standard_merges()
    order = np.argsort(bits["merge"][:, 0], kind="stable")
    best = order.tolist()[: most - len(standard)]
    rows = np.array(list(dict.fromkeys([*best, *standard])))
    here = merge.rows[e.split_R[merge.rows] == SPLITS.index(split)]
    return Summary(
        rows=rows,
        targets=tuple(targets),
        bits={name: bits_MG[rows] for name, bits_MG in bits.items()},
        windows=int(np.bincount(e.domain_R[here]).max()),
    )
