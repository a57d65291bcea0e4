"""A calibration as searches use it: on whatever windows they look at."""

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxsim.mixture.evaluation import HALVES
from jaxsim.mixture.probability import ProbabilitySlope
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.scores import bits_of
from jaxsim.study.calibration import Calibration


class Corrector:
    """A `jaxsim.search.correction.Correction` from truths.

    Domains without truths are not corrected.

    Args:
      calibration: of some domains.
      scorer: of the workdir.
    """

    def __init__(self, calibration: Calibration, scorer: Scorer) -> None:
        self._scorer = scorer
        evaluation, units = scorer.evaluation, scorer.corpus.units
        k = calibration.coefficients_DK.shape[1]
        coefficients_DK = np.zeros((len(evaluation.domains), k))
        for d, name in enumerate(evaluation.domains):
            if name in calibration.domains:
                at = calibration.domains.index(name)
                coefficients_DK[d] = calibration.coefficients_DK[at]
        self.calibration = dataclasses.replace(
            calibration,
            domains=evaluation.domains,
            coefficients_DK=coefficients_DK,
        )
        self._own_DC = np.array(
            [
                [inside and units[n].partition == domain
                 for n in scorer.members]
                for domain, inside in zip(
                    evaluation.domains, evaluation.in_pool, strict=True
                )
            ]
        )  # fmt: skip
        self._at: dict[bytes, _Text] = {}

    def shift(
        self, w_MC: np.ndarray, bits_MD: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """[M, D] to add to merges of these bits per byte on `rows`."""
        text = self._text(rows)
        return self.calibration.correction(
            w_MC, self._own_DC, bits_MD, text.average(w_MC), text.member_CD
        )

    def slope(
        self, w_C: np.ndarray, bits_DC: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """[D, C] derivatives of the shift."""
        text = self._text(rows)
        _, dnll_DC = text.average_slope(w_C)
        return self.calibration.slope(
            w_C, self._own_DC, bits_DC, text.per_byte(dnll_DC), text.member_CD
        )

    def _text(self, rows: np.ndarray) -> "_Text":
        key = rows.tobytes()
        if key not in self._at:
            self._at[key] = _Text.of(self._scorer, rows)
        return self._at[key]


@dataclasses.dataclass(frozen=True)
class _Text:
    """Some windows of one half, and what members say of them.

    Attributes:
      nats_D: in a bit per byte of each domain.
      member_CD: bits per byte of the members; NaN for a damaged one.
      sums: nats [M, D] of the probability average.
      average_slope: nats [D] and derivatives [D, C] of one mixture.
    """

    nats_D: np.ndarray
    member_CD: np.ndarray
    sums: Callable[[np.ndarray], np.ndarray]
    average_slope: ProbabilitySlope

    @classmethod
    def of(cls, scorer: Scorer, rows: np.ndarray) -> "_Text":
        e, proxies = scorer.evaluation, scorer.proxies
        references = scorer.references().on(rows)
        bits_MD = bits_of(
            e, references.proxies["merge"], HALVES[int(e.half_R[rows[0]])]
        )
        # Under an override a damaged member has no row.
        row_of = {name: m for m, name in enumerate(references.table.names)}
        missing_D = np.full(len(e.domains), np.nan)
        member_CD = np.array(
            [bits_MD[row_of[n]] if n in row_of else missing_D
             for n in scorer.members]
        )  # fmt: skip
        losses_CT = scorer.token_losses[1:]
        bytes_D = np.bincount(e.domain_R[rows], e.bytes_R[rows], len(e.domains))
        return cls(
            bytes_D * np.log(2.0),
            member_CD,
            lambda w_MC: proxies.probability_sums(w_MC, losses_CT, rows),
            proxies.probability_slope(losses_CT, rows),
        )

    def average(self, w_MC: np.ndarray) -> np.ndarray:
        """[M, D] bits per byte of the probability average."""
        return self.per_byte(self.sums(w_MC).T).T

    def per_byte(self, nats_DX: np.ndarray) -> np.ndarray:
        """Nats [D, ...] as bits per byte; NaN where there is no window."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return nats_DX / self.nats_D[:, None]
