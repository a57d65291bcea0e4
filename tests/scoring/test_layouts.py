"""Devices, layers and dtypes decide how fast a mixture is, not its score."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hlo import Module, device_groups

from jaxsim.errors import UserError
from jaxsim.mesh import scoring_mesh
from jaxsim.model import MATRICES, Execution
from jaxsim.scoring.program import along_deltas, merge

from . import drawn

# Sums of 16 float32 losses, of products that are summed in another order.
CLOSE = {"rtol": 5e-6}
needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
COLLECTIVES = (
    r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)"
    r"(?:-start)?\("
)


@pytest.fixture(scope="module")
def expected_MR():
    """Merged by NumPy, scored one by one by the model alone."""
    base, *members = drawn.trees()
    execution = Execution(unroll=False, loss_chunk=16)
    tokens_RL1 = drawn.evaluation().tokens_RL1
    nll = jax.jit(lambda p: drawn.MODEL.token_nll(p, tokens_RL1, execution))

    def merged(w_C: np.ndarray):
        return jax.tree.map(
            lambda s, *ms: (
                s + sum(w * (m - s) for w, m in zip(w_C, ms, strict=True))
            ).astype(np.float32),
            base,
            *members,
        )

    return np.array(
        [np.asarray(nll(merged(w_C))).sum(-1) for w_C in drawn.table().w_MC]
    )


def lowered(evaluator, gradient=False) -> jax.stages.Lowered:
    programs = evaluator.programs
    return programs.lowered(programs.layout(gradient), drawn.LENGTH, gradient)


@pytest.mark.parametrize(
    ("devices", "model_axis"),
    [
        (1, 1),
        pytest.param(4, 1, marks=needs_eight),
        pytest.param(8, 1, marks=needs_eight),
        pytest.param(4, 2, marks=needs_eight),
        pytest.param(8, 2, marks=needs_eight),
    ],
)
@pytest.mark.parametrize("chunk", [0, 16])
def test_layouts_agree(expected_MR, devices, model_axis, chunk):
    """One mixture at a time as CPUs do it, and several as accelerators do."""
    evaluator = drawn.evaluator(devices, model_axis, chunk=chunk, rows=4)
    programs = evaluator.programs
    assert (programs.across, programs.within) == (devices // model_axis, model_axis)
    assert programs.layout().mixtures == (chunk // programs.across or 1)
    nll_MR = evaluator.score(drawn.table(), drawn.ROWS)
    np.testing.assert_allclose(nll_MR, expected_MR, **CLOSE)


@needs_eight
def test_spread_mixtures_exchange_nothing():
    compiled = lowered(drawn.evaluator(8)).compile()
    assert not re.findall(COLLECTIVES, compiled.as_text())
    out, _ = compiled.output_shardings
    assert out.spec[0] == "mixture"  # so that only a fetch gathers


@needs_eight
def test_merged_models_are_gathered_and_nothing_else_is_sent():
    evaluator = drawn.evaluator(8, 2, precision="bfloat16")
    text = lowered(evaluator).compile().as_text()
    lines = [line for line in text.splitlines() if re.search(COLLECTIVES, line)]
    assert lines
    for line in lines:
        assert re.search(COLLECTIVES, line)[1] == "all-gather", line
    # Pairs of neighbors: the mixtures are not their business.
    for groups in device_groups(text):
        assert groups == [[0, 1], [2, 3], [4, 5], [6, 7]]
    # Whole trees, once a mixture.
    matrices = [
        2 * leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(drawn.stack().base)
        if path[-1].key in MATRICES
    ]
    moved = sum(c.size * c.count for c in Module(text).collectives())
    assert moved >= sum(matrices)


@needs_eight
def test_halves_of_a_model_give_what_the_whole_gives():
    """In bfloat16 as well: what is sent is what would be multiplied."""
    nll_MR = [
        drawn.evaluator(4, width, precision="bfloat16").score(drawn.table(), drawn.ROWS)
        for width in (1, 2)
    ]
    # A window that is rounded otherwise moves by a thousandth of a nat.
    np.testing.assert_allclose(*nll_MR, rtol=2e-5)


@needs_eight
def test_widths_are_divided_and_members_are_not():
    pool = drawn.evaluator(8, 2).programs.pool
    leaves = jax.tree_util.tree_leaves_with_path(pool.delta_C)
    for path, leaf in leaves:
        shard = leaf.addressable_shards[0].data.shape
        assert shard[1] == len(drawn.MEMBERS), path
        # All but what is as wide as the model itself.
        name = jax.tree_util.keystr(path)
        whole = re.search(r"(attention|mlp|final)_norm|(output|out).*bias", name)
        assert math.prod(shard) == leaf.size // (1 if whole else 2), name


@needs_eight
def test_what_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"model_axis=3 does not divide the"):
        scoring_mesh(3)
    with pytest.raises(UserError, match=r"vocab of 98 .*score\.model_axis"):
        drawn.evaluator(8, 8)


@pytest.mark.parametrize("deltas", ["float32", "bfloat16"])
def test_merge_and_its_transpose(deltas):
    """Float32 products and sums, of what is held."""
    stack = drawn.stack(deltas)
    rng = np.random.default_rng(2)
    w_C = rng.dirichlet(np.ones(3)).astype(np.float32)
    gradient = jax.tree.map(
        lambda s: rng.standard_normal(s.shape, dtype=np.float32), stack.base
    )
    wide = jax.tree.map(_wide, stack.delta_C)
    merged = jax.jit(merge)(stack.base, stack.delta_C, w_C, np.float32(1.5))
    jax.tree.map(
        lambda m, s, d: np.testing.assert_allclose(
            m, s + 1.5 * np.einsum("c,nc...->n...", w_C, d), atol=1e-6
        ),
        merged,
        stack.base,
        wide,
    )
    products = jax.tree.map(
        lambda d, g: np.tensordot(np.moveaxis(d, 1, 0), g, g.ndim), wide, gradient
    )
    np.testing.assert_allclose(
        jax.jit(along_deltas)(stack.delta_C, gradient),
        sum(jax.tree.leaves(products)),
        rtol=1e-5,
    )


def _wide(d: np.ndarray) -> np.ndarray:
    if d.dtype != np.uint16:
        return d.astype(np.float64)
    return d.view(jnp.bfloat16).astype(np.float64)


def test_bfloat16_differences_are_near(expected_MR):
    """A difference of a quarter of the base model, to 8 bits."""
    evaluator = drawn.evaluator(deltas="bfloat16")
    assert evaluator.how["deltas"] == "bfloat16"
    nll_MR = evaluator.score(drawn.table(), drawn.ROWS)
    assert np.max(np.abs(nll_MR / expected_MR - 1)) > CLOSE["rtol"]
    np.testing.assert_allclose(nll_MR, expected_MR, rtol=2e-3)


@pytest.mark.parametrize("chunk", [0, 4])
def test_logits_exist_for_a_chunk_of_a_block(chunk):
    """Never for a whole row, nor for mixtures that are not computed."""
    evaluator = drawn.evaluator(rows=3, loss_chunk=4, chunk=chunk)
    text = lowered(evaluator).as_text()
    shapes = set(re.findall(r"tensor<([x\d]+)x98xf32>", text))
    sizes = [math.prod(map(int, shape.split("x"))) for shape in shapes]
    assert max(sizes) == (chunk or 1) * 3 * 4
