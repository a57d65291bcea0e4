"""The decoder: causality, options of the model, and of its execution."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsim.config import ModelConfig
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
    model = _model(vocab_multiple=32)
    tokens_BL1 = _tokens()
    tokens_BL1[0, 5] = token
    nan_BL = np.isnan(_nll(model, _params(model), tokens_BL1))
    assert nan_BL[0, 4:].all()  # from the position where it is the target
    assert not nan_BL[1].any()


def _leaves(**changes) -> set[str]:
    return set(leaves_by_path(_model(**changes).shapes()))


KERNELS = {"query", "key", "value", "output", "mlp_in", "mlp_out"}
PLAIN = {
    "embedding",
    "final_norm/scale",
    "layers/attention_norm/scale",
    "layers/mlp_norm/scale",
} | {f"layers/{name}/kernel" for name in KERNELS}


@pytest.mark.parametrize(
    ("changes", "added", "removed"),
    [
        ({}, set(), set()),
        (
            {"norm": "layer"},
            {"final_norm/bias", "layers/attention_norm/bias", "layers/mlp_norm/bias"},
            set(),
        ),
        (
            {"qk_norm": True},
            {"layers/query_norm/scale", "layers/key_norm/scale"},
            set(),
        ),
        ({"output_projection": False}, set(), {"layers/output/kernel"}),
        ({"bias": True}, {f"layers/{k}/bias" for k in KERNELS}, set()),
        ({"tied": False}, {"head"}, set()),
        ({"gate_first": False}, set(), set()),
    ],
    # Sorted, because xdist needs the same order in every process.
    ids=["base", "norm", "qk_norm", "output", "bias", "untied", "gate"],
)
def test_options_decide_which_leaves_there_are(changes, added, removed):
    assert _leaves(**changes) == (PLAIN | added) - removed
    (_, nll_BL), gradient = _value_and_gradient(_model(**changes), SCAN)
    assert nll_BL.shape == (2, 12) and np.isfinite(nll_BL).all()
    unused = {n for n, g in leaves_by_path(gradient).items() if not g.any()}
    assert not unused


def test_either_half_of_the_mlp_input_can_be_the_gate():
    first, second = _model(gate_first=True), _model(gate_first=False)
    params = _params(first)
    swapped = jax.tree.map(np.copy, params)
    kernel = swapped["layers"]["mlp_in"]["kernel"]  # [N, D, 2, F]
    swapped["layers"]["mlp_in"]["kernel"] = kernel[:, :, ::-1]
    a_BL, b_BL = _nll(first, params, _tokens()), _nll(second, params, _tokens())
    assert np.abs(a_BL - b_BL).max() > 1e-3
    np.testing.assert_allclose(a_BL, _nll(second, swapped, _tokens()), **TOLERANCE)


def test_layer_norm_drops_the_mean_and_rms_norm_keeps_it():
    # An untied head: only norms read the residual stream.
    for norm, same in (("layer", True), ("rms", False)):
        model = _model(norm=norm, tied=False)
        params = _params(model)
        shifted = params | {"embedding": params["embedding"] + 3.0}
        a_BL, b_BL = (_nll(model, p, _tokens()) for p in (params, shifted))
        assert np.allclose(a_BL, b_BL, atol=1e-3) == same


def test_qk_norm_is_over_the_full_width():
    model = _model(qk_norm=True)
    params = _params(model)
    want_BL = _nll(model, params, _tokens())

    def scaled(columns):
        tree = jax.tree.map(np.copy, params)
        tree["layers"]["query"]["kernel"][..., columns] *= 3.0
        return _nll(model, tree, _tokens())

    np.testing.assert_allclose(scaled(slice(None)), want_BL, atol=1e-3)
    assert np.abs(scaled(slice(0, 4)) - want_BL).max() > 1e-3  # one head


def test_the_head_is_the_embedding_only_if_tied():
    tied, untied = _model(), _model(tied=False)
    params = _params(tied)
    both = params | {"head": params["embedding"]}
    np.testing.assert_allclose(
        _nll(untied, both, _tokens()), _nll(tied, params, _tokens()), rtol=1e-6
    )


@pytest.mark.parametrize("change", [{"rope_base": 3.0}, {"norm_eps": 1.0}])
def test_each_number_of_the_config_changes_the_output(change):
    params = _params(_model())
    a_BL = _nll(_model(), params, _tokens())
    b_BL = _nll(_model(**change), params, _tokens())
    assert np.abs(a_BL - b_BL).max() > 1e-3


def test_embedding_rows_are_rounded_up():
    assert _model(81, vocab_multiple=16).vocab_rows == 96
    assert _model(96, vocab_multiple=16).vocab_rows == 96
    assert _model(81, vocab_multiple=16).shapes()["embedding"].shape == (96, 16)


def test_init_has_the_stated_spread():
    model = _model(2000, layers=8, dim=32, bias=True, norm="layer")
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


@pytest.mark.parametrize(
    "changes",
    [{}, {"norm": "layer", "bias": True, "qk_norm": True, "tied": False}],
    ids=["plain", "all"],
)
def test_every_leaf_has_a_name_for_each_axis(changes):
    model = _model(**changes)
    shapes, axes = model.shapes(), model.logical_axes()
    jax.tree.map(lambda s, names: _check_axes(s.shape, names), shapes, axes)


def _check_axes(shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    sizes = {
        "layers": 2,
        "embed": 16,
        "embed_vector": 16,
        "vocab": VOCABULARY,
        "heads": 16,
        "kv_heads": 8,
        "mlp": 24,
        "gate": 2,
    }
    assert tuple(sizes[name] for name in names) == shape


def test_forward_flops_count_products_and_half_a_square():
    # Tied: q, output 16x16, k, v 16x8, MLP 16x48 and 24x16, two norms, N = 2.
    layer = 2 * 256 + 2 * 128 + 768 + 384 + 2 * 16
    tied = 2 * layer + 16 + 80 * 16
    attention = 2 * 2 * 16 * 10  # two products, each with half of 10 tokens
    assert _model().forward_flops(30, 10) == 30 * (2 * tied + attention)
    # An embedding that is only looked up multiplies nothing.
    assert _model(tied=False).forward_flops(30, 10) == 30 * (2 * tied + attention)
    assert _model().forward_flops(1) == 2 * tied + 2 * 2 * 16 * 70
