"""The options of the decoder against a numpy reference in float64."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsim.config import ModelConfig, RopeConfig
from jaxsim.model import Execution, LanguageModel

from . import reference

LENGTH, VOCABULARY, SETS = 20, 50, 12
# Of the logits' standard deviation: float32 costs some 1e-6, and tanh for erf in
# GELU 1e-4.
TOLERANCE = 3e-5
LLAMA3 = RopeConfig(
    base=100.0, kind="llama3", factor=8.0, original_length=64, low_freq_factor=0.5
)
YARN = RopeConfig(
    base=100.0, kind="yarn", factor=8.0, original_length=64, beta_fast=4.0
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

    @functools.partial(jax.jit)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        nll_BL = model.token_nll(params, _tokens(), execution)
        return jnp.mean(nll_BL), nll_BL

    (_, nll_BL), gradient = loss(params)
    want_BL, spread = _reference(params, config)
    assert np.abs(nll_BL - want_BL).max() < TOLERANCE * spread, config
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
