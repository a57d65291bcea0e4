"""Vectorized runs: each is what it would be alone; how many fit."""

import dataclasses
import itertools
import re
import sys
import time
import types

import jax
import numpy as np
import pytest
from hlo import device_groups

from jaxsim.errors import Preempted, UserError
from jaxsim.model import Execution
from jaxsim.pool.digests import params_digest
from jaxsim.train import NonFiniteError, Run, member_run, recipe_trainer, replicate_of
from jaxsim.train.program import planned

from . import tiny

needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


@pytest.fixture(scope="module")
def runs(setting) -> list[Run]:
    return [member_run(unit, setting.config.recipe) for unit in "abc"]


def _train(setting, runs, folder, trainer=None, **options):
    return (trainer or setting.trainer).train(
        runs,
        setting.corpus,
        setting.start,
        folder / "scratch",
        [folder / f"{run.name}.jsonl" for run in runs],
        **options,
    )


def _losses(folder, run):
    rows = tiny.rows_of_metrics(folder / f"{run.name}.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def timed(setting, runs, tmp_path_factory):
    """The results of three vectorized runs, their folder, and the seconds they took."""
    folder = tmp_path_factory.mktemp("group")
    begin = time.monotonic()
    outcomes = _train(setting, runs, folder)
    return outcomes, folder, time.monotonic() - begin


@pytest.fixture(scope="module")
def vectorized(timed):
    return timed[:2]


def test_a_vectorized_run_equals_the_single_run(setting, trained, runs, vectorized):
    """Sums are added in another order: float32, at a loss of 5."""
    outcomes, folder = vectorized
    alone = tiny.rows_of_metrics(trained[1] / "metrics.jsonl")
    np.testing.assert_allclose(
        _losses(folder, runs[0]), [row["loss"] for row in alone], rtol=2e-5
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5, rtol=0),
        outcomes[0].params,
        trained[0].params,
    )
    others = {params_digest(outcome.params) for outcome in outcomes}
    assert len(others) == 3, "vectorized runs were given the same rows"
    assert outcomes[0].tokens == trained[0].tokens
    assert outcomes[0].flops == trained[0].flops


def test_a_vectorized_run_is_closer_to_the_single_run_than_a_replicate(
    setting, trained, vectorized, tmp_path
):
    """The difference is below a tenth of the replicate noise."""
    replicate = setting.train(tmp_path, replicate_of(setting.run))
    rows_BL1 = setting.corpus.rows("b")[np.arange(8)]  # not trained on

    def loss(params):
        nll_BL = setting.model.token_nll(params, rows_BL1, Execution())
        return float(np.mean(nll_BL))

    alone = loss(trained[0].params)
    noise = abs(loss(replicate.params) - alone)
    assert noise > 1e-5
    assert abs(loss(vectorized[0][0].params) - alone) < noise / 10


def test_other_runs_and_padding_change_no_bit(setting, runs, vectorized, tmp_path):
    whole = [params_digest(outcome.params) for outcome in vectorized[0]]
    again = _train(setting, runs[:2], tmp_path, slots=3)
    assert [params_digest(outcome.params) for outcome in again] == whole[:2]


def test_stopped_vectorized_runs_resume_bit_for_bit(
    setting, runs, vectorized, tmp_path
):
    asked = iter([False, False, True])
    with pytest.raises(Preempted, match=r"3 runs \(a, b, c\): stopped after s"):
        _train(setting, runs, tmp_path, stop=lambda: next(asked))
    outcomes = _train(setting, runs, tmp_path)
    for run, outcome, whole in zip(runs, outcomes, vectorized[0], strict=True):
        assert params_digest(outcome.params) == params_digest(whole.params)
        assert _losses(tmp_path, run) == _losses(vectorized[1], run)


def test_the_cost_is_divided_among_vectorized_runs(timed):
    outcomes, folder, took = timed
    rows = tiny.rows_of_metrics(folder / "a.jsonl")
    total = sum(outcome.wall_seconds for outcome in outcomes)
    assert rows[-1]["seconds"] <= total <= took
    assert outcomes[0].device_seconds == outcomes[0].wall_seconds
    for before, row in itertools.pairwise(rows):
        seconds = row["seconds"] - before["seconds"]
        tokens = row["tokens_per_second"] * seconds
        assert tokens == pytest.approx(8 * 32), "of one run, 8 rows"


def test_a_run_that_diverges_is_named_and_the_others_continue(
    setting, runs, vectorized, tmp_path
):
    with pytest.raises(Preempted):
        _train(setting, runs, tmp_path, stop=tiny.stop_after(2))
    tiny.poison(tmp_path / "scratch", setting.trainer.program(3), member=1)
    with pytest.raises(Preempted):  # saved after the run failed
        _train(setting, runs, tmp_path, stop=tiny.stop_after(2))
    a, b, c = _train(setting, runs, tmp_path)
    assert isinstance(b, NonFiniteError)
    assert re.search(
        r"member b: .* at step 3, on rows of b; leaf final_norm/scale", str(b)
    )
    assert _losses(tmp_path, runs[1])[2:] == [None]
    for outcome, whole in zip((a, c), vectorized[0][::2], strict=True):
        assert params_digest(outcome.params) == params_digest(whole.params)


@needs_eight
@pytest.mark.parametrize(
    ("shape", "data_axis", "accumulate"),
    [
        ((4, 1, 1), -1, 1),
        ((2, 2, 1), 2, 2),
        ((2, 1, 2), -1, 1),
        ((1, 2, 2), 2, 1),
        ((2, 2, 2), 2, 2),
    ],
)
def test_sharded_runs_train_together_and_exchange_nothing(
    setting, runs, vectorized, tmp_path, shape, data_axis, accumulate
):
    """Three runs in a program for four, on any mesh."""
    changes = {"accumulate": accumulate, "data_axis": data_axis, "loss_chunk": 8}
    config = tiny.changed(setting.config, "train", **changes)
    run, data, model = shape
    trainer = recipe_trainer(setting.model, config, tiny.mesh_of(run * data, model))
    program = trainer.program(4)
    assert tuple(program.mesh.shape.values()) == shape
    groups = device_groups(program.compiled.as_text())
    assert bool(groups) == (data * model > 1)
    for joined in itertools.chain.from_iterable(groups):
        assert len({device // (data * model) for device in joined}) == 1, joined

    outcomes = _train(setting, runs, tmp_path, trainer, slots=4)
    for one, outcome, whole in zip(runs, outcomes, vectorized[0], strict=True):
        np.testing.assert_allclose(
            _losses(tmp_path, one), _losses(vectorized[1], one), rtol=2e-5
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5, rtol=0),
            outcome.params,
            whole.params,
        )
        assert outcome.flops == whole.flops
        assert outcome.device_seconds == program.mesh.size * outcome.wall_seconds


@needs_eight
def test_a_batch_has_fewer_pieces_on_more_devices(setting, monkeypatch):
    """A run alone is divided over all four devices, two rows on each."""
    config = tiny.changed(setting.config, "train", accumulate=4)
    trainer = recipe_trainer(setting.model, config, tiny.mesh_of(4))
    trainer_module = "jaxsim.train.trainer.TrainProgram"
    monkeypatch.setattr(trainer_module, lambda step, *_: step.accumulate)
    assert [trainer.program(runs) for runs in (4, 1)] == [4, 2]


def test_one_of_several_processes_does_not_plan(setting, monkeypatch):
    trainer = recipe_trainer(setting.model, setting.config, tiny.mesh_of())
    monkeypatch.setattr("jaxsim.train.trainer.alone", lambda: False)
    assert trainer.at_once(12) == 1
    config = tiny.changed(setting.config, "train", parallel_runs=2)
    assert recipe_trainer(setting.model, config, tiny.mesh_of()).at_once(12) == 2


@needs_eight
@pytest.mark.parametrize(
    ("runs", "slots"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 16)]
)
def test_slots_fill_the_devices(setting, runs, slots):
    trainer = recipe_trainer(setting.model, setting.config, tiny.mesh_of(8))
    assert trainer.slots(runs) == slots


def test_a_cpu_trains_one_run_at_a_time(setting):
    assert setting.trainer.at_once(12) == 1
    config = tiny.changed(setting.config, "train", parallel_runs=4)
    trainer = recipe_trainer(setting.model, config, tiny.mesh_of())
    assert trainer.at_once(12) == 4


@dataclasses.dataclass
class Compiler:
    """A fake of an accelerator's programs; counts compilations."""

    base: int
    each: int  # bytes of each run
    devices: int = 1
    most: int = 10**9  # runs of a device; it refuses more
    compiled: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, runs: int):
        self.compiled.append(runs)
        assert runs % self.devices == 0

        def needed() -> int:
            if runs // self.devices > self.most:
                return sys.maxsize
            return self.base + self.each * runs // self.devices

        return types.SimpleNamespace(needed=needed)


def mesh(devices: int, limit: int = 1000, platform: str = "gpu"):
    stub = types.SimpleNamespace(
        platform=platform, memory_stats=lambda: {"bytes_limit": limit * 10 // 8}
    )
    return types.SimpleNamespace(
        devices=np.array([stub] * devices), shape={"run": devices}
    )


@pytest.mark.parametrize(
    ("runs", "devices", "base", "each", "want"),
    [
        (40, 1, 0, 100, 10),  # as many as fit
        (40, 1, 400, 100, 3),  # estimated from two runs, not searched
        (4, 1, 0, 100, 4),  # all runs
        (40, 4, 0, 200, 20),
        (40, 1, 0, 600, 1),  # two do not fit
        (3, 4, 0, 10, 1),  # a device would be idle
        (9, 4, 0, 10, 12),  # the same number on each device
    ],
)
def test_as_many_runs_are_planned_as_fit(runs, devices, base, each, want):
    compiler = Compiler(base, each, devices)
    assert planned(runs, mesh(devices), compiler) == want
    assert len(compiler.compiled) <= 4


def test_a_program_that_the_compiler_refuses_is_too_large():
    assert planned(40, mesh(1), Compiler(0, 10, most=7)) == 5  # halved
    assert planned(40, mesh(1), Compiler(0, 10, most=1)) == 1


def test_nothing_is_compiled_if_runs_are_trained_one_at_a_time():
    for where in (mesh(1, platform="cpu"), mesh(1, limit=0)):
        compiler = Compiler(0, 10)
        assert planned(40, where, compiler) == 1
        assert compiler.compiled == []


def test_a_run_that_does_not_fit_says_what_would(setting, runs, monkeypatch):
    """With a report of the compiler that is made up."""
    config = tiny.changed(setting.config, "recipe", batch=24)
    trainer = recipe_trainer(setting.model, config, tiny.mesh_of())
    needs, tried = {1: 900, 2: 600, 4: 450, 8: 400}, []

    def program(runs, accumulate):
        tried.append((runs, accumulate))
        return types.SimpleNamespace(
            runs=runs, mesh=tiny.mesh_of(), needed=lambda: needs[accumulate]
        )

    def train(free, *names):
        monkeypatch.setattr("jaxsim.train.trainer.free_memory", lambda *_, **__: free)
        chosen = [run for run in runs if run.name in names]
        trainer._programs.clear()
        trainer.train(chosen, setting.corpus, None, None, [None] * len(chosen))

    monkeypatch.setattr(trainer, "_program", program)
    with pytest.raises(
        UserError,
        match=r"^member a: a train step needs 900 bytes of each device, and 500 are "
        r"free; config.train.accumulate=4 would fit$",
    ):
        train(500, "a")
    assert tried == [(1, 1), (1, 2), (1, 4)]
    with pytest.raises(UserError, match=r"config.train.remat='full' if it is not"):
        train(399, "a")
    needs[1] = sys.maxsize
    with pytest.raises(UserError, match=r"a, b\): .* more memory .*parallel_runs"):
        train(500, "a", "b")
