"""Tables of mixtures: named rows of weights over members, and their scales.

The base model, single members, uniform, macro and micro merges, subsets, random
draws and the user's own mixtures are all rows of one kind of table, so one
evaluator scores them all.
"""

import csv
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxsim.corpus.names import Labels
from jaxsim.errors import UserError
from jaxsim.log import counted

# How far a sum of weights may be from 1. Weights come from text files with six
# decimals and from float arithmetic over up to a few hundred members.
SUM_TOLERANCE = 1e-5
MOST_ROWS = 1_000_000  # of a table; each row is held with its name
# Of `subsets` without sizes: the largest one, and most rows.
_LARGEST, _MODEST = 3, 10_000
_MOST_CELL = 100_000  # characters
# Kinds of the merges that answers are compared with.
STANDARD_MERGES = (Labels.UNIFORM, Labels.PROPORTIONAL, Labels.MACRO)


@dataclasses.dataclass(frozen=True)
class Mixtures:
    """A table of M mixtures (rows) over C members (columns).

    Attributes:
      members: C names of the columns.
      names: M names of the rows, all different.
      kinds: M kinds of the rows: base model, member, uniform, proportional, macro,
        group, subset, dirichlet, given or reference run.
      w_MC: weights, float64, non-negative; each row sums to 1.
      scale_M: factors on the merged differences, float64; 0 gives the base.
    """

    members: tuple[str, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    w_MC: np.ndarray
    scale_M: np.ndarray

    def __post_init__(self) -> None:
        """Checks that every row is a mixture, before anything is compiled.

        Raises:
          UserError: one is not; names the row and what is wrong with it.
        """
        shape = (len(self.names), len(self.members))
        found = self.w_MC.shape, self.scale_M.shape, len(self.kinds)
        if found != (shape, shape[:1], shape[0]):
            raise UserError(
                f"mixtures: weights of shape {found[0]}, scales of shape {found[1]} "
                f"and {found[2]} kinds for {counted(shape[0], 'row')} over "
                f"{counted(shape[1], 'member')}"
            )
        if len(set(self.members)) != len(self.members):
            raise UserError(f"mixtures: a member is repeated in {self.members}")
        if len(set(self.names)) < len(self.names) or "" in self.names:
            seen = set[str]()
            for name in self.names:
                if not name:
                    raise UserError("mixtures: a row has no name")
                if name in seen:
                    raise UserError(f"mixture {name!r}: the name is used twice")
                seen.add(name)
        good_M = np.abs(self.w_MC.sum(axis=1) - 1) <= SUM_TOLERANCE
        good_M &= (self.w_MC >= 0).all(axis=1) & np.isfinite(self.scale_M)
        if not good_M.all():
            m = int(good_M.argmin())
            self._refuse(self.names[m], self.w_MC[m], float(self.scale_M[m]))

    def _refuse(self, name: str, w_C: np.ndarray, scale: float) -> NoReturn:
        """Raises a `UserError` that says what is wrong with a row."""
        if not math.isfinite(scale):
            raise UserError(f"mixture {name!r}: scale {scale} is not finite")
        for good_C, what in ((np.isfinite(w_C), "not finite"), (w_C >= 0, "negative")):
            if not good_C.all():
                worst = int(np.argmin(good_C))
                raise UserError(
                    f"mixture {name!r}: the weight of {self.members[worst]!r} is "
                    f"{what} ({w_C[worst]:g})"
                )
        if not w_C.any():
            raise UserError(
                f"mixture {name!r}: all weights are zero; for the base model, "
                "use scale 0"
            )
        raise UserError(f"mixture {name!r}: the weights sum to {w_C.sum():g}, not to 1")

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Sequence[int] | np.ndarray) -> "Mixtures":
        """Returns the rows at these indices."""
        return Mixtures(
            self.members,
            tuple(self.names[i] for i in rows),
            tuple(self.kinds[i] for i in rows),
            self.w_MC[list(rows)],
            self.scale_M[list(rows)],
        )

    def standard_merges(self) -> list[int]:
        """Indices of the merges that every table has, see `STANDARD_MERGES`."""
        return [m for m, k in enumerate(self.kinds) if k in STANDARD_MERGES]

    def same_as(self, other: "Mixtures") -> bool:
        """Whether both have equal columns, row names, weights and scales."""
        return (
            self.members == other.members
            and self.names == other.names
            and np.array_equal(self.w_MC, other.w_MC)
            and np.array_equal(self.scale_M, other.scale_M)
        )

    def parts(self, row: int) -> dict[str, float]:
        """Returns the positive weights of a row, by member."""
        w_C = self.w_MC[row]
        return {
            name: float(w) for name, w in zip(self.members, w_C, strict=True) if w > 0
        }


def check_mixtures(
    members: Iterable[str], names: Iterable[str], weights: Sequence[Sequence[float]]
) -> None:
    """Raises what `Mixtures` raises if these are no mixtures."""
    columns, rows = tuple(members), tuple(names)
    w_MC = np.array(weights, np.float64).reshape(len(rows), len(columns))
    Mixtures(columns, rows, rows, w_MC, np.ones(len(rows)))


def mixture_key(w_C: np.ndarray) -> bytes:
    """Identifies a mixture; the same for weights that differ by rounding."""
    return np.round(w_C, 12).tobytes()


def concatenate(*tables: Mixtures) -> Mixtures:
    """Joins tables over the same members; equal rows are kept once.

    Raises:
      UserError: two different mixtures have the same name.
    """
    members = tables[0].members
    if any(table.members != members for table in tables):
        raise ValueError("tables over different members")
    kinds = [kind for table in tables for kind in table.kinds]
    w_MC = np.concatenate([table.w_MC for table in tables])
    scale_M = np.concatenate([table.scale_M for table in tables])
    first: dict[str, int] = {}
    for row, name in enumerate(n for table in tables for n in table.names):
        known = first.setdefault(name, row)
        if known < row and (
            scale_M[row] != scale_M[known] or (w_MC[row] != w_MC[known]).any()
        ):
            raise UserError(
                f"mixture {name!r}: two different ones have this name; "
                "choose another one (base model, members, uniform, proportional, "
                "macro and groups are taken)"
            )
    keep = list(first.values())
    return Mixtures(
        members, tuple(first), tuple(kinds[i] for i in keep), w_MC[keep], scale_M[keep]
    )


def _rows(
    members: Sequence[str],
    kind: str,
    rows: Mapping[str, np.ndarray],
    scale: float = 1.0,
) -> Mixtures:
    return Mixtures(
        tuple(members),
        tuple(rows),
        (kind,) * len(rows),
        np.array(list(rows.values()), np.float64).reshape(-1, len(members)),
        np.full(len(rows), scale),
    )


def base_row(members: Sequence[str]) -> Mixtures:
    """The base model: scale 0, so that its equal weights have no effect."""
    c = len(members)
    return _rows(members, "base", {Labels.BASE: np.full(c, 1 / c)}, scale=0.0)


def singles(members: Sequence[str]) -> Mixtures:
    """Each member by itself."""
    eye_CC = np.eye(len(members))
    return _rows(members, "member", dict(zip(members, eye_CC, strict=True)))


def one_mixture(
    members: Sequence[str], w_C: np.ndarray, scale: float = 1.0
) -> Mixtures:
    """A table of one row."""
    return _rows(members, "given", {"mixture": w_C}, scale)


def uniform(members: Sequence[str]) -> Mixtures:
    """Equal weights over all members: the paper's micro merge."""
    c = len(members)
    return _rows(members, "uniform", {Labels.UNIFORM: np.full(c, 1 / c)})


def proportional(members: Sequence[str], tokens: Sequence[int]) -> Mixtures:
    """Weights in proportion to the tokens of each member's unit."""
    tokens_C = np.asarray(tokens, np.float64)
    shares_C = tokens_C / tokens_C.sum()
    return _rows(members, "proportional", {Labels.PROPORTIONAL: shares_C})


def macro(members: Sequence[str], groups: Sequence[str]) -> Mixtures:
    """The average of group averages, and the averages of groups of several.

    Empty if there is only one group, or if every group has one member: macro
    would be the uniform row.
    """
    names = list(dict.fromkeys(groups))
    in_GC = np.array([[group == name for group in groups] for name in names])
    mean_GC = in_GC / in_GC.sum(axis=1, keepdims=True)
    if len(names) in (1, len(groups)):
        return _rows(members, "macro", {})
    several = {
        Labels.GROUP.format(name): mean_C
        for name, mean_C in zip(names, mean_GC, strict=True)
        if np.count_nonzero(mean_C) > 1
    }
    overall = _rows(members, "macro", {Labels.MACRO: mean_GC.mean(axis=0)})
    return concatenate(overall, _rows(members, "group", several))


def subsets(members: Sequence[str], smallest: int, largest: int) -> Mixtures:
    """Equal weights over every subset of `smallest` to `largest` members."""
    rows = {}
    for size in range(smallest, largest + 1):
        for cs in itertools.combinations(range(len(members)), size):
            name = functools.reduce(Labels.SUBSET.format, [members[c] for c in cs])
            rows[name] = np.bincount(cs, minlength=len(members)) / size
    return _rows(members, "subset", rows)


def dirichlet(
    members: Sequence[str], count: int, concentration: float, seed: int
) -> Mixtures:
    """Random draws from a symmetric Dirichlet distribution."""
    w_MC = np.random.default_rng(seed).dirichlet(
        np.full(len(members), concentration), count
    )
    names = tuple(Labels.DIRICHLET.format(m + 1) for m in range(count))
    kinds = ("dirichlet",) * count
    return Mixtures(tuple(members), names, kinds, w_MC, np.ones(count))


def read_csv(members: Sequence[str], path: Path) -> Mixtures:
    """Reads mixtures from a CSV file.

    Columns are `name`, optionally `scale`, and members; a member without a
    column has weight zero.

    Raises:
      UserError: a missing file, an unknown or repeated column, a cell that is
        not a number, or a row that is not a mixture.
    """
    header, lines = read_numbers(path, text_columns=(Labels.NAME,))
    unknown = [h for h in header if h not in (*members, Labels.NAME, Labels.SCALE)]
    if unknown:
        raise UserError(
            f"{path}: column {unknown[0]!r} is not a member of this pool; "
            f"members are {', '.join(members)}"
        )
    if not lines:
        raise UserError(f"{path}: no rows")
    w_MC = np.zeros((len(lines), len(members)))
    for m, line in enumerate(lines):
        for c, member in enumerate(members):
            w_MC[m, c] = line.get(member, 0.0)
    # Rounding to six decimals is undone; worse sums stay and are refused.
    sum_M1 = w_MC.sum(axis=1, keepdims=True)
    rounded = (np.abs(sum_M1 - 1) <= SUM_TOLERANCE) & (abs(sum_M1 - 1) > 1e-9)
    w_MC = np.where(rounded, w_MC / np.where(rounded, sum_M1, 1.0), w_MC)
    names = tuple(str(line[Labels.NAME]) for line in lines)
    scale_M = np.array([float(line.get(Labels.SCALE, 1.0)) for line in lines])
    try:
        return Mixtures(tuple(members), names, ("given",) * len(lines), w_MC, scale_M)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def parse(
    spec: str, members: Sequence[str], concentration: float, seed: int
) -> Mixtures:
    """Builds a table from `subsets`, `subsets:A-B`, `dirichlet:N` or a CSV's path.

    `subsets` are those of one to three members, or fewer where they would be very many.

    Args:
      spec: the specification.
      members: names of the columns.
      concentration: of the Dirichlet distribution.
      seed: random seed of the draws.

    Raises:
      UserError: `spec` is none of these, or out of range.
    """
    if count_rows(spec, len(members)) is None:
        return read_csv(members, Path(spec))
    if sizes := _sizes(spec, len(members)):
        return subsets(members, sizes[0], sizes[-1])
    return dirichlet(members, int(spec.partition(":")[2]), concentration, seed)


def count_rows(spec: str, members: int) -> int | None:
    """How many mixtures `parse` makes; None for a CSV.

    Raises:
      UserError: see `parse`.
    """
    if sizes := _sizes(spec, members):
        return _check_rows(spec, sum(math.comb(members, size) for size in sizes))
    if match := re.fullmatch(r"dirichlet:(\d{1,15})", spec):
        return _check_rows(spec, int(match[1]))
    if spec.endswith(".csv"):
        return None
    raise UserError(
        f"mixtures {spec!r}: must be subsets, subsets:A-B, dirichlet:N or FILE.csv"
    )


def _sizes(spec: str, members: int) -> range | None:
    """The sizes of subsets that are asked for, none larger than the pool."""
    match = re.fullmatch(r"subsets(?::(\d{1,9})(?:-(\d{1,9}))?)?", spec)
    if not match:
        return None
    if not match[1]:
        largest, rows = 1, members
        while largest < min(_LARGEST, members):
            rows += math.comb(members, largest + 1)
            if rows > _MODEST:
                break
            largest += 1
        return range(1, largest + 1)
    smallest, largest = int(match[1]), int(match[2] or match[1])
    if not 1 <= smallest <= min(largest, members):
        raise UserError(
            f"mixtures {spec!r} (config.score.mixtures): sizes must lie between 1 "
            f"and the number of members, {members}"
        )
    return range(smallest, min(largest, members) + 1)


def _check_rows(spec: str, count: int) -> int:
    """The count of rows; refuses a table that is empty, or too large to hold."""
    if not count:
        raise UserError(f"mixtures {spec!r}: asks for no rows")
    if count > MOST_ROWS:
        raise UserError(
            f"mixtures {spec!r}: asks for {min(count, 10**15):.3g} rows; the most are "
            f"{MOST_ROWS:,}"
        )
    return count


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def read_numbers(
    path: Path, text_columns: Sequence[str]
) -> tuple[list[str], list[dict[str, float | str]]]:
    """Reads the header and rows of a CSV of numbers.

    Args:
      path: of the file.
      text_columns: required columns that hold text instead of numbers.

    Raises:
      UserError: the file is missing or malformed, or a cell is not a number;
        names file, line and column.
    """
    header, lines = read_cells(path)
    if "" in header:
        raise UserError(f"{path}: an empty or repeated column in {header}")
    if missing := [c for c in text_columns if c not in header]:
        raise UserError(f"{path}: there is no column {missing[0]!r}")
    rows: list[dict[str, float | str]] = []
    for line, cells in lines:
        rows.append({})
        for column, cell in cells.items():
            try:
                rows[-1][column] = cell if column in text_columns else float(cell)
            except ValueError as error:
                raise UserError(
                    f"{path}, line {line}, column {column}: {cell!r} is not a number"
                ) from error
    return header, rows


def as_text(cell: str) -> str:
    """A cell of text that no spreadsheet takes for a formula.

    It gets a leading apostrophe, which `read_cells` takes away again.
    """
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA) else cell


def _from_text(cell: str) -> str:
    text = cell.strip()
    is_marked = text.startswith("'") and text.lstrip("'").startswith(_FORMULA)
    return text[1:] if is_marked else text


def read_cells(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Reads the header of a CSV, and its rows as line number and text by column.

    The first column may lack a name.

    Raises:
      UserError: the file is missing or malformed; names file and line.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # Names of members have commas, but a table does not begin with one.
            separator = re.search(r"[,;\t]", re.sub(r'"[^"]*"', "", file.readline()))
            file.seek(0)
            csv.field_size_limit(_MOST_CELL)  # of the process; other readers set theirs
            reader = csv.reader(file, delimiter=separator[0] if separator else ",")
            rows = [(reader.line_num, list(map(_from_text, cells))) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV in UTF-8 ({error})") from error
    if not rows or not rows[0][1]:
        raise UserError(f"{path}: empty")
    header = rows[0][1]
    if len(set(header)) != len(header) or "" in header[1:]:
        raise UserError(f"{path}: an empty or repeated column in {header}")
    lines = [(line, cells) for line, cells in rows[1:] if any(cells)]
    for line, cells in lines:
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {line}: {counted(len(cells), 'cell')} under "
                f"{counted(len(header), 'column')}"
            )
    return header, [(n, dict(zip(header, cells, strict=True))) for n, cells in lines]
