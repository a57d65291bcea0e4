"""Tables of integers as TFDS data sets in ArrayRecord, without TensorFlow.

TFDS needs `file_format="array_record"` in two places for that. Reading uses the
same builder class and not `builder_from_directory`, which imports any module that
a stored features.json names.
"""

import contextlib
import errno
import os
import resource
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import tensorflow_datasets as tfds

from jaxsim.errors import DamagedError

_OVERHEAD = 150_000  # bytes of the smallest table
_FILE = 1 << 28  # tokens of a file
_SPLIT = "rows"
_FORMAT = "array_record"
# Tables whose file is open, in the order of their last use.
_open: dict["TableReader", None] = {}
_lock = threading.Lock()


class _Info(tfds.core.DatasetInfo):
    """The description of a table."""

    def initialize_from_bucket(self) -> None:
        """Does nothing; TFDS would leave an empty folder in /tmp for each table."""


class Table(tfds.core.GeneratorBasedBuilder):
    """Rows of int32 `tokens` [L + 1] and of int64 numbers beside them."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS need not find this class by its name.
    SKIP_REGISTRATION = True
    name = "table"

    def __init__(self, folder: Path, width: int, columns: Iterable[str]):
        number = tfds.features.Scalar(dtype=np.int64)
        self._types = {
            "tokens": tfds.features.Tensor(shape=(width,), dtype=np.int32),
            **dict.fromkeys(columns, number),
        }
        super().__init__(data_dir=folder, file_format=_FORMAT)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(self._types)
        return _Info(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: object) -> NoReturn:
        raise NotImplementedError  # `write_table` does it row by row

    def _generate_examples(self) -> NoReturn:
        raise NotImplementedError


def write_table(
    folder: Path, chunks: Iterable[Mapping[str, np.ndarray]], size: int
) -> None:
    """Writes `tokens` [R, L + 1] and any columns [R], given in parts of some rows.

    Args:
      size: bytes of all arrays.
    """
    needed = _OVERHEAD + size
    if (free := shutil.disk_usage(folder.parent).free) < needed:
        what = f"disk full: {needed:,} bytes are needed, and {free:,} are free"
        raise OSError(errno.ENOSPC, what, str(folder.parent))
    writer = None
    with _full_disk(folder):
        for arrays in chunks:
            if writer is None:
                names = [name for name in arrays if name != "tokens"]
                table = Table(folder, width := arrays["tokens"].shape[1], names)
                Path(table.data_dir).mkdir(parents=True, exist_ok=True)
                # The usual writer would hold a gigabyte in memory, to shuffle.
                writer = tfds.core.SequentialWriter(
                    table.info, max(1, _FILE // width), file_format=_FORMAT
                )
                writer.initialize_splits([_SPLIT])
            rows = zip(*arrays.values(), strict=True)
            examples = [dict(zip(arrays, row, strict=True)) for row in rows]
            writer.add_examples({_SPLIT: examples})
        if writer:
            writer.close_all()


@contextlib.contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    """Turns ArrayRecord's `RuntimeError` for a full disk into Python's."""
    try:
        yield
    except RuntimeError as error:
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(folder)) from error
        raise


class TableReader:
    """Random access to a table; safe to use from several threads.

    Opening or reading a table that is missing or damaged raises `DamagedError`.
    """

    def __init__(
        self, folder: Path, what: str, width: int, columns: Sequence[str] = ()
    ):
        self._folder, self._what = folder, what
        self._width, self._columns = width, columns
        with self._damage():
            self._source = Table(folder, width, columns).as_data_source(split=_SPLIT)
            self._rows = len(self._source)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The tokens of the rows at `indices`, int32 [n, L + 1]."""
        return self.read(indices)["tokens"]

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The rows at `indices`, stacked; `tokens` is int32 [n, L + 1]."""
        if np.size(indices) and (np.min(indices) < 0 or np.max(indices) >= len(self)):
            raise IndexError(
                f"rows {np.min(indices)} to {np.max(indices)} of {self._what}, which "
                f"has {len(self)}"
            )
        with _lock, self._damage():
            self._keep_open()
            rows = self._source.__getitems__([int(i) for i in indices])
            # A truncated file silently gives empty records, which read as None.
            if any(value is None for row in rows for value in row.values()):
                raise ValueError("it is truncated, or holds other data")
            tokens = np.array([row["tokens"] for row in rows], np.int32)
            found = {"tokens": tokens.reshape(len(rows), self._width)}
            for column in self._columns:
                found[column] = np.array([row[column] for row in rows], np.int64)
            return found

    def _keep_open(self) -> None:
        """Closes the tables that were not used for longest, if too many are open."""
        _open.pop(self, None)
        _open[self] = None
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4  # -1: any number
        while 0 < most < len(_open):
            _open.pop(last := next(iter(_open)))
            with contextlib.suppress(RuntimeError):  # of a table that is damaged
                last._source.data_source.__exit__(None, None, None)

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        # TFDS, ArrayRecord and protobuf raise eight kinds of error, even
        # AssertionError, for files that are missing, truncated or changed.
        except Exception as error:
            raise DamagedError(
                f"{self._what}: cannot read {self._folder}: {error}; copy it "
                "again, or remove it and run `jaxsim prepare`"
            ) from error
