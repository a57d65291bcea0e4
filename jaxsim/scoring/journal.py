"""An append-only cache of losses, saved row by row as they are computed.

A journal is a file of records of one size:

    key      32 bytes: SHA-256 of everything that the values depend on
    values   float32, little-endian
    check    CRC-32 of both, 4 bytes, little-endian

A record that is not finite or whose check fails, because it was half written or
a bit flipped, is ignored: its values are computed again and appended. Several
processes of one machine may append to the same file.
"""

import fcntl
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

_KEY, _CHECK = 32, 4
Compute = Callable[[np.ndarray], Iterator[tuple[np.ndarray, np.ndarray]]]


class Journal:
    """Reads and appends the rows of one file, by key.

    Args:
      path: of the file, which is created with its folder by the first append.
      width: number of values in a row.
    """

    def __init__(self, path: Path, width: int) -> None:
        self.path = Path(path)
        self.width = width
        self._size = _KEY + width * 4 + _CHECK
        self._record_of: dict[bytes, int] = {}
        self._indexed = 0

    def fill(self, keys: Sequence[str], compute: Compute) -> np.ndarray:
        """Returns the values of all rows, computing only the missing ones.

        Each chunk is appended as soon as it is computed, so that a killed
        process loses at most one chunk.

        Args:
          keys: M hexadecimal SHA-256; rows with equal keys are equal.
          compute: called with the indices of missing rows; yields chunks of k
            indices and their values [k, width].

        Returns:
          float32 [M, width].

        Raises:
          RuntimeError: `compute` left out a row.
        """
        raw = [bytes.fromhex(key) for key in keys]
        first: dict[bytes, int] = {}
        for m, key in enumerate(raw):
            first.setdefault(key, m)
        values_MW = np.empty((len(keys), self.width), np.float32)
        missing = self._read(first, values_MW)
        if missing:
            left = set(missing)
            for some, values_KW in compute(np.array(missing)):
                values_MW[some] = values_KW
                self._append([raw[m] for m in some], values_MW[some])
                left.difference_update(some.tolist())
            if left:
                raise RuntimeError(f"rows {sorted(left)} were not computed")
        for m, key in enumerate(raw):
            if first[key] != m:
                values_MW[m] = values_MW[first[key]]
        return values_MW

    def _read(self, wanted: dict[bytes, int], values_MW: np.ndarray) -> list[int]:
        """Fills the rows on file, and returns the indices of the others."""
        if not self.path.exists():
            return list(wanted.values())
        missing = []
        with self.path.open("rb", buffering=0) as file:
            self._index(file.fileno())
            for key, m in wanted.items():
                record = b""
                if (at := self._record_of.get(key)) is not None:
                    record = os.pread(file.fileno(), self._size, at * self._size)
                fits = record.startswith(key) and _fits(record)
                if fits:
                    values_MW[m] = np.frombuffer(record, "<f4", self.width, offset=_KEY)
                if not fits or not np.isfinite(values_MW[m]).all():
                    missing.append(m)
        return missing

    def _index(self, file: int) -> None:
        """Indexes the keys appended since the last call; the last one wins.

        The rest of a record is read and checked only when it is requested.
        """
        count = os.fstat(file).st_size // self._size
        if count < self._indexed:  # the file was deleted
            self._record_of.clear()
            self._indexed = 0
        for i in range(self._indexed, count):
            self._record_of[os.pread(file, _KEY, i * self._size)] = i
        self._indexed = count

    def _append(self, keys: Sequence[bytes], values_KW: np.ndarray) -> None:
        values_KW = np.ascontiguousarray(values_KW, "<f4")
        records = []
        for key, values_W in zip(keys, values_KW, strict=True):
            body = key + values_W.tobytes()
            records += [body, _check(body)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Remove the partial record of a killed process, so that records
            # stay aligned.
            size = file.seek(0, os.SEEK_END)
            file.truncate(size - size % self._size)
            _write(file.fileno(), b"".join(records))


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _check(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(_CHECK, "little")


def _fits(record: bytes) -> bool:
    return _check(record[:-_CHECK]) == record[-_CHECK:]
