"""The model as everything else sees it: a nested dict and pure functions."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsim.config import ModelConfig
from jaxsim.model.loss import next_token_nll
from jaxsim.model.transformer import Decoder

Params = dict[str, Any]  # nested dicts of float32 arrays


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the model is computed; nothing here is part of a checkpoint.

    `activations` says how the rows of hidden states [B, L, D] are divided over
    a mesh; None leaves it to the compiler.
    """

    attention: str = "einsum"
    unroll: bool = True
    remat: str = "none"
    precision: str = "float32"
    loss_chunk: int = 64
    activations: jax.sharding.NamedSharding | None = None


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A decoder of `config` over `vocab_size` token ids."""

    config: ModelConfig
    vocab_size: int

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding: the vocabulary, rounded up."""
        multiple = self.config.vocab_multiple
        return -(-self.vocab_size // multiple) * multiple

    def init(self, rng: jax.Array) -> Params:
        """Fresh parameters, float32."""
        return nn.meta.unbox(self._boxed(rng))

    def shapes(self) -> Params:
        """The tree of `jax.ShapeDtypeStruct`s of the parameters."""
        return _shapes(self)

    def logical_axes(self) -> Params:
        """The tree of tuples that name the axes of every parameter."""
        boxed = jax.eval_shape(self._boxed, jax.random.key(0))
        return jax.tree.map(
            lambda leaf: leaf.names,
            boxed,
            is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata),
        )

    def token_nll(
        self,
        params: Params,
        tokens_BL1: jax.Array,
        execution: Execution,
        of_layer: Callable[[Any], Params] | None = None,
    ) -> jax.Array:
        """Nats of each of the tokens 1..L given those before it.

        Args:
          params: as `init` returns them.
          tokens_BL1: [B, L+1] ids; any L up to the model's length is exact,
            longer ones extrapolate. An id below 0 or not below `vocab_size`
            gives NaN where it is the target and after it; zero times NaN
            spreads that over its row.
          execution: how to compute.
          of_layer: makes one layer's parameters of a slice, along the first
            axis, of what `params` has in their place; layers are scanned then.

        Returns:
          [B, L] float32.
        """
        # Indexing would take -1 for the last row, and the rows that pad the
        # embedding for tokens; beyond the table both become NaN.
        known_BL1 = (tokens_BL1 >= 0) & (tokens_BL1 < self.vocab_size)
        tokens_BL1 = jnp.where(known_BL1, tokens_BL1, self.vocab_rows)
        decoder = self._decoder(execution, of_layer)
        out: Any = decoder.apply({"params": params}, tokens_BL1[:, :-1])
        x_BLD, head_VD = out
        return next_token_nll(
            x_BLD,
            head_VD,
            tokens_BL1[:, 1:],
            execution.loss_chunk,
            execution.activations,
        )

    def parameter_count(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes()))

    def forward_flops(self, tokens: int, length: int | None = None) -> float:
        """Floating-point operations of a forward pass over `tokens` tokens.

        Two for every parameter that multiplies (an embedding row is looked
        up, a head multiplies) plus causal attention: on average each token
        attends to half a row, with two products of the model's width.
        """
        c = self.config
        matmul = self.parameter_count()
        if not c.tied:
            matmul -= self.vocab_rows * c.dim
        attention = 2 * c.layers * c.dim * (length or c.length)
        return float(tokens) * (2 * matmul + attention)

    def _boxed(self, rng: jax.Array) -> Params:
        tokens_BL = jnp.zeros((1, 1), jnp.int32)
        # Unrolled, deep models would take long to trace for the same leaves.
        decoder = self._decoder(Execution(unroll=False))
        return decoder.init(rng, tokens_BL)["params"]

    def _decoder(
        self,
        execution: Execution,
        of_layer: Callable[[Any], Params] | None = None,
    ) -> Decoder:
        return Decoder(
            config=self.config,
            vocab_rows=self.vocab_rows,
            attention=execution.attention,
            unroll=execution.unroll and of_layer is None,
            remat=execution.remat,
            dtype=jnp.dtype(execution.precision),
            of_layer=of_layer,
            activations=execution.activations,
        )


# Every load of a member asks for the shapes, and tracing takes a tenth of a
# second. Nobody writes into the tree.
@functools.lru_cache
def _shapes(model: LanguageModel) -> Params:
    return jax.eval_shape(model.init, jax.random.key(0))
