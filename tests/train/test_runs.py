"""Runs: their names, their lengths, and the rows they see."""

import numpy as np
import pytest

from jaxsim.config import RecipeConfig
from jaxsim.train import Run, member_run, repeat_of, truth_run
from jaxsim.train.runs import batch_of

RECIPE = RecipeConfig(steps=6, batch=8)


def test_anchor_rows_come_from_the_seed_at_their_exact_share(setting):
    recipe = RecipeConfig(steps=6, batch=8, anchor=0.25)
    run = truth_run({"a": 2.0, "b": 1.0}, recipe)
    rows = run.schedule(setting.corpus, recipe)
    units = np.array(rows.units)[rows.unit_R]
    counts = {name: int((units == name).sum()) for name in rows.units}
    assert counts == {"a": 24, "b": 12, "seed": 12}

    tokens_BL1, names = batch_of(setting.corpus, rows, slice(0, 48))
    assert names == units.tolist()
    reader = setting.corpus.rows("seed")
    everything = {tuple(row) for row in reader[np.arange(len(reader))]}
    for row, name in zip(tokens_BL1, names, strict=True):
        assert (tuple(row) in everything) == (name == "seed")


def test_without_an_anchor_no_row_is_the_seeds(setting):
    rows = member_run("a", RECIPE).schedule(setting.corpus, RECIPE)
    assert rows.units == ("a",) and len(rows) == 48


def test_batches_hold_the_scheduled_rows_in_their_order(setting):
    rows = truth_run({"a": 1.0, "c": 1.0}, RECIPE).schedule(
        setting.corpus, RECIPE
    )
    tokens_BL1, names = batch_of(setting.corpus, rows, slice(8, 16))
    for i, name in enumerate(names):
        r = 8 + i
        assert name == rows.units[rows.unit_R[r]]
        want_L1 = setting.corpus.rows(name)[rows.row_R[r : r + 1]][0]
        np.testing.assert_array_equal(tokens_BL1[i], want_L1)
    assert len(set(names)) == 2


def test_a_truth_is_named_by_its_ratio_and_length():
    run = truth_run({"a": 0.5, "b": 0.5, "c": 0.0}, RECIPE)
    assert run.ratio == {"a": 0.5, "b": 0.5}
    assert run.kind == "truth" and run.steps == 6
    assert truth_run({"b": 0.5, "a": 0.5}, RECIPE).name == run.name
    others = {
        truth_run({"a": 0.5, "b": 0.5}, RECIPE, horizon=2.0).name,
        truth_run({"a": 0.6, "b": 0.4}, RECIPE).name,
        truth_run({"a": 0.5, "c": 0.5}, RECIPE).name,
    }
    assert len(others | {run.name}) == 4


@pytest.mark.parametrize(("horizon", "steps"), [(2.0, 12), (0.5, 3), (0.01, 1)])
def test_the_horizon_is_in_units_of_a_member(horizon, steps):
    assert truth_run({"a": 1.0}, RECIPE, horizon).steps == steps


def test_a_repeat_differs_in_order_name_and_kind_alone():
    run = truth_run({"a": 1.0, "b": 2.0}, RECIPE)
    again = repeat_of(run)
    assert again == Run(f"{run.name}.order1", "repeat", run.ratio, 6, 1)
