"""`jaxsim` as one of two processes, with short limits.

python together.py PROCESS PORT COMMAND CONFIG WORKDIR [FLAG ...]

$FAULT disturbs one process: `1 step pause` pauses process 1 before its third
step.
"""

import contextlib
import os
import sys
import time
from pathlib import Path
from unittest import mock

from jax._src import compiler
from jax._src.distributed import global_state

from jaxsim import checkpoints, distributed
from jaxsim.cli import main
from jaxsim.pool import build
from jaxsim.train import trainer
from jaxsim.train.program import TrainProgram

# Functions, and before which of their calls the fault happens.
PLACES = {
    "step": (TrainProgram, "__call__", 3),
    "results": (trainer, "to_host", 7),  # after the sums of six steps
    "state": (checkpoints.TrainingCheckpoints, "save", 1),
    "attempt": (checkpoints.ocp, "save", 1),
    "manifest": (build, "publish", 1),
    "states": (checkpoints.TrainingCheckpoints, "latest_step", 1),
}


def pause(_: Path) -> None:
    print("paused", file=sys.stderr, flush=True)
    time.sleep(3600)


def fill(workdir: Path) -> None:
    """Fills the disk of the workdir to the last byte."""
    with (workdir / "filler").open("wb", buffering=0) as file:
        for size in (2**16, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def blind(_: Path) -> bool:
    """The process sees nothing there."""
    return True


ACTIONS = {"pause": pause, "fill": fill, "blind": blind}


def disturb(owner, name, call, action) -> None:
    function, calls = getattr(owner, name), []

    def disturbed(*args, **options):
        calls.append(1)
        if len(calls) == call and action():
            return None
        return function(*args, **options)

    setattr(owner, name, disturbed)


def keep_compiled() -> None:
    """Makes every process keep what it compiles; in JAX only process 0 does.

    The keys of process 1 are its own, so it would compile in every test.
    """
    write = compiler._cache_write

    def kept(*args):
        with mock.patch.object(global_state, "process_id", 0):
            write(*args)

    compiler._cache_write = kept


if __name__ == "__main__":
    keep_compiled()
    distributed.HEARTBEAT, distributed.JOIN, distributed.LEAVE = 20, 300, 5
    process, port, command, config, workdir, *flags = sys.argv[1:]
    if fault := os.environ.get("FAULT"):
        who, place, what = fault.split()
        if who == process:
            disturb(*PLACES[place], lambda: ACTIONS[what](Path(workdir)))
    sys.exit(
        main(
            [
                command,
                f"--config={config}",
                f"--workdir={workdir}",
                "--verbose",
                f"--coordinator=localhost:{port}",
                "--processes=2",
                f"--process={process}",
                *flags,
            ]
        )
    )
