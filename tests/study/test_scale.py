"""The scale of merges that lies nearest to truths."""

import numpy as np
import pytest

from jaxsim.mixture.table import dirichlet
from jaxsim.study.measured import Measured
from jaxsim.study.scale import SCALES, scale_of


@pytest.mark.parametrize("scale", [0.75, 1.5])
def test_the_scale_of_truths_is_found(scorer, scale):
    """Truths that are merges at a scale, but for a little noise."""
    table = dirichlet(scorer.members, 3, 1.0, rng=1)
    assert scale in SCALES
    at = np.full(3, scale)
    merges = scorer.score("at", _scaled(table, at), "select")
    bits_FD = merges.bits_per_byte("merge", "select")
    noise = np.random.default_rng(0).normal(0, 1e-3, bits_FD.shape)
    fitted = Measured(table.names, table.w_MC, {"truth": bits_FD + noise}, {})
    judged = dirichlet(scorer.members, 2, 1.0, rng=2)
    found, bits_MD = scale_of(scorer, table, fitted, judged)
    assert found == scale
    again = scorer.score("judged", _scaled(judged, at[:2]), "report")
    np.testing.assert_allclose(
        bits_MD, again.bits_per_byte("merge", "report"), rtol=1e-6
    )


def _scaled(table, scale_M):
    return type(table)(
        table.members, table.names, table.kinds, table.w_MC, scale_M
    )
