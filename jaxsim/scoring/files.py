"""Files and arrays that are written atomically."""

import os
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def read_array(path: Path) -> np.ndarray:
    """Reads an array.

    Raises:
      OSError: there is no such file.
      ValueError: the file is damaged.
    """
    try:
        return np.load(path, allow_pickle=False)
    # NumPy parses the header of a .npy file as Python, and lets these through.
    except (EOFError, SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"damaged header: {error}") from error


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes an array atomically."""
    replace(path, lambda file: np.save(file, array))


def replace(path: Path, write: Callable[[Any], object]) -> None:
    """Writes a file under a temporary name, then moves it into place."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
