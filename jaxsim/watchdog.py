"""Ends a run that makes no progress, and says where it stands."""

import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator

from jaxsim.errors import HungError


@contextlib.contextmanager
def watchdog(limit: float, label: str) -> Iterator[Callable[[int], None]]:
    """Yields what is to be called with each step that is finished.

    After `limit` seconds without one (0: never; four times as many for the
    first, which compiles) it prints the stacks of all threads and the last
    finished step, and ends the process with exit code 5: a step that waits for
    another process cannot be interrupted otherwise.
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
            "gives up, the same command continues. Its threads:",
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
