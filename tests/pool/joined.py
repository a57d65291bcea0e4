"""Two real processes that train together."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .launched import LIMIT, Command

BOUND = 120  # seconds until one notices that the other is gone


class Together:
    """Starts two processes on one workdir, and collects their output.

    `other` gives process 1 its own workdir and config.
    """

    def __init__(
        self,
        command: Command,
        workdir: Path,
        *flags: str,
        does: str = "train",
        fault: str = "",
        other: tuple[Path, Path] | None = None,
        devices: tuple[int, int] = (1, 1),
    ) -> None:
        first = workdir, command.config
        views = first, other or first
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        script = command.root / "tests" / "pool" / "together.py"
        self.said: list[list[str]] = [[], []]
        self.processes = []
        for i, (folder, config) in enumerate(views):
            arguments = [str(i), str(port), does, str(config), str(folder)]
            process = subprocess.Popen(
                [sys.executable, str(script), *arguments, *flags],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=command.environment
                | {"FAULT": fault, "JAX_NUM_CPU_DEVICES": str(devices[i])},
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

    def wait_for(self, text: str, process: int = 0) -> None:
        """Waits until a process has printed a text."""
        self.wait_until(lambda: any(text in x for x in self.said[process]))

    def wait_until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not done():
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


def train_alone(command: Command, workdir: Path, *flags: str) -> str:
    """Trains with one process that has as many devices as two have together."""
    driver = command.root / "tests" / "pool" / "driver.py"
    done = subprocess.run(
        [*(sys.executable, str(driver)), *(str(command.config), str(workdir), *flags)],
        env=command.environment | {"JAX_NUM_CPU_DEVICES": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
