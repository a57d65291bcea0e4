"""The log-linear law of weights: recovered, with nothing to stumble over."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from jaxsim.validation.baselines import fit_log_linear

T_C = np.array([-3.0, -1.0, 0.5, 0.0, 1.0])


def mixtures(count, members=5, base=0):
    """[count, members], from a flat sampling distribution."""
    return np.random.default_rng(base).dirichlet(np.ones(members), count)


def distribution(w_MC):
    return 1.5 + np.exp(0.3 + w_MC @ T_C)


def test_log_linear_sampling_distribution_is_recovered():
    w_MC, unseen_MC = mixtures(40), mixtures(200, base=1)
    noise_M = np.random.default_rng(2).normal(0, 0.005, 40)
    fitted = fit_log_linear(w_MC, distribution(w_MC) + noise_M)
    predicted_M = fitted.predict(unseen_MC)
    assert predicted_M.dtype == np.float64
    np.testing.assert_allclose(predicted_M, distribution(unseen_MC), atol=0.02)
    assert spearmanr(predicted_M, distribution(unseen_MC)).statistic > 0.999
    # Far from what was seen it is still that sampling distribution, not its tangent.
    np.testing.assert_allclose(
        fitted.predict(np.eye(5)), distribution(np.eye(5)), atol=0.15
    )


@pytest.mark.parametrize("unit", (1e-3, -1.0, 1e3))
def test_log_linear_takes_losses_in_any_unit(unit):
    # Negated, the sampling distribution is not of the family, but its ranks are.
    w_MC, unseen_MC = mixtures(40), mixtures(200, base=1)
    predicted_M = fit_log_linear(w_MC, unit * distribution(w_MC)).predict(unseen_MC)
    reference_M = unit * distribution(unseen_MC)
    assert spearmanr(predicted_M, reference_M).statistic > 0.97
    if unit > 0:
        np.testing.assert_allclose(predicted_M, reference_M, rtol=0.01)


def test_few_runs_of_many_partitions_are_trusted_little():
    # 12 runs could fit any noise in 20 columns.
    w_MC, unseen_MC = mixtures(12, 20), mixtures(200, 20, base=1)
    noise_M = np.random.default_rng(2).normal(0, 0.1, 12)
    predicted_M = fit_log_linear(w_MC, 2 + noise_M).predict(unseen_MC)
    assert np.abs(predicted_M - 2).max() < 0.3


@pytest.mark.parametrize("base", range(4))
def test_log_linear_does_not_depend_on_the_order_of_columns(base):
    w_MC, unseen_MC = mixtures(20), mixtures(50, base=1)
    loss_M = distribution(w_MC) + np.random.default_rng(base).normal(0, 0.3, 20)
    one_M, other_M = (
        fit_log_linear(w_MC[:, order], loss_M).predict(unseen_MC[:, order])
        for order in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1])
    )
    np.testing.assert_allclose(one_M, other_M, rtol=1e-3)


def test_far_extrapolation_is_finite():
    # A steep sampling distribution, of a partition that was hardly there.
    w_MC = np.linspace(0, 0.005, 20)[:, None] * [1, -1] + [0, 1]
    fitted = fit_log_linear(w_MC, np.exp(2000 * w_MC[:, 0]))
    with np.errstate(over="raise"):
        assert np.isfinite(fitted.predict(np.eye(2))).all()


@pytest.mark.parametrize("count", (1, 2, 3, 4, 5, 7))
def test_tiny(count):
    w_MC = mixtures(count)
    loss_M = distribution(w_MC)
    predicted_M = fit_log_linear(w_MC, loss_M).predict(mixtures(20, base=1))
    assert np.isfinite(predicted_M).all()
    if count == 1:
        np.testing.assert_allclose(predicted_M, loss_M.mean())


def test_constant_losses_are_predicted():
    for value in (0.0, -2.5, 0.1 + 0.2):
        fitted = fit_log_linear(mixtures(12), np.full(12, value))
        np.testing.assert_allclose(fitted.predict(np.eye(5)), value)


def test_one_mixture_repeated_gives_its_mean():
    w_MC = np.repeat(mixtures(1), 8, axis=0)
    loss_M = np.arange(8.0)
    np.testing.assert_allclose(fit_log_linear(w_MC, loss_M).predict(w_MC), 3.5)


def test_replicates_are_never_held_out_from_each_other():
    # Losses are noise: with its repeat in sight a fold would trust it.
    w_MC = np.tile(mixtures(15, 15), (3, 1))
    noise_M = np.tile(np.random.default_rng(3).normal(0, 1, 15), 3)
    predicted_M = fit_log_linear(w_MC, noise_M).predict(w_MC)
    assert np.corrcoef(predicted_M, noise_M)[0, 1] < 0.9


def test_singles_and_few_mixtures():
    # As a study has them: every member, and some reference runs; one never varies.
    w_MC = np.concatenate([np.eye(5), mixtures(7)])
    w_MC = np.concatenate([w_MC, np.zeros((12, 1))], axis=1)
    predicted_M = fit_log_linear(w_MC, distribution(w_MC[:, :5])).predict(w_MC)
    assert spearmanr(predicted_M, distribution(w_MC[:, :5])).statistic > 0.8


def test_twice_the_same():
    w_MC, unseen_MC = mixtures(20), mixtures(50, base=1)
    loss_M = distribution(w_MC) + np.random.default_rng(2).normal(0, 0.3, 20)
    one_M = fit_log_linear(w_MC, loss_M).predict(unseen_MC)
    for base in range(2):
        np.random.seed(base)
        fitted = fit_log_linear(w_MC, loss_M)
        again_M = fitted.predict(unseen_MC[::-1])
        np.testing.assert_array_equal(again_M[::-1], one_M)


def test_what_cannot_be_learned_from_is_refused():
    with pytest.raises(ValueError, match="losses"):
        fit_log_linear(mixtures(3), np.ones(2))
    with pytest.raises(ValueError, match="losses"):
        fit_log_linear(np.empty((0, 5)), np.empty(0))
    with pytest.raises(ValueError, match="finite"):
        fit_log_linear(mixtures(2), np.array([1.0, np.nan]))
