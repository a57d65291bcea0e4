"""Learning rates, weight decay, clipping and the initial state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsim.config import BaseConfig, ModelConfig, RecipeConfig
from jaxsim.model import LanguageModel
from jaxsim.pool.digests import leaves_by_path
from jaxsim.train.step import TrainStep, adamw, constant_rate, warmup_cosine

ALL = ModelConfig(
    length=8, dim=8, heads=2, kv_heads=2, mlp_dim=8,
    norm="layer", bias="all", qk_norm="width", tied=False, positions=8,
)  # fmt: skip


def rates_of(steps: int, **recipe) -> list[float]:
    """The rate at every step of a run; its length is data, as in training."""
    recipe = RecipeConfig(learning_rate=2.0, **recipe)
    rates = jax.jit(lambda n: jax.vmap(constant_rate(recipe, n))(jnp.arange(steps)))
    return rates(steps).tolist()


def test_runs_of_any_length_warm_up_as_long_and_are_constant_then():
    rising = [0.5, 1.0, 1.5]
    for steps in (6, 24):
        found = rates_of(steps, warmup=3)
        assert found == pytest.approx([*rising, *[2.0] * (steps - 3)], rel=1e-6)


def test_without_warm_up_the_rate_is_constant():
    assert rates_of(50, warmup=0) == [2.0] * 50


def test_the_rate_falls_over_a_share_of_a_run():
    last = [2.0, 1.5, 1.0, 0.5]
    found = rates_of(8, warmup=1, decay=0.5)
    assert found == pytest.approx([1.0, 2.0, 2.0, 2.0, *last], rel=1e-6)
    found = rates_of(16, warmup=0, decay=0.25)
    assert found == pytest.approx([*[2.0] * 12, *last], rel=1e-6)
    # As many steps as the config is checked with.
    falls = sum(rate < 2.0 for rate in rates_of(150, warmup=0, decay=0.07))
    assert falls == RecipeConfig(decay=0.07).falling(150) - 1


def test_the_base_model_warms_up_and_follows_a_cosine():
    base = BaseConfig(steps=110, warmup=10, learning_rate=1.0, final_rate=0.1)
    rate = warmup_cosine(base)
    got = [float(rate(s)) for s in (0, 5, 10, 60, 110)]
    assert got == pytest.approx([0.0, 0.5, 1.0, 0.55, 0.1], abs=1e-6)


def test_without_warm_up_the_base_model_starts_at_its_peak():
    rate = warmup_cosine(BaseConfig(steps=10, warmup=0, learning_rate=1.0))
    assert float(rate(0)) == pytest.approx(1.0)


@pytest.mark.parametrize("weight_decay_all", [False, True])
def test_weight_decay_is_on_matrices_or_on_all_parameters(weight_decay_all):
    recipe = RecipeConfig(
        learning_rate=1.0, weight_decay=0.1, warmup=0, weight_decay_all=weight_decay_all
    )
    optimizer = adamw(recipe, constant_rate(recipe, 10))
    params = jax.tree.map(
        lambda s: np.ones(s.shape, s.dtype), LanguageModel(ALL, 10).shapes()
    )
    zero = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(
        zero, jax.jit(optimizer.init)(params), params
    )
    for path, update in leaves_by_path(updates).items():
        decayed = weight_decay_all or path.endswith(("kernel", "embedding", "head"))
        np.testing.assert_allclose(
            update, -0.1 if decayed else 0.0, rtol=1e-6, err_msg=path
        )


def test_gradients_are_clipped_by_their_global_norm():
    # Adam cancels a common factor, so look at the moments.
    recipe = RecipeConfig(clip=0.5)
    optimizer = adamw(recipe, constant_rate(recipe, 10))
    params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"kernel": jnp.ones(12)}}
    _, state = optimizer.update(params, optimizer.init(params), params)
    means = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if ".mu" in jax.tree_util.keystr(path)
    ]  # fmt: skip
    # A norm of 4 becomes 0.5; the first moment is a tenth of that.
    for leaf in means:
        np.testing.assert_allclose(leaf, 0.1 / 8, rtol=1e-4)
    assert len(means) == 2


def test_a_run_starts_with_a_new_optimizer_state():
    recipe = RecipeConfig()
    params = {"a": {"kernel": jnp.full((2, 2), 3.0)}}
    optimizer = adamw(recipe, constant_rate(recipe, 10))
    step = TrainStep(None, None, lambda steps: optimizer, tail=True)
    state = step.initial(params, 10, 5)
    assert state.step == 0 and state.params is params
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.optimizer))
    assert not state.tail_sum["a"]["kernel"].any()
