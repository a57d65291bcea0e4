"""The compiled train step of runs that are trained together over a mesh."""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsim.devices import TooLarge, compiled, free_memory, is_cpu, memory_of
from jaxsim.log import detail
from jaxsim.mesh import parameter_shardings, replicated, to_devices
from jaxsim.train.step import TrainState, TrainStep

Sums = dict[str, jax.Array]


class TrainProgram:
    """The train step for a number of runs, compiled when first needed.

    Every array has a leading axis G of runs. It is divided along the mesh axis `run`,
    and the rest of an array like that of a single run.

    Attributes:
      runs: G.
      model: what is trained.
      mesh: `(run, data, model)`.
      tokens: shape and sharding of a batch, [G, B, L+1].
      state: shapes and shardings of the state.
    """

    def __init__(self, step: TrainStep, rows: int, mesh: Mesh, runs: int) -> None:
        self.model = model = step.model
        self.mesh, self.runs = mesh, runs
        self._params = parameter_shardings(model.shapes(), model.logical_axes(), mesh)

        def of_runs(leaf: Any, of_one: NamedSharding) -> jax.ShapeDtypeStruct:
            sharding = NamedSharding(mesh, PartitionSpec("run", *of_one.spec))
            shape = (runs, *leaf.shape)
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

        self.tokens = of_runs(
            jax.ShapeDtypeStruct((rows, model.config.length + 1), jnp.int32),
            NamedSharding(mesh, PartitionSpec("data")),
        )
        number: Any = jax.ShapeDtypeStruct((), jnp.int32)
        # Moments and the tail sum are divided like parameters.
        self.state = optax.tree_map_params(
            lambda params: step.initial(params, number, number),
            of_runs,
            jax.eval_shape(step.initial, model.shapes(), number, number),
            self._params,
            transform_non_params=lambda leaf: of_runs(leaf, replicated(mesh)),
        )
        self._shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)
        self._step = jax.jit(
            _alone(step) if runs == 1 else jax.vmap(step, spmd_axis_name="run"),
            out_shardings=(self._shardings, NamedSharding(mesh, PartitionSpec("run"))),
            donate_argnums=0,
        )

        def start(*arguments: Any) -> Any:
            return jax.tree.map(
                lambda leaf: jnp.broadcast_to(leaf, (runs, *leaf.shape)),
                step.initial(*arguments),
            )

        self._start = jax.jit(start, out_shardings=self._shardings)

    def start(self, params: Any, steps: int, tail_start: int) -> TrainState:
        """The first state; every run starts from the same parameters.

        Args:
          params: of one run, on the host or the device. They are copied.
          steps, tail_start: see `TrainState`.
        """
        arguments = to_devices(
            (params, np.int32(steps), np.int32(tail_start)),
            (self._params, replicated(self.mesh), replicated(self.mesh)),
        )
        state: TrainState = self._start(*arguments)
        return state

    @functools.cached_property
    def compiled(self) -> jax.stages.Compiled:
        """The executable; its devices need not be attached.

        Raises:
          TooLarge: the compiler refuses it, because it needs too much memory.
        """
        what = "train step" + f" of {self.runs} runs" * (self.runs > 1)
        detail(f"{what}: compiling")
        begin = time.monotonic()
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            program = compiled(self._step.lower(self.state, self.tokens))
        detail(f"{what}: compiled in {time.monotonic() - begin:.1f} s")
        return program

    def needed(self) -> int:
        """Bytes of a step on one device; 0 if the compiler does not say.

        `sys.maxsize` if the compiler refuses the program and does not say.
        """
        try:
            program = self.compiled
        except TooLarge as error:
            return error.needed
        except JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return sys.maxsize
        return memory_of(program).total if program.memory_analysis() else 0

    def __call__(self, state: TrainState, tokens: jax.Array) -> tuple[TrainState, Sums]:
        """One step; `state` is donated."""
        result: tuple[TrainState, Sums] = self.compiled(state, tokens)
        return result


def _alone(step: Callable[..., Any]) -> Callable[..., Any]:
    """Maps over an axis of one run; `vmap` would add in another order."""

    def mapped(*arrays: Any) -> Any:
        one = jax.tree.map(lambda leaf: jnp.squeeze(leaf, 0), arrays)
        return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), step(*one))

    return mapped


def planned(runs: int, mesh: Mesh, program: Callable[[int], TrainProgram]) -> int:
    """How many of `runs` to train together: as many as fit, says the compiler.

    One on a CPU, which a single run keeps busy, and if devices would be idle.

    Args:
      runs: how many there are.
      mesh: with as many devices along `run` as can train runs of their own.
      program: the train step of a number of runs.
    """
    places, limit = mesh.shape["run"], 0 if is_cpu(mesh) else free_memory(mesh)
    if runs < max(2, places) or not limit:
        return 1
    least = max(1, 2 // places)  # runs in each place; at least two in total
    needed = program(least * places).needed()
    if not 0 < needed <= limit:
        return 1
    each = min(-(-runs // places), least * limit // needed)
    while each > least and not 0 < program(each * places).needed() <= limit:
        each = max(least, each // 2)
    return each * places
