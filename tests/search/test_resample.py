"""Resampled text: its spread, its units, and what shares of it estimate."""

import numpy as np
import pytest

from jaxsim.errors import UserError
from jaxsim.search import resample
from jaxsim.search.resample import resampled
from search.simulated import BYTES, halves, losses, nats, objective, text


def ask(e, nll_MR, about=None, rng=0, **options):
    rows = options.pop("rows", np.arange(len(e)))
    return resampled(
        e, rows, nll_MR, "select", about or objective(), rng, **options
    )


def test_documents_are_resampled_from_five_on():
    """As a cluster: windows of one document are alike."""
    spread = {}
    for documents in (5, 4):
        e = text(documents, 10)
        nll_MR = losses(np.random.default_rng(0), e, np.zeros(2), 0.05)
        _, draw_MB, unit = ask(e, nll_MR)
        spread[unit] = draw_MB.std(1).mean()
    # 50 windows in 5 documents are no 50 draws: sqrt(10) apart.
    assert spread["documents"] > 2 * spread["windows"]
    _, draw_MB, unit = ask(e, nll_MR, enough=4)
    assert unit == "documents"
    assert draw_MB.std(1).mean() > 2 * spread["windows"]


@pytest.mark.parametrize(
    ("windows", "extra"), [(40, 1.0), (6, np.sqrt(5 / 3))], ids=["40", "6"]
)
def test_spread_is_that_of_the_mean(windows, extra):
    """Of few units too: as a t distribution of n - 1 degrees of freedom."""
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
    """What mixtures have in common cancels, whatever block they are in."""
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
        patch.setattr(resample, "_BLOCK_NUMBERS", 2 * 1000 * 4)
        blocks = ask(e, nll_MR, objective((1, 1)))
    for one, other in zip(whole[:2], blocks[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_every_draw_goes_through_the_objective():
    e = text(20, domains=3)
    nll_MR = nats(np.array([1.0, 3.0, 9.0])[e.domain_R])[None]
    seed_D = np.array([2.0, 3.5, np.nan])
    for about, expected in (
        (objective((1, 0, 0)), 1),
        (objective((1, 3, 0)), 2.5),
        # Of -1 and -0.5 the worse, on the seed's mean of 2.75.
        (objective((1, 1, 0), "worst", seed_D), 2.25),
    ):
        value_M, draw_MB, _ = ask(e, nll_MR, about, draws=5)
        assert value_M[0] == pytest.approx(expected)
        np.testing.assert_allclose(draw_MB, expected, rtol=1e-6)


def test_the_worst_domain_changes_from_draw_to_draw():
    """The draws are of the maximum, not the maximum's domain's draws."""
    e = text(30, domains=2)
    nll_MR = losses(np.random.default_rng(0), e, np.zeros(1), 0.3)
    worst = ask(e, nll_MR, objective((1, 1), "worst"))[1]
    both = [ask(e, nll_MR, objective(w))[1] for w in ((1, 0), (0, 1))]
    assert worst.mean() > max(draw_MB.mean() for draw_MB in both)


def test_a_worst_case_is_against_the_seed_on_the_same_text():
    """What text does to all models alike is no error of a difference to it."""
    e = text(20, domains=2)
    generator = np.random.default_rng(0)
    hard_R = generator.normal(3, 1, len(e))  # bits of a window, for anyone
    gain_D = np.array([-0.3, -0.1])
    nll_MR = nats(hard_R + gain_D[e.domain_R])[None]
    seed_D = np.array([hard_R[e.domain_R == d].mean() for d in range(2)])
    about = objective((1, 1), "worst", seed_D)
    value_M, draw_MB, _ = ask(e, nll_MR, about, seed=(nats(hard_R), seed_D))
    assert value_M[0] == pytest.approx(seed_D.mean() - 0.1, abs=1e-5)
    np.testing.assert_allclose(draw_MB, value_M[0], atol=1e-5)
    assert ask(e, nll_MR, about)[1].std() > 0.05
    # Of a mean, differences between mixtures do not change.
    mean = objective((1, 1))
    two_MR = np.concatenate([nll_MR, losses(generator, e, np.zeros(1), 0.1)])
    off_MB, against_MB = (
        (lambda draws: draws[1] - draws[0])(ask(e, two_MR, mean, seed=seed)[1])
        for seed in (None, (nats(hard_R), seed_D))
    )
    np.testing.assert_allclose(off_MB, against_MB, atol=1e-9)


def test_the_report_half_takes_no_part():
    e = halves(text(20, 2))
    nll_MR = losses(np.random.default_rng(0), e, np.zeros(2), 0.05)
    spoiled = nll_MR.copy()
    spoiled[:, e.half_R == 1] = np.nan
    for one, other in zip(ask(e, nll_MR)[:2], ask(e, spoiled)[:2], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_share_estimates_the_same_as_the_whole():
    """A long document counts as long as it is, with one window scored too."""
    windows = [1] * 30 + [9] * 10
    e = text(40, windows)
    long_R = e.document_R >= 30
    nll_MR = nats(np.where(long_R, [[1.0], [5.0]], [[2.0], [3.0]]))
    rows = np.unique(e.document_R, return_index=True)[1]
    every = np.arange(len(e))
    expected = np.array([(30 * 2 + 90 * 1) / 120, (30 * 3 + 90 * 5) / 120])
    np.testing.assert_allclose(ask(e, nll_MR)[0], expected, rtol=1e-6)
    part = ask(e, nll_MR[:, rows], rows=rows, whole=every)
    np.testing.assert_allclose(part[0], expected, rtol=1e-6)
    # Without it the other of the two would seem... as good as it is not.
    plain = ask(e, nll_MR[:, rows], rows=rows)[0]
    assert plain[0] == pytest.approx((30 * 2 + 10 * 1) / 40)


def test_a_needed_domain_without_windows_is_named():
    e = text(20, domains=2)
    rows = np.flatnonzero(e.domain_R == 0)
    nll_MR = np.full((1, len(rows)), BYTES)
    with pytest.raises(UserError, match="'d1' has no select window"):
        ask(e, nll_MR, objective((1, 1)), rows=rows)
    assert np.isfinite(ask(e, nll_MR, objective((1, 0)), rows=rows)[1]).all()
