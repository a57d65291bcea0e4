"""Locks of runs: who holds one, and who waits."""

import errno
import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxsim.pool import lock as locking
from jaxsim.pool.lock import Busy, holding, wait_for_others
from jaxsim.pool.publish import is_published

# Holds a lock until it is killed.
_HOLDER = """
import sys, time
from pathlib import Path
from jaxsim.pool.lock import holding
with holding(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "locks" / "a"


def test_a_lock_is_held_by_one_and_released(lock):
    with (
        holding(lock, "member a"),
        pytest.raises(Busy, match=f"member a: process {os.getpid()} on "),
        holding(lock, "member a"),
    ):
        pytest.fail("two hold one lock")
    with holding(lock, "member a"):
        pass
    assert [path.name for path in lock.parent.iterdir()] == ["a"]


def test_a_lock_is_released_when_its_holder_is_killed(lock, root):
    child = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(lock)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(root)},
        text=True,
    )
    try:
        assert child.stdout.readline() == "held\n"
        with (
            pytest.raises(Busy, match=f"process {child.pid} on {platform.node()} "),
            holding(lock, "member a"),
        ):
            pytest.fail("two hold one lock")
        child.send_signal(signal.SIGKILL)
        child.wait()
        with holding(lock, "member a"):
            pass
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_threads_that_start_together_hold_a_lock_in_turn(lock, monkeypatch):
    monkeypatch.setattr(locking, "POLL", 0.001)
    inside, most, done = [], [], []

    def work(number):
        def attempt():
            with holding(lock, "member a"):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.002)
                inside.remove(number)
            done.append(number)

        wait_for_others(attempt)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(8)) and max(most) == 1


def test_a_file_system_without_locks_is_named_once(lock, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(locking.fcntl, "flock", refuse)
    for name in "ab":
        with holding(lock.with_name(name), name):
            pass
    said = capsys.readouterr().out
    assert said.count("this file system has no locks (Function not impl") == 1
    assert "another --shard" in said


def test_runs_that_others_hold_are_waited_for_last(project, monkeypatch, capsys):
    monkeypatch.setattr(locking, "POLL", 0.02)
    pool = project.pool
    (pool.entry("b") / "manifest.json").unlink()
    held, seen = threading.Event(), []

    def other():
        with holding(project.workdir / "state" / ".locks" / "c", "it"):
            held.set()
            while not is_published(pool.entry("b")):
                time.sleep(0.01)
            time.sleep(0.2)
            seen.extend(pool.names())

    thread = threading.Thread(target=other)
    thread.start()
    held.wait()
    project.train("a", "c", "b")
    thread.join()
    assert seen == ["a", "b"]
    assert pool.names() == ["a", "b", "c"]
    said = capsys.readouterr().out
    assert said.count(f"member c: process {os.getpid()} on ") == 1
    assert "waiting for other launchers" in said
