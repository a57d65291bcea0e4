"""Eight host devices, set before JAX starts.

JAXSIM_TEST_DEVICES=1 runs the tests on one, as a second job of the workflow
does: the number cannot change once JAX has started.
"""

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update(
    "jax_num_cpu_devices", int(os.environ.get("JAXSIM_TEST_DEVICES", "8"))
)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parent.parent
