"""The worth of the next percent, against the evaluator."""

import dataclasses

import numpy as np

from jaxsim.mixture.gradient import Differentiator, marginal_values
from jaxsim.mixture.stack import resident
from jaxsim.mixture.table import dirichlet, singles


def test_by_hand():
    dw_DC = np.array([[4.0, 8.0], [0.0, -8.0]])
    bits_DC = marginal_values(
        dw_DC, np.array([0.75, 0.25]), np.array([10, 100]), share=0.1
    )
    # Means 5 and -2; to the second member, 0.1 * 3 nats over 10 bytes.
    expected = np.array([[-0.01, 0.03], [0.002, -0.006]]) / np.log(2)
    np.testing.assert_allclose(bits_DC, expected)


def test_the_weighted_mean_is_zero():
    rng = np.random.default_rng(0)
    w_C = rng.dirichlet(np.ones(7))
    bits_DC = marginal_values(
        rng.normal(size=(3, 7)), w_C, np.array([5, 1, 90])
    )
    np.testing.assert_allclose(bits_DC @ w_C, 0, atol=1e-15)


def test_a_domain_without_text_has_no_value():
    bits_DC = marginal_values(np.zeros((2, 3)), np.eye(3)[0], np.array([0, 9]))
    assert np.isnan(bits_DC[0]).all()
    assert not bits_DC[1].any()


def test_moving_tokens_changes_the_scores(scorer):
    """By the first-order values, up to the share's square."""
    e, members = scorer.evaluation, scorer.members
    rows = np.arange(len(e))
    pool = resident(scorer.proxies.stack)
    jacobian = Differentiator(
        scorer.pool.model, pool, e, scorer.config
    ).jacobian
    share = 1e-3  # the tiny model is far from linear
    (w_C,) = dirichlet(members, 1, 1.0, rng=3).w_MC
    bytes_D = np.bincount(e.domain_R, e.bytes_R)
    value_DC = marginal_values(
        jacobian(w_C, 1.0, rows).dw_DC, w_C, bytes_D, share
    )
    moved_MC = w_C + share * np.concatenate(
        [np.eye(len(members)) - w_C, w_C - np.eye(len(members))]
    )
    table = singles(members)
    table = dataclasses.replace(
        table,
        names=tuple(f"moved {i}" for i in range(len(moved_MC))),
        kinds=("given",) * len(moved_MC),
        w_MC=moved_MC,
        scale_M=np.ones(len(moved_MC)),
    )
    nll_MR = scorer.proxies.merge("marginal", table, rows).nll_MR
    nll_MD = np.array([np.bincount(e.domain_R, nll_R) for nll_R in nll_MR])
    bits_MD = nll_MD / (bytes_D * np.log(2))
    up_CD, down_CD = np.split(bits_MD, 2)
    np.testing.assert_allclose(
        value_DC,
        (up_CD - down_CD).T / 2,
        atol=1e-2 * np.abs(value_DC).max(),
    )
