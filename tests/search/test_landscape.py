"""The budget of a landscape is kept to the unit, and nothing is paid twice."""

import numpy as np
import pytest

from jaxsim.search.landscape import BudgetSpent

from .landscapes import Mixed


def test_nothing_is_paid_twice_and_the_budget_is_exact():
    mixed = Mixed(4, "mean", 0)
    ledger, eye_CC = mixed.ledger(budget=8), np.eye(4)
    asked_MC = np.vstack([eye_CC[:2], eye_CC[:1]])
    value_M = ledger.values(asked_MC)
    assert value_M[0] == value_M[2] != value_M[1]
    assert ledger.spent == 2
    slope = ledger.slope(eye_CC[2])
    assert ledger.spent == 5
    assert ledger.values(eye_CC[2:3])[0] == slope.value
    ledger.slope(eye_CC[2])
    assert ledger.spent == 5
    with pytest.raises(BudgetSpent, match="4 units asked, 3 left"):
        ledger.values(np.random.default_rng(0).dirichlet(np.ones(4), 4))
    ledger.slope(eye_CC[0])
    assert ledger.spent == 8
    with pytest.raises(BudgetSpent):
        ledger.values(np.full((1, 4), 0.25))
    assert len(mixed.asked) == 4
    w_MC, value_M = ledger.history
    np.testing.assert_array_equal(w_MC, eye_CC[:3])
    assert value_M[2] == slope.value
