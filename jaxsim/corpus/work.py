"""Work on input files, in processes: each result is a folder that appears whole.

A result that is there is not computed again, so `prepare` continues where it was
killed, and several launchers of one workdir can share the work.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from jaxsim.errors import JaxsimError
from jaxsim.log import progress

LARGE = 32_000_000  # bytes of input from which processes are worth their start
_TEMPORARY = ".tmp_"


@dataclasses.dataclass(frozen=True)
class Job:
    """Fills a new folder `target`: `function(folder, *arguments)`."""

    file: str  # what messages call it
    size: int  # bytes of the file
    target: Path
    function: Callable[..., None]
    arguments: tuple[Any, ...]


def work(jobs: Sequence[Job], workers: int, label: str) -> None:
    """Does the jobs whose targets are missing.

    Args:
      workers: processes; 0: one per core if the input is large, else none.

    Raises:
      JaxsimError: a process was killed; names the files that it may have worked on.
    """
    missing = [job for job in jobs if not job.target.exists()]
    if not missing:
        return
    if not workers:
        large = sum(job.size for job in missing) >= LARGE
        workers = _cores() if large else 1
    with progress(len(missing), label, "files") as advance:
        if (count := min(workers, len(missing))) > 1:
            _in_processes(missing, count, advance)
            return
        for job in missing:
            do(job)
            advance(1)


def do(job: Job) -> None:
    """Does one job; if another process was faster, its result stays."""
    parent, name = job.target.parent, job.target.name
    # `tempfile.mkdtemp` makes folders that only their owner can read.
    temporary = parent / f"{_TEMPORARY}{name}_{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        job.function(temporary, *job.arguments)
        with contextlib.suppress(OSError):
            os.rename(temporary, job.target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def clear(folder: Path) -> None:
    """Removes what killed processes left; nobody may be at work."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path)


def _in_processes(
    jobs: Sequence[Job], count: int, advance: Callable[[int], None]
) -> None:
    others = set(multiprocessing.active_children())
    # Forks of a process with threads, which JAX and TFDS have, may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, _begin)
    try:
        # Large files first, so that none is alone at the end.
        order = sorted(jobs, key=lambda job: (-job.size, job.file))
        for future in as_completed([pool.submit(do, job) for job in order]):
            future.result()
            advance(1)
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
            child.join()
        left = {
            job.file: path
            for job in jobs
            for path in job.target.parent.glob(f"{_TEMPORARY}{job.target.name}_*")
        }
        for path in left.values():
            shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, BrokenProcessPool):
            raise JaxsimError(
                f"a process was killed while it read {' or '.join(map(repr, left))}; "
                "if there was too little memory, set config.corpus.workers to less "
                f"than {count}. Run the same command again: files that are done are "
                "kept"
            ) from error
        raise
    pool.shutdown()


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
