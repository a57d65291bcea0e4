"""The gradient program: what runs on the devices.

A gradient is summed block by block with one program of fixed shape. Each device
takes a share of every block and computes the inner products of its own sum, so
devices exchange C numbers and never a gradient.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxsim.config import ScoreConfig
from jaxsim.errors import UserError
from jaxsim.log import say
from jaxsim.model import Execution, LanguageModel
from jaxsim.scoring.merge import along_deltas, merge
from jaxsim.scoring.plan import bytes_of, execution_of, memory_limit, settled
from jaxsim.scoring.stack import Resident

# Tokens of a block on each device. They are fewer than the evaluator's, because
# a backward pass keeps the activations of all layers, and every domain's last
# block is padded. On two cores, a token takes the same time in blocks of 1,000
# to 4,000.
_CPU_BLOCK, _ACCELERATOR_BLOCK = 2**10, 2**13


class Backward:
    """Sums gradients of window losses at merges of one pool, on its devices.

    Sums are trees like the base with a leading axis over devices: each device
    holds the sum over its own windows.
    """

    def __init__(
        self, model: LanguageModel, pool: Resident, config: ScoreConfig
    ) -> None:
        self._model = model
        self._pool = pool
        self._config = settled(config, model, pool.mesh)
        self._dtype = jax.tree.leaves(pool.base)[0].dtype
        self._block_tokens = config.rows * model.config.length or (
            _CPU_BLOCK if pool.on_cpu else _ACCELERATOR_BLOCK
        )
        self._held = bytes_of((pool.base, pool.delta_C))
        self._remat = "none"
        self._programs: dict[int, Any] = {}  # by length
        self._spread = NamedSharding(pool.mesh, PartitionSpec("mixture"))
        at_base = jax.tree.map(lambda s: s.sharding, pool.base)
        self._at_sums = jax.tree.map(_with_devices, at_base)
        here, spread = PartitionSpec(), PartitionSpec("mixture")
        self._merge = jax.jit(merge, out_shardings=at_base)
        self._zeros = jax.jit(
            self._mapped(_zeros, here, spread), out_shardings=self._at_sums
        )
        self._along = jax.jit(self._mapped(_along, (here, spread), here))

    def windows(self, length: int) -> int:
        """Number of windows of `length` tokens in a block, over all devices."""
        each = max(1, self._block_tokens // length)
        return each * int(self._pool.mesh.shape["mixture"])

    def merge(self, w_C: np.ndarray, scale: float) -> Any:
        """Returns one mixture's parameters, in the precision of the base."""
        return self._merge(*self._mixture(w_C, scale))

    def zeros(self, params: Any) -> Any:
        """Returns sums that are zero."""
        return self._zeros(params)

    def add(
        self, sums: Any, params: Any, tokens_BL1: np.ndarray, scored_BL: np.ndarray
    ) -> tuple[Any, jax.Array]:
        """Adds the gradient of a block's summed losses.

        Args:
          sums: donated to the result.
          params: from `merge`.
          tokens_BL1, scored_BL: `windows(L)` windows.

        Returns:
          The new sums, and the nats [B] of the windows.

        Raises:
          UserError: a block does not fit in the device's memory.
        """
        block = self._block(tokens_BL1, scored_BL)
        length = scored_BL.shape[1]
        if length not in self._programs:
            self._programs[length] = self._compile(sums, params, *block)
        return self._programs[length](sums, params, *block)

    def along(self, sums: Any) -> np.ndarray:
        """Inner products with every member's difference, float64 [C]."""
        along_C = self._along(self._pool.delta_C, sums)
        return np.asarray(along_C, np.float64)

    def lowered(self, length: int) -> dict[str, jax.stages.Lowered]:
        """Returns the programs before compilation: merge, block, along."""
        mixture = self._mixture(np.zeros(len(self._pool.stack.names)), 1.0)
        params = self._merge(*mixture)
        sums = self._zeros(params)
        block = self._block(
            np.zeros((self.windows(length), length + 1), np.int32),
            np.zeros((self.windows(length), length), bool),
        )
        return {
            "merge": self._merge.lower(*mixture),
            "block": self._lower(sums, params, *block),
            "along": self._along.lower(self._pool.delta_C, sums),
        }

    def _mixture(self, w_C: np.ndarray, scale: float) -> tuple[Any, ...]:
        pool = self._pool
        return (
            pool.base,
            pool.delta_C,
            np.asarray(w_C, self._dtype),
            np.asarray(scale, self._dtype),
        )

    def _block(
        self, tokens_BL1: np.ndarray, scored_BL: np.ndarray
    ) -> tuple[jax.Array, ...]:
        arrays = tokens_BL1, scored_BL
        return tuple(jax.device_put(array, self._spread) for array in arrays)

    def _compile(self, *arguments: Any) -> Any:
        """Compiles the program of a block of one length.

        If activations do not fit in the device's memory, the backward pass
        computes them again, layer by layer.
        """
        begin = time.monotonic()
        limit = memory_limit(self._config, self._pool.mesh, self._held)
        program = self._lower(*arguments).compile()
        if self._remat == "none" and limit and self._needed(program) > limit:
            self._remat = "full"
            program = self._lower(*arguments).compile()
        windows, length = arguments[3].shape
        if limit and self._needed(program) > limit:
            raise UserError(
                f"the gradient of {windows} windows needs "
                f"{self._needed(program):,} bytes on each device, and "
                f"{limit:,} may be used; lower config.score.rows="
                f"{self._config.rows} or config.score.loss_chunk="
                f"{self._config.loss_chunk}, or divide the model with "
                "config.score.model_axis"
            )
        say(
            f"gradient program: {windows} windows of {length} tokens, "
            f"compiled in {time.monotonic() - begin:.1f} s"
        )
        return program

    def _needed(self, program: Any) -> int:
        """Bytes on a device, or in the process if the devices are CPUs."""
        report = program.memory_analysis()
        processes = self._pool.mesh.size if self._pool.on_cpu else 1
        return self._held + processes * (
            report.temp_size_in_bytes
            + report.argument_size_in_bytes
            + report.output_size_in_bytes
            - report.alias_size_in_bytes
        )

    def _lower(self, *arguments: Any) -> jax.stages.Lowered:
        execution = dataclasses.replace(execution_of(self._config), remat=self._remat)
        here, spread = PartitionSpec(), PartitionSpec("mixture")
        program = self._mapped(
            functools.partial(_add, model=self._model, execution=execution),
            (spread, here, spread, spread),
            (spread, spread),
        )
        return jax.jit(
            program, donate_argnums=0, out_shardings=(self._at_sums, self._spread)
        ).lower(*arguments)

    def _mapped(self, body: Callable[..., Any], ins: Any, outs: Any) -> Any:
        # With `check_vma`, the gradient would be summed over devices after
        # every block. The mesh axis `model` is left to XLA.
        return jax.shard_map(
            body,
            mesh=self._pool.mesh,
            axis_names={"mixture"},
            in_specs=ins,
            out_specs=outs,
            check_vma=False,
        )


def _with_devices(sharding: NamedSharding) -> NamedSharding:
    """Returns the sharding of a leaf of sums, given that of the base's leaf."""
    return NamedSharding(sharding.mesh, PartitionSpec("mixture", *sharding.spec))


# These run on each device, which sees its own part of the sums' leading axis.


def _zeros(params: Any) -> Any:
    return jax.tree.map(lambda p: jnp.zeros((1, *p.shape), p.dtype), params)


def _add(
    sums: Any,
    params: Any,
    tokens_BL1: jax.Array,
    scored_BL: jax.Array,
    *,
    model: LanguageModel,
    execution: Execution,
) -> tuple[Any, jax.Array]:
    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        nll_BL = model.token_nll(params, tokens_BL1, execution)
        nll_B = jnp.sum(jnp.where(scored_BL, nll_BL, 0.0), axis=-1)
        return jnp.sum(nll_B), nll_B

    gradient, nll_B = jax.grad(loss, has_aux=True)(params)
    return jax.tree.map(jnp.add, sums, gradient), nll_B


def _along(delta_C: Any, sums: Any) -> jax.Array:
    own = jax.tree.map(lambda s: s[0], sums)
    return jax.lax.psum(along_deltas(delta_C, own), "mixture")
