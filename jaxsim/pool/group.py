"""Runs that are trained together, vectorized; which ones is recorded first.

The last bits of a run's result can depend on how many runs are trained with
it. So a group that was stopped or killed is resumed with the runs that it had,
whatever else is missing by then.
"""

import dataclasses
import json
import os
import uuid
from collections.abc import Sequence
from typing import Any

from jaxsim.checkpoints import StatePath, is_remote
from jaxsim.corpus.names import check_name
from jaxsim.errors import DamagedError
from jaxsim.pool.digests import object_digest
from jaxsim.train import Run
from jaxsim.train.runs import label

FORMAT = 1
_FILE = "group.json"
_PREFIX = ".group-"  # no run can have such a name: it begins with a dot


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

    def folder(self, training: StatePath, identities: Sequence[Any]) -> StatePath:
        """Where its states are; other text or another recipe gives another.

        A run alone has a folder of its own name.
        """
        if self.slots == 1:
            return training / self.runs[0].name
        digest = object_digest([self.slots, *identities])[:12]
        return training / f"{_PREFIX}{digest}"

    def record(self, folder: StatePath) -> None:
        """Writes down which runs there are, in one step."""
        folder.mkdir(parents=True, exist_ok=True)
        record = {"format": FORMAT, **dataclasses.asdict(self)}
        text = json.dumps(record, indent=1) + "\n"
        if is_remote(folder):
            (folder / _FILE).write_text(text)  # objects appear whole
            return
        part = folder / f".{uuid.uuid4().hex}.part"
        with part.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, folder / _FILE)


def recorded(training: StatePath) -> list[tuple[StatePath, Group]]:
    """The unfinished groups with their folders, sorted by folder.

    Raises:
      DamagedError: a record cannot be read; names it.
    """
    found = [
        (path.parent, _read_group(path))
        for path in sorted(training.glob(f"{_PREFIX}*/{_FILE}"))
    ]
    return [(folder, group) for folder, group in found if group is not None]


def _read_group(path: StatePath) -> Group | None:
    """A record, or None if it is gone: another launcher has finished it.

    Raises:
      DamagedError: it is not the record of a group.
    """
    try:
        data = json.loads(path.read_text())
        if data.pop("format") != FORMAT:
            raise ValueError("another format")
        runs = [
            Run(
                str(run["name"]),
                str(run["kind"]),
                {str(k): float(v) for k, v in run["mixture"].items()},
                int(run["steps"]),
                int(run["data_seed"]),
            )
            for run in data["runs"]
        ]
        if not runs:
            raise ValueError("no runs")
        for run in runs:
            check_name(run.name, str(path))
        return Group(tuple(runs), int(data["slots"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as e:
        raise DamagedError(
            f"{path}: not the record of a group ({e!r}); delete "
            f"{path.parent} to train its runs again"
        ) from e
