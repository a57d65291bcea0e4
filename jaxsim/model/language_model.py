"""The model as seen from outside: a nested dict of arrays and pure functions."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxsim.config import ModelConfig
from jaxsim.errors import UserError
from jaxsim.model.loss import next_token_nll
from jaxsim.model.transformer import Decoder

Params = dict[str, Any]  # nested dicts of float32 arrays


@dataclasses.dataclass(frozen=True)
class Execution:
    """How to compute the model; none of it is part of a checkpoint.

    Attributes:
      attention: 'einsum', 'xla' or 'cudnn'.
      unroll: whether to unroll layers instead of scanning them.
      remat: what to recompute in the backward pass: 'none', 'dots' (all but
        matrix products) or 'full'.
      precision: of matrix products: 'float32', on every device; 'tf32', float32
        whose products an NVIDIA GPU rounds to TF32; or 'bfloat16'.
      loss_chunk: positions of each row whose logits exist at once.
    """

    attention: str = "einsum"
    unroll: bool = True
    remat: str = "none"
    precision: str = "float32"
    loss_chunk: int = 64

    @property
    def dtype(self) -> jnp.dtype:
        """Of hidden states and of the operands of products."""
        return jnp.dtype("float32" if self.precision == "tf32" else self.precision)

    @property
    def matmul(self) -> str:
        """JAX's name of how products of this dtype are computed.

        By default, GPUs round float32 operands to TF32, and TPUs to bfloat16.
        """
        named = {"tf32": "tensorfloat32", "bfloat16": "default"}
        return named.get(self.precision, "highest")


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A decoder of `config` over `vocab_size` token ids."""

    config: ModelConfig
    vocab_size: int

    def __post_init__(self) -> None:
        """Raises a `UserError` if the embedding has too few rows."""
        if self.vocab_rows < self.vocab_size:
            raise UserError(
                f"config.model.vocab_rows={self.vocab_rows}: the tokenizer has "
                f"{self.vocab_size} ids, and each needs a row; take the model's own "
                "tokenizer, or more rows (0: as many as ids)"
            )

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding."""
        return self.config.vocab_rows or self.vocab_size

    def init(self, rng: jax.Array) -> Params:
        """New random parameters, float32."""
        return nn.meta.unbox(self._boxed(rng))

    def shapes(self) -> Params:
        """The `jax.ShapeDtypeStruct`s of the parameters; read only."""
        return _shapes(self)

    def logical_axes(self) -> Params:
        """The axis names of every parameter, a tree of tuples."""
        boxed = jax.eval_shape(lambda: self._boxed(jax.random.key(0)))
        return jax.tree.map(
            lambda leaf: leaf.names,
            boxed,
            is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata),
        )

    def token_nll(
        self, params: Params, tokens_BL1: jax.Array, execution: Execution
    ) -> jax.Array:
        """Negative log-likelihood of the tokens 1 to L, in nats.

        Args:
          params: see `init`.
          tokens_BL1: [B, L+1] ids; L may exceed the model's length, but not its
            learned positions. An id that is negative or not below `vocab_size` gives
            NaN where it is the target and from there to the end of the row.
          execution: how to compute.

        Returns:
          [B, L] float32.
        """
        # Indexing would read -1 as the last row, and ids above the vocabulary as
        # padding rows. An id beyond the embedding gives NaN.
        known_BL1 = (tokens_BL1 >= 0) & (tokens_BL1 < self.vocab_size)
        tokens_BL1 = jnp.where(known_BL1, tokens_BL1, self.vocab_rows)
        decoder = self._decoder(execution)
        # Products of the backward pass have the precision of the forward one.
        with jax.default_matmul_precision(execution.matmul):
            out: Any = decoder.apply({"params": params}, tokens_BL1[:, :-1])
        x_BLD, head_VD = out
        return next_token_nll(
            x_BLD, head_VD, tokens_BL1[:, 1:], execution.loss_chunk, execution.matmul
        )

    def parameter_count(self) -> int:
        """Number of parameters, including padding rows of the embedding."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.shapes()))

    def forward_flops(self, tokens: int, length: int | None = None) -> float:
        """FLOPs of a forward pass over `tokens` tokens in rows of `length`.

        Two for each token and parameter in a matrix product (positions and an untied
        embedding are only looked up), plus causal attention: on average a token
        attends to half of its row, with two products of the width of all heads.
        """
        c = self.config
        matmul = self.parameter_count() - c.positions * c.dim
        if not c.tied:
            matmul -= self.vocab_rows * c.dim
        attention = 2 * c.layers * c.heads * c.head_size * (length or c.length)
        return float(tokens) * (2 * matmul + attention)

    def _boxed(self, rng: jax.Array) -> Params:
        tokens_BL = jnp.zeros((1, 1), jnp.int32)
        # Scanned, because unrolled deep models are slow to trace.
        decoder = self._decoder(Execution(unroll=False))
        return decoder.init(rng, tokens_BL)["params"]

    def _decoder(self, execution: Execution) -> Decoder:
        return Decoder(
            config=self.config,
            vocab_rows=self.vocab_rows,
            attention=execution.attention,
            unroll=execution.unroll,
            remat=execution.remat,
            dtype=execution.dtype,
        )


# Cached, because every load of a member needs them and tracing takes 0.1 s.
@functools.lru_cache
def _shapes(model: LanguageModel) -> Params:
    return jax.eval_shape(lambda: model.init(jax.random.key(0)))
