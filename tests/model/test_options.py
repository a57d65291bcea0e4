"""The options of the decoder against a numpy reference in float64."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsim.config import ModelConfig, RopeConfig
from jaxsim.mesh import RULES
from jaxsim.model import Execution, LanguageModel
from jaxsim.pool.digests import leaves_by_path

from . import reference

LENGTH, VOCABULARY, SETS = 20, 50, 12
# Of the logits' standard deviation: float32 costs some 1e-6, and tanh for erf in
# GELU 1e-4.
TOLERANCE = 3e-5
LLAMA3 = RopeConfig(
    base=100.0, kind="llama3", factor=8.0, original_length=64, low_freq_factor=0.5
)
YARN = RopeConfig(
    base=100.0, kind="yarn", factor=8.0, original_length=64, beta_fast=2.0
)
OPTIONS: dict[str, list[Any]] = {
    "shape": [{}, {"head_dim": 12}, {"output_projection": False}],
    "norm": ["rms", "layer", "plain"],
    "norm_eps": [1e-5, 1e-2],
    "norm_place": ["before", "after"],
    "qk_norm": ["none", "width", "head"],
    "bias": ["none", "qkv", "all"],
    "activation": ["silu", "gelu", "gelu_tanh"],
    "gated": [True, False],
    "parallel": [True, False],
    "clip_qkv": [0.0, 0.7],
    "where": [
        {"positions": LENGTH},
        {"positions": LENGTH + 5},
        {"rope": RopeConfig(base=100.0)},
        {"rope": RopeConfig(share=0.5)},
        {"rope": LLAMA3},
        {"rope": YARN},
        {"rope": dataclasses.replace(YARN, share=0.5, attention_factor=1.5)},
    ],
    "tied": [True, False],
    "vocab_rows": [0, VOCABULARY + 3],
    "execution": [
        Execution(unroll=False),
        Execution(unroll=False, attention="xla", loss_chunk=7),
        Execution(unroll=True, remat="dots"),
        Execution(unroll=False, attention="xla", remat="full"),
    ],
}


def _sets() -> list[tuple[ModelConfig, Execution]]:
    """Random sets of options, in which every value is about equally often."""
    rng = np.random.default_rng(0)
    values = {
        name: [given[i % len(given)] for i in rng.permutation(SETS)]
        for name, given in OPTIONS.items()
    }
    found = []
    for n in range(SETS):
        one = {name: given[n] for name, given in values.items()}
        execution = one.pop("execution")
        several = one.pop("shape") | one.pop("where")
        found.append((_config(**one | several), execution))
    return found


def _config(**changes: Any) -> ModelConfig:
    config = ModelConfig(
        length=LENGTH, layers=2, dim=32, heads=4, kv_heads=2, mlp_dim=24
    )
    config = dataclasses.replace(config, **changes)
    config.rope.check_parts()
    config.check_parts()
    return config


def _params(model: LanguageModel) -> Any:
    """Random parameters: scales are about 1, and hidden units of order 1."""
    rng = np.random.default_rng(1)

    def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        mean = float(path[-1].key == "scale")
        return rng.normal(mean, 0.2, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(drawn, model.shapes())


def _tokens() -> np.ndarray:
    return np.random.default_rng(2).integers(0, VOCABULARY, (2, LENGTH + 1), np.int32)


def _reference(params: Any, config: ModelConfig) -> tuple[np.ndarray, float]:
    """Nats [B, L], and the standard deviation of logits."""
    nll_BL = np.stack([reference.nll(params, row, config) for row in _tokens()])
    return nll_BL, float(reference.logits(params, _tokens()[0, :-1], config).std())


@pytest.mark.parametrize("number", range(SETS))
def test_the_decoder_equals_the_reference(number):
    config, execution = _sets()[number]
    model = LanguageModel(config, VOCABULARY)
    params = _params(model)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        nll_BL = model.token_nll(params, _tokens(), execution)
        return jnp.mean(nll_BL), nll_BL

    (_, nll_BL), gradient = loss(params)
    want_BL, spread = _reference(params, config)
    assert np.abs(nll_BL - want_BL).max() < TOLERANCE * spread, config
    for path, leaf in leaves_by_path(gradient).items():
        assert np.isfinite(leaf).all() and leaf.any(), path


@pytest.mark.parametrize("number", range(SETS))
def test_every_leaf_has_a_name_for_each_axis(number):
    config, _ = _sets()[number]
    model = LanguageModel(config, VOCABULARY)
    size = config.head_dim or 8
    sizes = {
        "layers": 2, "embed": 32, "embed_vector": 32, "heads": 4 * size,
        "kv_heads": 2 * size, "head_vector": size, "gate": 1 + config.gated, "mlp": 24,
        "positions": config.positions, "vocab": config.vocab_rows or VOCABULARY,
    }  # fmt: skip

    def check(shape: jax.ShapeDtypeStruct, names: tuple[str, ...]) -> None:
        assert tuple(sizes[name] for name in names) == shape.shape
        assert set(names) <= set(RULES)

    jax.tree.map(check, model.shapes(), model.logical_axes())


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ({"activation": "gelu"}, {"activation": "gelu_tanh"}),
        ({"activation": "silu"}, {"activation": "gelu"}),
        ({"norm": "layer"}, {"norm": "rms"}),
        ({"norm_place": "before"}, {"norm_place": "after"}),
        ({"norm_eps": 1e-5}, {"norm_eps": 1e-6}),
        ({"qk_norm": "width", "heads": 1, "kv_heads": 1}, {"qk_norm": "none"}),
        ({"bias": "qkv"}, {"bias": "none"}),
        ({"bias": "all"}, {"bias": "qkv"}),
        ({"parallel": True}, {"parallel": False}),
        ({"clip_qkv": 1.0}, {"clip_qkv": 0.0}),
        ({"positions": LENGTH}, {"positions": 0}),
        ({"rope": RopeConfig()}, {"rope": RopeConfig(base=10_100.0)}),
        ({"rope": RopeConfig()}, {"rope": RopeConfig(share=0.5)}),
        ({"rope": RopeConfig(base=100.0)}, {"rope": LLAMA3}),
        *(
            ({"rope": rope}, {"rope": dataclasses.replace(rope, **{key: value})})
            for rope, key, value in (
                (LLAMA3, "factor", 7.9),
                (LLAMA3, "original_length", 65),
                (LLAMA3, "low_freq_factor", 0.6),
                (LLAMA3, "high_freq_factor", 3.9),
                (YARN, "factor", 7.9),
                (YARN, "original_length", 150),
                (YARN, "beta_fast", 4.0),
                (YARN, "beta_slow", 1.5),
                (YARN, "attention_factor", 1.0),
            )
        ),
        ({"tied": False}, {"tied": True}),
    ],
)
def test_the_tolerance_tells_each_option_from_another(right, wrong):
    config = _config(**right)
    params = _params(LanguageModel(config, VOCABULARY))
    right_BL, spread = _reference(params, config)
    wrong_BL, _ = _reference(params, dataclasses.replace(config, **wrong))
    assert np.abs(right_BL - wrong_BL).max() > 2 * TOLERANCE * spread, wrong
