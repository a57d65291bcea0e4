"""The training loop: every run goes through it, alone or vectorized with others.

The compiled step is in `step.py`; `program.py` lays it out over devices.
"""

import contextlib
import dataclasses
import functools
import math
import sys
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
from jaxsim.log import Progress, detail
from jaxsim.mesh import parameter_shardings, to_host, training_mesh
from jaxsim.model import Execution, LanguageModel
from jaxsim.signals import watchdog
from jaxsim.train.program import Sums, TrainProgram, planned
from jaxsim.train.running import NonFiniteError, Running
from jaxsim.train.runs import Run, batches, label
from jaxsim.train.step import TrainState, TrainStep, adamw, constant_rate, warmup_cosine


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
    """Trains runs of one model, optimizer and batch size, alone or together.

    Args:
      model: what is trained.
      recipe: batch, optimizer, tail average, replay and precision of the runs.
      rate: the learning rate of a run of so many steps; it replaces the recipe's.
      config: `config.train` says how training is executed.
      mesh: `(run, data, model)` of a single run.
      group: the config group that sets the batch.

    Raises:
      UserError: a batch does not divide over the mesh, or the device lacks what is
        asked for.
    """

    def __init__(
        self,
        model: LanguageModel,
        recipe: RecipeConfig,
        rate: Callable[[jax.Array], optax.Schedule],
        config: Config,
        mesh: Mesh,
        group: str,
    ) -> None:
        self.model, self.recipe, self.mesh = model, recipe, mesh
        self._config = train = config.train
        pieces, data = train.accumulate, mesh.shape["data"]
        if recipe.batch % math.lcm(pieces, data):
            raise UserError(
                f"config.{group}.batch={recipe.batch} does not divide over the {data} "
                "devices of mesh axis 'data'"
                + f" and into config.train.accumulate={pieces} pieces" * (pieces > 1)
                + "; change it, or config.train.model_axis"
            )
        self.state_path = train.state_path
        device = mesh.devices.flat[0]
        precision = precision_on(device, recipe.precision, "config.recipe.precision")
        execution = Execution(
            attention=attention_on(
                device,
                train.attention,
                model.config.head_size,
                precision,
                "config.train.attention",
            ),
            unroll=train.unroll,
            remat=train.remat,
            precision=precision,
            loss_chunk=train.loss_chunk,
        )
        self._step = TrainStep(
            model, execution, lambda steps: adamw(recipe, rate(steps)), recipe.tail > 0
        )
        self._fits = 1  # runs at once, as planned so far
        self._programs: dict[int, TrainProgram] = {}

    def program(self, runs: int = 1) -> TrainProgram:
        """The train step of this many runs, compiled once."""
        if runs not in self._programs:
            e = self._step.execution
            detail(f"train step: {e.attention} attention in {e.precision}")
            self._programs[runs] = self._program(runs, self._config.accumulate)
        return self._programs[runs]

    def _program(self, runs: int, accumulate: int) -> TrainProgram:
        mesh, batch = self._mesh_of(runs), self.recipe.batch
        # Rows that are divided over more devices need fewer pieces.
        pieces = math.gcd(accumulate, batch // mesh.shape["data"])
        step = dataclasses.replace(self._step, accumulate=pieces)
        return TrainProgram(step, batch, mesh, runs)

    def _mesh_of(self, runs: int) -> Mesh:
        devices = self.mesh.devices.flatten().tolist()
        model_axis = self.mesh.shape["model"]
        return training_mesh(self._config.data_axis, model_axis, devices, runs)

    @property
    def places(self) -> int:
        """How many runs can train on devices of their own."""
        return int(self._mesh_of(self.mesh.size).shape["run"])

    def at_once(self, runs: int) -> int:
        """How many of `runs`, all of the same length, to train together."""
        if self._config.parallel_runs:
            return self._config.parallel_runs
        # All processes compile a program together, and only one of them plans.
        if not alone() or runs < self.places:  # devices would be idle
            return 1
        # Scoring may have filled the devices' memory since then.
        needed = self.program(self._fits).needed() if self._fits > 1 else 0
        if runs > self._fits or needed > free_memory(self.mesh):
            self._fits = planned(runs, self._mesh_of(self.mesh.size), self.program)
            if self._fits > 1:
                detail(f"plan: {self._fits} runs at once, as many as fit")
        return self._fits

    def slots(self, runs: int) -> int:
        """The size of the program for `runs` runs: the same number in each place.

        A compiled program is reused if more than half of it is filled.
        """
        divisors = [n for n in range(1, self.places + 1) if self.places % n == 0]
        places = next((n for n in divisors if n >= runs), self.places)
        wanted = -(-runs // places) * places
        there = [m for m in self._programs if wanted <= m < 2 * wanted]
        return min(there, default=wanted)

    def fresh_params(self, seed: int) -> Any:
        """New parameters of one run, initialized on their devices."""
        model = self.model
        at = parameter_shardings(model.shapes(), model.logical_axes(), self.mesh)
        init = jax.jit(lambda: model.init(jax.random.key(seed)), out_shardings=at)
        return init()

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
        running = [Running(run, run.schedule(corpus, self.recipe)) for run in runs]
        program, what = self.program(slots or len(runs)), label(runs)
        steps = runs[0].steps
        tail_steps = max(1, round(self.recipe.tail * steps))
        with contextlib.ExitStack() as stack:
            # Before any collective, because it names a missing process.
            barrier(what, self._config.step_limit)
            # Entered before the checkpoints, because their last save may hang.
            finished = stack.enter_context(watchdog(self._config.step_limit, what))
            self._check_memory(program, what)
            checkpoints = stack.enter_context(TrainingCheckpoints(scratch))
            first = from_lead(checkpoints.latest_step()) or 0
            if first:
                state = checkpoints.restore(first, program.state)
                detail(f"{what}: resumed after step {first}")
            else:
                state = program.start(start, steps, steps - tail_steps)
            for one, path in zip(running, metrics, strict=True):
                one.open(runs, path, first, stack)
            begin = time.monotonic()
            state = self._loop(
                running, program, corpus, state, first, checkpoints, stop, finished
            )
            if self.recipe.tail == 0:
                results = to_host(state.params)
            else:
                total = to_host(state.tail_sum)
                results = jax.tree.map(lambda a: a / np.float32(tail_steps), total)
            wall = (time.monotonic() - begin) / len(runs)
        tokens = steps * self.recipe.batch * corpus.length
        return [
            one.error
            or Trained(
                params=jax.tree.map(lambda a, i=i: a[i], results),
                schedule=one.schedule,
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
        state: TrainState,
        first: int,
        checkpoints: TrainingCheckpoints,
        stop: Callable[[], bool],
        finished: Callable[[int], None],
    ) -> TrainState:
        """Trains from step `first` to the end, or until all runs have failed."""
        runs = [one.run for one in running]
        steps, what, rows = runs[0].steps, label(runs), self.recipe.batch
        tokens = len(runs) * rows * corpus.length
        progress = Progress(
            what, steps, tokens, self._config.log_every, start=first,
            flops=self._flops(tokens), peak=peak_flops(program.mesh),
        )  # fmt: skip
        pending: list[tuple[int, Sums]] = []

        def settle() -> bool:
            """Checks the last step while the next is computed; false if all failed."""
            while pending:
                number, sums = pending.pop()
                host = to_host(sums)
                finished(number)
                for i, one in enumerate(running):
                    own = {name: values[i] for name, values in host.items()}
                    one.look(number, rows, own, self.model)
                alive = [one for one in running if not one.error]
                if alive and is_lead() and progress.reached(number):
                    losses = [one.last["loss"] for one in alive]
                    row = progress.report(number, float(np.mean(losses)))
                    for key in ("tokens_per_second", "flops_per_second"):
                        row[key] /= len(runs)
                    for one in alive:
                        if one.writer is not None:
                            one.writer.write(number, {**row, **one.last})
            return not all(one.error for one in running)

        schedules = [one.schedule for one in running]
        with progress:
            for number, tokens_GBL1 in batches(
                program.tokens, corpus, schedules, first, steps, progress.waited
            ):
                state, sums = program(state, tokens_GBL1)
                going = settle()  # before `stop`: `StopTogether` relies on it
                pending.append((number, sums))
                if number == steps or not going:
                    break
                stopping = stop()
                every = self._config.checkpoint_every
                if stopping or (every and number % every == 0):
                    if not settle():  # no run is left to save
                        break
                    checkpoints.save(number, state)
                    if stopping:  # on the way out, checkpoints are committed
                        raise Preempted(
                            f"{what}: stopped after step {number}, which is "
                            "committed; rerun the same command to continue"
                        )
            settle()
        return state

    def _check_memory(self, program: TrainProgram, what: str) -> None:
        """Compiles a train step, and checks that it fits.

        Raises:
          UserError: it does not; names a `config.train.accumulate` that would fit.
        """
        free = free_memory(program.mesh, share=1.0)
        if not free or (needed := program.needed()) <= free:
            return
        advice = (
            "set config.train.remat='full' if it is not, raise "
            "config.train.model_axis, or lower config.recipe.batch"
        )
        data, pieces = program.mesh.shape["data"], self._config.accumulate
        while self.recipe.batch % (data * (pieces := 2 * pieces)) == 0:
            if self._program(program.runs, pieces).needed() <= free:
                advice = f"config.train.accumulate={pieces} would fit"
                break
        if program.runs > 1:
            advice += ", or lower config.train.parallel_runs"
        size = f"{needed:,} bytes" if needed < sys.maxsize else "more memory"
        raise UserError(
            f"{what}: a train step needs {size} of each device, and {free:,} are "
            f"free; {advice}"
        )

    def _flops(self, tokens: int) -> float:
        """FLOPs of training: a backward pass costs two forward passes."""
        return 3 * self.model.forward_flops(tokens)


def base_trainer(model: LanguageModel, config: Config, mesh: Mesh) -> Trainer:
    """The trainer of the base model: warm-up and cosine, no tail average."""
    recipe = dataclasses.replace(
        config.recipe,
        batch=config.base.batch,
        warmup=0,
        tail=0.0,
        decay=0.0,
        replay=0.0,
    )
    rate = warmup_cosine(config.base)
    return Trainer(model, recipe, lambda _: rate, config, mesh, "base")


def recipe_trainer(model: LanguageModel, config: Config, mesh: Mesh) -> Trainer:
    """The trainer of members, reference runs and replicates."""
    rate = functools.partial(constant_rate, config.recipe)
    return Trainer(model, config.recipe, rate, config, mesh, "recipe")
