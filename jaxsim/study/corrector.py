"""A calibration as searches use it: on whatever windows they look at."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxsim.mixture.scores import ProxyScores, Scores, bits_of
from jaxsim.study.calibration import Calibration


@dataclasses.dataclass(frozen=True)
class Corrector:
    """A `jaxsim.search.correction.Correction` from truths.

    Attributes:
      calibration: of all D domains of the evaluation set; those without
        truths are not corrected.
      references: scores with a row for each member, on every window.
      own_DC: bool, the units of each in-pool domain's own partition.
    """

    calibration: Calibration
    references: Scores
    own_DC: np.ndarray
    _members: dict[bytes, np.ndarray] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def shift(
        self, w_MC: np.ndarray, bits_MD: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """[M, D] to add to merges of these bits per byte on `rows`."""
        return self.calibration.correction(
            w_MC, self.own_DC, bits_MD, self._member_CD(rows)
        )

    def slope(
        self, w_C: np.ndarray, bits_DC: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """[D, C] derivatives of the shift."""
        return self.calibration.slope(
            w_C, self.own_DC, bits_DC, self._member_CD(rows)
        )

    def _member_CD(self, rows: np.ndarray) -> np.ndarray:
        """Bits per byte of the members on these windows, of one half."""
        key = rows.tobytes()
        if key not in self._members:
            e, table = self.references.evaluation, self.references.table
            half = ("select", "report")[int(e.half_R[rows[0]])]
            merge = self.references.proxies["merge"]
            column_R = np.searchsorted(merge.rows, rows)
            row_of = {name: m for m, name in enumerate(table.names)}
            bits_CD = np.full((len(table.members), len(e.domains)), np.nan)
            for c, name in enumerate(table.members):
                if name in row_of:  # a damaged one has no row
                    nll_1R = merge.nll_MR[row_of[name]][None, column_R]
                    bits_CD[c] = bits_of(e, ProxyScores(rows, nll_1R), half)[0]
            self._members[key] = bits_CD
        return self._members[key]


def corrector(
    calibration: Calibration,
    references: Scores,
    own: Mapping[str, np.ndarray],
) -> Corrector:
    """Of a calibration over some domains.

    Args:
      calibration: see `Validation.calibrated`.
      references: with a row for each member.
      own: [C] bool by in-pool domain.
    """
    domains = references.evaluation.domains
    c = len(references.table.members)
    coefficients_DK = np.zeros(
        (len(domains), calibration.coefficients_DK.shape[1])
    )
    own_DC = np.zeros((len(domains), c), bool)
    for d, name in enumerate(domains):
        if name in calibration.domains:
            at = calibration.domains.index(name)
            coefficients_DK[d] = calibration.coefficients_DK[at]
        own_DC[d] = own.get(name, False)
    whole = dataclasses.replace(
        calibration, domains=domains, coefficients_DK=coefficients_DK
    )
    return Corrector(whole, references, own_DC)
