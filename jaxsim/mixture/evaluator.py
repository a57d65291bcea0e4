"""The one evaluator: a table of mixtures in, losses of every window out.

One compiled program of fixed shape for each length bucket: k mixtures times
one pass of windows. Inside, each mixture is merged and goes over the windows
block by block, so what is alive is the stacked pool, one merged tree or layer
and one block, whatever the number of mixtures. How large all that is, `plan`
decides. Mixtures are spread over the devices of the mesh axis `mixture`; the
pool is on each of them, divided by width over `model`, because sharding the
member axis would cost an all-to-all for every merge. The devices of `model`
take each their own windows of a mixture, see `program`.
"""

import collections
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxsim.config import ScoreConfig
from jaxsim.errors import UserError
from jaxsim.log import say
from jaxsim.mixture.compiled import Programs
from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.mixture.passes import Pass, make_passes
from jaxsim.mixture.plan import (
    IN_FLIGHT,
    Plan,
    memory_limit,
    process_bytes,
    settled,
    shapes,
)
from jaxsim.mixture.resident import Resident
from jaxsim.mixture.table import Mixtures
from jaxsim.model import LanguageModel


class Evaluator:
    """Scores tables on windows of one evaluation set with one pool."""

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
        # What the process holds is not free, but may be used: it is planned.
        limit = memory_limit(
            config, pool.mesh, held=process_bytes() if pool.on_cpu else 0
        )
        self._programs = Programs(
            model, pool.seed, pool.delta_C, pool.mesh, self._config, limit
        )
        self._told = False

    @property
    def how(self) -> dict[str, str]:
        """What losses depend on beside parameters, mixture and windows."""
        return {
            "precision": self._config.precision,
            "deltas": self._pool.deltas,
        }

    def plan(self, rows: np.ndarray, per_token: bool = False) -> Plan:
        """What a call is like for these windows, and what it needs."""
        return self._plan(rows, per_token)[0]

    def chunks(
        self, table: Mixtures, rows: np.ndarray, per_token: bool = False
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Scores `table` on the windows `rows`, chunk by chunk.

        The next chunk is computed while the caller stores the one before.

        Yields:
          Rows of the table, and their nats: [k, len(rows)] float32, or with
          `per_token` [k, len(rows), L].

        Raises:
          DamagedError: a row uses a damaged member.
          UserError: not even one mixture fits in the device's memory, or not
            with what is set.
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
        """All chunks at once: [M, len(rows)] float32 nats a window."""
        parts = [nll_KR for _, nll_KR in self.chunks(table, rows)]
        return np.concatenate(parts)

    def lowered(self, rows: np.ndarray) -> list[jax.stages.Lowered]:
        """The program of each length bucket of these windows, not compiled."""
        plan, passes = self._plan(rows, per_token=False)
        return [
            self._programs.lowered(plan.mixtures, plan.merge, windows, False)
            for windows in {one.shape: None for one in passes}
        ]

    def _call(
        self,
        table: Mixtures,
        part: slice,
        plan: Plan,
        one: Pass,
        per_token: bool,
    ) -> jax.Array:
        chunk = plan.mixtures
        # A fixed shape: the last chunk repeats its last mixture.
        at = np.minimum(
            np.arange(part.start, part.start + chunk), part.stop - 1
        )
        spread = NamedSharding(self._mesh, PartitionSpec("mixture"))
        w_KC = jax.device_put(table.w_MC[at].astype(np.float32), spread)
        scale_K = jax.device_put(table.scale_M[at].astype(np.float32), spread)
        used_K = jax.device_put(
            np.arange(chunk) < part.stop - part.start, spread
        )
        program = self._programs.compiled(
            chunk, plan.merge, one.shape, per_token
        )
        return program(
            self._pool.seed,
            self._pool.delta_C,
            w_KC,
            scale_K,
            used_K,
            one.tokens_TBL1,
            one.scored_TBL,
        )

    def _fetch(
        self,
        part: slice,
        arrays: list[jax.Array],
        passes: list[Pass],
        rows: np.ndarray,
    ) -> np.ndarray:
        """Results of all passes, in the order of `rows`, without padding."""
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

    def _plan(
        self, rows: np.ndarray, per_token: bool
    ) -> tuple[Plan, list[Pass]]:
        """The first shape that fits, and its passes.

        It does not depend on how many rows a table has, so that all tables
        share one program. The largest pass decides.

        Raises:
          UserError: none fits; says for what.
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
            f"scoring {plan.mixtures} mixtures a call needs "
            f"{plan.expected.total:,} bytes of each device, and "
            f"{plan.limit:,} may be used; lower config.score.rows="
            f"{plan.rows}, config.score.chunk={self._config.chunk} or "
            f"config.score.loss_chunk={self._config.loss_chunk}, hold "
            f"differences in config.score.deltas='bfloat16', or divide the "
            "model with config.score.model_axis"
        )
