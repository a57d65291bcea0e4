"""The scoring program: what runs on the device, a pure function.

Devices that share a model each hold and merge a share of its widths. A merged
model is gathered by all of them, and each takes its own blocks of windows: a
mixture goes over many more tokens than a model has parameters, so that it is
cheaper to send the model once than hidden states in every layer.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxsim.mixture.merge import merge, merge_by_layer
from jaxsim.model import LAYERS, MATRICES, Execution, LanguageModel


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
    specs: Any = None,
) -> jax.Array:
    """The scoring program.

    Args:
      seed, delta_C: see `merge`; each device's share.
      w_KC, scale_K: k mixtures.
      used_K: bool; the others only fill the last chunk, and are zero.
      tokens_TBL1: T blocks of B windows.
      scored_TBL: bool, which targets count.
      at_once: mixtures that are computed side by side.
      by_layer: merge one layer at a time, for each block anew.
      per_token: leave out the sum over each window.
      specs: a tree like the seed, how a leaf is divided over devices that
        gather what they have merged; None if every device has all of it.

    Returns:
      Nats, float32: sums [K, T, B], or [K, T, B, L] with zeros where nothing
      is scored.
    """

    shape = scored_TBL.shape if per_token else scored_TBL.shape[:-1]

    def compute(w_C: jax.Array, scale: jax.Array) -> jax.Array:
        of_layer: Callable[[Any], Any] | None = None
        if by_layer:
            params, of_layer = merge_by_layer(seed, delta_C, w_C, scale)
        else:
            params = merge(seed, delta_C, w_C, scale)
        if specs is not None:
            params, of_layer = _gathered(
                params, specs, execution.precision, of_layer
            )

        def block(xs: tuple[jax.Array, jax.Array]) -> jax.Array:
            tokens_BL1, scored_BL = xs
            nll_BL = model.token_nll(params, tokens_BL1, execution, of_layer)
            nll_BL = jnp.where(scored_BL, nll_BL, 0.0)
            return nll_BL if per_token else jnp.sum(nll_BL, axis=-1)

        return jax.lax.map(block, (tokens_TBL1, scored_TBL))

    def skip(w_C: jax.Array, scale: jax.Array) -> jax.Array:
        return jnp.zeros(shape)

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


def _gathered(
    params: Any,
    specs: Any,
    precision: str,
    of_layer: Callable[[Any], Any] | None,
) -> tuple[Any, Callable[[Any], Any] | None]:
    """Whole parameters, where those of layers are made by `of_layer` as well.

    Matrices are sent in the precision in which the model multiplies them.
    """

    def whole(
        path: tuple[Any, ...], leaf: jax.Array, spec: PartitionSpec
    ) -> jax.Array:
        if path[-1].key in MATRICES:
            leaf = leaf.astype(precision)
        for dimension, axis in enumerate(spec):
            if axis is not None:
                leaf = jax.lax.all_gather(
                    leaf, axis, axis=dimension, tiled=True
                )
        return leaf

    gather = jax.tree_util.tree_map_with_path
    with jax.named_scope("gather"):
        if of_layer is None:
            return gather(whole, params, specs), None
        outside = {name: p for name, p in params.items() if name != LAYERS}
        at = {name: specs[name] for name in outside}
        params = {LAYERS: params[LAYERS]} | gather(whole, outside, at)
    in_layer = jax.tree.map(lambda s: PartitionSpec(*s[1:]), specs[LAYERS])
    return params, lambda pairs: gather(whole, of_layer(pairs), in_layer)
