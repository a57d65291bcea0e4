"""What truths taught, as searches see it."""

import dataclasses

import numpy as np
import pytest

from jaxsim.config import SearchConfig
from jaxsim.mixture.scores import bits_of
from jaxsim.search.problem import pose
from jaxsim.study.calibration import Calibration
from jaxsim.study.corrector import Corrector


def taught(scorer, coefficients, singles_known=True, domains=None):
    """A correction with these coefficients in every domain."""
    domains = domains or scorer.evaluation.domains
    calibration = Calibration(
        tuple(domains),
        np.tile(np.array(coefficients, float), (len(domains), 1)),
        np.zeros((8, len(domains))),
        np.zeros((8, len(domains))),
        1.0,
        np.inf,
        singles_known,
    )
    return Corrector(calibration, scorer)


def merged(scorer, w_MC, half="select"):
    """Windows of a half, and bits per byte of merges on them."""
    rows = scorer.evaluation.rows(half)
    table = dataclasses.replace(
        scorer.table("dirichlet:2").take([0, 1]), w_MC=w_MC
    )
    losses = scorer.proxies.merge("", table, rows)
    return rows, bits_of(scorer.evaluation, losses, half)


def averaged(scorer, w_MC, half):
    """Bits per byte of the probability average on all windows of a half."""
    table = dataclasses.replace(
        scorer.table("dirichlet:2").take([0, 1]), w_MC=w_MC
    )
    losses = scorer.proxies.probability(table, scorer.token_losses[1:])
    return bits_of(scorer.evaluation, losses, half)


def test_the_shift_is_what_the_calibration_says(scorer):
    w_MC = np.random.default_rng(0).dirichlet(np.ones(4), 2)
    found = taught(scorer, (0.1, 0.2, 0.3, 0.4))
    for half in ("select", "report"):
        rows, bits_MD = merged(scorer, w_MC, half)
        # The members' losses on the same text.
        references = scorer.references()
        names = references.table.names
        member_CD = references.bits_per_byte("merge", half)[
            [names.index(n) for n in scorer.members]
        ]
        spread_M1 = 1 - (w_MC**2).sum(axis=1, keepdims=True)
        own_MD = np.zeros_like(bits_MD)
        for d, name in enumerate(scorer.evaluation.domains):
            if name in scorer.members:
                own_MD[:, d] = w_MC[:, scorer.members.index(name)]
        expected_MD = (
            0.1 * spread_M1
            + 0.2 * own_MD * (1 - own_MD)
            + 0.3 * (w_MC @ member_CD - bits_MD)
            + 0.4 * (averaged(scorer, w_MC, half) - bits_MD)
        )
        # Sums by window, and by domain, of float32 terms.
        np.testing.assert_allclose(
            found.shift(w_MC, bits_MD, rows), expected_MD, atol=1e-6
        )


def test_domains_without_truths_are_not_shifted(scorer):
    w_MC = np.full((2, 4), 1 / 4)
    rows, bits_MD = merged(scorer, w_MC)
    found = taught(scorer, (0.1, 0.0, 0.0, 0.0), domains=["outside"])
    shift_MD = found.shift(w_MC, bits_MD, rows)
    column = scorer.evaluation.domains.index("outside")
    np.testing.assert_allclose(shift_MD[:, column], 0.1 * 3 / 4)
    assert not np.delete(shift_MD, column, axis=1).any()


def test_a_search_descends_on_what_training_would_give(scorer):
    """Values and slopes of the corrected objective, by central differences."""
    config = SearchConfig(target={"outside": 1.0})
    found = taught(scorer, (0.5, 0.0, 0.4, 0.3))
    plain, corrected = (pose(scorer, config, c).loss for c in (None, found))
    w_C = np.array([0.4, 0.3, 0.2, 0.1])
    assert corrected.slope(w_C).value > plain.slope(w_C).value
    value = corrected.values(w_C[None])[0]
    assert corrected.slope(w_C).value == pytest.approx(value, rel=1e-6)
    toward_C = np.array([0.5, -0.2, -0.2, -0.1])
    step = 0.02
    low, high = corrected.values(
        np.array([w_C - step * toward_C, w_C + step * toward_C])
    )
    # The merge's losses are float32, and the difference is of third order.
    assert corrected.slope(w_C).slope_PC[0] @ toward_C == pytest.approx(
        (high - low) / (2 * step), rel=2e-2
    )
