"""A lock for each run, so that two launchers of one workdir do not train it twice.

The kernel holds the lock on a file below `DIR/state/.locks`, and releases it when
the process ends, however it ends; on NFS the server does. Locks only save work.
On a file system without locks two launchers may train the same run, and the
exclusive creation of its manifest publishes one of them.
"""

import contextlib
import errno
import fcntl
import functools
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from jaxsim.errors import JaxsimError
from jaxsim.log import say

T = TypeVar("T")

POLL = 2.0  # seconds between two tries of a launcher that waits
REMIND = 60.0  # seconds between two lines that it prints
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


class Busy(JaxsimError):
    """Another launcher works on it; repeat the command when it is done."""

    exit_code = 4

    def __init__(self, who: str) -> None:
        super().__init__(f"{who} works on it; repeat the same command when it is done")
        self.who = who  # what is locked, and by whom


@contextlib.contextmanager
def holding(lock: Path, what: str) -> Iterator[None]:
    """Holds a lock; other launchers of the workdir leave `what` alone meanwhile.

    The file `lock`, whose text names its last holder, stays: deleting it could take
    the lock from a launcher that has just opened it.

    Raises:
      Busy: another launcher holds the lock; names that launcher and `what`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 1000, 0).decode(errors="replace").strip()
            raise Busy(f"{what}: {holder or 'another process'}") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _warn(lock.parent, error.strerror)
        else:
            os.ftruncate(file, 0)
            holder = f"process {os.getpid()} on {platform.node()}\n"
            os.pwrite(file, holder.encode(), 0)
        yield
    finally:
        os.close(file)


def wait_for_others(attempt: Callable[[], T]) -> T:
    """Calls `attempt` until it does not raise `Busy`; says whom it waits for."""
    reminded = -REMIND
    while True:
        try:
            return attempt()
        except Busy as busy:
            if time.monotonic() - reminded >= REMIND:
                reminded = time.monotonic()
                say(f"waiting for other launchers: {busy.who}")
        time.sleep(POLL)


@functools.cache
def _warn(folder: Path, why: str) -> None:
    """Says once that two launchers may train the same run."""
    say(
        f"{folder}: this file system has no locks ({why}); give each launcher "
        "another --shard, or two of them may train the same run, and only one "
        "result is published"
    )
