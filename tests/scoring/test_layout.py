"""The layout: what it chooses for which devices, and what it refuses."""

import dataclasses
import types

import numpy as np
import pytest

from jaxsim.config import ScoreConfig
from jaxsim.errors import UserError
from jaxsim.model import LanguageModel, preset
from jaxsim.scoring import evaluator as evaluators
from jaxsim.scoring.layout import held_deltas, layouts, settled

from . import drawn


def gpu(memory: float = 80e9, platform: str = "cuda 12090", capability: str = "9.0"):
    """What the layout looks at: there is no such device in a test."""
    device = types.SimpleNamespace(
        platform="gpu",
        client=types.SimpleNamespace(platform_version=platform),
        compute_capability=capability,
        memory_stats=lambda: {"bytes_limit": int(memory)},
    )
    return types.SimpleNamespace(
        devices=np.array([device]), shape={"mixture": 1, "model": 1}
    )


@pytest.fixture
def no_runtime(monkeypatch):
    """A process of tests holds what other tests left."""
    monkeypatch.setattr(evaluators, "process_bytes", lambda: 0)


def test_a_cpu_takes_one_mixture_in_small_blocks():
    evaluator = drawn.evaluator()
    layout = evaluator.programs.layout()
    assert layout.mixtures == 1
    assert layout.windows * drawn.LENGTH == 2048
    assert layout.blocks == 1  # six windows need no more
    assert evaluator.programs.config.attention == "einsum"
    assert evaluator.how == {
        "precision": "float32",
        "matmul": "highest",
        "deltas": "float32",
        "device": "cpu",
    }


def test_what_is_set_is_in_the_layout():
    evaluator = drawn.evaluator(rows=3, chunk=5, attention="xla", precision="bfloat16")
    layout = evaluator.programs.layout()
    assert (layout.windows, layout.mixtures) == (3, 5)
    assert evaluator.programs.config.attention == "xla"
    how = evaluator.how
    assert (how["precision"], how["matmul"]) == ("bfloat16", "default")


def test_an_accelerator_tries_fewer_mixtures_before_smaller_blocks():
    tried = list(layouts(ScoreConfig(), 1024, on_cpu=False))
    assert [(x.mixtures, x.windows) for x in tried] == [
        (8, 16), (4, 16), (2, 16), (1, 16), (1, 8), (1, 4), (1, 2), (1, 1)
    ]  # fmt: skip
    assert {x.blocks * x.windows * 1024 for x in tried} == {2**17}
    tried = list(layouts(ScoreConfig(rows=2), 1024, on_cpu=False, gradient=True))
    assert [(x.mixtures, x.windows, x.remat) for x in tried] == [
        (1, 2, "none"), (1, 2, "full")
    ]  # fmt: skip


def test_memory_decides_what_is_not_set(no_runtime):
    """First the size of blocks goes, then it is too much."""

    def programs(memory: float = 0.0, **settings):
        return drawn.evaluator(memory=memory, **settings).programs

    def needed(programs) -> int:
        layout = programs.layout()
        return programs.needed(programs.compiled(layout, drawn.LENGTH))

    free, small = programs(), programs(rows=1)
    assert needed(small) < needed(free)
    between = (needed(free) + needed(small)) / 2e9
    assert programs(between).layout().windows < free.layout().windows
    with pytest.raises(UserError, match=r"needs [\d,]+ bytes.*score\.rows=128"):
        programs(between, rows=128).layout()
    with pytest.raises(UserError, match=r"and 1,000 may be used"):
        programs(1e-6, rows=2).layout()


def test_what_is_needed_counts_two_calls_in_flight(no_runtime):
    """Their temporaries are there at once, and the process holds the pool."""
    programs = drawn.evaluator().programs
    program = programs.compiled(programs.layout(), drawn.LENGTH)
    report = program.memory_analysis()
    call = report.temp_size_in_bytes + report.output_size_in_bytes
    assert programs.needed(program) == 2 * call


def test_the_plan_is_told_once(capsys, verbose):
    evaluator = drawn.evaluator()
    for _ in range(2):
        evaluator.score(drawn.table(2), drawn.ROWS)
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("plan of")]
    assert "float32 differences, layers scanned, einsum attention in float32" in line


@pytest.mark.parametrize(
    ("settings", "platform", "expected"),
    [
        ({}, "cuda 12090", ("bfloat16", "cudnn")),
        ({"precision": "float32"}, "cuda 12090", ("float32", "xla")),
        ({"precision": "tf32"}, "cuda 12090", ("tf32", "xla")),
        ({"attention": "xla"}, "cuda 12090", ("bfloat16", "xla")),
        ({}, "rocm 6", ("bfloat16", "xla")),
    ],
    ids=["defaults", "float32", "tf32", "set", "amd"],
)
def test_accelerators_compute_in_bfloat16(settings, platform, expected):
    model = LanguageModel(preset("paper-130m"), 50_000)
    config = settled(ScoreConfig(**settings), model, gpu(platform=platform))
    assert (config.precision, config.attention) == expected


@pytest.mark.parametrize(
    ("settings", "mesh", "sentence"),
    [
        ({}, None, "needs an NVIDIA GPU, and the devices are cpu"),
        ({"precision": "float32"}, gpu(), "precision='bfloat16', not 'float"),
        ({}, gpu(capability="7.5"), "needs compute capability 8.0, not 7.5"),
    ],
    ids=["cpu", "float32", "old"],
)
def test_impossible_attention_is_refused(settings, mesh, sentence):
    config = ScoreConfig(attention="cudnn", **settings)
    model = LanguageModel(preset("paper-130m"), 50_000)
    with pytest.raises(UserError, match=sentence):
        settled(config, model, mesh or drawn.mesh(1))


def test_differences_are_halved_where_the_pool_is_large():
    model = LanguageModel(preset("paper-1b"), 50_000)
    config = ScoreConfig()
    assert held_deltas(config, model, 4, gpu(80e9)) == "float32"
    assert held_deltas(config, model, 9, gpu(80e9)) == "bfloat16"
    less = dataclasses.replace(config, memory=20.0)
    assert held_deltas(less, model, 4, gpu(80e9)) == "bfloat16"
    fixed = dataclasses.replace(config, deltas="float32")
    assert held_deltas(fixed, model, 16, gpu(80e9)) == "float32"
