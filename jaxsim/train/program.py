"""The compiled train step: of one run over a mesh, or of many side by side.

Both are the same pure function. A run alone is divided over the mesh by the
rules of its parameters. Runs side by side have a leading axis, G, in all that
they carry and read; each device maps the step over its own share of them, so
that no two runs ever meet.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsim.log import say
from jaxsim.mesh import (
    batch_sharding,
    member_mesh,
    parameter_shardings,
    replicated,
    rows_here,
    rows_to_devices,
    to_devices,
    to_host,
)
from jaxsim.model import LanguageModel
from jaxsim.train.state import Marks, TrainState

Sums = dict[str, jax.Array]
Step = Callable[[TrainState, jax.Array, Marks], tuple[TrainState, Sums]]
_MEMBER = PartitionSpec("member")


class TrainProgram:
    """One shape of the train step; it compiles when it is first needed.

    Attributes:
      members: runs side by side; 1 has no axis for them.
      model: what is trained.
      mesh: of its arrays: `(data, model)`, or `(member,)`.
      batch: the sharding of tokens [B, L+1], or [G, B, L+1].
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
        self._tokens: tuple[int, ...] = (rows, model.config.length + 1)
        shapes = jax.eval_shape(initial, model.shapes())
        if members == 1:
            self.batch = batch_sharding(mesh)
            self._shardings = _divided(model, shapes, mesh)
            results: Any = replicated(mesh)
        else:
            self.batch = results = NamedSharding(self.mesh, _MEMBER)
            self._shardings = jax.tree.map(lambda _: self.batch, shapes)
            step = jax.shard_map(
                jax.vmap(step, in_axes=(0, 0, None)),
                mesh=self.mesh,
                in_specs=(_MEMBER, _MEMBER, PartitionSpec()),
                out_specs=_MEMBER,
                check_vma=False,
            )
            self._initial = jax.vmap(initial, in_axes=None, axis_size=members)
            self._tokens = (members, *self._tokens)
        self._step = jax.jit(
            step,
            in_shardings=(self._shardings, self.batch, replicated(self.mesh)),
            out_shardings=(self._shardings, results),
            donate_argnums=0,
        )
        self._compiled: jax.stages.Compiled | None = None

    def fresh_params(self, rng: int) -> Any:
        """New parameters of one run, made where they will live."""
        if self.members > 1:
            raise ValueError("runs side by side start from given parameters")
        init = jax.jit(self.model.init, out_shardings=self._shardings.params)
        return init(jax.random.key(rng))

    def start(self, params: Any) -> TrainState:
        """The first state of every run, from the parameters of one."""
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
        """What it is called with: shapes and shardings, no arrays."""
        number: Any = jax.ShapeDtypeStruct(
            (), jnp.int32, sharding=replicated(self.mesh)
        )
        return (
            self.abstract_state(),
            jax.ShapeDtypeStruct(self._tokens, jnp.int32, sharding=self.batch),
            Marks(number, number),
        )

    def lower(self) -> jax.stages.Lowered:
        """From shapes alone: the devices of the mesh need not exist."""
        return self._step.lower(*self.arguments())

    def compiled(self) -> jax.stages.Compiled:
        """Compiles at the first call, and says how long that took."""
        if self._compiled is None:
            what = "train step" + (
                f" of {self.members} runs" if self.members > 1 else ""
            )
            say(f"{what}: compiling")
            begin = time.monotonic()
            self._compiled = self.lower().compile()
            say(f"{what}: compiled in {time.monotonic() - begin:.1f} s")
        return self._compiled

    def needed(self) -> int:
        """Bytes of one device for a step, by the compiler's report, or 0."""
        report = self.compiled().memory_analysis()
        if report is None:  # not every backend has one
            return 0
        return int(
            report.argument_size_in_bytes
            + report.temp_size_in_bytes
            + report.output_size_in_bytes
            - report.alias_size_in_bytes
        )

    def __call__(
        self, state: TrainState, tokens: jax.Array, marks: Marks
    ) -> tuple[TrainState, Sums]:
        """One step; `state` is donated."""
        result: tuple[TrainState, Sums] = self.compiled()(state, tokens, marks)
        return result

    def rows(self) -> slice:
        """Of each batch, those that this process reads."""
        if self.members > 1:
            return slice(0, self._tokens[1])
        return rows_here(self._tokens, self.batch)

    def place(self, tokens_GBL1: np.ndarray) -> jax.Array:
        """The `rows` of the batches of all runs, on the devices."""
        if self.members > 1:
            return jax.device_put(tokens_GBL1, self.batch)
        return rows_to_devices(
            tokens_GBL1[0], self.rows().start, self._tokens, self.batch
        )

    def fetch(self, arrays: Any) -> Any:
        """Arrays of the host, with the axis of runs also for a single one."""
        host = to_host(arrays, self.mesh)
        if self.members > 1:
            return host
        return jax.tree.map(lambda a: np.asarray(a)[None], host)


def _divided(model: LanguageModel, shapes: TrainState, mesh: Mesh) -> Any:
    """Optimizer and tail are sharded like the parameters they belong to."""
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
