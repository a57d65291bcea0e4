"""The compiled train step: one run over a mesh, or many vectorized runs.

Both compile the same pure function. A single run is sharded over the mesh like its
parameters. Vectorized runs have a leading axis G in states, batches and sums; each
device maps the step over its runs, so no data passes between runs.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsim.devices import free_memory, is_cpu, memory_of
from jaxsim.log import say
from jaxsim.mesh import (
    batch_sharding,
    member_mesh,
    parameter_shardings,
    replicated,
    to_devices,
    to_host,
)
from jaxsim.model import LanguageModel
from jaxsim.train.step import Marks, TrainState

Sums = dict[str, jax.Array]
Step = Callable[[TrainState, jax.Array, Marks], tuple[TrainState, Sums]]
_MEMBER = PartitionSpec("member")


class TrainProgram:
    """The train step for a number of runs, compiled when first needed.

    Attributes:
      members: number of vectorized runs; for 1 there is no axis G.
      model: what is trained.
      mesh: the mesh of its arrays: `(data, model)`, or `(member,)`.
      tokens: shape and sharding of a batch: [B, L+1], or [G, B, L+1].
    """

    def __init__(
        self,
        model: LanguageModel,
        step: Step,
        initial: Callable[[Any], TrainState],
        rows: int,
        mesh: Mesh,
        members: int = 1,
    ) -> None:
        self.members = members
        self.mesh = mesh if members == 1 else member_mesh(mesh, members)
        self.model, self._initial = model, initial
        tokens: tuple[int, ...] = (rows, model.config.length + 1)
        shapes = jax.eval_shape(initial, model.shapes())
        if members == 1:
            batch, results = batch_sharding(mesh), replicated(mesh)
            self._shardings = _sharded(model, shapes, mesh)
        else:
            batch = results = NamedSharding(self.mesh, _MEMBER)
            self._shardings = jax.tree.map(lambda _: batch, shapes)
            step = jax.shard_map(
                jax.vmap(step, in_axes=(0, 0, None)),
                mesh=self.mesh,
                in_specs=(_MEMBER, _MEMBER, PartitionSpec()),
                out_specs=_MEMBER,
                check_vma=False,
            )
            self._initial = jax.vmap(initial, in_axes=None, axis_size=members)
            tokens = (members, *tokens)
        self.tokens = jax.ShapeDtypeStruct(tokens, jnp.int32, sharding=batch)
        self._step = jax.jit(
            step,
            in_shardings=(self._shardings, batch, replicated(self.mesh)),
            out_shardings=(self._shardings, results),
            donate_argnums=0,
        )
        self._compiled: jax.stages.Compiled | None = None

    def fresh_params(self, seed: int) -> Any:
        """New parameters of a single run, initialized on their devices."""
        if self.members > 1:
            raise ValueError("vectorized runs start from given parameters")
        init = jax.jit(self.model.init, out_shardings=self._shardings.params)
        return init(jax.random.key(seed))

    def start(self, params: Any) -> TrainState:
        """The first state; every run starts from the same parameters."""
        if self.members == 1:
            params = to_devices(params, self._shardings.params)
        else:
            params = jax.device_put(params, replicated(self.mesh))
        make: Callable[[Any], TrainState] = jax.jit(
            self._initial, out_shardings=self._shardings
        )
        return make(params)

    def abstract_state(self) -> Any:
        """Shapes, dtypes and shardings of the state."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            jax.eval_shape(self._initial, self.model.shapes()),
            self._shardings,
        )

    def arguments(self) -> tuple[Any, Any, Marks]:
        """Shapes and shardings of the arguments of a call."""
        number: Any = jax.ShapeDtypeStruct(
            (), jnp.int32, sharding=replicated(self.mesh)
        )
        return self.abstract_state(), self.tokens, Marks(number, number)

    def lower(self) -> jax.stages.Lowered:
        """Lowers from shapes: the mesh's devices need not be attached."""
        return self._step.lower(*self.arguments())

    def compiled(self) -> jax.stages.Compiled:
        """The executable; the first call compiles it and logs the time."""
        if self._compiled is None:
            what = "train step" + f" of {self.members} runs" * (self.members > 1)
            say(f"{what}: compiling")
            begin = time.monotonic()
            self._compiled = self.lower().compile()
            say(f"{what}: compiled in {time.monotonic() - begin:.1f} s")
        return self._compiled

    def needed(self) -> int:
        """Bytes of a step on one device; 0 if the compiler does not say."""
        program = self.compiled()
        return memory_of(program).total if program.memory_analysis() else 0

    def __call__(
        self, state: TrainState, tokens: jax.Array, marks: Marks
    ) -> tuple[TrainState, Sums]:
        """One step; `state` is donated."""
        result: tuple[TrainState, Sums] = self.compiled()(state, tokens, marks)
        return result

    def fetch(self, arrays: Any) -> Any:
        """Host arrays with an axis of runs, even for a single run."""
        host = to_host(arrays)
        if self.members > 1:
            return host
        return jax.tree.map(lambda a: np.asarray(a)[None], host)


def planned(runs: int, mesh: Mesh, program: Callable[[int], TrainProgram]) -> int:
    """How many of `runs` to vectorize: as many as fit, according to the compiler.

    One on a CPU, which a single run keeps busy; if devices would be idle; and if the
    model is sharded over devices.
    """
    devices = mesh.size
    if runs < max(2, devices) or is_cpu(mesh) or mesh.shape["model"] > 1:
        return 1
    limit = free_memory(mesh)
    if not limit:
        return 1
    fits = max(1, 2 // devices)  # runs on each device; at least two in total
    needed = _needed(program(fits * devices))
    if not needed or needed > limit:
        return 1
    most = -(-runs // devices)
    while fits < (each := min(most, fits * limit // needed)):
        more = _needed(program(each * devices))
        if more and more <= limit:
            fits = each
            break
        # In proportion to the bytes needed, or half if they are unknown.
        most = min(each - 1, each * limit // more if more else each // 2)
    return fits * devices


def _needed(program: TrainProgram) -> int | None:
    """Bytes on one device; None if the compiler refuses the program."""
    try:
        return program.needed()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def _sharded(model: LanguageModel, shapes: TrainState, mesh: Mesh) -> Any:
    """Shards optimizer states and the tail sum like their parameters."""
    params = parameter_shardings(model.shapes(), model.logical_axes(), mesh)
    structure: Any = jax.tree.structure(model.shapes())
    everywhere = replicated(mesh)

    def like_params(node: Any) -> bool:
        return bool(structure == jax.tree.structure(node))

    return jax.tree.map(
        lambda node: params if like_params(node) else everywhere,
        shapes,
        is_leaf=like_params,
    )
