"""A design is made of different ratios, and teaches more than draws do."""

import numpy as np
import pytest

from jaxsim.study.design import design

MEMBERS = 12
NOISE = 0.1
COVARIANCE_CC = np.eye(MEMBERS) + 1  # of coefficients that share a mean


def curved(w_KC: np.ndarray) -> np.ndarray:
    return w_KC * (1 - w_KC)


def targets(generator, count=2000) -> np.ndarray:
    """Mixtures that are to be predicted."""
    concentrations = (1.0, 4.0)
    return np.concatenate(
        [
            generator.dirichlet(np.full(MEMBERS, alpha), count // 2)
            for alpha in concentrations
        ]
    )


def taught(design_MC: np.ndarray) -> np.ndarray:
    """[C, M] coefficients from differences: their mean given the truths."""
    x_MC = curved(design_MC)
    among_MM = x_MC @ COVARIANCE_CC @ x_MC.T + NOISE**2 * np.eye(len(x_MC))
    return COVARIANCE_CC @ x_MC.T @ np.linalg.inv(among_MM)


def left_over(design_MC: np.ndarray, w_KC: np.ndarray) -> float:
    """Mean variance of the difference at mixtures, after a design."""
    x_MC, x_KC = curved(design_MC), curved(w_KC)
    after_CC = COVARIANCE_CC - taught(design_MC) @ x_MC @ COVARIANCE_CC
    return float(np.mean(np.sum(x_KC @ after_CC * x_KC, axis=1)))


def randoms(count: int, generator, draws: int = 20) -> list[np.ndarray]:
    """Designs drawn from what truths are drawn from."""
    return [
        generator.dirichlet(np.full(MEMBERS, 4.0), count) for _ in range(draws)
    ]


def test_ratios_of_several_members():
    w_MC = design(10, MEMBERS)
    assert w_MC.shape == (10, MEMBERS)
    assert (w_MC >= 0).all()
    np.testing.assert_allclose(w_MC.sum(axis=1), 1, atol=1e-12)
    assert (np.count_nonzero(w_MC, axis=1) > 1).all()


@pytest.mark.parametrize("only_subsets", [False, True])
def test_a_longer_design_begins_with_the_shorter_one(only_subsets):
    longer_MC = design(9, MEMBERS, only_subsets)
    np.testing.assert_array_equal(
        longer_MC[:4], design(4, MEMBERS, only_subsets)
    )


def test_ratios_are_apart():
    """By a tenth of the tokens or more."""
    w_MC = design(24, 3)
    for m, w_C in enumerate(w_MC):
        apart_M = np.abs(np.delete(w_MC, m, axis=0) - w_C).sum(axis=1) / 2
        assert apart_M.min() >= 0.1


def test_no_excluded_ratio():
    judged_MC = design(4, MEMBERS)
    found_MC = design(6, MEMBERS, exclude_MC=judged_MC)
    assert len(found_MC) == 6
    for w_C in found_MC:  # nor a near twin, which shares its noise
        assert np.abs(judged_MC - w_C).sum(axis=1).min() / 2 >= 0.05


def test_an_excluded_ratio_may_be_rounded():
    """Six decimals of a table: 0.166665 beside five times 0.166667."""
    sixth_C = np.full(6, 1 / 6)
    assert (np.abs(design(60, 6, True) - sixth_C).max(axis=1) < 1e-9).any()
    rounded_C = np.round(sixth_C, 6)
    rounded_C[0] += 1 - rounded_C.sum()
    found_MC = design(60, 6, True, exclude_MC=rounded_C[None])
    assert (np.abs(found_MC - sixth_C).max(axis=1) > 1e-3).all()


def test_only_subsets():
    """Equal weights; and all eleven of four members, once each."""
    for w_C in design(8, MEMBERS, only_subsets=True):
        weights = w_C[w_C > 0]
        np.testing.assert_allclose(weights, 1 / len(weights))
    assert len(design(100, 4, only_subsets=True)) == 2**4 - 4 - 1
    weights_MC = design(8, MEMBERS)
    assert not np.allclose(weights_MC[weights_MC > 0], 1 / MEMBERS)


def test_a_function_of_its_rng():
    np.testing.assert_array_equal(design(5, MEMBERS), design(5, MEMBERS))
    assert not np.array_equal(design(5, MEMBERS), design(5, MEMBERS, rng=1))


@pytest.mark.parametrize("count, most", [(4, 1.0), (8, 0.9), (16, 0.6)])
def test_it_leaves_less_than_random_designs(count, most):
    """Than their mean; from eight ratios on, than any of twenty."""
    generator = np.random.default_rng(count)
    w_KC = targets(generator)
    left_D = [left_over(w_MC, w_KC) for w_MC in randoms(count, generator)]
    left = left_over(design(count, MEMBERS), w_KC)
    assert left < most * np.mean(left_D)
    assert count < 8 or left < 0.95 * min(left_D)


def test_a_calibration_learns_more_from_it():
    """Truth minus merge is what the design supposes, with other numbers."""
    generator = np.random.default_rng(1)
    w_KC = targets(generator)
    designs = [design(8, MEMBERS), *randoms(8, generator, 10)]
    error_D = np.zeros(len(designs))
    for _ in range(200):
        a_C = generator.normal(1.0, 0.7, MEMBERS)
        for d, w_MC in enumerate(designs):
            difference_M = curved(w_MC) @ a_C
            difference_M += NOISE * generator.standard_normal(len(w_MC))
            off_C = taught(w_MC) @ difference_M - a_C
            error_D[d] += np.mean((curved(w_KC) @ off_C) ** 2)
    assert error_D[0] < 0.95 * error_D[1:].min()
