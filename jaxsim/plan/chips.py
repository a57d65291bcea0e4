"""What a chip has, from the table or, where there is one, measured."""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxsim.devices import Chip, known_chip


def chip_of(devices: Sequence[jax.Device], there: bool) -> Chip:
    """What one of `devices` is; they are all alike.

    Args:
      devices: of one kind.
      there: whether they can compute, so that a kind without an entry in
        `CHIPS` can be measured.
    """
    kind = devices[0].device_kind
    if chip := known_chip(kind):
        return chip
    if not there:
        return Chip(kind, 0, 0.0, "no entry in jaxsim/devices.py")
    rate = _measured_rate(devices)
    return Chip(kind, 0, rate, "a product of matrices, measured here")


def _measured_rate(devices: Sequence[jax.Device]) -> float:
    """Of a 1024-cubed float32 product on every device at the same time."""
    mesh = jax.make_mesh(
        (len(devices),), ("all",), axis_types=(AxisType.Auto,), devices=devices
    )
    each = NamedSharding(mesh, PartitionSpec("all"))
    size = 1024
    x_NSS = jnp.ones((len(devices), size, size), jnp.float32, device=each)
    product = jax.jit(jnp.matmul, out_shardings=each)
    product(x_NSS, x_NSS).block_until_ready()
    begin = time.perf_counter()
    turns = 3
    for _ in range(turns):
        product(x_NSS, x_NSS).block_until_ready()
    return 2 * size**3 * turns / (time.perf_counter() - begin)
