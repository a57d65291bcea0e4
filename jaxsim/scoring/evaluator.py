"""The one evaluator: a table of mixtures in, losses of every window out.

Each length bucket of windows has one compiled program of fixed shape, for k
mixtures and one pass of windows. In it, each mixture is merged and evaluated
block by block, so that device memory holds the stacked pool, one merged tree or
layer and one block, whatever the number of mixtures. `plan` decides how large
these are.

Mixtures are divided over the mesh axis `mixture`. The pool is replicated there
and divided by width over the axis `model`: sharding the member axis would cost
an all-to-all for every merge. The devices along `model` each take their own
windows of a mixture, see `compiled`.
"""

import collections
import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsim.config import ScoreConfig
from jaxsim.errors import UserError
from jaxsim.log import say
from jaxsim.mesh import blocks_sharding
from jaxsim.model import LanguageModel
from jaxsim.scoring.compiled import Programs
from jaxsim.scoring.evaluation import EvaluationSet, scored_mask
from jaxsim.scoring.plan import (
    IN_FLIGHT,
    Plan,
    memory_limit,
    process_bytes,
    settled,
    shapes,
)
from jaxsim.scoring.stack import Resident
from jaxsim.scoring.table import Mixtures

# Number of evenly spaced lengths that windows are padded to. Short documents
# need them: with only full, half and quarter length, Python docstrings were
# scored at three quarters of the speed (`benchmarks/scoring.py`).
_LENGTHS = 8


@dataclasses.dataclass(frozen=True)
class Pass:
    """Windows of one length bucket that one call evaluates.

    Attributes:
      rows: indices of the windows in the evaluation set, without padding.
      tokens_TBL1: token ids, T blocks of B windows, int32.
      scored_TBL: bool, which targets count; none in padding windows.
    """

    rows: np.ndarray
    tokens_TBL1: jax.Array
    scored_TBL: jax.Array

    @property
    def shape(self) -> tuple[int, int, int]:
        """Blocks T, windows B and length L."""
        blocks, rows, length = self.scored_TBL.shape
        return blocks, rows, length


class Evaluator:
    """Scores tables of mixtures of one pool on one evaluation set."""

    def __init__(
        self,
        model: LanguageModel,
        pool: Resident,
        evaluation: EvaluationSet,
        config: ScoreConfig,
    ) -> None:
        self._model = model
        self._pool = pool
        self._evaluation = evaluation
        self._config = settled(config, model, pool.mesh)
        self._mesh = pool.mesh
        # What this process holds is not free, but it is part of the plan.
        limit = memory_limit(
            config, pool.mesh, held=process_bytes() if pool.on_cpu else 0
        )
        self._programs = Programs(
            model, pool.base, pool.delta_C, pool.mesh, self._config, limit
        )
        self._told = False

    @property
    def how(self) -> dict[str, str]:
        """Settings that losses depend on: precisions of model and pool."""
        return {"precision": self._config.precision, "deltas": self._pool.deltas}

    def plan(self, rows: np.ndarray, per_token: bool = False) -> Plan:
        """Returns the layout of calls on these windows."""
        return self._plan(rows, per_token)[0]

    def chunks(
        self, table: Mixtures, rows: np.ndarray, per_token: bool = False
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Scores `table` on the windows `rows`, chunk by chunk.

        The next chunk is computed while the caller stores the previous one.

        Args:
          table: over the members of the pool.
          rows: indices of windows in the evaluation set.
          per_token: whether to yield the loss of every token, not of windows.

        Yields:
          A slice of the table's rows, and their nats: float32 [k, len(rows)],
          or with `per_token` [k, len(rows), L].

        Raises:
          DamagedError: a mixture uses a damaged member.
          UserError: no layout fits in the device's memory.
        """
        self._pool.stack.check_usable(table)
        plan, passes = self._plan(rows, per_token)
        if not self._told:
            say(str(plan))
            self._told = True
        previous = None
        calls: collections.deque[jax.Array] = collections.deque()
        for start in range(0, len(table), plan.mixtures):
            part = slice(start, min(start + plan.mixtures, len(table)))
            arrays = []
            for one in passes:
                if len(calls) == IN_FLIGHT:
                    calls.popleft().block_until_ready()
                calls.append(self._call(table, part, plan, one, per_token))
                arrays.append(calls[-1])
            if previous is not None:
                yield previous[0], self._fetch(*previous, passes, rows)
            previous = part, arrays
        if previous is not None:
            yield previous[0], self._fetch(*previous, passes, rows)

    def score(self, table: Mixtures, rows: np.ndarray) -> np.ndarray:
        """Returns the nats of windows, float32 [M, len(rows)]; see `chunks`."""
        parts = [nll_KR for _, nll_KR in self.chunks(table, rows)]
        return np.concatenate(parts)

    def lowered(self, rows: np.ndarray) -> list[jax.stages.Lowered]:
        """Returns the program of each length bucket, before compilation."""
        plan, passes = self._plan(rows, per_token=False)
        return [
            self._programs.lowered(plan.mixtures, plan.merge, windows, False)
            for windows in {one.shape: None for one in passes}
        ]

    def _call(
        self, table: Mixtures, part: slice, plan: Plan, one: Pass, per_token: bool
    ) -> jax.Array:
        chunk = plan.mixtures
        # The shape is fixed, so the last chunk repeats its last mixture.
        at = np.minimum(np.arange(part.start, part.start + chunk), part.stop - 1)
        spread = NamedSharding(self._mesh, PartitionSpec("mixture"))
        w_KC = jax.device_put(table.w_MC[at].astype(np.float32), spread)
        scale_K = jax.device_put(table.scale_M[at].astype(np.float32), spread)
        used_K = jax.device_put(np.arange(chunk) < part.stop - part.start, spread)
        program = self._programs.compiled(chunk, plan.merge, one.shape, per_token)
        return program(
            self._pool.base,
            self._pool.delta_C,
            w_KC,
            scale_K,
            used_K,
            one.tokens_TBL1,
            one.scored_TBL,
        )

    def _fetch(
        self, part: slice, arrays: list[jax.Array], passes: list[Pass], rows: np.ndarray
    ) -> np.ndarray:
        """Fetches the results of all passes in the order of `rows`."""
        k = part.stop - part.start
        length = self._evaluation.tokens_RL1.shape[1] - 1
        per_token = arrays[0].ndim == 4
        shape = (k, len(rows), length) if per_token else (k, len(rows))
        nll = np.zeros(shape, np.float32)
        place = {row: i for i, row in enumerate(rows)}
        for one, array in zip(passes, arrays, strict=True):
            host = np.asarray(array)[:k]
            host = host.reshape(k, -1, *host.shape[3:])[:, : len(one.rows)]
            at = [place[row] for row in one.rows]
            if per_token:
                nll[:, at, : host.shape[2]] = host
            else:
                nll[:, at] = host
        return nll

    def _plan(self, rows: np.ndarray, per_token: bool) -> tuple[Plan, list[Pass]]:
        """Returns the first layout that fits, and its passes.

        It does not depend on the number of mixtures, so that all tables share
        one program.

        Raises:
          UserError: none fits; says what to change.
        """
        length = self._evaluation.tokens_RL1.shape[1] - 1
        for shape in shapes(self._config, length, self._pool.on_cpu):
            passes = make_passes(
                self._evaluation, rows, shape.rows, shape.tokens, self._mesh
            )
            plan = self._programs.plan_of(
                shape, [one.shape for one in passes], per_token
            )
            if plan.fits:
                return plan, passes
        raise UserError(
            f"scoring {plan.mixtures} mixtures per call needs "
            f"{plan.expected.total:,} bytes on each device, and "
            f"{plan.limit:,} may be used; lower config.score.rows="
            f"{plan.rows}, config.score.chunk={self._config.chunk} or "
            f"config.score.loss_chunk={self._config.loss_chunk}, set "
            "config.score.deltas='bfloat16', or divide the model with "
            "config.score.model_axis"
        )


def make_passes(
    evaluation: EvaluationSet,
    rows: np.ndarray,
    block: int,
    most_tokens: int,
    mesh: Mesh,
) -> list[Pass]:
    """Divides windows by length bucket, into equal passes of whole blocks.

    Args:
      evaluation: the evaluation set.
      rows: indices of windows, in any order.
      block: largest number of full-length windows in a block; shorter windows
        fill a block up to the same number of tokens.
      most_tokens: approximate limit on the tokens of a pass.
      mesh: see `scoring_mesh`; blocks are divided over its axis `model`.
    """
    e, full = evaluation, evaluation.tokens_RL1.shape[1] - 1
    devices = int(mesh.shape["model"])
    passes = []
    for length, here in _by_length(e, np.asarray(rows), block):
        count = -(-len(here) * length // most_tokens)
        size = min(block * full // length, len(here))
        blocks = -(-len(here) // (count * size))
        blocks = -(-blocks // devices) * devices
        # Equal blocks: 65 windows make 5 x 13, not 4 x 16 and one more.
        size = -(-len(here) // (count * blocks))
        for part in range(count):
            each = blocks * size
            some = here[part * each : (part + 1) * each]
            passes.append(_make_pass(e, some, blocks, size, length, mesh))
    return passes


def _by_length(
    evaluation: EvaluationSet, rows: np.ndarray, block: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields padded lengths, shortest first, with the windows padded to them.

    Windows that do not fill a block are padded to the next length, so that no
    program is compiled for a few windows.
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
