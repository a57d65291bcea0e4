"""The log-linear function of weights: recovery, and edge cases."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from jaxsim.validation.baselines import fit_log_linear

T_C = np.array([-3.0, -1.0, 0.5, 0.0, 1.0])


def mixtures(count, members=5, seed=0):
    """[count, members], from a flat Dirichlet distribution."""
    return np.random.default_rng(seed).dirichlet(np.ones(members), count)


def losses(w_MC):
    return 1.5 + np.exp(0.3 + w_MC @ T_C)


def test_a_log_linear_function_is_recovered():
    w_MC, unseen_MC = mixtures(40), mixtures(200, seed=1)
    noise_M = np.random.default_rng(2).normal(0, 0.005, 40)
    fitted = fit_log_linear(w_MC, losses(w_MC) + noise_M)
    predicted_M = fitted.predict(unseen_MC)
    assert predicted_M.dtype == np.float64
    np.testing.assert_allclose(predicted_M, losses(unseen_MC), atol=0.02)
    assert spearmanr(predicted_M, losses(unseen_MC)).statistic > 0.999
    # Far from the fitted runs it is still that function, not its tangent.
    np.testing.assert_allclose(fitted.predict(np.eye(5)), losses(np.eye(5)), atol=0.15)


@pytest.mark.parametrize("unit", (1e-3, -1.0, 1e3))
def test_log_linear_takes_losses_in_any_unit(unit):
    # Negated, it is not in the family, but its ranks are still predicted.
    w_MC, unseen_MC = mixtures(40), mixtures(200, seed=1)
    predicted_M = fit_log_linear(w_MC, unit * losses(w_MC)).predict(unseen_MC)
    reference_M = unit * losses(unseen_MC)
    assert spearmanr(predicted_M, reference_M).statistic > 0.97
    if unit > 0:
        np.testing.assert_allclose(predicted_M, reference_M, rtol=0.01)


def test_few_runs_on_many_partitions_predict_almost_the_mean():
    # 12 runs could fit any noise in 20 columns.
    w_MC, unseen_MC = mixtures(12, 20), mixtures(200, 20, seed=1)
    noise_M = np.random.default_rng(2).normal(0, 0.1, 12)
    predicted_M = fit_log_linear(w_MC, 2 + noise_M).predict(unseen_MC)
    assert np.abs(predicted_M - 2).max() < 0.3


@pytest.mark.parametrize("seed", range(4))
def test_log_linear_does_not_depend_on_the_order_of_columns(seed):
    w_MC, unseen_MC = mixtures(20), mixtures(50, seed=1)
    loss_M = losses(w_MC) + np.random.default_rng(seed).normal(0, 0.3, 20)
    one_M, other_M = (
        fit_log_linear(w_MC[:, order], loss_M).predict(unseen_MC[:, order])
        for order in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1])
    )
    np.testing.assert_allclose(one_M, other_M, rtol=1e-3)


def test_far_extrapolation_is_finite():
    # A steep function of a partition that had hardly any weight.
    w_MC = np.linspace(0, 0.005, 20)[:, None] * [1, -1] + [0, 1]
    fitted = fit_log_linear(w_MC, np.exp(2000 * w_MC[:, 0]))
    with np.errstate(over="raise"):
        assert np.isfinite(fitted.predict(np.eye(2))).all()


@pytest.mark.parametrize("count", (1, 2, 3, 4, 5, 7))
def test_few_runs(count):
    w_MC = mixtures(count)
    loss_M = losses(w_MC)
    predicted_M = fit_log_linear(w_MC, loss_M).predict(mixtures(20, seed=1))
    assert np.isfinite(predicted_M).all()
    if count == 1:
        np.testing.assert_allclose(predicted_M, loss_M.mean())


def test_constant_losses_are_predicted():
    for value in (0.0, -2.5, 0.1 + 0.2):
        fitted = fit_log_linear(mixtures(12), np.full(12, value))
        np.testing.assert_allclose(fitted.predict(np.eye(5)), value)


def test_replicates_of_one_mixture_give_their_mean():
    w_MC = np.repeat(mixtures(1), 8, axis=0)
    loss_M = np.arange(8.0)
    np.testing.assert_allclose(fit_log_linear(w_MC, loss_M).predict(w_MC), 3.5)


def test_replicates_are_never_held_out_from_each_other():
    # Losses are noise: a fold that saw the replicate would trust it.
    w_MC = np.tile(mixtures(15, 15), (3, 1))
    noise_M = np.tile(np.random.default_rng(3).normal(0, 1, 15), 3)
    predicted_M = fit_log_linear(w_MC, noise_M).predict(w_MC)
    assert np.corrcoef(predicted_M, noise_M)[0, 1] < 0.9


def test_singles_and_few_mixtures():
    # As in a validation: every member and some runs; one weight never varies.
    w_MC = np.concatenate([np.eye(5), mixtures(7)])
    w_MC = np.concatenate([w_MC, np.zeros((12, 1))], axis=1)
    predicted_M = fit_log_linear(w_MC, losses(w_MC[:, :5])).predict(w_MC)
    assert spearmanr(predicted_M, losses(w_MC[:, :5])).statistic > 0.8


def test_it_is_deterministic():
    w_MC, unseen_MC = mixtures(20), mixtures(50, seed=1)
    loss_M = losses(w_MC) + np.random.default_rng(2).normal(0, 0.3, 20)
    one_M = fit_log_linear(w_MC, loss_M).predict(unseen_MC)
    for seed in range(2):
        np.random.seed(seed)
        fitted = fit_log_linear(w_MC, loss_M)
        again_M = fitted.predict(unseen_MC[::-1])
        np.testing.assert_array_equal(again_M[::-1], one_M)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="losses"):
        fit_log_linear(mixtures(3), np.ones(2))
    with pytest.raises(ValueError, match="losses"):
        fit_log_linear(np.empty((0, 5)), np.empty(0))
    with pytest.raises(ValueError, match="finite"):
        fit_log_linear(mixtures(2), np.array([1.0, np.nan]))
