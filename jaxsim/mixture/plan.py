"""How scoring is laid out on the devices: decided, counted and told.

What depends on the platform alone is settled before anything is loaded. What
depends on memory is the first of a list of shapes, best first, whose program
fits by the compiler's own report.
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

# Tokens times mixtures of one call on one device, or on those that share a
# model: bounds what is lost when a call is interrupted, and how long progress
# stands still.
CALL_TOKENS = 2**20
_MIXTURES_PER_DEVICE = 8
# Calls that are computed or wait: with one waiting, no device waits for us.
IN_FLIGHT = 2
# Tokens of a block. On two cores 1,000 to 2,000 were fastest: more leave the
# caches. A layer is merged again for every block, so its blocks are larger.
_CPU_BLOCK = {"tree": 2**11, "layer": 2**12}
_ACCELERATOR_BLOCK = {"tree": 2**14, "layer": 2**15}
# Floating-point operations in the time of a byte: 190 G/s against 40 GB/s on
# two cores (measured), 800 T/s against 4 TB/s on an accelerator (data sheets).
_CPU_BALANCE, _ACCELERATOR_BALANCE = 5, 200


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a scoring program can be like.

    Attributes:
      merge: 'tree', a mixture's parameters whole, or 'layer', one at a time.
      rows: windows of full length in a block.
      divisor: of the mixtures that a device would take at once.
    """

    merge: str
    rows: int
    divisor: int

    @property
    def tokens(self) -> int:
        """Of a pass, at most."""
        return CALL_TOKENS

    def mixtures(self, tokens: int) -> int:
        """Of a device in one call, for passes of so many tokens."""
        most = np.clip(CALL_TOKENS // tokens, 1, _MIXTURES_PER_DEVICE)
        return max(1, int(most) // self.divisor)


@dataclasses.dataclass(frozen=True)
class Expected:
    """Bytes of one device, or of the process if the devices are its CPUs.

    Attributes:
      runtime: of Python, libraries and compiled programs, in a process.
      pool: seed and differences.
      temporaries: of the largest program; on a CPU of all calls in flight,
        since they are allocated when a call is made.
      arguments: windows of all passes.
      outputs: of two chunks, because one is fetched while one is computed.
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
    """Of one call on one device.

    Attributes:
      merge_bytes: of the pool read, and of merged parameters written and
        read.
      flops: of the model.
      share: of the time that merges are expected to take.
    """

    merge_bytes: int
    flops: float
    share: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a scoring program is, and what it is expected to need.

    Attributes:
      mixtures: of a call, on all devices.
      side_by_side: of a device; 1 means one after the other.
      rows: windows of full length in a block.
      tokens: of the largest pass.
      merge: 'tree' or 'layer'.
      deltas: what differences are held in, 'float32' or 'bfloat16'.
      unroll: whether layers are unrolled, or scanned.
      attention, precision: of the model.
      layout: devices along `mixture` and along `model`.
      expected: bytes.
      limit: bytes that may be used; 0 where nobody knows.
      work: of a call.
    """

    mixtures: int
    side_by_side: int
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
            f"plan: {self.mixtures} mixtures a call ({self.side_by_side} side "
            f"by side on each of {across} x {within} devices), blocks of "
            f"{self.rows} windows, passes of {self.tokens:,} tokens; merged "
            f"{merged} from {self.deltas} differences, layers {layers}, "
            f"{self.attention} attention in {self.precision}\n"
            f"plan: {_size(e.total)} of {limit}: pool {_size(e.pool)}, "
            f"temporaries {_size(e.temporaries)}, windows and results "
            f"{_size(e.arguments + e.outputs)}, all else {_size(e.runtime)}; "
            f"a call moves "
            f"{_size(w.merge_bytes)} to merge and computes "
            f"{w.flops / 1e12:.2g} TFLOP, so merging is about "
            f"{w.share:.1%} of the time"
        )


def settled(
    config: ScoreConfig, model: LanguageModel, mesh: Mesh
) -> ScoreConfig:
    """`config` with what the platform decides: precision and attention.

    Raises:
      UserError: what is set cannot work here.
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
    """How the model is computed, from a settled config."""
    return Execution(
        attention=config.attention,
        unroll=config.unroll,
        precision=config.precision,
        loss_chunk=config.loss_chunk,
    )


def held_deltas(
    config: ScoreConfig, model: LanguageModel, members: int, mesh: Mesh
) -> str:
    """What differences are to be held in: bfloat16 where float32 is too much.

    Half of the memory is left to everything but the pool.
    """
    if config.deltas != "auto":
        return config.deltas
    size = 4 * model.parameter_count() * (members + 1)
    limit = memory_limit(config, mesh)
    fits = not limit or size / _along(mesh, "model") <= limit / 2
    return "float32" if fits else "bfloat16"


def memory_limit(config: ScoreConfig, mesh: Mesh, held: int = 0) -> int:
    """Bytes of a device that may be used; 0 where nobody knows.

    Args:
      config: its `memory` wins.
      mesh: all its devices are like the first. A CPU's are one process, and
        what other processes use is not counted as free.
      held: bytes that are ours already, and so no longer free.
    """
    if config.memory:
        return int(config.memory * 1e9)
    return usable_memory(mesh, held)


def shapes(config: ScoreConfig, length: int, on_cpu: bool) -> Iterator[Shape]:
    """Programs to try, best first; what is set in `config` is in all."""
    merges = ("tree", "layer") if config.merge == "auto" else (config.merge,)
    block = _CPU_BLOCK if on_cpu else _ACCELERATOR_BLOCK
    # Side by side, fewer mixtures are less memory; a CPU takes one at a time.
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
    side_by_side: int,
    blocks: int,
    tokens: int,
    length: int,
    pool: int,
    mesh: Mesh,
) -> Work:
    """Counts a call of `mixtures` on one device, of `blocks` blocks.

    A mixture, or as many as are side by side, reads the pool once for each
    pass if merged whole, and once for each of its blocks layer by layer.
    """
    within = _along(mesh, "model")
    merges = blocks // within if shape.merge == "layer" else 1
    merged = 4 * model.parameter_count() // within
    reads = -(-mixtures // side_by_side)
    merge_bytes = merges * (reads * pool + 2 * mixtures * merged)
    flops = model.forward_flops(mixtures * tokens, length) / within
    balance = _CPU_BALANCE if is_cpu(mesh) else _ACCELERATOR_BALANCE
    spent = balance * merge_bytes
    return Work(merge_bytes, flops, spent / (spent + flops))


def process_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def bytes_of(tree: Any) -> int:
    """Of arrays, or of shapes with shardings, on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _along(mesh: Mesh, axis: str) -> int:
    return int(mesh.shape.get(axis, 1))


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
