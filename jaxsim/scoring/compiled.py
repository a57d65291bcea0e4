"""The scoring program: what runs on the device, and what it needs.

Compiling and planning only need shapes, so `jaxsim/plan/` can plan for a pool
that does not exist, on devices that are not attached.

Devices that share a model each hold and merge a share of its widths. Each
merged model is then gathered by all of them, and each takes its own blocks of
windows. A mixture is evaluated on many more tokens than a model has parameters,
so sending the model once is cheaper than sending hidden states in every layer.
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
from jaxsim.model import LAYERS, MATRICES, Execution, LanguageModel
from jaxsim.scoring.merge import MEMBER_AXIS, deltas_of, merge, merge_by_layer
from jaxsim.scoring.plan import (
    IN_FLIGHT,
    Expected,
    Plan,
    Shape,
    bytes_of,
    execution_of,
    process_bytes,
    work_of_call,
)

Windows = tuple[int, int, int]  # blocks T, windows B, length L of a pass


class Programs:
    """Compiles the scoring programs of one pool on one mesh, once each."""

    def __init__(
        self,
        model: LanguageModel,
        base: Any,
        delta_C: Any,
        mesh: Mesh,
        config: ScoreConfig,
        limit: int,
    ) -> None:
        """Prepares to compile; compiles nothing yet.

        Args:
          model: of the base and the members.
          base, delta_C: see `merge`; arrays, or shapes with shardings.
          mesh: see `scoring_mesh`.
          config: settled, see `settled`.
          limit: bytes of a device that may be used; 0 if unknown.
        """
        self._model = model
        self._base = base
        self._delta_C = delta_C
        self._mesh = mesh
        self._config = config
        self._limit = limit
        # The devices along `model` compute one mixture together.
        self._devices = int(mesh.shape["mixture"])
        self._within = int(mesh.shape["model"])
        self._pool = bytes_of((base, delta_C))
        self._runtime: int | None = None
        self._compiled: dict[tuple[Any, ...], jax.stages.Compiled] = {}

    @property
    def members(self) -> int:
        return int(jax.tree.leaves(self._delta_C)[0].shape[MEMBER_AXIS])

    def compiled(
        self, chunk: int, merge: str, windows: Windows, per_token: bool
    ) -> jax.stages.Compiled:
        """Returns the compiled program of a shape.

        Args:
          chunk: mixtures in a call, on all devices.
          merge: 'tree' or 'layer', see `Shape`.
          windows: shape of a pass.
          per_token: see `losses`.

        Raises:
          TooLarge: the compiler says that it does not fit.
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
        """Returns the program of a shape before compilation; see `compiled`."""
        mixtures, blocks = PartitionSpec("mixture"), PartitionSpec("model")
        at_base, at_deltas = jax.tree.map(
            lambda leaf: leaf.sharding.spec, (self._base, self._delta_C)
        )
        body: Callable[..., jax.Array] = functools.partial(
            losses,
            model=self._model,
            execution=execution_of(self._config),
            at_once=self.vectorized(chunk),
            by_layer=merge == "layer",
            per_token=per_token,
            specs=at_base if self._within > 1 else None,
        )
        # A `shard_map` over all axes leaves no partitioning to the compiler:
        # each device's part is lowered as written, cuDNN's attention included.
        program = jax.jit(
            jax.shard_map(
                body,
                mesh=self._mesh,
                in_specs=(
                    *(at_base, at_deltas),
                    *(mixtures, mixtures, mixtures),
                    *(blocks, blocks),
                ),
                out_specs=PartitionSpec(*mixtures, *blocks),
                check_vma=False,
            )
        )
        return program.lower(*self.arguments(chunk, windows))

    def arguments(self, chunk: int, windows: Windows) -> tuple[Any, ...]:
        """Returns the arguments of a program; see `losses`.

        All but the pool are shapes with shardings.
        """
        of_mixtures = NamedSharding(self._mesh, PartitionSpec("mixture"))
        of_blocks = blocks_sharding(self._mesh)
        *blocks, length = windows

        def array(
            shape: Sequence[int], dtype: Any, at: NamedSharding
        ) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=at)

        return (
            self._base,
            self._delta_C,
            array((chunk, self.members), jnp.float32, of_mixtures),
            array((chunk,), jnp.float32, of_mixtures),
            array((chunk,), jnp.bool, of_mixtures),
            array((*blocks, length + 1), jnp.int32, of_blocks),
            array((*blocks, length), jnp.bool, of_blocks),
        )

    def plan_of(self, shape: Shape, passes: Sequence[Windows], per_token: bool) -> Plan:
        """Estimates what the largest of these passes needs."""
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
            # What the compiler says the program needs includes the pool.
            temporaries, outputs = max(0, error.needed - pool), 0
            limit = min(limit or error.available, error.available)
        if is_cpu(self._mesh):
            # The CPU devices are one process with one copy of the pool.
            # Measured once, because a process keeps the memory that it frees.
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
            self.vectorized(chunk),
            blocks,
            tokens,
            length,
            pool,
            self._mesh,
        )
        return Plan(
            mixtures=chunk,
            vectorized=self.vectorized(chunk),
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
        """Mixtures of a call on all devices, for passes of `tokens`."""
        if self._config.chunk:
            return -(-self._config.chunk // self._devices) * self._devices
        return shape.mixtures(tokens) * self._devices

    def vectorized(self, chunk: int) -> int:
        """Mixtures that a device computes at once, for calls of `chunk`."""
        # A batched matrix product is slow on a CPU.
        return 1 if is_cpu(self._mesh) else chunk // self._devices

    def _held(self) -> int:
        """Bytes of the pool that this process holds: shapes take none."""
        there = isinstance(jax.tree.leaves(self._base)[0], jax.Array)
        return self._pool if there else 0


def losses(
    base: Any,
    delta_C: Any,
    w_KC: jax.Array,
    scale_K: jax.Array,
    used_K: jax.Array,
    tokens_TBL1: jax.Array,
    scored_TBL: jax.Array,
    *,
    model: LanguageModel,
    execution: Execution,
    at_once: int,
    by_layer: bool,
    per_token: bool,
    specs: Any = None,
) -> jax.Array:
    """The scoring program: merges mixtures and evaluates them on windows.

    Args:
      base, delta_C: see `merge`; this device's share.
      w_KC, scale_K: weights and scales of K mixtures.
      used_K: bool; False for mixtures that only pad the last chunk, whose
        losses are zero.
      tokens_TBL1: token ids, T blocks of B windows.
      scored_TBL: bool, which targets count.
      model: architecture.
      execution: how to compute the model.
      at_once: mixtures that are computed together.
      by_layer: whether to merge one layer at a time, again for each block.
      per_token: whether to return the loss of every token, not of windows.
      specs: a tree like the base that says how leaves are divided over the
        devices that gather merged models; None if each device has all of it.

    Returns:
      Nats, float32: sums [K, T, B], or with `per_token` [K, T, B, L], where
      targets that do not count are zero.
    """
    shape = scored_TBL.shape if per_token else scored_TBL.shape[:-1]

    def compute(w_C: jax.Array, scale: jax.Array) -> jax.Array:
        of_layer: Callable[[Any], Any] | None = None
        if by_layer:
            params, of_layer = merge_by_layer(base, delta_C, w_C, scale)
        else:
            params = merge(base, delta_C, w_C, scale)
        if specs is not None:
            params, of_layer = _gathered(params, specs, execution.precision, of_layer)

        def block(xs: tuple[jax.Array, jax.Array]) -> jax.Array:
            tokens_BL1, scored_BL = xs
            nll_BL = model.token_nll(params, tokens_BL1, execution, of_layer)
            nll_BL = jnp.where(scored_BL, nll_BL, 0.0)
            return nll_BL if per_token else jnp.sum(nll_BL, axis=-1)

        return jax.lax.map(block, (tokens_TBL1, scored_TBL))

    def skip(w_C: jax.Array, scale: jax.Array) -> jax.Array:
        return jnp.zeros(shape)

    def one(row: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        w_C, scale, used = row
        return jax.lax.cond(used, compute, skip, w_C, scale)

    # Mixtures computed together need batched matrix products, which are slow on
    # a CPU. One after another, padding can be skipped as well.
    if at_once == 1:
        return jax.lax.map(one, (w_KC, scale_K, used_K))
    return jax.lax.map(lambda row: compute(*row), (w_KC, scale_K), batch_size=at_once)


def _gathered(
    params: Any, specs: Any, precision: str, of_layer: Callable[[Any], Any] | None
) -> tuple[Any, Callable[[Any], Any] | None]:
    """Gathers whole parameters from the devices that share a model.

    Leaves of layers that `of_layer` merges are gathered after that. Matrices
    are sent in the precision in which the model multiplies them.
    """

    def whole(path: tuple[Any, ...], leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
        if path[-1].key in MATRICES:
            leaf = leaf.astype(precision)
        for dimension, axis in enumerate(spec):
            if axis is not None:
                leaf = jax.lax.all_gather(leaf, axis, axis=dimension, tiled=True)
        return leaf

    gather = jax.tree_util.tree_map_with_path
    with jax.named_scope("gather"):
        if of_layer is None:
            return gather(whole, params, specs), None
        outside = {name: p for name, p in params.items() if name != LAYERS}
        at = {name: specs[name] for name in outside}
        params = {LAYERS: params[LAYERS]} | gather(whole, outside, at)
    in_layer = jax.tree.map(lambda s: PartitionSpec(*s[1:]), specs[LAYERS])
    return params, lambda pairs: gather(whole, of_layer(pairs), in_layer)
