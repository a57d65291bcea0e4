"""Where runs are trained from one start, and from where they are published."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxsim import distributed
from jaxsim.corpus import Corpus
from jaxsim.errors import JaxsimError, Preempted
from jaxsim.log import provenance, say
from jaxsim.model import LanguageModel
from jaxsim.pool.bucket import Bucket
from jaxsim.pool.bucket.objects import StoreError
from jaxsim.pool.bucket.states import drop_state, fetch_state, sending
from jaxsim.pool.claims import Busy, Watch, holding
from jaxsim.pool.digests import (
    first_non_finite,
    leaves_by_path,
    object_digest,
    params_digest,
)
from jaxsim.pool.group import Group
from jaxsim.pool.manifest import Manifest
from jaxsim.pool.publish import (
    AlreadyPublished,
    clear_leftovers,
    is_published,
    publish,
    save_attempt,
)
from jaxsim.signals import stop_requested
from jaxsim.train import NonFiniteError, Run, Trained, Trainer

PATIENCE = 600.0  # seconds for which a result waits for its bucket
RETRY = 10.0  # between two tries


@dataclasses.dataclass(frozen=True)
class Workshop:
    """What all runs share that are trained from one start.

    Attributes:
      start: loads the parameters that they start from.
      recipe: as their manifests say it.
      seed_digest: of those; '' for a seed.
      entry_of: the folder that a run is published in, by its name.
      bucket: where other machines see what is done here, if they should.
    """

    corpus: Corpus
    trainer: Trainer
    start: Callable[[], Any]
    workdir: Path
    _: dataclasses.KW_ONLY
    recipe: dict[str, Any]
    seed_digest: str
    entry_of: Callable[[str], Path]
    bucket: Bucket | None = None

    @property
    def training(self) -> Path:
        """The folder of what is not finished."""
        return self.workdir / "training"

    @contextlib.contextmanager
    def holding(
        self, name: str, what: str, watch: Watch | None
    ) -> Iterator[None]:
        """The claim of a run or a group; see `claims.holding`."""
        # No run can have the folder's name: it begins with a dot.
        with holding(self.training / ".locks" / name, what, watch):
            if self.bucket is None:
                yield
                return
            with self.bucket.holding(name, what, watch):
                yield

    def take(
        self, run: Run, locks: contextlib.ExitStack, watch: Watch | None = None
    ) -> bool:
        """Holds a run until `locks` are left; false if it is published.

        Raises:
          Busy: another launcher holds it.
        """
        claim = self.holding(run.name, f"{run.kind} {run.name}", watch)
        locks.enter_context(claim)
        entry = self.entry_of(run.name)
        if is_published(entry) or (
            self.bucket is not None and self.bucket.fetched(entry)
        ):
            # Finished elsewhere, or killed before this was done.
            self._drop(self.training / run.name)
            return False
        return True

    def is_done(self, run: Run) -> bool:
        """Is it published, here or elsewhere? If so it is here now.

        One that is held is not asked about; it will be waited for.
        """
        entry = self.entry_of(run.name)
        there = is_published(entry)
        if there and not (self.training / run.name).exists():
            return True
        if there or (self.bucket and self.bucket.manifest(entry)):
            with (
                contextlib.suppress(Busy),
                contextlib.ExitStack() as locks,
            ):
                self.take(run, locks)
        return is_published(entry)

    def is_begun(self, run: Run) -> bool:
        """Was it begun alone, and not finished?"""
        return (self.training / run.name).exists()

    def dropped(self, folder: Path, group: Group) -> bool:
        """Deletes a recorded group of no use: all there, or of another text."""
        if all(is_published(self.entry_of(run.name)) for run in group.runs):
            self._drop(folder)
            return True
        known = self.corpus.units
        if all(name in known for run in group.runs for name in run.ratio) and (
            folder == self.folder(group)
        ):
            return False
        say(f"{group}: changed since they were begun; they start anew")
        self._drop(folder)
        return True

    def _drop(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if self.bucket is not None:
            drop_state(self.bucket, folder)

    @contextlib.contextmanager
    def _shared(self, folder: Path, runs: Sequence[Run]) -> Iterator[None]:
        """Inside, what is committed in `folder` is seen by other machines."""
        if self.bucket is None:
            yield
            return
        names = [run.name for run in runs]
        fetch_state(self.bucket, folder, names)
        with sending(self.bucket, folder, names):
            yield

    def train(self, group: Group, mine: Sequence[Run]) -> None:
        """Trains a group, and publishes those of its runs that are `mine`.

        All of `mine` are held, and the group is, if it is a recorded one.

        Raises:
          Busy: another launcher took runs over, while this one stood still.
          Preempted: SIGTERM came; what was done is on disk.
          JaxsimError: a run did not come to finite values, there is no room,
            or the bucket cannot be reached. What can be is published first.
        """
        folder = self.folder(group)
        with stop_requested() as stop, self._shared(folder, mine):
            for run in mine:
                clear_leftovers(self.entry_of(run.name))
            check_room(self.workdir, self.trainer.model, len(mine), group.slots)
            if group.slots > 1:
                group.record(folder)
            states = self._states(group, folder)
            distributed.from_lead(
                {"run": group.runs[0].name, "states": str(states)}
            )
            agreement = distributed.Agreement(stop)
            metrics = self.workdir / "metrics"
            outcomes = self.trainer.train(
                group.runs,
                self.corpus,
                self.start(),
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
                        self._admit(run, outcome, group, agreement.anybody)
                    except NonFiniteError as error:
                        failed.append(str(error))
                    except Busy as busy:
                        lost.append(busy.who)
                    except StoreError as error:
                        unsent.append(f"{run.kind} {run.name}: {error}")
            # Of a group that was taken over, the folder is another's. And a
            # run that somebody held may yet be left to this group.
            there = sum(
                is_published(self.entry_of(run.name)) for run in group.runs
            )
            done = there + len(failed) == len(group.runs)
            # What is not in the bucket may be needed on another machine.
            if there and done and not (lost or unsent):
                shutil.rmtree(folder, ignore_errors=True)
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
                + f"\nPublished in {self.workdir} alone; repeat the same "
                "command to send what is done"
            )
        if lost:
            raise Busy("; ".join(lost))
        if agreement.anybody():
            raise Preempted(
                f"{group}: published, and no other run was begun; repeat the "
                "same command to continue"
            )

    def folder(self, group: Group) -> Path:
        """Where a group is written down, and its states are."""
        return group.folder(
            self.training, [self._identity(run) for run in group.runs]
        )

    def _states(self, group: Group, folder: Path) -> Path:
        """The folder of checkpoints; those of another run are deleted.

        A config or a text may have changed since a run of this name was
        stopped.
        """
        if group.slots > 1:  # the folder's name says what it is of
            return folder / "states"
        states = folder / object_digest(self._identity(group.runs[0]))[:16]
        for other in folder.glob("*"):
            if other != states:
                say(f"{group}: it has changed, and starts anew")
                shutil.rmtree(other)
        return states

    def _identity(self, run: Run) -> dict[str, Any]:
        """All that decides what comes out of a run."""
        return {
            **origin(run, self.corpus),
            "tokenizer_digest": self.corpus.tokenizer_digest,
            "seed_data": self.corpus.seed.digest,
            "model": dataclasses.asdict(self.trainer.model.config),
            # The seed's own recipe leaves out betas, decay, clip, precision.
            "trainer": dataclasses.asdict(self.trainer.recipe),
            "recipe": self.recipe,
            "seed_digest": self.seed_digest,
        }

    def _admit(
        self,
        run: Run,
        outcome: Trained | NonFiniteError,
        group: Group,
        stop: Callable[[], bool],
    ) -> None:
        """Publishes the outcome of a run.

        Raises:
          NonFiniteError: it is an error, or it holds what is not finite.
          Busy: another launcher took the run over.
          StoreError: it is published here, and could not be sent.
        """
        if isinstance(outcome, NonFiniteError):
            raise outcome
        if leaf := first_non_finite(outcome.params):
            raise NonFiniteError(
                f"{run.kind} {run.name}: after the last step leaf {leaf} holds "
                "a value that is not finite; nothing is admitted"
            )
        entry = self.entry_of(run.name)
        attempt, files = save_attempt(entry, outcome.params)
        manifest = self._manifest(run, outcome, attempt, files, group)
        try:
            try:
                if self.bucket is not None:  # what it admits counts for all
                    self._send(entry, manifest, stop)
            except StoreError:
                publish(entry, manifest)  # the next start sends it
                raise
            publish(entry, manifest)
        except AlreadyPublished as lost:
            say(str(lost))
            if self.bucket is not None:
                clear_leftovers(entry)
                self.bucket.fetched(entry)

    def _send(
        self, entry: Path, manifest: Manifest, stop: Callable[[], bool]
    ) -> None:
        """Publishes in the bucket; waits a while for one that is not there."""
        assert self.bucket is not None
        begin = time.monotonic()
        while True:
            try:
                self.bucket.publish(entry, manifest)
            except StoreError as error:
                if stop() or time.monotonic() - begin > PATIENCE:
                    raise
                say(f"{manifest.kind} {entry.name}: tried again: {error}")
                time.sleep(RETRY)
            else:
                say(f"{manifest.kind} {entry.name}: sent to {self.bucket}")
                return

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
            seed_digest=self.seed_digest,
            tokenizer_digest=self.corpus.tokenizer_digest,
            recipe=self.recipe,
            model=dataclasses.asdict(self.trainer.model.config),
            tokens=trained.tokens,
            unique_tokens=sum(rows.unique_rows) * self.corpus.length,
            epochs=dict(zip(rows.units, rows.epochs, strict=True)),
            final_loss=trained.final_loss,
            wall_seconds=trained.wall_seconds,
            device_seconds=trained.device_seconds,
            flops=trained.flops,
            provenance=provenance() | _beside(group),
            **origin(run, self.corpus),
        )


def origin(run: Run, corpus: Corpus) -> dict[str, Any]:
    """What makes a run this one, as its manifest says it."""
    return {
        "kind": run.kind,
        "ratio": dict(run.ratio),
        "steps": run.steps,
        "order": run.order,
        "data_digests": {name: corpus.unit(name).digest for name in run.ratio},
    }


def _beside(group: Group) -> dict[str, Any]:
    """What was trained side by side: it decides the last bits."""
    if group.slots == 1:
        return {}
    names = [run.name for run in group.runs]
    return {"group": {"runs": names, "slots": group.slots}}


def check_room(
    workdir: Path, model: LanguageModel, runs: int, slots: int = 1
) -> None:
    """Refuses to train what could not be saved."""
    # Parameters, and two resumable states: parameters, two moments and tail.
    needed = 4 * model.parameter_count() * (runs + 2 * 4 * slots)
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise JaxsimError(
            f"{workdir}: {runs} runs need about {needed:,} bytes of disk and "
            f"{free:,} are free; nothing was trained"
        )
