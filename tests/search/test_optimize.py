"""Descents: how low, how soon, always inside the set, and at what cost."""

import numpy as np
import pytest

from jaxsim.config import SearchConfig
from jaxsim.corpus.store import Unit
from jaxsim.search.constraints import feasible
from jaxsim.search.feasible import Feasible
from jaxsim.search.objective import Slope
from jaxsim.search.optimize import BudgetSpent, LossOracle, descend

from .landscapes import Mixed

SETS = {
    "anything": {},
    "supply": {"tokens": 1000.0, "epochs": 3.0, "min_weight": {"m0": 0.05}},
    "divergence": {"divergence": 0.3},
}
KINDS = pytest.mark.parametrize("kind", ["mean", "worst", "max_regression"])
MEMBERS = pytest.mark.parametrize("members", [12, 32])
SET = pytest.mark.parametrize("name", SETS)


def allowed(members: int, **config) -> Feasible:
    names = [f"m{c}" for c in range(members)]
    units = [Unit(name, name, "all", "", 0, 0, 0, 1000 / members) for name in names]
    return feasible(SearchConfig(**config), units, np.ones(members), 0.0)


@KINDS
@SET
@MEMBERS
def test_a_descent_needs_few_gradients(kind, name, members):
    """Within 0.05 % of another solver's minimum after 20, and done after 40."""
    feasible = allowed(members, **SETS[name])
    mixed = Mixed(members, kind, seed=0 if members == 12 else 3)
    oracle = mixed.oracle(budget=3 * 20)
    w_C, _ = descend(oracle, feasible, feasible.center_C)
    lowest = mixed.lowest_value(feasible)
    value = oracle.values(w_C[None])[0]
    assert value <= lowest * (1 + 5e-4)
    assert value >= lowest - 1e-6
    whole = mixed.oracle(budget=3 * 40)
    asked = len(mixed.asked)
    w_C, _ = descend(whole, feasible, feasible.center_C)
    assert whole.spent == 3 * (len(mixed.asked) - asked) < 3 * 40
    assert feasible.contains(np.array(mixed.asked[asked:])).all()
    assert whole.values(w_C[None])[0] == min(whole.history[1])
    assert min(whole.history[1]) <= lowest * (1 + 1e-5)


def test_a_known_curvature_saves_gradients():
    """It was learned on a similar loss: on every other token."""
    feasible, spent = allowed(32), {"nothing": 0.0, "curvature": 0.0}
    for kind in ("mean", "worst", "max_regression"):
        mixed = Mixed(32, kind, seed=0)
        lowest = mixed.lowest_value(feasible)
        whole_DTC = mixed.p_DTC
        mixed.p_DTC = whole_DTC[:, ::2]
        _, known_CC = descend(mixed.oracle(), feasible, feasible.center_C)
        mixed.p_DTC = whole_DTC
        for name, hessian_CC in (("nothing", None), ("curvature", known_CC)):
            oracle = mixed.oracle()
            descend(oracle, feasible, feasible.center_C, hessian_CC)
            assert min(oracle.history[1]) == pytest.approx(lowest, rel=1e-5)
            spent[name] += oracle.spent
    assert spent["curvature"] <= 0.75 * spent["nothing"]


@KINDS
def test_any_budget_is_kept(kind):
    """A larger one is never worse."""
    feasible = allowed(12, **SETS["supply"])
    lowest = Mixed(12, kind, seed=0).lowest_value(feasible)
    values = []
    for budget in range(3, 60, 3):
        oracle = Mixed(12, kind, seed=0).oracle(budget)
        w_C, _ = descend(oracle, feasible, feasible.center_C, improvement=1e-9)
        assert oracle.spent <= budget
        assert oracle.values(w_C[None])[0] == min(oracle.history[1])
        values.append(min(oracle.history[1]))
    assert values == sorted(values, reverse=True)
    assert values[-1] == pytest.approx(lowest, rel=1e-6)


def test_descending_beats_sampling_at_equal_cost():
    """From the best sample, and also from the center."""
    for kind in ("mean", "worst", "max_regression"):
        for name, config in SETS.items():
            feasible = allowed(12, **config)
            mixed = Mixed(12, kind, seed=5)
            lowest = mixed.lowest_value(feasible)
            sample_MC = feasible.sample(100, np.random.default_rng(0))
            value_M = mixed.values(sample_MC)
            best = value_M.min()
            for start_C in (sample_MC[value_M.argmin()], feasible.center_C):
                oracle = mixed.oracle(90)
                w_C, _ = descend(oracle, feasible, start_C)
                value = oracle.values(w_C[None])[0]
                assert (best - value) / (best - lowest) > 0.999, (kind, name)


def test_a_budget_too_small_to_start_is_an_error():
    feasible, mixed = allowed(6), Mixed(6, "mean", 0)
    with pytest.raises(BudgetSpent, match="0 of 2 evaluations are spent"):
        descend(mixed.oracle(2), feasible, np.eye(6)[0])
    assert mixed.asked == []


def test_a_nonconvex_loss_is_descended():
    """From either side, to the minimum of that side."""

    def values(w_MC: np.ndarray) -> np.ndarray:
        return 1 + (1 - w_MC[:, 0] ** 2) * (0.9 - w_MC[:, 1] ** 2)

    def slope(w_C: np.ndarray) -> Slope:
        slope_C = np.array(
            [-2 * w_C[0] * (0.9 - w_C[1] ** 2), -2 * w_C[1] * (1 - w_C[0] ** 2), 0.0]
        )
        return Slope(values(w_C[None]), slope_C[None])

    for start, end, value in (
        ([0.7, 0.1, 0.2], [1, 0, 0], 1.0),
        ([0.1, 0.7, 0.2], [0, 1, 0], 0.9),
    ):
        oracle = LossOracle(values, slope, 1e9)
        w_C, _ = descend(oracle, allowed(3), np.array(start))
        np.testing.assert_allclose(w_C, end, atol=1e-6)
        assert min(oracle.history[1]) == pytest.approx(value)


def test_rounding_ends_a_descent_early():
    """Losses come from float32 sums: about 1e-6 of them is noise."""
    mixed, generator = Mixed(12, "mean", 3), np.random.default_rng(0)

    def slope(w_C: np.ndarray) -> Slope:
        exact = mixed.slope(w_C)
        noise = 1 + 1e-6 * generator.standard_normal(1)
        return Slope(exact.value_P * noise, exact.slope_PC * noise)

    oracle = LossOracle(mixed.values, slope, 1e9)
    feasible = allowed(12)
    w_C, _ = descend(oracle, feasible, feasible.center_C, improvement=1e-9)
    assert oracle.spent < 120
    value = mixed.values(w_C[None])[0]
    assert value - mixed.lowest_value(feasible) < 1e-5


def test_descents_keep_few_sources():
    """From enough starts, they find the best of all pairs."""
    feasible = allowed(8, max_sources=2)
    mixed = Mixed(8, "mean", seed=2)
    oracle = mixed.oracle()
    for start_C in feasible.sample(40, np.random.default_rng(0)):
        descend(oracle, feasible.face(start_C), start_C)
    assert all((w_C > 1e-7).sum() <= 2 for w_C in mixed.asked)
    best = min(
        mixed.lowest_value(allowed(8, max_weight=shut))
        for i in range(8)
        for j in range(i)
        for shut in [{f"m{c}": 0.0 for c in range(8) if c not in (i, j)}]
    )
    assert min(oracle.history[1]) == pytest.approx(best, rel=1e-5)


def test_each_mixture_is_paid_once_and_the_budget_is_exact():
    mixed = Mixed(4, "mean", 0)
    oracle, eye_CC = mixed.oracle(budget=8), np.eye(4)
    asked_MC = np.vstack([eye_CC[:2], eye_CC[:1]])
    value_M = oracle.values(asked_MC)
    assert value_M[0] == value_M[2] != value_M[1]
    assert oracle.spent == 2
    slope = oracle.slope(eye_CC[2])
    assert oracle.spent == 5
    assert oracle.values(eye_CC[2:3])[0] == slope.value
    with pytest.raises(BudgetSpent, match=r"5 of 8 .* spent, and 4 more"):
        oracle.values(np.random.default_rng(0).dirichlet(np.ones(4), 4))
    oracle.slope(eye_CC[0])
    assert oracle.spent == 8
    with pytest.raises(BudgetSpent):
        oracle.values(np.full((1, 4), 0.25))
    assert len(mixed.asked) == 4
    w_MC, value_M = oracle.history
    np.testing.assert_array_equal(w_MC, eye_CC[:3])
    assert value_M[2] == slope.value
