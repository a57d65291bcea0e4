"""Which domains and means over them losses are compared on."""

import types

import numpy as np
import pytest

from jaxsim.scoring.targets import IN_POOL, OUT_OF_POOL, Targets

DOMAINS = ("a", "b", "x", "y")


def targets(*measured):
    in_pool = (True, True, False, False)
    evaluation = types.SimpleNamespace(domains=DOMAINS, in_pool=in_pool, groups=DOMAINS)
    return Targets.of(evaluation, np.isin(DOMAINS, measured))


def test_macros_follow_their_domains():
    found = targets(*DOMAINS)
    assert found.all == (*DOMAINS, IN_POOL, OUT_OF_POOL)
    weights = found.weights(DOMAINS)
    assert weights["x"].tolist() == [0, 0, 1, 0]
    assert weights[IN_POOL].tolist() == [0.5, 0.5, 0, 0]
    assert weights[OUT_OF_POOL].tolist() == [0, 0, 0.5, 0.5]


def test_a_macro_needs_two_measured_domains():
    found = targets("a", "b", "y")
    assert found.all == ("a", "b", "y", IN_POOL)
    assert found.weights(DOMAINS)[IN_POOL].tolist() == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("measured", "level", "held_out", "default"),
    [
        (DOMAINS, OUT_OF_POOL, ("x", "y"), ["x", "y"]),
        (("a", "b", "y"), "y", ("y",), ["y"]),
        (("a", "b"), IN_POOL, (IN_POOL,), ["a", "b"]),
        (("b",), "b", ("b",), ["b"]),
    ],
)
def test_out_of_pool_comes_first(measured, level, held_out, default):
    found = targets(*measured)
    assert found.level == level
    assert found.held_out == held_out
    assert found.default == dict.fromkeys(default, 1.0)


NAMES = ("p", "q", "mmlu/law", "mmlu/art", "arc/easy", "web")
EVALUATION = types.SimpleNamespace(
    domains=NAMES,
    in_pool=(True, True, False, False, False, False),
    groups=("g", "g", "mmlu", "mmlu", "arc", "web"),
)


def test_a_group_has_a_mean_and_counts_once():
    found = Targets.of(EVALUATION, np.ones(6, bool))
    assert found.all == (*NAMES, "mmlu", IN_POOL, OUT_OF_POOL)
    weights = found.weights(NAMES)
    assert weights["mmlu"].tolist() == [0, 0, 0.5, 0.5, 0, 0]
    sixth = 1 / 6
    np.testing.assert_allclose(
        weights[OUT_OF_POOL], [0, 0, sixth, sixth, 2 * sixth, 2 * sixth]
    )
    assert found.default == {"mmlu": 1.0, "arc/easy": 1.0, "web": 1.0}
    assert found.titles()["mmlu"] == ("mmlu",)
    assert "mmlu" in found.drawn
    # One that is in no table can be named all the same.
    assert found.parts("g", NAMES).tolist() == [0.5, 0.5, 0, 0, 0, 0]
    assert found.parts("arc", NAMES).tolist() == [0, 0, 0, 0, 1, 0]
    assert not found.parts("nowhere", NAMES).any()


def test_a_single_group_is_the_macro():
    found = Targets.of(EVALUATION, np.array([0, 0, 1, 1, 0, 0], bool))
    assert found.all == ("mmlu/law", "mmlu/art", OUT_OF_POOL)
    assert found.default == {"mmlu/law": 1.0, "mmlu/art": 1.0}
    assert found.parts("mmlu", NAMES).tolist() == [0, 0, 0.5, 0.5, 0, 0]
