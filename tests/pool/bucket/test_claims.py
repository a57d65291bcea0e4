"""Claims in a bucket: one holder at a time, and the dead are replaced."""

import contextlib
import random
import threading
import time

import pytest

from jaxsim.pool import claims
from jaxsim.pool.bucket.claims import holding
from jaxsim.pool.claims import Busy, Watch


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    monkeypatch.setattr(claims, "STALE", 0.5)
    monkeypatch.setattr(claims, "POLL", 0.05)


def _held(objects, owner, watch=None):
    return holding(objects, "a", "member a", owner, watch)


def _abandon(objects, number):
    """What a launcher that was killed leaves."""
    objects.create(f"claims/a/{number:06}", b"process 7 on there\nother\n")
    objects.write(f"claims/a/{number:06}.beat", b"41")


def test_a_claim_is_held_and_left(objects):
    with _held(objects, "one"):
        with (
            pytest.raises(Busy, match="member a: process"),
            _held(objects, "two", Watch()),
        ):
            pass
        with holding(objects, "b", "member b", "two", None):
            pass
    with _held(objects, "two"):
        # What counts no more is cleared away.
        keys = {k for k in objects.list("claims/a") if ".beat" not in k}
        assert keys == {"000002"}


def test_one_that_lives_is_left_alone(in_memory):
    watch = Watch()
    with _held(in_memory, "one"):
        end = time.monotonic() + 2.0  # four times what makes one stale
        while time.monotonic() < end:
            with pytest.raises(Busy), _held(in_memory, "two", watch):
                pass
            time.sleep(claims.POLL)


def test_one_that_stands_still_is_taken_over(in_memory, capsys):
    _abandon(in_memory, 3)

    def attempt(watch):
        with _held(in_memory, "two", watch):
            assert in_memory.read("claims/a/000004").endswith(b"\ntwo\n")

    begin = time.monotonic()
    claims.patiently(attempt)
    assert time.monotonic() - begin >= claims.STALE
    said = capsys.readouterr().out
    assert "member a: process 7 on there stands still; it is taken" in said


def test_without_a_watch_nobody_is_stale(in_memory):
    _abandon(in_memory, 1)
    for _ in range(3):
        with (
            pytest.raises(Busy, match="process 7 on there"),
            _held(in_memory, "two"),
        ):
            pass


def test_a_workdir_takes_its_own_claim_back_at_once(in_memory):
    _abandon(in_memory, 1)
    with _held(in_memory, "other"):
        assert in_memory.read("claims/a/000002")


def test_a_list_that_was_old_gives_no_second_holder(in_memory, monkeypatch):
    # It saw 000001 alone; meanwhile 000002 was created, left and cleared.
    _abandon(in_memory, 1)
    in_memory.create("claims/a/000001.left", b"")
    old = in_memory.list("claims/a")
    with _held(in_memory, "one"), _held_next(in_memory):
        looks = iter([old])
        now = in_memory.list
        monkeypatch.setattr(
            in_memory, "list", lambda prefix: next(looks, None) or now(prefix)
        )
        with pytest.raises(Busy), _held(in_memory, "two"):
            pass
        assert "000002" not in now("claims/a")


@contextlib.contextmanager
def _held_next(objects):
    """000003, by a launcher that took 000002 over."""
    objects.create("claims/a/000003", b"process 8 on there\nthird\n")
    objects.delete(["claims/a/000002", "claims/a/000002.beat"])
    yield


@pytest.mark.parametrize("rng", range(3))
def test_many_hold_one_after_the_other(in_memory, rng):
    inside, most, done = 0, 0, []
    lock = threading.Lock()

    def work(number):
        nonlocal inside, most

        def attempt(watch):
            nonlocal inside, most
            with _held(in_memory, f"owner{number}", watch):
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(pauses[number])
                with lock:
                    inside -= 1
            done.append(number)

        claims.patiently(attempt)

    pauses = [random.Random(rng).uniform(0, 0.05) for _ in range(6)]
    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == list(range(6))
    assert most == 1
