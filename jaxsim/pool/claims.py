"""Claims: which launcher works on what. They save work and admit nothing.

A claim is a file that its holder created exclusively, with the holder's name
and a counter that a thread of it increases. Whoever finds one waits until the
counter has stood still for a while of its own monotonic clock; clocks and
times of files are never compared, because those of two machines differ. A
holder that died on this very machine is seen at once: the kernel dropped its
lock on the file.

Two launchers that take over one claim at the same time may both come to hold
it, if the moments are chosen well. Then both train, and one publishes.
"""

import contextlib
import dataclasses
import errno
import fcntl
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from jaxsim.errors import JaxsimError
from jaxsim.log import say

T = TypeVar("T")

BEAT = 5.0  # seconds between two beats of a holder
STALE = 60.0  # seconds of a waiter without one
POLL = 2.0  # seconds between two looks of a waiter
REMIND = 60.0  # seconds between two lines of a waiter
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class Busy(JaxsimError):
    """Another launcher works on it; repeat the command when it is done."""

    exit_code = 4

    def __init__(self, who: str) -> None:
        super().__init__(
            f"{who} works on it; repeat the same command when it is done"
        )
        self.who = who  # what is held and by whom


@dataclasses.dataclass(frozen=True)
class _Claim:
    """What is written in the file of a claim, the counter in `text` alone."""

    text: str
    holder: str
    token: str  # no other claim has it
    kernel: str  # the one that locks the file for the holder, or ''

    @classmethod
    def read(cls, lock: Path) -> "_Claim | None":
        try:
            # Opened anew each time: that is when NFS asks its server.
            text = lock.read_text(errors="replace")
        except FileNotFoundError:
            return None
        holder, token, kernel, *_ = [*text.split("\n"), "", "", ""]
        return cls(text, holder or "another process", token, kernel)


class Watch:
    """What one waiter has seen of the claims of others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Path, tuple[str, float, float]] = {}

    def is_stale(self, lock: Path, text: str) -> bool:
        """Notes a look at a claim; has it stood still for `STALE` seconds?"""
        now = self._clock()
        before, last, still = self._seen.get(lock, ("", now, 0.0))
        # A waiter that was suspended, or hung in the file system, or trained
        # something else, has not been looking.
        still += min(now - last, 2 * POLL)
        if text != before:
            still = 0.0
        self._seen[lock] = text, now, still
        return still >= STALE


@contextlib.contextmanager
def holding(
    lock: Path, what: str, watch: Watch | None = None
) -> Iterator[None]:
    """Inside, other launchers leave `what` to this one.

    Args:
      lock: the file of the claim, in a folder that all launchers share.
      what: is held, for messages.
      watch: of a waiter that comes again and again, and takes the claim of a
        dead launcher over; without it only one that died on this machine.

    Raises:
      Busy: another launcher holds it; names that one and `what`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = _create(lock)
    if held is None and (other := _Claim.read(lock)) is not None:
        if _died_here(lock, other) or (
            watch is not None and watch.is_stale(lock, other.text)
        ):
            say(f"{what}: {other.holder} stands still; it is taken over")
            _remove(lock, other.token)
            held = _create(lock)
        else:
            raise Busy(f"{what}: {other.holder}")
    if held is None:  # somebody else was quicker
        now = _Claim.read(lock)
        raise Busy(f"{what}: {now.holder if now else 'another process'}")

    file, token = held
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(file, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        _remove(lock, token)
        os.close(file)


def patiently(attempt: Callable[[Watch], T]) -> T:
    """Calls `attempt` until it leaves nothing to another launcher.

    Says whom it waits for, now and then.
    """
    watch, told = Watch(), -REMIND
    while True:
        try:
            return attempt(watch)
        except Busy as busy:
            if time.monotonic() - told >= REMIND:
                told = time.monotonic()
                say(
                    f"waiting for others, in place of any that dies: {busy.who}"
                )
        time.sleep(POLL)


def _create(lock: Path) -> tuple[int, str] | None:
    """A new claim as an open file and its token; None if there is one."""
    token = uuid.uuid4().hex
    part = lock.with_name(f".{token}")
    file = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        kernel = _kernel()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # not on this file system
            kernel = ""
        holder = f"process {os.getpid()} on {platform.node()}"
        os.write(file, f"{holder}\n{token}\n{kernel}\n{0:020}\n".encode())
        os.fsync(file)
        # A hard link is created complete or not at all, and never replaces.
        try:
            os.link(part, lock)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise JaxsimError(
                f"{lock.parent}: this file system has no hard links "
                f"({error.strerror}), which claims and manifests need; use a "
                "--workdir on another one"
            ) from error
        # NFS may repeat a request that was answered, and see its own link.
        created = os.fstat(file).st_nlink == 2
    except BaseException:
        os.close(file)
        raise
    finally:
        part.unlink(missing_ok=True)
    if created:
        return file, token
    os.close(file)
    return None


def _beat(file: int, stop: threading.Event) -> None:
    """Counts in place: where the claim was taken over, nobody looks there."""
    start = os.fstat(file).st_size - 21
    count = 0
    while not stop.wait(BEAT):
        count += 1
        with contextlib.suppress(OSError):  # the next one may get through
            os.pwrite(file, b"%020d" % count, start)
            os.fsync(file)


def _remove(lock: Path, token: str) -> None:
    """Removes the claim that has this token, and no other one."""
    found = _Claim.read(lock)
    if found is None or found.token != token:
        return
    aside = lock.with_name(f".{uuid.uuid4().hex}")
    try:
        os.rename(lock, aside)
    except FileNotFoundError:
        return
    moved = _Claim.read(aside)
    if moved is not None and moved.token != token:
        # Taken over in between; that launcher keeps it.
        with contextlib.suppress(FileExistsError):
            os.link(aside, lock)
    aside.unlink(missing_ok=True)


def _died_here(lock: Path, claim: _Claim) -> bool:
    """Was it held on this very machine, by a process that is gone?"""
    if not claim.kernel or claim.kernel != _kernel():
        return False
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            found = _Claim.read(lock)
            # It is not another claim by now, whose holder lives.
            return found is not None and found.token == claim.token
    except OSError:
        return False


def _kernel() -> str:
    """Names this boot of this machine; '' where it has no such name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
