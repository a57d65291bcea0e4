"""The training loop: every run goes through it, alone or vectorized with others.

The compiled step is in `step.py`; `program.py` lays it out over devices.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxsim.checkpoints import TrainingCheckpoints
from jaxsim.config import Config, RecipeConfig
from jaxsim.corpus import Corpus
from jaxsim.corpus.order import Schedule
from jaxsim.devices import attention_on, free_memory, peak_flops, precision_on
from jaxsim.distributed import alone, barrier, from_lead, is_lead
from jaxsim.errors import Preempted, UserError
from jaxsim.log import Progress, say
from jaxsim.mesh import batch_sharding, replicated, to_devices
from jaxsim.model import Execution, LanguageModel
from jaxsim.signals import watchdog
from jaxsim.train.program import Sums, TrainProgram, planned
from jaxsim.train.running import NonFiniteError, Running
from jaxsim.train.runs import Run, batches, label
from jaxsim.train.step import (
    Marks,
    TrainState,
    adamw,
    constant_rate,
    initial_state,
    train_step,
    warmup_cosine,
)


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of a run: parameters on the host, and what it cost.

    The seconds of vectorized runs are divided evenly among them, so that the seconds
    of all runs add up to the cost of the pool.
    """

    params: Any
    schedule: Schedule
    final_loss: float  # nats per token, mean over the last step's batch
    wall_seconds: float  # of this process: since the run was last resumed
    device_seconds: float
    tokens: int
    flops: float


class Trainer:
    """Trains runs of one model, optimizer and batch size, alone or vectorized.

    Args:
      model: what is trained.
      recipe: batch, optimizer, tail average, replay and precision of the runs.
      rate: the learning rate by step; it replaces the recipe's.
      config: `config.train` says how training is executed.
      mesh: `(data, model)`.
    """

    def __init__(
        self,
        model: LanguageModel,
        recipe: RecipeConfig,
        rate: optax.Schedule,
        config: Config,
        mesh: Mesh,
    ) -> None:
        self.model, self.recipe, self.mesh = model, recipe, mesh
        self._config = train = config.train
        self.state_path = train.state_path
        optimizer = adamw(recipe, rate)
        device = mesh.devices.flat[0]
        precision = precision_on(device, recipe.precision, "config.recipe.precision")
        self._execution = Execution(
            attention=attention_on(
                device,
                train.attention,
                model.config.dim // model.config.heads,
                precision,
                "config.train.attention",
            ),
            unroll=train.unroll,
            remat=train.remat,
            precision=precision,
            loss_chunk=train.loss_chunk,
        )
        self._initial = functools.partial(
            initial_state, optimizer=optimizer, tail=recipe.tail > 0
        )
        self._step = functools.partial(
            train_step,
            model=model,
            optimizer=optimizer,
            accumulate=train.accumulate,
            decay=recipe.decay,
        )
        self._fits = 1  # runs at once, as planned so far
        self._programs: dict[int, TrainProgram] = {}

    def program(self, members: int = 1) -> TrainProgram:
        """The train step for this many vectorized runs, compiled once."""
        if members not in self._programs:
            execution = self._execution
            if members == 1:  # the batches of vectorized runs are not split
                execution = dataclasses.replace(
                    execution, activations=batch_sharding(self.mesh)
                )
            say(f"train step: {execution.attention} attention in {execution.precision}")
            self._programs[members] = TrainProgram(
                self.model,
                functools.partial(self._step, execution=execution),
                self._initial,
                self.recipe.batch,
                self.mesh,
                members,
            )
        return self._programs[members]

    def at_once(self, runs: int) -> int:
        """How many of `runs`, all of the same length, to train at once.

        One if there are several processes, because each would hold only some runs.
        """
        if not alone():
            return 1
        if self._config.parallel_runs:
            return self._config.parallel_runs
        if runs < self.mesh.size:
            return 1  # devices would be idle
        # Scoring may have filled the devices' memory since then.
        needed = self.program(self._fits).needed() if self._fits > 1 else 0
        if runs > self._fits or needed > free_memory(self.mesh):
            self._fits = planned(runs, self.mesh, self.program)
            if self._fits > 1:
                say(f"plan: {self._fits} runs at once, as many as fit")
        return self._fits

    def slots(self, runs: int) -> int:
        """The size of the program for `runs` runs: the same number on each device.

        A compiled program is reused if more than half of it is filled.
        """
        devices = self.mesh.size
        wanted = runs if runs < devices else -(-runs // devices) * devices
        there = [m for m in self._programs if wanted <= m < 2 * wanted]
        return min(there, default=wanted)

    def fresh_params(self, seed: int) -> Any:
        """New parameters of a single run, initialized on their devices."""
        return self.program().fresh_params(seed)

    def train(
        self,
        runs: Sequence[Run],
        corpus: Corpus,
        start: Any,
        scratch: Path,
        metrics: Sequence[Path | None],
        stop: Callable[[], bool] = lambda: False,
        slots: int = 0,
    ) -> list[Trained | NonFiniteError]:
        """Trains `runs` together from the same parameters, or resumes them.

        A run whose loss is not finite stops at that step; the others continue.

        Args:
          runs: what to train; all have the same number of steps.
          corpus: the rows to train on.
          start: parameters, on the host or the device. They are copied.
          scratch: folder of the joint checkpoints of these runs.
          metrics: the JSON Lines file of each run, or None for no file.
          stop: called after each step but the last. Training stops if it returns
            true, which it must do in all processes after the same step.
          slots: the size of the program; 0 for the number of runs.

        Returns:
          The result of each run, or its error.

        Raises:
          Preempted: `stop` returned true; the state is committed in `scratch`.
        """
        schedules = [run.schedule(corpus, self.recipe) for run in runs]
        program = self.program(slots or len(runs))
        tail_steps = max(1, round(self.recipe.tail * runs[0].steps))
        with contextlib.ExitStack() as stack:
            # Before any collective, because it names a missing process.
            barrier(label(runs), self._config.step_limit)
            # Entered before the checkpoints, because their last save may hang.
            finished = stack.enter_context(
                watchdog(self._config.step_limit, label(runs))
            )
            checkpoints = stack.enter_context(TrainingCheckpoints(scratch))
            first = from_lead(checkpoints.latest_step()) or 0
            if first:
                state = checkpoints.restore(first, program.abstract_state())
                say(f"{label(runs)}: resumed after step {first}")
            else:
                state = program.start(start)
            running = [
                Running.opened(run, runs, path, first, stack)
                for run, path in zip(runs, metrics, strict=True)
            ]
            begin = time.monotonic()
            state = self._loop(
                running, program, corpus, schedules, state, first,
                tail_steps, checkpoints, stop, finished,
            )  # fmt: skip
            if self.recipe.tail == 0:
                results = program.fetch(state.params)
            else:
                total = program.fetch(state.tail_sum)
                results = jax.tree.map(lambda a: a / np.float32(tail_steps), total)
            wall = (time.monotonic() - begin) / len(runs)
        tokens = runs[0].steps * self.recipe.batch * corpus.length
        return [
            one.error
            or Trained(
                params=jax.tree.map(lambda a, i=i: a[i], results),
                schedule=schedules[i],
                final_loss=one.last["loss"],
                wall_seconds=wall,
                device_seconds=wall * program.mesh.size,
                tokens=tokens,
                flops=self._flops(tokens),
            )
            for i, one in enumerate(running)
        ]

    def _loop(
        self,
        running: list[Running],
        program: TrainProgram,
        corpus: Corpus,
        schedules: list[Schedule],
        state: TrainState,
        first: int,
        tail_steps: int,
        checkpoints: TrainingCheckpoints,
        stop: Callable[[], bool],
        finished: Callable[[int], None],
    ) -> TrainState:
        """Trains from step `first` to the end, or until all runs have failed."""
        runs = [one.run for one in running]
        steps, what = runs[0].steps, label(runs)
        everywhere: Any = replicated(program.mesh)
        marks = Marks(
            to_devices(np.int32(steps - tail_steps), everywhere),
            to_devices(np.int32(steps), everywhere),
        )
        progress = Progress(
            what,
            steps,
            len(runs) * self.recipe.batch * corpus.length,
            self._config.log_every,
            start=first,
            flops=len(runs) * self._flops(self.recipe.batch * corpus.length),
            peak=peak_flops(program.mesh),
        )
        pending: list[tuple[int, list[list[str]], Sums]] = []

        def settle() -> list[Running]:
            """Checks the last step while the next is computed; the runs still going."""
            for number, units, sums in pending:
                host = program.fetch(sums)
                finished(number)
                for i, one in enumerate(running):
                    own = {name: values[i] for name, values in host.items()}
                    one.look(number, units[i], own, self.model)
                alive = [one for one in running if not one.error]
                if alive and is_lead() and progress.due(number):
                    losses = [one.last["loss"] for one in alive]
                    row = progress.report(number, float(np.mean(losses)))
                    for key in ("tokens_per_second", "flops_per_second"):
                        row[key] /= len(runs)
                    for one in alive:
                        one.write(number, row)
            pending.clear()
            return [one for one in running if not one.error]

        for number, tokens_GBL1, units in batches(
            program.tokens, corpus, schedules, first, steps, progress.waited
        ):
            state, sums = program(state, tokens_GBL1, marks)
            alive = settle()  # before `stop`: `StopTogether` relies on it
            pending.append((number, units, sums))
            if number == steps or not alive:
                break
            stopping = stop()
            every = self._config.checkpoint_every
            if stopping or (every and number % every == 0):
                if not settle():  # no run is left to save
                    break
                if not stopping:
                    checkpoints.save(number, state)
                    continue
                checkpoints.save_and_wait(number, state)
                raise Preempted(
                    f"{what}: stopped after step {number}, which is "
                    "committed; rerun the same command to continue"
                )
        settle()
        return state

    def _flops(self, tokens: int) -> float:
        """FLOPs of training: a backward pass costs two forward passes."""
        return 3 * self.model.forward_flops(tokens)


def base_trainer(model: LanguageModel, config: Config, mesh: Mesh) -> Trainer:
    """The trainer of the base model: warm-up and cosine, no tail average.

    Raises:
      UserError: a batch does not divide over the mesh.
    """
    _check_batch("base", config.base.batch, config, mesh)
    recipe = dataclasses.replace(
        config.recipe, batch=config.base.batch, tail=0.0, decay=0.0, replay=0.0
    )
    return Trainer(model, recipe, warmup_cosine(config.base), config, mesh)


def recipe_trainer(model: LanguageModel, config: Config, mesh: Mesh) -> Trainer:
    """The trainer of members, reference runs and replicates.

    Raises:
      UserError: a batch does not divide over the mesh, or vectorized runs would be
        sharded or spread over processes.
    """
    _check_batch("recipe", config.recipe.batch, config, mesh)
    parallel = config.train.parallel_runs
    if parallel > 1 and mesh.shape["model"] > 1:
        raise UserError(
            f"config.train.parallel_runs={parallel}: each of these runs must fit on "
            "one device; leave config.train.model_axis at 1, or set parallel_runs=1"
        )
    if parallel > 1 and not alone():
        raise UserError(
            f"config.train.parallel_runs={parallel}: several processes train one run "
            "at a time; set parallel_runs=1, or start one process for each machine "
            "without --distributed"
        )
    return vectorized(model, config, mesh)


def vectorized(model: LanguageModel, config: Config, mesh: Mesh) -> Trainer:
    """`recipe_trainer` without its checks: vectorized runs do not split batches."""
    rate = constant_rate(config.recipe)
    return Trainer(model, config.recipe, rate, config, mesh)


def _check_batch(group: str, rows: int, config: Config, mesh: Mesh) -> None:
    pieces, devices = config.train.accumulate, mesh.shape["data"]
    if rows % (pieces * devices):
        raise UserError(
            f"config.{group}.batch={rows} does not divide over the "
            f"{devices} devices of mesh axis 'data'"
            + f" in config.train.accumulate={pieces} pieces" * (pieces > 1)
            + "; change it, or config.train.data_axis"
        )
