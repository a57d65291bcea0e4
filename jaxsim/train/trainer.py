"""The trainer: one compiled step, and the loop that every run goes through."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxsim.checkpoints import TrainingCheckpoints
from jaxsim.config import Config, RecipeConfig
from jaxsim.console import say
from jaxsim.corpus import Corpus
from jaxsim.corpus.order import Schedule, batch
from jaxsim.errors import JaxsimError, Preempted, UserError
from jaxsim.mesh import batch_sharding, parameter_shardings, replicated
from jaxsim.metrics import MetricsWriter, Progress
from jaxsim.model import Execution, LanguageModel
from jaxsim.train.optimizer import adamw, constant_rate, warmup_cosine
from jaxsim.train.runs import Run, batch_of
from jaxsim.train.state import Marks, TrainState
from jaxsim.train.step import initial_state, train_step


class NonFiniteError(JaxsimError):
    """The loss or a gradient is not finite; nothing is admitted."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What came out of a run: parameters on the host, and what it took."""

    params: Any
    schedule: Schedule
    final_loss: float  # nats a token, mean of the last step's batch
    wall_seconds: float  # of this process; a resumed run counts its last part
    device_seconds: float
    tokens: int
    flops: float


class Trainer:
    """Trains runs of one model, optimizer and batch size; compiles once."""

    def __init__(
        self,
        model: LanguageModel,
        recipe: RecipeConfig,
        rate: optax.Schedule,
        batch_rows: int,
        tail: float,
        config: Config,
        mesh: Mesh,
    ) -> None:
        train = config.train
        self.model = model
        self.mesh = mesh
        self._batch_rows = batch_rows
        self._tail = tail
        self._save_every = train.checkpoint_every
        self._log_every = train.log_every
        self.recipe = recipe
        optimizer = adamw(recipe, rate)
        execution = Execution(
            attention=train.attention,
            unroll=train.unroll,
            remat=train.remat,
            precision=recipe.precision,
            loss_chunk=train.loss_chunk,
        )
        self._initial = functools.partial(
            initial_state, optimizer=optimizer, tail=tail > 0
        )
        self._shardings = self._state_shardings()
        self._batch = batch_sharding(mesh)
        self._step = jax.jit(
            functools.partial(
                train_step,
                model=model,
                optimizer=optimizer,
                execution=execution,
                decay=recipe.decay,
            ),
            in_shardings=(self._shardings, self._batch, replicated(mesh)),
            out_shardings=(self._shardings, replicated(mesh)),
            donate_argnums=0,
        )
        self._compiled = False

    def fresh_params(self, rng: int) -> Any:
        """New parameters, made where they will live."""
        init = jax.jit(self.model.init, out_shardings=self._shardings.params)
        return init(jax.random.key(rng))

    def train(
        self,
        run: Run,
        corpus: Corpus,
        start: Any,
        scratch: Path,
        metrics: Path,
        stop: Callable[[], bool] = lambda: False,
    ) -> Trained:
        """Trains `run` from the parameters `start`, or resumes it.

        Args:
          run: what to train; its steps are of `batch_rows` rows.
          corpus: where its rows come from.
          start: parameters, on the host or the device. They are copied.
          scratch: folder of the unfinished run's checkpoints.
          metrics: the JSON Lines file that the run appends to.
          stop: asked after each step but the last; true ends the run there.

        Raises:
          NonFiniteError: names step, units and leaf.
          Preempted: `stop` said so; the state is committed in `scratch`.
        """
        rows = run.schedule(
            corpus, dataclasses.replace(self.recipe, batch=self._batch_rows)
        )
        tail_steps = max(1, round(self._tail * run.steps))
        with contextlib.ExitStack() as stack:
            checkpoints = stack.enter_context(TrainingCheckpoints(scratch))
            state = self._start(start)
            if checkpoints.latest_step() is not None:
                state = checkpoints.restore(_abstract(state))
            first = int(state.step)
            if first:
                say(f"{run.kind} {run.name}: resumed after step {first}")
            writer = stack.enter_context(
                MetricsWriter(metrics, {"run": run.name}, step=first)
            )
            begin = time.monotonic()
            state, loss = self._loop(
                run, corpus, rows, state, tail_steps, checkpoints, writer, stop
            )
            result = state.params
            if self._tail > 0:
                result = jax.tree.map(lambda s: s / tail_steps, state.tail_sum)
            params = jax.tree.map(np.asarray, jax.device_get(result))
            wall = time.monotonic() - begin
        tokens = run.steps * self._batch_rows * corpus.length
        return Trained(
            params=params,
            schedule=rows,
            final_loss=loss,
            wall_seconds=wall,
            device_seconds=wall * self.mesh.size,
            tokens=tokens,
            flops=3 * self.model.forward_flops(tokens),
        )

    def _loop(
        self,
        run: Run,
        corpus: Corpus,
        rows: Schedule,
        state: TrainState,
        tail_steps: int,
        checkpoints: TrainingCheckpoints,
        writer: MetricsWriter,
        stop: Callable[[], bool],
    ) -> tuple[TrainState, float]:
        first, loss = int(state.step), float("nan")
        marks = jax.device_put(
            Marks(jnp.int32(run.steps - tail_steps), jnp.int32(run.steps)),
            replicated(self.mesh),
        )
        progress = Progress(
            f"{run.kind} {run.name}",
            run.steps,
            self._batch_rows * corpus.length,
            self._log_every,
            start=first,
        )
        pending: list[tuple[int, list[str], dict[str, jax.Array]]] = []

        def settle() -> None:
            """Looks at the last step, while the next one is under way."""
            nonlocal loss
            for number, units, sums in pending:
                values = self._check(run, number, units, jax.device_get(sums))
                loss = values["loss"]
                if progress.due(number):
                    writer.write(number, values | progress.report(number, loss))
            pending.clear()

        for number, (tokens_BL1, units) in self._batches(
            corpus, rows, first, run.steps
        ):
            state, sums = self._call(state, tokens_BL1, marks)
            settle()
            pending.append((number, units, sums))
            if number == run.steps:
                break
            if stop():
                settle()  # only finite states are committed
                checkpoints.save_and_wait(number, state)
                raise Preempted(
                    f"{run.kind} {run.name}: stopped after step {number}, "
                    "which is committed; repeat the same command to continue"
                )
            if self._save_every and number % self._save_every == 0:
                settle()
                checkpoints.save(number, state)
        settle()
        return state, loss

    def _call(
        self, state: TrainState, tokens_BL1: jax.Array, marks: Marks
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        if self._compiled:
            return self._step(state, tokens_BL1, marks)
        begin = time.monotonic()
        result = self._step(state, tokens_BL1, marks)
        say(f"train step compiled in {time.monotonic() - begin:.1f} s")
        self._compiled = True
        return result

    def _check(
        self, run: Run, number: int, units: list[str], sums: dict[str, Any]
    ) -> dict[str, float]:
        """Means of the sums of a step, if all of it is finite."""
        loss = float(sums["nll"]) / float(sums["tokens"])
        norm = float(sums["gradient_norm"])
        if np.isfinite(loss) and np.isfinite(norm):
            return {"loss": loss, "gradient_norm": norm}
        raise NonFiniteError(
            f"{run.kind} {run.name}: loss {loss} and gradient norm {norm} at "
            f"step {number}, on rows of {', '.join(sorted(set(units)))}; "
            f"{self._first_non_finite(sums)}. Nothing is admitted. "
            "Lower the learning rate, or look at the text of that unit"
        )

    def _first_non_finite(self, sums: dict[str, Any]) -> str:
        """Parameters before gradients: one bad leaf spoils all of those."""
        leaves = jax.tree_util.tree_leaves_with_path(self.model.shapes())
        for what in ("parameter", "gradient"):
            for (path, _), ok in zip(
                leaves, sums[f"finite_{what}"], strict=True
            ):
                if not ok:
                    name = "/".join(str(key.key) for key in path)
                    return f"leaf {name} has a {what} that is not finite"
        return "every parameter and every gradient is finite"

    def _batches(
        self, corpus: Corpus, rows: Schedule, first: int, steps: int
    ) -> Iterator[tuple[int, tuple[jax.Array, list[str]]]]:
        """Batches `first`..`steps`, each read while the one before is used."""

        def read(step: int) -> tuple[jax.Array, list[str]]:
            tokens_BL1, units = batch_of(
                corpus, rows, batch(rows, step, self._batch_rows)
            )
            return jax.device_put(tokens_BL1, self._batch), units

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            ahead = [
                pool.submit(read, s)
                for s in range(first, min(first + 2, steps))
            ]
            for step in range(first, steps):
                ready = ahead.pop(0).result()
                if step + 2 < steps:
                    ahead.append(pool.submit(read, step + 2))
                yield step + 1, ready

    def _start(self, params: Any) -> TrainState:
        make: Callable[[Any], TrainState] = jax.jit(
            self._initial, out_shardings=self._shardings
        )
        return make(jax.device_put(params, self._shardings.params))

    def _state_shardings(self) -> TrainState:
        """Optimizer and tail are sharded like the parameters they belong to."""
        params = parameter_shardings(
            self.model.shapes(), self.model.logical_axes(), self.mesh
        )
        shapes = jax.eval_shape(self._initial, self.model.shapes())
        structure: Any = jax.tree.structure(self.model.shapes())
        everywhere = replicated(self.mesh)

        def of(node: Any) -> Any:
            return (
                params
                if structure == jax.tree.structure(node)
                else jax.tree.map(lambda _: everywhere, node)
            )

        return jax.tree.map(
            of,
            shapes,
            is_leaf=lambda node: structure == jax.tree.structure(node),
        )


def _abstract(state: TrainState) -> Any:
    """Shapes, dtypes and shardings of a state."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding),
        state,
    )


def trainer_of_seed(
    model: LanguageModel, config: Config, mesh: Mesh
) -> Trainer:
    """From scratch: warm-up, cosine, no tail average."""
    _check_batch("seed", config.seed.batch, mesh)
    return Trainer(
        model,
        dataclasses.replace(config.recipe, anchor=0.0, decay=0.0),
        warmup_cosine(config.seed),
        config.seed.batch,
        0.0,
        config,
        mesh,
    )


def trainer_of_recipe(
    model: LanguageModel, config: Config, mesh: Mesh
) -> Trainer:
    """Members, truths and repeats."""
    recipe = config.recipe
    _check_batch("recipe", recipe.batch, mesh)
    return Trainer(
        model,
        recipe,
        constant_rate(recipe),
        recipe.batch,
        recipe.tail,
        config,
        mesh,
    )


def _check_batch(group: str, rows: int, mesh: Mesh) -> None:
    if rows % mesh.shape["data"]:
        raise UserError(
            f"config.{group}.batch={rows} does not divide over the "
            f"{mesh.shape['data']} devices of mesh axis 'data'; change it, or "
            "config.train.data_axis"
        )
