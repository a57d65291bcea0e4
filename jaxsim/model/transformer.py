"""The decoder, a Linen module.

Layers are stored stacked, with a leading layer axis. Whether they are scanned or
unrolled is an execution option, never part of the format.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsim.config import ModelConfig
from jaxsim.mesh import over_data
from jaxsim.model.attention import attend, rotate

LAYERS = "layers"  # key of the stacked layers in the tree of parameters
# Names of the leaves that matrix products use.
MATRICES = ("kernel", "embedding", "head")


def _named(
    init: nn.initializers.Initializer, axes: Sequence[str]
) -> Callable[..., Any]:
    """An initializer that also names the axes of its array."""
    return nn.with_logical_partitioning(init, tuple(axes))


def _normal(std: float, axes: Sequence[str]) -> Callable[..., Any]:
    return _named(nn.initializers.normal(std), axes)


class Norm(nn.Module):
    """RMSNorm, or LayerNorm with bias; statistics are at least float32."""

    config: ModelConfig
    axis: str = "embed_vector"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def vector(name: str, init: nn.initializers.Initializer) -> jax.Array:
            return self.param(
                name, _named(init, (self.axis,)), (x.shape[-1],), jnp.float32
            )

        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.config.norm == "layer":
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(y), axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(variance + self.config.norm_eps)
        y = y * vector("scale", nn.initializers.ones)
        if self.config.norm == "layer":
            y = y + vector("bias", nn.initializers.zeros)
        return y.astype(x.dtype)


class Linear(nn.Module):
    """A matrix product, with a bias if the configuration has biases."""

    config: ModelConfig
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    std: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param(
            "kernel", _normal(self.std, self.axes), self.shape, jnp.float32
        )
        y = jnp.tensordot(x, kernel.astype(x.dtype), axes=1)
        if self.config.bias:
            bias = self.param(
                "bias",
                _named(nn.initializers.zeros, self.axes[1:]),
                self.shape[1:],
                jnp.float32,
            )
            y = y + bias.astype(x.dtype)
        return y


class Block(nn.Module):
    """Pre-norm attention, then SwiGLU, each added to the residual stream."""

    config: ModelConfig
    attention: str

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        with jax.named_scope("attention"):
            x_BLD = x_BLD + self._attention(
                Norm(self.config, name="attention_norm")(x_BLD)
            )
        with jax.named_scope("mlp"):
            return x_BLD + self._mlp(Norm(self.config, name="mlp_norm")(x_BLD))

    def _attention(self, x_BLD: jax.Array) -> jax.Array:
        c = self.config
        size = c.dim // c.heads

        def project(name: str, heads: int, axis: str, norm: bool) -> jax.Array:
            y = Linear(
                c, (c.dim, heads * size), ("embed", axis), c.init_std, name=name
            )(x_BLD)
            if norm:
                y = Norm(c, axis=axis, name=f"{name}_norm")(y)
            return y.reshape(*y.shape[:2], heads, size)

        q_BLHK = project("query", c.heads, "heads", c.qk_norm)
        k_BLGK = project("key", c.kv_heads, "kv_heads", c.qk_norm)
        v_BLGK = project("value", c.kv_heads, "kv_heads", False)
        q_BLHK = rotate(q_BLHK, c.rope_base)
        k_BLGK = rotate(k_BLGK, c.rope_base)
        out_BLHK = attend(q_BLHK, k_BLGK, v_BLGK, self.attention)
        out_BLD = out_BLHK.reshape(x_BLD.shape)
        if not c.output_projection:
            return out_BLD
        return Linear(c, (c.dim, c.dim), ("heads", "embed"), c.init_std, name="output")(
            out_BLD
        )

    def _mlp(self, x_BLD: jax.Array) -> jax.Array:
        c = self.config
        gate_BL2F = Linear(
            c,
            (c.dim, 2, c.mlp_dim),
            ("embed", "gate", "mlp"),
            c.init_std,
            name="mlp_in",
        )(x_BLD)
        first_BLF, second_BLF = gate_BL2F[..., 0, :], gate_BL2F[..., 1, :]
        if c.gate_first:
            y_BLF = jax.nn.silu(first_BLF) * second_BLF
        else:
            y_BLF = first_BLF * jax.nn.silu(second_BLF)
        return Linear(
            c,
            (c.mlp_dim, c.dim),
            ("mlp", "embed"),
            c.init_std * (2 * c.layers) ** -0.5,
            name="mlp_out",
        )(y_BLF)


class Decoder(nn.Module):
    """Maps token ids to final hidden states and the output matrix."""

    config: ModelConfig
    vocab_rows: int
    attention: str
    unroll: bool
    remat: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns hidden states [B, L, D] and the head [V, D]."""
        c = self.config
        embedding_VD = self.param(
            "embedding",
            _normal(c.init_std, ("vocab", "embed")),
            (self.vocab_rows, c.dim),
            jnp.float32,
        )
        # An id beyond the table becomes NaN, not the last row.
        x_BLD = jnp.take(embedding_VD, tokens_BL, axis=0, mode="fill").astype(
            self.dtype
        )
        x_BLD = self._layers(over_data(x_BLD))
        x_BLD = Norm(c, name="final_norm")(x_BLD)
        head_VD = embedding_VD
        if not c.tied:
            head_VD = self.param(
                "head",
                _normal(c.init_std, ("vocab", "embed")),
                (self.vocab_rows, c.dim),
                jnp.float32,
            )
        return x_BLD, head_VD.astype(self.dtype)

    def _layers(self, x_BLD: jax.Array) -> jax.Array:
        policy = {
            "none": None,
            "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
            "full": jax.checkpoint_policies.nothing_saveable,
        }[self.remat]
        block = Block
        if policy is not None:
            block = nn.remat(Block, prevent_cse=self.unroll, policy=policy)

        def body(layer: nn.Module, x_BLD: jax.Array) -> tuple[jax.Array, None]:
            return over_data(layer(x_BLD)), None

        layers = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.config.layers,
            unroll=self.config.layers if self.unroll else 1,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        return layers(block(self.config, self.attention, name=LAYERS), x_BLD)[0]
