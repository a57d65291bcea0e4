"""Runs that are trained together, vectorized; which ones is recorded first.

The last bits of a run's result can depend on how many runs are trained with
it. So a group that was stopped or killed is resumed with the runs that it had,
whatever else is missing by then.
"""

import contextlib
import dataclasses
from pathlib import Path

from jaxsim import records
from jaxsim.checkpoints import StatePath, delete, is_remote
from jaxsim.corpus.names import check_name
from jaxsim.errors import DamagedError
from jaxsim.train import Run
from jaxsim.train.runs import label

_FILE = "group.json"
# No run can have such names: they begin with a dot.
PREFIX, _DELETED = ".group-", ".deleted-"


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one length, in the order of their slots.

    Attributes:
      slots: how many runs the program trains; free slots repeat the last run.
    """

    runs: tuple[Run, ...]
    slots: int

    def __str__(self) -> str:
        return label(self.runs)

    def record(self, folder: StatePath) -> None:
        """Writes down which runs there are, in one step."""
        if is_remote(folder):
            (folder / _FILE).write_text(records.dump(self))  # objects appear whole
        else:
            records.save(Path(folder / _FILE), self)


def delete_group(folder: StatePath) -> None:
    """Deletes a group's folder; what a kill leaves of it is no group any more."""
    if not is_remote(folder):
        deleted = folder.with_name(folder.name.replace(PREFIX, _DELETED))
        with contextlib.suppress(OSError):
            folder = folder.rename(deleted)
    delete(folder)


def recorded(training: StatePath) -> list[tuple[StatePath, Group]]:
    """The unfinished groups with their folders, sorted by folder.

    It also ends what a kill in `delete_group` has left.

    Raises:
      DamagedError: a record cannot be read; names it.
    """
    found = []
    for path in training.glob(f"{_DELETED}*"):
        delete(path)
    for path in sorted(training.glob(f"{PREFIX}*/{_FILE}")):
        advice = f"delete {path.parent} to train its runs again"
        try:
            text = path.read_text()
        except FileNotFoundError:
            continue  # another launcher has finished it
        except (OSError, ValueError) as error:
            raise DamagedError(f"{path}: unreadable ({error}); {advice}") from error
        group = records.parse(text, Group, str(path), advice)
        if not group.runs:
            raise DamagedError(f"{path}: a group of no runs; {advice}")
        for run in group.runs:
            check_name(run.name, str(path))
        found.append((path.parent, group))
    return found
