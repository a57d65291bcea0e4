"""The one evaluator: a table of mixtures in, losses of every window out.

One compiled program of fixed shape for each length bucket: k mixtures times
one pass of windows. Inside, each mixture is merged once and goes over the
windows block by block, so what is alive is the stacked pool, one merged tree
and one block, whatever the number of mixtures. Mixtures are spread over the
devices; the pool is on each of them, because sharding the member axis would
cost an all-to-all for every merge.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxsim.config import ScoreConfig
from jaxsim.console import say
from jaxsim.errors import JaxsimError
from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.mixture.passes import Pass, make_passes
from jaxsim.mixture.program import losses
from jaxsim.mixture.resident import Resident
from jaxsim.mixture.table import Mixtures
from jaxsim.model import Execution, LanguageModel

# Tokens times mixtures of one call on one device: bounds what is lost when a
# call is interrupted, and how long progress stands still.
_CALL_TOKENS = 2**20
_MIXTURES_PER_DEVICE = 8
# Of the device's memory; the rest is left to the runtime and fragmentation.
_MEMORY_SHARE = 0.8


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
        self._config = config
        self._execution = Execution(
            attention=config.attention,
            unroll=config.unroll,
            precision=config.precision,
            loss_chunk=config.loss_chunk,
        )
        self._mesh = pool.mesh
        self._programs: dict[tuple[Any, ...], Any] = {}
        self._planned = config.chunk

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
          JaxsimError: not even one mixture fits in the device's memory.
        """
        self._pool.stack.check_usable(table)
        passes = self._passes(rows)
        chunk = self._chunk(passes, per_token)
        previous = None
        for start in range(0, len(table), chunk):
            part = slice(start, min(start + chunk, len(table)))
            arrays = [
                self._call(table, part, chunk, one, per_token) for one in passes
            ]
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
        passes = self._passes(rows)
        chunk = self._chunk(passes, per_token=False)
        shapes = {one.tokens_TBL1.shape: one for one in passes}
        return [
            self._lower(chunk, one, per_token=False) for one in shapes.values()
        ]

    def _call(
        self,
        table: Mixtures,
        part: slice,
        chunk: int,
        one: Pass,
        per_token: bool,
    ) -> jax.Array:
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
        program = self._program(chunk, one, per_token)
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

    def _program(self, chunk: int, one: Pass, per_token: bool) -> Any:
        """The compiled program of a shape; each is compiled once."""
        shape = one.tokens_TBL1.shape
        key = (chunk, shape, per_token)
        if key not in self._programs:
            begin = time.monotonic()
            self._programs[key] = self._lower(chunk, one, per_token).compile()
            say(
                f"scoring program: {chunk} mixtures x {shape[0] * shape[1]} "
                f"windows of {shape[2] - 1} tokens, compiled in "
                f"{time.monotonic() - begin:.1f} s"
            )
        return self._programs[key]

    def _lower(
        self, chunk: int, one: Pass, per_token: bool
    ) -> jax.stages.Lowered:
        body: Callable[..., jax.Array] = functools.partial(
            losses,
            model=self._model,
            execution=self._execution,
            at_once=1 if self._pool.on_cpu else chunk // self._mesh.size,
            per_token=per_token,
        )
        here, spread = PartitionSpec(), PartitionSpec("mixture")
        program = jax.jit(
            jax.shard_map(
                body,
                mesh=self._mesh,
                in_specs=(here, here, spread, spread, spread, here, here),
                out_specs=spread,
            )
        )
        mixtures = NamedSharding(self._mesh, spread)
        return program.lower(
            self._pool.seed,
            self._pool.delta_C,
            jax.ShapeDtypeStruct(
                (chunk, len(self._pool.stack.names)),
                jnp.float32,
                sharding=mixtures,
            ),
            jax.ShapeDtypeStruct((chunk,), jnp.float32, sharding=mixtures),
            jax.ShapeDtypeStruct((chunk,), jnp.bool, sharding=mixtures),
            one.tokens_TBL1,
            one.scored_TBL,
        )

    def _chunk(self, passes: list[Pass], per_token: bool) -> int:
        """Mixtures in one call: as set, or what time and memory allow.

        It does not depend on how many rows a table has, so that all tables
        share one program. The largest pass decides.

        Raises:
          JaxsimError: one mixture on each device is too much; says for what.
        """
        devices = self._mesh.size
        if self._planned:
            return -(-self._planned // devices) * devices
        one = max(passes, key=lambda each: each.scored_TBL.size)
        tokens = one.scored_TBL.size
        k = int(np.clip(_CALL_TOKENS // tokens, 1, _MIXTURES_PER_DEVICE))
        limit = self._memory()
        if not limit:
            return k * devices
        while True:
            report = self._program(
                k * devices, one, per_token
            ).memory_analysis()
            needed = (
                report.temp_size_in_bytes
                + report.argument_size_in_bytes
                + report.output_size_in_bytes
            )
            if needed < _MEMORY_SHARE * limit:
                return k * devices
            if k == 1:
                raise JaxsimError(
                    f"scoring one mixture needs {needed:,} bytes of each "
                    f"device's {limit:,}; lower config.score.rows="
                    f"{self._config.rows} or config.score.loss_chunk="
                    f"{self._config.loss_chunk}, or use a larger device"
                )
            k //= 2

    def _memory(self) -> int:
        """Bytes of each device; 0 where that is unknown, as on a CPU."""
        stats = self._mesh.devices.flat[0].memory_stats() or {}
        return stats.get("bytes_limit", 0)

    def _passes(self, rows: np.ndarray) -> list[Pass]:
        return make_passes(
            self._evaluation,
            rows,
            self._config.rows,
            _CALL_TOKENS,
            self._mesh,
        )
