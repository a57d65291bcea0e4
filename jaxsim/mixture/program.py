"""The scoring program: what runs on the device, a pure function."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxsim.mixture.merge import merge, merge_by_layer
from jaxsim.model import Execution, LanguageModel


def losses(
    seed: Any,
    delta_C: Any,
    w_KC: jax.Array,
    scale_K: jax.Array,
    used_K: jax.Array,
    tokens_TBL1: jax.Array,
    scored_TBL: jax.Array,
    *,
    model: LanguageModel,
    execution: Execution,
    at_once: int,
    by_layer: bool,
    per_token: bool,
) -> jax.Array:
    """The scoring program.

    Args:
      seed, delta_C: see `merge`.
      w_KC, scale_K: k mixtures.
      used_K: bool; the others only fill the last chunk, and are zero.
      tokens_TBL1: T blocks of B windows.
      scored_TBL: bool, which targets count.
      at_once: mixtures that are computed side by side.
      by_layer: merge one layer at a time, for each block anew.
      per_token: leave out the sum over each window.

    Returns:
      Nats, float32: sums [K, T, B], or [K, T, B, L] with zeros where nothing
      is scored.
    """

    shape = scored_TBL.shape if per_token else scored_TBL.shape[:-1]

    def compute(w_C: jax.Array, scale: jax.Array) -> jax.Array:
        of_layer = None
        if by_layer:
            params, of_layer = merge_by_layer(seed, delta_C, w_C, scale)
        else:
            params = merge(seed, delta_C, w_C, scale)

        def block(xs: tuple[jax.Array, jax.Array]) -> jax.Array:
            tokens_BL1, scored_BL = xs
            nll_BL = model.token_nll(params, tokens_BL1, execution, of_layer)
            nll_BL = jnp.where(scored_BL, nll_BL, 0.0)
            return nll_BL if per_token else jnp.sum(nll_BL, axis=-1)

        return jax.lax.map(block, (tokens_TBL1, scored_TBL))

    def skip(w_C: jax.Array, scale: jax.Array) -> jax.Array:
        # Adding 0 * scale marks the result as different on each device.
        return jnp.zeros(shape) + 0 * scale

    def one(row: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        w_C, scale, used = row
        return jax.lax.cond(used, compute, skip, w_C, scale)

    # Side by side is a batched matrix product, which is slow on a CPU; one
    # after the other shares nothing but the memory. Side by side none can be
    # skipped either.
    if at_once == 1:
        return jax.lax.map(one, (w_KC, scale_K, used_K))
    return jax.lax.map(
        lambda row: compute(*row), (w_KC, scale_K), batch_size=at_once
    )
