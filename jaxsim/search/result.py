"""The answer to a search, on disk: search/result.json and search/best.csv."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np

from jaxsim import records
from jaxsim.errors import DamagedError, UserError
from jaxsim.records import Basis
from jaxsim.scoring.quadratic import Misfit
from jaxsim.scoring.table import as_text, check_mixtures
from jaxsim.search.constraints import Binding
from jaxsim.search.objective import EXCESS

BEST, SHORTLIST, CLOSED_FORM = "best.csv", "shortlist.csv", "closed_form.json"


class TieFacts(TypedDict):
    """What a tie set is: see `jaxsim.search.ties`."""

    heading: str
    resampled: str  # 'documents' or 'windows'
    level: float
    min_effect: float
    count: int


class FoundRow(TypedDict):
    """A mixture, with values of the objective."""

    name: str
    kind: str
    weights: dict[str, float]
    scale: float
    dev: float  # of the merge on dev text
    test: float | None  # of the merge on test text, where it was scored
    shift: float  # the correction to add to the merge, on dev text
    test_shift: float | None  # the same on test text
    quadratic: float | None  # of the quadratic of merges on dev text, where it was used
    ensemble: float | None  # of the ensemble on dev text
    members: float | None  # of the mean of members on dev text
    difference: float  # to the best, with the correction
    error: float  # standard error of the difference
    limit: float  # the largest difference with which a mixture ties
    tied: bool
    group: int | None  # of tied mixtures that are nearly the same, the best one first


class FoundSource(TypedDict):
    """A member's text in the best mixture."""

    weight: float
    low: float | None  # lowest and highest weight of mixtures that the surrogate
    high: float | None  # expects to tie; None if not known
    epochs: float | None  # in the planned run; None without one
    member_epochs: float  # of the member's own run
    extrapolated: bool  # whether the planned run uses more of them
    gain: float  # of the member over the base model on the target, test text
    gain_low: float | None  # its interval: error of the text alone
    gain_high: float | None


class Compared(TypedDict):
    """The best mixture against another one on the target, test text.

    A gain is a share of the other one's loss, positive if the best mixture is better.
    """

    value: float  # bits per byte of the other one, calibrated
    gain: float
    low: float | None  # interval at the level of the ties; None if it is not known
    high: float | None


class FoundDomain(TypedDict):
    """Bits per byte of a domain, or a mean over domains, on dev text."""

    best: float
    base: float
    limit: NotRequired[float]


class Marginal(TypedDict, total=False):
    """When one percent of the tokens moves to a member, from all in proportion."""

    members: list[str]
    domains: list[str]
    bits_DC: list[list[float | None]]  # change in bits per byte
    objective_C: list[float | None]  # change of the objective


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What ranked the candidates, and how far the quadratic is from merges."""

    surrogate: Literal["quadratic", "ensemble"]
    refusal: str  # why it is not the quadratic, as a clause
    random: Misfit | None  # of the quadratic on random merges; None if not compared
    shown: Misfit | None  # on the tied mixtures, but for those where it is exact

    def check_parts(self) -> None:
        """Raises a `UserError` if the fields do not fit together; see `records`."""
        used = self.surrogate == "quadratic"
        records.need(used != bool(self.refusal), "why it is not used", self.refusal,
                     "refusal")  # fmt: skip
        known = self.random is not None and self.random.spread > 0
        records.need(not used or known, "of a positive spread", self.random, "random")


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The answer to a search, as the report and programs read it."""

    target: dict[str, float]  # weight of each domain in the objective
    named: dict[str, float]  # the same by the names that the user gave, or the default
    table: str  # the scored table whose rows were among the candidates, or ''
    searched: int  # mixtures whose merge was scored
    windows: int  # most windows of a domain that the choice was made on
    dev_windows: int  # most dev windows that a domain of the target has
    ties: Annotated[dict[str, Any], TieFacts]
    rows: list[Annotated[dict[str, Any], FoundRow]]  # tied, best first; and standard
    objective: Literal["mean", "worst"] = "mean"
    method: Literal["table", "descend"] = "table"
    looked_at: int = 0  # mixtures that the surrogate ranked
    ranking: Ranking | None = None  # None for the method 'table'
    evaluations: float = 0.0  # spent; a gradient counts as three
    tokens: int = 0  # the same in tokens that models read
    calibrated: bool = False  # whether reference runs corrected the merges
    # Whether reference runs are as long as members, so that a single member is its own
    # reference run; only known with reference runs.
    singles_known: bool = False
    # Limits that the best mixture has reached.
    binding: list[Annotated[dict[str, Any], Binding]] = dataclasses.field(
        default_factory=list
    )
    # What the mixture had to keep, in words.
    constraints: list[str] = dataclasses.field(default_factory=list)
    # Every domain that matters; and the means that target and limits name.
    domains: dict[str, Annotated[dict[str, Any], FoundDomain]] = dataclasses.field(
        default_factory=dict
    )
    means: dict[str, Annotated[dict[str, Any], FoundDomain]] = dataclasses.field(
        default_factory=dict
    )
    # By member; and by how much mixtures within the ranges are worse, at most.
    sources: dict[str, Annotated[dict[str, Any], FoundSource]] = dataclasses.field(
        default_factory=dict
    )
    range_limit: float | None = None
    # The base model, proportional and uniform, by name.
    against: dict[str, Annotated[dict[str, Any], Compared]] = dataclasses.field(
        default_factory=dict
    )
    # What to know before the best mixture is trained.
    warnings: list[str] = dataclasses.field(default_factory=list)
    marginal: Annotated[dict[str, Any], Marginal] = dataclasses.field(
        default_factory=dict
    )
    basis: Basis = dataclasses.field(default_factory=Basis)
    notes: Sequence[str] = ()  # what an override admitted

    def check_parts(self) -> None:
        """Raises a `UserError` if the fields do not fit together; see `records`."""
        records.need(bool(self.rows), "of at least one mixture", "empty", "rows")
        records.need(sum(self.target.values()) > 0, "positive", self.target, "target")
        members = sorted({name for row in self.rows for name in row["weights"]})
        check_mixtures(
            members,
            [row["name"] for row in self.rows],
            [[row["weights"].get(name, 0.0) for name in members] for row in self.rows],
        )
        limit = self.range_limit
        for name, row in self.sources.items():
            ends = [row[key] for key in ("low", "high") if row[key] is not None]
            records.need(len(ends) != 1, "both or none", ends, f"sources.{name}, range")
            records.need(not ends or limit is not None, "known", limit, "range_limit")
        if known := self.marginal:
            records.need_names(known, Marginal.__annotations__, "marginal")
            shape = [len(known[name]) for name in ("domains", "members")]
            records.need_shape(known["bits_DC"], shape, "marginal.bits_DC")
            records.need_shape(known["objective_C"], shape[1:], "marginal.objective_C")

    @property
    def best(self) -> dict[str, Any]:
        return self.rows[0]

    @property
    def shortlist(self) -> list[dict[str, Any]]:
        """The best mixture of each group that ties, the answer first."""
        firsts = {row["group"]: row for row in reversed(self.rows) if row["tied"]}
        return [firsts[group] for group in sorted(firsts)]

    @property
    def within_limits(self) -> bool:
        """Whether the best mixture keeps every regression limit."""
        rows = (self.domains | self.means).values()
        return all(r["best"] - r.get("limit", np.inf) <= EXCESS for r in rows)

    def predicted(self, row: Mapping[str, Any], split: str) -> float:
        """A row's merge, with the calibration."""
        shift = row["shift" if split == "dev" else "test_shift"]
        return float(row[split]) + float(shift)


def is_single(row: Mapping[str, Any]) -> bool:
    """Whether a row is one member alone."""
    return len(row["weights"]) == 1 and row["scale"] == 1


def save_search(
    workdir: Path, found: SearchResult, form: records.Stored | None = None
) -> None:
    """Writes the answer, mixtures to be trained, and a closed form.

    The record is what holds. Wherever a kill strikes, no other file differs from it.
    """
    folder = Path(workdir) / "search"
    record = records.dump(found)  # an impossible one leaves the old files
    for name in (BEST, SHORTLIST, CLOSED_FORM):
        (folder / name).unlink(missing_ok=True)
    records.write(folder / "result.json", record)
    if form is not None:
        form.save(Path(workdir))
    records.write(folder / BEST, _csv([found.best]))
    records.write(folder / SHORTLIST, _csv(found.shortlist))


def _csv(mixtures: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    members = list(dict.fromkeys(n for row in mixtures for n in row["weights"]))
    rows.writerow(map(as_text, ["name", *members]))
    for row in mixtures:
        values = [row["weights"].get(name, 0.0) for name in members]
        rows.writerow([as_text(row["name"]), *values])
    return text.getvalue()


def check_best(workdir: Path, path: Path) -> None:
    """Checks that a file of mixtures, if a search wrote it, is as it was written.

    Raises:
      DamagedError: it was edited, or is damaged.
    """
    folder = workdir / "search"
    for name in (BEST, SHORTLIST):
        known = folder / name
        if not (path.is_file() and known.is_file() and path.samefile(known)):
            continue
        found = load_search(workdir)
        rows = [found.best] if name == BEST else found.shortlist
        if known.read_bytes() != _csv(rows).encode():
            raise DamagedError(
                f"{path}: not as {folder / 'result.json'} has it; run `jaxsim search` "
                "again, or give mixtures of your own in another file"
            )


def load_search(workdir: Path) -> SearchResult:
    """Reads the last search of a workdir.

    Raises:
      UserError: there was none.
      DamagedError: its file is unreadable.
    """
    path, advice = Path(workdir) / "search" / "result.json", "run `jaxsim search` again"
    if not path.exists():
        raise UserError(f"{workdir}: nothing was searched; run `jaxsim search`")
    return records.load(path, SearchResult, advice)
