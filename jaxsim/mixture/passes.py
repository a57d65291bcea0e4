"""Evaluation windows as programs take them: by length, in blocks, padded."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from jaxsim.mesh import blocks_sharding
from jaxsim.mixture.evaluation import EvaluationSet, scored_mask

# Lengths that windows are padded to, evenly spaced. Docstrings need them: with
# the half and the quarter alone they were scored at three quarters of the
# speed (`benchmarks/scoring.py`).
_LENGTHS = 8


@dataclasses.dataclass(frozen=True)
class Pass:
    """Windows of one length bucket that go through a program together.

    Attributes:
      rows: indices into the evaluation set, without padding.
      tokens_TBL1: T blocks of B windows, int32.
      scored_TBL: bool, which targets count; none of a padding window.
    """

    rows: np.ndarray
    tokens_TBL1: jax.Array
    scored_TBL: jax.Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """T, B and L."""
        blocks, rows, length = self.scored_TBL.shape
        return blocks, rows, length


def make_passes(
    evaluation: EvaluationSet,
    rows: np.ndarray,
    block: int,
    most_tokens: int,
    mesh: Mesh,
) -> list[Pass]:
    """`rows` by length bucket, in equal passes of whole blocks.

    Args:
      evaluation: the windows that `rows` index.
      rows: some of them, in any order.
      block: windows of full length in a block, at most; of shorter ones as
        many as have no more tokens.
      most_tokens: of a pass, about.
      mesh: of scoring; blocks are divided over its axis `model`.
    """
    e, full = evaluation, evaluation.tokens_RL1.shape[1] - 1
    devices = int(mesh.shape["model"])
    passes = []
    for length, here in _by_length(e, np.asarray(rows), block):
        count = -(-len(here) * length // most_tokens)
        size = min(block * full // length, len(here))
        blocks = -(-len(here) // (count * size))
        blocks = -(-blocks // devices) * devices
        # Even blocks: 65 windows are 5 x 13 and not 4 x 16 and one more.
        size = -(-len(here) // (count * blocks))
        for part in range(count):
            each = blocks * size
            some = here[part * each : (part + 1) * each]
            passes.append(_make_pass(e, some, blocks, size, length, mesh))
    return passes


def _by_length(
    evaluation: EvaluationSet, rows: np.ndarray, block: int
) -> Iterator[tuple[int, np.ndarray]]:
    """`rows` by the length that they are padded to, the shortest first.

    Windows that do not fill a block go with those of the next length, so that
    no program is compiled for a few of them.
    """
    full = evaluation.tokens_RL1.shape[1] - 1
    lengths = sorted({-(-full * i // _LENGTHS) for i in range(1, _LENGTHS + 1)})
    index_R = np.searchsorted(lengths, evaluation.length_R[rows])
    left = np.zeros(len(rows), bool)
    for index in np.unique(index_R):
        left |= index_R == index
        length = lengths[index]
        if left.sum() * length >= block * full or index == index_R.max():
            yield length, rows[left]
            left[:] = False


def _make_pass(
    evaluation: EvaluationSet,
    rows: np.ndarray,
    blocks: int,
    block: int,
    length: int,
    mesh: Mesh,
) -> Pass:
    shape = (blocks, block)
    tokens = np.zeros((blocks * block, length + 1), np.int32)
    tokens[: len(rows)] = evaluation.tokens_RL1[rows, : length + 1]
    scored = np.zeros((blocks * block, length), bool)
    scored[: len(rows)] = scored_mask(evaluation, rows)[:, :length]
    where = blocks_sharding(mesh)
    return Pass(
        rows,
        jax.device_put(tokens.reshape(*shape, -1), where),
        jax.device_put(scored.reshape(*shape, -1), where),
    )
