"""Calibration by reference runs, and its use in searches."""

import dataclasses

import numpy as np
import pytest

from jaxsim import records
from jaxsim.config import SearchConfig
from jaxsim.scoring.scores import bits_of, bits_per_byte
from jaxsim.search.problem import Form, Problem
from jaxsim.validation.calibration import Calibration, Corrector, Inputs, features, fit
from jaxsim.validation.measured import own_units

C, D = 6, 5
DOMAINS = tuple(f"d{d}" for d in range(D))
OWN_DC = np.eye(D, C, dtype=bool)


class Planted:
    """Members, their merges, and reference runs at a known distance.

    The distance is a_d (1 - sum w^2) + b_d u (1 - u) plus noise.
    """

    def __init__(self, seed: int, noise: float = 0.0, size: float = 0.1):
        self.generator = np.random.default_rng(seed)
        g = self.generator
        self.noise = noise
        self.member_CD = 2 + g.normal(0, 0.3, (C, D))
        self.gap_D = 0.2 + 0.1 * g.random(D)
        self.spread_D = size * (1 + 0.3 * g.normal(size=D))
        self.own_D = size * (1 + 0.3 * g.normal(size=D))

    def mixtures(self, count: int) -> np.ndarray:
        return self.generator.dirichlet(np.ones(C), count)

    def merge(self, w_MC: np.ndarray) -> np.ndarray:
        spread_M1 = 1 - np.sum(w_MC**2, axis=1, keepdims=True)
        return w_MC @ self.member_CD - self.gap_D * spread_M1

    def average(self, w_MC: np.ndarray) -> np.ndarray:
        """A second predictor, with another error and no more information."""
        spread_M1 = 1 - np.sum(w_MC**2, axis=1, keepdims=True)
        return w_MC @ self.member_CD - 0.7 * self.gap_D * spread_M1

    def reference(self, w_MC: np.ndarray) -> np.ndarray:
        spread_M1 = 1 - np.sum(w_MC**2, axis=1, keepdims=True)
        own_MD = w_MC @ OWN_DC.T
        exact_MD = (
            self.merge(w_MC)
            + self.spread_D * spread_M1
            + self.own_D * own_MD * (1 - own_MD)
        )
        return exact_MD + self.generator.normal(0, self.noise, exact_MD.shape)

    def inputs(self, w_MC: np.ndarray) -> Inputs:
        return Inputs(
            w_MC, OWN_DC, self.merge(w_MC), self.average(w_MC), self.member_CD
        )

    def fit(self, w_FC: np.ndarray, reference_FD: np.ndarray) -> Calibration:
        return fit(DOMAINS, self.inputs(w_FC), reference_FD, True)

    def predicted(self, found: Calibration, w_MC: np.ndarray) -> np.ndarray:
        return self.merge(w_MC) + found.correction(self.inputs(w_MC))


def errors(planted: Planted, found: Calibration, count: int = 200) -> tuple:
    """Mean absolute error of the merge, and of the calibrated merge."""
    w_MC = planted.mixtures(count)
    reference_MD = planted.reference(w_MC)
    return (
        np.abs(reference_MD - planted.merge(w_MC)).mean(),
        np.abs(reference_MD - planted.predicted(found, w_MC)).mean(),
    )


@pytest.mark.parametrize("seed", range(3))
def test_eight_reference_runs_show_a_curvature(seed):
    planted = Planted(seed, noise=0.004)
    w_FC = planted.mixtures(8)
    merge, calibrated = errors(planted, planted.fit(w_FC, planted.reference(w_FC)))
    assert calibrated < merge / 4


def test_with_more_reference_runs_each_domain_has_its_own_curvature():
    planted = Planted(3, noise=0.002)
    w_FC = planted.mixtures(40)
    _, few = errors(planted, planted.fit(w_FC[:5], planted.reference(w_FC[:5])))
    _, many = errors(planted, planted.fit(w_FC, planted.reference(w_FC)))
    assert many < few and many < 0.004


def test_a_single_member_is_its_own_reference_run():
    planted = Planted(0, noise=0.01)
    w_FC = planted.mixtures(8)
    found = planted.fit(w_FC, planted.reference(w_FC))
    shift_CD = found.correction(Inputs(np.eye(C), OWN_DC, *[planted.member_CD] * 3))
    np.testing.assert_allclose(shift_CD, 0, atol=1e-12)


def test_reference_runs_of_another_length_add_a_constant():
    planted = Planted(0, noise=0.001)
    w_FC = planted.mixtures(10)
    # Longer runs have lower losses, on single members too.
    reference_FD = planted.reference(w_FC) - 0.5
    found = fit(DOMAINS, planted.inputs(w_FC), reference_FD, False)
    shift_CD = found.correction(Inputs(np.eye(C), OWN_DC, *[planted.member_CD] * 3))
    np.testing.assert_allclose(shift_CD, -0.5, atol=0.1)


def test_shuffled_reference_runs_mostly_leave_the_merge_alone():
    """The runs belong to other mixtures."""
    left_alone, worst = 0, 0.0
    for seed in range(8):
        planted = Planted(seed, size=0.0)  # no distance: nothing to find
        w_FC = planted.mixtures(8)
        reference_FD = planted.reference(w_FC)[planted.generator.permutation(8)]
        found = planted.fit(w_FC, reference_FD)
        left_alone += not found.coefficients_DK.any()
        worst = max(worst, errors(planted, found)[1])
    assert left_alone >= 6
    assert worst < 0.05  # the shuffled losses differ by 0.15


def test_the_ensemble_counts_where_it_is_right():
    """Runs that are the mean of both predictors, plus noise."""
    planted = Planted(4, noise=0.004)
    w_FC, w_MC = planted.mixtures(8), planted.mixtures(200)

    def between(w: np.ndarray) -> np.ndarray:
        noise = planted.generator.normal(0, planted.noise, (len(w), D))
        return (planted.merge(w) + planted.average(w)) / 2 + noise

    found = planted.fit(w_FC, between(w_FC))
    off_MD = between(w_MC) - planted.predicted(found, w_MC)
    assert np.abs(off_MD).mean() < 2 * planted.noise
    assert np.abs(between(w_MC) - planted.merge(w_MC)).mean() > 5 * planted.noise


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_reference_runs_leave_the_merge_alone(count):
    planted = Planted(0)
    w_FC = planted.mixtures(count)
    found = planted.fit(w_FC, planted.reference(w_FC))
    assert not found.coefficients_DK.any()
    assert np.isnan(found.half_interval(np.full(D, 1 / D)))


def test_intervals_cover_reference_runs_at_their_level():
    """Over many samples of eight reference runs."""
    inside, sizes = [], []
    for seed in range(150):
        planted = Planted(seed, noise=0.01)
        w_FC = planted.mixtures(8)
        found = planted.fit(w_FC, planted.reference(w_FC))
        share_D = np.full(D, 1 / D)
        w_MC = planted.mixtures(20)
        off_M = (planted.reference(w_MC) - planted.predicted(found, w_MC)) @ share_D
        margin = found.half_interval(share_D)
        inside.append(np.mean(np.abs(off_M) <= margin))
        sizes.append(margin)
    assert 0.85 <= np.mean(inside) <= 0.96
    assert np.mean(sizes) < 0.02  # the noise of a mean of five is 0.0045


def test_the_order_of_domains_and_reference_runs_does_not_matter():
    planted = Planted(1, noise=0.01)
    w_FC = planted.mixtures(8)
    reference_FD, x = planted.reference(w_FC), planted.inputs(w_FC)
    found = planted.fit(w_FC, reference_FD)
    d, f = np.array([3, 0, 4, 1, 2]), np.array([5, 2, 7, 0, 1, 3, 6, 4])
    moved = Inputs(
        w_FC[f],
        OWN_DC[d],
        x.merge_MD[np.ix_(f, d)],
        x.average_MD[np.ix_(f, d)],
        planted.member_CD[:, d],
    )
    other = fit([DOMAINS[i] for i in d], moved, reference_FD[np.ix_(f, d)], True)
    np.testing.assert_allclose(
        other.coefficients_DK, found.coefficients_DK[d], atol=1e-9
    )


def test_the_slope_is_the_derivative():
    planted = Planted(2, noise=0.01)
    w_FC = planted.mixtures(8)
    found = planted.fit(w_FC, planted.reference(w_FC))
    assert found.coefficients_DK.any()
    w_C = planted.mixtures(1)[0]

    def correction(w_C: np.ndarray) -> np.ndarray:
        return found.correction(planted.inputs(w_C[None]))[0]

    step = 1e-6
    numeric_DC, dmerge_DC, daverage_DC = (
        np.stack(
            [
                (of(w_C + step * e_C) - of(w_C - step * e_C)) / (2 * step)
                for e_C in np.eye(C)
            ],
            axis=1,
        )
        for of in (
            correction,
            lambda w_C: planted.merge(w_C[None])[0],
            lambda w_C: planted.average(w_C[None])[0],
        )
    )
    slope_DC = found.slope(w_C, OWN_DC, dmerge_DC, daverage_DC, planted.member_CD)
    np.testing.assert_allclose(slope_DC, numeric_DC, atol=1e-7)


def test_kept_as_plain_data():
    planted = Planted(0, noise=0.01)
    w_FC = planted.mixtures(8)
    for found in (
        planted.fit(w_FC, planted.reference(w_FC)),
        planted.fit(w_FC[:2], planted.reference(w_FC[:2])),
    ):
        again = records.parse(records.dump(found), Calibration, "", "")
        assert again == found
        np.testing.assert_array_equal(again.coefficients_DK, found.coefficients_DK)


def test_a_damaged_member_without_weight_does_no_harm():
    planted = Planted(0)
    w_MC = planted.mixtures(3)
    w_MC[:, -1] = 0
    w_MC /= w_MC.sum(axis=1, keepdims=True)
    broken_CD = planted.member_CD.copy()
    broken_CD[-1] = np.nan
    x_MDK = features(planted.inputs(w_MC)._replace(member_CD=broken_CD), True)
    assert np.isfinite(x_MDK).all()


def corrector(scorer, coefficients, singles_known=True, domains=None):
    """A correction with these coefficients in every domain."""
    domains = domains or scorer.evaluation.domains
    calibration = Calibration(
        list(domains),
        [list(coefficients)] * len(domains),
        *[np.zeros((8, len(domains))).tolist()] * 3,
        1.0,
        None,
        singles_known,
    )
    return Corrector(calibration, scorer)


def merged(scorer, w_MC, split="dev"):
    """Windows of a split, and bits per byte of merges on them."""
    rows = scorer.evaluation.rows(split)
    table = dataclasses.replace(scorer.table("dirichlet:2").take([0, 1]), w_MC=w_MC)
    losses = scorer.merge(table, rows)
    return rows, bits_of(scorer.evaluation, losses, split)


def averaged(scorer, w_MC, split):
    """Bits per byte of the ensemble on all windows of a split."""
    e, rows = scorer.evaluation, scorer.evaluation.rows(split)
    bytes_D = np.bincount(e.domain_R[rows], e.bytes_R[rows], len(e.domains))
    return bits_per_byte(scorer.ensemble(rows).sums(w_MC), bytes_D)


def test_the_shift_follows_the_coefficients(scorer):
    w_MC = np.random.default_rng(0).dirichlet(np.ones(4), 2)
    found = corrector(scorer, (0.1, 0.2, 0.3, 0.4))
    for split in ("dev", "test"):
        rows, bits_MD = merged(scorer, w_MC, split)
        # Losses of the members on the same text.
        standard = scorer.standard()
        names = standard.table.names
        member_CD = standard.bits_per_byte("merge", split)[
            [names.index(n) for n in scorer.members]
        ]
        spread_M1 = 1 - (w_MC**2).sum(axis=1, keepdims=True)
        own_MD = np.zeros_like(bits_MD)
        for d, name in enumerate(scorer.evaluation.domains):
            if name in scorer.members:
                own_MD[:, d] = w_MC[:, scorer.members.index(name)]
        expected_MD = (
            0.1 * spread_M1
            + 0.2 * own_MD * (1 - own_MD)
            + 0.3 * (w_MC @ member_CD - bits_MD)
            + 0.4 * (averaged(scorer, w_MC, split) - bits_MD)
        )
        # Sums over windows and domains of float32 terms.
        np.testing.assert_allclose(
            found.shift(w_MC, bits_MD, rows), expected_MD, atol=1e-6
        )


def test_domains_without_reference_runs_are_not_shifted(scorer):
    w_MC = np.full((2, 4), 1 / 4)
    rows, bits_MD = merged(scorer, w_MC)
    found = corrector(scorer, (0.1, 0.0, 0.0, 0.0), domains=["outside"])
    shift_MD = found.shift(w_MC, bits_MD, rows)
    column = scorer.evaluation.domains.index("outside")
    np.testing.assert_allclose(shift_MD[:, column], 0.1 * 3 / 4)
    assert not np.delete(shift_MD, column, axis=1).any()


def test_a_search_descends_on_corrected_losses(scorer):
    """Values and slopes of the corrected objective, by central differences."""
    config = SearchConfig(target={"outside": 1.0})
    found = corrector(scorer, (0.5, 0.0, 0.4, 0.3))
    plain, corrected = (Problem(scorer, config, c).loss for c in (None, found))
    w_C = np.array([0.4, 0.3, 0.2, 0.1])
    assert corrected.slope(w_C).value > plain.slope(w_C).value
    value = corrected.values(w_C[None])[0]
    assert corrected.slope(w_C).value == pytest.approx(value, rel=1e-6)
    toward_C = np.array([0.5, -0.2, -0.2, -0.1])
    step = 0.02
    low, high = corrected.values(
        np.array([w_C - step * toward_C, w_C + step * toward_C])
    )
    # The merge's losses are float32, and the error is of third order.
    assert corrected.slope(w_C).slope_PC[0] @ toward_C == pytest.approx(
        (high - low) / (2 * step), rel=2e-2
    )


@pytest.mark.parametrize("singles_known", [True, False])
def test_the_closed_form_corrects_as_the_shift_does(scorer, singles_known):
    """Where merge and ensemble are their closed forms themselves."""
    e, rows = scorer.evaluation, scorer.evaluation.rows("test")
    bytes_D = e.sums(e.bytes_R[rows], rows)
    merge, ensemble = (
        Form.of(scorer.quadratic(rows, predictor), bytes_D)
        for predictor in ("merge", "ensemble")
    )
    known = (0.1, 0.2, 0.3, 0.4) if singles_known else (0.1, 0.2, 0.3, 0.4, 0.05)
    found = corrector(scorer, known, singles_known)
    w_MC = np.random.default_rng(0).dirichlet(np.ones(4), 20)
    member_CD = merge.bits(np.eye(4))
    own_DC = own_units(scorer.corpus, scorer.members, e)
    inputs = Inputs(w_MC, own_DC, merge.bits(w_MC), ensemble.bits(w_MC), member_CD)
    expected_MD = merge.bits(w_MC) + found.calibration.correction(inputs)
    got_MD = found.closed(merge, ensemble).bits(w_MC)
    np.testing.assert_allclose(got_MD, expected_MD, rtol=0, atol=1e-12)
