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
