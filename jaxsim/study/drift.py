"""How far members moved from the seed, and in which directions."""

from typing import Any

import jax
import numpy as np

from jaxsim.mixture.merge import HALVES
from jaxsim.mixture.stack import Stack

_BLOCK_NUMBERS = 2**22  # of differences in float64: 32 MB


def relative_drift(params: Any, seed: Any) -> float:
    """||params - seed|| / ||seed||, over all leaves, in float64."""
    moved = jax.tree.map(np.subtract, params, seed)
    return float(np.sqrt(_square(moved) / _square(seed)))


def geometry(stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """Drift [C], and cosines [C, C] between differences from the seed.

    A member that is the seed has cosines of 0. A block of the pool is held in
    float64 at a time.
    """
    gram_CC = np.zeros((len(stack.names),) * 2)
    for d_C in jax.tree.leaves(stack.delta_C):
        step = max(1, _BLOCK_NUMBERS * d_C.shape[0] // d_C.size)
        for start in range(0, d_C.shape[0], step):
            block = np.asarray(d_C[start : start + step])
            if block.dtype == HALVES:
                block = (block.astype(np.uint32) << 16).view(np.float32)
            block = np.moveaxis(block, 1, 0).astype(np.float64)
            block = block.reshape(len(block), -1)
            gram_CC += block @ block.T
    norm_C = np.sqrt(np.diag(gram_CC))
    apart_C = np.where(norm_C > 0, norm_C, np.inf)
    cosine_CC = gram_CC / np.outer(apart_C, apart_C)
    return norm_C / np.sqrt(_square(stack.seed)), cosine_CC


def _square(tree: Any) -> float:
    return sum(
        float(np.sum(np.square(leaf, dtype=np.float64)))
        for leaf in map(np.asarray, jax.tree.leaves(tree))
    )
