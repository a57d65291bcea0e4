"""The chunked loss against optax, which holds all logits at once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsim.model.loss import next_token_nll, sum_and_count

B, D, V = 2, 8, 31
# float32 sums of V terms in another order; values here are of order 1.
TOLERANCE = dict(rtol=2e-5, atol=2e-6)


def _inputs(length: int):
    keys = jax.random.split(jax.random.key(length), 4)
    x_BLD = jax.random.normal(keys[0], (B, length, D))
    head_VD = jax.random.normal(keys[1], (V, D))
    targets_BL = jax.random.randint(keys[2], (B, length), 0, V)
    weight_BL = jax.random.uniform(keys[3], (B, length))
    return x_BLD, head_VD, targets_BL, weight_BL


def _of_optax(x_BLD, head_VD, targets_BL):
    logits_BLV = jnp.einsum("BLD,VD->BLV", x_BLD, head_VD)
    return optax.softmax_cross_entropy_with_integer_labels(logits_BLV, targets_BL)


@pytest.mark.parametrize(("length", "chunk"), [(12, 1), (12, 5), (13, 4), (12, 64)])
def test_value_and_gradient_equal_the_unchunked_loss(length, chunk):
    x_BLD, head_VD, targets_BL, weight_BL = _inputs(length)

    def chunked(x_BLD, head_VD):
        nll_BL = next_token_nll(x_BLD, head_VD, targets_BL, chunk)
        return jnp.sum(nll_BL * weight_BL), nll_BL

    def whole(x_BLD, head_VD):
        nll_BL = _of_optax(x_BLD, head_VD, targets_BL)
        return jnp.sum(nll_BL * weight_BL), nll_BL

    got, want = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(x_BLD, head_VD)
        for f in (chunked, whole)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), got, want)


def test_zero_weight_targets_contribute_nothing():
    x_BLD, head_VD, targets_BL, weight_BL = _inputs(12)
    weight_BL = weight_BL.at[:, 7:].set(0.0)

    @jax.jit
    @jax.value_and_grad
    def loss(inputs, targets_BL):
        x_BLD, head_VD = inputs
        nll_BL = next_token_nll(x_BLD, head_VD, targets_BL, 5)
        return sum_and_count(nll_BL, weight_BL)[0]

    value, (dx_BLD, dhead_VD) = loss((x_BLD, head_VD), targets_BL)
    other_BL = targets_BL.at[:, 7:].set((targets_BL[:, 7:] + 1) % V)
    other_BLD = x_BLD.at[:, 7:].multiply(-3.0)
    value2, (dx2_BLD, dhead2_VD) = loss((other_BLD, head_VD), other_BL)

    assert value == value2 and value > 0
    np.testing.assert_array_equal(dx_BLD, dx2_BLD)
    assert not dx_BLD[:, 7:].any() and dx_BLD[:, :7].any()
    np.testing.assert_array_equal(dhead_VD, dhead2_VD)


def test_sums_and_counts_leave_the_device_not_means():
    nll_BL = jnp.array([[1.0, 2.0], [4.0, 8.0]])
    weight_BL = jnp.array([[1.0, 0.0], [1.0, 1.0]])
    assert [float(v) for v in sum_and_count(nll_BL, weight_BL)] == [13.0, 3.0]
