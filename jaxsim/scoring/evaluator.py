"""The one evaluator: mixtures in; losses of windows, or their derivatives, out.

`layout.py` decides the shapes of calls, `program.py` holds what they compute. A
program is compiled when it is first needed, once for each length of windows. In it,
each mixture is merged and evaluated block by block, so that device memory holds the
stacked pool, the merged models and one block, whatever the number of mixtures.

Mixtures are divided over the mesh axis `mixture`. The pool is replicated there and
divided by width over the axis `model`: sharding the member axis would cost an
all-to-all for every merge.

With p = base + scale * sum_c w_c * delta_c, and g the gradient of a loss with respect
to p, the chain rule gives d/dw_c = scale * <g, delta_c> and d/dscale = sum_c w_c * <g,
delta_c>. One merge, one backward pass and one inner product per member are enough.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxsim.config import ScoreConfig
from jaxsim.devices import TooLarge, compiled, is_cpu, memory_of
from jaxsim.errors import JaxsimError, UserError
from jaxsim.log import counted, detail
from jaxsim.model import LanguageModel
from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.scoring.layout import (
    IN_FLIGHT,
    Call,
    Layout,
    arrange,
    bucketed,
    bytes_of,
    execution_of,
    layouts,
    memory_limit,
    process_bytes,
    settled,
)
from jaxsim.scoring.program import DEVICES, Blocks, deltas_of, traced
from jaxsim.scoring.stack import StackedPool
from jaxsim.scoring.table import Mixtures


class Programs:
    """The programs of one pool on its mesh: laid out to fit, each compiled once.

    Shapes with shardings are enough for a pool, on devices that are not attached.

    Args:
      model: of the pool.
      pool: its base and differences.
      config: how to score.
      length: tokens of a window of full length.
      length_R: tokens of all windows, for `bucketed`; None for full ones.
    """

    def __init__(
        self,
        model: LanguageModel,
        pool: StackedPool,
        config: ScoreConfig,
        length: int,
        length_R: np.ndarray | None = None,
    ) -> None:
        self.model, self.pool, self.mesh = model, pool, pool.mesh
        self.config = settled(config, model, pool.mesh)
        self.across = int(pool.mesh.shape["mixture"])
        self.within = int(pool.mesh.shape["model"])
        self._length_R = length_R
        self.length = length
        self._layouts: dict[bool, Layout] = {}
        self._compiled: dict[tuple[Any, ...], jax.stages.Compiled] = {}

    def layout(self, gradient: bool = False) -> Layout:
        """The first layout that fits in the device's memory.

        Args:
          gradient: whether of the program of gradients, or of losses.

        Raises:
          UserError: none fits; says what to change.
        """
        if gradient not in self._layouts:
            self._layouts[gradient] = self._choose(gradient)
        return self._layouts[gradient]

    def compiled(
        self, layout: Layout, length: int, gradient: bool = False
    ) -> jax.stages.Compiled:
        """The compiled program for windows of `length` tokens.

        Raises:
          TooLarge: the compiler says that it does not fit.
        """
        shape = _, windows, _ = layout.shape(length)
        key = layout.mixtures, layout.remat, shape, gradient
        if key not in self._compiled:
            begin = time.monotonic()
            self._compiled[key] = compiled(self.lowered(layout, length, gradient))
            k = layout.mixtures * self.across
            what = f"scoring program: {counted(k, 'mixture')}"
            what = "gradient program" if gradient else what
            detail(
                f"{what}, blocks of {windows} windows of {length} tokens, compiled in "
                f"{time.monotonic() - begin:.1f} s"
            )
        return self._compiled[key]

    def lowered(
        self, layout: Layout, length: int, gradient: bool = False
    ) -> jax.stages.Lowered:
        """The program for windows of `length` tokens, before compilation."""
        execution = execution_of(self.config, layout.remat)
        arguments = self.arguments(layout, length, gradient)
        return traced(arguments, self.model, execution).lower()

    def arguments(
        self, layout: Layout, length: int, gradient: bool = False
    ) -> tuple[Any, Any, Any, Any, Blocks]:
        """The pool, and shapes with shardings of the other arguments."""
        k, (blocks, windows, _) = self.across * layout.mixtures, layout.shape(length)
        blocks *= self.within * (self.across if gradient else 1)
        members, dtype = len(self.pool.names), jax.tree.leaves(self.pool.base)[0].dtype
        mixtures, at = ((), ()) if gradient else ((k,), ("mixture",))

        def shape(shape: tuple[int, ...], dtype: Any, *at: Any) -> jax.ShapeDtypeStruct:
            sharding = NamedSharding(self.mesh, PartitionSpec(*at))
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        over = DEVICES if gradient else "model"
        return (
            self.pool.base,
            self.pool.delta_C,
            shape((*mixtures, members), dtype, *at),
            shape(mixtures, dtype, *at),
            Blocks(
                shape((blocks, windows, length + 1), jnp.int32, over),
                shape((blocks, windows, length), jnp.bool, over),
                shape((blocks, windows), dtype, over) if gradient else None,
                shape((), jnp.int32),
            ),
        )

    def __call__(
        self,
        layout: Layout,
        base: Any,
        w: np.ndarray,
        scale: np.ndarray,
        call: Call,
        gradient: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Dispatches a call; see `program.losses` and `program.gradient`."""
        length = call.blocks.scored_TBL.shape[2]
        program = self.compiled(layout, length, gradient)
        blocks = call.blocks if gradient else call.blocks._replace(weight_TB=None)
        arrays = jax.tree.map(
            lambda value, at: jax.device_put(np.asarray(value, at.dtype), at.sharding),
            (w, scale, blocks),
            self.arguments(layout, length, gradient)[2:],
        )
        found: tuple[jax.Array, jax.Array] = program(base, self.pool.delta_C, *arrays)
        return found

    def needed(self, program: jax.stages.Compiled) -> int:
        """Bytes on one device, or in the process if the devices are CPUs."""
        memory = memory_of(program)
        if not is_cpu(self.mesh):
            return memory.arguments + memory.temporaries + IN_FLIGHT * memory.outputs
        # The buffers of a call are allocated when it is dispatched.
        call = memory.temporaries + memory.outputs
        return self._held() + IN_FLIGHT * self.mesh.size * call

    def _held(self) -> int:
        """Bytes that are needed before any call, counted like `needed`."""
        pool = self.pool.base, self.pool.delta_C
        if not is_cpu(self.mesh):
            return bytes_of(pool)
        is_there = isinstance(jax.tree.leaves(pool)[0], jax.Array)
        return process_bytes() + (0 if is_there else bytes_of(pool))

    def candidates(self, gradient: bool = False) -> Iterator[Layout]:
        """Layouts to try, best first."""
        chunk = -(-self.config.chunk // self.across)
        each = dataclasses.replace(self.config, chunk=chunk)
        found = layouts(each, self.length, is_cpu(self.mesh), gradient)
        if self._length_R is None:
            return found
        return (bucketed(layout, self._length_R) for layout in found)

    def _choose(self, gradient: bool) -> Layout:
        limit = memory_limit(self.config, self.mesh)
        for layout in self.candidates(gradient):
            needed = self._held()
            if limit and needed > limit:  # whatever the program
                break
            try:
                longest = max(dict(layout.buckets), default=self.length)
                needed = self.needed(self.compiled(layout, longest, gradient))
            except TooLarge as error:
                needed = error.needed
                limit = min(limit or error.available, error.available)
            if not limit or needed <= limit:
                detail(self._describe(layout, gradient, needed, limit))
                return layout
        c = self.config
        raise UserError(
            f"{'the gradient of' if gradient else 'scoring'} {layout.mixtures} "
            f"mixtures at once needs {needed:,} bytes on each device, and {limit:,} "
            f"may be used; lower config.score.rows={layout.windows}, "
            f"config.score.chunk={c.chunk} or config.score.loss_chunk={c.loss_chunk}, "
            "set config.score.deltas='bfloat16', or divide the pool with "
            "config.score.model_axis"
            + ", or raise config.score.memory"
            * (c.memory > 0)
        )

    def _describe(self, layout: Layout, gradient: bool, needed: int, limit: int) -> str:
        c, pool = self.config, bytes_of((self.pool.base, self.pool.delta_C))
        what = "gradients" if gradient else f"scoring, {layout.mixtures} at once"
        _, windows, length = layout.shape(
            max(dict(layout.buckets), default=self.length)
        )
        remat = ", activations recomputed" * (layout.remat == "full")
        return (
            f"plan of {what} on each of {self.across} x {self.within} devices, up to "
            f"{layout.blocks} blocks of {windows} windows of {length} tokens in a "
            f"call; {deltas_of(self.pool.delta_C)} differences, layers "
            f"{'unrolled' if c.unroll else 'scanned'}{remat}, {c.attention} attention "
            f"in {c.precision}; needs {needed / 1e9:.3g} GB, the pool "
            f"{pool / 1e9:.3g}, of {f'{limit / 1e9:.3g}' if limit else 'unknown'}"
        )


@dataclasses.dataclass(frozen=True)
class Jacobian:
    """Derivatives of every domain's loss, see `EvaluationSet.sums`; 0 without windows.

    Attributes:
      nll_R: nats of each window.
      dw_DC: derivatives with respect to each weight, the others fixed.
      dscale_D: derivatives with respect to the scale.
    """

    nll_R: np.ndarray
    dw_DC: np.ndarray
    dscale_D: np.ndarray


class Evaluator:
    """Evaluates mixtures of one pool, or one model, on one evaluation set."""

    def __init__(
        self,
        model: LanguageModel,
        pool: StackedPool,
        evaluation: EvaluationSet,
        config: ScoreConfig,
    ) -> None:
        self._pool, self._evaluation = pool, evaluation
        self._length = evaluation.tokens_RL1.shape[1] - 1
        self.programs = Programs(model, pool, config, self._length, evaluation.length_R)

    @property
    def how(self) -> dict[str, str]:
        """What losses depend on beside models and text: precisions and device."""
        config = self.programs.config
        return {
            "precision": config.precision,
            "matmul": execution_of(config).matmul,
            "deltas": deltas_of(self._pool.delta_C),
            "device": self._pool.mesh.devices.flat[0].device_kind,
        }

    def chunks(
        self, table: Mixtures, rows: np.ndarray, per_token: bool = False
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Scores `table` on the windows `rows`, some mixtures at a time.

        The next call is computed while the caller stores these results.

        Args:
          table: over the members of the pool.
          rows: indices of windows in the evaluation set.
          per_token: whether to yield the loss of every token, not of windows.

        Yields:
          A slice of the table's rows, and their nats: float32 [k, len(rows)], or with
          `per_token` [k, len(rows), L].

        Raises:
          DamagedError: a mixture uses a damaged member.
          UserError: no layout fits in the device's memory.
        """
        self._pool.check_usable(table)
        return self._chunks(self._pool.base, table.w_MC, table.scale_M, rows, per_token)

    def score(self, table: Mixtures, rows: np.ndarray) -> np.ndarray:
        """Returns the nats of windows, float32 [M, len(rows)]; see `chunks`."""
        nothing = np.zeros((0, len(rows)), np.float32)
        found = (nll_KR for _, nll_KR in self.chunks(table, rows))
        return np.concatenate([nothing, *found])

    def score_model(self, params: Any, rows: np.ndarray) -> np.ndarray:
        """Returns the nats of windows by a model that needs no merge.

        It takes the place of the base, at scale 0, in the program of merges.

        Args:
          params: a tree like the base.
          rows: indices of windows in the evaluation set.

        Returns:
          float32 [len(rows)].
        """
        at_base = jax.tree.map(lambda leaf: leaf.sharding, self._pool.base)
        c = len(self._pool.names)
        w_1C, scale_1 = np.full((1, c), 1 / c), np.zeros(1)
        params = jax.device_put(params, at_base)
        ((_, nll_1R),) = self._chunks(params, w_1C, scale_1, rows, False)
        return nll_1R[0]

    def _chunks(
        self,
        base: Any,
        w_MC: np.ndarray,
        scale_M: np.ndarray,
        rows: np.ndarray,
        per_token: bool,
    ) -> Iterator[tuple[slice, np.ndarray]]:
        programs, m = self.programs, len(w_MC)
        if not m:
            return
        layout = programs.layout()
        if m <= programs.across:
            layout = dataclasses.replace(layout, mixtures=1)
        size = layout.mixtures * programs.across
        calls = list(arrange(self._evaluation, rows, layout, programs.within))

        def dispatch(start: int, call: Call) -> tuple[jax.Array, jax.Array]:
            # The shape is fixed, so the last chunk repeats its last mixture.
            at = np.minimum(np.arange(start, start + size), m - 1)
            return programs(layout, base, w_MC[at], scale_M[at], call)

        jobs = ((start, call) for start in range(0, m, size) for call in calls)
        for (start, call), found in _results(dispatch, jobs):
            part = slice(start, min(start + size, m))
            k, length = part.stop - start, call.blocks.scored_TBL.shape[2]
            if call is calls[0]:
                nll_KRL = np.zeros(
                    (k, len(rows), self._length if per_token else 1), np.float32
                )
            host_KPL = np.asarray(found[per_token])[:k].reshape(
                k, -1, length if per_token else 1
            )
            nll_KRL[:, call.at, : host_KPL.shape[2]] = host_KPL[:, call.places]
            if call is calls[-1]:
                yield part, nll_KRL if per_token else nll_KRL[:, :, 0]

    def jacobian(self, w_C: np.ndarray, scale: float, rows: np.ndarray) -> Jacobian:
        """Differentiates every domain's loss, see `EvaluationSet.sums`.

        Weights are free coordinates: nothing is projected on the simplex. The
        derivative with respect to a damaged member is zero, because its column is. The
        model runs in `config.precision`, merges and inner products in the precision of
        the base, float32. Results are float64, on the host.

        Args:
          w_C, scale: the mixture; it uses no damaged member.
          rows: indices of windows in the evaluation set, in any order.

        Raises:
          JaxsimError: a loss or a derivative is not finite.
          UserError: a block of windows does not fit in the device's memory.
        """
        programs, e = self.programs, self._evaluation
        layout, domain_R = programs.layout(gradient=True), e.domain_R[rows]
        nll_R, along_DC = np.zeros(len(rows)), np.zeros((len(e.domains), len(w_C)))

        def dispatch(here: np.ndarray, call: Call) -> tuple[jax.Array, jax.Array]:
            base, at_scale = self._pool.base, np.asarray(scale)
            return programs(layout, base, w_C, at_scale, call, gradient=True)

        jobs = (
            (here, call)
            for d in np.unique(domain_R)
            for here in [np.flatnonzero(domain_R == d)]
            for call in arrange(e, rows[here], layout, programs.mesh.size)
        )
        for (here, call), (nll_TB, along_C) in _results(dispatch, jobs):
            nll_R[here[call.at]] = np.asarray(nll_TB).reshape(-1)[call.places]
            along_DC[domain_R[here[0]]] += np.asarray(along_C, np.float64)
        if not (np.isfinite(nll_R).all() and np.isfinite(along_DC).all()):
            raise JaxsimError(
                "a loss or its gradient is not finite; if the mixture's scale is near "
                "1, run `jaxsim verify`"
            )
        return Jacobian(nll_R, scale * along_DC, along_DC @ w_C)


def _results(
    dispatch: Callable[..., Any], jobs: Iterable[tuple[Any, ...]]
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yields jobs and their results in order, with `IN_FLIGHT` calls running."""
    running: collections.deque[tuple[tuple[Any, ...], Any]] = collections.deque()
    for job in jobs:
        running.append((job, dispatch(*job)))
        if len(running) == IN_FLIGHT:
            yield running.popleft()
    yield from running
