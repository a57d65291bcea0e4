"""The programs of a configuration, compiled from shapes: nothing is run."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from jaxsim.config import Config
from jaxsim.devices import Memory, TooLarge, compiled, is_cpu, memory_of
from jaxsim.mesh import scoring_mesh, training_mesh
from jaxsim.model import LanguageModel
from jaxsim.scoring.compiled import Programs
from jaxsim.scoring.merge import MEMBER_AXIS, SPLITS
from jaxsim.scoring.plan import Plan as ScoringPlan
from jaxsim.scoring.plan import (
    bytes_of,
    held_deltas,
    memory_limit,
    settled,
    shapes,
)
from jaxsim.scoring.stack import pool_shardings
from jaxsim.train.trainer import recipe_trainer, vectorized


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that is not compiled yet.

    Attributes:
      name: for people.
      mesh: the devices that it runs on.
      compile: returns the compiled program, or raises `TooLarge`.
      arguments: a tree of shapes with shardings.
      flops: model FLOPs of one call, on all devices.
    """

    name: str
    mesh: Mesh
    compile: Callable[[], jax.stages.Compiled]
    arguments: Any
    flops: float


@dataclasses.dataclass(frozen=True)
class Report:
    """A program that was compiled, or refused by the compiler.

    Attributes:
      name: of the program.
      seconds: time to compile.
      arguments: bytes on one device, from shapes and shardings.
      memory: the compiler's report; None if it refused.
      refused: bytes needed and available, as the compiler said when it
        refused; None if it compiled.
      flops: model FLOPs of one call, on one device.
    """

    name: str
    seconds: float
    arguments: int
    memory: Memory | None
    refused: tuple[int, int] | None
    flops: float

    @property
    def needed(self) -> int:
        """Bytes that a call needs on one device."""
        if self.memory is not None:
            return self.memory.total
        assert self.refused is not None
        return self.refused[0]

    def fits(self, memory: int) -> bool:
        """Whether it fits in `memory` bytes per device; 0 means unknown."""
        return self.refused is None and (not memory or self.needed <= memory)


def train_step(
    config: Config, model: LanguageModel, devices: Sequence[jax.Device]
) -> Program:
    """One training run over all devices.

    Raises:
      UserError: something does not divide over the mesh, or the attention does
        not run on these devices.
    """
    train = config.train
    mesh = training_mesh(train.data_axis, train.model_axis, devices)
    step = recipe_trainer(model, config, mesh).program()
    return Program(
        name=f"train step, one run over {_sizes(mesh)}",
        mesh=step.mesh,
        compile=functools.partial(compiled, step.lower()),
        arguments=step.arguments(),
        flops=_flops_of_step(config, model),
    )


def group_step(
    config: Config, model: LanguageModel, devices: Sequence[jax.Device]
) -> Program:
    """One training run on each device, all in one program.

    Raises:
      UserError: the attention does not run on these devices.
    """
    count = len(devices)
    mesh = training_mesh(count, 1, devices)
    step = vectorized(model, config, mesh).program(count)
    return Program(
        name=f"train step, {count} parallel runs",
        mesh=step.mesh,
        compile=functools.partial(compiled, step.lower()),
        arguments=step.arguments(),
        flops=count * _flops_of_step(config, model),
    )


def scoring(
    config: Config,
    model: LanguageModel,
    members: int,
    devices: Sequence[jax.Device],
) -> tuple[Program, ScoringPlan]:
    """The program that `jaxsim score` would choose for a full pass of windows.

    Args:
      config: its `score.memory` must be set, because devices that are not
        attached cannot report theirs. The text is unknown: all windows have
        the model's length.
      model: architecture and vocabulary of the pool.
      members: number of members in the pool.
      devices: all of them.

    Raises:
      UserError: something does not divide over the mesh, or the attention does
        not run on these devices.
    """
    mesh = scoring_mesh(config.score.model_axis, devices)
    score = settled(config.score, model, mesh)
    limit = memory_limit(score, mesh)
    split = held_deltas(score, model, members, mesh) == "bfloat16"
    at_base, at_deltas = pool_shardings(model, mesh)

    def of_members(s: jax.ShapeDtypeStruct, at: NamedSharding) -> Any:
        shape = list(s.shape)
        shape.insert(MEMBER_AXIS, members)
        dtype = SPLITS if split else s.dtype
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=at)

    base = jax.tree.map(
        lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at),
        model.shapes(),
        at_base,
    )
    delta_C = jax.tree.map(of_members, model.shapes(), at_deltas)
    programs = Programs(model, base, delta_C, mesh, score, limit)
    length = model.config.length
    for shape in shapes(score, length, is_cpu(mesh)):
        blocks = max(1, shape.tokens // (shape.rows * length))
        blocks = -(-blocks // mesh.shape["model"]) * mesh.shape["model"]
        windows = (blocks, shape.rows, length)
        plan = programs.plan_of(shape, [windows], per_token=False)
        if plan.fits:
            break
    return Program(
        name=f"scoring, {plan.mixtures} mixtures a call over {_sizes(mesh)}",
        mesh=mesh,
        compile=functools.partial(  # cached: `plan_of` compiled it
            programs.compiled, plan.mixtures, plan.merge, windows, False
        ),
        arguments=programs.arguments(plan.mixtures, windows),
        flops=model.forward_flops(plan.mixtures * plan.tokens),
    ), plan


def test_on(program: Program) -> Report:
    """Compiles `program`, which may take minutes, and reports what it needs."""
    begin = time.monotonic()
    memory = refused = None
    try:
        memory = memory_of(program.compile())
    except TooLarge as error:
        refused = error.needed, error.available
    return Report(
        name=program.name,
        seconds=time.monotonic() - begin,
        arguments=bytes_of(program.arguments),
        memory=memory,
        refused=refused,
        flops=program.flops / program.mesh.size,
    )


def _flops_of_step(config: Config, model: LanguageModel) -> float:
    tokens = config.recipe.batch * model.config.length
    return 3 * model.forward_flops(tokens)


def _sizes(mesh: Mesh) -> str:
    """Formats a mesh as `data 8 x model 2`."""
    return " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
