"""SIGTERM asks a run to commit and stop; a later one ends it at once."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

# Seconds for which a repeated SIGTERM is the same request: Slurm sends two at
# once when it preempts a job, one of them through srun.
SAME_REQUEST = 5.0


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
    first = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not requested.is_set():
            first = time.monotonic()
            requested.set()
        elif time.monotonic() - first > SAME_REQUEST:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield requested.is_set
    finally:
        signal.signal(signal.SIGTERM, previous)
