"""What of a pool lies in a bucket: its identity, its entries, its claims."""

import contextlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path

from jaxsim.errors import DamagedError, UserError
from jaxsim.log import say
from jaxsim.pool.bucket import claims
from jaxsim.pool.bucket.objects import Objects, StoreError
from jaxsim.pool.claims import Watch, holding, patiently
from jaxsim.pool.digests import differences, files_below, sha256_of_file
from jaxsim.pool.manifest import (
    FILE_NAME,
    Manifest,
    parse_manifest,
    read_manifest,
)
from jaxsim.pool.pool import Pool
from jaxsim.pool.publish import AlreadyPublished, admit, is_published
from jaxsim.pool.verify import file_problems


def open_bucket(url: str, workdir: Path) -> "Bucket | None":
    """The bucket of a config; None if it names none.

    Raises:
      UserError: the URL is none, or its client is not installed.
      StoreError: the store cannot be reached, or does not create exclusively.
    """
    if not url:
        return None
    objects = Objects(url)
    objects.check()
    return Bucket(objects, workdir)


class Bucket:
    """One side is the bucket, the other one the workdir of this machine."""

    def __init__(self, objects: Objects, workdir: Path) -> None:
        self.objects = objects
        self.workdir = workdir

    def __str__(self) -> str:
        return self.objects.url

    def key(self, path: Path) -> str:
        """Of what lies at `path` in the workdir."""
        return path.relative_to(self.workdir).as_posix()

    def metrics(self, name: str) -> Path:
        """The file of a run's metrics in the workdir."""
        return self.workdir / "metrics" / f"{name}.jsonl"

    def holding(
        self, name: str, what: str, watch: Watch | None
    ) -> contextlib.AbstractContextManager[None]:
        """A claim that other machines see; the local one is held already."""
        return claims.holding(self.objects, name, what, self._owner(), watch)

    def manifest(self, entry: Path) -> Manifest | None:
        """What is admitted as `entry` for all machines.

        Raises:
          DamagedError: it is no manifest.
        """
        key = f"{self.key(entry)}/{FILE_NAME}"
        content = self.objects.read(key)
        if content is None:
            return None
        text = content.decode(errors="replace")
        return parse_manifest(text, entry.name, f"{self}/{key}")

    def shares(self, entry: Path) -> bool:
        """Is `entry` published for all? Then it is fetched, and admitted here.

        One launcher of a workdir fetches; others wait for it.

        Raises:
          DamagedError: a file in the bucket is not what the manifest says.
          UserError: the workdir has another result of the same run.
        """
        if self.manifest(entry) is None:
            return False
        lock = self.workdir / "training" / ".locks" / entry.name

        def attempt(watch: Watch) -> bool:
            with holding(lock, entry.name, watch):
                return self.fetched(entry)

        return is_published(entry) or patiently(attempt)

    def fetched(self, entry: Path) -> bool:
        """As `shares`, for who holds the claim of the run in this workdir.

        A fetch that was killed goes on where it was.
        """
        manifest = self.manifest(entry)
        if manifest is None:
            return False
        if not is_published(entry):
            root = entry / manifest.attempt
            if root.exists() and file_problems(entry, manifest):
                shutil.rmtree(root)
            if not root.exists():
                say(f"{manifest.kind} {entry.name}: fetched from {self}")
                self._fetch(entry, manifest)
            if problems := file_problems(entry, manifest):
                shutil.rmtree(root)
                raise DamagedError(
                    f"{manifest.kind} {entry.name}, fetched from {self}: "
                    f"{problems[0]}; repeat the same command"
                )
            with contextlib.suppress(AlreadyPublished):
                admit(entry, manifest)
        self._check_same(entry, read_manifest(entry), manifest)
        return True

    def publish(self, entry: Path, manifest: Manifest) -> None:
        """Admits the attempt that `manifest` names for all machines.

        Raises:
          AlreadyPublished: another machine was first. The attempt is deleted
            in the bucket; here it is the caller's.
        """
        key, root = self.key(entry), entry / manifest.attempt
        for name in manifest.files:
            self.objects.send(root / name, f"{key}/{manifest.attempt}/{name}")
        metrics = self.metrics(entry.name)
        if metrics.exists():
            self.objects.send(metrics, f"{key}/{manifest.attempt}.jsonl")
        text = manifest.dump().encode()
        if not self.objects.create(f"{key}/{FILE_NAME}", text):
            winner = self.manifest(entry)
            assert winner is not None  # nobody deletes one
            if winner.attempt != manifest.attempt:  # else an answer was lost
                self._delete(key, manifest.attempt)
                raise AlreadyPublished(
                    f"{entry.name}: {winner.attempt} was published first in "
                    f"{self}; this one is not used"
                )
        # From now on no other attempt can be admitted.
        with contextlib.suppress(StoreError):
            self._delete(key, "attempt-", but=manifest.attempt)

    def agree(self, pool: Pool) -> None:
        """Makes the pool's identity that of the bucket, or refuses it.

        Raises:
          UserError: the bucket holds a pool of another seed, recipe or model.
        """
        path = pool.workdir / "pool" / "pool.json"
        if not self.objects.create("pool/pool.json", path.read_bytes()):
            self._check_identity(path)

    def send(self, entries: Iterable[Path]) -> None:
        """Publishes those of the workdir's entries that the bucket lacks.

        Raises:
          UserError: the bucket has another result of the same run.
        """
        for entry in entries:
            manifest = read_manifest(entry)
            shared = self.manifest(entry)
            if shared is None:
                say(f"{manifest.kind} {entry.name}: sent to {self}")
                with contextlib.suppress(AlreadyPublished):
                    self.publish(entry, manifest)
                shared = self.manifest(entry) or manifest
            self._check_same(entry, manifest, shared)

    def fetch_pool(self) -> None:
        """Fetches identity, seed and every entry that the workdir lacks."""
        path = self.workdir / "pool" / "pool.json"
        if self.objects.read("pool/pool.json") is None:
            return
        if not path.exists():
            self.objects.fetch("pool/pool.json", path)
        self._check_identity(path)
        self.shares(self.workdir / "seed")
        for name in self._names():
            self.shares(self.workdir / "pool" / "members" / name)

    def _owner(self) -> str:
        """Names this workdir, as no other machine names its own.

        By a file in it: containers of one machine have paths in common, and
        the machine's own name alone says nothing of the disk.
        """
        path = self.workdir / "training" / ".locks" / ".owner"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{uuid.uuid4().hex}")
            part.write_text(uuid.uuid4().hex)
            with contextlib.suppress(FileExistsError):
                os.link(part, path)
            part.unlink()
        this = path.stat()  # a copy of the workdir is another one
        return f"{path.read_text()} {this.st_dev}:{this.st_ino} on " + (
            platform.node()
        )

    def _check_identity(self, path: Path) -> None:
        shared = self.objects.read_json("pool/pool.json") or {}
        if lines := differences(shared, json.loads(path.read_text())):
            raise UserError(
                f"{self} holds another pool than {path}: {'; '.join(lines)}. "
                "Restore those values, or use another bucket and --workdir"
            )

    def _names(self) -> list[str]:
        """Of all entries in the bucket."""
        keys = self.objects.list("pool/members")
        parts = [key.split("/") for key in keys]
        return sorted(p[0] for p in parts if p[1:] == [FILE_NAME])

    def _check_same(
        self, entry: Path, here: Manifest, shared: Manifest
    ) -> None:
        if here.params_digest != shared.params_digest:
            raise UserError(
                f"{here.kind} {entry.name}: {entry} holds another result than "
                f"{self}; delete that folder to fetch the shared one, or use "
                "another --workdir"
            )

    def _fetch(self, entry: Path, manifest: Manifest) -> None:
        key = f"{self.key(entry)}/{manifest.attempt}"
        part = entry / f".fetch-{manifest.attempt}"
        part.mkdir(parents=True, exist_ok=True)
        for name, (sha256, size) in manifest.files.items():
            path = part / name
            if not _is(path, sha256, size):
                self.objects.fetch(f"{key}/{name}", path)
            if not _is(path, sha256, size):
                raise DamagedError(
                    f"{self}/{key}/{name}: is not what its manifest says; "
                    f"delete the folder {self}/{self.key(entry)} to train it "
                    "again"
                )
        for name in files_below(part).keys() - manifest.files.keys():
            (part / name).unlink()
        # Not part of what is admitted: the way there, for the report.
        if self.objects.read(f"{key}.jsonl") is not None:
            self.objects.fetch(f"{key}.jsonl", self.metrics(entry.name))
        os.rename(part, entry / manifest.attempt)

    def _delete(self, key: str, start: str, but: str = "/") -> None:
        """Objects of an entry whose names start with one and not the other."""
        self.objects.delete(
            [
                f"{key}/{name}"
                for name in self.objects.list(key)
                if name.startswith(start) and not name.startswith(but)
            ]
        )


def _is(path: Path, sha256: str, size: int) -> bool:
    return (
        path.is_file()
        and path.stat().st_size == size
        and sha256_of_file(path) == sha256
    )
