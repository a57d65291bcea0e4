"""The closed form of merges: where it is exact, and when it refuses itself."""

import dataclasses

import numpy as np
import pytest

from jaxsim.errors import DamagedError, UserError
from jaxsim.scoring.quadratic import (
    CHECKS,
    Misfit,
    Quadratic,
    convexity,
    fit,
    token_distances,
)
from jaxsim.scoring.scorer import Scorer

from . import tiny

# Losses are sums in float32, of up to 1e3 nats; derivatives of sums over parameters.
SAME = 1e-5


@pytest.fixture(scope="module")
def rows(scorer):
    return scorer.evaluation.rows("dev")


@pytest.fixture
def invented():
    """A quadratic of five members and three domains with random curvatures."""
    generator = np.random.default_rng(3)
    place_CX = generator.normal(size=(5, 4))
    apart_CC = np.square(place_CX[:, None] - place_CX).sum(axis=2)
    k_DC = generator.uniform(0.5, 2.0, (3, 5))
    curve_DCC = apart_CC * (k_DC[:, :, None] + k_DC[:, None]) / 2
    member_DC = 100 + generator.normal(size=(3, 5))
    return Quadratic(member_DC, curve_DCC, np.zeros(5, bool)), apart_CC


def test_a_quadratic_loss_is_found_from_one_gradient(invented):
    made, apart_CC = invented
    uniform_D, slope_DC = made.slope(np.full(5, 0.2))
    slope_DC = slope_DC + 7.0  # no derivative along the simplex depends on it
    found = fit(made.member_DC, uniform_D, slope_DC, 3.0 * apart_CC)
    w_MC = np.random.default_rng(0).dirichlet(np.ones(5), 50)
    np.testing.assert_allclose(found.sums(w_MC), made.sums(w_MC), rtol=1e-12)


def test_derivatives_are_those_of_the_sums(invented):
    made, _ = invented
    w_C, step = np.array([0.1, 0.3, 0.0, 0.4, 0.2]), 1e-4
    for c, e_C in enumerate(np.eye(5)):
        up, down = (made.sums((w_C + s * step * e_C)[None])[0] for s in (1, -1))
        np.testing.assert_allclose(
            made.slope(w_C)[1][:, c], (up - down) / (2 * step), rtol=1e-8
        )
        turn = (made.slope(w_C + e_C)[1] - made.slope(w_C)[1]).T
        np.testing.assert_allclose(turn, made.hessian_DCC[:, c].T, atol=1e-12)


@pytest.mark.parametrize("predictor", ["merge", "ensemble"])
def test_it_is_exact_at_members_and_at_the_uniform_mixture(scorer, rows, predictor):
    e, c = scorer.evaluation, len(scorer.members)
    found, u_C = scorer.quadratic(rows, predictor), np.full(c, 1 / c)
    member_CD = scorer.members_sums(np.eye(c), rows)
    np.testing.assert_allclose(found.sums(np.eye(c)), member_CD, rtol=1e-12)
    if predictor == "merge":
        known = scorer.jacobian(u_C, 1.0, rows)
        uniform_D, slope_DC = e.sums(known.nll_R, rows), known.dw_DC
    else:
        uniform_D, slope_DC = scorer.ensemble(rows).slope(u_C)
    nll_D, dw_DC = found.slope(u_C)
    np.testing.assert_allclose(nll_D, uniform_D, rtol=1e-12)
    toward_DC = slope_DC - slope_DC.mean(axis=1, keepdims=True)
    dw_DC = dw_DC - dw_DC.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(dw_DC, toward_DC, atol=1e-9 * np.abs(toward_DC).max())


def test_it_predicts_real_merges_better_than_the_ensemble(scorer, rows):
    checks, e = scorer.checks(), scorer.evaluation
    assert len(checks) == CHECKS
    real_MD = e.sums(scorer.merge(checks, rows).nll_MR, rows)
    bytes_D = e.sums(e.bytes_R[rows], rows)
    errors = [
        np.sqrt(np.mean(((each.sums(checks.w_MC) - real_MD) / bytes_D) ** 2))
        for each in (scorer.quadratic(rows), scorer.ensemble(rows))
    ]
    assert errors[0] < 0.8 * errors[1]


def test_the_mean_of_two_predictors_is_the_mean_of_their_losses(scorer, rows):
    w_MC = scorer.checks().w_MC
    merge, ensemble, mean = (
        form.sums(w_MC) for form in scorer.quadratics(rows).values()
    )
    np.testing.assert_allclose(mean, (merge + ensemble) / 2, rtol=1e-12)
    with pytest.raises(UserError, match="no predictor 'median'"):
        scorer.quadratic(rows, "median")


def test_a_damaged_member_is_as_if_it_were_not_there(scorer, rows, workdir, config):
    tiny.flip(tiny.largest_file(workdir / "pool" / "members" / "solo"))
    damaged = Scorer(workdir, config.score, override=True)
    checks, found = damaged.checks(), damaged.quadratic(rows)
    solo = damaged.members.index("solo")
    assert not checks.w_MC[:, solo].any()
    rest = [c for c in range(len(damaged.members)) if c != solo]
    u_C = np.isin(range(len(damaged.members)), rest) / len(rest)
    known = scorer.jacobian(u_C, 1.0, rows)
    np.testing.assert_allclose(
        found.sums(u_C[None])[0], scorer.evaluation.sums(known.nll_R, rows), rtol=SAME
    )
    with pytest.raises(DamagedError, match="1 mixture with a damaged member"):
        found.sums(np.eye(len(damaged.members))[[solo]])


def test_distances_count_every_domain_alike_whatever_its_length():
    generator = np.random.default_rng(1)
    nll_CT = generator.gamma(2.0, size=(3, 60)).astype(np.float32)
    domain_T = np.repeat([0, 2], [10, 50])
    apart_CC = token_distances(nll_CT, domain_T)
    square_CCT = np.square(nll_CT[:, None].astype(float) - nll_CT)
    expected_CC = square_CCT[..., :10].mean(axis=2) + square_CCT[..., 10:].mean(axis=2)
    np.testing.assert_allclose(apart_CC, expected_CC / 2, rtol=1e-12)
    nll_CT[1, 4] = np.inf
    found_CC = token_distances(nll_CT, domain_T)
    assert np.isnan(found_CC[1]).all() and np.isnan(found_CC[:, 1]).all()
    np.testing.assert_allclose(found_CC[0, 2], apart_CC[0, 2], rtol=1e-12)


def test_two_members_and_equal_members_have_a_closed_form():
    """Between two only the value can be met, and equal ones have no curvature."""
    apart_CC = np.array([[0.0, 2.0], [2.0, 0.0]])
    member_DC, u_C = np.array([[10.0, 12.0]]), np.full(2, 0.5)
    found = fit(member_DC, np.array([10.5]), np.array([[9.0, 12.0]]), apart_CC)
    assert found.slope(u_C)[0] == pytest.approx(10.5)
    same = fit(member_DC, np.array([11.0]), member_DC, 0 * apart_CC)
    assert same.sums(u_C[None]) == pytest.approx(11.0)


def test_it_refuses_itself_if_it_is_off_or_not_convex(invented):
    _, apart_CC = invented
    real_M = np.linspace(1.0, 2.0, CHECKS)
    hessian_CC = -apart_CC / 2  # of squared distances: convex along the simplex
    good = Misfit.of(real_M + 0.1 * real_M.std(), real_M, convexity(hessian_CC))
    assert good.share == pytest.approx(0.1) and good.refusal == ""
    off = Misfit.of(real_M + 0.3 * real_M.std(), real_M)
    assert "off by 30% of their spread, more than 20%" in off.refusal
    rounding_M = 3 + 1e-8 * real_M
    assert "do not differ" in Misfit.of(real_M, rounding_M).refusal
    assert Misfit.of(np.full(CHECKS, np.nan), real_M).refusal
    bent_CC = hessian_CC - 2 * np.outer(*(np.array([1.0, -1.0, 0, 0, 0]),) * 2)
    bent = dataclasses.replace(good, convexity=convexity(bent_CC))
    assert "not convex" in bent.refusal
