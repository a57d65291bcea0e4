"""An object store in the memory of this process."""

import uuid

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from jaxsim.pool.bucket import Objects


class InMemory(MemoryFileSystem):
    """Objects appear in one step, as in real stores; safe to use from threads."""

    protocol = "inmemory"
    store: dict = {}  # noqa: RUF012, shared, as in its parent

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        path = self._strip_protocol(path)
        file = self._open(f"{path}.{uuid.uuid4().hex}", "wb")
        file.write(value)
        file.commit()
        whole = self.store.pop(file.path)
        if mode == "create":
            if self.store.setdefault(path, whole) is not whole:
                raise FileExistsError(path)
        else:
            self.store[path] = whole


def empty_store() -> Objects:
    fsspec.register_implementation("inmemory", InMemory, clobber=True)
    InMemory.store.clear()
    return Objects("inmemory://pool")
