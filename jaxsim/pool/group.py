"""Runs that are trained side by side: who they are is written down first.

What a run comes to can depend, in its last bits, on how many are trained with
it. So a group that was stopped or killed goes on as it was composed, whatever
else is missing by then.
"""

import dataclasses
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
      slots: of the program; those too many repeat the last run.
    """

    runs: tuple[Run, ...]
    slots: int

    def __str__(self) -> str:
        return label(self.runs)

    def folder(self, training: Path, identities: Sequence[Any]) -> Path:
        """Where its states are; another text or recipe gives another one.

        A run alone keeps the layout that it always had.
        """
        if self.slots == 1:
            return training / self.runs[0].name
        digest = object_digest([self.slots, *identities])[:12]
        return training / f"{_PREFIX}{digest}"

    def record(self, folder: Path) -> None:
        """Writes the composition down, in one step."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _FILE
        part = path.with_name(f".{uuid.uuid4().hex}.part")
        with part.open("w") as file:
            record = {"format": FORMAT, **dataclasses.asdict(self)}
            file.write(json.dumps(record, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def recorded(training: Path) -> list[tuple[Path, Group]]:
    """The groups that are not finished, with their folders, by name.

    Raises:
      DamagedError: a record cannot be read; names it.
    """
    found = [
        (path.parent, read_group(path))
        for path in sorted(training.glob(f"{_PREFIX}*/{_FILE}"))
    ]
    return [(folder, group) for folder, group in found if group is not None]


def read_group(path: Path) -> Group | None:
    """None if it is gone by now: another launcher has finished it.

    Raises:
      DamagedError: it is no record of a group.
    """
    try:
        data = json.loads(path.read_text())
        if data.pop("format") != FORMAT:
            raise ValueError("another format")
        runs = [
            Run(
                str(run["name"]),
                str(run["kind"]),
                {str(k): float(v) for k, v in run["ratio"].items()},
                int(run["steps"]),
                int(run["order"]),
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
            f"{path.parent} to train its runs anew"
        ) from e
