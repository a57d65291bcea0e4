"""The answer to a search, on disk."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsim.errors import DamagedError, UserError
from jaxsim.mixture import journal


@dataclasses.dataclass(frozen=True)
class Found:
    """The answer to a search, as the report and programs read it.

    Attributes:
      target: weight of each domain in the objective.
      table: which mixtures were searched, and how many.
      windows: windows for each domain that the choice was made on, at most.
      select_windows: windows of a domain of the target that there are, at most.
      ties: heading, unit that was resampled, level and critical value.
      rows: the tied mixtures and the plain ones: name, kind, weights, scale,
        the objective on select and, where scored, on report documents,
        difference to the best, its standard error, and whether it ties.
      evaluation: digest of the windows.
      digests: of 'seed' and of every member, by name.
      notes: what an override admitted.
    """

    target: dict[str, float]
    table: str
    searched: int
    windows: int
    select_windows: int
    ties: dict[str, Any]
    rows: list[dict[str, Any]]
    evaluation: str = ""
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def best(self) -> dict[str, Any]:
        return self.rows[0]


def save_found(workdir: Path, found: Found) -> None:
    folder = Path(workdir) / "search"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(found), indent=1, allow_nan=False)
    journal.replace(
        folder / "found.json", lambda file: file.write(f"{text}\n".encode())
    )


def load_found(workdir: Path) -> Found:
    """The last search of a workdir.

    Raises:
      UserError: there was none.
      DamagedError: its file is unreadable.
    """
    path = Path(workdir) / "search" / "found.json"
    if not path.exists():
        raise UserError(f"{workdir}: nothing was searched; run `jaxsim search`")
    try:
        return Found(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DamagedError(
            f"{path}: unreadable ({error}); run `jaxsim search` again"
        ) from error
