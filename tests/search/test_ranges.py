"""Ranges of weights: how far each can move while a quadratic stays low."""

import numpy as np
import pytest

from .test_optimize import allowed


def test_a_range_reaches_the_edge_of_a_ball():
    """With the same curvature everywhere, low mixtures are a ball in the simplex."""
    feasible, even_C = allowed(4), np.full(4, 0.25)
    ball = np.zeros((1, 4)), np.eye(4)[None], even_C
    found = feasible.ranges(*ball, np.array([above := 0.01]))
    # |s|^2 / 2 <= above with sum s = 0: s_c is at most this.
    reach = np.sqrt(2 * above * 3 / 4)
    np.testing.assert_allclose(found, [[0.25 - reach, 0.25 + reach]] * 4, atol=1e-6)
    limited = allowed(4, max_weight={"m0": 0.3}, min_weight={"m1": 0.2})
    found = limited.ranges(*ball, np.array([above]))
    np.testing.assert_allclose(found[0], [0.25 - reach, 0.3], atol=1e-6)
    np.testing.assert_allclose(found[1], [0.2, 0.25 + reach], atol=1e-6)
    wide = feasible.ranges(*ball, np.array([10.0]))
    np.testing.assert_allclose(wide, [[0, 1]] * 4, atol=1e-6)


@pytest.mark.parametrize("limits", [{}, {"divergence": 0.2}, {"max_sources": 3}])
def test_ranges_hold_every_mixture_that_is_low(limits):
    """Each of several quadratics has its own limit."""
    feasible, generator = allowed(5, **limits), np.random.default_rng(1)
    root_PCC = generator.normal(size=(3, 5, 5))
    hessian_PCC = root_PCC @ np.swapaxes(root_PCC, 1, 2)
    slope_PC = generator.normal(size=(3, 5)) * 0.1
    room_P = generator.uniform(0.05, 0.15, size=3)
    at_C = feasible.center_C
    face = feasible.face(at_C)
    range_CE = face.ranges(slope_PC, hessian_PCC, at_C, room_P)
    sample_MC = face.sample(20_000, generator)
    # Closer and closer to the center, where most of them are low.
    sample_MC = at_C + generator.uniform(size=(len(sample_MC), 1)) * (sample_MC - at_C)
    step_MC = sample_MC - at_C
    rise_MP = step_MC @ slope_PC.T
    rise_MP += np.einsum("mc,pce,me->mp", step_MC, hessian_PCC, step_MC) / 2
    low_MC = sample_MC[(rise_MP <= room_P).all(axis=1)]
    assert len(low_MC) > 100
    assert (low_MC >= range_CE[:, 0] - 1e-6).all()
    assert (low_MC <= range_CE[:, 1] + 1e-6).all()
    # And they are not much wider than that.
    width_C = np.ptp(range_CE, axis=1)
    assert (np.ptp(low_MC, axis=0) >= 0.6 * width_C).all()
