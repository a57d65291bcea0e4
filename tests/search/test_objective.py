"""Objectives: values, limits, slopes, and unknown names."""

import dataclasses

import numpy as np
import pytest

from jaxsim.config import SearchConfig
from jaxsim.errors import UserError
from jaxsim.search.objective import (
    PENALTY,
    Objective,
    objective,
    target_weights,
    weighted_mean,
)

NAMES = ("solo", "news", "code", "outside")


@dataclasses.dataclass(frozen=True)
class Domains:
    """What an objective reads of an evaluation set."""

    domains: tuple[str, ...] = NAMES
    in_pool: tuple[bool, ...] = (True, True, True, False)
    groups: tuple[str, ...] = NAMES


def make(kind="mean", max_regression=None, target=None) -> Objective:
    config = SearchConfig(
        target=target or {"solo": 1.0, "news": 3.0},
        objective=kind,
        max_regression=max_regression or {},
    )
    base_D = np.array([2.0, 3.0, 4.0, np.nan])
    return dataclasses.replace(objective(config, Domains()), base_D=base_D)


def test_the_default_target_is_out_of_pool():
    assert target_weights(SearchConfig(), Domains()) == {"outside": 1.0}
    inside = Domains(in_pool=(True,) * 4)
    assert target_weights(SearchConfig(), inside) == dict.fromkeys(NAMES, 1.0)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"target": {"nowhere": 1.0}}, "target: 'nowhere' is not a .*outside"),
        ({"target": {"solo": 0.0}}, "one of them positive"),
        ({"target": {"solo": 1.0, "news": -1.0}}, "zero or more"),
        (
            {"max_regression": {"nowhere": 0.1}},
            "max_regression: 'nowhere' is not a .*outside",
        ),
    ],
    ids=["unknown", "zero", "negative", "unknown limit"],
)
def test_bad_names_and_weights_are_refused(config, sentence):
    with pytest.raises(UserError, match=sentence):
        objective(SearchConfig(**config), Domains())


def test_mean_and_worst():
    bits_MD = np.array([[2.0, 2.0, 9.0, np.nan], [1.0, 3.5, 9.0, np.nan]])
    np.testing.assert_allclose(make().value(bits_MD), [2.0, 2.875])
    # Relative to the base model's 2 and 3; their mean is 2.75.
    np.testing.assert_allclose(make("worst").value(bits_MD), [2.75, 3.25])
    # Both objectives have the same value at the base model.
    base_MD = np.array([[2.0, 3.0, 4.0, np.nan]])
    assert make().value(base_MD) == make("worst").value(base_MD) == 2.75
    assert make().needed_D.tolist() == [True, True, False, False]


def test_a_domain_without_weight_may_hold_nan():
    bits_MD = np.array([[1.0, np.nan]])
    assert weighted_mean(bits_MD, np.array([2.0, 0.0])) == 1
    assert weighted_mean(np.array([[1.0, 3.0]]), np.array([1, 3])) == 2.5


@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_regression_limits(kind):
    found = make(kind, max_regression={"code": 0.1, "news": 0.0})
    assert found.needed_D.tolist() == [True, True, True, False]
    bits_MD = np.array(
        [[2, 3.0, 4.4, np.nan], [2, 3.0, 4.5, np.nan], [2, 3.3, 4.5, np.nan]]
    )
    over_M = found.violation(bits_MD)
    np.testing.assert_allclose(over_M, [0, 0.1, 0.3], atol=1e-12)
    expected_M = found.value(bits_MD) + PENALTY * over_M
    np.testing.assert_allclose(found.penalised(bits_MD), expected_M)
    assert make(kind).violation(bits_MD).tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_pieces_are_the_objective_and_its_slope(kind):
    """Compared with the value itself, and with finite differences."""
    found = make(kind, max_regression={"code": 0.1, "news": 0.0})
    generator = np.random.default_rng(0)
    jacobian_DC = generator.normal(size=(4, 5))
    largest = set()
    for _ in range(200):
        bits_D = np.append(generator.normal([2, 3, 4.4], 0.5), np.nan)
        slope = found.pieces(bits_D, jacobian_DC)
        value = found.penalised(bits_D[None])[0]
        top = int(np.argmax(slope.value_P))
        largest.add(top)
        assert slope.value == pytest.approx(value, abs=1e-12)
        slope_D = found.pieces(bits_D, np.eye(4)).slope_PC[top]
        assert slope_D[3] == 0
        np.testing.assert_allclose(
            slope.slope_PC[top], slope_D[:3] @ jacobian_DC[:3], atol=1e-12
        )
        moved_DD = bits_D + 1e-7 * np.eye(4)[:3]
        rise_D = (found.penalised(moved_DD) - value) / 1e-7
        np.testing.assert_allclose(rise_D, slope_D[:3], atol=1e-5)
    assert len(largest) == len(slope.value_P)
