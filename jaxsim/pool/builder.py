"""Trains runs from one start, alone or in groups, and publishes each.

Runs of one length are trained as a group, vectorized. Its launcher holds a
lock for each of its runs, so that others leave those runs to it, whatever
groups they compose.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxsim import distributed, records
from jaxsim.checkpoints import StatePath, delete, state_folder
from jaxsim.corpus import Corpus
from jaxsim.errors import JaxsimError, Preempted
from jaxsim.log import provenance, say
from jaxsim.pool.bucket import Bucket, StoreError
from jaxsim.pool.digests import first_non_finite, leaves_by_path, params_digest
from jaxsim.pool.group import Group, recorded
from jaxsim.pool.lock import Busy, holding, patiently
from jaxsim.pool.manifest import Manifest
from jaxsim.pool.publish import (
    AlreadyPublished,
    check_links,
    clear_leftovers,
    is_published,
    publish,
    save_attempt,
)
from jaxsim.signals import stop_requested
from jaxsim.train import NonFiniteError, Run, Trainer
from jaxsim.train.trainer import Trained


class PoolBuilder:
    """Trains runs from one start, and publishes one entry for each.

    Attributes:
      training: the folder of states of unfinished runs.
    """

    def __init__(
        self,
        corpus: Corpus,
        trainer: Trainer,
        start: Callable[[], Any],
        workdir: Path,
        *,
        recipe: dict[str, Any],
        base_digest: str,
        entry_of: Callable[[str], Path],
        bucket: Bucket | None = None,
    ) -> None:
        """Prepares to train.

        Args:
          corpus: where the rows of all runs come from.
          trainer: trains them.
          start: loads the parameters that they start from.
          workdir: where their metrics are written, and launchers meet.
          recipe: as their manifests say it.
          base_digest: the digest of the start; '' for a base model.
          entry_of: the folder that a run is published in, by its name.
          bucket: where other workdirs get what is published here.

        Raises:
          UserError: states cannot be written to `config.train.state_path`.
        """
        self._corpus, self._trainer, self._start = corpus, trainer, start
        self._workdir, self._entry_of, self._bucket = workdir, entry_of, bucket
        self._recipe, self._base_digest = recipe, base_digest
        self._locks = workdir / "state" / ".locks"
        self.training = StatePath(workdir / "state")
        if trainer.state_path:
            # Another pool may have its states below the same path.
            digest = records.digest(self._shared_identity())[:16]
            self.training = state_folder(trainer.state_path) / f"jaxsim-{digest}"
        # Of one pass over what is missing:
        self._missing: list[Run] = []
        self._held: dict[str, str] = {}  # names, and who holds them

    def is_done(self, run: Run) -> bool:
        """Whether it is published, here or in the bucket; then it is here.

        A run that is locked is not looked up; its launcher is waited for.
        """
        entry = self._entry_of(run.name)
        there = is_published(entry)
        if there and not self._is_begun(run):
            return True
        if there or (self._bucket and self._bucket.manifest(entry)):
            with (
                contextlib.suppress(Busy),
                contextlib.ExitStack() as locks,
            ):
                self.take(run, locks)
        return is_published(entry)

    def take(self, run: Run, locks: contextlib.ExitStack) -> bool:
        """Locks a run until `locks` are left; false if it is published.

        Raises:
          Busy: another launcher holds it.
        """
        what = f"{run.kind} {run.name}"
        locks.enter_context(holding(self._locks / run.name, what))
        entry = self._entry_of(run.name)
        if is_published(entry) or (
            self._bucket is not None and self._bucket.fetched(entry)
        ):
            # Finished elsewhere, or killed before this was done.
            delete(self.training / run.name)
            return False
        return True

    def check_room(self, runs: int, slots: int = 1) -> None:
        """Refuses to train what could not be saved.

        Raises:
          JaxsimError: the disk has no room, or no hard links.
        """
        check_links(self._locks)
        # Parameters, and two resumable states: parameters, two moments and
        # tail. States that go elsewhere take no room here.
        states = 0 if self._trainer.state_path else 2 * 4 * slots
        model = self._trainer.model
        needed = 4 * model.parameter_count() * (runs + states)
        free = shutil.disk_usage(self._workdir).free
        if free < needed:
            raise JaxsimError(
                f"{self._workdir}: {runs} runs need about {needed:,} bytes of "
                f"disk and {free:,} are free; nothing was trained"
            )

    def train_alone(self, run: Run) -> None:
        """Trains one run, unless it is published, and publishes it.

        If it is killed, at whatever moment, it leaves an attempt that no
        manifest names, and the state that the next call resumes from. It waits
        for another launcher that trains the run.

        Raises:
          Preempted, JaxsimError: see `train`.
        """

        def attempt() -> None:
            with contextlib.ExitStack() as locks:
                if self.take(run, locks):
                    self.train(Group((run,), 1), (run,))

        patiently(attempt)

    def train_all(self, runs: Sequence[Run]) -> None:
        """Trains and publishes what no other launcher holds, then waits.

        Groups that were begun come first.

        Raises:
          Preempted, JaxsimError: see `train`.
        """
        patiently(lambda: self._train_free(runs))

    def _train_free(self, runs: Sequence[Run]) -> None:
        """One pass.

        Raises:
          Busy: other launchers hold runs; names them.
        """
        self._missing = [
            run for run in runs if not is_published(self._entry_of(run.name))
        ]
        self._held = {}
        asked = {run.name for run in self._missing}
        # A group is trained by one process: each would hold only some runs.
        if distributed.alone():
            for folder, group in recorded(self.training):
                with contextlib.ExitStack() as locks:
                    self._finish(folder, group, locks)
        while self._missing:
            with contextlib.ExitStack() as locks:
                if taken := self._take_next(locks):
                    slots = self._trainer.slots(len(taken))
                    self.train(Group(tuple(taken), slots), taken)
        held = [who for name, who in self._held.items() if name in asked]
        if held:
            raise Busy("; ".join(dict.fromkeys(held)))

    def _finish(
        self, folder: StatePath, group: Group, locks: contextlib.ExitStack
    ) -> None:
        """Resumes a recorded group, if a run of it is missing.

        It is resumed whole, also with runs that are published by now; only
        those that are not are published. It is left alone while another
        launcher holds one of these.
        """
        absent = [
            run for run in group.runs if not is_published(self._entry_of(run.name))
        ]
        if not absent:
            delete(folder)
            return
        names = {run.name for run in absent}
        asked = [run for run in self._missing if run.name in names]
        if not asked:
            return
        mine = [run for run in absent if self._try(run, locks)]
        if names & self._held.keys():
            self._settle(asked)
            return
        units = {name for run in group.runs for name in run.mixture}
        if not units <= self._corpus.units.keys() or (folder != self._folder(group)):
            say(f"{group}: changed since they were begun; they start again")
            delete(folder)
            return
        self._settle(asked)
        if mine:
            self.train(group, mine)

    def _take_next(self, locks: contextlib.ExitStack) -> list[Run]:
        """Locks the next runs of one length; none if others hold them all."""
        first = self._missing[0]
        like = [run for run in self._missing if run.steps == first.steps]
        # A run that was begun alone ends alone.
        like = [run for run in like if self._is_begun(run)][:1] or like
        taken: list[Run] = []
        size = 1
        for i, run in enumerate(like):
            if len(taken) == size:
                break
            self._settle([run])
            if self._try(run, locks):
                taken.append(run)
                if len(taken) == 1:  # planned only if there is one to train
                    size = self._size(len(like) - i)
        return taken

    def _size(self, runs: int) -> int:
        """Runs in a group: as even as can be, so that one program serves."""
        most = self._trainer.at_once(runs)
        return -(-runs // -(-runs // most))

    def _try(self, run: Run, locks: contextlib.ExitStack) -> bool:
        """Locks a run; false if it is published or another holds it."""
        self._held.pop(run.name, None)
        try:
            return self.take(run, locks)
        except Busy as busy:
            self._held[run.name] = busy.who
            return False

    def _settle(self, runs: Sequence[Run]) -> None:
        """Takes runs off the list of this pass."""
        self._missing = [run for run in self._missing if run not in runs]

    def train(self, group: Group, mine: Sequence[Run]) -> None:
        """Trains a group, and publishes those of its runs that are `mine`.

        All of the group's runs that are not published are locked.

        Raises:
          Busy: another launcher cleared attempts away; only where the file
            system has no locks.
          Preempted: SIGTERM came; what was done is on disk.
          JaxsimError: a run did not come to finite values, there is no room,
            or the bucket cannot be reached. What can be is published first.
        """
        folder = self._folder(group)
        with stop_requested() as stop:
            for run in mine:
                clear_leftovers(self._entry_of(run.name))
            self.check_room(len(mine), group.slots)
            if group.slots > 1:
                group.record(folder)
            states = self._states(group, folder)
            distributed.from_lead({"run": group.runs[0].name, "states": str(states)})
            agreement = distributed.Agreement(stop)
            metrics = self._workdir / "metrics"
            outcomes = self._trainer.train(
                group.runs,
                self._corpus,
                self._start(),
                states,
                [
                    metrics / f"{run.name}.jsonl" if run in mine else None
                    for run in group.runs
                ],
                agreement.after_step,
                group.slots,
            )
            failed, lost, unsent = [], [], []
            for run, outcome in zip(group.runs, outcomes, strict=True):
                if run in mine:
                    try:
                        self._admit(run, outcome, group)
                    except NonFiniteError as error:
                        failed.append(str(error))
                    except Busy as busy:
                        lost.append(busy.who)
                    except StoreError as error:
                        unsent.append(f"{run.kind} {run.name}: {error}")
            # A run that another launcher holds may yet be left to this group.
            there = sum(is_published(self._entry_of(run.name)) for run in group.runs)
            if there and there + len(failed) == len(group.runs) and not lost:
                delete(folder)
        if failed:
            others = len(mine) - len(failed) - len(lost)
            raise NonFiniteError(
                "\n".join(failed)
                + f"\nThe other {others} runs beside it were trained to their "
                "end and are published" * (others > 0)
            )
        if unsent:
            raise StoreError(
                "\n".join(unsent)
                + f"\nPublished in {self._workdir} alone; repeat the same "
                "command to send what is done"
            )
        if lost:
            raise Busy("; ".join(lost))
        if agreement.anybody():
            raise Preempted(
                f"{group}: published, and no other run was begun; repeat the "
                "same command to continue"
            )

    def _is_begun(self, run: Run) -> bool:
        """Whether it was begun alone, and not finished."""
        return bool((self.training / run.name).exists())

    def _folder(self, group: Group) -> StatePath:
        """Where a group is recorded, and its states are."""
        return group.folder(self.training, [self._identity(run) for run in group.runs])

    def _states(self, group: Group, folder: StatePath) -> StatePath:
        """The folder of checkpoints; those of another run are deleted.

        A config or a text may have changed since a run of this name was
        stopped.
        """
        if group.slots > 1:  # the folder's name is a digest of all runs
            return folder / "states"
        states = folder / records.digest(self._identity(group.runs[0]))[:16]
        for other in folder.glob("*"):
            if other != states:
                say(f"{group}: it has changed, and starts again")
                delete(other)
        return states

    def _identity(self, run: Run) -> dict[str, Any]:
        """All that decides the result of a run."""
        return {**origin(run, self._corpus), **self._shared_identity()}

    def _shared_identity(self) -> dict[str, Any]:
        """What decides the results of all runs alike."""
        return {
            "tokenizer_digest": self._corpus.tokenizer_digest,
            "base_data": self._corpus.base.digest,
            "model": dataclasses.asdict(self._trainer.model.config),
            # The base model's own recipe leaves out betas, decay, clip, precision.
            "trainer": dataclasses.asdict(self._trainer.recipe),
            "recipe": self._recipe,
            "base_digest": self._base_digest,
        }

    def _admit(self, run: Run, outcome: Trained | NonFiniteError, group: Group) -> None:
        """Publishes the outcome of a run.

        Raises:
          NonFiniteError: it is an error, or it holds what is not finite.
          Busy: another launcher cleared the attempt away.
          StoreError: it is published here, and could not be sent.
        """
        if isinstance(outcome, NonFiniteError):
            raise outcome
        if leaf := first_non_finite(outcome.params):
            raise NonFiniteError(
                f"{run.kind} {run.name}: after the last step leaf {leaf} holds "
                "a value that is not finite; nothing is admitted"
            )
        entry = self._entry_of(run.name)
        attempt, files = save_attempt(entry, outcome.params)
        manifest = self._manifest(run, outcome, attempt, files, group)
        try:
            try:
                if self._bucket is not None:  # its manifest counts for all
                    self._bucket.publish(entry, manifest)
                    say(f"{run.kind} {run.name}: sent to {self._bucket}")
            except StoreError:
                publish(entry, manifest)  # the next start sends it
                raise
            publish(entry, manifest)
        except AlreadyPublished as lost:
            say(str(lost))
            if self._bucket is not None:
                clear_leftovers(entry)
                self._bucket.fetched(entry)

    def _manifest(
        self,
        run: Run,
        trained: Trained,
        attempt: str,
        files: dict[str, Any],
        group: Group,
    ) -> Manifest:
        rows = trained.schedule
        return Manifest(
            name=run.name,
            attempt=attempt,
            params_digest=params_digest(trained.params),
            files=files,
            leaves={
                path: (list(leaf.shape), str(leaf.dtype))
                for path, leaf in leaves_by_path(trained.params).items()
            },
            finite=True,
            base_digest=self._base_digest,
            tokenizer_digest=self._corpus.tokenizer_digest,
            recipe=self._recipe,
            model=dataclasses.asdict(self._trainer.model.config),
            tokens=trained.tokens,
            unique_tokens=sum(rows.unique_rows) * self._corpus.length,
            epochs=dict(zip(rows.units, rows.epochs, strict=True)),
            final_loss=trained.final_loss,
            wall_seconds=trained.wall_seconds,
            device_seconds=trained.device_seconds,
            flops=trained.flops,
            provenance=provenance() | _beside(group),
            **origin(run, self._corpus),
        )


def origin(run: Run, corpus: Corpus) -> dict[str, Any]:
    """What makes a run this one, as its manifest says it."""
    return {
        "kind": run.kind,
        "mixture": dict(run.mixture),
        "steps": run.steps,
        "data_seed": run.data_seed,
        "data_digests": {name: corpus.unit(name).digest for name in run.mixture},
    }


def _beside(group: Group) -> dict[str, Any]:
    """The runs that were trained together: they decide the last bits."""
    if group.slots == 1:
        return {}
    names = [run.name for run in group.runs]
    return {"group": {"runs": names, "slots": group.slots}}
