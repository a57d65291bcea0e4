"""Objects of a store by key, through fsspec: s3://, gs://.

What is asked of a store: an object appears whole, whoever lists or reads sees
what was written before, and an object that is there is not replaced when one
is to be created (if-none-match on S3, if-generation-match 0 on GCS).
"""

import contextlib
import json
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from jaxsim.errors import DamagedError, JaxsimError, UserError
from jaxsim.pool.manifest import check_inside

_EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}  # of pip, by protocol


class StoreError(JaxsimError):
    """The object store did not do what it was asked; nothing is lost."""


class Objects:
    """The objects below a URL; keys are relative to it, with slashes.

    Raises:
      UserError: the URL is none, or its client is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        protocol, separator, _ = url.partition("://")
        if not separator:
            raise UserError(
                f"config.bucket={url!r}: must be a URL, as in s3://NAME/pool "
                "or gs://NAME/pool"
            )
        try:
            # Listings are asked for anew: others write there.
            self._files, self._root = fsspec.core.url_to_fs(
                self.url, use_listings_cache=False
            )
        except (ImportError, ValueError) as error:
            extra = _EXTRAS.get(protocol)
            raise UserError(
                f"config.bucket={url!r}: {error}"
                + (f"; pip install 'jaxsim[{extra}]'" if extra else "")
            ) from error
        if protocol in ("http", "https"):
            raise UserError(
                f"config.bucket={url!r}: must be s3://NAME/pool or "
                "gs://NAME/pool; the address of another S3 server is in "
                "AWS_ENDPOINT_URL"
            )
        if isinstance(self._files, LocalFileSystem):
            raise UserError(
                f"config.bucket={url!r}: a file system that all machines see "
                "needs no bucket; give it as --workdir"
            )

    def check(self) -> None:
        """Tries what everything here rests on.

        Raises:
          UserError: there is no such bucket, or no right to write there.
          StoreError: the store cannot be reached, or replaces what exists.
        """
        try:
            self._try()
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

    def _try(self) -> None:
        key = f".probe-{uuid.uuid4().hex}"
        first, second = self.create(key, b"1"), self.create(key, b"2")
        kept = self.read(key)
        self.delete([key])
        if (first, second, kept) != (True, False, b"1"):
            raise StoreError(
                f"{self.url}: this store replaces objects that are to be "
                "created once (it ignores if-none-match), so that two machines "
                "could publish one member; use another store, or a --workdir "
                "on a shared file system"
            )

    def create(self, key: str, content: bytes) -> bool:
        """Creates an object in one step; false if there is one."""
        with self._asked("create", key):
            try:
                self._files.pipe_file(self._path(key), content, mode="create")
            except FileExistsError:
                return False
        return True

    def write(self, key: str, content: bytes) -> None:
        """Creates or replaces an object in one step."""
        with self._asked("write", key):
            self._files.pipe_file(self._path(key), content)

    def read(self, key: str) -> bytes | None:
        """The content of an object; None if there is none."""
        with self._asked("read", key):
            try:
                content: bytes = self._files.cat_file(self._path(key))
            except FileNotFoundError:
                return None
        return content

    def read_json(self, key: str) -> dict[str, Any] | None:
        """The content of an object, as plain data; None if there is none.

        Raises:
          DamagedError: it is no JSON object.
        """
        content = self.read(key)
        if content is None:
            return None
        try:
            data = json.loads(content)
        except ValueError as error:
            raise DamagedError(f"{self.url}/{key}: {error}") from error
        if not isinstance(data, dict):
            raise DamagedError(f"{self.url}/{key}: not an object")
        return data

    def list(self, prefix: str) -> dict[str, int]:
        """Bytes of all objects below `prefix`, by the rest of their keys.

        Raises:
          DamagedError: a key would lead out of the folder it is copied to.
        """
        root = self._path(prefix)
        with self._asked("list", prefix):
            found: dict[str, Any] = self._files.find(root, detail=True)
        keys = {
            path[len(root) + 1 :]: int(info["size"])
            for path, info in found.items()
            if path.startswith(f"{root}/") and not path.endswith("/")
        }
        for key in keys:
            check_inside(f"{self.url}/{prefix}", key)
        return keys

    def send(self, path: Path, key: str) -> None:
        """Creates or replaces an object from a file."""
        with self._asked("write", key):
            self._files.put_file(str(path), self._path(key))

    def fetch(self, key: str, path: Path) -> None:
        """Makes a file from an object; it appears whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with self._asked("read", key):
                self._files.get_file(self._path(key), str(part))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects; those that are gone already are no error."""
        for key in keys:
            with (
                self._asked("delete", key),
                contextlib.suppress(FileNotFoundError),
            ):
                self._files.rm_file(self._path(key))

    def _path(self, key: str) -> str:
        """Where an object lies in the store.

        Raises:
          DamagedError: the key leads elsewhere; parts of it may be read from
            other objects.
        """
        if key and not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise DamagedError(f"{self.url}: {key!r} is no key")
        return f"{self._root}/{key}" if key else self._root

    @contextlib.contextmanager
    def _asked(self, what: str, key: str) -> Iterator[None]:
        try:
            yield
        except DamagedError:
            raise  # of the key, before the store is asked
        # Clients of stores raise what their network libraries do.
        except Exception as error:
            said = " ".join(str(error).split())[:300] or type(error).__name__
            raise StoreError(
                f"{self.url}/{key}: could not {what} it: {said}. Look at the "
                "address, your credentials and the network, and repeat the "
                "same command; what is done is kept"
            ) from error
