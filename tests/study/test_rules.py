"""The rules that know nothing: what they say, and where they are silent."""

import numpy as np
import pytest

from jaxsim.study.rules import RULES, predictions

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


def test_in_pool():
    found = predictions(W_MC, OWN_C, LOSS_M)
    assert set(found) == set(RULES) - {"random"}
    # In: own weight of at least 1/C.
    assert found["membership"].tolist() == [-1, -1, -1, 0, 0]
    np.testing.assert_allclose(found["own weight"], [-1, -1, -0.5, -0.2, 0])
    assert np.argmin(found["closeness"]) == 1  # the own units' own weights
    assert found["closeness"][1] == 0
    assert found["number of units"].tolist() == [-1, -2, -4, -3, -2]
    np.testing.assert_array_equal(found["best single weight"], -W_MC[:, 0])


def test_out_of_pool_membership_and_own_weight_are_blank():
    found = predictions(W_MC, None, LOSS_M)
    assert not {"membership", "own weight"} & set(found)
    # Closeness is evenness there.
    assert np.argmin(found["closeness"]) == 2
    assert found["closeness"][2] == 0


def test_the_best_single_weight_needs_losses_to_choose_on():
    assert "best single weight" not in predictions(W_MC, OWN_C, None)
    found = predictions(W_MC, None, LOSS_M[::-1])
    assert not np.array_equal(found["best single weight"], -W_MC[:, 0])


def test_a_unit_that_never_varies_is_not_chosen():
    w_MC = np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.5, 0.25, 0.25]])
    found = predictions(w_MC, None, np.array([1.0, 2.0, 1.5]))
    assert found["best single weight"] == pytest.approx(-w_MC[:, 1])
