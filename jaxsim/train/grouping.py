"""How many runs are trained side by side, where nobody has said so."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh

from jaxsim.devices import free_memory, is_cpu
from jaxsim.train.program import TrainProgram


def planned(
    runs: int, mesh: Mesh, program: Callable[[int], TrainProgram]
) -> int:
    """Of so many runs, as many as fit by the compiler's report.

    One on a CPU, which a single run keeps busy, where devices would idle, and
    where a model is divided over devices.
    """
    devices = mesh.size
    if runs < max(2, devices) or is_cpu(mesh) or mesh.shape["model"] > 1:
        return 1
    limit = free_memory(mesh)
    if not limit:
        return 1
    fits = max(1, 2 // devices)  # of a device; on one, two are the fewest
    needed = _needed(program(fits * devices))
    if not needed or needed > limit:
        return 1
    most = -(-runs // devices)
    while fits < (each := min(most, fits * limit // needed)):
        more = _needed(program(each * devices))
        if more and more <= limit:
            fits = each
            break
        # By this report, or a half where there is none.
        most = min(each - 1, each * limit // more if more else each // 2)
    return fits * devices


def _needed(program: TrainProgram) -> int | None:
    """Bytes of one device; None if the compiler says it is too much."""
    try:
        return program.needed()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
