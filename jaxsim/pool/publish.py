"""Publishing: one exclusive creation of a manifest admits one attempt.

Writers never share a directory, so two of them cannot damage each other's
files; the one that creates the manifest first has won.

Beside each attempt lies a file that its manifest is written to. Whoever clears
an attempt away removes that file first, and without it nothing is published.
So on a file system without locks a launcher cannot publish an attempt that
another one has cleared away.
"""

import errno
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from jaxsim.checkpoints import NotSaved, save_params
from jaxsim.distributed import from_lead
from jaxsim.errors import JaxsimError
from jaxsim.pool.digests import file_digests
from jaxsim.pool.lock import Busy
from jaxsim.pool.manifest import FILE_NAME, Manifest, read_manifest

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class AlreadyPublished(JaxsimError):
    """Another launcher was first; its result stands."""


def is_published(entry: Path) -> bool:
    return (entry / FILE_NAME).exists()


def check_links(folder: Path) -> None:
    """Refuses to train where nothing could be published.

    Raises:
      JaxsimError: the file system has no hard links.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as made:
        file = Path(made, "file")
        file.touch()
        try:
            os.link(file, file.with_name("link"))
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise JaxsimError(
                f"{folder}: this file system has no hard links "
                f"({error.strerror}), which manifests need; use a --workdir "
                "on another one"
            ) from error


def save_attempt(entry: Path, params: Any) -> tuple[str, dict[str, Any]]:
    """Saves parameters in a folder of their own, not admitted yet.

    Process 0 calls it; the others save with it, where it tells them to.

    Returns:
      The attempt's name, and the digest and size of each of its files.

    Raises:
      NotSaved: the disk is too full; names the bytes. Nothing is left.
    """
    entry.mkdir(parents=True, exist_ok=True)
    attempt = f"attempt-{uuid.uuid4().hex[:12]}"
    try:
        _right(entry, attempt).touch(exist_ok=False)
        from_lead({"save": str(entry / attempt)})
        save_params(entry / attempt, params)
        return attempt, file_digests(entry / attempt)
    except NotSaved:
        # Orbax leaves a folder whose name goes on after the attempt's.
        for path in entry.glob(f"{attempt}*"):
            shutil.rmtree(path, ignore_errors=True)
        _right(entry, attempt).unlink(missing_ok=True)
        raise


def publish(entry: Path, manifest: Manifest) -> None:
    """Admits the attempt that `manifest` names.

    Raises:
      AlreadyPublished: another attempt is admitted; this one is deleted.
      Busy: another launcher has cleared this attempt away.
      NotSaved: the manifest cannot be written; nothing is admitted.
    """
    right = _right(entry, manifest.attempt)
    try:
        with right.open("r+") as file:
            file.write(manifest.dump())
            file.flush()
            os.fsync(file.fileno())
        # A hard link is created complete or not at all, and never replaces.
        os.link(right, entry / FILE_NAME)
    except FileNotFoundError as error:
        raise Busy(
            f"{manifest.kind} {entry.name}: another launcher, which cleared "
            "this attempt away,"
        ) from error
    except FileExistsError as error:
        winner = read_manifest(entry)
        if winner.attempt == manifest.attempt:
            return  # NFS repeated a request that was answered
        shutil.rmtree(entry / manifest.attempt, ignore_errors=True)
        raise AlreadyPublished(
            f"{entry.name}: {winner.attempt} was published first; this one is deleted"
        ) from error
    except OSError as error:
        raise NotSaved(
            f"{entry}: its manifest could not be written ({error}); "
            f"{shutil.disk_usage(entry).free:,} bytes are free. The pool is "
            "unchanged: repeat the same command"
        ) from error
    finally:
        right.unlink(missing_ok=True)


def admit(entry: Path, manifest: Manifest) -> None:
    """Publishes an attempt that was copied here, whole and checked.

    Raises: as `publish` does.
    """
    _right(entry, manifest.attempt).touch()
    publish(entry, manifest)


def clear_leftovers(entry: Path) -> None:
    """Deletes attempts that no manifest names; the caller holds the lock."""
    for path in entry.glob(".attempt-*.json"):
        # What it belongs to is admitted by now, or never will be.
        path.unlink(missing_ok=True)
    # An attempt that has one by now is of a launcher that came later.
    cleared = [
        path
        for path in entry.glob("attempt-*")
        if not _right(entry, _name(path)).exists()
    ]
    admitted = read_manifest(entry).attempt if is_published(entry) else None
    for path in cleared:
        if path.name != admitted:
            # It may vanish meanwhile: the loser deletes its own attempt.
            shutil.rmtree(path, ignore_errors=True)


def _right(entry: Path, attempt: str) -> Path:
    """The file that an attempt is published from."""
    return entry / f".{attempt}.json"


def _name(path: Path) -> str:
    """The attempt's name; folders of Orbax's own have longer ones."""
    return path.name[: len("attempt-") + 12]
