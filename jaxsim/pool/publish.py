"""Publishing: one exclusive creation of a manifest admits one attempt.

Writers never share a directory, so two of them cannot spoil each other; the
one that creates the manifest first has won.
"""

import contextlib
import fcntl
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxsim.checkpoints import NotSaved, save_params
from jaxsim.errors import JaxsimError
from jaxsim.pool.digests import file_digests
from jaxsim.pool.manifest import FILE_NAME, Manifest, read_manifest


class AlreadyPublished(JaxsimError):
    """Another launcher was first; its result stands."""


class Busy(JaxsimError):
    """Another process works on it; repeat the command when it is done."""

    exit_code = 4


def is_published(entry: Path) -> bool:
    return (entry / FILE_NAME).exists()


def save_attempt(entry: Path, params: Any) -> tuple[str, dict[str, Any]]:
    """Saves parameters in a folder of their own, not admitted yet.

    Returns:
      The attempt's name, and the digest and size of each of its files.

    Raises:
      NotSaved: the disk is too full; names the bytes. Nothing is left.
    """
    entry.mkdir(parents=True, exist_ok=True)
    attempt = f"attempt-{uuid.uuid4().hex[:12]}"
    try:
        save_params(entry / attempt, params)
        return attempt, file_digests(entry / attempt)
    except NotSaved:
        # Orbax leaves a folder whose name goes on after the attempt's.
        for path in entry.glob(f"{attempt}*"):
            shutil.rmtree(path, ignore_errors=True)
        raise


def publish(entry: Path, manifest: Manifest) -> None:
    """Admits the attempt that `manifest` names.

    Raises:
      AlreadyPublished: another attempt is admitted; this one is deleted.
      NotSaved: the manifest cannot be written; nothing is admitted.
    """
    part = entry / f".{manifest.attempt}.json"
    try:
        with part.open("w") as file:
            file.write(manifest.dump())
            file.flush()
            os.fsync(file.fileno())
        # A hard link is created complete or not at all, and never replaces.
        os.link(part, entry / FILE_NAME)
    except FileExistsError as error:
        shutil.rmtree(entry / manifest.attempt, ignore_errors=True)
        winner = read_manifest(entry)
        raise AlreadyPublished(
            f"{entry.name}: {winner.attempt} was published first; this one is "
            "deleted"
        ) from error
    except OSError as error:
        raise NotSaved(
            f"{entry}: its manifest could not be written ({error}); "
            f"{shutil.disk_usage(entry).free:,} bytes are free. The pool is "
            "unchanged: repeat the same command"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def clear_leftovers(entry: Path) -> None:
    """Deletes attempts that no manifest names; call it under `holding`."""
    admitted = read_manifest(entry).attempt if is_published(entry) else None
    for path in entry.glob("attempt-*"):
        if path.name != admitted:
            shutil.rmtree(path)
    for path in entry.glob(".attempt-*.json"):
        path.unlink()


@contextlib.contextmanager
def holding(lock: Path, what: str) -> Iterator[None]:
    """Inside, this process is the only one of this machine that holds `lock`.

    The kernel drops the lock with the process, however it dies. It only saves
    work on one machine: admission does not depend on it.

    Raises:
      Busy: another process holds it; names that process and `what`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise Busy(
                f"{what}: {holder} works on it; repeat the same command when "
                "it is done"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
