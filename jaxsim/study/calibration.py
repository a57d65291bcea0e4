"""What truths teach about the distance between training and merging.

The distance (truth minus merge, bits per byte) is regressed, for all domains
together, on quantities that vanish for a single member:

- spread: 1 - sum_c w_c^2, how far a mixture is from any single member;
- own: u (1 - u), u the weight of the domain's own partition;
- gap: the mean of the members' losses minus the merge, what averaging won;
- other: the probability average minus the merge. The two proxies err apart.

Each domain has coefficients of its own around shared ones. Both are shrunk
(ridge), by as much as predicts a truth left out best. Leaving everything at
zero is one of the choices: then the merge stays as it is. Where truths are of
another length than members, a single member is no truth, and a constant joins.

Cross-curvature of the losses makes the distance quadratic in the weights near
a single member, which spread and own are; gap and other carry what the proxies
know of curvature. See docs/validate.md.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

# Ridge of shared and of own coefficients, in units of the distance's variance;
# infinity leaves them out.
_SHARED = (np.inf, 10.0, 1.0, 0.1, 0.01)
_OWN = (np.inf, 100.0, 10.0, 1.0, 0.1)
ENOUGH = 3  # truths below which nothing is fitted
# A setting must predict truths left out better than the next simpler one by
# this share, or noise would pick it.
_BETTER = 0.98


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A correction of merges, and how far it is off.

    Attributes:
      domains: D names.
      coefficients_DK: of `features`, bits per byte.
      off_FD: truth minus prediction for each of F truths, predicted without
        it, on select text: what intervals come from.
      truth_FD: these truths.
      shared, own: the ridge that was chosen; infinity leaves out.
      singles_known: a single member needs no correction.
    """

    domains: tuple[str, ...]
    coefficients_DK: np.ndarray
    off_FD: np.ndarray
    truth_FD: np.ndarray
    shared: float
    own: float
    singles_known: bool

    def correction(
        self,
        w_MC: np.ndarray,
        own_DC: np.ndarray,
        merge_MD: np.ndarray,
        average_MD: np.ndarray,
        member_CD: np.ndarray,
    ) -> np.ndarray:
        """[M, D] to be added to the merges' bits per byte.

        Args:
          w_MC: weights.
          own_DC: bool, the units of each domain's own partition.
          merge_MD: bits per byte of the merges.
          average_MD: of the probability averages, on the same text.
          member_CD: of the members, on the same text.
        """
        x_MDK = features(
            w_MC, own_DC, merge_MD, average_MD, member_CD, self.singles_known
        )
        return np.einsum("mdk,dk->md", x_MDK, self.coefficients_DK)

    def slope(
        self,
        w_C: np.ndarray,
        own_DC: np.ndarray,
        dmerge_DC: np.ndarray,
        daverage_DC: np.ndarray,
        member_CD: np.ndarray,
    ) -> np.ndarray:
        """[D, C] derivatives of the correction with respect to the weights.

        Args: as of `correction`, for one mixture, but for
          dmerge_DC, daverage_DC: derivatives of the bits per byte of its merge
            and of its probability average.
        """
        own_D1 = (own_DC @ w_C)[:, None]
        d_KDC = [
            np.broadcast_to(-2 * w_C, dmerge_DC.shape),
            (1 - 2 * own_D1) * own_DC,
            np.nan_to_num(member_CD).T - dmerge_DC,
            daverage_DC - dmerge_DC,
        ]
        if not self.singles_known:
            d_KDC.append(np.zeros_like(dmerge_DC))
        return np.einsum("kdc,dk->dc", np.stack(d_KDC), self.coefficients_DK)

    def half_interval(self, share_D: np.ndarray, level: float) -> float:
        """Half the interval of one more truth, for a weighted mean of domains.

        Student's t, from the truths that were left out one by one, around
        zero: what bias is left counts as error. NaN with fewer than three.
        """
        count = len(self.off_FD)
        if count < ENOUGH:
            return float("nan")
        off_F = self.off_FD @ share_D
        scatter = np.sqrt(np.mean(off_F**2) * (1 + 1 / count))
        return float(scipy.stats.t.ppf((1 + level) / 2, count - 1) * scatter)

    def to_plain(self) -> dict[str, Any]:
        """As strict JSON holds it."""
        return {
            "domains": list(self.domains),
            "coefficients": self.coefficients_DK.tolist(),
            "off": self.off_FD.tolist(),
            "truth": self.truth_FD.tolist(),
            "shared": _finite(self.shared),
            "own": _finite(self.own),
            "singles_known": self.singles_known,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Calibration":
        """Of what `to_plain` gave."""
        d = len(plain["domains"])
        return cls(
            tuple(plain["domains"]),
            np.array(plain["coefficients"], float).reshape(d, -1),
            np.array(plain["off"], float).reshape(-1, d),
            # An earlier version kept none.
            np.array(plain.get("truth", []), float).reshape(-1, d),
            np.inf if plain["shared"] is None else float(plain["shared"]),
            np.inf if plain["own"] is None else float(plain["own"]),
            bool(plain["singles_known"]),
        )


def features(
    w_MC: np.ndarray,
    own_DC: np.ndarray,
    merge_MD: np.ndarray,
    average_MD: np.ndarray,
    member_CD: np.ndarray,
    singles_known: bool,
) -> np.ndarray:
    """[M, D, K] what the distance is regressed on; see the module."""
    own_MD = w_MC @ own_DC.T
    spread_MD = np.broadcast_to(
        1 - np.sum(w_MC**2, axis=1)[:, None], merge_MD.shape
    )
    # A damaged member has no figure, and no weight.
    gap_MD = w_MC @ np.nan_to_num(member_CD) - merge_MD
    columns = [
        spread_MD,
        own_MD * (1 - own_MD),
        gap_MD,
        average_MD - merge_MD,
    ]
    if not singles_known:
        columns.append(np.ones_like(merge_MD))
    return np.stack(columns, axis=-1)


def fit(
    domains: Sequence[str],
    own_DC: np.ndarray,
    w_FC: np.ndarray,
    merge_FD: np.ndarray,
    average_FD: np.ndarray,
    member_CD: np.ndarray,
    truth_FD: np.ndarray,
    singles_known: bool,
) -> Calibration:
    """A calibration from F truths, all on the same text.

    Args:
      domains: D names.
      own_DC: bool, the units of each domain's own partition.
      w_FC: ratios of the truths.
      merge_FD: bits per byte of their merges.
      average_FD: of their probability averages.
      member_CD: of the members.
      truth_FD: bits per byte of the truths.
      singles_known: truths are as long as members.
    """
    x_FDK = features(
        w_FC, own_DC, merge_FD, average_FD, member_CD, singles_known
    )
    y_FD = truth_FD - merge_FD
    count, _, k = x_FDK.shape
    nothing = np.zeros((len(domains), k))
    best = Calibration(
        tuple(domains), nothing, y_FD, truth_FD, np.inf, np.inf, singles_known
    )
    if count < ENOUGH:
        return best
    error = _error(y_FD)
    # From simple to rich: a richer setting has to earn its place.
    for shared in _SHARED[1:]:
        for own in _OWN:
            off_FD = np.array(
                [
                    y_FD[f]
                    - np.einsum(
                        "dk,dk->d",
                        x_FDK[f],
                        _ridge(
                            np.delete(x_FDK, f, axis=0),
                            np.delete(y_FD, f, axis=0),
                            shared,
                            own,
                        ),
                    )
                    for f in range(count)
                ]
            )
            if _error(off_FD) < _BETTER * error:
                error = _error(off_FD)
                best = dataclasses.replace(
                    best, off_FD=off_FD, shared=shared, own=own
                )
    if np.isfinite(best.shared):
        return dataclasses.replace(
            best, coefficients_DK=_ridge(x_FDK, y_FD, best.shared, best.own)
        )
    return best


def _error(off_FD: np.ndarray) -> float:
    """Mean squared error over truths, each domain's alone and their mean's.

    Truths are compared domain by domain, and on macros, where the noise that
    domains share stays and the rest averages out: both count.
    """
    return float(np.mean(off_FD**2) + np.mean(np.mean(off_FD, axis=1) ** 2))


def _ridge(
    x_FDK: np.ndarray, y_FD: np.ndarray, shared: float, own: float
) -> np.ndarray:
    """[D, K] coefficients: shared ones plus each domain's own deviation.

    With the deviations integrated out, a ridge on shared coefficients b with
    y_d = X_d b + noise of covariance I + X_d X_d' / own; columns are scaled to
    a mean square of one, so that a ridge means the same for all.
    """
    scale_K = np.sqrt(np.mean(x_FDK**2, axis=(0, 1)))
    scale_K = np.where(scale_K > 0, scale_K, 1.0)
    x_FDK = x_FDK / scale_K
    _, d, k = x_FDK.shape
    xx_DKK = np.einsum("fdk,fdl->dkl", x_FDK, x_FDK)
    xy_DK = np.einsum("fdk,fd->dk", x_FDK, y_FD)
    eye_KK = np.eye(k)
    if not np.isfinite(own):
        left_KK = xx_DKK.sum(axis=0) + shared * d * eye_KK
        b_K = np.linalg.solve(left_KK, xy_DK.sum(axis=0))
        return np.broadcast_to(b_K, (d, k)) / scale_K
    # X' (I + X X'/own)^-1 = own (own I + X'X)^-1 X'
    inner_DKK = own * np.linalg.inv(own * eye_KK + xx_DKK)
    left_KK = np.einsum("dkl,dlm->km", inner_DKK, xx_DKK)
    right_K = np.einsum("dkl,dl->k", inner_DKK, xy_DK)
    b_K = np.linalg.solve(left_KK + shared * d * eye_KK, right_K)
    rest_DK = xy_DK - xx_DKK @ b_K
    own_DK = np.linalg.solve(own * eye_KK + xx_DKK, rest_DK[..., None])[..., 0]
    return (b_K + own_DK) / scale_K


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
