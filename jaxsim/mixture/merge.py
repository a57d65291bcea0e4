"""The merge of the paper, and its transpose."""

from typing import Any

import jax
import jax.numpy as jnp


def merge(seed: Any, delta_C: Any, w_C: jax.Array, scale: jax.Array) -> Any:
    """One mixture's parameters, seed + scale * sum_c w_c * (member_c - seed).

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


def along_deltas(delta_C: Any, gradient: Any) -> jax.Array:
    """Inner products of a gradient with every member's difference.

    Args:
      delta_C: see `merge`.
      gradient: a tree like the seed.

    Returns:
      [C] float32: with scale 1, the derivative of a loss whose gradient with
      respect to the merged parameters this is, with respect to the weights.
    """

    def leaf(d_C: jax.Array, g: jax.Array) -> jax.Array:
        return jnp.tensordot(
            d_C,
            g,
            axes=g.ndim,
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )

    with jax.named_scope("along_deltas"):
        parts = jax.tree.map(leaf, delta_C, gradient)
        return jnp.sum(jnp.stack(jax.tree.leaves(parts)), axis=0)
