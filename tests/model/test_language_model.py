"""The decoder: causality, options of the model, and of its execution."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsim.config import ModelConfig
from jaxsim.errors import UserError
from jaxsim.model import Execution, LanguageModel
from jaxsim.pool.digests import leaves_by_path

TINY = ModelConfig(length=70, layers=2, dim=16, heads=4, kv_heads=2, mlp_dim=24)
SCAN = Execution(unroll=False)
VOCABULARY = 80
# One program in another order of operations, in float32, at a loss of 4.
TOLERANCE = dict(rtol=2e-5, atol=2e-5)


def _model(vocab_size: int = VOCABULARY, **changes) -> LanguageModel:
    return LanguageModel(dataclasses.replace(TINY, **changes), vocab_size)


def _params(model: LanguageModel, std: float = 0.2):
    """Random parameters, because zeros and ones of `init` could hide errors."""
    leaves, structure = jax.tree.flatten(model.shapes())
    rng = np.random.default_rng(0)
    return structure.unflatten(
        [rng.normal(size=leaf.shape, scale=std).astype(leaf.dtype) for leaf in leaves]
    )


def _tokens(length: int = 12, rows: int = 2) -> np.ndarray:
    return np.random.default_rng(1).integers(
        0, VOCABULARY, (rows, length + 1), np.int32
    )


def _nll(model, params, tokens_BL1, execution=SCAN):
    return _compiled(model)(params, tokens_BL1, execution)


@functools.cache
def _compiled(model):
    return jax.jit(model.token_nll, static_argnums=2)


@pytest.mark.parametrize("attention", ["einsum", "xla"])
def test_no_token_sees_a_later_one(attention):
    # Distinct tokens and an untied head: a row of the embedding's
    # gradient belongs to one position. 70 crosses a block of queries.
    length = 70
    model = _model(tied=False)
    params = _params(model)
    tokens_BL1 = np.arange(length + 1, dtype=np.int32)[None]

    def nll_L(embedding_VD):
        return model.token_nll(
            params | {"embedding": embedding_VD},
            tokens_BL1,
            Execution(attention=attention, unroll=False),
        )[0]

    jacobian_LVD = jax.jit(jax.jacrev(nll_L))(params["embedding"])
    seen_LS = np.abs(np.asarray(jacobian_LVD)[:, :length]).max(axis=-1) > 0
    np.testing.assert_array_equal(seen_LS, np.tri(length, dtype=bool))


@functools.cache
def _value_and_gradient(model, execution):
    def loss(params):
        nll_BL = model.token_nll(params, _tokens(), execution)
        return jnp.mean(nll_BL), nll_BL

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(_params(model))


@pytest.mark.parametrize(
    "execution",
    [
        Execution(unroll=True, attention="xla"),
        Execution(unroll=False, remat="dots"),
        Execution(unroll=True, remat="full", loss_chunk=5),
    ],
    ids=str,
)
def test_execution_changes_no_value_and_no_gradient(execution):
    model = _model()
    got = _value_and_gradient(model, execution)
    want = _value_and_gradient(model, SCAN)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), got, want)


def test_bfloat16_is_close_to_float32_and_returns_float32():
    model = _model()
    params = _params(model)
    exact_BL = _nll(model, params, _tokens())
    short_BL = _nll(
        model, params, _tokens(), Execution(unroll=False, precision="bfloat16")
    )
    assert short_BL.dtype == jnp.float32
    # 8 bits of mantissa, a dozen roundings on the way, logits of order 1.
    np.testing.assert_allclose(short_BL, exact_BL, atol=0.1)
    text = _compiled(model).lower(
        params, _tokens(), Execution(unroll=False, precision="bfloat16")
    )
    products = [s for s in text.as_text().splitlines() if "dot_general" in s]
    assert products and all(s.count("bf16>") >= 2 for s in products)


@pytest.mark.parametrize("attention", ["einsum", "xla"])
def test_vmap_over_parameters_equals_a_loop(attention):
    execution = Execution(attention=attention, unroll=False)
    model = _model()
    trees = [_params(model, std) for std in (0.1, 0.3)]
    stacked = jax.tree.map(lambda *a: np.stack(a), *trees)
    nll_MBL = jax.jit(
        jax.vmap(lambda p: model.token_nll(p, _tokens(), execution), in_axes=0)
    )(stacked)
    for nll_BL, params in zip(nll_MBL, trees, strict=True):
        np.testing.assert_allclose(
            nll_BL, _nll(model, params, _tokens(), execution), **TOLERANCE
        )


@pytest.mark.parametrize("token", [-1, VOCABULARY, VOCABULARY + 60])
def test_an_id_that_is_no_token_gives_nan(token):
    # 96 rows: the ids 80 to 95 have a row, but are no tokens.
    model = _model(vocab_rows=96)
    tokens_BL1 = _tokens()
    tokens_BL1[0, 5] = token
    nan_BL = np.isnan(_nll(model, _params(model), tokens_BL1))
    assert nan_BL[0, 4:].all()  # from the position where it is the target
    assert not nan_BL[1].any()


def _leaves(**changes) -> set[str]:
    return set(leaves_by_path(_model(**changes).shapes()))


KERNELS = {"query", "key", "value", "output", "mlp_in", "mlp_out"}
NORMS = {"final_norm", "layers/attention_norm", "layers/mlp_norm"}
QK_NORMS = {"layers/query_norm/scale", "layers/key_norm/scale"}
PLAIN = (
    {"embedding"}
    | {f"{name}/scale" for name in NORMS}
    | {f"layers/{name}/kernel" for name in KERNELS}
)


@pytest.mark.parametrize(
    ("changes", "added", "removed"),
    [
        ({}, set(), set()),
        ({"norm": "layer"}, {f"{name}/bias" for name in NORMS}, set()),
        ({"norm": "plain"}, set(), {f"{name}/scale" for name in NORMS}),
        ({"norm_place": "after"}, set(), set()),
        ({"qk_norm": "width"}, QK_NORMS, set()),
        ({"qk_norm": "head"}, QK_NORMS, set()),
        ({"qk_norm": "head", "norm": "plain"}, set(), {f"{n}/scale" for n in NORMS}),
        ({"output_projection": False}, set(), {"layers/output/kernel"}),
        (
            {"bias": "qkv"},
            {f"layers/{k}/bias" for k in ("query", "key", "value")},
            set(),
        ),
        ({"bias": "all"}, {f"layers/{k}/bias" for k in KERNELS}, set()),
        ({"tied": False}, {"head"}, set()),
        ({"positions": 70}, {"positions"}, set()),
        ({"gated": False}, set(), set()),
        ({"parallel": True}, set(), set()),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_options_decide_which_leaves_there_are(changes, added, removed):
    assert _leaves(**changes) == (PLAIN | added) - removed


def test_rows_of_the_embedding():
    assert _model(81).vocab_rows == 81
    assert _model(81, vocab_rows=96).shapes()["embedding"].shape == (96, 16)
    with pytest.raises(UserError, match=r"vocab_rows=80: the tokenizer has 81 ids"):
        _model(81, vocab_rows=80)


def test_init_has_the_stated_spread():
    model = _model(2000, layers=8, dim=32, bias="all", norm="layer", positions=400)
    params = leaves_by_path(jax.jit(model.init)(jax.random.key(0)))
    for path, leaf in params.items():
        assert leaf.dtype == jnp.float32
        if path.endswith("bias"):
            assert not leaf.any()
        elif path.endswith("scale"):
            assert (leaf == 1).all()
        else:
            # The product that adds the MLP to the residual: 0.02/sqrt(2N).
            want = 0.02 / 4 if "mlp_out" in path else 0.02
            np.testing.assert_allclose(np.std(leaf), want, rtol=0.1)


def test_forward_flops_count_products_and_half_a_square():
    # Tied: q, output 16x16, k, v 16x8, MLP 16x48 and 24x16, two norms, N = 2.
    layer = 2 * 256 + 2 * 128 + 768 + 384 + 2 * 16
    tied = 2 * layer + 16 + 80 * 16
    attention = 2 * 2 * 16 * 10  # two products, each with half of 10 tokens
    want = 30 * (2 * tied + attention)
    assert _model().forward_flops(30, 10) == want
    # An embedding or positions that are only looked up multiply nothing.
    assert _model(tied=False).forward_flops(30, 10) == want
    assert _model(positions=70).forward_flops(30, 10) == want
    assert _model().forward_flops(1) == 2 * tied + 2 * 2 * 16 * 70
    # Heads of 6 instead of 4: q, output 16x24, k, v 16x12, and wider attention.
    wider = 2 * (2 * 16 * 8 + 2 * 16 * 4)
    got = _model(head_dim=6).forward_flops(30, 10)
    assert got == want + 30 * (2 * wider + 2 * 2 * 8 * 10)
    # Without a gate, half of the MLP's input.
    got = _model(gated=False).forward_flops(30, 10)
    assert got == want - 30 * 2 * 2 * 16 * 24
