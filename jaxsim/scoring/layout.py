"""How scoring is laid out: settings, shapes of calls, windows in blocks.

Nothing here compiles or computes. A call evaluates some mixtures on at most `blocks`
blocks of windows. Short windows are padded to the next of eight lengths, and a block
of them holds more, so that all blocks have the same number of tokens.
"""

import dataclasses
import math
from collections.abc import Iterator
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
# Tokens in a block. On two cores 1,000 to 2,000 were fastest: larger blocks do not
# fit in the caches. A backward pass keeps the activations of all layers.
_CPU_BLOCK, _BLOCK, _GRADIENT_BLOCK = 2**10, 2**14, 2**13
# Evenly spaced lengths that windows are padded to. With only full, half and quarter
# length, Python docstrings were scored at three quarters of the speed
# (`benchmarks/scoring.py`).
_LENGTHS = 8


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shapes of the calls of one program, on each device.

    Attributes:
      mixtures: mixtures that are computed at once.
      windows: windows of full length in a block.
      blocks: the most blocks in a call.
      length: tokens of a window of full length.
      remat: what a backward pass recomputes, see `Execution`.
    """

    mixtures: int
    windows: int
    blocks: int
    length: int
    remat: str = "none"

    def shape(self, length: int) -> tuple[int, int, int]:
        """Blocks T, windows B and length L of calls for windows of `length`."""
        return self.blocks, self.windows * self.length // length, length


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
    block = _CPU_BLOCK if on_cpu else _GRADIENT_BLOCK if gradient else _BLOCK
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


def lengths_of(evaluation: EvaluationSet, layout: Layout) -> list[int]:
    """Lengths that windows are padded to, shortest first.

    Of evenly spaced lengths, those with enough windows of the whole set to fill a
    block, and the full one. No program is compiled for a few windows, nor for a new
    choice of windows.
    """
    found: list[int] = []
    for part in range(1, _LENGTHS + 1):
        length = -(-layout.length * part // _LENGTHS)
        longer_R = evaluation.length_R > max(found, default=0)
        windows = np.count_nonzero(longer_R & (evaluation.length_R <= length))
        if part == _LENGTHS or windows >= layout.shape(length)[1]:
            found.append(length)
    return found


def arrange(
    evaluation: EvaluationSet,
    rows: np.ndarray,
    layout: Layout,
    lengths: list[int],
    devices: int,
) -> Iterator[Call]:
    """Divides windows into calls.

    Windows that do not fill a block are padded to the next length.

    Args:
      evaluation: the evaluation set.
      rows: indices of windows, in any order.
      layout: of the program.
      lengths: that windows are padded to, see `lengths_of`.
      devices: how many share the windows; blocks go to them in turn.
    """
    index_R = np.searchsorted(lengths, evaluation.length_R[rows])
    left = np.zeros(len(rows), bool)
    for index in np.unique(index_R):
        left |= index_R == index
        shape = blocks, windows, _ = layout.shape(lengths[index])
        if left.sum() < windows and index != index_R.max():
            continue
        here, left[:] = np.flatnonzero(left), False
        each = devices * blocks * windows
        for start in range(0, len(here), each):
            some = here[start : start + each]
            yield _call(evaluation, rows, some, shape, devices)


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
    count = np.int32(turn_R[-1] + 1)
    places = block_R * windows + at_R
    return Call(at, places, Blocks(tokens_TBL1, scored_TBL, count))


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
        device, config.attention, c.dim // c.heads, precision, "config.score.attention"
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
