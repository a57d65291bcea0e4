"""The plan: what it chooses, what it counts, what it refuses."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from jaxsim.config import ScoreConfig
from jaxsim.errors import UserError
from jaxsim.model import LanguageModel, preset
from jaxsim.scoring import compiled
from jaxsim.scoring import evaluator as evaluators
from jaxsim.scoring.plan import held_deltas, settled, shapes

from . import drawn


def gpu(memory: float = 80e9, platform: str = "cuda 12090", capability: str = "9.0"):
    """What the plan looks at: there is no such device in a test."""
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
    for module in (compiled, evaluators):
        monkeypatch.setattr(module, "process_bytes", lambda: 0)


def test_a_cpu_merges_whole_trees_in_small_blocks():
    evaluator = drawn.evaluator(unroll=True)
    plan = evaluator.plan(drawn.ROWS)
    assert (plan.merge, plan.deltas, plan.unroll) == ("tree", "float32", True)
    assert (plan.attention, plan.precision) == ("einsum", "float32")
    assert plan.vectorized == 1
    assert plan.rows * drawn.LENGTH == 2048
    assert evaluator.how == {"precision": "float32", "deltas": "float32"}


def test_what_is_set_is_in_the_plan():
    evaluator = drawn.evaluator(
        merge="layer", rows=3, chunk=5, attention="xla", precision="bfloat16"
    )
    plan = evaluator.plan(drawn.ROWS)
    assert (plan.merge, plan.rows, plan.mixtures) == ("layer", 3, 5)
    assert (plan.attention, plan.precision) == ("xla", "bfloat16")
    assert not plan.unroll
    assert evaluator.how["precision"] == "bfloat16"


def test_memory_decides_what_is_not_set(no_runtime):
    """First the tree goes, then the size of blocks, then it is too much."""

    def plan(memory: float = 0.0, **settings):
        return drawn.evaluator(memory=memory, **settings).plan(drawn.ROWS)

    free, layer = plan(), plan(merge="layer")
    assert layer.expected.temporaries < free.expected.temporaries
    assert layer.expected.pool == free.expected.pool
    between = (free.expected.total + layer.expected.total) / 2e9
    assert plan(between).merge == "layer"
    assert plan(between).expected == layer.expected
    with pytest.raises(UserError, match=r"needs [\d,]+ bytes.*score\.rows"):
        plan(between, merge="tree", rows=6)
    less = (layer.expected.total - 1000) / 1e9
    assert plan(less).merge == "layer"
    assert plan(less).rows < drawn.WINDOWS
    with pytest.raises(UserError, match=r"and 1,000 may be used"):
        plan(1e-6, merge="layer", rows=2)


def test_the_plan_counts_what_the_process_holds(no_runtime):
    """With two calls in flight, whose temporaries are there at once."""
    evaluator = drawn.evaluator()
    expected = evaluator.plan(drawn.ROWS).expected
    (program,) = evaluator.lowered(drawn.ROWS)
    report = program.compile().memory_analysis()
    stack = drawn.stack()
    pool = sum(x.nbytes for x in jax.tree.leaves((stack.base, stack.delta_C)))
    assert expected.pool == pool
    assert expected.temporaries == 2 * report.temp_size_in_bytes
    assert expected.outputs == 2 * report.output_size_in_bytes
    weights = 8 * (3 + 1) * 4 + 8
    assert expected.arguments == (report.argument_size_in_bytes - pool - weights)


@pytest.mark.parametrize("merge", ["tree", "layer"])
def test_merges_are_counted_in_bytes(merge):
    """One after the other, a mixture reads the pool for itself."""
    plan = drawn.evaluator(merge=merge, rows=2, chunk=4).plan(drawn.ROWS)
    pool, merged = plan.expected.pool, 4 * drawn.MODEL.parameter_count()
    merges = 4 * (3 if merge == "layer" else 1)  # three blocks of two windows
    assert plan.work.merge_bytes == merges * (pool + 2 * merged)
    tokens = drawn.WINDOWS * drawn.LENGTH
    assert plan.work.flops == drawn.MODEL.forward_flops(4 * tokens, drawn.LENGTH)
    assert 0 < plan.work.share < 1


def test_the_plan_is_told_once(capsys):
    evaluator = drawn.evaluator()
    for _ in range(2):
        evaluator.score(drawn.table(2), drawn.ROWS)
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("plan: ")]
    assert len(lines) == 2
    assert "merged whole from float32 differences" in lines[0]
    assert "% of the time" in lines[1]


@pytest.mark.parametrize(
    ("settings", "platform", "expected"),
    [
        ({}, "cuda 12090", ("bfloat16", "cudnn")),
        ({"precision": "float32"}, "cuda 12090", ("float32", "xla")),
        ({"attention": "xla"}, "cuda 12090", ("bfloat16", "xla")),
        ({}, "rocm 6", ("bfloat16", "xla")),
    ],
    ids=["defaults", "float32", "set", "amd"],
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


def test_fewer_mixtures_before_single_layers_on_an_accelerator():
    tried = list(shapes(ScoreConfig(), 1024, on_cpu=False))
    assert [s.merge for s in tried[:8]] == ["tree"] * 4 + ["layer"] * 4
    assert [s.mixtures(2**16) for s in tried[:4]] == [8, 4, 2, 1]
    assert tried[-1].rows == 1
    assert tried[-1].mixtures(2**16) == 1
