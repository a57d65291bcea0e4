"""Many small programs run once each: fast compilation, not fast programs."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def quick_to_compile():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
