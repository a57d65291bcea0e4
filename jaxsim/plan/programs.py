"""The programs of a configuration, from shapes: nothing is allocated."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from jaxsim.config import Config
from jaxsim.devices import compiled, is_cpu
from jaxsim.mesh import scoring_mesh, training_mesh
from jaxsim.mixture.compiled import Programs
from jaxsim.mixture.merge import HALVES, MEMBER_AXIS
from jaxsim.mixture.plan import Plan as ScoringPlan
from jaxsim.mixture.plan import (
    held_deltas,
    memory_limit,
    settled,
    shapes,
)
from jaxsim.mixture.resident import pool_shardings
from jaxsim.model import LanguageModel
from jaxsim.train.of_config import side_by_side, trainer_of_recipe


@dataclasses.dataclass(frozen=True)
class Program:
    """One that is not compiled yet.

    Attributes:
      name: for people.
      mesh: the devices that it runs on.
      compile: gives what the compiler makes of it, or raises `TooLarge`.
      arguments: a tree of shapes with shardings.
      flops: of the model, on all devices, in one call.
    """

    name: str
    mesh: Mesh
    compile: Callable[[], jax.stages.Compiled]
    arguments: Any
    flops: float


def train_step(
    config: Config, model: LanguageModel, devices: Sequence[jax.Device]
) -> Program:
    """One run of the recipe over all devices.

    Raises:
      UserError: something does not divide over the mesh, or the attention is
        not for these devices.
    """
    train = config.train
    mesh = training_mesh(train.data_axis, train.model_axis, devices)
    step = trainer_of_recipe(model, config, mesh).program()
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
    """As many runs as devices, side by side, each whole on its own.

    Raises:
      UserError: the attention is not for these devices.
    """
    count = len(devices)
    mesh = training_mesh(count, 1, devices)
    step = side_by_side(model, config, mesh).program(count)
    return Program(
        name=f"train step, {count} runs side by side",
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
      config: its `score.memory` is set, because devices that are not there
        cannot be asked. The text is unknown: windows have the model's length.
      model: of the pool.
      members: of the pool.
      devices: all of them.

    Raises:
      UserError: something does not divide over the mesh, or the attention is
        not for these devices.
    """
    mesh = scoring_mesh(config.score.model_axis, devices)
    score = settled(config.score, model, mesh)
    limit = memory_limit(score, mesh)
    half = held_deltas(score, model, members, mesh) == "bfloat16"
    at_seed, at_deltas = pool_shardings(model, mesh)

    def of_members(s: jax.ShapeDtypeStruct, at: NamedSharding) -> Any:
        shape = list(s.shape)
        shape.insert(MEMBER_AXIS, members)
        dtype = HALVES if half else s.dtype
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=at)

    seed = jax.tree.map(
        lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at),
        model.shapes(),
        at_seed,
    )
    delta_C = jax.tree.map(of_members, model.shapes(), at_deltas)
    programs = Programs(model, seed, delta_C, mesh, score, limit)
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
        compile=functools.partial(  # which was compiled to make the plan
            programs.compiled, plan.mixtures, plan.merge, windows, False
        ),
        arguments=programs.arguments(plan.mixtures, windows),
        flops=model.forward_flops(plan.mixtures * plan.tokens),
    ), plan


def _flops_of_step(config: Config, model: LanguageModel) -> float:
    tokens = config.recipe.batch * model.config.length
    return 3 * model.forward_flops(tokens)


def _sizes(mesh: Mesh) -> str:
    """`data 8 x model 2`."""
    return " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
