"""One round over what is missing: what is free is trained, and the rest left.

A group holds one claim for each of its runs, so that launchers that compose
other groups, or none, leave them to it; and one for its folder of states,
which is taken last, so that of a launcher that died it goes stale last.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from jaxsim import distributed
from jaxsim.pool.bucket.states import fetch_begun
from jaxsim.pool.claims import Busy, Watch
from jaxsim.pool.group import Group, recorded
from jaxsim.pool.publish import is_published
from jaxsim.pool.workshop import Workshop
from jaxsim.train import Run


class Round:
    """Leaves to other launchers what they hold."""

    def __init__(
        self, workshop: Workshop, runs: Sequence[Run], watch: Watch
    ) -> None:
        self._workshop = workshop
        self._watch = watch
        self._missing = [
            run for run in runs if not is_published(workshop.entry_of(run.name))
        ]
        self._asked = {run.name for run in self._missing}
        self._begun: set[str] = set()  # on other machines
        self._held: dict[str, str] = {}  # names of those, and who holds them

    def train(self) -> None:
        """Groups that were begun come first.

        Raises:
          Busy: others hold runs; names them.
          Preempted, JaxsimError: see `Workshop.train`.
        """
        workshop = self._workshop
        if workshop.bucket is not None:
            self._begun = fetch_begun(workshop.bucket, workshop.training)
        # A group is trained by one process: each would hold only some runs.
        if distributed.alone():
            self._finish_groups()
        while self._missing:
            with contextlib.ExitStack() as locks:
                group = self._next_group(locks)
                if group is not None:
                    self._train(group, group.runs)
        if self._held:
            raise Busy("; ".join(dict.fromkeys(self._held.values())))

    def _finish_groups(self) -> None:
        """Resumes recorded groups that have a run that is missing.

        A group is resumed whole, with runs that are published by now or that
        another launcher trains: only those that are not are published.
        """
        for folder, group in recorded(self._workshop.training):
            names = {run.name for run in group.runs}
            asked = [run for run in self._missing if run.name in names]
            with contextlib.ExitStack() as locks:
                mine = []
                if asked:
                    mine = [r for r in group.runs if self._take(r, locks)]
                ours = self._take_folder(folder, group, locks)
                if ours and self._workshop.dropped(folder, group):
                    continue
                self._seen(asked)
                if ours and mine:
                    self._train(group, mine)

    def _next_group(self, locks: contextlib.ExitStack) -> Group | None:
        """Takes the first runs of one length, and holds them.

        None is left to train if other launchers hold them.
        """
        workshop = self._workshop
        first = self._missing[0]
        like = [run for run in self._missing if run.steps == first.steps]
        begun = [
            run
            for run in like
            if workshop.is_begun(run) or run.name in self._begun
        ]
        like = begun[:1] or like  # a run that was begun alone ends alone
        taken: list[Run] = []
        size = 1
        for i, run in enumerate(like):
            if len(taken) == size:
                break
            self._seen([run])
            if self._take(run, locks):
                taken.append(run)
                if len(taken) == 1:  # planned only if there is one to train
                    size = self._size(len(like) - i)
        if not taken:
            return None
        group = Group(tuple(taken), workshop.trainer.slots(len(taken)))
        if group.slots > 1:
            folder = workshop.folder(group)
            if not self._take_folder(folder, group, locks):
                return None
        return group

    def _size(self, runs: int) -> int:
        """As even as can be, so that one program serves all groups."""
        most = self._workshop.trainer.at_once(runs)
        return -(-runs // -(-runs // most))

    def _train(self, group: Group, mine: Sequence[Run]) -> None:
        try:
            self._workshop.train(group, mine)
        except Busy as busy:
            self._note(mine, busy)

    def _take(self, run: Run, locks: contextlib.ExitStack) -> bool:
        """Is the run ours to train? If so, it is held."""
        self._held.pop(run.name, None)
        try:
            return self._workshop.take(run, locks, self._watch)
        except Busy as busy:
            self._note([run], busy)
            return False

    def _take_folder(
        self, folder: Path, group: Group, locks: contextlib.ExitStack
    ) -> bool:
        claim = self._workshop.holding(folder.name, str(group), self._watch)
        try:
            locks.enter_context(claim)
        except Busy as busy:
            self._note(group.runs, busy)
            return False
        return True

    def _seen(self, runs: Sequence[Run]) -> None:
        self._missing = [run for run in self._missing if run not in runs]

    def _note(self, runs: Sequence[Run], busy: Busy) -> None:
        for run in runs:
            if run.name in self._asked:
                self._held[run.name] = busy.who
