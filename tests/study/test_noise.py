"""What repeats say of noise, on laws whose noise is known."""

import numpy as np
import pytest

from jaxsim.study.noise import (
    NOISE_BOUND,
    corrected,
    noise_ceiling,
    repeat_agreement,
    repeat_noise,
)


def trained(generator, count, pairs, deviation):
    """Truths [M] with a signal of deviation 1, and repeats [P] of the first."""
    signal_M = generator.standard_normal(count)
    first_M, second_M = signal_M + deviation * generator.standard_normal(
        (2, count)
    )
    return first_M, first_M[:pairs], second_M[:pairs]


def test_repeat_noise_is_that_of_one_run():
    _, first_P, second_P = trained(np.random.default_rng(0), 20000, 20000, 0.3)
    assert repeat_noise(first_P, second_P) == pytest.approx(0.3, rel=0.02)
    # What all repeats share changes no rank; of one pair nobody can tell.
    assert repeat_noise(first_P, second_P + 5) == pytest.approx(
        repeat_noise(first_P, second_P)
    )
    assert repeat_noise(np.zeros(1), np.full(1, 2.0)) == pytest.approx(2**0.5)


def test_the_ceiling_is_what_a_proxy_without_noise_reaches():
    generator = np.random.default_rng(1)
    signal_M = generator.standard_normal(20000)
    first_M, second_M = signal_M + 0.5 * generator.standard_normal((2, 20000))
    found = noise_ceiling(first_M, first_M, second_M)
    assert found.estimate == pytest.approx(np.sqrt(1 / 1.25), abs=0.01)
    reached = np.corrcoef(signal_M, first_M)[0, 1]
    assert reached == pytest.approx(found.estimate, abs=0.01)
    assert found.low < np.sqrt(1 / 1.25) < found.high < found.low + 0.02


@pytest.mark.parametrize("count, pairs", [(12, 6), (32, 4)])
def test_the_interval_of_a_ceiling_covers(count, pairs):
    """Four standard errors allowed, although repeated truths are truths."""
    generator = np.random.default_rng(2)
    samples, value = 2000, np.sqrt(1 / 1.3)
    covered = 0
    for _ in range(samples):
        found = noise_ceiling(*trained(generator, count, pairs, np.sqrt(0.3)))
        covered += found.low <= value <= found.high
    slack = 4 * np.sqrt(0.95 * 0.05 / samples)
    assert covered / samples == pytest.approx(0.95, abs=slack)


def test_a_ceiling_where_there_is_only_noise():
    first = np.array([1.0, 1.1, 0.9])
    assert noise_ceiling(first, first, -3 * first).estimate == 0
    # A shift of all repeats is nothing that a ceiling knows of.
    assert noise_ceiling(first, first, first + 5).estimate == 1
    for truth in (np.ones(4), np.ones(1)):
        found = noise_ceiling(truth, truth, truth)
        assert (found.estimate, found.low, found.high) == (0, None, None)


def test_a_ceiling_without_noise():
    truth = np.array([1.0, 1.1, 0.9])
    found = noise_ceiling(truth, truth, truth)
    assert (found.estimate, found.low, found.high) == (1, 1, 1)


def test_too_few_for_an_interval_of_a_ceiling():
    truth = np.array([1.0, 2.0, 3.0])
    for count, pairs in ((3, 2), (2, 3)):
        first = np.ones(pairs)
        second = first + 0.1 * np.arange(pairs)
        found = noise_ceiling(truth[:count], first, second)
        assert found.low is None and 0 < found.estimate < 1
    found = noise_ceiling(truth, truth, truth + 0.1 * np.arange(3))
    assert found.low is not None


def test_corrected():
    assert corrected(0.9, 0.95) == pytest.approx(0.9 / 0.95)
    assert corrected(0.5, NOISE_BOUND) == pytest.approx(0.5 / NOISE_BOUND)
    assert np.isnan(corrected(0.9, NOISE_BOUND - 0.01))
    assert np.isnan(corrected(0.9, float("nan")))


def test_repeats_predict_their_runs():
    """The regret is a run's: what choosing by the repeats would cost."""
    first = np.array([1.0, 1.5, 3.0, 4.0])
    second = np.array([2.0, 1.0, 3.0, 5.0])
    in_P = np.array([True, True, False, False])
    found = repeat_agreement(first, second, in_P)
    assert found.regret == 0.5
    assert found.pairs == pytest.approx(5 / 6)
    assert (found.pairs_in, found.pairs_mixed, found.pairs_out) == (0, 1, 1)


def test_repeats_agree_about_as_the_square_of_the_ceiling():
    """So they bound nothing: a proxy without noise reaches the ceiling."""
    first_M, first_P, second_P = trained(
        np.random.default_rng(3), 4000, 4000, 0.5
    )
    ceiling = noise_ceiling(first_M, first_P, second_P).estimate
    found = repeat_agreement(first_P[:1000], second_P[:1000], None)
    assert found.pearson == pytest.approx(ceiling**2, abs=0.04)
