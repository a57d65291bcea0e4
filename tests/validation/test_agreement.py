"""Agreement, weight-only baselines, intervals and noise.

A coverage may be below its level by four standard errors of the simulation. The
jackknife is conservative, more so with fewer runs and higher correlations, so
the coverage may be anywhere above the level but 1.
"""

import warnings

import numpy as np
import pytest
import scipy.stats

from jaxsim.validation.agreement import (
    BELOW_NOISE,
    RULES,
    Interval,
    agreement,
    best_rule,
    corrected,
    guessing,
    is_in,
    joint_ceiling,
    mean_spearman,
    noise_ceiling,
    paired_difference,
    predictions,
    replicate_noise,
    spearman_of,
)

REFERENCE = np.array([1.0, 1.3, 1.1, 1.9, 1.6])


def test_a_perfect_predictor():
    found = agreement(2 * REFERENCE - 5, REFERENCE, None)
    assert found["spearman"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(1)
    assert found["pairs"] == 1
    assert (found["slope"], found["offset"]) == pytest.approx((0.5, 2.5))
    assert found["regret"] == 0


def test_a_reversed_predictor():
    found = agreement(-REFERENCE, REFERENCE, None)
    assert (found["spearman"], found["pearson"]) == pytest.approx((-1, -1))
    assert found["pairs"] == 0
    assert found["regret"] == pytest.approx(0.9)


def test_a_monotone_predictor_is_perfect_in_rank_only():
    found = agreement(np.exp(5 * REFERENCE), REFERENCE, None)
    assert found["spearman"] == pytest.approx(1)
    assert 0 < found["pearson"] < 0.95


def test_a_constant_predictor():
    found = agreement(np.ones(5), REFERENCE, None)
    assert np.isnan([found["spearman"], found["pearson"], found["slope"]]).all()
    assert found["interval"] is None
    assert found["pairs"] == 0.5
    assert found["regret"] == pytest.approx(REFERENCE.mean() - 1)


def test_ties_count_half():
    predicted = np.array([1.0, 1.0, 2.0])
    assert agreement(predicted, np.array([1.0, 2.0, 3.0]), None)["pairs"] == (
        pytest.approx(2.5 / 3)
    )
    # A predictor cannot be wrong about runs that are equal, either.
    assert agreement(np.array([1.0, 2.0, 3.0]), predicted, None)["pairs"] == (
        pytest.approx(2.5 / 3)
    )
    found = agreement(predicted, np.array([1.0, 2.0, 0.5]), None)
    assert found["regret"] == pytest.approx(1.0)  # the mean of the two chosen


def test_pairs_by_membership():
    in_M = np.array([True, True, True, False, False])
    reference_M = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    predicted_M = np.array([1.0, 3.0, 2.0, 0.0, 9.0])
    found = agreement(predicted_M, reference_M, in_M)
    assert found["pairs_in"] == pytest.approx(2 / 3)  # of 12, 13, 23
    assert found["pairs_out"] == 1.0  # 45
    assert found["pairs_mixed"] == pytest.approx(0.5)  # three of six
    assert found["pairs"] == pytest.approx(6 / 10)
    nothing = agreement(predicted_M, reference_M, None)
    assert np.isnan([nothing["pairs_in"], nothing["pairs_out"]]).all()


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_reference_runs_for_a_correlation(count):
    found = agreement(REFERENCE[:count], REFERENCE[:count], None)
    assert np.isnan([found["spearman"], found["pearson"], found["slope"]]).all()


def test_interval_from_twelve_reference_runs_on():
    reference, error = np.random.default_rng(0).standard_normal((2, 12))
    predicted = reference + error
    assert agreement(predicted[:11], reference[:11], None)["interval"] is None
    low, high = agreement(predicted, reference, None)["interval"]
    distribution = mean_spearman(predicted[:, None], reference[:, None])
    assert (low, high) == (distribution.low, distribution.high)
    # The value is for these runs; the interval is for their distribution.
    found = agreement(predicted, reference, None)["spearman"]
    assert found == pytest.approx(scipy.stats.spearmanr(predicted, reference)[0])
    assert low < found < high


def test_predictions_that_are_missing():
    """Everything is undefined, and nothing fails or warns."""
    with np.errstate(invalid="raise"):
        found = agreement(np.full(5, np.nan), REFERENCE, None)
    assert found["interval"] is None
    figures = (
        found["spearman"],
        found["slope"],
        found["pairs"],
        found["regret"],
        found["gain"],
    )
    assert np.isnan(figures).all()


def test_gain_of_a_choice():
    predicted = np.array([5.0, 4.0, 1.0, 3.0, 2.0])  # the third is chosen
    found = agreement(predicted, REFERENCE, None)
    assert found["gain"] == pytest.approx(REFERENCE.mean() - 1.1)
    assert found["gain_share"] == pytest.approx(
        (REFERENCE.mean() - 1.1) / (REFERENCE.mean() - 1.0)
    )
    assert agreement(REFERENCE, REFERENCE, None)["gain_share"] == 1
    assert agreement(-REFERENCE, REFERENCE, None)["gain_share"] < 0
    flat = agreement(REFERENCE, np.ones(5), None)
    assert flat["gain"] == 0 and np.isnan(flat["gain_share"])


def test_a_tied_choice_is_the_mean_of_its_runs():
    predicted = np.array([1.0, 1.0, 2.0, 2.0, 2.0])
    found = agreement(predicted, REFERENCE, None)
    assert found["gain"] == pytest.approx(REFERENCE.mean() - 1.15)
    assert found["gain"] + found["regret"] == pytest.approx(REFERENCE.mean() - 1.0)


def test_guessing_is_the_mean_of_random_orders():
    generator = np.random.default_rng(1)
    drawn = [
        agreement(generator.permutation(5.0 + np.arange(5)), REFERENCE, None)
        for _ in range(2000)
    ]
    found = guessing(REFERENCE)
    for name in ("spearman", "pearson", "pairs", "regret", "gain_share"):
        values = [one[name] for one in drawn]
        slack = 4 * np.std(values) / np.sqrt(len(values))
        assert found[name] == pytest.approx(np.mean(values), abs=slack)
    assert found["interval"] is None
    assert (found["gain"], found["pairs_mixed"], found["pairs_in"]) == (0, 0.5, 0.5)
    assert np.isnan(guessing(np.ones(3))["gain_share"])


def test_the_best_rule_is_picked_in_hindsight():
    """By the mean over targets: good on both beats perfect on one."""
    reference_MT = np.stack([np.arange(12.0), np.arange(12.0)], axis=1)
    good_MT = reference_MT.copy()
    good_MT[[0, 3]] = good_MT[[3, 0]]
    split_MT = reference_MT * [1.0, -1.0]
    silent_MT = reference_MT * [1.0, 0.0]
    rules = {"split": split_MT, "good": good_MT, "silent": silent_MT}
    assert best_rule(rules, reference_MT) == "good"
    assert best_rule(rules, split_MT) == "split"
    assert best_rule({"first": good_MT, "good": good_MT}, reference_MT) == "first"
    missing_MT = np.full((12, 2), np.nan)
    assert best_rule({"a": silent_MT, "b": missing_MT}, reference_MT) is None
    assert best_rule({}, reference_MT) is None


# Four units; the domain's own are the first two.
W_MC = np.array(
    [
        [1.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, 0.0, 0.0],
        [0.25, 0.25, 0.25, 0.25],
        [0.1, 0.1, 0.8, 0.0],
        [0.0, 0.0, 0.5, 0.5],
    ]
)
OWN_C = np.array([True, True, False, False])
LOSS_M = np.array([1.0, 1.1, 1.4, 1.8, 2.0])
# Other runs, on which the loss rises most evenly with the third weight.
FIT = W_MC[[0, 3, 2, 4]], np.array([1.0, 1.8, 1.2, 1.5])


def test_in_pool():
    found = predictions(W_MC, OWN_C, (W_MC, LOSS_M))
    assert set(found) == set(RULES) - {"random"}
    assert found["membership"].tolist() == [-1, -1, -1, 0, 0]
    np.testing.assert_allclose(found["own weight"], [-1, -1, -0.5, -0.2, 0])
    assert np.argmin(found["closeness"]) == 1  # even weights on the own units
    assert found["closeness"][1] == 0
    assert found["number of units"].tolist() == [-1, -2, -4, -3, -2]


def test_out_of_pool_there_is_no_membership_and_no_own_weight():
    found = predictions(W_MC, None, (W_MC, LOSS_M))
    assert not {"membership", "own weight"} & set(found)
    # Closeness is evenness there.
    assert np.argmin(found["closeness"]) == 2
    assert found["closeness"][2] == 0


def test_in_is_an_own_weight_of_an_even_share():
    w_MC = np.array([[0.25, 0.0, 0.75, 0.0], [0.2, 0.04, 0.76, 0.0]])
    assert is_in(w_MC, OWN_C).tolist() == [True, False]
    third_MC = np.round(np.full((1, 3), 1 / 3), 12)  # a rounded 1/C is 1/C
    assert is_in(third_MC, np.array([True, False, False])).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_single_weight_has_a_sign(sign):
    """It is picked on some runs and applied to others."""
    w_FC, loss_F = FIT
    correlation_C = [np.corrcoef(w_C, loss_F)[0, 1] for w_C in w_FC.T]
    assert np.argmax(np.abs(correlation_C)) == 2
    found = predictions(W_MC, None, (w_FC, sign * loss_F))
    np.testing.assert_array_equal(found["best single weight"], sign * W_MC[:, 2])


def test_the_best_single_weight_needs_three_reference_runs_that_differ():
    w_FC, loss_F = FIT
    for choose in (None, (w_FC[:2], loss_F[:2]), (w_FC, np.ones(4))):
        assert "best single weight" not in predictions(W_MC, OWN_C, choose)
    three = predictions(W_MC, OWN_C, (w_FC[:3], loss_F[:3]))
    assert "best single weight" in three


def test_a_unit_that_never_varies_is_not_chosen():
    w_MC = np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.5, 0.25, 0.25]])
    found = predictions(w_MC, None, (w_MC, np.array([1.0, 2.0, 1.5])))
    np.testing.assert_array_equal(found["best single weight"], -w_MC[:, 1])
    same = np.full((3, 3), 1 / 3), np.array([1.0, 2.0, 1.5])
    assert "best single weight" not in predictions(w_MC, None, same)


def test_a_share_of_six_decimals_is_still_in():
    w_C = np.full(12, 0.083333)
    w_C[-1] += 1 - w_C.sum()
    for own_C in np.eye(12, dtype=bool):
        assert is_in(w_C[None], own_C).tolist() == [True]


SAMPLES = 1000
LEAST = 0.95 - 4 * np.sqrt(0.95 * 0.05 / SAMPLES)
MOST = 0.998


def rank(correlation: float) -> float:
    """Spearman's correlation of a normal distribution with this Pearson one."""
    return 6 / np.pi * np.arcsin(correlation / 2)


def normal(generator, count, targets, *correlations):
    """Runs [M, T] and predictors of them, which share half of their errors.

    Targets share half of the variance of a run, and half of its noise.
    """
    shape = count, targets

    def draw():
        both_M1 = generator.standard_normal((count, 1))
        return np.sqrt(0.5) * (both_M1 + generator.standard_normal(shape))

    reference_MT, error_MT = draw(), draw()
    return reference_MT, *(
        r * reference_MT + np.sqrt(1 - r**2) * np.sqrt(0.5) * (error_MT + draw())
        for r in correlations
    )


def coverage(ask, value: float) -> tuple[float, float]:
    """Coverage of `ask(generator)` over many samples, and the mean length."""
    generator = np.random.default_rng(0)
    found = [ask(generator) for _ in range(SAMPLES)]
    covered = [i.low <= value <= i.high for i in found]
    length = [i.high - i.low for i in found]
    return float(np.mean(covered)), float(np.mean(length))


def tied(seed: int, count: int = 15):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 5, (2, count, 3)).astype(float)


def test_spearman_is_that_of_scipy_with_ties():
    predicted_MT, reference_MT = tied(0)
    expected = np.mean(
        [
            scipy.stats.spearmanr(predicted_MT[:, t], reference_MT[:, t])[0]
            for t in range(3)
        ]
    )
    found_J = spearman_of(np.ones((1, 15)), predicted_MT, reference_MT, unbiased=False)
    assert found_J[0] == pytest.approx(expected)


@pytest.mark.parametrize("unbiased", [False, True])
def test_a_count_is_how_often_a_reference_run_is_there(unbiased):
    """A count of 0 leaves it out."""
    predicted_MT, reference_MT = tied(3)
    count_JM = np.ones((2, 15))
    count_JM[1, 4] = 0
    without = (np.delete(x, 4, axis=0) for x in (predicted_MT, reference_MT))
    expected = spearman_of(np.ones((1, 14)), *without, unbiased)[0]
    found_J = spearman_of(count_JM, predicted_MT, reference_MT, unbiased)
    assert found_J[1] == pytest.approx(expected)
    assert found_J[0] != pytest.approx(expected)


def test_the_unbiased_correlation_is_unbiased():
    """The sample's correlation is off by far more than four standard errors."""
    reference_MT, predicted_MT = np.random.default_rng(4).standard_normal((2, 8, 5000))
    predicted_MT = 0.9 * reference_MT + np.sqrt(1 - 0.81) * predicted_MT
    one_JM = np.ones((1, 8))
    mean, sample = (
        spearman_of(one_JM, predicted_MT, reference_MT, unbiased)[0]
        for unbiased in (True, False)
    )
    slack = 4 * 0.15 / np.sqrt(5000)  # deviation of one estimate: 0.12
    assert mean == pytest.approx(rank(0.9), abs=slack)
    assert sample < rank(0.9) - 4 * slack


@pytest.mark.parametrize("count", [12, 32])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_mean_spearman_covers(correlation, count):
    def ask(generator):
        reference_MT, predicted_MT = normal(generator, count, 12, correlation)
        return mean_spearman(predicted_MT, reference_MT)

    covered, _ = coverage(ask, rank(correlation))
    assert LEAST < covered < MOST


@pytest.mark.parametrize("count", [12, 32])
@pytest.mark.parametrize("a, b", [(0.7, 0.7), (0.9, 0.6)])
def test_a_paired_difference_covers(a, b, count):
    def ask(generator):
        reference_MT, a_MT, b_MT = normal(generator, count, 6, a, b)
        return paired_difference(a_MT, b_MT, reference_MT)

    covered, _ = coverage(ask, rank(a) - rank(b))
    assert LEAST < covered < MOST


def test_shared_errors_cancel_in_a_difference():
    """Its interval is shorter than from two independent sets of runs."""
    generator = np.random.default_rng(5)
    reference_MT, a_MT = normal(generator, 24, 6, 0.7)
    b_MT = a_MT + 0.05 * generator.standard_normal(a_MT.shape)
    difference = paired_difference(a_MT, b_MT, reference_MT)
    one = mean_spearman(a_MT, reference_MT)
    assert difference.high - difference.low < (one.high - one.low) / 2
    back = paired_difference(b_MT, a_MT, reference_MT)
    assert [back.low, back.high] == pytest.approx([-difference.high, -difference.low])


def test_a_higher_level_and_fewer_reference_runs_widen():
    reference_MT, predicted_MT = normal(np.random.default_rng(6), 48, 6, 0.7)
    lengths = [
        found.high - found.low
        for found in (
            mean_spearman(predicted_MT, reference_MT, level=0.5),
            mean_spearman(predicted_MT, reference_MT),
            mean_spearman(predicted_MT[:12], reference_MT[:12]),
        )
    ]
    assert lengths == sorted(lengths) and lengths[0] < lengths[1] / 2


def test_no_interval_below_twelve_reference_runs():
    reference_MT, a_MT, b_MT = normal(np.random.default_rng(7), 12, 2, 0.7, 0.5)
    for ask in (
        lambda m: mean_spearman(a_MT[:m], reference_MT[:m]),
        lambda m: paired_difference(a_MT[:m], b_MT[:m], reference_MT[:m]),
    ):
        few, enough = ask(11), ask(12)
        assert few.low is None and few.high is None
        assert np.isfinite(few.estimate)
        assert enough.low < enough.estimate < enough.high


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_order_is_not_certain(sign):
    reference_MT = np.random.default_rng(8).standard_normal((12, 2))
    found = mean_spearman(sign * reference_MT, reference_MT)
    assert found.estimate == pytest.approx(sign)
    low, high = sorted([sign * found.low, sign * found.high])
    assert 0.9 < low < 0.99 and high == pytest.approx(1)


def test_an_order_with_only_neighbors_swapped():
    """The unbiased estimate is perfect, and shows no spread."""
    reference_MT = np.arange(12.0)[:, None]
    predicted_MT = reference_MT.copy()
    predicted_MT[[3, 4]] = predicted_MT[[4, 3]]
    unbiased_J = spearman_of(np.ones((1, 12)), predicted_MT, reference_MT, True)
    assert unbiased_J[0] == pytest.approx(1)
    found = mean_spearman(predicted_MT, reference_MT)
    assert found.estimate == pytest.approx(1 - 12 / (12 * 143))
    assert 0.8 < found.low < found.estimate < found.high < 1


def test_no_interval_where_a_predictor_says_nothing():
    reference_MT, a_MT = normal(np.random.default_rng(9), 16, 2, 0.7)
    once_MT = np.zeros((16, 2))
    assert np.isnan(mean_spearman(once_MT, reference_MT).estimate)
    once_MT[3] = 1  # all the same without the fourth
    for found in (
        mean_spearman(once_MT, reference_MT),
        paired_difference(a_MT, once_MT, reference_MT),
    ):
        assert np.isfinite(found.estimate)
        assert found.low is None and found.high is None


def test_planted_correlations_are_recovered():
    reference_MT, a_MT, b_MT = normal(np.random.default_rng(10), 128, 12, 0.9, 0.5)
    level = 0.999  # one sample: it must not be the one in twenty
    for found, value in (
        (mean_spearman(a_MT, reference_MT, level), rank(0.9)),
        (mean_spearman(b_MT, reference_MT, level), rank(0.5)),
        (paired_difference(a_MT, b_MT, reference_MT, level), rank(0.9) - rank(0.5)),
    ):
        assert found.estimate == pytest.approx(value, abs=0.1)
        assert found.low < value < found.high < found.low + 0.3


def trained(generator, count, pairs, deviation):
    """Runs [M] with a signal of deviation 1; the first [P] and their replicates."""
    signal_M = generator.standard_normal(count)
    first_M, second_M = signal_M + deviation * generator.standard_normal((2, count))
    return first_M, first_M[:pairs], second_M[:pairs]


def test_replicate_noise_is_that_of_one_run():
    _, first_P, second_P = trained(np.random.default_rng(0), 20000, 20000, 0.3)
    assert replicate_noise(first_P, second_P) == pytest.approx(0.3, rel=0.02)
    # What all replicates share changes no rank; one pair cannot show it.
    assert replicate_noise(first_P, second_P + 5) == pytest.approx(
        replicate_noise(first_P, second_P)
    )
    assert replicate_noise(np.zeros(1), np.full(1, 2.0)) == pytest.approx(2**0.5)


def test_a_predictor_without_noise_reaches_the_ceiling():
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
    """Within four standard errors, although the same runs are in both variances."""
    generator = np.random.default_rng(2)
    samples, value = 2000, np.sqrt(1 / 1.3)
    covered = 0
    for _ in range(samples):
        found = noise_ceiling(*trained(generator, count, pairs, np.sqrt(0.3)))
        covered += found.low <= value <= found.high
    slack = 4 * np.sqrt(0.95 * 0.05 / samples)
    assert covered / samples == pytest.approx(0.95, abs=slack)


@pytest.mark.parametrize("members, count, pairs", [(12, 12, 4), (6, 32, 12)])
def test_a_perfect_predictor_with_noisy_members_reaches_the_joint_ceiling(
    members, count, pairs
):
    """And the interval covers, although all predictions share the members' noise."""
    generator = np.random.default_rng(4)
    spread = np.sqrt((1 - 1 / members) / (members + 1))  # of weights, together
    true = 1 / np.sqrt(1.1 * 1.2)
    reached, estimates, covered = [], [], 0
    samples = 1000
    for _ in range(samples):
        w_MC = generator.dirichlet(np.ones(members), count)
        slope_C, off_C, again_C = generator.standard_normal((3, members))
        slope_C -= slope_C.mean()
        slope_C *= np.sqrt(members * (members + 1)) / np.linalg.norm(slope_C)
        run_M, predicted_M, again_M = (
            w_MC @ (slope_C + np.sqrt(0.2) / spread * x_C)
            for x_C in (np.zeros(members), off_C, again_C)
        )
        first_M, second_M = run_M + np.sqrt(0.1) * generator.standard_normal((2, count))
        runs = noise_ceiling(first_M, first_M[:pairs], second_M[:pairs])
        found = joint_ceiling(runs, predicted_M, again_M, w_MC)
        reached.append(np.corrcoef(first_M, predicted_M)[0, 1])
        estimates.append(found.estimate)
        covered += found.low <= true <= found.high
    assert np.mean(reached) == pytest.approx(true, abs=0.01)
    assert true - 0.06 < np.mean(estimates) < true + 0.01  # as that of the runs
    assert 0.89 < covered / samples < 0.97


def test_the_joint_ceiling_without_an_interval_or_noise():
    values = np.array([1.0, 2.0, 4.0])
    w_MC = np.array([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]])
    assert joint_ceiling(Interval(0.9), values, values, w_MC).bounds is None
    found = joint_ceiling(Interval(0.9, 0.8, 0.95), values, values + 1, w_MC)
    assert found == Interval(0.9, pytest.approx(0.8), pytest.approx(0.95))


def test_one_run_has_no_joint_ceiling():
    with warnings.catch_warnings(action="error"):
        found = joint_ceiling(Interval(0.0), np.ones(1), np.ones(1), np.eye(1, 3))
    assert np.isnan(found.estimate) and found.bounds is None


def test_a_ceiling_where_there_is_only_noise():
    first = np.array([1.0, 1.1, 0.9])
    assert noise_ceiling(first, first, -3 * first).estimate == 0
    # A shift of all replicates does not change a ceiling.
    assert noise_ceiling(first, first, first + 5).estimate == 1
    for reference in (np.ones(4), np.ones(1)):
        found = noise_ceiling(reference, reference, reference)
        assert (found.estimate, found.low, found.high) == (0, None, None)


def test_a_ceiling_without_noise():
    reference = np.array([1.0, 1.1, 0.9])
    found = noise_ceiling(reference, reference, reference)
    assert (found.estimate, found.low, found.high) == (1, 1, 1)


def test_too_few_for_an_interval_of_a_ceiling():
    reference = np.array([1.0, 2.0, 3.0])
    for count, pairs in ((3, 2), (2, 3)):
        first = np.ones(pairs)
        second = first + 0.1 * np.arange(pairs)
        found = noise_ceiling(reference[:count], first, second)
        assert found.low is None and 0 < found.estimate < 1
    found = noise_ceiling(reference, reference, reference + 0.1 * np.arange(3))
    assert found.low is not None


def test_corrected():
    assert corrected(0.9, 0.95) == pytest.approx(0.9 / 0.95)
    assert corrected(0.5, BELOW_NOISE) == pytest.approx(0.5 / BELOW_NOISE)
    assert np.isnan(corrected(0.9, BELOW_NOISE - 0.01))
    assert np.isnan(corrected(0.9, float("nan")))


def test_replicates_predict_their_runs():
    """The regret is what choosing by the replicates would cost."""
    first = np.array([1.0, 1.5, 3.0, 4.0])
    second = np.array([2.0, 1.0, 3.0, 5.0])
    in_P = np.array([True, True, False, False])
    found = agreement(second, first, in_P)
    assert found["regret"] == 0.5
    assert found["pairs"] == pytest.approx(5 / 6)
    assert (found["pairs_in"], found["pairs_mixed"], found["pairs_out"]) == (0, 1, 1)


def test_replicates_agree_about_as_the_square_of_the_ceiling():
    """So that is no bound: a predictor without noise reaches the ceiling."""
    first_M, first_P, second_P = trained(np.random.default_rng(3), 4000, 4000, 0.5)
    ceiling = noise_ceiling(first_M, first_P, second_P).estimate
    found = agreement(second_P[:1000], first_P[:1000], None)
    assert found["pearson"] == pytest.approx(ceiling**2, abs=0.04)
