"""SIGTERM asks for a last commit; a watchdog ends what hangs.

A second SIGTERM ends the process at once. Slurm sends two together when it
preempts a job, one of them through srun, so those that follow within a few
seconds count as one request.
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

_requested = -float("inf")  # when the last request began, monotonic


def interrupt_on_sigterm() -> None:
    """Makes SIGTERM a Ctrl-C: locks are released on the way out."""

    def handle(number: int, frame: FrameType | None) -> None:
        if not _is_replicated():
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, handle)


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Yields a flag; inside, the first SIGTERM does no more than set it.

    Signals reach only the main thread. In others (a notebook's worker) the
    flag stays unset and SIGTERM keeps its default action.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if _is_replicated():
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


def _is_replicated() -> bool:
    """Records a SIGTERM; true if it belongs to the request before it."""
    global _requested
    now = time.monotonic()
    if now - _requested <= SAME_REQUEST:
        return True
    _requested = now
    return False


@contextlib.contextmanager
def watchdog(limit: float, label: str) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of each finished step.

    After `limit` seconds without a call (0: never; four times as many for the
    first step, which compiles) it prints the stacks of all threads and the last
    finished step, and ends the process with exit code 5. A step that waits for
    another process cannot be interrupted in any other way.
    """
    beaten = threading.Event()
    ended = threading.Event()
    last = "none"

    def finished(step: int) -> None:
        nonlocal last
        last = str(step)
        beaten.set()

    def watch() -> None:
        allowed = 4 * limit
        while beaten.wait(allowed):
            beaten.clear()
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
        beaten.set()
        thread.join()
