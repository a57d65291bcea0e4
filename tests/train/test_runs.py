"""Runs: their names, their lengths, and their rows."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxsim.config import RecipeConfig
from jaxsim.errors import UserError
from jaxsim.train import Run, member_run, reference_run, replicate_of
from jaxsim.train.runs import batch_of, batches, is_named_right

from . import tiny

RECIPE = RecipeConfig(steps=6, batch=8)


def test_replay_rows_are_an_exact_share_of_base_text(setting):
    recipe = RecipeConfig(steps=6, batch=8, replay=0.25)
    run = reference_run({"a": 2.0, "b": 1.0}, recipe)
    rows = run.schedule(setting.corpus, recipe)
    units = np.array(rows.units)[rows.unit_R]
    counts = {name: int((units == name).sum()) for name in rows.units}
    assert counts == {"a": 24, "b": 12, "base": 12}

    tokens_BL1 = batch_of(setting.corpus, rows, slice(0, 48))
    reader = setting.corpus.rows("base")
    everything = {tuple(row) for row in reader[np.arange(len(reader))]}
    for row, name in zip(tokens_BL1, units, strict=True):
        assert (tuple(row) in everything) == (name == "base")


def test_a_run_without_a_row_of_its_own_is_refused(setting):
    recipe = RecipeConfig(steps=1, batch=5, replay=0.9)
    run = reference_run({"a": 2.0, "b": 1.0}, recipe)
    for use in (run.shares, lambda recipe: run.schedule(setting.corpus, recipe)):
        with pytest.raises(UserError, match=r"recipe\.replay: of the 5 rows of run"):
            use(recipe)


def test_without_replay_no_row_is_base_text(setting):
    rows = member_run("a", RECIPE).schedule(setting.corpus, RECIPE)
    assert rows.units == ("a",) and len(rows.unit_R) == 48


def test_batches_hold_the_scheduled_rows_in_their_order(setting):
    rows = reference_run({"a": 1.0, "c": 1.0}, RECIPE).schedule(setting.corpus, RECIPE)
    tokens_BL1 = batch_of(setting.corpus, rows, slice(8, 16))
    names = [rows.units[unit] for unit in rows.unit_R[8:16]]
    for i, name in enumerate(names):
        r = 8 + i
        want_L1 = setting.corpus.rows(name)[rows.row_R[r : r + 1]][0]
        np.testing.assert_array_equal(tokens_BL1[i], want_L1)
    assert len(set(names)) == 2


@pytest.mark.parametrize(
    ("slots", "spec"),
    [(1, (None, "data")), (1, ()), (4, ("data",)), (4, (None, "data"))],
)
def test_each_device_gets_its_own_rows(setting, slots, spec):
    """For a single run, and for three runs in a program for four."""
    runs = [member_run(unit, RECIPE) for unit in "abc"[: min(3, slots)]]
    schedules = [run.schedule(setting.corpus, RECIPE) for run in runs]
    shape = (slots, 8, setting.corpus.length + 1)
    mesh = tiny.mesh_of(min(2, jax.device_count()), 1)
    sharding = NamedSharding(mesh, PartitionSpec(*spec))
    tokens = jax.ShapeDtypeStruct(shape, np.int32, sharding=sharding)
    got = list(batches(tokens, setting.corpus, schedules, 2, 6, lambda _: None))
    assert [number for number, _ in got] == [3, 4, 5, 6]
    for number, array in got:
        here = slice(8 * (number - 1), 8 * number)
        want = [batch_of(setting.corpus, each, here) for each in schedules]
        want += want[-1:] * (slots - len(runs))
        np.testing.assert_array_equal(array, want)
        assert array.sharding == sharding and array.dtype == np.int32


def test_a_reference_run_is_named_by_its_mixture_and_length():
    run = reference_run({"a": 0.5, "b": 0.5, "c": 0.0}, RECIPE)
    assert run.mixture == {"a": 0.5, "b": 0.5}
    assert run.kind == "reference" and run.steps == 6
    assert reference_run({"b": 0.5, "a": 0.5}, RECIPE).name == run.name
    others = {
        reference_run({"a": 0.5, "b": 0.5}, RECIPE, token_multiplier=2.0).name,
        reference_run({"a": 0.6, "b": 0.4}, RECIPE).name,
        reference_run({"a": 0.5, "c": 0.5}, RECIPE).name,
    }
    assert len(others | {run.name}) == 4


@pytest.mark.parametrize(
    ("token_multiplier", "steps"), [(2.0, 12), (0.5, 3), (0.01, 1)]
)
def test_the_token_multiplier_scales_the_steps_of_a_member(token_multiplier, steps):
    assert reference_run({"a": 1.0}, RECIPE, token_multiplier).steps == steps


def test_members_and_reference_runs_never_share_a_data_seed():
    """Nor do their replicates, and each is what its name says."""
    runs = [member_run("a", RECIPE), reference_run({"a": 1.0, "b": 2.0}, RECIPE)]
    again = [replicate_of(run) for run in runs]
    assert len({run.data_seed for run in (*runs, *again)}) == 4
    for run, other in zip(runs, again, strict=True):
        assert other == Run(
            f"{run.name}.replicate1", "replicate", run.mixture, 6, run.data_seed + 1
        )
    for run in (*runs, *again, replicate_of(runs[1], 2)):
        assert is_named_right(run, 6)
        for seed in {0, 1, 2, 3, 4} - {run.data_seed}:
            assert not is_named_right(dataclasses.replace(run, data_seed=seed), 6)
