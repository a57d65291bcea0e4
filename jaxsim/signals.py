"""SIGTERM requests a last checkpoint; a watchdog ends a hung process.

A second SIGTERM ends the process at once. Slurm sends two when it preempts a job, one
of them through srun, so signals within a few seconds count as one request.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from jaxsim.errors import HungError

SAME_REQUEST = 5.0  # seconds
GRACE = 3.0  # seconds

_requested = -float("inf")  # monotonic time of the last request


def interrupt_on_sigterm() -> None:
    """Makes SIGTERM act like Ctrl-C, so that locks are released."""

    def handle(number: int, frame: FrameType | None) -> None:
        if not _is_same_request():
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, handle)


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Yields a flag; inside, the first SIGTERM only sets it.

    Signals reach only the main thread. In other threads the flag stays unset.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if _is_same_request():
            return
        if requested.is_set():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        requested.set()

    global _requested
    _requested = -float("inf")  # requests of an earlier run are over
    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield requested.is_set
    finally:
        signal.signal(signal.SIGTERM, previous)


def _is_same_request() -> bool:
    """Records a SIGTERM; true if it belongs to the last request."""
    global _requested
    now = time.monotonic()
    if now - _requested <= SAME_REQUEST:
        return True
    _requested = now
    return False


@contextlib.contextmanager
def watchdog(limit: float, label: str) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of each finished step.

    After `limit` seconds without a call (0: never; four times as long for the first
    step, which compiles) it prints the last finished step and the stacks of all
    threads and exits with code 5. Nothing else can interrupt a step that waits for
    another process.
    """
    beat = threading.Event()
    ended = threading.Event()
    last = "none"

    def finished(step: int) -> None:
        nonlocal last
        last = str(step)
        beat.set()

    def watch() -> None:
        allowed = 4 * limit
        while beat.wait(allowed):
            beat.clear()
            if ended.is_set():
                return
            allowed = limit
        print(
            f"jaxsim: {label}: no step was finished in {allowed:g} s "
            f"(config.train.step_limit), the last one was {last}; this process "
            "gives up. Rerun the same command to continue. Its threads:",
            file=sys.stderr,
            flush=True,
        )
        faulthandler.dump_traceback(2, all_threads=True)
        # Other processes of the group say where they hang, before this one is gone.
        time.sleep(GRACE)
        os._exit(HungError.exit_code)

    if not limit:
        yield finished
        return
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield finished
    finally:
        ended.set()
        beat.set()
        thread.join()
