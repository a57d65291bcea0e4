"""Devices by the name of a topology: TPUs that need not be there."""

import importlib.util
import os

import jax
from jax.errors import JaxRuntimeError
from jax.experimental import topologies

from jaxsim.errors import UserError


def devices_of(topology: str) -> list[jax.Device]:
    """The devices of `v5e:16x16` and the like; programs compile for them.

    Raises:
      UserError: the compiler is not installed, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={topology}: the TPU compiler is not installed; "
            "pip install 'jaxsim[tpu]' brings it, a TPU is not needed"
        )
    # Read when libtpu is loaded: no search for a TPU, and no claim on one
    # that another process uses.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    if not jax.config.values["jax_platforms"]:
        # The few constants that tracing makes need no accelerator.
        jax.config.update("jax_platforms", "cpu")
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=topology
        )
    except JaxRuntimeError as error:
        raise UserError(
            f"--topology={topology}: {str(error).splitlines()[0]}; "
            "write KIND:SIZES, as in v5e:4x4, v5e:16x16, v5p:4x4x4 or v6e:8x8"
        ) from error
    return list(described.devices)
