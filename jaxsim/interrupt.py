"""SIGTERM asks for a last commit; a later one ends the process at once.

Slurm sends two at once when it preempts a job, one of them through srun: what
follows within a few seconds is the same request.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

SAME_REQUEST = 5.0  # seconds

_requested = -float("inf")  # when the last request began, monotonic


def interrupt_on_sigterm() -> None:
    """From now on SIGTERM is a Ctrl-C: what is held is given back."""

    def handle(number: int, frame: FrameType | None) -> None:
        if not _is_repeated():
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, handle)


@contextlib.contextmanager
def stop_requested() -> Iterator[Callable[[], bool]]:
    """Inside, the first SIGTERM only sets the flag that is yielded.

    Signals reach the main thread only; elsewhere (a notebook's worker) the
    flag stays down and the default action stands.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if _is_repeated():
            return
        if requested.is_set():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        requested.set()

    global _requested
    _requested = -float("inf")  # what was asked of the run before is over
    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield requested.is_set
    finally:
        signal.signal(signal.SIGTERM, previous)


def _is_repeated() -> bool:
    """Notes a SIGTERM; is it the same request as the one before?"""
    global _requested
    now = time.monotonic()
    if now - _requested <= SAME_REQUEST:
        return True
    _requested = now
    return False
