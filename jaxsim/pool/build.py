"""Trains the runs that a pool lacks, and publishes each as an entry.

Runs of one length are trained in parallel where the trainer can (`Group`). A
launcher locks every run that it trains, so that other launchers leave those runs
to it. Of several processes, process 0 decides and publishes; the others follow.
"""

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxsim import distributed, records
from jaxsim.checkpoints import StatePath, delete, save_params, state_folder
from jaxsim.corpus import Corpus
from jaxsim.corpus.names import Labels
from jaxsim.errors import JaxsimError, Preempted, UserError
from jaxsim.log import counted, detail, provenance, say
from jaxsim.pool.bucket import Bucket, StoreError
from jaxsim.pool.digests import differences, first_non_finite, params_digest
from jaxsim.pool.group import PREFIX, Group, delete_group, recorded
from jaxsim.pool.lock import Busy, holding, wait_for_others
from jaxsim.pool.manifest import Manifest, leaves_of, read_manifest
from jaxsim.pool.pool import Pool
from jaxsim.pool.publish import (
    AlreadyPublished,
    check_links,
    clear_draft,
    clear_leftovers,
    is_published,
    publish,
    save_attempt,
)
from jaxsim.signals import stop_requested
from jaxsim.train import NonFiniteError, Run, Trainer
from jaxsim.train.runs import title
from jaxsim.train.trainer import Trained


def train_missing(
    runs: Sequence[Run],
    pool: Pool,
    corpus: Corpus,
    trainer: Trainer,
    bucket: Bucket | None = None,
) -> None:
    """Trains and publishes every run that the pool lacks.

    Unfinished groups come first, then as many runs of one length together as the
    trainer takes. Runs that other launchers of this workdir hold are waited for,
    and trained here if those launchers die. Entries that other workdirs have
    published in the bucket are fetched.

    Raises:
      UserError: the base model comes from another corpus, or an entry with a run's
        name comes from other data or another run.
      Preempted: SIGTERM came; what was done is on disk.
      JaxsimError: a run did not come to finite values. The others that were
        trained with it are published.
    """
    if not distributed.is_lead():
        follow(corpus, trainer, lambda: pool.base()[1])
        return
    with distributed.leading():
        _check_corpus(pool, corpus)
        if bucket is not None:
            bucket.send_pool(pool)
        builder = PoolBuilder(
            corpus,
            trainer,
            functools.cache(lambda: pool.base()[1]),
            pool.workdir,
            recipe=pool.identity["recipe"],
            base_digest=pool.identity["base_digest"],
            bucket=bucket,
        )
        missing = []
        for run in runs:
            if builder.is_done(run):
                _check_entry(run, pool, corpus)
            else:
                missing.append(run)
        begun = recorded(builder.states)
        if missing:
            builder.check_room(len(missing))
            detail(f"pool: {len(missing)} of {counted(len(runs), 'run')} to train")
        else:
            detail(f"pool: {counted(len(runs), 'run')}, nothing to train")
        if missing or begun:
            builder.train(missing)


def follow(corpus: Corpus, trainer: Trainer, start: Callable[[], Any]) -> None:
    """Trains and saves together with process 0, which decides and publishes.

    Trainer and corpus are as in process 0; `start` loads what all runs start from.

    Raises:
      Ended: process 0 failed, or was stopped.
      Preempted: SIGTERM came to one of the processes.
    """
    params: Any = None
    outcomes: dict[str, Any] = {}
    with stop_requested() as stop:
        for word in distributed.instructions():
            if "save" in word:
                # Process 0 saves only finite results, and this process has the same.
                outcome = outcomes.pop(Path(word["save"]).parent.name)
                assert isinstance(outcome, Trained)
                save_params(Path(word["save"]), outcome.params)
                continue
            params = start() if params is None else params
            runs = [Run(**run) for run in word["runs"]]
            trained = trainer.train(
                runs,
                corpus,
                params,
                StatePath(word["states"]),
                [None] * len(runs),  # process 0 writes metrics
                distributed.StopTogether(stop).after_step,
                word["slots"],
            )
            outcomes = {run.name: one for run, one in zip(runs, trained, strict=True)}


@dataclasses.dataclass
class PoolBuilder:
    """Trains runs that start from the same parameters, and publishes them."""

    corpus: Corpus  # has the rows of all runs
    trainer: Trainer
    start: Callable[[], Any]  # loads the parameters that all runs start from
    workdir: Path
    recipe: dict[str, Any]  # for the manifests
    base_digest: str = ""  # of the start; '' for the base model's own run
    bucket: Bucket | None = None  # gives other workdirs what is published here

    def __post_init__(self) -> None:
        self._shared: dict[str, Any] = {  # fields that all manifests share
            "tokenizer_digest": self.corpus.tokenizer_digest,
            "model": dataclasses.asdict(self.trainer.model.config),
            "recipe": self.recipe,
            "base_digest": self.base_digest,
        }
        self._shared_identity: dict[str, Any] = self._shared | {
            "base_data": self.corpus.base_digests.get(Labels.BASE),
            # The base model's recipe leaves out betas, decay, clip and precision.
            "trainer": dataclasses.asdict(self.trainer.recipe),
        }
        self._locks = self.workdir / "state" / ".locks"
        self.states = StatePath(self.workdir / "state")  # of unfinished runs
        if self.trainer.state_path:
            # Other pools may keep their states below the same path.
            digest = records.digest(self._shared_identity)[:16]
            self.states = state_folder(self.trainer.state_path) / f"jaxsim-{digest}"
        # During one pass over the missing runs:
        self._missing: list[Run] = []
        self._held: dict[str, str] = {}  # run name -> who holds it

    def is_done(self, run: Run) -> bool:
        """Whether the run is published; fetches it if only the bucket has it.

        A run that another launcher holds is not fetched, but waited for later.
        """
        entry = self._entry(run)
        clear_draft(entry)
        if (there := is_published(entry)) and not self._state(run).exists():
            return True
        if there or (self.bucket and self.bucket.manifest(entry)):
            with contextlib.suppress(Busy), contextlib.ExitStack() as locks:
                self.take(run, locks)
        return is_published(entry)

    def take(self, run: Run, locks: contextlib.ExitStack) -> bool:
        """Locks a run until `locks` closes; false if the run is published."""
        what = title(run.kind, run.name)
        locks.enter_context(holding(self._locks / run.name, what))
        entry = self._entry(run)
        if is_published(entry) or (self.bucket and self.bucket.fetched(entry)):
            # Another launcher finished it, or this one was killed before the delete.
            delete(self._state(run))
            return False
        return True

    def check_room(self, runs: int, slots: int = 1) -> None:
        """Raises a `JaxsimError` before training if results cannot be saved."""
        check_links(self._locks)
        # Parameters, and two resumable states: parameters, two moments and tail
        # average. States below `state_path` take no room here.
        states = 0 if self.trainer.state_path else 2 * 4 * slots
        needed = 4 * self.trainer.model.parameter_count() * (runs + states)
        free = shutil.disk_usage(self.workdir).free
        if free < needed:
            raise JaxsimError(
                f"{self.workdir}: {counted(runs, 'run')} to train: about {needed:,} "
                f"bytes of disk are needed and {free:,} are free; nothing was trained"
            )

    def train(self, runs: Sequence[Run]) -> None:
        """Trains and publishes the runs that are not published; see `train_missing`.

        If it is killed, it leaves attempts that no manifest names, and states that
        the next call resumes from.
        """
        wait_for_others(lambda: self._train_free(runs))

    def _train_free(self, runs: Sequence[Run]) -> None:
        """Trains all free runs once; `Busy` names those that other launchers hold."""
        self._missing = [run for run in runs if not is_published(self._entry(run))]
        self._held = {}
        asked = {run.name for run in self._missing}
        for folder, group in recorded(self.states):
            with contextlib.ExitStack() as locks:
                self._finish(folder, group, locks)
        while self._missing:
            with contextlib.ExitStack() as locks:
                if taken := self._take_next(locks):
                    slots = self.trainer.slots(len(taken))
                    self._train(Group(tuple(taken), slots), taken)
        held = [who for name, who in self._held.items() if name in asked]
        if held:
            raise Busy("; ".join(dict.fromkeys(held)))

    def _finish(
        self, folder: StatePath, group: Group, locks: contextlib.ExitStack
    ) -> None:
        """Resumes a recorded group if one of its runs is missing.

        The whole group is trained again, but only unpublished runs are published.
        Nothing happens while another launcher holds one of them.
        """
        absent = [run for run in group.runs if not is_published(self._entry(run))]
        if not absent:
            delete_group(folder)
            return
        names = {run.name for run in absent}
        asked = [run for run in self._missing if run.name in names]
        if not asked:
            return
        mine = [run for run in absent if self._try(run, locks)]
        if not names & self._held.keys():
            units = {name for run in group.runs for name in run.mixture}
            if not units <= self.corpus.units.keys() or folder != self._folder(group):
                say(f"{group}: changed since they were begun; they start again")
                delete_group(folder)
                return
        else:
            mine = []
        self._missing = [run for run in self._missing if run not in asked]
        if mine:
            self._train(group, mine)

    def _take_next(self, locks: contextlib.ExitStack) -> list[Run]:
        """Locks the next runs of one length; none if others hold them all."""
        first = self._missing[0]
        like = [run for run in self._missing if run.steps == first.steps]
        # A run that was begun alone is also finished alone.
        like = [run for run in like if self._state(run).exists()][:1] or like
        taken: list[Run] = []
        size = 1
        for i, run in enumerate(like):
            if len(taken) == size:
                break
            self._missing.remove(run)
            if self._try(run, locks):
                taken.append(run)
                if len(taken) == 1:
                    # Groups of nearly equal size can share one compiled program.
                    runs = len(like) - i
                    most = self.trainer.at_once(runs)
                    size = -(-runs // -(-runs // most))
        return taken

    def _try(self, run: Run, locks: contextlib.ExitStack) -> bool:
        """Locks a run; false if it is published or another launcher holds it."""
        self._held.pop(run.name, None)
        try:
            return self.take(run, locks)
        except Busy as busy:
            self._held[run.name] = busy.who
            return False

    def _train(self, group: Group, mine: Sequence[Run]) -> None:
        """Trains a group, and publishes those of its runs that are in `mine`.

        The caller holds the locks of all unpublished runs of the group. If a run does
        not come to finite values, or the bucket cannot be reached, all good results are
        published before the error is raised. `Busy` says that another launcher deleted
        attempts, which happens only where the file system has no locks.
        """
        folder = self._folder(group)
        with stop_requested() as stop:
            for run in mine:
                clear_leftovers(self._entry(run))
            self.check_room(len(mine), group.slots)
            if group.slots > 1:
                group.record(folder)
            states = self._checkpoints(group, folder)
            distributed.from_lead(
                dataclasses.asdict(group) | {"states": str(states)}  # for `follow`
            )
            together = distributed.StopTogether(stop)
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
                together.after_step,
                group.slots,
            )
            failed, lost, unsent = [], [], []
            for run, outcome in zip(group.runs, outcomes, strict=True):
                if run in mine:
                    try:
                        self._publish(run, outcome, group)
                    except NonFiniteError as error:
                        failed.append(str(error))
                    except Busy as busy:
                        lost.append(busy.who)
                    except StoreError as error:
                        unsent.append(f"{title(run.kind, run.name)}: {error}")
            # The group stays while another launcher may fail to publish its run.
            there = sum(is_published(self._entry(run)) for run in group.runs)
            if there and there + len(failed) == len(group.runs) and not lost:
                delete_group(folder)
        if failed:
            others = len(mine) - len(failed) - len(lost)
            raise NonFiniteError(
                "\n".join(failed)
                + f"\nOf its group, {counted(others, 'run')} finished and published"
                * (others > 0)
            )
        if unsent:
            raise StoreError(
                "\n".join(unsent)
                + f"\nPublished only in {self.workdir}; repeat the same command to "
                "send what is done"
            )
        if lost:
            raise Busy("; ".join(lost))
        if together.anybody():
            raise Preempted(
                f"{group}: published, and no other run was begun; repeat the "
                "same command to continue"
            )

    def _entry(self, run: Run) -> Path:
        """The folder that a run is published in."""
        if run.kind == "base":
            return self.workdir / "base"
        return self.workdir / "pool" / "members" / run.name

    def _state(self, run: Run) -> StatePath:
        """Where a run that is trained alone has its states until it is published."""
        return self.states / run.name

    def _folder(self, group: Group) -> StatePath:
        """Where a group has its record and its states.

        Other text or another recipe gives another folder.
        """
        if group.slots == 1:
            return self._state(group.runs[0])
        digest = records.digest([group.slots, *map(self._identity, group.runs)])
        return self.states / f"{PREFIX}{digest[:12]}"

    def _checkpoints(self, group: Group, folder: StatePath) -> StatePath:
        """The folder of checkpoints; deletes those of another run of this name.

        The config or the text may have changed since that run was stopped.
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
        """Everything that decides the result of a run."""
        return {**_origin(run, self.corpus), **self._shared_identity}

    def _publish(
        self, run: Run, outcome: Trained | NonFiniteError, group: Group
    ) -> None:
        """Publishes the outcome of a run, or raises what is wrong with it."""
        if isinstance(outcome, NonFiniteError):
            raise outcome
        if leaf := first_non_finite(outcome.params):
            raise NonFiniteError(
                f"{title(run.kind, run.name)}: after the last step leaf {leaf} holds "
                "a value that is not finite; nothing is published"
            )
        entry = self._entry(run)
        attempt, files = save_attempt(entry, outcome.params)
        together = {}
        if group.slots > 1:  # the last bits depend on the other runs
            names = [other.name for other in group.runs]
            together = {"group": {"runs": names, "slots": group.slots}}
        manifest = Manifest(
            name=run.name,
            attempt=attempt,
            params_digest=params_digest(outcome.params),
            files=files,
            leaves=leaves_of(outcome.params),
            finite=True,
            tokens=outcome.tokens,
            unique_tokens=outcome.schedule.unique_rows * self.corpus.length,
            epochs=outcome.schedule.epochs,
            final_loss=outcome.final_loss,
            wall_seconds=outcome.wall_seconds,
            device_seconds=outcome.device_seconds,
            flops=outcome.flops,
            provenance=provenance() | together,
            **self._shared,
            **_origin(run, self.corpus),
        )
        publish_for_all(entry, manifest, self.bucket)


def publish_for_all(entry: Path, manifest: Manifest, bucket: Bucket | None) -> None:
    """Publishes an attempt here and in the bucket, or takes what is there already.

    The caller holds the lock of the entry.
    """
    try:
        try:
            if bucket is not None:  # its manifest decides for all workdirs
                bucket.publish(entry, manifest)
                detail(f"{title(manifest.kind, manifest.name)}: sent to {bucket}")
        except StoreError:
            publish(entry, manifest)  # the next start sends it
            raise
        publish(entry, manifest)
    except AlreadyPublished as lost:
        detail(str(lost))
        if bucket is not None:
            clear_leftovers(entry)
            bucket.fetched(entry)


def _origin(run: Run, corpus: Corpus) -> dict[str, Any]:
    """What identifies a run, as in its manifest."""
    return {
        "kind": run.kind,
        "mixture": dict(run.mixture),
        "steps": run.steps,
        "data_seed": run.data_seed,
        "data_digests": {name: corpus.unit(name).digest for name in run.mixture},
    }


def changed_text(base: Manifest, corpus: Corpus) -> list[str]:
    """What a base model was made with and the corpus no longer has."""
    differs = {
        "tokenizer": base.tokenizer_digest != corpus.tokenizer_digest,
        # An imported base model was trained on no unit.
        "base text": not base.data_digests.items() <= corpus.base_digests.items(),
    }
    return [what for what, does in differs.items() if does]


def _check_corpus(pool: Pool, corpus: Corpus) -> None:
    """Checks that the base model fits this corpus; `--refreeze` changes that."""
    if changed := changed_text(read_manifest(pool.base_entry), corpus):
        raise UserError(
            f"{pool.workdir}: the base model was made with another "
            f"{' and '.join(changed)} than its corpus has now; use another "
            "--workdir, or delete its folders base and pool to start again"
        )


def _check_entry(run: Run, pool: Pool, corpus: Corpus) -> None:
    """Checks that the entry with the name of a run comes from that run."""
    manifest = pool.manifest(run.name)
    expected = _origin(run, corpus)
    found = {key: getattr(manifest, key) for key in expected}
    if lines := differences(expected, found):
        raise UserError(
            f"{title(run.kind, run.name)} is in the pool, but from another run or "
            f"other text: {'; '.join(lines)}. Delete {pool.entry(run.name)} to train "
            "it again"
        )
