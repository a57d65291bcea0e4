"""What the compiler says of a program, for one device."""

import dataclasses
import time
from typing import Any

import jax

from jaxsim.devices import Memory, TooLarge, memory_of
from jaxsim.mixture.plan import bytes_of
from jaxsim.plan.hlo import Array, Collective, Module
from jaxsim.plan.programs import Program

# Bytes of one device from which on an argument that others hold as well is
# named: norms and biases are on all of them and do not matter.
LARGE = 2**20


@dataclasses.dataclass(frozen=True)
class Held:
    """An argument, or several of one name, that is on several devices.

    Attributes:
      name: its path.
      size: bytes on one device.
      devices: that hold the same.
    """

    name: str
    size: int
    devices: int


@dataclasses.dataclass(frozen=True)
class Report:
    """One program, compiled or refused.

    Attributes:
      name: of the program.
      devices: that it runs on.
      seconds: that compiling took.
      arguments: bytes of one device, by shapes and shardings.
      memory: by the compiler's report; None if it refused.
      refused: bytes needed and available, as it said when it refused.
      flops: of the model, on one device, in one call.
      compiler_flops: as the compiler counts, each loop's body once; 0 where
        it does not say.
      collectives: largest traffic first.
      held: large arguments that several devices hold.
      largest: arrays of one device.
    """

    name: str
    devices: int
    seconds: float
    arguments: int
    memory: Memory | None
    refused: tuple[int, int] | None
    flops: float
    compiler_flops: float
    collectives: list[Collective]
    held: list[Held]
    largest: list[Array]

    @property
    def needed(self) -> int:
        """Bytes of one device, while it runs."""
        if self.memory is not None:
            return self.memory.total
        assert self.refused is not None
        return self.refused[0]

    def fits(self, memory: int) -> bool:
        """Whether a device of so many bytes can run it; 0: nobody knows."""
        return self.refused is None and (not memory or self.needed <= memory)


def report_on(program: Program) -> Report:
    """Compiles it, which may take minutes, and reads what came out."""
    begin = time.monotonic()
    memory = refused = None
    module, compiler_flops = Module(""), 0.0
    try:
        binary = program.compile()
    except TooLarge as error:
        refused = error.needed, error.available
    else:
        memory = memory_of(binary)
        module = Module(binary.as_text() or "")
        costs: Any = binary.cost_analysis() or {}
        compiler_flops = float(costs.get("flops", 0.0))
    return Report(
        name=program.name,
        devices=program.mesh.size,
        seconds=time.monotonic() - begin,
        arguments=bytes_of(program.arguments),
        memory=memory,
        refused=refused,
        flops=program.flops / program.mesh.size,
        compiler_flops=compiler_flops,
        collectives=module.collectives(),
        held=held_by_several(program.arguments),
        largest=module.largest(3),
    )


def held_by_several(arguments: Any, large: int = LARGE) -> list[Held]:
    """Arguments of `large` bytes on one device or more, the largest first."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(arguments):
        size = bytes_of(leaf)
        whole = leaf.size * leaf.dtype.itemsize
        devices = round(size * len(leaf.sharding.device_set) / whole)
        if devices > 1 and size >= large:
            found.append(Held(jax.tree_util.keystr(path), size, devices))
    return sorted(found, key=lambda held: -held.size)
