"""Work on input files, in processes: each result is a folder that appears whole.

A result that is there is not computed again, so `prepare` continues where it was
killed, and several launchers of one workdir can share the work.
"""

import contextlib
import dataclasses
import errno
import multiprocessing
import os
import re
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim.errors import DamagedError, JaxsimError
from jaxsim.log import progress

ADVICE = "delete the folder corpus/.work and run `jaxsim prepare` again"
LARGE = 32_000_000  # bytes of input from which processes are worth their start
_TEMPORARY = ".tmp_"
_SHORT = re.compile(r"\d+ requested and \d+ written")  # NumPy's error has no number


@dataclasses.dataclass(frozen=True)
class Job:
    """Fills a new folder `target`: `function(folder, *arguments)`."""

    file: str  # what messages call it
    size: int  # bytes of the file
    target: Path
    function: Callable[..., None]
    arguments: tuple[Any, ...]


def mapped(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    """An array [count] that a job wrote; a `DamagedError` if the size is another."""
    if path.stat().st_size != count * dtype.itemsize:
        raise DamagedError(f"{path}: is truncated", ADVICE)
    return np.memmap(path, dtype, "r") if count else np.zeros(0, dtype)


def do(job: Job) -> None:
    """Does one job; if another process was faster, its result stays."""
    parent, name = job.target.parent, job.target.name
    # `tempfile.mkdtemp` makes folders that only their owner can read.
    temporary = parent / f"{_TEMPORARY}{name}_{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        job.function(temporary, *job.arguments)
        os.rename(temporary, job.target)
    except OSError as error:
        if _SHORT.search(str(error)):
            full = errno.ENOSPC
            raise OSError(full, os.strerror(full), str(parent)) from error
        if not job.target.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear(folder: Path) -> None:
    """Removes what killed processes left; nobody may be at work."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path)


class Workers(contextlib.AbstractContextManager["Workers"]):
    """Processes that do jobs; they start with the first large work, and then stay."""

    def __init__(self, count: int):
        """Takes how many; 0: one per core if the input is large, else none."""
        self._count = count
        self._pool: ProcessPoolExecutor | None = None
        self._others = set(multiprocessing.active_children())

    def work(self, jobs: Sequence[Job], label: str) -> None:
        """Does the jobs whose targets are missing.

        Raises:
          JaxsimError: a process ended; names the files that it may have worked on.
        """
        missing = [job for job in jobs if not job.target.exists()]
        if not missing:
            return
        with progress(len(missing), label, "files") as advance:
            if self._start(missing) is None:
                for job in missing:
                    do(job)
                    advance(1)
            else:
                self._spread(missing, advance)

    def _start(self, jobs: Sequence[Job]) -> ProcessPoolExecutor | None:
        large = sum(job.size for job in jobs) >= LARGE
        count = self._count or (_cores() if large else 1)
        if self._pool is None and min(count, len(jobs)) > 1:
            # Forks of a process with threads, which JAX and TFDS have, may hang.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count, context, _begin)
        return self._pool

    def _spread(self, jobs: Sequence[Job], advance: Callable[[int], None]) -> None:
        assert self._pool is not None
        # Large files first, so that none is alone at the end.
        order = sorted(jobs, key=lambda job: (-job.size, job.file))
        try:
            for future in as_completed([self._pool.submit(do, job) for job in order]):
                future.result()
                advance(1)
        except BaseException as error:
            self._kill()
            left = {
                job.file: path
                for job in jobs
                for path in job.target.parent.glob(f"{_TEMPORARY}{job.target.name}_*")
            }
            for path in left.values():
                shutil.rmtree(path, ignore_errors=True)
            if isinstance(error, BrokenProcessPool):
                files = " or ".join(map(repr, left)) or "its first file"
                raise JaxsimError(
                    f"a process ended, or was killed, while it read {files}; if there "
                    "was too little memory, set config.corpus.workers to fewer than "
                    "now. Run the same command again: files that are done are kept"
                ) from error
            raise

    def _kill(self) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - self._others:
            child.kill()
            child.join()
        self._pool = None

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def _begin() -> None:
    """The first thing that a process does."""
    # The main process decides what an interrupt means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One thread for each process: the processes share the cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    # The queue of jobs does not end with a main process that was killed.
    threading.Thread(target=follow, daemon=True).start()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
