"""Shares of the runs, by hand or as the job array of Slurm numbers them."""

import pytest

from jaxsim.errors import UserError
from jaxsim.shard import parse_shard


def _array(task, low, high, count=None):
    values = (task, count or high - low + 1, low, high)
    names = ("ID", "COUNT", "MIN", "MAX")
    return {
        f"SLURM_ARRAY_TASK_{name}": str(value)
        for name, value in zip(names, values, strict=True)
    }


def test_every_share_is_somebodys():
    shares = [parse_shard("slurm", _array(task, 3, 6)) for task in range(3, 7)]
    assert shares == [(0, 4), (1, 4), (2, 4), (3, 4)]
    # One task that is sent again alone does what all of them left.
    assert parse_shard("slurm", _array(5, 5, 5)) == (0, 1)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "use it in a job array"),
        (_array("", 0, 3), "use it in a job array"),
        (_array(1, 1, 7, count=3), "3 tasks numbered from 1 to 7"),
        (_array(0, 0, 6, count=4), r"as in --array=0-3"),
        (_array(9, 0, 3), "numbered from 0 to 3"),
    ],
)
def test_an_array_that_numbers_no_shares_is_refused(environment, message):
    with pytest.raises(UserError, match=message):
        parse_shard("slurm", environment)


def test_the_environment_counts_only_where_it_is_asked_for():
    assert parse_shard("1/2", _array(3, 0, 7)) == (1, 2)
