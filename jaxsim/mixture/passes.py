"""Evaluation windows as programs take them: by length, in blocks, padded."""

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh

from jaxsim.mesh import replicated
from jaxsim.mixture.evaluation import EvaluationSet, scored_mask


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
      mesh: every device of it gets the windows.
    """
    e, full = evaluation, evaluation.tokens_RL1.shape[1] - 1
    buckets = sorted({full, -(-full // 2), -(-full // 4)})
    bucket_R = np.searchsorted(buckets, e.length_R[rows])
    passes = []
    for index, length in enumerate(buckets):
        here = np.asarray(rows)[bucket_R == index]
        if not len(here):
            continue
        count = -(-len(here) * length // most_tokens)
        size = min(block * full // length, len(here))
        blocks = -(-len(here) // (count * size))
        # Even blocks: 65 windows are 5 x 13 and not 4 x 16 and one more.
        size = -(-len(here) // (count * blocks))
        for part in range(count):
            each = blocks * size
            some = here[part * each : (part + 1) * each]
            passes.append(_make_pass(e, some, blocks, size, length, mesh))
    return passes


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
    everywhere = replicated(mesh)
    return Pass(
        rows,
        jax.device_put(tokens.reshape(*shape, -1), everywhere),
        jax.device_put(scored.reshape(*shape, -1), everywhere),
    )
