"""The trainer: one train step, and the loop that all runs go through."""

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
from jaxsim.console import say
from jaxsim.corpus import Corpus
from jaxsim.corpus.order import Schedule
from jaxsim.devices import attention_on, free_memory, peak_flops
from jaxsim.distributed import alone, from_lead, is_lead, meet
from jaxsim.errors import Preempted
from jaxsim.mesh import batch_sharding, replicated, to_devices
from jaxsim.metrics import Progress
from jaxsim.model import Execution, LanguageModel
from jaxsim.train.batches import batches
from jaxsim.train.finite import NonFiniteError
from jaxsim.train.grouping import planned
from jaxsim.train.optimizer import adamw
from jaxsim.train.program import Sums, TrainProgram
from jaxsim.train.running import Running
from jaxsim.train.runs import Run, label
from jaxsim.train.state import Marks, TrainState
from jaxsim.train.step import initial_state, train_step
from jaxsim.watchdog import watchdog


@dataclasses.dataclass(frozen=True)
class Trained:
    """What came out of a run: parameters on the host, and what it took.

    Seconds of runs that were trained side by side are divided evenly, so that
    those of a pool add up to what it cost.
    """

    params: Any
    schedule: Schedule
    final_loss: float  # nats a token, mean of the last step's batch
    wall_seconds: float  # of this process; a resumed run counts its last part
    device_seconds: float
    tokens: int
    flops: float


class Trainer:
    """Trains runs of one model, optimizer and batch size, alone or at once."""

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
        self.state_path = train.state_path
        self._save_every = train.checkpoint_every
        self._log_every = train.log_every
        self._group = train.group
        self._step_limit = train.step_limit
        self.recipe = recipe
        optimizer = adamw(recipe, rate)
        self._execution = Execution(
            attention=attention_on(
                mesh.devices.flat[0],
                train.attention,
                model.config.dim // model.config.heads,
                recipe.precision,
                "config.train.attention",
            ),
            unroll=train.unroll,
            remat=train.remat,
            precision=recipe.precision,
            loss_chunk=train.loss_chunk,
        )
        self._initial = functools.partial(
            initial_state, optimizer=optimizer, tail=tail > 0
        )
        self._step = functools.partial(
            train_step,
            model=model,
            optimizer=optimizer,
            accumulate=train.accumulate,
            decay=recipe.decay,
        )
        self._fits = 1  # runs side by side, as far as anybody has asked
        self._programs: dict[int, TrainProgram] = {}

    def program(self, members: int = 1) -> TrainProgram:
        """The step of so many runs side by side; each is compiled once."""
        if members not in self._programs:
            execution = self._execution
            if members == 1:  # side by side no batch is divided
                execution = dataclasses.replace(
                    execution, activations=batch_sharding(self.mesh)
                )
            say(
                f"train step: {execution.attention} attention in "
                f"{execution.precision}"
            )
            self._programs[members] = TrainProgram(
                self.model,
                functools.partial(self._step, execution=execution),
                self._initial,
                self._batch_rows,
                self.mesh,
                members,
            )
        return self._programs[members]

    def at_once(self, runs: int) -> int:
        """How many of so many runs of one length to train side by side.

        With several processes one: each would hold only some of the runs.
        """
        if not alone():
            return 1
        if self._group:
            return self._group
        if runs < self.mesh.size:
            return 1  # devices would idle
        # Scoring may have put a pool in the device's memory meanwhile.
        needed = self.program(self._fits).needed() if self._fits > 1 else 0
        if runs > self._fits or needed > free_memory(self.mesh):
            self._fits = planned(runs, self.mesh, self.program)
            if self._fits > 1:
                say(f"plan: {self._fits} runs at once, as many as fit")
        return self._fits

    def slots(self, runs: int) -> int:
        """Of the program for so many runs, of each device as many.

        One that is there already serves as well, if most of it is used.
        """
        devices = self.mesh.size
        wanted = runs if runs < devices else -(-runs // devices) * devices
        there = [m for m in self._programs if wanted <= m < 2 * wanted]
        return min(there, default=wanted)

    def fresh_params(self, rng: int) -> Any:
        """New parameters, made where they will live."""
        return self.program().fresh_params(rng)

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
        """Trains `runs` side by side from one start, or resumes them.

        A run whose loss is not finite is given up there and then; the others
        go on, because no run sees another.

        Args:
          runs: what to train; all have as many steps, of `batch_rows` rows.
          start: parameters, on the host or the device. They are copied.
          scratch: folder of the checkpoints of these runs together.
          metrics: the JSON Lines file of each run, or None for none.
          stop: asked after each step but the last; true ends training there,
            in all processes at the same step.
          slots: of the program, if more than there are runs.

        Returns:
          What came out of each run, or why nothing did.

        Raises:
          Preempted: `stop` said so; the state is committed in `scratch`.
        """
        recipe = dataclasses.replace(self.recipe, batch=self._batch_rows)
        schedules = [run.schedule(corpus, recipe) for run in runs]
        program = self.program(slots or len(runs))
        tail_steps = max(1, round(self._tail * runs[0].steps))
        with contextlib.ExitStack() as stack:
            # Before anything that only waits: who is missing is named.
            meet(label(runs), self._step_limit)
            # Left last: a process may be stuck in a last save as well.
            finished = stack.enter_context(
                watchdog(self._step_limit, label(runs))
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
            results = self._results(program, state, tail_steps)
            wall = (time.monotonic() - begin) / len(runs)
        tokens = runs[0].steps * self._batch_rows * corpus.length
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
        """All steps after `first`, or until no run is left."""
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
            len(runs) * self._batch_rows * corpus.length,
            self._log_every,
            start=first,
            flops=len(runs) * self._flops(self._batch_rows * corpus.length),
            peak=peak_flops(program.mesh),
        )
        pending: list[tuple[int, list[list[str]], Sums]] = []

        def settle() -> list[Running]:
            """Looks at the last step, while the next one is under way."""
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
            program, corpus, schedules, self._batch_rows, first, steps,
            progress.waited,
        ):  # fmt: skip
            state, sums = program(state, tokens_GBL1, marks)
            # Before anybody is asked to stop: `Agreement` rests on it.
            alive = settle()
            pending.append((number, units, sums))
            if number == steps or not alive:
                break
            stopping = stop()
            if stopping or (
                self._save_every and number % self._save_every == 0
            ):
                if not settle():  # nothing is left that is worth a commit
                    break
                if not stopping:
                    checkpoints.save(number, state)
                    continue
                checkpoints.save_and_wait(number, state)
                raise Preempted(
                    f"{what}: stopped after step {number}, which is "
                    "committed; repeat the same command to continue"
                )
        settle()
        return state

    def _flops(self, tokens: int) -> float:
        """Forward once, and twice as much backward."""
        return 3 * self.model.forward_flops(tokens)

    def _results(
        self, program: TrainProgram, state: TrainState, tail_steps: int
    ) -> Any:
        """What the runs come to [G, ...], on the host."""
        if self._tail == 0:
            return program.fetch(state.params)
        return jax.tree.map(
            lambda a: a / np.float32(tail_steps), program.fetch(state.tail_sum)
        )
