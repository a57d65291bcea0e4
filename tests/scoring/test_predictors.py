"""Ensemble and mean of members against slow references."""

import copy
import dataclasses

import numpy as np
import pytest

from jaxsim.errors import DamagedError
from jaxsim.scoring import predictors as predictors_module
from jaxsim.scoring.evaluation import scored_mask
from jaxsim.scoring.table import base_row, concatenate, dirichlet, singles, uniform


@pytest.fixture(scope="module")
def table(scorer):
    return concatenate(
        singles(scorer.members),
        uniform(scorer.members),
        dirichlet(scorer.members, 3, 1.0, seed=0),
    )


@pytest.fixture(scope="module")
def member_CT(scorer):
    return scorer.token_losses[1:]


def windows_of(scorer, nll_T):
    """Sums over the tokens of each window, one after the other."""
    ends = np.cumsum(scorer.evaluation.count_R)
    return np.array([part.sum() for part in np.split(nll_T, ends[:-1])])


def test_probability_is_the_loss_of_mean_probabilities(scorer, table, member_CT):
    found = scorer.predictors.ensemble(table, member_CT)
    for w_C, nll_R in zip(table.w_MC, found.nll_MR, strict=True):
        p_T = sum(
            w * np.exp(-nll_T.astype(np.float64))
            for w, nll_T in zip(w_C, member_CT, strict=True)
        )
        expected = windows_of(scorer, -np.log(p_T))
        np.testing.assert_allclose(nll_R, expected, rtol=1e-6)  # float32 result


@pytest.mark.parametrize("values", [1, 500])
@pytest.mark.parametrize("predictor", ["ensemble", "members"])
def test_some_mixtures_at_a_time_are_the_same(
    scorer, table, member_CT, predictor, values, monkeypatch
):
    expected = getattr(scorer.predictors, predictor)(table, member_CT).nll_MR
    monkeypatch.setattr(predictors_module, "_VALUES", values)
    found = getattr(scorer.predictors, predictor)(table, member_CT).nll_MR
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_sums_are_those_of_the_windows(scorer, table, member_CT, split):
    """Without an array of mixtures by windows; absent domains are zero."""
    e = scorer.evaluation
    rows = e.rows(split, windows=2)
    rows = rows[e.domain_R[rows] != 1]
    for sums, predictor in (
        (scorer.predictors.ensemble_sums, scorer.predictors.ensemble),
        (scorer.predictors.members_sums, scorer.predictors.members),
    ):
        found = sums(table.w_MC, member_CT, rows)
        nll_MR = predictor(table, member_CT).nll_MR.astype(np.float64)
        for d in range(len(e.domains)):
            here = rows[e.domain_R[rows] == d]
            np.testing.assert_allclose(
                found[:, d], nll_MR[:, here].sum(axis=1), rtol=1e-6
            )


def test_sums_of_a_damaged_member_are_refused(scorer, member_CT):
    stack = scorer.predictors.stack
    damaged = dataclasses.replace(stack, damaged=frozenset(["solo"]))
    predictors = copy.copy(scorer.predictors)
    predictors.stack = damaged
    without = np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    member_CT = member_CT.copy()
    member_CT[scorer.members.index("solo")] = np.inf
    rows = np.arange(6)
    for sums in (predictors.ensemble_sums, predictors.members_sums):
        assert np.isfinite(sums(without, member_CT, rows)).all()
        with pytest.raises(DamagedError, match="2 mixtures use 'solo', which"):
            sums(np.full((2, 4), 0.25), member_CT, rows)


def test_probability_of_an_improbable_token(scorer, table, member_CT):
    """In float32 exp(-200) is zero, and the loss of a one-hot infinite."""
    member_CT = np.full_like(member_CT, 200.0)
    found = scorer.predictors.ensemble(table, member_CT).nll_MR
    expected = 200.0 * scorer.evaluation.count_R
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape))


def test_members_is_the_weighted_mean(scorer, table, member_CT):
    found = scorer.predictors.members(table, member_CT)
    for w_C, nll_R in zip(table.w_MC, found.nll_MR, strict=True):
        expected = sum(
            w * windows_of(scorer, nll_T.astype(np.float64))
            for w, nll_T in zip(w_C, member_CT, strict=True)
        )
        np.testing.assert_allclose(nll_R, expected, rtol=1e-6)


def test_all_predictors_of_a_single_member_coincide(scorer, member_CT):
    """And of mixtures they do not: the average is at most the mean (Jensen)."""
    table = singles(scorer.members)
    scores = scorer.score("singles", table)
    merge, probability, members = (
        scores.predictors[name].nll_MR for name in ("merge", "ensemble", "members")
    )
    np.testing.assert_allclose(probability, merge, rtol=2e-5)
    np.testing.assert_allclose(members, merge, rtol=2e-5)
    mixed = dirichlet(scorer.members, 4, 1.0, seed=1)
    gap = (
        scorer.predictors.members(mixed, member_CT).nll_MR
        - scorer.predictors.ensemble(mixed, member_CT).nll_MR
    )
    assert gap.min() > 0


def test_token_losses_sum_to_the_windows_of_the_evaluator(scorer):
    e = scorer.evaluation
    rows = np.arange(len(e))
    assert scorer.token_losses.shape == (1 + len(scorer.members), e.count_R.sum())
    table = concatenate(base_row(scorer.members), singles(scorer.members))
    nll_MR = scorer.predictors._evaluator.score(table, rows)
    for nll_T, nll_R in zip(scorer.token_losses, nll_MR, strict=True):
        np.testing.assert_allclose(windows_of(scorer, nll_T), nll_R, rtol=2e-5)


def test_every_token_of_a_document_is_scored_once(scorer):
    e = scorer.evaluation
    assert scored_mask(e, np.arange(len(e))).sum() == e.count_R.sum()
    tokens = {(d, h): 0 for d in e.domains for h in ("dev", "test")}
    for domain, split, count in zip(e.domain_R, e.split_R, e.count_R, strict=True):
        tokens[e.domains[domain], ("dev", "test")[split]] += count
    for name, domain in scorer.corpus.domains.items():
        for split in ("dev", "test"):
            assert tokens[name, split] == domain.tokens[split]


def test_another_scale_has_no_mean_of_members(scorer, table, member_CT):
    scaled = dataclasses.replace(table, scale_M=np.full(len(table), 0.5))
    for predictor in (scorer.predictors.members, scorer.predictors.ensemble):
        assert np.isnan(predictor(scaled, member_CT).nll_MR).all()


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_loss_beyond_float32_is_refused_and_not_kept(scorer):
    table = uniform(scorer.members)
    wild = dataclasses.replace(table, scale_M=np.array([1e40]))
    rows = np.arange(4)
    with pytest.raises(DamagedError, match="'uniform': its loss is not finite"):
        scorer.predictors.merge("wild", wild, rows)
    with pytest.raises(DamagedError, match="'uniform': its loss is not finite"):
        scorer.predictors.merge("wild", wild, rows)
