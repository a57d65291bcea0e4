"""The scoring programs of a pool: compiled once each, and what they need.

Everything here is a matter of shapes, so that a pool may be planned for that
is not there, on devices that are not there either (`jaxsim/plan/`).
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsim.config import ScoreConfig
from jaxsim.devices import TooLarge, compiled, is_cpu, memory_of
from jaxsim.log import say
from jaxsim.mesh import blocks_sharding
from jaxsim.mixture.merge import HALVES, MEMBER_AXIS
from jaxsim.mixture.plan import (
    IN_FLIGHT,
    Expected,
    Plan,
    Shape,
    bytes_of,
    execution_of,
    process_bytes,
    work_of_call,
)
from jaxsim.mixture.program import losses
from jaxsim.model import LanguageModel

Windows = tuple[int, int, int]  # blocks T, windows B and length L of a pass


class Programs:
    """Of one pool on one mesh, for any number of mixtures and windows."""

    def __init__(
        self,
        model: LanguageModel,
        seed: Any,
        delta_C: Any,
        mesh: Mesh,
        config: ScoreConfig,
        limit: int,
    ) -> None:
        """Compiles nothing yet.

        Args:
          model: of the seed and the members.
          seed, delta_C: see `merge`; arrays, or shapes with shardings.
          mesh: of scoring.
          config: settled.
          limit: bytes of a device that may be used; 0 where nobody knows.
        """
        self._model = model
        self._seed = seed
        self._delta_C = delta_C
        self._mesh = mesh
        self._config = config
        self._limit = limit
        # Those of `model` compute one mixture together.
        self._devices = int(mesh.shape["mixture"])
        self._within = int(mesh.shape["model"])
        self._pool = bytes_of((seed, delta_C))
        self._runtime: int | None = None
        self._compiled: dict[tuple[Any, ...], jax.stages.Compiled] = {}

    @property
    def members(self) -> int:
        return int(jax.tree.leaves(self._delta_C)[0].shape[MEMBER_AXIS])

    def compiled(
        self, chunk: int, merge: str, windows: Windows, per_token: bool
    ) -> jax.stages.Compiled:
        """The program of a shape.

        Raises:
          TooLarge: the compiler knows that it does not fit.
        """
        key = (chunk, merge, windows, per_token)
        if key not in self._compiled:
            begin = time.monotonic()
            lowered = self.lowered(chunk, merge, windows, per_token)
            self._compiled[key] = compiled(lowered)
            blocks, rows, length = windows
            say(
                f"scoring program: {chunk} mixtures x {blocks * rows} "
                f"windows of {length} tokens, compiled in "
                f"{time.monotonic() - begin:.1f} s"
            )
        return self._compiled[key]

    def lowered(
        self, chunk: int, merge: str, windows: Windows, per_token: bool
    ) -> jax.stages.Lowered:
        """The program of a shape, not compiled."""
        mixtures, blocks = PartitionSpec("mixture"), PartitionSpec("model")
        at_seed, at_deltas = jax.tree.map(
            lambda leaf: leaf.sharding.spec, (self._seed, self._delta_C)
        )
        body: Callable[..., jax.Array] = functools.partial(
            losses,
            model=self._model,
            execution=execution_of(self._config),
            at_once=self.side_by_side(chunk),
            by_layer=merge == "layer",
            per_token=per_token,
            specs=at_seed if self._within > 1 else None,
        )
        # Nothing is left to the compiler: each device's part is lowered as it
        # stands, cuDNN's attention as well.
        program = jax.jit(
            jax.shard_map(
                body,
                mesh=self._mesh,
                in_specs=(
                    *(at_seed, at_deltas),
                    *(mixtures, mixtures, mixtures),
                    *(blocks, blocks),
                ),
                out_specs=PartitionSpec(*mixtures, *blocks),
                check_vma=False,
            )
        )
        return program.lower(*self.arguments(chunk, windows))

    def arguments(self, chunk: int, windows: Windows) -> tuple[Any, ...]:
        """What a program is called with: shapes with shardings, but the pool.

        See `losses`.
        """
        of_mixtures = NamedSharding(self._mesh, PartitionSpec("mixture"))
        of_blocks = blocks_sharding(self._mesh)
        *blocks, length = windows

        def array(
            shape: Sequence[int], dtype: Any, at: NamedSharding
        ) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=at)

        return (
            self._seed,
            self._delta_C,
            array((chunk, self.members), jnp.float32, of_mixtures),
            array((chunk,), jnp.float32, of_mixtures),
            array((chunk,), jnp.bool, of_mixtures),
            array((*blocks, length + 1), jnp.int32, of_blocks),
            array((*blocks, length), jnp.bool, of_blocks),
        )

    def plan_of(
        self, shape: Shape, passes: Sequence[Windows], per_token: bool
    ) -> Plan:
        """What the program of a shape needs; the largest pass decides."""
        blocks, rows, length = max(passes, key=lambda w: w[0] * w[1] * w[2])
        tokens = blocks * rows * length
        chunk = self.chunk(shape, tokens)
        pool, runtime, together, limit = self._pool, 0, 1, self._limit
        try:
            program = self.compiled(
                chunk, shape.merge, (blocks, rows, length), per_token
            )
            memory = memory_of(program)
            temporaries = memory.temporaries
            outputs = 2 * len(passes) * memory.outputs
        except TooLarge as error:
            # Of all that the program needs the pool is a part.
            temporaries, outputs = max(0, error.needed - pool), 0
            limit = min(limit or error.available, error.available)
        if is_cpu(self._mesh):
            # One process with one pool. Once: freed memory stays in it.
            if self._runtime is None:
                self._runtime = max(0, process_bytes() - self._held())
            runtime, together = self._runtime, self._mesh.size
            temporaries *= IN_FLIGHT
        windows = sum(t * b * (4 * (n + 1) + n) for t, b, n in passes)
        windows //= self._within
        expected = Expected(
            runtime=runtime,
            pool=pool,
            temporaries=together * temporaries,
            arguments=together * windows,
            outputs=together * outputs,
        )
        work = work_of_call(
            self._model,
            shape,
            chunk // self._devices,
            self.side_by_side(chunk),
            blocks,
            tokens,
            length,
            pool,
            self._mesh,
        )
        return Plan(
            mixtures=chunk,
            side_by_side=self.side_by_side(chunk),
            rows=shape.rows,
            tokens=tokens,
            merge=shape.merge,
            deltas=deltas_of(self._delta_C),
            unroll=self._config.unroll and shape.merge == "tree",
            attention=self._config.attention,
            precision=self._config.precision,
            layout=(self._devices, self._within),
            expected=expected,
            limit=limit,
            work=work,
        )

    def chunk(self, shape: Shape, tokens: int) -> int:
        """Mixtures of a call on all devices, for passes of so many tokens."""
        if self._config.chunk:
            return -(-self._config.chunk // self._devices) * self._devices
        return shape.mixtures(tokens) * self._devices

    def side_by_side(self, chunk: int) -> int:
        """Mixtures that a device computes at the same time."""
        # A batched matrix product is slow on a CPU.
        return 1 if is_cpu(self._mesh) else chunk // self._devices

    def _held(self) -> int:
        """Bytes of the pool that this process has: shapes take none."""
        there = isinstance(jax.tree.leaves(self._seed)[0], jax.Array)
        return self._pool if there else 0


def deltas_of(delta_C: Any) -> str:
    """What differences are held in: 'float32' or 'bfloat16'."""
    dtype = jax.tree.leaves(delta_C)[0].dtype
    return "bfloat16" if dtype == HALVES else str(dtype)
