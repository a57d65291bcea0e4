"""Publishing: one exclusive creation of a manifest admits one attempt.

Each attempt has its own folder, so two writers cannot damage each other's files.
The first one that creates the manifest wins.

A hidden file beside each attempt becomes its manifest. A launcher that deletes an
attempt removes this file first, and nothing is published without it. So even on
a file system without locks no manifest names a deleted attempt.
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxsim import records
from jaxsim.checkpoints import NotSaved, save_params
from jaxsim.distributed import from_lead
from jaxsim.errors import JaxsimError
from jaxsim.pool.digests import file_digests
from jaxsim.pool.lock import Busy
from jaxsim.pool.manifest import FILE_NAME, Manifest, read_manifest
from jaxsim.train.runs import title

SOURCE = "source"  # files that an imported base model came with
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class AlreadyPublished(JaxsimError):
    """Another launcher was first; its result stands."""


def is_published(entry: Path) -> bool:
    return (entry / FILE_NAME).exists()


def check_links(folder: Path) -> None:
    """Raises a `JaxsimError` if the file system has no hard links to publish with."""
    folder.mkdir(parents=True, exist_ok=True)
    # Names that stay the same, so a kill leaves nothing that the next check does not
    # delete. Another launcher may use them at the same time.
    file, link = folder / ".file", folder / ".link"
    file.touch()
    try:
        os.link(file, link)
    except (FileExistsError, FileNotFoundError):
        return  # the other one finds out
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise JaxsimError(
            f"{folder}: this file system has no hard links ({error.strerror}), "
            "which manifests need; use a --workdir on another one"
        ) from error
    finally:
        file.unlink(missing_ok=True)
        link.unlink(missing_ok=True)


def save_attempt(
    entry: Path, params: Any, keep: Callable[[Path], None] | None = None
) -> tuple[str, dict[str, Any]]:
    """Saves parameters as an attempt that no manifest names yet: its name and files.

    Process 0 calls it and tells the other processes to save with it. `keep` adds files
    to the attempt, in the folder `SOURCE` that it is given.

    Raises:
      NotSaved: the disk is too full; names the bytes. Nothing is left.
    """
    entry.mkdir(parents=True, exist_ok=True)
    attempt = f"attempt-{uuid.uuid4().hex[:12]}"
    try:
        _draft(entry, attempt).touch(exist_ok=False)
        from_lead({"save": str(entry / attempt)})
        save_params(entry / attempt, params)
        if keep is not None:
            keep(entry / attempt / SOURCE)
        return attempt, file_digests(entry / attempt)
    except (NotSaved, OSError):
        # Orbax leaves a folder whose name starts with the attempt's.
        for path in entry.glob(f"{attempt}*"):
            shutil.rmtree(path, ignore_errors=True)
        _draft(entry, attempt).unlink(missing_ok=True)
        raise


def publish(entry: Path, manifest: Manifest) -> None:
    """Admits the attempt that `manifest` names.

    Raises:
      AlreadyPublished: another attempt is admitted; this one is deleted.
      Busy: another launcher has deleted this attempt.
      NotSaved: the manifest cannot be written; nothing is admitted.
    """
    draft = _draft(entry, manifest.attempt)
    try:
        with draft.open("r+") as file:
            file.write(records.dump(manifest))
            file.flush()
            os.fsync(file.fileno())
        # A hard link is created complete or not at all, and never replaces.
        os.link(draft, entry / FILE_NAME)
    except FileNotFoundError as error:
        raise Busy(
            f"{title(manifest.kind, entry.name)}: another launcher, which deleted "
            "this attempt,"
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
        draft.unlink(missing_ok=True)


def admit(entry: Path, manifest: Manifest) -> None:
    """Publishes an attempt that was copied here, complete and checked."""
    _draft(entry, manifest.attempt).touch()
    publish(entry, manifest)


def clear_leftovers(entry: Path) -> None:
    """Deletes attempts that no manifest names; the caller holds the lock."""
    for path in entry.glob(".attempt-*.json"):
        # From now on its attempt cannot be published, unless it was already.
        path.unlink(missing_ok=True)
    # An attempt that has such a file now is from a launcher that came later. Names
    # of Orbax's temporary folders start with the attempt's.
    length = len("attempt-") + 12
    cleared = [
        path
        for path in entry.glob("attempt-*")
        if not _draft(entry, path.name[:length]).exists()
    ]
    admitted = read_manifest(entry).attempt if is_published(entry) else None
    for path in cleared:
        if path.name != admitted:
            # It may vanish meanwhile: the loser deletes its own attempt.
            shutil.rmtree(path, ignore_errors=True)


def clear_draft(entry: Path) -> None:
    """Deletes a draft that was published by a launcher that was killed right then."""
    for draft in entry.glob(".attempt-*.json"):
        with contextlib.suppress(OSError):
            if draft.samefile(entry / FILE_NAME):
                draft.unlink()


def _draft(entry: Path, attempt: str) -> Path:
    """The file that becomes an attempt's manifest."""
    return entry / f".{attempt}.json"
