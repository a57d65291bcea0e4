"""Tie sets: do they hold the true best as often as they say?"""

import numpy as np
import pytest

from jaxsim.search import ties as module
from jaxsim.search.resample import resampled
from jaxsim.search.ties import AFTER_TRUTHS, BEFORE_TRUTHS, Residual, tie_set
from search.simulated import losses, nats, objective, skewed, text

LEVEL = 0.9
PROBLEMS = 300
SLACK = 2 * np.sqrt(LEVEL * (1 - LEVEL) / PROBLEMS)


def ties_of(e, nll_MR, residual=None, rng=0, draws=300, about=None, **options):
    values = resampled(
        e, np.arange(len(e)), nll_MR, "select", about or objective(), rng, draws
    )
    return tie_set(*values, LEVEL, residual=residual, rng=rng, **options)


@pytest.mark.parametrize(
    ("documents", "windows", "mixtures", "spread", "deviation"),
    [(25, 2, 15, 0.02, 0.0), (5, 1, 30, 0.1, 0.0), (25, 1, 15, 0.1, 0.05)],
    ids=["documents", "five windows", "residual"],
)
def test_the_true_best_is_held(documents, windows, mixtures, spread, deviation):
    """At least at the level, within two standard errors of 300 problems."""
    e, held, sizes = text(documents, windows), 0, []
    for problem in range(PROBLEMS):
        generator = np.random.default_rng(problem)
        # Close enough for the best to be lost now and then.
        mean_M = generator.normal(0, spread, mixtures)
        nll_MR = losses(generator, e, mean_M, 0.05)
        truth_M, residual = mean_M, None
        if deviation:
            # Known from 8 truths only.
            scatter = generator.normal(0, deviation, mixtures + 8)
            truth_M = mean_M + scatter[:mixtures]
            residual = Residual(float(scatter[mixtures:].std(ddof=1)), 8)
        ties = ties_of(e, nll_MR, residual, rng=problem)
        held += int(np.argmin(truth_M)) in ties.tied
        sizes.append(len(ties.tied))
    assert held / PROBLEMS >= LEVEL - SLACK
    assert np.mean(sizes) < 0.95 * mixtures  # and it says something


def test_all_equally_good_is_the_hardest_case_and_is_exact():
    """Any of them may be asked for; each is held at the level, not above."""
    e, held = text(50), []
    for problem in range(200):
        generator = np.random.default_rng(problem)
        nll_MR = losses(generator, e, np.zeros(20), 0.05)
        ties = ties_of(e, nll_MR, rng=problem, draws=200)
        held.append(len(ties.tied) / 20)
    assert np.mean(held) == pytest.approx(LEVEL + 0.02, abs=0.04)


def test_a_quiet_best_among_loud_ones_is_held():
    """Skewed losses, and errors that differ between mixtures.

    The lowest is then one whose error was underestimated: a statistic that
    divides by that error held the best in under a fifth of such problems.
    """
    e, held = text(20), 0
    for problem in range(50):
        generator = np.random.default_rng(problem)
        noise_M1 = np.where(np.arange(100) < 10, 0.1, 1.0)[:, None]
        bits_MR = 3 + noise_M1 * skewed(generator, (100, 20))
        held += 0 in ties_of(e, nats(bits_MR), rng=problem, draws=200).tied
    assert held >= 50 * LEVEL - 4


@pytest.mark.parametrize("residual", [None, Residual(0.02, 8)])
def test_the_set_of_ten_thousand(residual):
    """Points of a simplex; the level, as far as ten problems can show it."""
    held, e = 0, text(40)
    for problem in range(10):
        generator = np.random.default_rng(problem)
        w_MC = generator.dirichlet(np.ones(5), 10_000)
        mean_M = ((w_MC - 0.2) ** 2).sum(1)
        truth_M = mean_M
        if residual:
            truth_M = mean_M + generator.normal(0, 0.02, 10_000)
        bits_ME = 3 + mean_M[:, None] + w_MC @ skewed(generator, (5, 40)) / 5
        ties = ties_of(
            e, nats(bits_ME), residual, rng=problem, draws=100
        )  # fmt: skip
        held += int(np.argmin(truth_M)) in ties.tied
        assert len(ties.tied) < 9_000
    assert held >= 7  # of 10 at 90 %: fewer is a chance of 1 in 75


def test_without_the_residual_truths_are_missed():
    """Document error alone is not the error of a proxy for training."""
    e, held = text(25), {"with": 0, "without": 0}
    for problem in range(100):
        generator = np.random.default_rng(problem)
        mean_M = generator.normal(0, 0.02, 15)
        nll_MR = losses(generator, e, mean_M, 0.01)
        best = int(np.argmin(mean_M + generator.normal(0, 0.1, 15)))
        for name, residual in (("with", Residual(0.1, 50)), ("without", None)):
            ties = ties_of(e, nll_MR, residual, rng=problem)
            held[name] += best in ties.tied
    assert held["with"] >= 84
    assert held["without"] < 50


def test_a_clear_best_ties_with_nothing():
    generator = np.random.default_rng(0)
    mean_M = np.array([0.0, -1.0, 0.5, 0.6])
    ties = ties_of(text(25), losses(generator, text(25), mean_M, 0.05))
    assert ties.best == 1
    assert ties.tied.tolist() == [1]
    np.testing.assert_allclose(
        ties.difference_M, mean_M + 1, atol=5 * 0.05 * np.sqrt(2 / 25)
    )


def test_who_is_far_worse_does_not_widen_the_set():
    """However many, and however loud."""
    e, generator = text(100), np.random.default_rng(0)
    near = losses(generator, e, np.linspace(0, 0.05, 30), 0.02)
    far = losses(generator, e, np.full(1000, 5.0), 1.0)
    alone = ties_of(e, near, draws=1000)
    crowd = ties_of(e, np.concatenate([near, far]), draws=1000)
    assert 1 < len(alone.tied) < 30
    assert abs(len(crowd.tied) - len(alone.tied)) <= 1


def test_twins_tie_and_do_not_widen_the_set():
    e = text(25)
    generator = np.random.default_rng(0)
    nll_MR = losses(generator, e, np.array([0.0, 0.4, 0.5]), 0.02)
    alone = ties_of(e, nll_MR)
    assert alone.tied.tolist() == [0]
    # A twin that differs by what rounding does to one window.
    twin_R = nll_MR[0].astype(np.float64)
    twin_R[3] *= 1 + 1e-12
    ties = ties_of(e, np.concatenate([nll_MR, twin_R[None]]))
    assert ties.tied.tolist() == [0, 3]
    np.testing.assert_allclose(ties.limit_M[:3], alone.limit_M, atol=1e-8)


def test_what_is_not_worth_it_ties():
    e = text(25)
    generator = np.random.default_rng(0)
    nll_MR = losses(generator, e, np.array([0.0, 0.01, 0.1]), 1e-4)
    assert ties_of(e, nll_MR).tied.tolist() == [0]
    assert ties_of(e, nll_MR, worth=0.01).tied.tolist() == [0, 1]
    assert ties_of(e, nll_MR, worth=0.06).tied.tolist() == [0, 1, 2]


def test_limits_say_who_ties():
    e, generator = text(25), np.random.default_rng(0)
    nll_MR = losses(generator, e, np.linspace(0, 0.1, 11), 0.05)
    ties = ties_of(e, nll_MR, worth=0.005)
    within = np.flatnonzero(ties.difference_M <= ties.limit_M)
    assert sorted(ties.tied) == within.tolist()
    assert (ties.limit_M >= 0.005 * 2).all()


def test_more_text_separates_as_foretold():
    """With so many times the documents, the rival is at the limit."""
    own_E = np.tile([0.2, -0.2], 20)  # around the difference, exactly
    rival_E = 3 + 0.02 + own_E
    nll_MR = nats(np.stack([np.full(40, 3.0), rival_E]))
    ties = ties_of(text(40), nll_MR, draws=4000)
    more = ties.more_M[1]
    assert ties.tied.tolist() == [0, 1] and more > 2
    for times, separate in ((0.8 * more, False), (1.2 * more, True)):
        copies = int(np.ceil(times))
        much = ties_of(text(40 * copies), np.tile(nll_MR, copies), draws=4000)
        assert (1 not in much.tied) == separate
    assert np.isinf(ties.more_M[0])
    # No text removes a residual as large as the difference.
    assert np.isinf(ties_of(text(40), nll_MR, Residual(0.02, 50)).more_M[1])
    assert np.isinf(ties_of(text(40), nll_MR, worth=0.05).more_M[1])


def test_headings():
    e = text(25)
    nll_MR = losses(np.random.default_rng(0), e, np.zeros(3), 0.05)
    assert ties_of(e, nll_MR).heading == BEFORE_TRUTHS
    assert BEFORE_TRUTHS == "ties between merges, not yet about training"
    assert ties_of(e, nll_MR, Residual(0.1, 5)).heading == AFTER_TRUTHS


def test_a_residual_widens_the_set():
    e = text(25)
    mean_M = np.linspace(0, 1, 11)
    nll_MR = losses(np.random.default_rng(0), e, mean_M, 0.01)
    sizes = [
        len(ties_of(e, nll_MR, residual).tied)
        for residual in (None, Residual(0.05, 20), Residual(0.2, 20))
    ]
    assert sizes[0] < sizes[1] < sizes[2]
    # The same scatter, known from three truths only, is known worse.
    few = ties_of(e, nll_MR, Residual(0.05, 3))
    many = ties_of(e, nll_MR, Residual(0.05, 100))
    assert len(few.tied) > len(many.tied)


@pytest.mark.parametrize("residual", [None, Residual(0.05, 8)])
def test_blocks_are_no_part_of_the_answer(residual, monkeypatch):
    """Each candidate meets all others, in its block or not."""
    e = text(30)
    nll_MR = losses(np.random.default_rng(0), e, np.zeros(1200), 0.05)
    ties = ties_of(e, nll_MR, residual)
    monkeypatch.setattr(module, "_BLOCK", 100)
    again = ties_of(e, nll_MR, residual)
    # A residual's draws are others, from the same law.
    tolerance = 1e-12 if residual is None else 0.1
    np.testing.assert_allclose(
        np.sort(again.limit_M), np.sort(ties.limit_M), rtol=tolerance
    )
    assert len(again.tied) == pytest.approx(len(ties.tied), rel=0.02)
