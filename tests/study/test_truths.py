"""Which ratios are trained, and truths that a user brings."""

import dataclasses

import numpy as np
import pytest

from jaxsim.config import RecipeConfig, ValidateConfig
from jaxsim.errors import UserError
from jaxsim.study.truths import (
    ratio_table,
    read_truths,
    repeat_runs,
    truth_runs,
)
from jaxsim.train import member_run

MEMBERS = ("a", "b", "c", "d")
RECIPE = RecipeConfig(steps=10)
CONFIG = ValidateConfig(truths=12, repeats=3, member_repeats=2)


def changed(**values) -> ValidateConfig:
    return dataclasses.replace(CONFIG, **values)


def test_truths_are_a_function_of_their_rng():
    one = truth_runs(MEMBERS, CONFIG, RECIPE)
    assert one == truth_runs(MEMBERS, CONFIG, RECIPE)
    other = truth_runs(MEMBERS, changed(rng=1), RECIPE)
    assert {run.name for run in one} != {run.name for run in other}
    more = truth_runs(MEMBERS, changed(truths=14), RECIPE)
    assert more[:12] == one


@pytest.mark.parametrize("concentration", [4.0, 0.05])
def test_truths_are_mixtures(concentration):
    """Never singles: at horizon 1 those are members again."""
    runs = truth_runs(MEMBERS, changed(concentration=concentration), RECIPE)
    assert len({run.name for run in runs}) == 12
    for run in runs:
        assert len(run.ratio) >= 2
        assert min(run.ratio.values()) > 0
        assert sum(run.ratio.values()) == pytest.approx(1, abs=1e-12)
        assert run.steps == 10
    # About half have equal weights; there are 11 such, and none twice.
    even = [len(set(run.ratio.values())) == 1 for run in runs]
    assert 4 <= sum(even) <= 8


def test_horizon_and_sum_budget():
    runs = truth_runs(MEMBERS, changed(horizon=2.5), RECIPE)
    assert {run.steps for run in runs} == {25}
    runs = truth_runs(MEMBERS, changed(truths=8, budget="sum"), RECIPE)
    for run in runs:
        assert set(run.ratio.values()) == {1 / len(run.ratio)}
        assert run.steps == 10 * len(run.ratio)


def test_more_truths_than_there_are_ratios():
    with pytest.raises(UserError, match=r"truths=12: this pool of 2 members"):
        truth_runs(MEMBERS[:2], changed(budget="sum"), RECIPE)
    with pytest.raises(UserError, match="at least two members"):
        truth_runs(MEMBERS[:1], CONFIG, RECIPE)


def test_repeats_are_truths_first():
    truths = truth_runs(MEMBERS, CONFIG, RECIPE)
    members = [member_run(name, RECIPE) for name in MEMBERS]
    repeats = repeat_runs(truths, members, CONFIG)
    chosen = [*truths[:3], *members[:2]]
    for run, repeat in zip(chosen, repeats, strict=True):
        assert repeat.name == f"{run.name}.order1"
        assert (repeat.kind, repeat.order) == ("repeat", 1)
        assert (repeat.ratio, repeat.steps) == (run.ratio, run.steps)


def test_ratios_as_mixtures():
    runs = truth_runs(MEMBERS, CONFIG, RECIPE)
    table = ratio_table(MEMBERS, runs)
    assert table.names == tuple(run.name for run in runs)
    for m, run in enumerate(runs):
        assert table.parts(m) == run.ratio


RATIOS = "name,a,b\nx,0.5,0.5\ny,1,0\n"


@pytest.fixture
def files(tmp_path):
    def write(metrics, ratios=RATIOS):
        for name, text in (("ratios", ratios), ("metrics", metrics)):
            (tmp_path / f"{name}.csv").write_text(text)
        return read_truths(
            tmp_path / "ratios.csv", tmp_path / "metrics.csv", MEMBERS,
            ("inside", "outside"),
        )  # fmt: skip

    return write


def test_truths_of_a_user(files):
    table, bits_MD = files("name,outside\ny,1.5\nx,1.25\nunused,9\n")
    assert table.names == ("x", "y")
    np.testing.assert_array_equal(bits_MD, [[np.nan, 1.25], [np.nan, 1.5]])


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ("name,elsewhere\nx,1\ny,1\n", "'elsewhere' is not a domain; .*inside"),
        ("name,outside\nx,1\n", "no row for 'y' of .*ratios.csv"),
        ("name,outside\nx,1\ny,nan\n", "row 'y', column outside: nan is not"),
        ("name,outside\nx,1\ny,one\n", "line 3, column outside: 'one' is not"),
        ("name,outside\nx,1\ny,1\nx,2\n", "a name is used twice"),
        ("name\nx\ny\n", "no column is a domain"),
    ],
)
def test_bad_metrics_are_refused(files, metrics, sentence):
    with pytest.raises(UserError, match=sentence):
        files(metrics)


def test_bad_ratios_are_refused(files):
    with pytest.raises(UserError, match=r"'x': the weights sum to 0\.97"):
        files("name,outside\nx,1\n", "name,a,b\nx,0.5,0.47\n")
