"""Next-token loss, without ever holding the logits of a whole row.

Sums and counts leave the device, never means: means of chunks, rows or
processes with different numbers of tokens do not average to the mean.

The backward pass is written out: it computes the logits of a chunk again and
takes both products while they are at hand. Left to differentiation, XLA on a
CPU runs the same sums two to three times slower, through a scatter into the
logits (`benchmarks/training.py` measures the whole step).
"""

import functools

import jax
import jax.numpy as jnp


def next_token_nll(
    x_BLD: jax.Array, head_VD: jax.Array, targets_BL: jax.Array, chunk: int
) -> jax.Array:
    """Negative log-likelihood of every target, in nats.

    Args:
      x_BLD: final hidden states.
      head_VD: output matrix.
      targets_BL: the token that follows each position.
      chunk: positions of each row whose logits exist at once.

    Returns:
      [B, L] float32.
    """
    length = x_BLD.shape[1]
    # Equal chunks, so that one loop body serves all of them.
    count = next(
        n for n in range(-(-length // chunk), length + 1) if length % n == 0
    )
    with jax.named_scope("loss"):
        return _nll(x_BLD, head_VD, targets_BL, count)


def sum_and_count(
    nll_BL: jax.Array, weight_BL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Weighted sum of the loss and the sum of weights, both float32 scalars."""
    return jnp.sum(nll_BL * weight_BL), jnp.sum(weight_BL)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _nll(
    x_BLD: jax.Array, head_VD: jax.Array, targets_BL: jax.Array, count: int
) -> jax.Array:
    def chunk_nll(xs: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_BLD, targets_BL = xs
        logits_BLV = _logits(x_BLD, head_VD)
        target_BL = jnp.take_along_axis(
            logits_BLV, targets_BL[..., None], axis=-1
        )[..., 0]
        return jax.nn.logsumexp(logits_BLV, axis=-1) - target_BL

    nll_NBL = jax.lax.map(
        chunk_nll, (_split(x_BLD, count), _split(targets_BL, count))
    )
    return _join(nll_NBL)


def _forward(
    x_BLD: jax.Array, head_VD: jax.Array, targets_BL: jax.Array, count: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
    nll_BL = _nll(x_BLD, head_VD, targets_BL, count)
    return nll_BL, (x_BLD, head_VD, targets_BL)


def _backward(
    count: int, saved: tuple[jax.Array, ...], g_BL: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    x_BLD, head_VD, targets_BL = saved
    vocabulary = head_VD.shape[0]

    def chunk_gradients(
        dhead_DV: jax.Array, xs: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, jax.Array]:
        x_BLD, targets_BL, g_BL = xs
        p_BLV = jax.nn.softmax(_logits(x_BLD, head_VD), axis=-1)
        dlogits_BLV = (p_BLV - jax.nn.one_hot(targets_BL, vocabulary)) * g_BL[
            ..., None
        ]
        # Without the barrier XLA on a CPU computes the softmax twice, once
        # inside each of the two products.
        dlogits_BLV = jax.lax.optimization_barrier(
            dlogits_BLV.astype(x_BLD.dtype)
        )
        dx_BLD = jnp.einsum("BLV,VD->BLD", dlogits_BLV, head_VD)
        dhead_DV += jnp.einsum(
            "BLD,BLV->DV",
            x_BLD,
            dlogits_BLV,
            preferred_element_type=dhead_DV.dtype,
        )
        return dhead_DV, dx_BLD

    dhead_DV, dx_NBLD = jax.lax.scan(
        chunk_gradients,
        jnp.zeros(head_VD.shape[::-1], _accumulator(head_VD)),
        (_split(x_BLD, count), _split(targets_BL, count), _split(g_BL, count)),
    )
    return _join(dx_NBLD), dhead_DV.T.astype(head_VD.dtype), None


_nll.defvjp(_forward, _backward)


def _logits(x_BLD: jax.Array, head_VD: jax.Array) -> jax.Array:
    return jnp.einsum(
        "BLD,VD->BLV",
        x_BLD,
        head_VD,
        preferred_element_type=_accumulator(head_VD),
    )


def _accumulator(x: jax.Array) -> jnp.dtype:
    """What its products are summed in: float32 at least."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _split(x_BL: jax.Array, count: int) -> jax.Array:
    """[B, L, ...] as [count, B, L / count, ...]."""
    b, length = x_BL.shape[:2]
    parts = x_BL.reshape(b, count, length // count, *x_BL.shape[2:])
    return parts.swapaxes(0, 1)


def _join(x_NBL: jax.Array) -> jax.Array:
    """The inverse of `_split`."""
    count, b, length = x_NBL.shape[:3]
    return x_NBL.swapaxes(0, 1).reshape(b, count * length, *x_NBL.shape[3:])
