"""Publishing: one exclusive creation of a manifest admits one attempt.

Writers never share a directory, so two of them cannot spoil each other; the
one that creates the manifest first has won.
"""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxsim.checkpoints import save_params
from jaxsim.errors import JaxsimError
from jaxsim.pool.digests import file_digests
from jaxsim.pool.manifest import FILE_NAME, Manifest, read_manifest


class AlreadyPublished(JaxsimError):
    """Another launcher was first; its result stands."""


def is_published(entry: Path) -> bool:
    return (entry / FILE_NAME).exists()


def save_attempt(entry: Path, params: Any) -> tuple[str, dict[str, Any]]:
    """Saves parameters in a folder of their own, not admitted yet.

    Returns:
      The attempt's name, and the digest and size of each of its files.

    Raises:
      JaxsimError: the disk is too full; names the bytes.
    """
    entry.mkdir(parents=True, exist_ok=True)
    attempt = f"attempt-{uuid.uuid4().hex[:12]}"
    try:
        save_params(entry / attempt, params)
        return attempt, file_digests(entry / attempt)
    except OSError as error:
        free = shutil.disk_usage(entry).free
        shutil.rmtree(entry / attempt, ignore_errors=True)
        raise JaxsimError(
            f"{entry}: the parameters could not be saved ({error}); "
            f"{free:,} bytes are free. The pool is unchanged: make room and "
            "repeat the same command"
        ) from error


def publish(entry: Path, manifest: Manifest) -> None:
    """Admits the attempt that `manifest` names.

    Raises:
      AlreadyPublished: another attempt is admitted; this one is deleted.
    """
    part = entry / f".{manifest.attempt}.json"
    with part.open("w") as file:
        file.write(manifest.dump())
        file.flush()
        os.fsync(file.fileno())
    try:
        # A hard link is created complete or not at all, and never replaces.
        os.link(part, entry / FILE_NAME)
    except FileExistsError as error:
        shutil.rmtree(entry / manifest.attempt)
        winner = read_manifest(entry)
        raise AlreadyPublished(
            f"{entry.name}: {winner.attempt} was published first; this one is "
            "deleted"
        ) from error
    finally:
        part.unlink()


def clear_leftovers(entry: Path) -> None:
    """Deletes attempts that no manifest names; call it under `holding`."""
    admitted = read_manifest(entry).attempt if is_published(entry) else None
    for path in entry.glob("attempt-*"):
        if path.name != admitted:
            shutil.rmtree(path)
    for path in entry.glob(".attempt-*.json"):
        path.unlink()


@contextlib.contextmanager
def holding(lock: Path) -> Iterator[bool]:
    """Yields whether this process is the one that works on `lock`.

    The kernel drops the lock with the process, however it dies. It only saves
    work on one machine: admission does not depend on it.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
