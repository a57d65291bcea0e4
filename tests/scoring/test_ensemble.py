"""The ensemble at scale, against plain float64."""

import numpy as np
import pytest

from jaxsim.scoring import ensemble
from jaxsim.scoring.ensemble import Ensemble

# Of a sum of a few tokens or more; float32 products and logarithms.
TOLERANCE = 5e-7


def expected(w_MC, nll_CT, group_T, groups):
    """[M, G], with logarithms of the weights so that nothing underflows."""
    with np.errstate(divide="ignore"):
        log_MCT = np.log(w_MC)[:, :, None] - nll_CT.astype(np.float64)
    nll_MT = -np.logaddexp.reduce(log_MCT, axis=1)
    return np.stack(
        [nll_MT[:, group_T == g].sum(axis=1) for g in range(groups)], axis=1
    )


def draw(members, tokens, spread, seed=0):
    generator = np.random.default_rng(seed)
    nll_T = generator.exponential(3.0, tokens)
    nll_CT = nll_T + spread * generator.uniform(size=(members, tokens))
    return nll_CT.astype(np.float32)


@pytest.mark.parametrize("mixtures", [1, 40, 1030])
@pytest.mark.parametrize("groups", [2, 7, 300])
def test_sums_are_those_of_float64(mixtures, groups):
    """Groups in any order, some empty, some tokens of none."""
    generator = np.random.default_rng(groups)
    nll_CT = draw(5, 3000, spread=4.0)
    group_T = generator.integers(-1, groups, 3000)
    group_T[group_T == groups // 2] = -1
    w_MC = generator.dirichlet(np.full(5, 0.3), mixtures)
    found = Ensemble(nll_CT, group_T, groups).sums(w_MC)
    assert found.dtype == np.float64
    np.testing.assert_allclose(
        found, expected(w_MC, nll_CT, group_T, groups), rtol=TOLERANCE
    )
    assert not found[:, groups // 2].any()


def test_many_tokens_in_several_calls(monkeypatch):
    """Slices of tokens cut through groups."""
    monkeypatch.setattr(ensemble, "_TOKENS", 2**13)
    nll_CT = draw(3, 30_000, spread=4.0)
    group_T = np.repeat([2, 0, 1], 10_000)
    w_MC = np.random.default_rng(0).dirichlet(np.ones(3), 8)
    found = Ensemble(nll_CT, group_T, 3).sums(w_MC)
    np.testing.assert_allclose(
        found, expected(w_MC, nll_CT, group_T, 3), rtol=TOLERANCE
    )


@pytest.mark.parametrize("spread", [30.0, 59.0, 100.0, 2000.0])
def test_members_that_lie_far_apart(spread):
    """A mixture may have all its weight where float32 has no probability."""
    nll_CT = draw(4, 500, spread)
    w_MC = np.array(
        [
            [1.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 1.0],
            [0.0, 0.5, 0.5, 0.0],
            [1e-300, 1.0, 0.0, 0.0],
            [0.25, 0.25, 0.25, 0.25],
        ]
    )
    group_T = np.arange(500) % 3
    found = Ensemble(nll_CT, group_T, 3).sums(w_MC)
    np.testing.assert_allclose(
        found, expected(w_MC, nll_CT, group_T, 3), rtol=TOLERANCE
    )


@pytest.mark.parametrize("apart", [4.0, 80.0, 708.0, 900.0])
def test_slopes_where_a_used_member_is_far_worse(apart):
    """Value and derivatives are those of logarithms; see `sums`."""
    nll_CT = draw(3, 60, spread=1.0)
    nll_CT[0] += np.float32(apart)
    w_C = np.array([0.4, 0.6 - 1e-12, 1e-12]) if apart < 700 else np.eye(3)[0]
    group_T = np.arange(60) % 2
    nll_G, slope_GC = Ensemble(nll_CT, group_T, 2).slope(w_C)
    (expected_G,) = expected(w_C[None], nll_CT, group_T, 2)
    np.testing.assert_allclose(nll_G, expected_G, rtol=1e-12)
    nll_CT = nll_CT.astype(np.float64)
    with np.errstate(divide="ignore"):
        log_T = np.logaddexp.reduce(np.log(w_C)[:, None] - nll_CT, axis=0)
    steep_CT = np.exp(np.minimum(-nll_CT - log_T, 600.0))
    for g in range(2):
        exact_C = -steep_CT[:, group_T == g].sum(axis=1)
        np.testing.assert_allclose(slope_GC[g], exact_C, rtol=1e-10)


def test_a_member_without_any_probability():
    """It makes no token one whose members lie far apart."""
    nll_CT = draw(3, 400, spread=4.0)
    without = np.concatenate([nll_CT, np.full((1, 400), np.inf, np.float32)])
    without[3, 7] = 1.0
    w_MC = np.array([[0.2, 0.3, 0.5, 0.0], [0.5, 0.0, 0.0, 0.5]])
    average = Ensemble(without, np.zeros(400, int), 1)
    np.testing.assert_allclose(
        average.sums(w_MC), expected(w_MC, without, np.zeros(400), 1), rtol=TOLERANCE
    )
    assert not len(average._far_FC)


def test_padding_adds_nothing():
    """Groups of three tokens, and weights that sum to 1 within tolerance."""
    nll_CT = draw(2, 9, spread=1.0)
    w_MC = np.array([[0.6, 0.400009]])
    found = Ensemble(nll_CT, np.repeat([0, 1, 2], 3), 3).sums(w_MC)
    np.testing.assert_allclose(
        found, expected(w_MC, nll_CT, np.repeat([0, 1, 2], 3), 3), rtol=1e-6
    )


def test_no_tokens_at_all():
    average = Ensemble(draw(2, 9, 1.0), np.full(9, -1), 2)
    found = average.sums(np.full((3, 2), 0.5))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, np.zeros((3, 2)))


def test_no_number_of_mixtures_compiles_again():
    nll_CT = draw(3, 200, spread=1.0)
    average = Ensemble(nll_CT, np.zeros(200, int), 1)
    for mixtures in (20, 1500):
        average.sums(np.full((mixtures, 3), 1 / 3))
    programs = ensemble._log_averages._cache_size()
    for mixtures in (1, 32, 1024, 5000):
        average.sums(np.full((mixtures, 3), 1 / 3))
    assert ensemble._log_averages._cache_size() == programs
