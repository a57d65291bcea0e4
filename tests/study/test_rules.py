"""The rules that know nothing: what they say, and where they are silent."""

import numpy as np
import pytest

from jaxsim.study.rules import RULES, is_in, predictions

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
# Other truths, on which the third weight hurts most evenly.
FIT = W_MC[[0, 3, 2, 4]], np.array([1.0, 1.8, 1.2, 1.5])


def test_in_pool():
    found = predictions(W_MC, OWN_C, (W_MC, LOSS_M))
    assert set(found) == set(RULES) - {"random"}
    assert found["membership"].tolist() == [-1, -1, -1, 0, 0]
    np.testing.assert_allclose(found["own weight"], [-1, -1, -0.5, -0.2, 0])
    assert np.argmin(found["closeness"]) == 1  # the own units' own weights
    assert found["closeness"][1] == 0
    assert found["number of units"].tolist() == [-1, -2, -4, -3, -2]


def test_out_of_pool_membership_and_own_weight_are_blank():
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
    """It is picked on the truths given for it and applied to others."""
    w_FC, loss_F = FIT
    correlation_C = [np.corrcoef(w_C, loss_F)[0, 1] for w_C in w_FC.T]
    assert np.argmax(np.abs(correlation_C)) == 2
    found = predictions(W_MC, None, (w_FC, sign * loss_F))
    np.testing.assert_array_equal(
        found["best single weight"], sign * W_MC[:, 2]
    )


def test_the_best_single_weight_needs_three_truths_that_differ():
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
