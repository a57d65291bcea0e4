"""Tie sets: do they hold the true best as often as they say?"""

import dataclasses

import numpy as np
import pytest

from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.mixture.scores import ProxyScores
from jaxsim.search.ties import (
    AFTER_TRUTHS,
    BEFORE_TRUTHS,
    Residual,
    objective,
    resampled_objective,
    tie_set,
)

LEVEL = 0.9
PROBLEMS = 300
BYTES = 100


def text(documents: int, windows: int, domains: int = 1) -> EvaluationSet:
    """Select text only: so many documents of so many windows a domain."""
    count = documents * windows * domains
    document_R = np.arange(count) // windows
    ones_R = np.ones(count, np.int32)
    return EvaluationSet(
        tokens_RL1=np.zeros((count, 2), np.int32),
        first_R=0 * ones_R,
        count_R=ones_R,
        length_R=ones_R,
        domain_R=document_R // documents,
        half_R=0 * ones_R,
        document_R=document_R,
        bytes_R=BYTES * ones_R,
        domains=tuple(f"d{d}" for d in range(domains)),
        in_pool=(False,) * domains,
        documents=tuple(map(str, range(documents * domains))),
        digest="x",
    )


def draw_scores(generator, e: EvaluationSet, mean_M, noise) -> ProxyScores:
    """Bits per byte `mean_M`, plus what documents and windows differ by."""
    documents = len(e.documents)
    shared_R = generator.normal(0, 0.3, documents)[e.document_R]
    own_MR = generator.normal(0, noise, (len(mean_M), documents))
    bits_MR = mean_M[:, None] + shared_R + own_MR[:, e.document_R]
    nll_MR = (2 + bits_MR) * BYTES * np.log(2)
    return ProxyScores(np.arange(len(e)), nll_MR.astype(np.float32))


def ties_of(e, proxy, residual=None, rng=0, draws=300, **options):
    target_D = np.ones(len(e.domains))
    draw_MB, unit = resampled_objective(
        e, proxy, "select", target_D, rng, draws
    )
    bits_MR = proxy.nll_MR / BYTES / np.log(2)
    value_M = bits_MR.mean(1)  # all windows have the same number of bytes
    return tie_set(value_M, draw_MB, unit, LEVEL, residual=residual, **options)


@pytest.mark.parametrize(
    ("documents", "windows", "mixtures", "spread", "deviation"),
    [(25, 2, 15, 0.02, 0.0), (5, 1, 30, 0.02, 0.0), (25, 1, 15, 0.1, 0.05)],
    ids=["documents", "five windows", "residual"],
)
def test_the_true_best_is_held(documents, windows, mixtures, spread, deviation):
    """At least at the level, within two standard errors of 300 problems."""
    e, held, sizes = text(documents, windows), 0, []
    for problem in range(PROBLEMS):
        generator = np.random.default_rng(problem)
        # Close enough for the best to be lost now and then.
        mean_M = generator.normal(0, spread, mixtures)
        proxy = draw_scores(generator, e, mean_M, 0.05)
        truth_M, residual = mean_M, None
        if deviation:
            # Known from 8 truths only.
            scatter = generator.normal(0, deviation, mixtures + 8)
            truth_M = mean_M + scatter[:mixtures]
            residual = Residual(float(scatter[mixtures:].std(ddof=1)), 8)
        ties = ties_of(e, proxy, residual, rng=problem)
        held += int(np.argmin(truth_M)) in ties.tied
        sizes.append(len(ties.tied))
    slack = 2 * np.sqrt(LEVEL * (1 - LEVEL) / PROBLEMS)
    assert held / PROBLEMS >= LEVEL - slack
    assert np.mean(sizes) < 0.95 * mixtures  # and it says something


def test_without_the_residual_truths_are_missed():
    """Document error alone is not the error of a proxy for training."""
    e, held = text(25, 1), 0
    for problem in range(100):
        generator = np.random.default_rng(problem)
        mean_M = generator.normal(0, 0.02, 15)
        proxy = draw_scores(generator, e, mean_M, 0.01)
        truth_M = mean_M + generator.normal(0, 0.1, 15)
        held += int(np.argmin(truth_M)) in ties_of(e, proxy, rng=problem).tied
    assert held < 50


def test_a_clear_best_ties_with_nothing():
    generator = np.random.default_rng(0)
    mean_M = np.array([0.0, -1.0, 0.5, 0.6])
    ties = ties_of(
        text(25, 1), draw_scores(generator, text(25, 1), mean_M, 0.05)
    )
    assert ties.best == 1
    assert ties.tied.tolist() == [1]
    np.testing.assert_allclose(
        ties.difference_M, mean_M + 1, atol=5 * 0.05 * np.sqrt(2 / 25)
    )


def test_twins_tie_and_do_not_widen_the_set():
    e = text(25, 1)
    generator = np.random.default_rng(0)
    proxy = draw_scores(generator, e, np.array([0.0, 0.4, 0.5]), 0.02)
    alone = ties_of(e, proxy)
    assert alone.tied.tolist() == [0]
    # A twin that differs by what rounding does to one window.
    twin_R = proxy.nll_MR[0].astype(np.float64)
    twin_R[3] *= 1 + 1e-12
    nll_MR = np.concatenate([proxy.nll_MR, twin_R[None]])
    ties = ties_of(e, ProxyScores(proxy.rows, nll_MR))
    assert ties.tied.tolist() == [0, 3]
    assert ties.critical == pytest.approx(alone.critical)


def test_what_is_not_worth_it_ties():
    e = text(25, 1)
    generator = np.random.default_rng(0)
    proxy = draw_scores(generator, e, np.array([0.0, 0.01, 0.1]), 1e-4)
    assert ties_of(e, proxy).tied.tolist() == [0]
    assert ties_of(e, proxy, worth=0.01).tied.tolist() == [0, 1]
    assert ties_of(e, proxy, worth=0.06).tied.tolist() == [0, 1, 2]


def test_headings():
    e = text(25, 1)
    proxy = draw_scores(np.random.default_rng(0), e, np.zeros(3), 0.05)
    assert ties_of(e, proxy).heading == BEFORE_TRUTHS
    assert BEFORE_TRUTHS == "ties between merges, not yet about training"
    assert ties_of(e, proxy, Residual(0.1, 5)).heading == AFTER_TRUTHS


def test_a_residual_widens_the_set():
    e = text(25, 1)
    mean_M = np.linspace(0, 1, 11)
    proxy = draw_scores(np.random.default_rng(0), e, mean_M, 0.01)
    sizes = [
        len(ties_of(e, proxy, residual).tied)
        for residual in (None, Residual(0.05, 20), Residual(0.2, 20))
    ]
    assert sizes[0] < sizes[1] < sizes[2]
    # The same scatter, known from three truths only, is known worse.
    few = ties_of(e, proxy, Residual(0.05, 3))
    many = ties_of(e, proxy, Residual(0.05, 100))
    assert len(few.tied) > len(many.tied)


def test_documents_are_resampled_from_twenty_on():
    """As a cluster: windows of one document are alike."""
    generator = np.random.default_rng(0)
    mean_M = np.zeros(2)
    spread = {}
    for documents, windows in ((20, 10), (19, 10)):
        e = text(documents, windows)
        proxy = draw_scores(generator, e, mean_M, 0.05)
        draw_MB, unit = resampled_objective(
            e, proxy, "select", np.ones(1), rng=0
        )
        spread[unit] = draw_MB.std(1).mean()
    assert spread.keys() == {"documents", "windows"}
    # 200 windows in 20 documents are no 200 draws: sqrt(10) apart.
    assert spread["documents"] > 2 * spread["windows"]


def test_resampled_spread_is_that_of_the_mean():
    """Of few units too: as a t distribution of n - 1 degrees of freedom."""
    generator = np.random.default_rng(0)
    for windows, extra in ((40, 1.0), (6, np.sqrt(5 / 3))):
        e = text(1, windows)
        # One document, so that windows are resampled.
        bits_R = generator.normal(0, 1, windows)
        nll_R = ((5 + bits_R) * BYTES * np.log(2)).astype(np.float32)
        draw_MB, unit = resampled_objective(
            e, ProxyScores(np.arange(windows), nll_R[None]), "select",
            np.ones(1), rng=1, draws=20_000,
        )  # fmt: skip
        assert unit == "windows"
        expected = bits_R.std(ddof=1) / np.sqrt(windows) * extra
        assert draw_MB.std() == pytest.approx(expected, rel=0.08)
        assert draw_MB.mean() == pytest.approx(5 + bits_R.mean(), abs=0.05)


def test_domains_are_weighted():
    e = text(20, 1, domains=2)
    bits_R = np.where(e.domain_R == 0, 1.0, 3.0)
    nll_MR = (bits_R * BYTES * np.log(2)).astype(np.float32)[None]
    proxy = ProxyScores(np.arange(len(e)), nll_MR)
    for target_D, expected in (((1, 0), 1), ((1, 1), 2), ((1, 3), 2.5)):
        target_D = np.array(target_D, float)
        assert objective(np.array([[1.0, 3.0]]), target_D) == expected
        draw_MB, _ = resampled_objective(e, proxy, "select", target_D, 0, 5)
        np.testing.assert_allclose(draw_MB, expected, rtol=1e-6)
    # A domain that is no target may have no window at all.
    bits_MD = np.array([[1.0, np.nan]])
    assert objective(bits_MD, np.array([2.0, 0.0])) == 1


def test_the_report_half_takes_no_part():
    e = text(20, 2)
    half_R = np.arange(len(e)) % 2
    e = dataclasses.replace(e, half_R=half_R)
    proxy = draw_scores(np.random.default_rng(0), e, np.zeros(2), 0.05)
    draws, _ = resampled_objective(e, proxy, "select", np.ones(1), 0)
    spoiled = proxy.nll_MR.copy()
    spoiled[:, half_R == 1] = np.nan
    again, _ = resampled_objective(
        e, ProxyScores(proxy.rows, spoiled), "select", np.ones(1), 0
    )
    np.testing.assert_array_equal(draws, again)
