"""Probability average and mean of members against slow references."""

import copy
import dataclasses

import numpy as np
import pytest

from jaxsim.errors import DamagedError
from jaxsim.mixture import proxies as proxies_module
from jaxsim.mixture.evaluation import scored_mask
from jaxsim.mixture.table import (
    concatenate,
    dirichlet,
    seed_row,
    singles,
    uniform,
)


@pytest.fixture(scope="module")
def table(scorer):
    return concatenate(
        singles(scorer.members),
        uniform(scorer.members),
        dirichlet(scorer.members, 3, 1.0, rng=0),
    )


@pytest.fixture(scope="module")
def member_CT(scorer):
    return scorer.token_losses[1:]


def windows_of(scorer, nll_T):
    """Sums over the tokens of each window, one after the other."""
    ends = np.cumsum(scorer.evaluation.count_R)
    return np.array([part.sum() for part in np.split(nll_T, ends[:-1])])


def test_probability_is_the_loss_of_mean_probabilities(
    scorer, table, member_CT
):
    found = scorer.proxies.probability(table, member_CT)
    for w_C, nll_R in zip(table.w_MC, found.nll_MR, strict=True):
        p_T = sum(
            w * np.exp(-nll_T.astype(np.float64))
            for w, nll_T in zip(w_C, member_CT, strict=True)
        )
        expected = windows_of(scorer, -np.log(p_T))
        np.testing.assert_allclose(nll_R, expected, rtol=1e-6)  # float32 result


@pytest.mark.parametrize("values", [1, 500])
@pytest.mark.parametrize("proxy", ["probability", "members"])
def test_some_mixtures_at_a_time_are_the_same(
    scorer, table, member_CT, proxy, values, monkeypatch
):
    expected = getattr(scorer.proxies, proxy)(table, member_CT).nll_MR
    monkeypatch.setattr(proxies_module, "_VALUES", values)
    found = getattr(scorer.proxies, proxy)(table, member_CT).nll_MR
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("half", ["select", "report"])
def test_sums_are_those_of_the_windows(scorer, table, member_CT, half):
    """Without an array of mixtures by windows; absent domains are zero."""
    e = scorer.evaluation
    rows = e.rows(half, windows=2)
    rows = rows[e.domain_R[rows] != 1]
    for sums, proxy in (
        (scorer.proxies.probability_sums, scorer.proxies.probability),
        (scorer.proxies.members_sums, scorer.proxies.members),
    ):
        found = sums(table.w_MC, member_CT, rows)
        nll_MR = proxy(table, member_CT).nll_MR.astype(np.float64)
        for d in range(len(e.domains)):
            here = rows[e.domain_R[rows] == d]
            np.testing.assert_allclose(
                found[:, d], nll_MR[:, here].sum(axis=1), rtol=1e-6
            )


def test_sums_of_a_damaged_member_are_refused(scorer, member_CT):
    stack = scorer.proxies.stack
    damaged = dataclasses.replace(stack, damaged=frozenset(["solo"]))
    proxies = copy.copy(scorer.proxies)
    proxies.stack = damaged
    without = np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    member_CT = member_CT.copy()
    member_CT[scorer.members.index("solo")] = np.inf
    rows = np.arange(6)
    for sums in (proxies.probability_sums, proxies.members_sums):
        assert np.isfinite(sums(without, member_CT, rows)).all()
        with pytest.raises(DamagedError, match="2 mixtures use 'solo', which"):
            sums(np.full((2, 4), 0.25), member_CT, rows)


def test_probability_of_an_improbable_token(scorer, table, member_CT):
    """In float32 exp(-200) is zero, and the loss of a one-hot infinite."""
    member_CT = np.full_like(member_CT, 200.0)
    found = scorer.proxies.probability(table, member_CT).nll_MR
    expected = 200.0 * scorer.evaluation.count_R
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape))


def test_members_is_the_weighted_mean(scorer, table, member_CT):
    found = scorer.proxies.members(table, member_CT)
    for w_C, nll_R in zip(table.w_MC, found.nll_MR, strict=True):
        expected = sum(
            w * windows_of(scorer, nll_T.astype(np.float64))
            for w, nll_T in zip(w_C, member_CT, strict=True)
        )
        np.testing.assert_allclose(nll_R, expected, rtol=1e-6)


def test_all_proxies_of_a_single_member_coincide(scorer, member_CT):
    """And of mixtures they do not: the average is at most the mean (Jensen)."""
    table = singles(scorer.members)
    scores = scorer.score("singles", table)
    merge, probability, members = (
        scores.proxies[name].nll_MR
        for name in ("merge", "probability", "members")
    )
    np.testing.assert_allclose(probability, merge, rtol=2e-5)
    np.testing.assert_allclose(members, merge, rtol=2e-5)
    mixed = dirichlet(scorer.members, 4, 1.0, rng=1)
    gap = (
        scorer.proxies.members(mixed, member_CT).nll_MR
        - scorer.proxies.probability(mixed, member_CT).nll_MR
    )
    assert gap.min() > 0


def test_token_losses_sum_to_the_windows_of_the_evaluator(scorer):
    e = scorer.evaluation
    rows = np.arange(len(e))
    assert scorer.token_losses.shape == (
        1 + len(scorer.members),
        e.count_R.sum(),
    )
    table = concatenate(seed_row(scorer.members), singles(scorer.members))
    nll_MR = scorer.proxies._evaluator.score(table, rows)
    for nll_T, nll_R in zip(scorer.token_losses, nll_MR, strict=True):
        np.testing.assert_allclose(windows_of(scorer, nll_T), nll_R, rtol=2e-5)


def test_every_token_of_a_document_is_scored_once(scorer):
    e = scorer.evaluation
    assert scored_mask(e, np.arange(len(e))).sum() == e.count_R.sum()
    tokens = {(d, h): 0 for d in e.domains for h in ("select", "report")}
    for domain, half, count in zip(
        e.domain_R, e.half_R, e.count_R, strict=True
    ):
        tokens[e.domains[domain], ("select", "report")[half]] += count
    for name, domain in scorer.corpus.domains.items():
        for half in ("select", "report"):
            assert tokens[name, half] == domain.tokens[half]


def test_another_scale_has_no_mean_of_members(scorer, table, member_CT):
    scaled = dataclasses.replace(table, scale_M=np.full(len(table), 0.5))
    for proxy in (scorer.proxies.members, scorer.proxies.probability):
        assert np.isnan(proxy(scaled, member_CT).nll_MR).all()


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_loss_beyond_float32_is_refused_and_not_kept(scorer):
    table = uniform(scorer.members)
    wild = dataclasses.replace(table, scale_M=np.array([1e40]))
    rows = np.arange(4)
    with pytest.raises(DamagedError, match="'uniform': its loss is not finite"):
        scorer.proxies.merge("wild", wild, rows)
    with pytest.raises(DamagedError, match="'uniform': its loss is not finite"):
        scorer.proxies.merge("wild", wild, rows)
