"""Two averages: over bytes, and over documents; by hand, and in every consumer."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxsim.config import ScoreConfig
from jaxsim.model import Execution
from jaxsim.scoring.ensemble import Ensemble
from jaxsim.scoring.evaluator import Evaluator
from jaxsim.scoring.program import merge
from jaxsim.scoring.scores import (
    PredictorScores,
    Scores,
    as_arrow,
    bits_of,
    bits_per_byte,
)
from jaxsim.scoring.table import dirichlet
from jaxsim.validation.diagnostics import text_errors

from . import drawn

BYTES = np.array([4, 6, 10, 4, 6, 10])
DOCUMENT = np.array([0, 0, 1, 2, 2, 3])  # two windows, then one; in both domains
TASK, TEXT = 0, 1
ROWS = drawn.ROWS
# bits: 8, 4, 60. Document 0 has 12 over 10 bytes, document 1 has 60 over 10.
BITS = np.array([8.0, 4.0, 60.0, 8.0, 4.0, 60.0])
NATS = BITS * np.log(2)


@pytest.fixture(scope="module")
def evaluation():
    """The same windows twice: records of a task, and running text."""
    return dataclasses.replace(
        drawn.evaluation(),
        bytes_R=BYTES,
        document_R=DOCUMENT,
        domain_R=np.repeat([TASK, TEXT], 3),
        documents=("a", "b", "a", "b"),
        domains=("task", "text"),
        in_pool=(False, False),
        groups=("task", "text"),
        by_document=(True, False),
    )


def test_means_by_hand(evaluation):
    scored = PredictorScores(ROWS, np.stack([NATS, 2 * NATS]))
    by_document, pooled = (1.2 + 6.0) / 2, 72 / 20
    bits_MD = bits_of(evaluation, scored, "dev")
    np.testing.assert_allclose(bits_MD[0], [by_document, pooled], rtol=1e-14)
    np.testing.assert_allclose(bits_MD[1], 2 * bits_MD[0], rtol=1e-14)
    # Documents with equal bytes have equal weights; these have not.
    uneven = dataclasses.replace(evaluation, bytes_R=np.array([4, 6, 30, 4, 6, 30]))
    np.testing.assert_allclose(
        bits_of(uneven, scored, "dev")[0], [(1.2 + 2.0) / 2, 72 / 40], rtol=1e-14
    )
    assert np.isnan(bits_of(evaluation, scored, "test")).all()


def test_tables_hold_both_and_say_which_counts(evaluation):
    uneven = dataclasses.replace(evaluation, bytes_R=np.array([4, 6, 30, 4, 6, 30]))
    table = dirichlet(("a", "b"), 1, 1.0, seed=0)
    merge = PredictorScores(ROWS, NATS[None])
    lines = as_arrow(Scores("x", table, uneven, {"merge": merge})).to_pylist()
    assert [line["domain"] for line in lines] == ["task", "text"]
    for line in lines:
        assert line["nll_sum"] == pytest.approx(72 * np.log(2))
        assert line["pooled_bits_per_byte"] == pytest.approx(72 / 40)
        assert line["document_bits_per_byte"] == pytest.approx((1.2 + 2.0) / 2)
        mine = "document" if line["domain"] == "task" else "pooled"
        assert line["bits_per_byte"] == line[f"{mine}_bits_per_byte"]


def test_the_gradient_is_that_of_each_domains_own_average(evaluation):
    """Against central differences in float64."""
    w_C = dirichlet(drawn.MEMBERS, 1, 1.0, seed=3).w_MC[0]
    size_D = evaluation.sums(BYTES, ROWS)[:, None]
    with jax.enable_x64(True):
        stack = drawn.stack()
        base, delta_C = jax.tree.map(
            lambda x: np.asarray(x, np.float64), (stack.base, stack.delta_C)
        )
        execution = Execution(unroll=False, precision="float64")

        @jax.jit
        def losses(w_C):
            params = merge(base, delta_C, w_C, 1.0)
            tokens_RL1 = evaluation.tokens_RL1
            return drawn.MODEL.token_nll(params, tokens_RL1, execution).sum(-1)

        def bits(w_C):
            nll_R = np.asarray(losses(w_C))
            first, second = nll_R[:2].sum() / 10, nll_R[2] / 10
            pooled = nll_R[3:].sum() / 20
            return np.array([(first + second) / 2, pooled]) / np.log(2)

        steps = 1e-4 * np.eye(len(w_C))
        expected_DC = np.stack([bits(w_C + s) - bits(w_C - s) for s in steps], axis=1)
        expected_DC /= 2e-4
        wide = dataclasses.replace(stack, base=base, delta_C=delta_C)
        wide = wide.on(drawn.mesh(1), drawn.MODEL)
        config = ScoreConfig(unroll=False, precision="float64")
        found = Evaluator(drawn.MODEL, wide, evaluation, config).jacobian(w_C, 1, ROWS)
    np.testing.assert_allclose(
        bits_per_byte(found.dw_DC, size_D), expected_DC, rtol=0, atol=1e-7
    )
    # The two averages differ, or this would test nothing.
    assert np.abs(expected_DC[TASK] - expected_DC[TEXT]).max() > 1e-3


def test_the_ensemble_weighs_tokens_like_windows():
    """Near ones, and ones that only log space can hold; values and slopes."""
    generator = np.random.default_rng(0)
    nll_CT = generator.gamma(2.0, 1.0, (3, 70)).astype(np.float32)
    nll_CT[0, ::9] = 200.0
    group_T, weight_T = generator.integers(0, 2, 70), generator.uniform(0.01, 1, 70)
    average = Ensemble(nll_CT, group_T, 2, weight_T)
    w_MC = generator.dirichlet(np.ones(3), 4)
    nll_MT = -np.log(np.exp(-nll_CT.T.astype(float)) @ w_MC.T).T
    expected_MG = (nll_MT * weight_T) @ np.eye(2)[group_T]
    np.testing.assert_allclose(average.sums(w_MC), expected_MG, rtol=1e-6)
    nll_G, slope_GC = average.slope(w_MC[0])
    np.testing.assert_allclose(nll_G, expected_MG[0], rtol=1e-6)
    step_C = np.array([1e-6, -1e-6, 0])
    rise_G = average.slope(w_MC[0] + step_C)[0] - average.slope(w_MC[0] - step_C)[0]
    np.testing.assert_allclose(slope_GC @ (2 * step_C), rise_G, rtol=1e-4)


def test_the_error_of_a_mean_over_documents(evaluation):
    """It is that of a plain mean: the deviation over the root of the number."""
    generator = np.random.default_rng(1)
    bytes_R = generator.integers(5, 500, 6)
    one = dataclasses.replace(
        evaluation, domain_R=0 * ROWS, document_R=ROWS, bytes_R=bytes_R
    )
    bits_R = generator.normal(2, 0.3, 6)
    error_KD = text_errors(one, ROWS, (bits_R * bytes_R * np.log(2))[None])
    assert error_KD[0, TASK] == pytest.approx(bits_R.std(ddof=1) / np.sqrt(6))
