"""Losses that are kept: continued, shared, never computed twice or wrong."""

import hashlib
import multiprocessing

import numpy as np
import pytest

from jaxsim.scoring.store import Journal

from . import tiny

WIDTH = 3
RECORD = 32 + 4 * WIDTH + 4


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


def losses(keys):
    return np.array(
        [[ord(key[0]) + i / 8 for i in range(WIDTH)] for key in keys], np.float32
    )


def filled(journal, keys, stop=None):
    """Reads rows and computes the missing ones, two at a time; what was computed.

    Fails before chunk `stop`, as a killed process does.
    """
    digests = [digest(key) for key in keys]
    found, missing = journal.read(digests)
    for start in range(0, len(missing), 2):
        if start // 2 == stop:
            raise KeyboardInterrupt
        some = missing[start : start + 2]
        found[some] = losses([keys[m] for m in some])
        journal.append([digests[m] for m in some], found[some])
    np.testing.assert_array_equal(found, losses(keys))
    return [keys[m] for m in missing]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "kept.log"


@pytest.fixture
def fill(path):
    """Asks for rows, by default as a new process; what was computed."""

    def call(keys, stop=None, journal=None):
        return filled(journal or Journal(path, WIDTH), keys, stop)

    return call


def test_a_killed_run_continues(fill):
    keys = list("abcdefg")
    with pytest.raises(KeyboardInterrupt):
        fill(keys, stop=2)
    assert fill(keys) == list("efg")
    assert fill(keys) == []


def test_all_that_ask_for_the_same_share_it(fill):
    assert fill(list("abc")) == list("abc")
    assert fill(list("cxab")) == ["x"]
    assert fill(list("ba")) == []
    assert fill(list("abcxy")) == ["y"]


def test_one_that_stays_open_sees_what_others_append(fill, path):
    journal = Journal(path, WIDTH)
    assert fill(list("ab"), journal=journal) == list("ab")
    fill(list("cd"))
    assert fill(list("abcd"), journal=journal) == []
    path.unlink()
    assert fill(list("bad"), journal=journal) == list("bad")
    assert fill(list("abd"), journal=journal) == []


@pytest.mark.parametrize("cut", [1, 16, RECORD - 1, RECORD, 2 * RECORD + 1])
def test_a_torn_tail_is_computed_again(fill, path, cut):
    """And what is appended after it is found."""
    fill(list("abcd"))
    path.write_bytes(path.read_bytes()[:-cut])
    lost = -(-cut // RECORD)
    assert fill(list("abcd")) == list("abcd")[-lost:]
    assert fill(list("abcd")) == []


@pytest.mark.parametrize("at", range(0, 3 * RECORD, 5))
def test_a_flipped_bit_is_computed_again(fill, path, at):
    """In a key, a value or a check: only that row."""
    fill(list("abc"))
    tiny.flip(path, at / (3 * RECORD) + 1e-9)
    assert fill(list("cab")) == ["abc"[at // RECORD]]
    assert fill(list("abc")) == []


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 500, b"\xff" * 3 * RECORD])
def test_a_file_of_something_else_is_computed_again(fill, path, data):
    path.parent.mkdir()
    path.write_bytes(data)
    assert fill(list("abc")) == list("abc")
    assert fill(list("abc")) == []


def test_records_of_another_width_do_not_count(path, fill):
    fill(list("abcdefgh"))
    wide, keys = Journal(path, 2 * WIDTH), [digest("a"), digest("b")]
    assert wide.read(keys)[1].tolist() == [0, 1]
    wide.append(keys, np.ones((2, 2 * WIDTH)))
    found, missing = wide.read(keys)
    np.testing.assert_array_equal(found, 1)
    assert not len(missing)


def append_many(path, letters):
    journal = Journal(path, WIDTH)
    for i in range(100):
        filled(journal, [f"{letter}{i}" for letter in letters])


def test_several_processes_append_to_one_file(path, fill):
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=append_many, args=(path, letters))
        for letters in ("abc", "xyz", "pqrst")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert path.stat().st_size == 11 * 100 * RECORD
    assert fill([f"{c}{i}" for c in "abcxyzpqrst" for i in range(100)]) == []


def test_a_file_put_in_the_place_of_another(fill, path):
    """No row takes the values of another one."""
    journal = Journal(path, WIDTH)
    for _ in range(2):  # the second time it notes where they are
        fill(list("ab"), journal=journal)
    path.unlink()
    assert fill(list("ba")) == list("ba")
    filled(journal, list("ab"))
