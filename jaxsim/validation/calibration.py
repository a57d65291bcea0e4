"""What reference runs show about the distance between training and merging.

The distance (trained minus merge, bits per byte) is regressed on quantities that vanish
for a single member, for all domains together; docs/validate.md has the rules.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from jaxsim.records import need_shape
from jaxsim.scoring.ensemble import Ensemble
from jaxsim.scoring.evaluation import SPLITS
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import bits_per_byte
from jaxsim.search.problem import Form
from jaxsim.validation.measured import (
    CALIBRATED,
    PoolLosses,
    PredictionTable,
    by_target,
    member_bits,
    own_units,
)

# Ridge of shared and of own coefficients, in units of the distance's variance;
# None leaves them out.
_SHARED = (10.0, 1.0, 0.1, 0.01)
_OWN = (None, 100.0, 10.0, 1.0, 0.1)
ENOUGH = 3  # with fewer runs nothing is fitted
# A setting must predict left-out runs better than the next simpler one by this
# factor, or noise would pick it.
_BETTER = 0.98
LEVEL = 0.9  # of the intervals of one more run


class Inputs(NamedTuple):
    """What the correction of M merges is computed from; losses are bits per byte."""

    w_MC: np.ndarray
    own_DC: np.ndarray  # bool, the units of each domain's own partition
    merge_MD: np.ndarray  # losses of the merges
    average_MD: np.ndarray  # of the ensembles, on the same text
    member_CD: np.ndarray  # of the members, on the same text


def features(x: Inputs, singles_known: bool) -> np.ndarray:
    """[M, D, K] what the distance is regressed on."""
    own_MD = x.w_MC @ x.own_DC.T
    spread_M1 = 1 - np.sum(x.w_MC**2, axis=1)[:, None]
    # Cross-curvature of the losses makes the distance quadratic in the weights near a
    # single member, as the first two are; the others carry what predictors know of it.
    columns = [
        np.broadcast_to(spread_M1, x.merge_MD.shape),
        own_MD * (1 - own_MD),
        # A damaged member has no score, and no weight.
        x.w_MC @ np.nan_to_num(x.member_CD) - x.merge_MD,
        x.average_MD - x.merge_MD,
    ]
    if not singles_known:
        columns.append(np.ones_like(x.merge_MD))
    return np.stack(columns, axis=-1)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A correction of merges, and its errors, as a record holds it."""

    domains: list[str]
    coefficients: Sequence[Sequence[float | None]]  # [D, K] of `features`
    # [F, D] loss minus prediction for each of F runs, predicted without it, on dev
    # text: what intervals are computed from.
    off: Sequence[Sequence[float | None]]
    merge_off: Sequence[Sequence[float | None]]  # [F, D] loss minus merge
    reference: Sequence[Sequence[float | None]]  # [F, D] losses of these runs
    shared: float | None  # the ridges that were chosen; None leaves them out
    own: float | None
    singles_known: bool  # whether a single member needs no correction

    def check_parts(self) -> None:
        """Raises a `UserError` if the fields do not fit together; see `records`."""
        count = len(self.domains)
        shape = [count, 4 if self.singles_known else 5]
        need_shape(self.coefficients, shape, "coefficients")
        need_shape(self.off, [len(self.reference), count], "off")
        need_shape(self.reference, [len(self.off), count], "reference")

    @property
    def coefficients_DK(self) -> np.ndarray:
        return np.array(self.coefficients, float)

    @property
    def off_FD(self) -> np.ndarray:
        # By columns, as in `fit`: the bits of a sum depend on it.
        return np.array(self.off, float, order="F")

    def correction(self, x: Inputs) -> np.ndarray:
        """[M, D] to be added to the merges' bits per byte."""
        x_MDK = features(x, self.singles_known)
        return np.einsum("mdk,dk->md", x_MDK, self.coefficients_DK)

    def slope(
        self,
        w_C: np.ndarray,
        own_DC: np.ndarray,
        dmerge_DC: np.ndarray,
        daverage_DC: np.ndarray,
        member_CD: np.ndarray,
    ) -> np.ndarray:
        """[D, C] derivatives of one mixture's correction by its weights.

        `dmerge_DC` and `daverage_DC` are those of its merge and of its ensemble; for
        the others see `Inputs`.
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

    def half_interval(self, share_D: np.ndarray) -> float:
        """`reach_of` around zero, for a weighted mean of domains.

        From the runs that were left out one by one: the remaining bias counts as
        error. NaN with fewer than three runs.
        """
        if len(self.off) < ENOUGH:
            return float("nan")
        off_F = self.off_FD @ share_D
        return reach_of(np.mean(off_F**2), len(off_F))


def reach_of(variance: float, runs: int) -> float:
    """Half the 90 % interval of one more run, by Student's t."""
    scatter = np.sqrt(variance * (1 + 1 / runs))
    return float(scipy.stats.t.ppf((1 + LEVEL) / 2, runs - 1) * scatter)


def fit(
    domains: Sequence[str], x: Inputs, reference_FD: np.ndarray, singles_known: bool
) -> Calibration:
    """A calibration from the bits per byte of F reference runs, on the same text."""
    x_FDK = features(x, singles_known)
    best_FD = y_FD = reference_FD - x.merge_MD
    b_DK: np.ndarray = np.zeros(x_FDK.shape[1:])
    ridges: tuple[float | None, float | None] = None, None
    count = len(y_FD)
    # From simple to rich: a richer setting has to earn its place.
    for shared, own in itertools.product(_SHARED, _OWN) if count >= ENOUGH else ():
        off_FD = np.empty_like(y_FD)
        for f in range(count):
            others = np.delete(x_FDK, f, axis=0), np.delete(y_FD, f, axis=0)
            left_DK = _ridge(*others, shared, own)
            off_FD[f] = y_FD[f] - np.einsum("dk,dk->d", x_FDK[f], left_DK)
        if _error(off_FD) < _BETTER * _error(best_FD):
            ridges, best_FD = (shared, own), off_FD
            b_DK = _ridge(x_FDK, y_FD, shared, own)
    return Calibration(
        list(domains),
        b_DK.tolist(),
        best_FD.tolist(),
        y_FD.tolist(),
        reference_FD.tolist(),
        *ridges,
        singles_known,
    )


def _error(off_FD: np.ndarray) -> float:
    """Mean squared error over runs: of each domain, plus that of their mean.

    Runs are compared both domain by domain and on macros.
    """
    return float(np.mean(off_FD**2) + np.mean(np.mean(off_FD, axis=1) ** 2))


def _ridge(
    x_FDK: np.ndarray, y_FD: np.ndarray, shared: float, own: float | None
) -> np.ndarray:
    """[D, K] coefficients: shared ones plus each domain's own deviation.

    With the deviations integrated out, it is a ridge on shared coefficients b
    with y_d = X_d b + noise of covariance I + X_d X_d' / own.
    """
    # A mean square of one, so that a ridge means the same for all columns.
    scale_K = np.sqrt(np.mean(x_FDK**2, axis=(0, 1)))
    scale_K = np.where(scale_K > 0, scale_K, 1.0)
    x_FDK = x_FDK / scale_K
    _, d, k = x_FDK.shape
    xx_DKK = np.einsum("fdk,fdl->dkl", x_FDK, x_FDK)
    xy_DK = np.einsum("fdk,fd->dk", x_FDK, y_FD)
    eye_KK = np.eye(k)
    if own is None:
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


def _inputs(
    basis: PoolLosses, runs: PredictionTable, split: str, measured_D: np.ndarray
) -> Inputs:
    """Of the mixtures of runs, on the text of a split, in the measured domains."""
    bits = {"dev": runs.dev, "test": runs.test}[split]
    member_CD = {"dev": basis.dev_CD, "test": basis.test_CD}[split]
    return Inputs(
        runs.w_MC,
        basis.own_DC[measured_D],
        bits["merge"][:, measured_D],
        bits["ensemble"][:, measured_D],
        member_CD[:, measured_D],
    )


def fitted_on(
    basis: PoolLosses, runs: PredictionTable, measured_D: np.ndarray
) -> Calibration:
    """A calibration from runs on dev text, for the measured domains."""
    return fit(
        np.array(basis.evaluation.domains)[measured_D].tolist(),
        _inputs(basis, runs, "dev", measured_D),
        runs.dev["reference"][:, measured_D],
        basis.singles_known,
    )


def calibrated_merges(
    basis: PoolLosses,
    calibration: Calibration,
    runs: PredictionTable,
    split: str,
    measured_D: np.ndarray,
) -> np.ndarray:
    """[M, D'] corrected merges of the mixtures, in the measured domains."""
    x = _inputs(basis, runs, split, measured_D)
    return x.merge_MD + calibration.correction(x)


def left_out(
    basis: PoolLosses, held_out: PredictionTable, fitted: PredictionTable | None
) -> list[Calibration]:
    """For each held-out run a calibration that did not see it; [] without others."""
    measured_D, runs = held_out.measured_D, np.arange(len(held_out))
    if fitted is not None and len(fitted) >= ENOUGH:
        return [fitted_on(basis, fitted, measured_D)] * len(held_out)
    if len(held_out) < 2:
        return []
    others = (held_out.take(runs != m).with_dev(fitted) for m in runs)
    return [fitted_on(basis, other, measured_D) for other in others]


def corrected_merges(
    basis: PoolLosses, held_out: PredictionTable, used: Sequence[Calibration]
) -> np.ndarray:
    """[M, D] each merge on test text, corrected by its own calibration; NaN without."""
    measured_D = held_out.measured_D
    predicted_MD = np.full(held_out.test["reference"].shape, np.nan)
    for m, known in enumerate(used):
        predicted_MD[m, measured_D] = calibrated_merges(
            basis, known, held_out.take(np.array([m])), "test", measured_D
        )[0]
    return predicted_MD


def check_of(
    held_out: PredictionTable,
    corrected_MD: np.ndarray,
    used: Sequence[Calibration],
    weights: Mapping[str, np.ndarray],
) -> dict[str, dict[str, float]]:
    """`Validation.check`, for targets with these weights [D] of the domains.

    For the others see `corrected_merges`.
    """
    points = by_target({**held_out.test, CALIBRATED: corrected_MD}, weights)
    check = {}
    for name, weights_D in weights.items():
        reference_M, merge_M = points["reference"][name], points["merge"][name]
        off_M = np.abs(reference_M - points[CALIBRATED][name])
        share_D = weights_D[held_out.measured_D] / weights_D.sum()
        margin_M = np.array([one.half_interval(share_D) for one in used] or np.nan)
        known_M = bool(np.isfinite(margin_M).all())
        check[name] = {
            "merge": float(np.abs(reference_M - merge_M).mean()),
            "calibrated": float(off_M.mean()),
            "covered": float(np.mean(off_M <= margin_M)) if known_M else float("nan"),
            "margin": float(np.mean(margin_M)),
        }
    return check


def learning(
    basis: PoolLosses,
    held_out: PredictionTable,
    fitted: PredictionTable,
    weights_D: np.ndarray,
) -> list[dict[str, float]]:
    """Mean absolute error on one target by the number of calibration runs.

    The first n of a design are the design of n: what fewer runs would have given.
    """
    measured_D = held_out.measured_D
    share_D = weights_D[measured_D] / weights_D.sum()
    rows = []
    for count in (0, *range(ENOUGH, len(fitted) + 1)):
        known = fitted_on(basis, fitted.take(np.arange(count)), measured_D)
        predicted_MD = calibrated_merges(basis, known, held_out, "test", measured_D)
        off_M = (held_out.test["reference"][:, measured_D] - predicted_MD) @ share_D
        rows.append({"reference runs": count, "error": float(np.mean(np.abs(off_M)))})
    return rows


class Corrector:
    """A calibration in a search: a `jaxsim.search.problem.Correction`.

    It corrects merges on whatever windows the search uses, in the domains that the
    calibration has.
    """

    def __init__(self, calibration: Calibration, scorer: Scorer) -> None:
        self._scorer = scorer
        evaluation = scorer.evaluation
        known = dict(zip(calibration.domains, calibration.coefficients, strict=True))
        zero_K = [0.0] * len(calibration.coefficients[0])
        self.calibration = dataclasses.replace(
            calibration,
            domains=list(evaluation.domains),
            coefficients=[known.get(n, zero_K) for n in evaluation.domains],
        )
        self._own_DC = own_units(scorer.corpus, scorer.members, evaluation)
        self._text_of: dict[bytes, tuple[np.ndarray, np.ndarray, Ensemble]] = {}

    def shift(
        self, w_MC: np.ndarray, bits_MD: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """[M, D] to add to merges of these bits per byte on `rows`."""
        member_CD, bytes_D, ensemble = self._text(rows)
        average_MD = bits_per_byte(ensemble.sums(w_MC), bytes_D)
        return self.calibration.correction(
            Inputs(w_MC, self._own_DC, bits_MD, average_MD, member_CD)
        )

    def slope(
        self, w_C: np.ndarray, bits_DC: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """[D, C] derivatives of the shift."""
        member_CD, bytes_D, ensemble = self._text(rows)
        average_DC = bits_per_byte(ensemble.slope(w_C)[1], bytes_D[:, None])
        return self.calibration.slope(w_C, self._own_DC, bits_DC, average_DC, member_CD)

    def closed(self, merge: Form, ensemble: Form) -> Form:
        """The closed form of corrected merges, from those of merge and ensemble.

        Every one of `features` is quadratic in the weights if both are.
        """
        b_KD = self.calibration.coefficients_DK.T
        b_KD = np.concatenate([b_KD, np.zeros((5 - len(b_KD), b_KD.shape[1]))])
        own_DC = self._own_DC.astype(float)
        spread, own, members, average = (b_D[:, None, None] for b_D in b_KD[:4])
        eye_CC, own_DCC = np.eye(own_DC.shape[1]), own_DC[:, :, None] * own_DC[:, None]
        curve_DCC = (
            merge.curve_DCC * (1 - members - average)
            + ensemble.curve_DCC * average
            + 4 * (spread * eye_CC + own * own_DCC)
        )
        return Form(
            merge.constant_D + b_KD[0] + b_KD[4],
            merge.linear_DC + b_KD[1][:, None] * own_DC,
            curve_DCC,
        )

    def _text(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, Ensemble]:
        """Members' bits per byte [C, D] on windows of one split, bytes, ensemble."""
        key = rows.tobytes()
        if key not in self._text_of:
            scorer, e = self._scorer, self._scorer.evaluation
            split = SPLITS[int(e.split_R[rows[0]])]
            bytes_D = e.sums(e.bytes_R[rows], rows)
            self._text_of[key] = (
                member_bits(scorer.standard().on(rows), split),
                bytes_D,
                scorer.ensemble(rows),
            )
        return self._text_of[key]
