"""Decides how scoring is laid out on the devices, and estimates its cost.

Precision and attention depend on the platform alone and are resolved before
anything is loaded. The rest depends on memory: candidate shapes are tried, best
first, until a program fits according to the compiler's report.
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
from jaxsim.devices import attention_on, is_cpu, usable_memory
from jaxsim.errors import UserError
from jaxsim.model import Execution, LanguageModel

# Tokens times mixtures in one call, on one device or on those that share a
# model. It bounds what is lost when a call is interrupted, and the time between
# two updates of the progress bar.
CALL_TOKENS = 2**20
_MIXTURES_PER_DEVICE = 8
# Calls running or queued: with one queued, devices never wait for the host.
IN_FLIGHT = 2
# Tokens in a block. On two cores 1,000 to 2,000 were fastest: larger blocks do
# not fit in the caches. Merging by layer repeats for every block, so its blocks
# are larger.
_CPU_BLOCK = {"tree": 2**11, "layer": 2**12}
_ACCELERATOR_BLOCK = {"tree": 2**14, "layer": 2**15}
# Floating-point operations in the time to move a byte: 190 GFLOP/s and 40 GB/s
# on two cores (measured), 800 TFLOP/s and 4 TB/s on an accelerator (data
# sheets).
_CPU_BALANCE, _ACCELERATOR_BALANCE = 5, 200


@dataclasses.dataclass(frozen=True)
class Shape:
    """A candidate for the shape of a scoring program.

    Attributes:
      merge: 'tree' merges all parameters of a mixture before its windows,
        'layer' merges each layer when the model reaches it.
      rows: windows of full length in a block.
      divisor: divides the number of mixtures that a device takes at once.
    """

    merge: str
    rows: int
    divisor: int

    @property
    def tokens(self) -> int:
        """The largest number of tokens in a pass."""
        return CALL_TOKENS

    def mixtures(self, tokens: int) -> int:
        """Mixtures that a device takes in a call, for passes of `tokens`."""
        most = np.clip(CALL_TOKENS // tokens, 1, _MIXTURES_PER_DEVICE)
        return max(1, int(most) // self.divisor)


@dataclasses.dataclass(frozen=True)
class Expected:
    """Expected bytes on one device, or in the process if devices are CPUs.

    Attributes:
      runtime: Python, libraries and compiled programs; 0 on accelerators.
      pool: base and differences.
      temporaries: the largest program's; on a CPU those of all calls in flight,
        because they are allocated when a call is dispatched.
      arguments: windows of all passes.
      outputs: of two chunks, because one is fetched while the other is
        computed.
    """

    runtime: int
    pool: int
    temporaries: int
    arguments: int
    outputs: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Work:
    """Work of one call on one device.

    Attributes:
      merge_bytes: bytes of the pool that are read, and of merged parameters
        that are written and read.
      flops: model FLOPs.
      share: expected share of the time that goes into merging.
    """

    merge_bytes: int
    flops: float
    share: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """The layout of a scoring program, and what it is expected to need.

    Attributes:
      mixtures: mixtures in a call, on all devices.
      vectorized: mixtures that a device computes at once; with 1, they run
        one after another.
      rows: windows of full length in a block.
      tokens: tokens in the largest pass.
      merge: 'tree' or 'layer', see `Shape`.
      deltas: precision of the differences, 'float32' or 'bfloat16'.
      unroll: whether layers are unrolled instead of scanned.
      attention, precision: of the model.
      layout: devices along the mesh axes `mixture` and `model`.
      expected: expected memory.
      limit: bytes per device that may be used; 0 if unknown.
      work: of one call.
    """

    mixtures: int
    vectorized: int
    rows: int
    tokens: int
    merge: str
    deltas: str
    unroll: bool
    attention: str
    precision: str
    layout: tuple[int, int]
    expected: Expected
    limit: int
    work: Work

    @property
    def fits(self) -> bool:
        return not self.limit or self.expected.total <= self.limit

    def __str__(self) -> str:
        e, w = self.expected, self.work
        merged = "whole" if self.merge == "tree" else "layer by layer"
        layers = "unrolled" if self.unroll else "scanned"
        across, within = self.layout
        limit = _size(self.limit) if self.limit else "an unknown amount"
        return (
            f"plan: {self.mixtures} mixtures per call ({self.vectorized} at "
            f"once on each of {across} x {within} devices), blocks of "
            f"{self.rows} windows, passes of {self.tokens:,} tokens; merged "
            f"{merged} from {self.deltas} differences, layers {layers}, "
            f"{self.attention} attention in {self.precision}\n"
            f"plan: needs {_size(e.total)} of {limit}: pool {_size(e.pool)}, "
            f"temporaries {_size(e.temporaries)}, windows and results "
            f"{_size(e.arguments + e.outputs)}, everything else "
            f"{_size(e.runtime)}; a call moves {_size(w.merge_bytes)} to merge "
            f"and computes {w.flops / 1e12:.2g} TFLOP, so merging takes about "
            f"{w.share:.1%} of the time"
        )


def settled(config: ScoreConfig, model: LanguageModel, mesh: Mesh) -> ScoreConfig:
    """Resolves the `auto` settings that depend on the platform alone.

    Returns:
      `config` with a precision and an attention implementation.

    Raises:
      UserError: a setting cannot work on these devices.
    """
    precision = config.precision
    if precision == "auto":
        precision = "float32" if is_cpu(mesh) else "bfloat16"
    model_axis = _along(mesh, "model")
    c = model.config
    attention = attention_on(
        mesh.devices.flat[0],
        config.attention,
        c.dim // c.heads,
        precision,
        "config.score.attention",
        # Scoring gathers models; gradients of the same pool divide them.
        "does not divide over config.score.model_axis" * (model_axis > 1),
    )
    if model_axis > 1 and (c.heads % model_axis or c.kv_heads % model_axis):
        raise UserError(
            f"config.score.model_axis={model_axis}: does not divide "
            f"model.heads={c.heads} and model.kv_heads={c.kv_heads}"
        )
    return dataclasses.replace(config, precision=precision, attention=attention)


def execution_of(config: ScoreConfig) -> Execution:
    """Returns how to compute the model, from a settled config."""
    return Execution(
        attention=config.attention,
        unroll=config.unroll,
        precision=config.precision,
        loss_chunk=config.loss_chunk,
    )


def held_deltas(
    config: ScoreConfig, model: LanguageModel, members: int, mesh: Mesh
) -> str:
    """Chooses the precision of differences, 'float32' or 'bfloat16'.

    Unless it is configured, bfloat16 is chosen if a float32 pool would take
    more than half of the memory.
    """
    if config.deltas != "auto":
        return config.deltas
    size = 4 * model.parameter_count() * (members + 1)
    limit = memory_limit(config, mesh)
    fits = not limit or size / _along(mesh, "model") <= limit / 2
    return "float32" if fits else "bfloat16"


def memory_limit(config: ScoreConfig, mesh: Mesh, held: int = 0) -> int:
    """Bytes of a device that may be used; 0 if unknown.

    Args:
      config: its `memory` takes precedence.
      mesh: all its devices are like the first. CPU devices are one process, and
        memory that other processes use does not count as free.
      held: bytes that this process already holds, which are not free but may
        be used.
    """
    if config.memory:
        return int(config.memory * 1e9)
    return usable_memory(mesh, held)


def shapes(config: ScoreConfig, length: int, on_cpu: bool) -> Iterator[Shape]:
    """Yields shapes to try, best first; settings in `config` are kept."""
    merges = ("tree", "layer") if config.merge == "auto" else (config.merge,)
    block = _CPU_BLOCK if on_cpu else _ACCELERATOR_BLOCK
    # Fewer mixtures at once need less memory. A CPU takes one at a time anyway.
    divisors = (1,) if on_cpu or config.chunk else (1, 2, 4, 8)
    for merge in merges:
        rows = config.rows or max(1, block[merge] // length)
        for divisor in divisors:
            yield Shape(merge, rows, divisor)
    while not config.rows and rows > 1:
        rows //= 2
        yield Shape(merge, rows, divisor)


def work_of_call(
    model: LanguageModel,
    shape: Shape,
    mixtures: int,
    vectorized: int,
    blocks: int,
    tokens: int,
    length: int,
    pool: int,
    mesh: Mesh,
) -> Work:
    """Counts the work of one call on one device.

    Mixtures that are computed at once read the pool together: once per pass if
    they are merged whole, and once per block if they are merged by layer.

    Args:
      model: of the pool.
      shape: of the program.
      mixtures: mixtures in the call, on this device.
      vectorized: mixtures that are computed at once.
      blocks: blocks of the pass.
      tokens: tokens of the pass.
      length: tokens of a window.
      pool: bytes of the pool on this device.
      mesh: of scoring.
    """
    within = _along(mesh, "model")
    merges = blocks // within if shape.merge == "layer" else 1
    merged = 4 * model.parameter_count() // within
    reads = -(-mixtures // vectorized)
    merge_bytes = merges * (reads * pool + 2 * mixtures * merged)
    flops = model.forward_flops(mixtures * tokens, length) / within
    balance = _CPU_BALANCE if is_cpu(mesh) else _ACCELERATOR_BALANCE
    spent = balance * merge_bytes
    return Work(merge_bytes, flops, spent / (spent + flops))


def process_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def bytes_of(tree: Any) -> int:
    """Bytes on one device, of a tree of arrays or of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _along(mesh: Mesh, axis: str) -> int:
    return int(mesh.shape.get(axis, 1))


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
