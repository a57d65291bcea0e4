"""Losses that are kept row by row, while they are computed.

    STEM.npy         nats of every window, float32 [M, R]
    STEM.check.npy   CRC-32 of each row's key and losses, uint32 [M]
    STEM.keys.json   what each row is computed from, and which windows

A row counts only if its check fits its key: one that was never written, was
half written or has a flipped bit does not, and neither does one of a table
that was being replaced by another when the process was killed.
"""

import contextlib
import hashlib
import json
import os
import tokenize
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
Compute = Callable[[np.ndarray], Iterator[tuple[np.ndarray, np.ndarray]]]


def fill(
    stem: Path, keys: Sequence[str], windows: np.ndarray, compute: Compute
) -> np.ndarray:
    """The losses of a table, computing only rows that are not there.

    Args:
      stem: where the files lie, without their endings.
      keys: one for each mixture; rows with the same key are the same.
      windows: indices of the columns.
      compute: called with the indices of missing rows; yields some of them at
        a time, and their losses [k, R].

    Returns:
      float32 [M, R].
    """
    place = _known(stem, keys, windows)
    if place is None:
        place = _start(stem, keys, windows)
    first = {key: m for m, key in reversed(list(enumerate(keys)))}
    missing = sorted(m for key, m in first.items() if key not in place)
    nll_MR = np.lib.format.open_memmap(_array(stem), mode="r+")
    if missing:
        check_M = np.lib.format.open_memmap(_checks(stem), mode="r+")
        for some, nll_KR in compute(np.array(missing)):
            nll_MR[some] = nll_KR
            nll_MR.flush()  # before what vouches for it
            for m in some:
                check_M[m] = _check(keys[m], nll_MR[m])
                place[keys[m]] = int(m)
            check_M.flush()
    return np.array(nll_MR[[place[key] for key in keys]])


def read_array(path: Path, mapped: bool = False) -> np.ndarray:
    """An array on disk, if `mapped` without reading it yet.

    Raises:
      OSError: there is none.
      ValueError: it is damaged.
    """
    try:
        return np.load(
            path, mmap_mode="r" if mapped else None, allow_pickle=False
        )
    # numpy parses the header of a .npy as Python, and lets these through.
    except (EOFError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"damaged header: {error}") from error


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes an array in one step."""
    replace(path, lambda file: np.save(file, array))


def replace(path: Path, write: Callable[[Any], object]) -> None:
    """Writes a file under another name, then puts it in place."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _known(
    stem: Path, keys: Sequence[str], windows: np.ndarray
) -> dict[str, int] | None:
    """Good rows by key, if the files are those of this very table."""
    stored = _read(stem, windows)
    if stored is None or stored[0] != list(keys):
        return None
    return _good(*stored)


def _start(
    stem: Path, keys: Sequence[str], windows: np.ndarray
) -> dict[str, int]:
    """Files of a new table, with the rows of the old one that it shares."""
    nll_MR = np.full((len(keys), len(windows)), np.nan, np.float32)
    check_M = np.zeros(len(keys), np.uint32)
    found = {}
    if (stored := _read(stem, windows)) is not None:
        _, old_MR, old_M = stored
        good = _good(*stored)
        for m, key in enumerate(keys):
            if key in good:
                nll_MR[m] = old_MR[good[key]]
                check_M[m] = old_M[good[key]]
                found[key] = m
    record = {
        "format": FORMAT,
        "windows": _digest(windows),
        "keys": list(keys),
    }
    save_array(_array(stem), nll_MR)
    save_array(_checks(stem), check_M)
    replace(_keys(stem), lambda f: f.write(json.dumps(record).encode()))
    return found


def _read(
    stem: Path, windows: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray] | None:
    """Keys, losses and checks, if there are any for these windows.

    Unreadable is the same as not there: it is computed again.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(_keys(stem).read_text())
        keys = list(record["keys"])
        nll_MR = read_array(_array(stem), mapped=True)
        check_M = read_array(_checks(stem))
        if (
            record["format"] == FORMAT
            and record["windows"] == _digest(windows)
            and nll_MR.shape == (len(keys), len(windows))
            and nll_MR.dtype == np.float32
            and check_M.shape == nll_MR.shape[:1]
            and check_M.dtype == np.uint32
        ):
            return keys, nll_MR, check_M
    return None


def _good(
    keys: Iterable[str], nll_MR: np.ndarray, check_M: np.ndarray
) -> dict[str, int]:
    return {
        key: m
        for m, key in enumerate(keys)
        if check_M[m] == _check(key, nll_MR[m])
    }


def _check(key: str, nll_R: np.ndarray) -> int:
    return zlib.crc32(nll_R.tobytes(), zlib.crc32(key.encode()))


def _digest(windows: np.ndarray) -> str:
    little = np.ascontiguousarray(windows, "<i8")
    return hashlib.sha256(little.tobytes()).hexdigest()


def _array(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.npy")


def _checks(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.check.npy")


def _keys(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.keys.json")
