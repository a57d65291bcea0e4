"""A bucket: where workdirs of different machines exchange finished entries.

Corpus, base model and pool lie in the bucket as in a workdir. Each machine sends
what the bucket lacks and fetches what its workdir lacks. A manifest is created
once for all machines. The bucket knows nothing about unfinished runs; the
scheduler, or `--shard`, decides which machine trains which run.

The object store must have these properties (it is reached through fsspec): an object
appears whole, lists and reads see what was written before, and an object can be created
without replacing an existing one (if-none-match on S3, if-generation-match 0 on GCS).
"""

import contextlib
import dataclasses
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from jaxsim import records
from jaxsim.config import CorpusConfig
from jaxsim.corpus import Corpus, open_corpus, store
from jaxsim.corpus.store import CorpusRecord
from jaxsim.errors import DamagedError, JaxsimError, UserError
from jaxsim.log import detail
from jaxsim.pool.digests import differences, files_below
from jaxsim.pool.lock import holding, wait_for_others
from jaxsim.pool.manifest import (
    ADVICE,
    FILE_NAME,
    Manifest,
    check_inside,
    checked,
    file_problem,
    read_manifest,
)
from jaxsim.pool.pool import POOL_ADVICE, Pool, PoolRecord
from jaxsim.pool.publish import AlreadyPublished, admit, is_published
from jaxsim.train.runs import title

T = TypeVar("T")

_EXTRAS = {"s3": "s3", "gs": "gcs"}  # protocol -> extra of jaxsim for pip
_CORPUS = "corpus/corpus.json"
_POOL = "pool/pool.json"


class StoreError(JaxsimError):
    """The object store did not do what it was asked; nothing is lost."""


def open_bucket(url: str, workdir: Path) -> "Bucket | None":
    """The bucket of a config; None if it names none.

    Raises:
      UserError: the URL is not that of a bucket, the store's client is not
        installed, the bucket does not exist, or it cannot be written.
      StoreError: the store cannot be reached, or replaces existing objects.
    """
    if not url:
        return None
    records.check_tree(workdir)
    scheme, _, place = url.partition("://")
    if scheme not in _EXTRAS or not place.strip("/"):
        raise UserError(
            f"config.bucket={url!r}: must be s3://NAME/FOLDER or gs://NAME/FOLDER. Set "
            "the address of another S3 server in AWS_ENDPOINT_URL; a file system that "
            "all machines see needs no bucket, give it as --workdir"
        )
    objects = Objects(url)
    objects.check()
    return Bucket(objects, workdir)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Exchanges finished entries between a bucket and this machine's workdir."""

    objects: "Objects"
    workdir: Path

    def __str__(self) -> str:
        return self.objects.url

    def key(self, path: Path) -> str:
        """The key of the object for a path in the workdir."""
        return path.relative_to(self.workdir).as_posix()

    def manifest(self, entry: Path) -> Manifest | None:
        """The manifest of an entry in the bucket; None if it has none."""
        key = f"{self.key(entry)}/{FILE_NAME}"
        manifest = self._record(key, Manifest, ADVICE)
        return manifest and checked(manifest, entry.name, f"{self}/{key}")

    def _record(self, key: str, kind: type[T], advice: str) -> T | None:
        """The record in an object, or None; a damaged one is a `DamagedError`."""
        if (content := self.objects.read(key)) is None:
            return None
        text = content.decode(errors="replace")
        return records.parse(text, kind, f"{self}/{key}", advice)

    def shares(self, entry: Path) -> bool:
        """Whether `entry` is in the bucket; then it is fetched and published here.

        One launcher of a workdir fetches; others wait for it.
        """
        if self.manifest(entry) is None:
            return False
        lock = self.workdir / "state" / ".locks" / entry.name

        def attempt() -> bool:
            with holding(lock, entry.name):
                return self.fetched(entry)

        return is_published(entry) or wait_for_others(attempt)

    def fetched(self, entry: Path) -> bool:
        """Like `shares`, for a caller that holds the run's lock.

        A fetch that was killed continues where it stopped.

        Raises:
          DamagedError: a file in the bucket does not match its manifest.
          UserError: the workdir has another result of the same run.
        """
        if (manifest := self.manifest(entry)) is None:
            return False
        if not is_published(entry):
            detail(f"{title(manifest.kind, entry.name)}: fetched from {self}")
            self._fetch(entry, manifest)
            with contextlib.suppress(AlreadyPublished):
                admit(entry, manifest)
        self._check_same(entry, manifest)
        return True

    def _fetch(self, entry: Path, manifest: Manifest) -> None:
        """Copies an attempt here; it is not published yet."""
        root = entry / manifest.attempt
        key = self.key(root)
        for name, file in manifest.files.items():
            if not file_problem(root / name, *file):
                continue
            self.objects.fetch(f"{key}/{name}", root / name)
            if problem := file_problem(root / name, *file):
                raise DamagedError(
                    f"{self}/{key}/{name}: {problem}; delete the folder "
                    f"{self}/{self.key(entry)} to train it again"
                )
        for name in files_below(root).keys() - manifest.files.keys():
            (root / name).unlink()
        # The losses of its steps, for the report; no manifest names them.
        if losses := self.objects.read(f"{key}.jsonl"):
            records.write(self.workdir / "metrics" / f"{entry.name}.jsonl", losses)

    def _check_same(self, entry: Path, shared: Manifest) -> None:
        if read_manifest(entry).params_digest != shared.params_digest:
            raise UserError(
                f"{title(shared.kind, entry.name)}: {entry} holds another result than "
                f"{self}; delete that folder to fetch the shared one, or use another "
                "--workdir"
            )

    def publish(self, entry: Path, manifest: Manifest) -> None:
        """Publishes the attempt that `manifest` names for all machines.

        Raises:
          AlreadyPublished: another machine was first. The attempt is deleted
            in the bucket, but not here.
        """
        key, root = self.key(entry), entry / manifest.attempt
        for name in manifest.files:
            self.objects.send(root / name, f"{key}/{manifest.attempt}/{name}")
        metrics = self.workdir / "metrics" / f"{entry.name}.jsonl"
        if metrics.exists():
            self.objects.send(metrics, f"{key}/{manifest.attempt}.jsonl")
        text = records.dump(manifest).encode()
        created = self.objects.create(f"{key}/{FILE_NAME}", text)
        winner = manifest if created else self.manifest(entry) or manifest
        # If it is this one, the answer to the first request was lost.
        won = winner.attempt == manifest.attempt
        # From now on no other attempt can be published.
        with contextlib.suppress(StoreError):
            self.objects.delete(
                f"{key}/{name}"
                for name in self.objects.list(key)
                if name.startswith("attempt-")
                and name.startswith(manifest.attempt) != won
            )
        if not won:
            raise AlreadyPublished(
                f"{entry.name}: {winner.attempt} was published first in {self}; this "
                "one is not used"
            )

    def send_pool(self, pool: Pool) -> None:
        """Sends identity and entries if the bucket lacks them, or compares them."""
        self.objects.create(_POOL, (self.workdir / _POOL).read_bytes())
        self._check_identity()
        self.send([pool.base_entry, *map(pool.entry, pool.names())])

    def send(self, entries: Iterable[Path]) -> None:
        """Publishes those of the workdir's entries that the bucket lacks."""
        for entry in entries:
            if (shared := self.manifest(entry)) is None:
                manifest = read_manifest(entry)
                detail(f"{title(manifest.kind, entry.name)}: sent to {self}")
                with contextlib.suppress(AlreadyPublished):
                    self.publish(entry, manifest)
                shared = self.manifest(entry) or manifest
            self._check_same(entry, shared)

    def fetch_pool(self) -> None:
        """Fetches identity, base model and every entry that the workdir lacks."""
        path = self.workdir / _POOL
        if (shared := self._record(_POOL, PoolRecord, POOL_ADVICE)) is None:
            return
        if not path.exists():
            records.save(path, shared)
        self._check_identity()
        self.shares(self.workdir / "base")
        members = self.workdir / "pool" / "members"
        for key in sorted(self.objects.list(self.key(members))):
            name, _, file = key.partition("/")
            if file == FILE_NAME:
                self.shares(members / name)

    def share_corpus(self) -> None:
        """Fetches the corpus, or sends it if only the workdir has it, or compares."""
        shared, here = self._corpora()
        if shared and here:
            advice = (
                "Run `jaxsim prepare` here to send this one, or delete "
                f"{self.workdir}/corpus to fetch the other"
            )
            pair = (_shared(shared), _shared(here))
            self._compare("holds another corpus", *pair, advice)
        elif here:
            self._send_corpus()
        elif shared:
            detail(f"corpus: fetched from {self}")
            for folder in store.folders_of(self.workdir, shared):
                if not folder.exists():
                    self._fetch_data(folder)
            records.save(store.path_of(self.workdir), shared)

    def prepare(self, make: Callable[[], Corpus], refreeze: bool) -> Corpus:
        """Makes the workdir's corpus from what the bucket has frozen, and sends it.

        With `refreeze` it replaces what is frozen in the bucket, too. Otherwise it is a
        `UserError` if bucket and workdir have frozen different things.
        """
        if not refreeze:
            if not store.path_of(self.workdir).exists():
                self.share_corpus()
            self._check_frozen()
        corpus = make()
        self._send_corpus()
        return corpus

    def _check_frozen(self) -> None:
        shared, here = self._corpora()
        if shared and here:
            advice = "Use another --workdir to get it, or another bucket for this one"
            frozen = (shared.frozen, here.frozen)
            self._compare("has frozen another corpus", *frozen, advice)

    def _check_identity(self) -> None:
        here = records.load(self.workdir / _POOL, PoolRecord, POOL_ADVICE)
        shared = self._record(_POOL, PoolRecord, POOL_ADVICE)
        advice = "Restore those values, or use another bucket and --workdir"
        self._compare("holds another pool", shared, here, advice)

    def _compare(self, what: str, shared: Any, here: Any, advice: str) -> None:
        """Refuses a bucket and a workdir that hold different things."""
        if lines := differences(records.plain(shared), records.plain(here)):
            raise UserError(
                f"{self} {what} than {self.workdir}: {'; '.join(lines[:6])}. {advice}"
            )

    def _send_corpus(self) -> None:
        """Replaces the bucket's corpus with that of the workdir."""
        shared, here = self._corpora()
        assert here is not None
        there = self.objects.list("corpus")
        if shared is None or _shared(shared) != _shared(here):
            detail(f"corpus: sent to {self}")
        for folder in store.folders_of(self.workdir, here):  # replaces lost objects
            for name, size in files_below(folder).items():
                if there.get(f"{folder.name}/{name}") != size:
                    self.objects.send(folder / name, self.key(folder / name))
        # The record comes last: until then nothing has changed.
        record = records.dump(here).encode()
        if shared is None and not self.objects.create(_CORPUS, record):
            self._check_frozen()  # another machine was first
        self.objects.write(_CORPUS, record)

    def _fetch_data(self, folder: Path) -> None:
        """The folder appears complete; its digest is checked when it is opened."""
        key = self.key(folder)

        def fetch(part: Path) -> None:
            for name in names:
                self.objects.fetch(f"{key}/{name}", part / name)

        if not (names := self.objects.list(key)):
            raise DamagedError(
                f"{self}/{key}: is not there, and corpus.json names it; run `jaxsim "
                "prepare` where the corpus is"
            )
        store.publish(folder, fetch, Path.exists)

    def _corpora(self) -> tuple[CorpusRecord | None, CorpusRecord | None]:
        """corpus.json in the bucket, and in the workdir."""
        there = store.path_of(self.workdir).exists()
        here = open_corpus(self.workdir).record if there else None
        return self._record(_CORPUS, CorpusRecord, store.ADVICE), here


class Objects:
    """The objects below a URL; keys are relative to it, with slashes."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            # No cached listings: others write there, too.
            self._files, self._root = fsspec.core.url_to_fs(
                self.url, use_listings_cache=False
            )
        except ImportError as error:
            extra = _EXTRAS[url.partition("://")[0]]
            raise UserError(
                f"config.bucket={url!r}: {error}; pip install "
                f"'jaxsim-mixtures[{extra}]'"
            ) from error

    def check(self) -> None:
        """Checks that objects can be created once, read and deleted."""
        key = f".probe-{uuid.uuid4().hex}"
        try:
            first, second = self.create(key, b"1"), self.create(key, b"2")
            kept = self.read(key)
            self.delete([key])
        except StoreError as error:
            cause = error.__cause__
            if (
                isinstance(cause, FileNotFoundError | PermissionError)
                or type(cause).__name__ == "NoCredentialsError"
            ):
                raise UserError(
                    f"config.bucket={self.url!r}: {cause}; look at the name, "
                    "at your credentials and at their right to write there"
                ) from error
            raise
        if (first, second, kept) != (True, False, b"1"):
            raise StoreError(
                f"{self.url}: this store replaces objects that must be created once "
                "(it ignores if-none-match), so that two machines could publish one "
                "member; use another store, or a --workdir on a shared file system"
            )

    def create(self, key: str, content: bytes) -> bool:
        """Creates an object in one step; false if it exists."""
        with self._asked("create", key) as path, contextlib.suppress(FileExistsError):
            self._files.pipe_file(path, content, mode="create")
            return True
        return False

    def write(self, key: str, content: bytes) -> None:
        """Creates or replaces an object in one step."""
        with self._asked("write", key) as path:
            self._files.pipe_file(path, content)

    def read(self, key: str) -> bytes | None:
        """The content of an object; None if it does not exist."""
        with self._asked("read", key) as path, contextlib.suppress(FileNotFoundError):
            return bytes(self._files.cat_file(path))
        return None

    def list(self, prefix: str) -> dict[str, int]:
        """The size in bytes of each object below `prefix`, by the rest of its key."""
        with self._asked("list", prefix) as root:
            found: dict[str, Any] = self._files.find(root, detail=True)
        return {
            check_inside(root, path[len(root) + 1 :]): int(info["size"])
            for path, info in found.items()
            if path.startswith(f"{root}/") and not path.endswith("/")
        }

    def send(self, file: Path, key: str) -> None:
        """Creates or replaces an object from a file."""
        with self._asked("write", key) as path:
            self._files.put_file(str(file), path)

    def fetch(self, key: str, file: Path) -> None:
        """Writes a file from an object; the file appears whole."""
        with self._asked("read", key) as path:
            records.write(file, lambda part: self._files.get_file(path, str(part.name)))

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects; missing ones are no error."""
        for key in keys:
            missing = contextlib.suppress(FileNotFoundError)
            with self._asked("delete", key) as path, missing:
                self._files.rm_file(path)

    @contextlib.contextmanager
    def _asked(self, what: str, key: str) -> Iterator[str]:
        """Gives the path of a key; turns the client's errors into `StoreError`."""
        # A key that is read from a file may lead elsewhere.
        if key and not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise DamagedError(f"{self.url}: {key!r} is no key")
        try:
            yield f"{self._root}/{key}" if key else self._root
        # Clients raise whatever their network libraries raise.
        except Exception as error:
            said = " ".join(str(error).split())[:300] or type(error).__name__
            raise StoreError(
                f"{self.url}/{key}: could not {what} it: {said}. Look at the "
                "address, your credentials and the network, and repeat the "
                "same command; what is done is kept"
            ) from error


def _shared(record: CorpusRecord) -> CorpusRecord:
    """What of corpus.json machines agree on; places and times of files may differ."""
    same = CorpusConfig()
    return dataclasses.replace(record, config=same, summary={}, fingerprint="")
