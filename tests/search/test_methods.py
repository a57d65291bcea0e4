"""Methods: how low, how soon, how sure, and never outside the set."""

import numpy as np
import pytest

from jaxsim.config import SearchConfig
from jaxsim.search.constraints import Feasible, feasible
from jaxsim.search.landscape import BudgetSpent, Ledger, Slope
from jaxsim.search.methods import descend, frank_wolfe, sample, subsets

from .landscapes import Mixed

SETS = {
    "anything": {},
    "supply": {"tokens": 1000.0, "epochs": 3.0, "floors": {"m0": 0.05}},
    "divergence": {"divergence": 0.3},
}
KINDS = pytest.mark.parametrize("kind", ["mean", "worst", "regret"])
MEMBERS = pytest.mark.parametrize("members", [12, 32])
SET = pytest.mark.parametrize("name", SETS)


def allowed(members: int, **config) -> Feasible:
    names = [f"m{c}" for c in range(members)]
    return feasible(
        SearchConfig(**config), names, names, ["all"] * members,
        np.full(members, 1000 / members), np.ones(members), 0.0,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["descend", "frank_wolfe"])
@KINDS
@SET
@MEMBERS
def test_the_certificate_within_a_hundred_units(method, kind, name, members):
    """A gap of 0.05 %, which bounds the distance to the true minimum."""
    feasible = allowed(members, **SETS[name])
    mixed = Mixed(members, kind, rng=0 if members == 12 else 3)
    ledger = mixed.ledger(budget=100)
    start_C = feasible.centre_C
    if method == "descend":
        found = descend(ledger, feasible, start_C[None])
    else:
        found = frank_wolfe(ledger, feasible, start_C)
    assert found.gap <= 5e-4 * found.value
    assert found.spent == ledger.spent == 3 * len(mixed.asked)
    assert feasible.contains(np.array(mixed.asked)).all()
    assert found.value == pytest.approx(mixed.values(found.w_C[None])[0])
    lowest = mixed.lowest_value(feasible)
    assert lowest - 1e-6 <= found.value <= lowest + found.gap + 1e-6


@KINDS
def test_a_gap_holds_wherever_a_method_stops(kind):
    """Not only at the end."""
    feasible = allowed(12, **SETS["supply"])
    lowest = Mixed(12, kind, rng=0).lowest_value(feasible)
    values = []
    for budget in range(3, 40, 3):
        mixed = Mixed(12, kind, rng=0)
        ledger = mixed.ledger(budget)
        found = descend(ledger, feasible, feasible.centre_C[None], gap=1e-7)
        assert ledger.spent <= budget
        assert found.value - found.gap <= lowest + 1e-7
        assert found.value == min(ledger.history[1])
        values.append(found.value)
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(lowest, rel=1e-6)


def test_descending_beats_sampling_and_subsets_at_equal_cost():
    """From their best, and also from the centre."""
    for kind in ("mean", "worst", "regret"):
        for name, config in SETS.items():
            feasible = allowed(12, **config)
            mixed = Mixed(12, kind, rng=5)
            lowest = mixed.lowest_value(feasible)
            rivals = [
                subsets(mixed.ledger(100), feasible, 100),
                sample(
                    mixed.ledger(100), feasible, 100, np.random.default_rng(0)
                ),
            ]
            best = min(rivals, key=lambda result: result.value)
            for start_C in (best.w_C, feasible.centre_C):
                found = descend(mixed.ledger(60), feasible, start_C[None])
                closed = (best.value - found.value) / (best.value - lowest)
                assert closed > 0.99, (kind, name)


def test_frank_wolfe_is_sparse():
    """Every step adds at most one member to those that it started with."""
    feasible, mixed = allowed(32), Mixed(32, "mean", rng=1)
    start_C = np.eye(32)[0]
    for steps in range(1, 6):
        ledger = mixed.ledger(3 * (1 + steps))
        found = frank_wolfe(ledger, feasible, start_C, gap=0.0)
        assert (found.w_C > 0).sum() <= 1 + steps
    dense = frank_wolfe(mixed.ledger(), feasible, np.ones(32) / 32)
    assert (dense.w_C > 0).sum() < 12  # the dense start is forgotten


def test_all_subsets_of_all_sizes_that_fit():
    mixed, feasible = Mixed(6, "mean", 0), allowed(6)
    found = subsets(mixed.ledger(30), feasible, 30)
    assert found.spent == 6 + 15  # 20 threes do not fit
    assert len({tuple(w_C > 0) for w_C in mixed.asked}) == 21
    assert all(len(set(w_C[w_C > 0])) == 1 for w_C in mixed.asked)
    assert found.value == min(mixed.values(np.array(mixed.asked)))
    assert found.gap is None
    assert subsets(mixed.ledger(4), feasible, 99).spent == 4
    assert subsets(mixed.ledger(99), feasible, 99).spent == 63
    # In a smaller set, the nearest of each.
    mixed, feasible = Mixed(6, "mean", 0), allowed(6, ceilings={"m1": 0.2})
    subsets(mixed.ledger(99), feasible, 6)
    assert feasible.contains(np.array(mixed.asked)).all()
    assert mixed.asked[1][1] == pytest.approx(0.2)


def test_samples_are_repeatable():
    def asked(rng: int) -> np.ndarray:
        mixed = Mixed(6, "mean", 0)
        generator = np.random.default_rng(rng)
        sample(mixed.ledger(20), allowed(6), 50, generator)
        return np.array(mixed.asked)

    assert asked(0).shape == (20, 6)
    np.testing.assert_array_equal(asked(0), asked(0))
    assert (asked(0) != asked(1)).all()


def test_a_method_that_cannot_begin_says_so():
    feasible, mixed = allowed(6), Mixed(6, "mean", 0)
    with pytest.raises(BudgetSpent):
        descend(mixed.ledger(2), feasible, np.eye(6))
    with pytest.raises(BudgetSpent):
        frank_wolfe(mixed.ledger(2), feasible, np.eye(6)[0])
    for method in (
        lambda ledger: subsets(ledger, feasible, 5),
        lambda ledger: sample(ledger, feasible, 5, np.random.default_rng(0)),
    ):
        with pytest.raises(BudgetSpent):
            method(mixed.ledger(0))
    assert mixed.asked == []


def test_several_starts_find_the_lower_of_two_valleys():
    """And stop at the budget, with the best so far."""

    def values(w_MC: np.ndarray) -> np.ndarray:
        return 1 + (1 - w_MC[:, 0] ** 2) * (0.9 - w_MC[:, 1] ** 2)

    def slope(w_C: np.ndarray) -> Slope:
        slope_C = np.array(
            [
                -2 * w_C[0] * (0.9 - w_C[1] ** 2),
                -2 * w_C[1] * (1 - w_C[0] ** 2),
                0.0,
            ]
        )
        return Slope(values(w_C[None]), slope_C[None])

    def ledger(budget: float = 1e9) -> Ledger:
        return Ledger(("x", "y", "z"), values, slope, budget)

    feasible = allowed(3)
    starts_MC = np.array([[0.7, 0.1, 0.2], [0.1, 0.7, 0.2]])
    found = descend(ledger(), feasible, starts_MC)
    np.testing.assert_allclose(found.w_C, [0, 1, 0], atol=1e-6)
    alone = descend(ledger(), feasible, starts_MC[:1])
    np.testing.assert_allclose(alone.w_C, [1, 0, 0], atol=1e-6)
    assert alone.value == pytest.approx(1.0)
    assert found.value == pytest.approx(0.9)
    short = descend(ledger(alone.spent + 2), feasible, starts_MC)
    assert short.value == alone.value and short.spent == alone.spent


def test_rounding_of_losses_stops_a_descent_soon():
    """Losses come from float32 sums: about 1e-6 of them is noise."""
    mixed, generator = Mixed(12, "mean", 3), np.random.default_rng(0)

    def slope(w_C: np.ndarray) -> Slope:
        exact = mixed.slope(w_C)
        noise = 1 + 1e-6 * generator.standard_normal(1)
        return Slope(exact.value_P * noise, exact.slope_PC * noise)

    ledger = Ledger(mixed.members, mixed.values, slope, 1e9)
    feasible = allowed(12)
    found = descend(ledger, feasible, feasible.centre_C[None], gap=1e-9)
    assert found.spent < 120
    assert found.value - mixed.lowest_value(feasible) < 1e-5


def test_few_sources_are_kept_and_bounded():
    """The bound is over all choices of sources, so the gap need not close."""
    feasible = allowed(8, max_sources=2)
    mixed = Mixed(8, "mean", rng=2)
    starts_MC = feasible.sample(4, np.random.default_rng(0))
    found = descend(mixed.ledger(), feasible, starts_MC)
    assert all((w_C > 1e-7).sum() <= 2 for w_C in mixed.asked)
    true_best = min(
        descend(mixed.ledger(), allowed(8, **{"ceilings": shut}), w_C[None])
        .value
        for i in range(8)
        for j in range(i)
        for w_C in [(np.eye(8)[i] + np.eye(8)[j]) / 2]
        for shut in [{f"m{c}": 0.0 for c in range(8) if c not in (i, j)}]
    )  # fmt: skip
    assert found.value - found.gap <= true_best <= found.value
