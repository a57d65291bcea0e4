"""Every product of a train step has the precision that is asked for."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from jaxsim.config import ModelConfig, RecipeConfig
from jaxsim.model import Execution, LanguageModel
from jaxsim.train.step import TrainStep, adamw, constant_rate

CONFIG = ModelConfig(length=16, layers=2, dim=16, heads=4, kv_heads=2, mlp_dim=24)


def _lowered_for_cuda(tied: bool, execution: Execution) -> str:
    """The train step as text; no such device is needed."""
    model = LanguageModel(dataclasses.replace(CONFIG, tied=tied), 40)
    recipe = RecipeConfig()
    step = TrainStep(
        model,
        execution,
        lambda steps: adamw(recipe, constant_rate(recipe, steps)),
        tail=True,
        accumulate=2,
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    state = jax.eval_shape(step.initial, model.shapes(), number, number)
    tokens_BL1 = jax.ShapeDtypeStruct((4, CONFIG.length + 1), jnp.int32)
    traced = jax.jit(step).trace(state, tokens_BL1)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("float32", "HIGHEST"), ("tf32", "HIGH"), ("bfloat16", "DEFAULT")],
)
@pytest.mark.parametrize(
    ("tied", "attention", "remat"),
    [
        (True, "einsum", "none"),
        (False, "einsum", "full"),
        (True, "xla", "full"),
        (False, "xla", "dots"),
    ],
)
def test_all_products_have_the_precision_that_is_asked_for(
    precision, expected, tied, attention, remat
):
    """By default GPUs round float32 to TF32, and TPUs to bfloat16."""
    execution = Execution(attention, False, remat, precision, loss_chunk=8)
    text = _lowered_for_cuda(tied, execution)
    products = [line for line in text.splitlines() if "dot_general" in line]
    # Eight of a layer, thrice, and the logits, twice, with their two gradients.
    assert len(products) >= 28
    for product in products:
        found = re.search(r"precision = \[(\w+), (\w+)\]", product)
        assert found and found.groups() == (expected, expected), product
