"""Compiles, or says that a program is too large for its device.

Most backends compile whatever they are given and fail when it runs. The TPU
compiler knows the memory of its chip and refuses.
"""

import dataclasses
import re
from typing import Any

import jax
from jax.errors import JaxRuntimeError

from jaxsim.errors import JaxsimError

# "... for HLO temporaries (26.46G) exceeds available HBM (15.75G)", and "Ran
# out of memory in memory space hbm. Used 16.21G of 15.75G hbm".
_REFUSED = re.compile(
    r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)"
    r"|Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class TooLarge(JaxsimError):
    """The compiler refused a program for want of memory.

    Attributes:
      needed, available: bytes of a device, as the compiler says.
    """

    def __init__(self, needed: int, available: int) -> None:
        super().__init__(
            f"the program needs {needed:,} bytes of each device, which has "
            f"{available:,} for programs"
        )
        self.needed = needed
        self.available = available


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """The compiled program.

    Raises:
      TooLarge: the compiler knows that it does not fit.
    """
    try:
        return lowered.compile()
    except JaxRuntimeError as error:
        found = _REFUSED.search(str(error))
        if found is None:
            raise
        parts = [part for part in found.groups() if part]
        needed, available = (
            int(float(number) * _UNITS[unit])
            for number, unit in zip(parts[::2], parts[1::2], strict=True)
        )
        raise TooLarge(needed, available) from error


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device, by the compiler's report.

    Attributes:
      arguments, outputs: of a call.
      donated: outputs that take the place of arguments.
      temporaries: what else is alive at most at the same time.
    """

    arguments: int
    outputs: int
    donated: int
    temporaries: int

    @property
    def total(self) -> int:
        """Of a call, while it runs."""
        kept = self.outputs - self.donated
        return self.arguments + kept + self.temporaries


def memory_of(program: jax.stages.Compiled) -> Memory:
    """What a compiled program needs."""
    report: Any = program.memory_analysis()
    return Memory(
        arguments=report.argument_size_in_bytes,
        outputs=report.output_size_in_bytes,
        donated=report.alias_size_in_bytes,
        temporaries=report.temp_size_in_bytes,
    )
