"""Next-token loss that never holds the logits of a whole row.

It returns sums and counts, never means: means over different numbers of tokens do not
average to the mean.

The backward pass is written by hand: it recomputes the logits of a chunk, then both
products. Automatic differentiation is two to three times slower on a CPU, because XLA
scatters into the logits (`benchmarks/training.py` measures the whole step).

Over a mesh, each device loops over the chunks of its rows. The head is gathered once
before the loops, and its gradient is summed over devices once after them. By default
the compiler would do both for every chunk.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxsim.mesh import data_devices, varying


def next_token_nll(
    x_BLD: jax.Array,
    head_VD: jax.Array,
    targets_BL: jax.Array,
    chunk: int,
    precision: str | None = None,
) -> jax.Array:
    """Negative log-likelihood of every target, in nats.

    Args:
      x_BLD: final hidden states.
      head_VD: output matrix.
      targets_BL: the token that follows each position.
      chunk: positions of each row whose logits exist at once.
      precision: of the products with the head, for `jax.lax.Precision`. JAX traces
        the backward pass where `jax.default_matmul_precision` no longer holds.

    Returns:
      [B, L] float32.
    """
    length = x_BLD.shape[1]
    # Chunks of equal size, so that they share one loop body.
    count = next(n for n in range(-(-length // chunk), length + 1) if length % n == 0)

    def forward(
        x_BLD: jax.Array, head_VD: jax.Array, targets_BL: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        if data_devices() > 1:
            whole = PartitionSpec(PartitionSpec.UNCONSTRAINED, None)
            head_VD = jax.lax.with_sharding_constraint(head_VD, whole)
        loop = _on_each_device(functools.partial(_losses, count, precision))
        nll_BL = loop(head_VD, (x_BLD, targets_BL))
        return nll_BL, (x_BLD, head_VD, targets_BL)

    def backward(
        saved: tuple[jax.Array, ...], g_BL: jax.Array
    ) -> tuple[jax.Array, jax.Array, None]:
        x_BLD, head_VD, targets_BL = saved
        loop = _on_each_device(functools.partial(_gradients, count, precision))
        dx_BLD, dhead_SDV = loop(head_VD, (x_BLD, targets_BL, g_BL))
        dhead_DV = jnp.sum(dhead_SDV, axis=0)
        return dx_BLD, dhead_DV.T.astype(head_VD.dtype), None

    nll = jax.custom_vjp(lambda *arguments: forward(*arguments)[0])
    nll.defvjp(forward, backward)
    with jax.named_scope("loss"):
        return nll(x_BLD, head_VD, targets_BL)


def sum_and_count(
    nll_BL: jax.Array, weight_BL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The weighted sum of the loss and the sum of weights, float32."""
    return jnp.sum(nll_BL * weight_BL), jnp.sum(weight_BL)


def _on_each_device(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Maps `loop(head, rows)` over `data`; the compiler divides the other axes."""
    if data_devices() == 1:
        return loop
    rows = PartitionSpec("data")
    return jax.shard_map(
        loop,
        in_specs=(PartitionSpec(), rows),
        out_specs=rows,
        axis_names={"run", "data"},
        check_vma=False,  # JAX 0.10.2 loses `run` under `vmap(spmd_axis_name="run")`
    )


def _losses(
    count: int,
    precision: str | None,
    head_VD: jax.Array,
    rows: tuple[jax.Array, jax.Array],
) -> jax.Array:
    """Computes the loss [B, L] of hidden states and targets."""

    def chunk_nll(xs: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_BLD, targets_BL = xs
        logits_BLV = _logits(x_BLD, head_VD, precision)
        target_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[
            ..., 0
        ]
        return jax.nn.logsumexp(logits_BLV, axis=-1) - target_BL

    x_BLD, targets_BL = rows
    nll_NBL = jax.lax.map(chunk_nll, (_split(x_BLD, count), _split(targets_BL, count)))
    return _join(nll_NBL)


def _gradients(
    count: int,
    precision: str | None,
    head_VD: jax.Array,
    rows: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of hidden states [B, L, D] and of the head [1, D, V].

    `rows` are hidden states, targets, and the gradients of their losses.
    """
    vocabulary, wide = head_VD.shape[0], _accumulator(head_VD)

    def chunk_gradients(
        dhead_DV: jax.Array, xs: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, jax.Array]:
        x_BLD, targets_BL, g_BL = xs
        p_BLV = jax.nn.softmax(_logits(x_BLD, head_VD, precision), axis=-1)
        dlogits_BLV = (p_BLV - jax.nn.one_hot(targets_BL, vocabulary)) * g_BL[..., None]
        # Without the barrier, XLA on a CPU computes the softmax once for each of the
        # two products.
        dlogits_BLV = jax.lax.optimization_barrier(dlogits_BLV.astype(x_BLD.dtype))
        product = functools.partial(jnp.einsum, precision=precision)
        dx_BLD = product("BLV,VD->BLD", dlogits_BLV, head_VD)
        dhead_DV += product(
            "BLD,BLV->DV", x_BLD, dlogits_BLV, preferred_element_type=wide
        )
        return dhead_DV, dx_BLD

    zeros_DV = jnp.zeros(head_VD.shape[::-1], wide)
    dhead_DV, dx_NBLD = jax.lax.scan(
        chunk_gradients,
        varying(zeros_DV, jax.tree.leaves((head_VD, rows))),
        jax.tree.map(lambda a: _split(a, count), rows),
    )
    return _join(dx_NBLD), dhead_DV[None]


def _logits(x_BLD: jax.Array, head_VD: jax.Array, precision: str | None) -> jax.Array:
    return jnp.einsum(
        "BLD,VD->BLV",
        x_BLD,
        head_VD,
        precision=precision,
        preferred_element_type=_accumulator(head_VD),
    )


def _accumulator(x: jax.Array) -> jnp.dtype:
    """The dtype that products are summed in: at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _split(x_BL: jax.Array, count: int) -> jax.Array:
    """Reshapes [B, L, ...] to [count, B, L / count, ...]."""
    b, length = x_BL.shape[:2]
    parts = x_BL.reshape(b, count, length // count, *x_BL.shape[2:])
    return parts.swapaxes(0, 1)


def _join(x_NBL: jax.Array) -> jax.Array:
    """Inverts `_split`."""
    count, b, length = x_NBL.shape[:3]
    return x_NBL.swapaxes(0, 1).reshape(b, count * length, *x_NBL.shape[3:])
