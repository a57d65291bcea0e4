"""The merge: seed + scale * sum_c w_c * (member_c - seed), in float32."""

from typing import Any

import jax
import jax.numpy as jnp


def merge(seed: Any, delta_C: Any, w_C: jax.Array, scale: jax.Array) -> Any:
    """One mixture's parameters.

    Args:
      seed: parameter tree, float32.
      delta_C: the same tree with a leading member axis, member minus seed.
      w_C: float32 weights.
      scale: float32 ().

    Returns:
      A tree like `seed`. The contraction asks for the highest precision: by
      default it would run in bfloat16 on TPU and TF32 on Hopper, with errors
      as large as the effects that are ranked.
    """

    def leaf(s: jax.Array, d_C: jax.Array) -> jax.Array:
        moved = jnp.tensordot(
            w_C,
            d_C,
            axes=1,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        return s + scale * moved

    with jax.named_scope("merge"):
        return jax.tree.map(leaf, seed, delta_C)
