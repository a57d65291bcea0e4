"""The decoder, a Linen module.

Layers are stored stacked, with a leading layer axis. Whether they are scanned or
unrolled is an execution option, never part of the format.
"""

import functools
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
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


def _named(
    init: nn.initializers.Initializer, axes: Sequence[str]
) -> Callable[..., Any]:
    """An initializer that also names the axes of its array."""
    return nn.with_logical_partitioning(init, tuple(axes))


def _normal(std: float, axes: Sequence[str]) -> Callable[..., Any]:
    return _named(nn.initializers.normal(std), axes)


class Norm(nn.Module):
    """RMSNorm or LayerNorm; statistics are at least float32."""

    config: ModelConfig
    axis: str = "embed_vector"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kind = self.config.norm

        def vector(name: str, init: nn.initializers.Initializer) -> jax.Array:
            return self.param(
                name, _named(init, (self.axis,)), (x.shape[-1],), jnp.float32
            )

        y = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if kind != "rms":
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(y), axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(variance + self.config.norm_eps)
        if kind != "plain":
            y = y * vector("scale", nn.initializers.ones)
        if kind == "layer":
            y = y + vector("bias", nn.initializers.zeros)
        return y.astype(x.dtype)


class Linear(nn.Module):
    """A matrix product, and perhaps a bias."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    std: float
    bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param(
            "kernel", _normal(self.std, self.axes), self.shape, jnp.float32
        )
        y = jnp.tensordot(x, kernel.astype(x.dtype), axes=1)
        if self.bias:
            bias = self.param(
                "bias",
                _named(nn.initializers.zeros, self.axes[1:]),
                self.shape[1:],
                jnp.float32,
            )
            y = y + bias.astype(x.dtype)
        return y


class Block(nn.Module):
    """A layer: attention and an MLP, each added to the residual stream."""

    config: ModelConfig
    attention: str

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        sum_BLD = x_BLD + self._normed("attention", self._attention, x_BLD)
        read_BLD = x_BLD if self.config.parallel else sum_BLD
        return sum_BLD + self._normed("mlp", self._mlp, read_BLD)

    def _normed(
        self, name: str, part: Callable[[jax.Array], jax.Array], x_BLD: jax.Array
    ) -> jax.Array:
        """Applies a part of the layer, with a norm before or after it."""
        norm = Norm(self.config, name=f"{name}_norm")
        with jax.named_scope(name):
            if self.config.norm_place == "before":
                return part(norm(x_BLD))
            return norm(part(x_BLD))

    def _attention(self, x_BLD: jax.Array) -> jax.Array:
        c = self.config
        width = c.heads * c.head_size
        q_BLHK = self._heads("query", c.heads, "heads", x_BLD)
        k_BLGK = self._heads("key", c.kv_heads, "kv_heads", x_BLD)
        v_BLGK = self._heads("value", c.kv_heads, "kv_heads", x_BLD)
        out_BLHK = attend(q_BLHK, k_BLGK, v_BLGK, self.attention)
        out_BLD = out_BLHK.reshape(*x_BLD.shape[:2], width)
        if not c.output_projection:
            return out_BLD
        return Linear(
            (width, c.dim),
            ("heads", "embed"),
            c.init_std,
            c.bias == "all",
            name="output",
        )(out_BLD)

    def _heads(self, name: str, heads: int, axis: str, x_BLD: jax.Array) -> jax.Array:
        """Computes the queries, keys or values of all heads."""
        c = self.config
        y = Linear(
            (c.dim, heads * c.head_size),
            ("embed", axis),
            c.init_std,
            c.bias != "none",
            name=name,
        )(x_BLD)
        if c.clip_qkv:
            y = jnp.clip(y, -c.clip_qkv, c.clip_qkv)
        y_BLHK = y.reshape(*y.shape[:2], heads, c.head_size)
        if name == "value":
            return y_BLHK
        if c.qk_norm == "width":
            y_BLHK = Norm(c, axis, name=f"{name}_norm")(y).reshape(y_BLHK.shape)
        elif c.qk_norm == "head":
            y_BLHK = Norm(c, "head_vector", name=f"{name}_norm")(y_BLHK)
        return y_BLHK if c.positions else rotate(y_BLHK, c.rope)

    def _mlp(self, x_BLD: jax.Array) -> jax.Array:
        c = self.config
        in_BLPF = Linear(
            (c.dim, 1 + c.gated, c.mlp_dim),
            ("embed", "gate", "mlp"),
            c.init_std,
            c.bias == "all",
            name="mlp_in",
        )(x_BLD)
        y_BLF = ACTIVATIONS[c.activation](in_BLPF[..., 0, :])
        if c.gated:
            y_BLF = y_BLF * in_BLPF[..., 1, :]
        return Linear(
            (c.mlp_dim, c.dim),
            ("mlp", "embed"),
            c.init_std * (2 * c.layers) ** -0.5,
            c.bias == "all",
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
        if c.positions:
            positions_PD = self.param(
                "positions",
                _normal(c.init_std, ("positions", "embed")),
                (c.positions, c.dim),
                jnp.float32,
            )
            x_BLD = x_BLD + positions_PD[: x_BLD.shape[1]].astype(self.dtype)
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
