"""The devices to plan for: attached ones, or TPUs named by their topology."""

import importlib.util
import os
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.errors import JaxRuntimeError
from jax.experimental import topologies
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxsim.devices import Chip, known_chip
from jaxsim.errors import UserError


def devices_of(topology: str) -> list[jax.Device]:
    """Returns compile-only devices for a topology such as `v5e:16x16`.

    Raises:
      UserError: the compiler is not installed, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={topology}: the TPU compiler is not installed; "
            "`pip install 'jaxsim-mixtures[tpu]'` installs it, and no TPU is needed"
        )
    # libtpu reads these when it is loaded: do not search for a TPU, and do not
    # lock one that another process is using.
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
    """Describes one of `devices`, which are all of one kind.

    Args:
      devices: of one kind.
      attached: whether the devices can run programs, so that the peak rate of
        a kind without an entry in `CHIPS` can be measured.
    """
    kind = devices[0].device_kind
    if chip := known_chip(kind):
        return chip
    if not attached:
        return Chip(kind, 0, 0.0, "no entry in jaxsim/devices.py")
    rate = _measured_rate(devices)
    return Chip(kind, 0, rate, "a matrix product, measured here")


def _measured_rate(devices: Sequence[jax.Device]) -> float:
    """Times a 1024-cubed float32 product on all devices at once: FLOP/s."""
    mesh = jax.make_mesh(
        (len(devices),), ("all",), axis_types=(AxisType.Auto,), devices=devices
    )
    each = NamedSharding(mesh, PartitionSpec("all"))
    size = 1024
    x_NSS = jnp.ones((len(devices), size, size), jnp.float32, device=each)
    product = jax.jit(jnp.matmul, out_shardings=each)
    product(x_NSS, x_NSS).block_until_ready()
    begin = time.perf_counter()
    repetitions = 3
    for _ in range(repetitions):
        product(x_NSS, x_NSS).block_until_ready()
    return 2 * size**3 * repetitions / (time.perf_counter() - begin)
