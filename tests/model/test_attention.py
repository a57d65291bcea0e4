"""Attention against an explicit square matrix, and rotary embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsim.config import RopeConfig
from jaxsim.model.attention import attend, rotate

B, H, K = 2, 4, 6
# float32 sums of at most 130 terms in another order; values are of order 1.
TOLERANCE = dict(rtol=2e-5, atol=2e-6)


def _inputs(length: int, groups: int):
    keys = jax.random.split(jax.random.key(length), 4)
    return (
        jax.random.normal(keys[0], (B, length, H, K)),
        jax.random.normal(keys[1], (B, length, groups, K)),
        jax.random.normal(keys[2], (B, length, groups, K)),
        jax.random.normal(keys[3], (B, length, H, K)),
    )


def _written_out(q_BLHK, k_BLGK, v_BLGK):
    length, shared = q_BLHK.shape[1], H // k_BLGK.shape[2]
    k_BLHK = jnp.repeat(k_BLGK, shared, axis=2)
    v_BLHK = jnp.repeat(v_BLGK, shared, axis=2)
    score_BHLS = jnp.einsum("BLHK,BSHK->BHLS", q_BLHK, k_BLHK) / K**0.5
    past_LS = jnp.tril(jnp.ones((length, length), bool))
    weight_BHLS = jax.nn.softmax(jnp.where(past_LS, score_BHLS, -jnp.inf))
    return jnp.einsum("BHLS,BSHK->BLHK", weight_BHLS, v_BLHK)


@pytest.mark.parametrize("name", ["einsum", "xla"])
# Blocks of queries are 64 long or an eighth: below one, and across several.
@pytest.mark.parametrize(("length", "groups"), [(5, 4), (70, 2), (130, 1)])
def test_value_and_gradient_equal_the_explicit_square(name, length, groups):
    *inputs, probe_BLHK = _inputs(length, groups)

    def result(f):
        def loss(q_BLHK, k_BLGK, v_BLGK):
            out_BLHK = f(q_BLHK, k_BLGK, v_BLGK)
            return jnp.sum(out_BLHK * probe_BLHK), out_BLHK

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(
            *inputs
        )

    got = result(lambda q, k, v: attend(q, k, v, name))
    want = result(_written_out)
    np.testing.assert_allclose(got[0][1], want[0][1], **TOLERANCE)
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_rotation_depends_only_on_the_distance():
    x_BLHK = jnp.broadcast_to(
        jax.random.normal(jax.random.key(0), (1, 1, 2, K)), (1, 9, 2, K)
    )
    x_LHK = rotate(x_BLHK, RopeConfig())[0]
    product_LS = jnp.einsum("LK,SK->LS", x_LHK[:, 0], x_LHK[:, 1])
    for distance in (0, 1, 4):
        diagonal = jnp.diagonal(product_LS, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-5)
    assert abs(product_LS[0, 0] - product_LS[0, 4]) > 1e-2
    np.testing.assert_array_equal(x_LHK[0], x_BLHK[0, 0])
