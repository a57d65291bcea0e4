"""Tie sets: do they hold the true best as often as they say? And their draws."""

import numpy as np
import pytest

from jaxsim.errors import UserError
from jaxsim.search import ties as module
from jaxsim.search.ties import AFTER_RUNS, BEFORE_RUNS, Residual, resampled, tie_set
from search.simulated import BYTES, losses, nats, objective, skewed, splits, text

LEVEL = 0.9
PROBLEMS = 300
SLACK = 2 * np.sqrt(LEVEL * (1 - LEVEL) / PROBLEMS)


def ties_of(e, nll_MR, residual=None, seed=0, draws=300, about=None, **options):
    values = resampled(e, np.arange(len(e)), nll_MR, about or objective(), seed, draws)
    return tie_set(*values[:2], LEVEL, residual=residual, seed=seed, **options)


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
        reference_M, residual = mean_M, None
        if deviation:
            # Known from 8 reference runs only.
            scatter = generator.normal(0, deviation, mixtures + 8)
            reference_M = mean_M + scatter[:mixtures]
            residual = Residual(float(scatter[mixtures:].std(ddof=1)), 8)
        ties = ties_of(e, nll_MR, residual, seed=problem)
        held += int(np.argmin(reference_M)) in ties.tied
        sizes.append(len(ties.tied))
    assert held / PROBLEMS >= LEVEL - SLACK
    assert np.mean(sizes) < 0.95 * mixtures  # not just everything


def test_all_equally_good_is_the_hardest_case_and_is_exact():
    """Each of them is held at the level, and not above."""
    e, held = text(50), []
    for problem in range(200):
        generator = np.random.default_rng(problem)
        nll_MR = losses(generator, e, np.zeros(20), 0.05)
        ties = ties_of(e, nll_MR, seed=problem, draws=200)
        held.append(len(ties.tied) / 20)
    assert np.mean(held) == pytest.approx(LEVEL + 0.02, abs=0.04)


def test_a_quiet_best_among_noisy_ones_is_held():
    """With skewed losses, and errors that differ between mixtures.

    The lowest is then one whose error was underestimated. A statistic that divides by
    that error held the best in less than a fifth of such problems.
    """
    e, held = text(20), 0
    for problem in range(50):
        generator = np.random.default_rng(problem)
        noise_M1 = np.where(np.arange(100) < 10, 0.1, 1.0)[:, None]
        bits_MR = 3 + noise_M1 * skewed(generator, (100, 20))
        held += 0 in ties_of(e, nats(bits_MR), seed=problem, draws=200).tied
    assert held >= 50 * LEVEL - 4


@pytest.mark.parametrize("residual", [None, Residual(0.02, 8)])
def test_the_set_of_ten_thousand(residual):
    """Points of a simplex; as far as ten problems can show the level."""
    held, e = 0, text(40)
    for problem in range(10):
        generator = np.random.default_rng(problem)
        w_MC = generator.dirichlet(np.ones(5), 10_000)
        mean_M = ((w_MC - 0.2) ** 2).sum(1)
        reference_M = mean_M
        if residual:
            reference_M = mean_M + generator.normal(0, 0.02, 10_000)
        bits_ME = 3 + mean_M[:, None] + w_MC @ skewed(generator, (5, 40)) / 5
        ties = ties_of(
            e, nats(bits_ME), residual, seed=problem, draws=100
        )  # fmt: skip
        held += int(np.argmin(reference_M)) in ties.tied
        assert len(ties.tied) < 9_000
    assert held >= 7  # of 10 at 90 %: fewer is a chance of 1 in 75


def test_without_the_residual_reference_runs_are_missed():
    """The error from documents alone is not the error of a predictor."""
    e, held = text(25), {"with": 0, "without": 0}
    for problem in range(100):
        generator = np.random.default_rng(problem)
        mean_M = generator.normal(0, 0.02, 15)
        nll_MR = losses(generator, e, mean_M, 0.01)
        best = int(np.argmin(mean_M + generator.normal(0, 0.1, 15)))
        for name, residual in (("with", Residual(0.1, 50)), ("without", None)):
            ties = ties_of(e, nll_MR, residual, seed=problem)
            held[name] += best in ties.tied
    assert held["with"] >= 84
    assert held["without"] < 50


def test_a_clear_best_ties_with_nothing():
    generator = np.random.default_rng(0)
    mean_M = np.array([0.0, -1.0, 0.5, 0.6])
    ties = ties_of(text(25), losses(generator, text(25), mean_M, 0.05))
    assert ties.tied.tolist() == [1]
    np.testing.assert_allclose(
        ties.difference_M, mean_M + 1, atol=5 * 0.05 * np.sqrt(2 / 25)
    )


def test_far_worse_mixtures_do_not_widen_the_set():
    """However many, and however noisy."""
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


def test_differences_below_min_effect_tie():
    e = text(25)
    generator = np.random.default_rng(0)
    nll_MR = losses(generator, e, np.array([0.0, 0.01, 0.1]), 1e-4)
    assert ties_of(e, nll_MR).tied.tolist() == [0]
    assert ties_of(e, nll_MR, min_effect=0.01).tied.tolist() == [0, 1]
    assert ties_of(e, nll_MR, min_effect=0.06).tied.tolist() == [0, 1, 2]


def test_limits_say_which_tie():
    e, generator = text(25), np.random.default_rng(0)
    nll_MR = losses(generator, e, np.linspace(0, 0.1, 11), 0.05)
    ties = ties_of(e, nll_MR, min_effect=0.005)
    within = np.flatnonzero(ties.difference_M <= ties.limit_M)
    assert sorted(ties.tied) == within.tolist()
    assert (ties.limit_M >= 0.005 * 2).all()


def test_headings():
    e = text(25)
    nll_MR = losses(np.random.default_rng(0), e, np.zeros(3), 0.05)
    assert ties_of(e, nll_MR).heading == BEFORE_RUNS
    assert BEFORE_RUNS == "ties between merges, not yet about training"
    assert ties_of(e, nll_MR, Residual(0.1, 5)).heading == AFTER_RUNS


def test_a_residual_widens_the_set():
    e = text(25)
    mean_M = np.linspace(0, 1, 11)
    nll_MR = losses(np.random.default_rng(0), e, mean_M, 0.01)
    sizes = [
        len(ties_of(e, nll_MR, residual).tied)
        for residual in (None, Residual(0.05, 20), Residual(0.2, 20))
    ]
    assert sizes[0] < sizes[1] < sizes[2]
    # The same scatter from only three reference runs is less certain.
    few = ties_of(e, nll_MR, Residual(0.05, 3))
    many = ties_of(e, nll_MR, Residual(0.05, 100))
    assert len(few.tied) > len(many.tied)


@pytest.mark.parametrize("residual", [None, Residual(0.05, 8)])
def test_block_size_does_not_matter(residual, monkeypatch):
    """Each candidate is compared with all others, in its block or not."""
    e = text(30)
    nll_MR = losses(np.random.default_rng(0), e, np.zeros(1200), 0.05)
    ties = ties_of(e, nll_MR, residual)
    monkeypatch.setattr(module, "_BLOCK", 100)
    again = ties_of(e, nll_MR, residual)
    # A residual has other draws, from the same distribution.
    tolerance = 1e-12 if residual is None else 0.1
    np.testing.assert_allclose(
        np.sort(again.limit_M), np.sort(ties.limit_M), rtol=tolerance
    )
    assert len(again.tied) == pytest.approx(len(ties.tied), rel=0.02)


def ask(e, nll_MR, about=None, seed=0, **options):
    rows = options.pop("rows", np.arange(len(e)))
    return resampled(e, rows, nll_MR, about or objective(), seed, **options)


def test_documents_are_resampled_from_five_on():
    """Windows of one document are alike."""
    spread = {}
    for documents in (5, 4):
        e = text(documents, 10)
        nll_MR = losses(np.random.default_rng(0), e, np.zeros(2), 0.05)
        _, draw_MB, unit = ask(e, nll_MR)
        spread[unit] = draw_MB.std(1).mean()
    # 50 windows in 5 documents are not 50 independent draws: sqrt(10) apart.
    assert spread["documents"] > 2 * spread["windows"]
    _, draw_MB, unit = ask(e, nll_MR, enough=4)
    assert unit == "documents"
    assert draw_MB.std(1).mean() > 2 * spread["windows"]


@pytest.mark.parametrize(
    ("windows", "extra"), [(40, 1.0), (6, np.sqrt(5 / 3))], ids=["40", "6"]
)
def test_spread_is_that_of_the_mean(windows, extra):
    """Also with few units: a t distribution with n - 1 degrees of freedom."""
    generator = np.random.default_rng(windows)
    e = text(1, windows)  # one document, so that windows are resampled
    bits_R = generator.normal(0, 1, windows)
    value_M, draw_MB, unit = ask(e, nats(5 + bits_R)[None], draws=20_000)
    assert unit == "windows"
    assert value_M[0] == pytest.approx(5 + bits_R.mean())
    expected = bits_R.std(ddof=1) / np.sqrt(windows) * extra
    assert draw_MB.std() == pytest.approx(expected, rel=0.08)
    assert draw_MB.mean() == pytest.approx(5 + bits_R.mean(), abs=0.05)


def test_the_same_text_is_drawn_for_all_mixtures():
    """What mixtures have in common cancels, also across blocks."""
    e = text(30, 2, domains=2)
    nll_R = losses(np.random.default_rng(0), e, np.zeros(1), 0.5)[0]
    nll_MR = nll_R + nats(np.linspace(0, 1, 9))[:, None]
    whole = ask(e, nll_MR, objective((1, 1)))
    off_MB = whole[1] - whole[1][0]
    np.testing.assert_allclose(
        off_MB, np.linspace(0, 1, 9)[:, None] + 0 * off_MB, atol=1e-5
    )
    assert whole[1][0].std() > 0.01
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_NUMBERS", 2 * 1000 * 4)
        blocks = ask(e, nll_MR, objective((1, 1)))
    for one, other in zip(whole[:2], blocks[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_every_draw_goes_through_the_objective():
    e = text(20, domains=3)
    nll_MR = nats(np.array([1.0, 3.0, 9.0])[e.domain_R])[None]
    base_D = np.array([2.0, 3.5, np.nan])
    for about, expected in (
        (objective((1, 0, 0)), 1),
        (objective((1, 3, 0)), 2.5),
        # The worse of -1 and -0.5, plus the base model's mean of 2.75.
        (objective((1, 1, 0), "worst", base_D), 2.25),
    ):
        value_M, draw_MB, _ = ask(e, nll_MR, about, draws=5)
        assert value_M[0] == pytest.approx(expected)
        np.testing.assert_allclose(draw_MB, expected, rtol=1e-6)


def test_the_worst_domain_changes_from_draw_to_draw():
    """The maximum is taken in each draw, not once for all."""
    e = text(30, domains=2)
    nll_MR = losses(np.random.default_rng(0), e, np.zeros(1), 0.3)
    worst = ask(e, nll_MR, objective((1, 1), "worst"))[1]
    both = [ask(e, nll_MR, objective(w))[1] for w in ((1, 0), (0, 1))]
    assert worst.mean() > max(draw_MB.mean() for draw_MB in both)


def test_worst_is_relative_to_the_base_model_on_the_same_text():
    """What affects all models alike is no error of a difference."""
    e = text(20, domains=2)
    generator = np.random.default_rng(0)
    hard_R = generator.normal(3, 1, len(e))  # bits of a window, for anyone
    gain_D = np.array([-0.3, -0.1])
    nll_MR = nats(hard_R + gain_D[e.domain_R])[None]
    base_D = np.array([hard_R[e.domain_R == d].mean() for d in range(2)])
    about = objective((1, 1), "worst", base_D)
    value_M, draw_MB, _ = ask(e, nll_MR, about, base_R=nats(hard_R))
    assert value_M[0] == pytest.approx(base_D.mean() - 0.1, abs=1e-5)
    np.testing.assert_allclose(draw_MB, value_M[0], atol=1e-5)
    assert ask(e, nll_MR, about)[1].std() > 0.05
    # For a mean, differences between mixtures do not change.
    mean = objective((1, 1))
    two_MR = np.concatenate([nll_MR, losses(generator, e, np.zeros(1), 0.1)])
    off_MB, against_MB = (
        (lambda draws: draws[1] - draws[0])(ask(e, two_MR, mean, base_R=base_R)[1])
        for base_R in (None, nats(hard_R))
    )
    np.testing.assert_allclose(off_MB, against_MB, atol=1e-9)


def test_the_test_split_takes_no_part():
    e = splits(text(20, 2))
    nll_MR = losses(np.random.default_rng(0), e, np.zeros(2), 0.05)
    spoiled = nll_MR.copy()
    spoiled[:, e.split_R == 1] = np.nan
    for one, other in zip(ask(e, nll_MR)[:2], ask(e, spoiled)[:2], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_needed_domain_without_windows_is_named():
    e = text(20, domains=2)
    rows = np.flatnonzero(e.domain_R == 0)
    nll_MR = np.full((1, len(rows)), BYTES)
    with pytest.raises(UserError, match="'d1' has no dev window"):
        ask(e, nll_MR, objective((1, 1)), rows=rows)
    assert np.isfinite(ask(e, nll_MR, objective((1, 0)), rows=rows)[1]).all()
