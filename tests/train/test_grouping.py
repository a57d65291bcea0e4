"""How many runs fit side by side, on devices that a test does not have."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from jaxsim.train.grouping import planned


@dataclasses.dataclass
class Compiler:
    """Stands for programs of an accelerator; counts those it compiles."""

    base: int
    each: int  # bytes of a run on its device
    devices: int = 1
    most: int = 10**9  # runs of a device beyond which it gives up
    compiled: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, members: int):
        self.compiled.append(members)
        assert members % self.devices == 0

        def needed() -> int:
            if members // self.devices > self.most:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: HBM")
            return self.base + self.each * members // self.devices

        return types.SimpleNamespace(needed=needed)


def mesh(devices: int, limit: int = 1000, platform: str = "gpu", model=1):
    stub = types.SimpleNamespace(
        platform=platform,
        memory_stats=lambda: {"bytes_limit": limit * 10 // 8},
    )
    return types.SimpleNamespace(
        devices=np.array([stub] * devices),
        size=devices,
        shape={"data": devices // model, "model": model},
    )


@pytest.mark.parametrize(
    ("runs", "devices", "base", "each", "want"),
    [
        (40, 1, 0, 100, 10),  # what fits
        (40, 1, 400, 100, 3),  # estimated from two runs, not searched
        (4, 1, 0, 100, 4),  # what is asked for
        (40, 4, 0, 200, 20),
        (40, 1, 0, 600, 1),  # not even two
        (3, 4, 0, 10, 1),  # a device would idle
        (9, 4, 0, 10, 12),  # of each device as many
    ],
)
def test_as_many_are_planned_as_fit(runs, devices, base, each, want):
    compiler = Compiler(base, each, devices)
    assert planned(runs, mesh(devices), compiler) == want
    assert len(compiler.compiled) <= 4


def test_what_the_compiler_gives_up_on_is_too_much():
    assert planned(40, mesh(1), Compiler(0, 10, most=7)) == 5  # halved
    assert planned(40, mesh(1), Compiler(0, 10, most=1)) == 1


def test_nothing_is_compiled_where_runs_go_one_by_one():
    for where in (
        mesh(1, platform="cpu"),
        mesh(4, model=2),
        mesh(1, limit=0),
    ):
        compiler = Compiler(0, 10)
        assert planned(40, where, compiler) == 1
        assert compiler.compiled == []
