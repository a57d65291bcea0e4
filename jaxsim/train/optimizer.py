"""AdamW with a clipped global norm; the rate is constant or warm-up, cosine."""

from typing import Any

import jax
import optax

from jaxsim.config import RecipeConfig, SeedConfig
from jaxsim.model import MATRICES


def constant_rate(recipe: RecipeConfig) -> optax.Schedule:
    """The rate of every run of a pool: merging needs it to be constant."""
    return optax.constant_schedule(recipe.learning_rate)


def warmup_cosine(seed: SeedConfig) -> optax.Schedule:
    """The rate of a seed from scratch."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=seed.learning_rate,
        warmup_steps=seed.warmup,
        decay_steps=seed.steps,
        end_value=seed.learning_rate * seed.final_rate,
    )


def adamw(
    recipe: RecipeConfig, rate: optax.Schedule
) -> optax.GradientTransformation:
    """Weight decay on matrices only, not on biases and norm scales."""
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip),
        optax.adamw(
            rate,
            b1=recipe.beta1,
            b2=recipe.beta2,
            weight_decay=recipe.weight_decay,
            mask=_is_matrix,
        ),
    )


def _is_matrix(params: Any) -> Any:
    # By name: a stacked bias has two dimensions as a matrix does.
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key in MATRICES, params
    )
