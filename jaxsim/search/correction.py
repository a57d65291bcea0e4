"""What truths taught about merges, as searches use it.

A search knows no truths and no statistics of them: it is handed something that
says how far training lies from a merge, and its derivatives.
"""

from typing import Protocol

import numpy as np


class Correction(Protocol):
    """What to add to bits per byte of merges, on the windows `rows`."""

    def shift(
        self, w_MC: np.ndarray, bits_MD: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """[M, D] for mixtures with these bits per byte."""

    def slope(
        self, w_C: np.ndarray, bits_DC: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """[D, C] derivatives of the shift, from those of the bits."""


def corrected(
    correction: Correction | None,
    w_MC: np.ndarray,
    bits_MD: np.ndarray,
    rows: np.ndarray,
) -> np.ndarray:
    """[M, D] bits per byte that training is expected to give."""
    if correction is None:
        return bits_MD
    return bits_MD + correction.shift(w_MC, bits_MD, rows)
