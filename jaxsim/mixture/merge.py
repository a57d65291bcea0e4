"""The merge of the paper, and its transpose.

Differences are held with the member axis second: [n, C, ...] for a leaf
[n, ...]. So a layer of all members lies in one piece, and the contraction is a
batched product that reads the pool as it lies: on two cores 36 GB/s where 14
were reached with the member axis first.

They may be held as the upper halves of float32, which is bfloat16, in uint16.
As bfloat16 XLA would widen them on a CPU, and not one at a time but all before
the first is used.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsim.model import LAYERS

MEMBER_AXIS = 1
HALVES = np.dtype(np.uint16)


def halves(x: np.ndarray) -> np.ndarray:
    """Float32 rounded to bfloat16, as the uint16 that `merge` understands."""
    return x.astype(jnp.bfloat16).view(HALVES)


def deltas_of(delta_C: Any) -> str:
    """The dtype that differences are held in: 'float32' or 'bfloat16'."""
    dtype = jax.tree.leaves(delta_C)[0].dtype
    return "bfloat16" if dtype == HALVES else str(dtype)


def merge(seed: Any, delta_C: Any, w_C: jax.Array, scale: jax.Array) -> Any:
    """One mixture's parameters, seed + scale * sum_c w_c * (member_c - seed).

    Args:
      seed: parameter tree, float32.
      delta_C: the same tree with a second axis C, member minus seed, in the
        seed's dtype or as `halves`.
      w_C: weights.
      scale: ().

    Returns:
      A tree like `seed`. The contraction asks for the highest precision: by
      default it would run in bfloat16 on TPU and TF32 on Hopper, with errors
      as large as the effects that are ranked.
    """
    with jax.named_scope("merge"):
        return jax.tree.map(
            lambda s, d_C: s + scale * _moved(d_C, w_C, s.dtype), seed, delta_C
        )


def merge_by_layer(
    seed: Any, delta_C: Any, w_C: jax.Array, scale: jax.Array
) -> tuple[Any, Callable[[Any], Any]]:
    """As `merge`, but the layers are merged when the model comes to them.

    Returns:
      Parameters with a pair, seed and differences, for every leaf of the
      layers; and the function that makes one layer's parameters of a slice
      of those pairs, for `LanguageModel.token_nll`.
    """
    outside = {name for name in seed if name != LAYERS}
    params = merge(
        {name: seed[name] for name in outside},
        {name: delta_C[name] for name in outside},
        w_C,
        scale,
    )
    pairs = jax.tree.map(lambda s, d_C: (s, d_C), seed[LAYERS], delta_C[LAYERS])

    def of_layer(pairs: Any) -> Any:
        return jax.tree.map(
            lambda pair: merge(pair[0][None], pair[1][None], w_C, scale)[0],
            pairs,
            is_leaf=lambda node: isinstance(node, tuple),
        )

    return params | {LAYERS: pairs}, of_layer


def along_deltas(delta_C: Any, gradient: Any) -> jax.Array:
    """Inner products of a gradient with every member's difference.

    Args:
      delta_C: see `merge`.
      gradient: a tree like the seed.

    Returns:
      [C] in the gradient's dtype: with scale 1, the derivative of a loss whose
      gradient with respect to the merged parameters this is, with respect to
      the weights.
    """

    def leaf(d_C: jax.Array, g: jax.Array) -> jax.Array:
        if d_C.dtype == HALVES:
            columns = jnp.arange(d_C.shape[MEMBER_AXIS])
            return jax.lax.map(lambda c: _dot(_member(d_C, c), g), columns)
        n, members = d_C.shape[:2]
        along_NC = jax.lax.dot_general(
            d_C.reshape(n, members, -1),
            g.reshape(n, -1),
            (((2,), (1,)), ((0,), (0,))),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=g.dtype,
        )
        return jnp.sum(along_NC, axis=0)

    with jax.named_scope("along_deltas"):
        parts = jax.tree.map(leaf, delta_C, gradient)
        return jnp.sum(jnp.stack(jax.tree.leaves(parts)), axis=0)


def _moved(d_C: jax.Array, w_C: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """sum_c w_c * d_c, of a leaf."""
    n, members = d_C.shape[:2]
    if d_C.dtype == HALVES:
        # Products and sums of numbers, which have no other precision than
        # their dtype's. Four members a turn touch the sum once.
        def add(moved: jax.Array, c: jax.Array) -> tuple[jax.Array, None]:
            return moved + w_C[c] * _member(d_C, c), None

        first = w_C[0] * _member(d_C, jnp.array(0))
        rest = jnp.arange(1, members)
        return jax.lax.scan(add, first, rest, unroll=4)[0].astype(dtype)
    return jax.lax.dot_general(
        jnp.broadcast_to(w_C, (n, members)),
        d_C,
        (((1,), (MEMBER_AXIS,)), ((0,), (0,))),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=dtype,
    )


def _member(d_C: jax.Array, c: jax.Array) -> jax.Array:
    """One member's difference in float32, of `halves`."""
    half = jax.lax.dynamic_index_in_dim(d_C, c, MEMBER_AXIS, keepdims=False)
    return jax.lax.bitcast_convert_type(
        half.astype(jnp.uint32) << 16, jnp.float32
    )


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.vdot(a, b, precision=jax.lax.Precision.HIGHEST)
