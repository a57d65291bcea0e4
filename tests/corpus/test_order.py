"""The order of data: exact shares, and the same batches after a resume."""

from fractions import Fraction

import numpy as np
import pytest

from jaxsim.corpus.order import permutation, schedule, shares
from jaxsim.corpus.store import Unit


def unit(name, rows):
    return Unit(name, name, "g", f"{name}-digest", rows, rows * 8, 1, rows * 8)


A, B, C = unit("a", 5), unit("b", 40), unit("c", 7)
BASE = unit("base", 30)


def pairs(run):
    return [(run.units[u], int(r)) for u, r in zip(run.unit_R, run.row_R, strict=True)]


def test_permutations_never_change():
    # Other values would change the data order of existing pools.
    assert permutation("digest", 0, 0, 8).tolist() == [5, 2, 1, 4, 6, 0, 3, 7]
    for n in (0, 1, 100):
        assert sorted(permutation("d", 1, 2, n)) == list(range(n))


@pytest.mark.parametrize(
    "change", [("other", 0, 0), ("digest", 1, 0), ("digest", 0, 1)]
)
def test_permutation_depends_on_everything(change):
    base = permutation("digest", 0, 0, 50).tolist()
    assert permutation(*change, 50).tolist() != base


def test_shares_are_exact():
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights = rng.dirichlet(np.ones(7)) * (rng.random(7) > 0.3)
        if not weights.sum():
            continue
        total = int(rng.integers(0, 500))
        given = shares(weights, total)
        assert given.sum() == total
        assert (given[weights == 0] == 0).all()
        whole = sum(map(Fraction, weights.tolist()))
        for w, n in zip(weights.tolist(), given.tolist(), strict=True):
            assert abs(Fraction(w) * total / whole - n) < 1
    assert shares([1, 1, 1], 8).tolist() == [3, 3, 2]
    assert shares([0, 1, 1], 3).tolist() == [0, 2, 1]
    assert shares([0.5, 0.3, 0.2], 10).tolist() == [5, 3, 2]
    for bad in ([0.0, 0.0], [1.0, -0.1]):
        with pytest.raises(ValueError, match="non-negative"):
            shares(bad, 3)


def test_each_unit_gives_the_first_rows_of_its_permutations():
    run = schedule([A, B, C], [0.5, 0.5, 0], 24, data_seed=3)
    assert run.units == ("a", "b", "c")
    for u in (A, B):
        given = [row for name, row in pairs(run) if name == u.name]
        epochs = [permutation(u.digest, 3, e, u.rows) for e in range(3)]
        assert given == np.concatenate(epochs)[:12].tolist()
    assert run.unique_rows == 5 + 12
    assert run.epochs == {"a": 12 / 5, "b": 12 / 40, "c": 0.0}
    # Interleaved, not one unit after the other.
    assert np.abs(np.diff(run.unit_R)).sum() > 4


def test_a_schedule_depends_only_on_units_with_weight():
    run = schedule([A, B, C], [0.25, 0.75, 0], 24, data_seed=1)
    assert pairs(run) == pairs(schedule([B, A], [0.75, 0.25], 24, data_seed=1))
    assert pairs(run) != pairs(schedule([A, B], [0.25, 0.75], 24, data_seed=2))
    member = schedule([A, B, C], [0, 1, 0], 24, data_seed=1)
    assert pairs(member) == pairs(schedule([B], [1.0], 24, data_seed=1))


def test_replay_is_of_base_text():
    run = schedule([A, B], [1, 1], 15, data_seed=0, replay=(BASE, 5))
    assert run.units == ("a", "b", "base")
    assert np.bincount(run.unit_R).tolist() == [8, 7, 5]
    plain = schedule([A, B], [1, 1], 20, data_seed=0, replay=(BASE, 0))
    assert pairs(plain) == pairs(schedule([A, B], [1, 1], 20, data_seed=0))
