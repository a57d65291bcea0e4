"""The answer to a search, on disk: search/result.json and search/best.csv."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsim.errors import DamagedError, UserError
from jaxsim.pool.digests import object_digest
from jaxsim.scoring.files import replace

BEST = "best.csv"


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The answer to a search, as the report and programs read it.

    Attributes:
      target: weight of each domain in the objective.
      objective: 'mean' or 'worst'.
      method: 'descend' or 'table'.
      table: the scored table whose rows were among the candidates, or ''.
      searched: mixtures whose merge was scored.
      looked_at: mixtures that the ensemble scored.
      evaluations: evaluations spent: mixtures on all dev text of the domains that
        matter; a gradient counts as three.
      tokens: the same in evaluation tokens.
      windows: most windows of a domain that the choice was made on.
      dev_windows: most dev windows that a domain of the target has.
      ties: heading, unit that was resampled, level, min_effect and count.
      rows: the tied and the standard mixtures: name, kind, weights, scale, the
        objective of the merge on dev and, where scored, on test text, that of the
        'ensemble' and the mean of 'members' on dev text, `shift`, the correction to add
        to the merge, the difference to the best with it, its standard error, the limit
        up to which a mixture ties, and whether this one does.
      calibrated: whether reference runs corrected the merges.
      singles_known: whether reference runs are as long as members, so that a single
        member is its own reference run; only known with reference runs.
      binding: limits that the best mixture has reached, see `constraints.Binding`.
      epochs: epochs of each member's source in the planned run, if there is one.
      constraints: what the mixture had to keep, in words.
      domains: bits per byte on dev text of every domain that matters: 'best', 'base'
        and, with a regression limit, 'limit'.
      warnings: what to know before the best mixture is trained.
      marginal: 'members', 'domains' and 'bits_DC': change in bits per byte of
        each domain when one percent of the tokens moves to a member, taken
        from all in proportion; 'objective_C': that of the objective.
      evaluation: digest of the windows.
      digests: of 'base model' and of every member, by name.
      notes: what an override admitted.
    """

    target: dict[str, float]
    table: str
    searched: int
    windows: int
    dev_windows: int
    ties: dict[str, Any]
    rows: list[dict[str, Any]]
    objective: str = "mean"
    method: str = "table"
    looked_at: int = 0
    evaluations: float = 0.0
    tokens: int = 0
    calibrated: bool = False
    singles_known: bool = False
    binding: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    constraints: list[str] = dataclasses.field(default_factory=list)
    domains: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    epochs: dict[str, float] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)
    marginal: dict[str, Any] = dataclasses.field(default_factory=dict)
    evaluation: str = ""
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def best(self) -> dict[str, Any]:
        return self.rows[0]

    def predicted(self, row: Mapping[str, Any], split: str) -> float:
        """A row's merge, with the calibration on dev text."""
        return float(row[split]) + float(row.get("shift", 0.0))


def is_single(row: Mapping[str, Any]) -> bool:
    """Whether a row is one member alone."""
    return len(row["weights"]) == 1 and row["scale"] == 1


def save_search(workdir: Path, found: SearchResult) -> None:
    """Writes the answer, and its first row as a mixture to be trained."""
    folder = Path(workdir) / "search"
    folder.mkdir(parents=True, exist_ok=True)
    record = dataclasses.asdict(found)
    record["sha256"] = object_digest(record)
    text = json.dumps(record, indent=1, allow_nan=False)
    best = io.StringIO()
    rows = csv.writer(best, lineterminator="\n")
    weights = found.best["weights"]
    rows.writerow(["name", *weights])
    rows.writerow([found.best["name"], *weights.values()])
    replace(folder / BEST, lambda file: file.write(best.getvalue().encode()))
    replace(folder / "result.json", lambda file: file.write(f"{text}\n".encode()))


def load_search(workdir: Path) -> SearchResult:
    """The last search of a workdir.

    Raises:
      UserError: there was none.
      DamagedError: its file is unreadable.
    """
    path = Path(workdir) / "search" / "result.json"
    if not path.exists():
        raise UserError(f"{workdir}: nothing was searched; run `jaxsim search`")
    try:
        record = json.loads(path.read_text())
        if record.pop("sha256", None) != object_digest(record):
            raise ValueError("it was altered")
        return SearchResult(**record)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{path}: unreadable ({error}); run `jaxsim search` again"
        ) from error
