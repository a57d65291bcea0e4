"""Ensemble and mean of members against slow references."""

import dataclasses

import numpy as np
import pytest

from jaxsim.errors import DamagedError
from jaxsim.scoring import scorer as scorers
from jaxsim.scoring.evaluation import scored_mask
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.table import base_row, concatenate, dirichlet, singles, uniform

from . import tiny


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


def predicted(scorer, table, predictor):
    """Nats of all windows; merges are scored on few."""
    return scorer.score("mine", table, windows=1).predictors[predictor].nll_MR


def test_probability_is_the_loss_of_mean_probabilities(scorer, table, member_CT):
    found_MR = predicted(scorer, table, "ensemble")
    for w_C, nll_R in zip(table.w_MC, found_MR, strict=True):
        p_T = sum(
            w * np.exp(-nll_T.astype(np.float64))
            for w, nll_T in zip(w_C, member_CT, strict=True)
        )
        expected = windows_of(scorer, -np.log(p_T))
        np.testing.assert_allclose(nll_R, expected, rtol=1e-6)  # float32 result


@pytest.mark.parametrize("predictor", ["ensemble", "members"])
def test_some_mixtures_at_a_time_are_the_same(scorer, table, predictor, monkeypatch):
    expected = predicted(scorer, table, predictor)
    monkeypatch.setattr(scorers, "_VALUES", 1)
    np.testing.assert_allclose(predicted(scorer, table, predictor), expected, rtol=1e-6)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_sums_are_those_of_the_windows(scorer, table, split):
    """Without an array of mixtures by windows; absent domains are zero."""
    e = scorer.evaluation
    rows = e.rows(split, windows=2)
    rows = rows[e.domain_R[rows] != 1]
    for predictor, found in (
        ("ensemble", scorer.ensemble(rows).sums(table.w_MC)),
        ("members", scorer.members_sums(table.w_MC, rows)),
    ):
        nll_MR = predicted(scorer, table, predictor).astype(np.float64)
        for d in range(len(e.domains)):
            here = rows[e.domain_R[rows] == d]
            np.testing.assert_allclose(
                found[:, d], nll_MR[:, here].sum(axis=1), rtol=1e-6
            )


def test_sums_of_a_damaged_member_are_refused(workdir, config):
    tiny.flip(tiny.largest_file(workdir / "pool/members/solo"))
    scorer = Scorer(workdir, config.score, override=True)
    without = np.array([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    rows = np.arange(6)
    for sums in (scorer.ensemble(rows).sums, lambda w: scorer.members_sums(w, rows)):
        assert np.isfinite(sums(without)).all()
        with pytest.raises(DamagedError, match="2 mixtures with a damaged member"):
            sums(np.full((2, 4), 0.25))


def test_members_is_the_weighted_mean(scorer, table, member_CT):
    found_MR = predicted(scorer, table, "members")
    for w_C, nll_R in zip(table.w_MC, found_MR, strict=True):
        expected = sum(
            w * windows_of(scorer, nll_T.astype(np.float64))
            for w, nll_T in zip(w_C, member_CT, strict=True)
        )
        np.testing.assert_allclose(nll_R, expected, rtol=1e-6)


def test_all_predictors_of_a_single_member_coincide(scorer):
    """And of mixtures they do not: the average is at most the mean (Jensen)."""
    table = singles(scorer.members)
    scores = scorer.score("singles", table)
    merge, probability, members = (
        scores.predictors[name].nll_MR for name in ("merge", "ensemble", "members")
    )
    np.testing.assert_allclose(probability, merge, rtol=2e-5)
    np.testing.assert_allclose(members, merge, rtol=2e-5)
    mixed = dirichlet(scorer.members, 4, 1.0, seed=1)
    above = predicted(scorer, mixed, "members") - predicted(scorer, mixed, "ensemble")
    assert above.min() > 0


def test_token_losses_sum_to_the_windows_of_the_evaluator(scorer):
    e = scorer.evaluation
    rows = np.arange(len(e))
    assert scorer.token_losses.shape == (1 + len(scorer.members), e.count_R.sum())
    table = concatenate(base_row(scorer.members), singles(scorer.members))
    nll_MR = scorer.evaluator.score(table, rows)
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


def test_another_scale_has_no_mean_of_members(scorer, table):
    scaled = dataclasses.replace(table, scale_M=np.full(len(table), 0.5))
    for predictor in ("members", "ensemble"):
        assert np.isnan(predicted(scorer, scaled, predictor)).all()


@pytest.mark.filterwarnings("ignore:overflow")
def test_a_loss_beyond_float32_is_refused_and_not_kept(scorer):
    table = uniform(scorer.members)
    wild = dataclasses.replace(table, scale_M=np.array([1e40]))
    rows = np.arange(4)
    with pytest.raises(DamagedError, match="'uniform': its loss is not finite"):
        scorer.merge(wild, rows)
    with pytest.raises(DamagedError, match="'uniform': its loss is not finite"):
        scorer.merge(wild, rows)
