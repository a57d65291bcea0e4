"""How scoring is laid out: settings, shapes of calls, windows in blocks.

Nothing here compiles or computes. A call evaluates some mixtures on at most `blocks`
blocks of windows. Short windows are padded to one of a few lengths, and a block of them
holds more, so that all blocks have about the same number of tokens.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import psutil
from jax.sharding import Mesh

from jaxsim.config import ScoreConfig
from jaxsim.devices import attention_on, is_cpu, precision_on, usable_memory
from jaxsim.model import Execution, LanguageModel
from jaxsim.scoring.evaluation import EvaluationSet, scored_mask
from jaxsim.scoring.program import Blocks

# Tokens that a device evaluates for a mixture in one call: few enough that an
# interrupted call loses little, and enough that merging costs nothing beside them.
_CALL = 2**17
# Mixtures that an accelerator computes at once. Batched products are slow on a CPU.
_MIXTURES = 8
# Calls running or queued: with one queued, devices never wait for the host.
IN_FLIGHT = 2
# Tokens in a block, on a CPU and elsewhere. Larger blocks do not fit in a CPU's caches.
# A backward pass keeps the activations of all layers, and pads a block of each domain.
_CPU_BLOCK, _BLOCK = 2**11, 2**14
_CPU_GRADIENT_BLOCK, _GRADIENT_BLOCK = 2**10, 2**13
# Evenly spaced lengths that windows are padded to. With only full, half and quarter
# length, Python docstrings were scored at three quarters of the speed
# (`benchmarks/scoring.py`).
_LENGTHS = 8
# The share of tokens that another length must save: its programs must be compiled.
_WORTH = 0.02


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shapes of the calls of one program, on each device.

    Attributes:
      mixtures: mixtures that are computed at once.
      windows: the most windows of full length in a block.
      blocks: the most blocks in a call.
      length: tokens of a window of full length.
      remat: what a backward pass recomputes, see `Execution`.
      buckets: lengths that windows are padded to, shortest first, and the number of
        such windows in a block; see `bucketed`.
    """

    mixtures: int
    windows: int
    blocks: int
    length: int
    remat: str = "none"
    buckets: tuple[tuple[int, int], ...] = ()

    def shape(self, length: int) -> tuple[int, int, int]:
        """Blocks T, windows B and length L of calls for windows of `length`."""
        most = self.windows * self.length // length
        return self.blocks, dict(self.buckets).get(length, most), length


@dataclasses.dataclass(frozen=True)
class Call:
    """Windows of one length, arranged in blocks for the devices that share them.

    Attributes:
      at: indices of the windows among those that were asked for.
      places: their places in the results, over flattened blocks.
      blocks: on the host, T of all those devices and the count of each; no target of
        padding counts.
    """

    at: np.ndarray
    places: np.ndarray
    blocks: Blocks


def layouts(
    config: ScoreConfig, length: int, on_cpu: bool, gradient: bool = False
) -> Iterator[Layout]:
    """Yields layouts to try, best first; what `config` sets is kept.

    Args:
      config: `rows` and `chunk`; a chunk is of one device.
      length: tokens of a window of full length.
      on_cpu: whether devices are CPUs.
      gradient: whether it is for `program.gradient`.
    """
    sizes = (_CPU_BLOCK, _BLOCK), (_CPU_GRADIENT_BLOCK, _GRADIENT_BLOCK)
    block = sizes[gradient][not on_cpu]
    windows = config.rows or max(1, block // length)
    mixtures = 1 if gradient else config.chunk or (1 if on_cpu else _MIXTURES)

    def layout(remat: str = "none") -> Layout:
        blocks = max(1, _CALL // (windows * length))
        return Layout(mixtures, windows, blocks, length, remat)

    yield layout()
    while mixtures > 1 and not config.chunk:
        mixtures //= 2
        yield layout()
    while True:
        if gradient:
            yield layout("full")
        if config.rows or windows == 1:
            return
        windows //= 2
        yield layout()


def bucketed(layout: Layout, length_R: np.ndarray) -> Layout:
    """Chooses the buckets for all windows of an evaluation set.

    They are those of evenly spaced lengths with which windows and padding are fewest
    tokens, in equal blocks: 65 windows are 5 blocks of 13, not of 16. They are chosen
    once, so that no new choice of windows compiles a program.

    Args:
      layout: with the most windows in a block.
      length_R: tokens of all windows.
    """
    parts = range(1, _LENGTHS + 1)
    lengths = sorted({-(-layout.length * part // _LENGTHS) for part in parts})
    lengths = lengths[: 1 + int(np.searchsorted(lengths, length_R.max()))]

    def sizes(chosen: Sequence[int], count: np.ndarray) -> np.ndarray:
        most = np.array([layout.shape(length)[1] for length in chosen])
        return np.maximum(1, -(-count // np.maximum(1, -(-count // most))))

    chosen = _fewest_tokens(length_R, lengths, sizes)
    count = _counts(length_R, chosen)
    size = sizes(chosen, count)
    blocks = min(layout.blocks, int((-(-count // size)).max()))
    buckets = tuple(zip(chosen, size.tolist(), strict=True))
    return dataclasses.replace(layout, blocks=blocks, buckets=buckets)


def arrange(
    evaluation: EvaluationSet, rows: np.ndarray, layout: Layout, devices: int
) -> Iterator[Call]:
    """Divides windows into calls.

    Args:
      evaluation: the evaluation set.
      rows: indices of windows, in any order.
      layout: of the program; of its buckets those are used that pad least.
      devices: how many share the windows; blocks go to them in turn.
    """
    length_R = evaluation.length_R[rows]
    lengths: Sequence[int] = [length for length, _ in layout.buckets]
    lengths = _fewest_tokens(
        length_R,
        lengths,
        lambda chosen, _: np.array([dict(layout.buckets)[n] for n in chosen]),
    )
    index_R = np.searchsorted(lengths, length_R)
    for index in np.unique(index_R):
        shape = blocks, windows, _ = layout.shape(lengths[index])
        here, each = np.flatnonzero(index_R == index), devices * blocks * windows
        for start in range(0, len(here), each):
            some = here[start : start + each]
            yield _call(evaluation, rows, some, shape, devices)


def _fewest_tokens(
    length_R: np.ndarray,
    lengths: Sequence[int],
    sizes: Callable[[Sequence[int], np.ndarray], np.ndarray],
) -> Sequence[int]:
    """The lengths with which windows and the padding of blocks are fewest tokens.

    The longest is kept, and each other one must save `_WORTH` of the tokens.

    Args:
      length_R: tokens of windows.
      lengths: to choose from.
      sizes: windows in a block, by some lengths and the number of windows of each.
    """

    def tokens(chosen: Sequence[int]) -> float:
        count = _counts(length_R, chosen)
        size = sizes(chosen, count)
        padded = (-(-count // size) * size * chosen).sum()
        return float(padded * (1 + _WORTH * len(chosen)))

    subsets = (
        (*shorter, lengths[-1])
        for count in range(len(lengths))
        for shorter in itertools.combinations(lengths[:-1], count)
    )
    return min(subsets, key=tokens)


def _counts(length_R: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """The number of windows that are padded to each of these lengths."""
    return np.bincount(np.searchsorted(lengths, length_R), minlength=len(lengths))


def _call(
    evaluation: EvaluationSet,
    rows: np.ndarray,
    at: np.ndarray,
    shape: tuple[int, int, int],
    devices: int,
) -> Call:
    (blocks, windows, length), rows = shape, rows[at]
    block_R, at_R = np.divmod(np.arange(len(rows)), windows)
    turn_R, device_R = np.divmod(block_R, devices)
    block_R = device_R * blocks + turn_R
    tokens_TBL1 = np.zeros((devices * blocks, windows, length + 1), np.int32)
    tokens_TBL1[block_R, at_R] = evaluation.tokens_RL1[rows, : length + 1]
    scored_TBL = np.zeros((devices * blocks, windows, length), bool)
    scored_TBL[block_R, at_R] = scored_mask(evaluation, rows)[:, :length]
    weight_TB = np.zeros((devices * blocks, windows))
    weight_TB[block_R, at_R] = evaluation.weight_R[rows]
    count = np.int32(turn_R[-1] + 1)
    places = block_R * windows + at_R
    return Call(at, places, Blocks(tokens_TBL1, scored_TBL, weight_TB, count))


def settled(config: ScoreConfig, model: LanguageModel, mesh: Mesh) -> ScoreConfig:
    """Resolves the `auto` settings that depend on the platform alone.

    Returns:
      `config` with a precision and an attention implementation.

    Raises:
      UserError: a setting cannot work on these devices.
    """
    device, c = mesh.devices.flat[0], model.config
    precision = precision_on(device, config.precision, "config.score.precision")
    attention = attention_on(
        device, config.attention, c.head_size, precision, "config.score.attention"
    )
    return dataclasses.replace(config, precision=precision, attention=attention)


def execution_of(config: ScoreConfig, remat: str = "none") -> Execution:
    """How to compute the model, from a settled config."""
    return Execution(
        attention=config.attention,
        unroll=config.unroll,
        remat=remat,
        precision=config.precision,
        loss_chunk=config.loss_chunk,
    )


def held_deltas(
    config: ScoreConfig, model: LanguageModel, members: int, mesh: Mesh
) -> str:
    """Chooses the precision of differences, 'float32' or 'bfloat16'.

    Unless it is configured, bfloat16 is chosen if a float32 pool would take more than
    half of the memory.
    """
    if config.deltas != "auto":
        return config.deltas
    size = 4 * model.parameter_count() * (members + 1)
    limit = memory_limit(config, mesh)
    fits = not limit or size / mesh.shape["model"] <= limit / 2
    return "float32" if fits else "bfloat16"


def memory_limit(config: ScoreConfig, mesh: Mesh) -> int:
    """Bytes of a device that may be used; 0 if unknown.

    `config.memory` takes precedence. CPU devices are one process: what it holds
    already may be used, what other processes hold may not.
    """
    if config.memory:
        return int(config.memory * 1e9)
    return usable_memory(mesh, process_bytes() if is_cpu(mesh) else 0)


def process_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def bytes_of(tree: Any) -> int:
    """Bytes on one device, of a tree of arrays or of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
