"""Faults of two processes on one run: kills while they save, a full disk, signals.

pytest tests/pool/test_distributed_faults.py --kills 30
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from train import tiny

from jaxsim.pool import open_pool
from jaxsim.pool.lock import holding
from jaxsim.pool.publish import is_published

from .joined import BOUND, Together, train_alone
from .launched import LIMIT, assert_sound, assert_whole

ONE_RUN = "--shard=0/3"  # member a alone
# Where a kill happens, and of whom; later ones find what earlier ones left.
KILLS = [
    ("state", (0, 1)),
    ("attempt", (0, 1)),
    ("manifest", (1,)),
    ("state", (1,)),
    ("state", (0,)),
    ("manifest", (0,)),
    ("attempt", (1,)),
    ("attempt", (0,)),
    ("manifest", (0, 1)),
]
APPEARS = {
    "state": "state/a/*/[24]*",
    "attempt": "pool/members/a/attempt-*",
    "manifest": "pool/members/a/attempt-*",
}


def _killed(command, workdir, place, who, rng) -> str:
    """Kills during a save, or after it and before publishing."""
    pause = "0 manifest pause" if place == "manifest" else ""
    old = set(workdir.glob(APPEARS[place]))
    with Together(command, workdir, ONE_RUN, fault=pause) as both:
        both.wait_until(lambda: set(workdir.glob(APPEARS[place])) - old)
        if pause:
            both.wait_for("paused")
        else:
            time.sleep(rng.uniform(0.0, 0.05))
        for i in who:
            both.processes[i].kill()
        codes = both.codes(BOUND)
    published = (workdir / "pool" / "members" / "a" / "manifest.json").exists()
    assert all(codes) or published, both.all_said()
    return f"{place}, {who} killed: {codes}"


def test_sigkill_during_a_save_does_not_change_the_result(
    command, with_base, want, tmp_path, request
):
    one = {name: want[name] for name in ("base", "a")}
    rng = random.Random(0)
    kills = 1 + request.config.getoption("--kills", 0)
    workdir = None
    for kill in range(kills):
        if workdir is None:
            workdir = tmp_path / str(kill)
            with_base(workdir)
        place, who = KILLS[kill % len(KILLS)]
        where = _killed(command, workdir, place, who, rng)
        print(where)
        assert_sound(workdir, one)
        # A kill that came too late leaves nothing for the next one.
        published = is_published(workdir / "pool" / "members" / "a")
        if kill % 3 < 2 and kill + 1 < kills and not published:
            continue
        # Process 1 does not see the states that are left; process 0 decides.
        with Together(command, workdir, ONE_RUN, fault="1 states blind") as both:
            assert both.codes() == [0, 0], where + both.all_said()
        assert_whole(workdir, one)
        left = [path.name for path in (workdir / "state").iterdir()]
        assert left == [".locks"], where
        workdir = None


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can make a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_both_and_publishes_nothing(
    command, with_base, want, small_disk
):
    with_base(small_disk)
    for place in ("state", "attempt"):
        with Together(command, small_disk, ONE_RUN, fault=f"0 {place} fill") as both:
            assert all(both.codes(BOUND)), both.all_said()
        assert re.search(
            r"jaxsim: .*could not be saved: .* It needs about [\d,]+ bytes and "
            r"[\d,]+ bytes are free; make room",
            "".join(both.said[0]),
        ), both.all_said()
        pool = open_pool(small_disk)
        assert (pool.names(), pool.problems()) == ([], {})
        assert not list(small_disk.glob("pool/members/*/*.json"))
        (small_disk / "filler").unlink()
    assert "member a: resumed after step 4" in train_alone(command, small_disk)
    assert_whole(small_disk, want)
    # Process 1 may still have written while process 0 deleted the attempt.
    assert not list(small_disk.glob("pool/members/*/*-tmp"))


def test_process_0_decides_alone(command, by_two_devices, want, tmp_path):
    """Process 1 has other settings and another workdir."""
    workdir, view = (
        shutil.copytree(by_two_devices[0], tmp_path / name) for name in "ab"
    )
    for name in ("base", "pool", "metrics"):
        shutil.rmtree(workdir / name)
    (view / "corpus" / "corpus.json").unlink()
    (view / "pool" / "pool.json").unlink()
    config = tmp_path / "other.py"
    config.write_text(command.config.read_text().replace("steps=6", "steps=4", 2))
    for what in ("base", "train"):
        flags = (ONE_RUN,) * (what == "train")
        with Together(
            command, workdir, *flags, does=what, other=(view, config)
        ) as both:
            assert both.codes() == [0, 0], both.all_said()
    assert_whole(workdir, {name: want[name] for name in ("base", "a")})


def test_rows_that_both_processes_read_are_counted_once(
    command, by_two_devices, workdir
):
    """Both read all four rows of a batch."""
    with Together(command, workdir, ONE_RUN, "--config.train.model_axis=2") as both:
        assert both.codes() == [0, 0], both.all_said()
    whole, got = (
        tiny.rows_of_metrics(folder / "metrics" / "a.jsonl")
        for folder in (by_two_devices[0], workdir)
    )
    assert [row["step"] for row in got] == [1, 2, 3, 4, 5, 6]
    for key, close in (("loss", 2e-5), ("gradient_norm", 1e-4)):
        np.testing.assert_allclose(
            [row[key] for row in got], [row[key] for row in whole], rtol=close
        )


def test_processes_with_different_numbers_of_devices_are_refused(command, workdir):
    with Together(command, workdir, devices=(1, 3)) as both:
        assert both.codes() == [2, 2], both.all_said()
    for said in map("".join, both.said):
        assert "as many devices as the others: process 0 1, process 1 3" in said


def test_sigterm_ends_both_while_they_wait_for_another_launcher(command, workdir):
    locks = workdir / "state" / ".locks"
    with contextlib.ExitStack() as stack:
        for name in "abc":
            stack.enter_context(holding(locks / name, "it"))
        both = stack.enter_context(Together(command, workdir))
        both.wait_for("waiting for other launchers")
        both.processes[0].send_signal(signal.SIGTERM)
        assert both.codes(BOUND) == [4, 4], both.all_said()


def test_a_second_sigterm_ends_processes_that_do_not_stop(command, workdir):
    with Together(command, workdir, fault="1 step pause") as both:
        both.wait_for("paused", process=1)
        end = time.monotonic() + LIMIT
        for process in both.processes:
            while process.poll() is None and time.monotonic() < end:
                process.send_signal(signal.SIGTERM)
                time.sleep(0.1)
        code, other = both.codes(BOUND)
    assert code == -signal.SIGTERM and other, both.all_said()
