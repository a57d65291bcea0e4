"""Two launchers on one workdir, from its very beginning.

pytest tests/pool/test_launchers.py --starts 50 --rounds 50
"""

import random
import signal
import time

from jaxsim.cli import main

from .launched import LIMIT, assert_whole, snapshot

MEMBERS = ("a", "b", "c")


def _assert_idempotent(command, workdir, want):
    assert_whole(workdir, want)
    states = workdir / "state"
    assert [path.name for path in states.iterdir()] == [".locks"]
    locks = {path.name for path in (states / ".locks").iterdir()}
    assert locks == {"base", *MEMBERS}
    assert main(["verify", f"--workdir={workdir}"]) == 0
    before = snapshot(workdir)
    assert "pool: 3 runs, nothing to train" in command.finish(workdir)
    assert snapshot(workdir) == before


def test_two_launchers_that_start_together_train_each_member_once(
    command, undisturbed, request
):
    want, _ = undisturbed
    rng = random.Random(0)
    for start in range(request.config.getoption("--starts", 3)):
        workdir = command.folder / f"start{start}"
        offset = rng.uniform(0.0, 1.5)
        first = command.start(workdir)
        time.sleep(offset)
        second = command.start(workdir)
        said = [p.communicate(timeout=LIMIT)[0] for p in (first, second)]
        where = f"start {start}, {offset:.3f} s apart:\n" + "\n".join(said)
        assert (first.returncode, second.returncode) == (0, 0), where
        assert_whole(workdir, want)
        for name in MEMBERS:
            ends = "".join(said).count(f"member {name}: step 6/6")
            assert ends == 1, f"member {name} was trained {ends} times, {where}"
    _assert_idempotent(command, workdir, want)


def test_runs_of_a_killed_launcher_are_trained_by_the_other(command, undisturbed):
    want, _ = undisturbed
    workdir = command.folder / "taken"
    first = command.start(workdir)
    for line in first.stdout:
        if line.startswith("member a: step 1/"):
            break
    second = command.start(workdir)
    for line in first.stdout:
        if line.startswith(("member b: step 1/", "member c: step 1/")):
            break
    first.send_signal(signal.SIGKILL)
    first.communicate()
    said, _ = second.communicate(timeout=LIMIT)
    assert (first.returncode, second.returncode) == (-signal.SIGKILL, 0), said
    held = line.partition(":")[0]
    assert f"{held}: step 6/6" in said
    _assert_idempotent(command, workdir, want)


def test_one_launcher_finishes_when_the_other_is_killed_at_any_moment(
    command, undisturbed, request
):
    want, said = undisturbed
    rng = random.Random(1)
    for n in range(request.config.getoption("--rounds", 1)):
        workdir = command.folder / f"round{n}"
        offset, line = rng.uniform(0.0, 1.5), rng.randrange(len(said))
        delay = rng.uniform(0.0, 0.1)
        both = [command.start(workdir)]
        time.sleep(offset)
        both.append(command.start(workdir))
        rng.shuffle(both)
        victim, other = both
        for _ in range(line):
            victim.stdout.readline()
        time.sleep(delay)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        heard, _ = other.communicate(timeout=LIMIT)
        where = f"round {n}, {offset:.3f} s, line {line}, {delay:.3f} s"
        assert other.returncode == 0, f"{where}:\n{heard}"
        assert_whole(workdir, want)
    _assert_idempotent(command, workdir, want)
