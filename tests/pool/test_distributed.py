"""Two real processes train one member together, and what can go wrong."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jaxsim.pool import open_pool

from .launched import LIMIT, assert_whole, digests

BOUND = 120  # seconds until one notices that the other is gone


class Together:
    """Starts two processes on one workdir, and follows what they say."""

    def __init__(
        self, command, workdir: Path, *flags: str, **environment: str
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        script = command.root / "tests" / "pool" / "together.py"
        self.said: list[list[str]] = [[], []]
        self.processes = []
        for i in range(2):
            arguments = [str(i), str(port), str(command.config), str(workdir)]
            process = subprocess.Popen(
                [sys.executable, str(script), *arguments, *flags],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=command.environment | environment,
                text=True,
            )
            self.processes.append(process)
        self._threads = [
            threading.Thread(target=self._read, args=(i,)) for i in range(2)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, i: int) -> None:
        for line in self.processes[i].stdout:
            self.said[i].append(line)

    def wait_for(self, text: str) -> None:
        """Until process 0 has said it."""
        end = time.monotonic() + LIMIT
        while not any(text in line for line in self.said[0]):
            assert time.monotonic() < end and self.running(), self.all_said()
            time.sleep(0.01)

    def running(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def codes(self, limit: float = LIMIT) -> list[int]:
        codes = [process.wait(limit) for process in self.processes]
        for thread in self._threads:
            thread.join()
        return codes

    def all_said(self) -> str:
        return "\n---\n".join("".join(lines) for lines in self.said)

    def __enter__(self) -> "Together":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        self.codes()
        for process in self.processes:
            process.stdout.close()


@pytest.fixture(scope="module")
def seeded(command, undisturbed) -> Path:
    """A workdir with a seed and no members; never written to."""
    workdir = command.folder / "seeded"
    shutil.copytree(command.folder / "undisturbed", workdir)
    shutil.rmtree(workdir / "pool" / "members")
    for name in "abc":
        (workdir / "metrics" / f"{name}.jsonl").unlink()
    return workdir


def _train_alone(command, workdir: Path) -> str:
    """One process that has as many devices as two have together."""
    driver = command.root / "tests" / "pool" / "driver.py"
    done = subprocess.run(
        [sys.executable, str(driver), str(command.config), str(workdir)],
        env=command.environment | {"JAX_NUM_CPU_DEVICES": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def want(command, seeded) -> dict[str, str]:
    """Digests of what one process with two devices makes."""
    workdir = command.folder / "two-devices"
    shutil.copytree(seeded, workdir)
    _train_alone(command, workdir)
    return digests(open_pool(workdir))


@pytest.fixture
def workdir(seeded, tmp_path) -> Path:
    return shutil.copytree(seeded, tmp_path / "work")


def test_two_processes_make_what_two_devices_make(command, workdir, want):
    with Together(command, workdir) as both:
        assert both.codes() == [0, 0], both.all_said()
    assert_whole(workdir, want)
    said = "".join(both.said[1])
    assert "member" not in said and "pool" not in said, "process 1 speaks"
    with Together(command, workdir) as again:
        assert again.codes() == [0, 0], again.all_said()
    assert "pool: all 3 runs are there" in "".join(again.said[0])


def test_sigterm_to_one_stops_both_and_one_process_goes_on(
    command, workdir, want
):
    with Together(command, workdir) as both:
        both.wait_for("member b: step 1/")
        both.processes[1].send_signal(signal.SIGTERM)
        assert both.codes() == [4, 4], both.all_said()
    stops = [
        line
        for lines in both.said
        for line in lines
        if "stopped after step" in line
    ]
    assert len(stops) == 2 and stops[0] == stops[1], both.all_said()
    assert "resumed after step" in _train_alone(command, workdir)
    assert_whole(workdir, want)


def test_when_one_is_killed_the_other_ends(command, workdir, want):
    with Together(command, workdir) as both:
        both.wait_for("member b: step 1/")
        both.processes[1].kill()
        code, _ = both.codes(BOUND)
        assert code != 0, both.all_said()
    assert set(open_pool(workdir).names()) <= set(want)
    assert open_pool(workdir).problems() == {}
    _train_alone(command, workdir)
    assert_whole(workdir, want)


def test_when_one_is_stuck_the_other_says_where_and_ends(command, workdir):
    limit = "--config.train.step_limit=20"
    with Together(command, workdir, limit, SLEEPER="1") as both:
        # The sleeper's own watchdog ends it as well.
        assert both.codes() == [5, 5], both.all_said()
    for lines in both.said:
        said = "".join(lines)
        assert "member a: no step was finished in 20 s" in said
        assert "the last one was 1;" in said or "the last one was 2;" in said
        assert "in _loop" in said, "no stacks"
    assert "in sleepy" in "".join(both.said[1])


def test_one_that_is_missing_at_a_meeting_is_named(command, workdir):
    limit = "--config.train.step_limit=5"
    with Together(command, workdir, limit) as both:
        both.wait_for("runs to train")
        os.kill(both.processes[1].pid, signal.SIGSTOP)
        assert both.processes[0].wait(BOUND) == 5, both.all_said()
    assert "missing: process 1." in "".join(both.said[0])


def test_processes_that_do_not_come_together_are_an_error(command, workdir):
    script = f"""
import sys
from jaxsim import distributed
from jaxsim.cli import main
distributed.JOIN = 3
sys.exit(main(["train", "--config={command.config}", "--workdir={workdir}",
    "--coordinator=localhost:1", "--processes=2", "--process=1"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=command.environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 1, done.stderr
    assert "could not join the others at localhost:1 within 3 s" in done.stderr
    assert "process 1 of 2" in done.stderr
    assert "--process of its own" in done.stderr
