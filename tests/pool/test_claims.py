"""Who holds a run, who waits for it, and who takes it over."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxsim.pool import claims
from jaxsim.pool.claims import Busy, Watch, holding, patiently
from jaxsim.pool.publish import is_published

# Holds a claim until it is killed; BEAT and the kernel's name are given. Its
# clock is a day late.
_HOLDER = """
import sys, time
from pathlib import Path
now = time.time
time.time = lambda: now() - 86400
from jaxsim.pool import claims
claims.BEAT = float(sys.argv[2])
if sys.argv[3]:
    claims._kernel = lambda: sys.argv[3]
with claims.holding(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "locks" / "a"


@pytest.fixture
def holder(lock, root):
    """Starts one that holds `lock`, as from this or another machine."""
    children = []

    def start(kernel="", beat=0.02):
        child = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(lock), str(beat), kernel],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(root)},
            text=True,
        )
        children.append(child)
        assert child.stdout.readline() == "held\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()


def _kill(child):
    child.send_signal(signal.SIGKILL)
    child.wait()


class _Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_claim_is_held_and_given_back(lock):
    with holding(lock, "member a"):
        with (
            pytest.raises(Busy, match=f"member a: process {os.getpid()} on "),
            holding(lock, "member a"),
        ):
            pytest.fail("two hold one claim")
        assert [path.name for path in lock.parent.iterdir()] == ["a"]
    assert list(lock.parent.iterdir()) == []
    with holding(lock, "member a"):
        pass


def test_one_that_died_on_this_machine_is_seen_at_once(lock, holder):
    child = holder()
    with (
        pytest.raises(Busy, match=f"process {child.pid} on {platform.node()} "),
        holding(lock, "member a"),
    ):
        pytest.fail("two hold one claim")
    _kill(child)
    with holding(lock, "member a"):
        pass
    assert list(lock.parent.iterdir()) == []


def _look(lock, watch):
    with holding(lock, "member a", watch):
        return True


def test_one_that_died_elsewhere_is_taken_over_in_time(lock, holder):
    clock = _Clock()
    watch = Watch(clock)
    _kill(holder(kernel="another machine"))
    for now in range(0, int(claims.STALE), 2):
        clock.now = float(now)
        with pytest.raises(Busy):
            _look(lock, watch)
    with pytest.raises(Busy):
        _look(lock, None)  # without having watched, nobody can tell
    clock.now = claims.STALE
    assert _look(lock, watch)


def test_one_that_lives_is_left_alone_whatever_its_clock_says(lock, holder):
    clock = _Clock()
    watch = Watch(clock)
    child = holder(kernel="another machine")
    for look in range(int(claims.STALE / claims.POLL / 2) + 2):
        seen = lock.read_text()
        a_day_off = time.time() + (86400 if look % 2 else -86400)
        os.utime(lock, (a_day_off, a_day_off))
        with pytest.raises(Busy):
            _look(lock, watch)
        clock.now += 2 * claims.POLL
        while lock.read_text() == seen:
            assert child.poll() is None
            time.sleep(0.001)


def test_a_waiter_that_did_not_look_has_seen_nothing(lock, holder):
    """A suspended machine, a file system that hung: both stood still."""
    clock = _Clock()
    watch = Watch(clock)
    _kill(holder(kernel="another machine"))
    for _ in range(int(claims.STALE / claims.POLL / 2)):
        with pytest.raises(Busy):
            _look(lock, watch)
        clock.now += 10 * claims.STALE
    assert _look(lock, watch)


def test_of_two_that_take_over_one_holds(lock, holder, monkeypatch):
    """The second one judged the claim that the first one has replaced."""
    _kill(holder(kernel="another machine"))
    old = lock.read_text().split("\n")[1]
    monkeypatch.setattr(Watch, "is_stale", lambda *_: True)
    remove, first = claims._remove, []

    def overtaken(lock, token):
        if not first:
            first.append(holding(lock, "member a", Watch()))
            first[0].__enter__()
        remove(lock, token)

    monkeypatch.setattr(claims, "_remove", overtaken)
    with (
        pytest.raises(Busy, match=f"process {os.getpid()} on "),
        holding(lock, "member a", Watch()),
    ):
        pytest.fail("two hold one claim")
    assert lock.exists() and old not in lock.read_text()
    first[0].__exit__(None, None, None)
    assert list(lock.parent.iterdir()) == []


def test_many_that_start_at_once_are_one_after_the_other(lock, monkeypatch):
    monkeypatch.setattr(claims, "POLL", 0.001)
    inside, most, done = [], [], []

    def work(number):
        def attempt(watch):
            with holding(lock, "member a", watch):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.002)
                inside.remove(number)
            done.append(number)

        patiently(attempt)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == list(range(8)) and max(most) == 1
    assert list(lock.parent.iterdir()) == []


def test_one_that_was_taken_over_gives_nothing_back(lock, monkeypatch):
    monkeypatch.setattr(Watch, "is_stale", lambda *_: True)
    late = holding(lock, "member a")
    late.__enter__()
    with holding(lock, "member a", Watch()):
        late.__exit__(None, None, None)
        assert lock.exists()
    assert not lock.exists()


def test_what_is_claimed_anew_in_the_last_moment_stays(lock, monkeypatch):
    lock.parent.mkdir()
    lock.write_text("process 1 on node1\nold\n\n0\n")
    rename, new = os.rename, "process 2 on node2\nnew\n\n0\n"

    def late(*paths):
        lock.write_text(new)
        rename(*paths)

    monkeypatch.setattr(claims.os, "rename", late)
    claims._remove(lock, "old")
    assert lock.read_text() == new
    assert [path.name for path in lock.parent.iterdir()] == ["a"]


def test_a_file_system_without_links_is_named(lock, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(claims.os, "link", refuse)
    with (
        pytest.raises(claims.JaxsimError, match=r"locks: .*no hard links"),
        holding(lock, "member a"),
    ):
        pytest.fail("it is held")
    assert list(lock.parent.iterdir()) == []


def test_others_runs_come_last_and_are_waited_for(project, monkeypatch, capsys):
    monkeypatch.setattr(claims, "POLL", 0.02)
    pool = project.pool
    (pool.entry("b") / "manifest.json").unlink()
    held, seen = threading.Event(), []

    def other():
        with holding(project.workdir / "training" / ".locks" / "c", "it"):
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
    assert "waiting for others" in said
