"""The stacked pool on the devices, shared by everything that merges."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from jaxsim.mesh import replicated, scoring_mesh
from jaxsim.mixture.stack import Stack


@dataclasses.dataclass(frozen=True)
class Resident:
    """A stack where programs can use it.

    Attributes:
      stack: what it was made from.
      mesh: with one axis, `mixture`.
      seed, delta_C: the stack's trees, on every device of the mesh. Sharding
        the member axis would cost an all-to-all for every merge.
    """

    stack: Stack
    mesh: Mesh
    seed: Any
    delta_C: Any

    @property
    def on_cpu(self) -> bool:
        return bool(self.mesh.devices.flat[0].platform == "cpu")


def resident(stack: Stack, mesh: Mesh | None = None) -> Resident:
    """Puts a stack on the devices of `mesh`, by default on all."""
    mesh = mesh or scoring_mesh()
    everywhere = replicated(mesh)
    return Resident(
        stack,
        mesh,
        jax.device_put(stack.seed, everywhere),
        jax.device_put(stack.delta_C, everywhere),
    )
