"""Causal attention and rotary position embeddings.

There are three implementations: `einsum`, which is the fastest on a CPU, and `xla`
and `cudnn` of `jax.nn.dot_product_attention`. None takes a mask or a bias: right
padding needs none, and under `vmap` over mixtures cuDNN fails for an operand that all
mixtures share (jax issue 38495).
"""

import math
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxsim.config import RopeConfig


def rotate(x_BLHK: jax.Array, rope: RopeConfig) -> jax.Array:
    """Rotates pairs (k, k + R/2) of the first R of K by the positions 0 to L-1."""
    length, size = x_BLHK.shape[1], rope.rotated(x_BLHK.shape[3])
    frequency_K = frequencies(rope, size).astype(np.float32)
    angle_LK = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency_K
    cos_LK, sin_LK = jnp.cos(angle_LK), jnp.sin(angle_LK)
    if rope.kind == "yarn":
        factor = rope.attention_factor or 1 + 0.1 * math.log(rope.factor)
        cos_LK, sin_LK = factor * cos_LK, factor * sin_LK
    cos_LHK = cos_LK[:, None, :].astype(x_BLHK.dtype)
    sin_LHK = sin_LK[:, None, :].astype(x_BLHK.dtype)
    a_BLHK, b_BLHK, rest_BLHK = jnp.split(x_BLHK, (size // 2, size), axis=-1)
    return jnp.concatenate(
        [
            a_BLHK * cos_LHK - b_BLHK * sin_LHK,
            b_BLHK * cos_LHK + a_BLHK * sin_LHK,
            rest_BLHK,
        ],
        axis=-1,
    )


def frequencies(rope: RopeConfig, size: int) -> np.ndarray:
    """The angle between neighboring positions, for each pair of `size` dimensions.

    Float64, on the host: powers of float32 are not equally accurate everywhere.
    """
    pair_K = np.arange(size // 2)
    frequency_K = rope.base ** (-2 * pair_K / size)
    if rope.kind == "default":
        return frequency_K
    if rope.kind == "llama3":
        turns_K = rope.original_length * frequency_K / (2 * math.pi)
        low, high = rope.low_freq_factor, rope.high_freq_factor
        kept_K = (turns_K - low) / (high - low)
    else:
        # The pairs that turn `beta` times in the original context, whole numbers.
        fast, slow = (
            size * math.log(rope.original_length / (2 * math.pi * beta), rope.base) / 2
            for beta in (rope.beta_fast, rope.beta_slow)
        )
        first, last = max(math.floor(fast), 0), min(math.ceil(slow), size - 1)
        kept_K = 1 - (pair_K - first) / (last - first or 0.001)
    kept_K = np.clip(kept_K, 0, 1)
    return frequency_K * (kept_K + (1 - kept_K) / rope.factor)


def attend(
    q_BLHK: jax.Array, k_BLGK: jax.Array, v_BLGK: jax.Array, name: str
) -> jax.Array:
    """Causal attention, with H query heads over G key-value heads.

    Args:
      q_BLHK: queries.
      k_BLGK, v_BLGK: keys and values; G divides H.
      name: 'einsum', 'xla' or 'cudnn'.

    Returns:
      [B, L, H, K] in the dtype of `q_BLHK`; the softmax is at least float32.
    """
    if name == "einsum":
        return _attend_einsum(q_BLHK, k_BLGK, v_BLGK)
    return jax.nn.dot_product_attention(
        q_BLHK,
        k_BLGK,
        v_BLGK,
        is_causal=True,
        implementation=cast(Literal["xla", "cudnn"], name),
    )


def _attend_einsum(
    q_BLHK: jax.Array, k_BLGK: jax.Array, v_BLGK: jax.Array
) -> jax.Array:
    """Attends in blocks of queries, each to the keys up to its end.

    Eight blocks need 9/16 of the products and memory of the full square. On a CPU the
    backward pass gains more, because a block of scores stays in cache. Query heads
    that share a key head become more queries, so that all products are batched matrix
    products.
    """
    b, length, heads, size = q_BLHK.shape
    groups = k_BLGK.shape[2]
    shared = heads // groups
    q_BGJLK = (
        (q_BLHK * size**-0.5)
        .reshape(b, length, groups, shared, size)
        .transpose(0, 2, 3, 1, 4)
    )
    k_BGLK = k_BLGK.transpose(0, 2, 1, 3)
    v_BGLK = v_BLGK.transpose(0, 2, 1, 3)
    block = max(-(-length // 8), 64)
    out_BGJLK = []
    for start in range(0, length, block):
        stop = min(start + block, length)
        q_BGQK = q_BGJLK[..., start:stop, :].reshape(b, groups, -1, size)
        score_BGQS = jnp.einsum(
            "BGQK,BGSK->BGQS",
            q_BGQK,
            k_BGLK[:, :, :stop],
            preferred_element_type=jnp.promote_types(q_BGQK.dtype, jnp.float32),
        )
        future_LS = jnp.arange(stop) > jnp.arange(start, stop)[:, None]
        mask_QS = jnp.tile(jnp.where(future_LS, -1e30, 0.0), (shared, 1))
        weight_BGQS = jax.nn.softmax(score_BGQS + mask_QS, axis=-1)
        out_BGQK = jnp.einsum(
            "BGQS,BGSK->BGQK", weight_BGQS.astype(v_BLGK.dtype), v_BGLK[:, :, :stop]
        )
        out_BGJLK.append(out_BGQK.reshape(b, groups, shared, -1, size))
    return (
        jnp.concatenate(out_BGJLK, axis=3)
        .transpose(0, 3, 1, 2, 4)
        .reshape(b, length, heads, size)
    )
