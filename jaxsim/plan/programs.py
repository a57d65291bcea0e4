"""Compiles programs from shapes, for attached devices or a TPU topology."""

import dataclasses
import functools
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.errors import JaxRuntimeError
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsim.config import Config
from jaxsim.devices import Chip, Memory, TooLarge, known_chip, memory_of
from jaxsim.errors import UserError
from jaxsim.log import counted, detail
from jaxsim.mesh import scoring_mesh, training_mesh
from jaxsim.model import LanguageModel
from jaxsim.scoring.evaluator import Programs
from jaxsim.scoring.layout import bytes_of, held_deltas
from jaxsim.scoring.stack import StackedPool
from jaxsim.train import recipe_trainer


def devices_of(topology: str) -> list[jax.Device]:
    """Compile-only devices of a TPU topology such as `v5e:16x16`.

    Raises:
      UserError: the compiler is not installed, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={topology}: the TPU compiler is not installed; "
            "`pip install 'jaxsim-mixtures[tpu]'` installs it, and no TPU is needed"
        )
    # libtpu reads these when it is loaded: do not search for a TPU or lock one.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    if not jax.config.values["jax_platforms"]:
        # The few constants that tracing creates need no accelerator.
        jax.config.update("jax_platforms", "cpu")
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except JaxRuntimeError as error:
        raise UserError(
            f"--topology={topology}: {str(error).splitlines()[0]}; "
            "write KIND:SIZES, as in v5e:4x4, v5e:16x16, v5p:4x4x4 or v6e:8x8"
        ) from error
    return list(described.devices)


def chip_of(devices: Sequence[jax.Device], attached: bool) -> Chip:
    """Describes `devices`, which are all of one kind.

    The peak rate of a kind that is not in `CHIPS` is measured if they are attached.
    """
    kind = devices[0].device_kind
    if chip := known_chip(kind):
        return chip
    if not attached:
        return Chip(kind, 0, 0.0, "no entry in jaxsim/devices.py")
    # A float32 product on all devices at once.
    mesh = Mesh(np.array(devices), ("all",))
    each = NamedSharding(mesh, PartitionSpec("all"))
    size, repetitions = 1024, 3
    x_NSS = jnp.ones((len(devices), size, size), jnp.float32, device=each)
    product = jax.jit(jnp.matmul, out_shardings=each)
    product(x_NSS, x_NSS).block_until_ready()
    begin = time.perf_counter()
    for _ in range(repetitions):
        product(x_NSS, x_NSS).block_until_ready()
    rate = 2 * size**3 * repetitions / (time.perf_counter() - begin)
    return Chip(kind, 0, rate, "a matrix product, measured here")


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that is not compiled yet."""

    name: str
    mesh: Mesh
    compile: Callable[[], jax.stages.Compiled]  # may raise `TooLarge`
    arguments: Any  # a tree of shapes with shardings
    flops: float  # model FLOPs of one call, on all devices
    # Bytes that a call needs on one device, or as `Programs.needed` counts them.
    needed: Callable[[jax.stages.Compiled], int] = lambda one: memory_of(one).total


@dataclasses.dataclass(frozen=True)
class CompileReport:
    """A program that was compiled, or refused by the compiler."""

    name: str
    seconds: float  # to compile
    arguments: int  # bytes on one device, from shapes and shardings
    memory: Memory | None  # the compiler's report; None if it refused
    refused: tuple[int, int] | None  # bytes needed and available if it refused
    flops: float  # model FLOPs of one call, on one device
    needed: int  # bytes, see `Program`

    def fits(self, memory: int) -> bool:
        """Whether it fits in `memory` bytes of each device; 0 means unknown."""
        return self.refused is None and (not memory or self.needed <= memory)


def train_step(
    config: Config,
    model: LanguageModel,
    devices: Sequence[jax.Device],
    parallel: bool = False,
) -> Program:
    """One training run over all devices, or parallel runs, one in each place.

    Raises:
      UserError: a dimension does not divide over the mesh, or the attention does not
        run on these devices.
    """
    train = config.train
    mesh = training_mesh(train.data_axis, train.model_axis, devices)
    trainer = recipe_trainer(model, config, mesh)
    step = trainer.program(trainer.places if parallel else 1)
    what = counted(step.runs, "parallel run") if parallel else "one run"
    tokens = step.runs * config.recipe.batch * model.config.length
    return Program(
        name=f"train step, {what} over {_sizes(step.mesh)}",
        mesh=step.mesh,
        compile=lambda: step.compiled,
        arguments=(step.state, step.tokens),
        flops=3 * model.forward_flops(tokens),
    )


def scoring(
    config: Config, model: LanguageModel, members: int, devices: Sequence[jax.Device]
) -> Program:
    """The program that `jaxsim score` would choose for windows of the model's length.

    Args:
      config: `score.memory` must be set, because devices that are not attached cannot
        report theirs.
      model: architecture and vocabulary of the pool.
      members: number of members in the pool.
      devices: all of them.

    Raises:
      UserError: a dimension does not divide over the mesh, or the
        attention does not run on these devices.
    """
    mesh = scoring_mesh(config.score.model_axis, devices)
    score, length = config.score, model.config.length
    deltas = held_deltas(score, model, members, mesh)
    pool = StackedPool.planned(model, members, deltas, mesh)
    programs = Programs(model, pool, score, length)
    try:
        layout = programs.layout()
    except UserError:  # nothing fits, which the report says of the smallest
        *_, layout = programs.candidates()
    mixtures = layout.mixtures * programs.across
    tokens = layout.blocks * programs.within * layout.windows * length
    return Program(
        name=f"scoring, {counted(mixtures, 'mixture')} a call over {_sizes(mesh)}",
        mesh=mesh,
        compile=functools.partial(programs.compiled, layout, length),  # cached
        arguments=programs.arguments(layout, length),
        flops=model.forward_flops(mixtures * tokens),
        needed=programs.needed,
    )


def compile_program(program: Program) -> CompileReport:
    """Compiles a program, which may take minutes, and reports what it needs."""
    begin = time.monotonic()
    memory = refused = None
    try:
        compiled = program.compile()
        memory, needed = memory_of(compiled), program.needed(compiled)
    except TooLarge as error:
        refused, needed = (error.needed, error.available), error.needed
    seconds = time.monotonic() - begin
    what = "compiled" if memory else "refused by the compiler"
    detail(f"{program.name}: {what} after {seconds:.1f} s")
    return CompileReport(
        name=program.name,
        seconds=seconds,
        arguments=bytes_of(program.arguments),
        memory=memory,
        refused=refused,
        flops=program.flops / program.mesh.size,
        needed=needed,
    )


def _sizes(mesh: Mesh) -> str:
    """Formats a mesh as `data 8 x model 2`."""
    sizes = [f"{name} {size}" for name, size in mesh.shape.items() if size > 1]
    return " x ".join(sizes) or "one device"
