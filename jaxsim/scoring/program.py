"""The compiled programs of scoring, as pure functions of arrays.

`merge` and `nll` are composed in `losses`: mixtures in, losses of windows out. Their
shapes hold the most blocks that a call may have, and the number of blocks is an
argument, so that every set of windows runs the same program.

Each device holds and merges a share of the widths of the pool, along the mesh axis
`model`. Merged models are then gathered by the devices that share them, and each
evaluates its own windows. A mixture is evaluated on many more tokens than a model has
parameters, so sending the model once is cheaper than sending hidden states in every
layer.

The members' differences from the base are stored with the member axis second:
[n, C, ...] for a leaf [n, ...]. A layer of all members is then contiguous, and
the contraction is a batched product that reads the pool in storage order: on
two cores 36 GB/s, against 14 GB/s with the member axis first.

Differences may be stored in bfloat16, as the upper 16 bits of float32 in uint16.
If their dtype were bfloat16, XLA on a CPU would convert all of them to float32
before it uses the first.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxsim.mesh import varying
from jaxsim.model import MATRICES, Execution, LanguageModel

MEMBER_AXIS = 1
BFLOAT16_BITS = np.dtype(np.uint16)
DEVICES = ("mixture", "model")  # the axes of the mesh


def to_bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """Rounds float32 to bfloat16, stored as uint16 for `merge`."""
    return x.astype(jnp.bfloat16).view(BFLOAT16_BITS)


def deltas_of(delta_C: Any) -> str:
    """The precision of stored differences: 'float32' or 'bfloat16'."""
    dtype = jax.tree.leaves(delta_C)[0].dtype
    return "bfloat16" if dtype == BFLOAT16_BITS else str(dtype)


def merge(base: Any, delta_C: Any, w_C: jax.Array, scale: jax.Array) -> Any:
    """Merges one mixture: base + scale * sum_c w_c * (member_c - base).

    The contraction uses the highest precision. By default it would run in bfloat16 on
    TPU and TF32 on Hopper, with errors as large as the effects that are ranked.

    Args:
      base: the base's parameters, float32.
      delta_C: a tree like `base` with a second axis C, member minus base, in the base's
        dtype or as `to_bfloat16_bits`.
      w_C, scale: weights, and a scalar.
    """
    with jax.named_scope("merge"):
        return jax.tree.map(
            lambda s, d_C: s + scale * _moved(d_C, w_C, s.dtype), base, delta_C
        )


def along_deltas(delta_C: Any, gradient: Any) -> jax.Array:
    """Inner products of a gradient with every member's difference.

    If `gradient` is that of a loss with respect to the merged parameters, the
    result is its gradient with respect to the weights, at scale 1.

    Args:
      delta_C, gradient: see `merge`; and a tree like its base.

    Returns:
      [C] in the gradient's dtype.
    """

    def leaf(d_C: jax.Array, g: jax.Array) -> jax.Array:
        if d_C.dtype == BFLOAT16_BITS:
            columns = jnp.arange(d_C.shape[MEMBER_AXIS])
            dot = functools.partial(jnp.vdot, precision=jax.lax.Precision.HIGHEST)
            return jax.lax.map(lambda c: dot(_member(d_C, c), g), columns)
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
    """Computes sum_c w_c * d_c of a leaf."""
    n, members = d_C.shape[:2]
    if d_C.dtype == BFLOAT16_BITS:
        # Elementwise, so always in full precision. Unrolled by four, the loop
        # writes the sum once for every four members.
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
    """Converts one member's difference from `to_bfloat16_bits` to float32."""
    split = jax.lax.dynamic_index_in_dim(d_C, c, MEMBER_AXIS, keepdims=False)
    return jax.lax.bitcast_convert_type(split.astype(jnp.uint32) << 16, jnp.float32)


class Blocks(NamedTuple):
    """Windows of one length, and how many of their blocks are computed.

    Attributes:
      tokens_TBL1: token ids, int32, T blocks of B windows.
      scored_TBL: bool, which targets count.
      weight_TB: what a window's loss counts in a gradient's sum; None without one.
      count: int32 (), blocks that are computed, the first ones.
    """

    tokens_TBL1: Any
    scored_TBL: Any
    weight_TB: Any
    count: Any


def nll(
    params: Any, blocks: Blocks, model: LanguageModel, execution: Execution
) -> jax.Array:
    """Negative log-likelihoods of one model, block by block.

    Args:
      params: of the model.
      blocks: the windows.
      model, execution: the architecture, and how to compute it.

    Returns:
      Nats [T, B, L], float32; 0 for targets that do not count and in other blocks.
    """

    def block(t: jax.Array, nll_TBL: jax.Array) -> jax.Array:
        nll_BL = model.token_nll(params, blocks.tokens_TBL1[t], execution)
        return nll_TBL.at[t].set(jnp.where(blocks.scored_TBL[t], nll_BL, 0.0))

    zeros_TBL = jnp.zeros(blocks.scored_TBL.shape, jnp.float32)
    zeros_TBL = varying(zeros_TBL, jax.tree.leaves((params, blocks)))
    return jax.lax.fori_loop(0, blocks.count, block, zeros_TBL)


def losses(
    base: Any,
    delta_C: Any,
    w_KC: jax.Array,
    scale_K: jax.Array,
    blocks: Blocks,
    *,
    model: LanguageModel,
    execution: Execution,
    specs: Any,
) -> tuple[jax.Array, jax.Array]:
    """Merges K mixtures at once and evaluates them on windows, on each device.

    Args:
      base, delta_C: see `merge`; this device's share.
      w_KC, scale_K: weights and scales.
      blocks, model, execution: see `nll`.
      specs: a tree like the base: how its leaves are divided over devices.

    Returns:
      Nats, float32: of windows [K, T, B] and of tokens [K, T, B, L].
    """

    def cast(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        # Matrices are sent and kept in the precision of their products.
        return leaf.astype(execution.dtype) if path[-1].key in MATRICES else leaf

    def one(w_C: jax.Array, scale: jax.Array) -> jax.Array:
        params = merge(base, delta_C, w_C, scale)
        params = jax.tree_util.tree_map_with_path(cast, params)
        return nll(_gathered(params, specs), blocks, model, execution)

    # A batched product is slow on a CPU, even of one.
    if len(w_KC) == 1:
        nll_KTBL = one(w_KC[0], scale_K[0])[None]
    else:
        nll_KTBL = jax.vmap(one)(w_KC, scale_K)
    return jnp.sum(nll_KTBL, axis=-1), nll_KTBL


def gradient(
    base: Any,
    delta_C: Any,
    w_C: jax.Array,
    scale: jax.Array,
    blocks: Blocks,
    *,
    model: LanguageModel,
    execution: Execution,
    specs: Any,
) -> tuple[jax.Array, jax.Array]:
    """Inner products of a merge's gradient with every member's difference.

    Each device sums the gradient of its own windows. With whole models, devices then
    exchange C numbers; those that share a model also sum their gradients, once.

    Args:
      base, delta_C, w_C, scale: see `merge`; w_C and scale of one mixture.
      blocks, model, execution, specs: see `losses`.

    Returns:
      Nats of windows [T, B]; and [C], the inner products for their weighted sum over
      all devices, in the dtype of the base.
    """

    def vary(leaf: jax.Array) -> jax.Array:
        return varying(leaf, [blocks.tokens_TBL1])

    # Otherwise every block's gradient would be summed over devices.
    params = jax.tree.map(vary, _gathered(merge(base, delta_C, w_C, scale), specs))

    def loss(params: Any, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        nll_BL = model.token_nll(params, blocks.tokens_TBL1[t], execution)
        nll_B = jnp.sum(jnp.where(blocks.scored_TBL[t], nll_BL, 0.0), axis=-1)
        return jnp.sum(blocks.weight_TB[t] * nll_B), nll_B

    def block(t: jax.Array, sums: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        gradient_of_block, nll_B = jax.grad(loss, has_aux=True)(params, t)
        total, nll_TB = sums
        return jax.tree.map(jnp.add, total, gradient_of_block), nll_TB.at[t].set(nll_B)

    dtype = jax.eval_shape(loss, params, blocks.count)[0].dtype
    zeros_TB = jnp.zeros(blocks.scored_TBL.shape[:-1], dtype)
    zeros = jax.tree.map(vary, (jax.tree.map(jnp.zeros_like, params), zeros_TB))
    total, nll_TB = jax.lax.fori_loop(0, blocks.count, block, zeros)
    own = jax.tree.map(_own_share, total, specs)
    return nll_TB, jax.lax.psum(along_deltas(delta_C, own), DEVICES)


def traced(
    arguments: tuple[Any, Any, Any, Any, Blocks],
    model: LanguageModel,
    execution: Execution,
) -> jax.stages.Traced:
    """Traces `losses`, or `gradient` if the weights are of one mixture.

    A `shard_map` over all axes leaves no partitioning to the compiler: each device's
    part is lowered as written, cuDNN's attention included.

    Args:
      arguments: arrays, or shapes with shardings: they say how to divide the work.
      model, execution: the architecture, and how to compute it.
    """
    specs = jax.tree.map(lambda a: a.sharding.spec, arguments)
    at_base, _, at_mixtures, _, at_blocks = specs
    of_each = PartitionSpec(*at_mixtures, *at_blocks.tokens_TBL1)
    function: Callable[..., Any] = losses
    out = of_each, of_each
    if arguments[2].ndim == 1:
        function, out = gradient, (of_each, PartitionSpec())
    body = functools.partial(function, model=model, execution=execution, specs=at_base)
    mesh = arguments[2].sharding.mesh
    program = jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=out)
    return jax.jit(program).trace(*arguments)


def _gathered(params: Any, specs: Any) -> Any:
    """Gathers whole parameters from the devices that share a model."""

    def whole(leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
        for dimension, axis in enumerate(spec):
            if axis is not None and jax.lax.axis_size(axis) > 1:
                leaf = jax.lax.all_gather(leaf, axis, axis=dimension, tiled=True)
        return leaf

    with jax.named_scope("gather"):
        return jax.tree.map(whole, params, specs)


def _own_share(total: jax.Array, spec: PartitionSpec) -> jax.Array:
    """Inverts `_gathered` for sums: of all devices, and of this device's share."""
    for dimension, axis in enumerate(spec):
        if axis is not None and jax.lax.axis_size(axis) > 1:
            total = jax.lax.psum_scatter(
                total, axis, scatter_dimension=dimension, tiled=True
            )
    return total
