"""Arrays and files that are replaced in one step."""

import os
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def read_array(path: Path) -> np.ndarray:
    """An array on disk.

    Raises:
      OSError: there is none.
      ValueError: it is damaged.
    """
    try:
        return np.load(path, allow_pickle=False)
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
