"""Truths that the user already has, in jaxsim's layout or another's."""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsim.errors import UserError
from jaxsim.log import say
from jaxsim.mixture.table import (
    SUM_TOLERANCE,
    Line,
    Mixtures,
    read_cells,
    read_csv,
    read_numbers,
)
from jaxsim.study.column_names import match, some

# Who writes a layout, and the columns that may name a run in it. Olmix's
# files have `name` and `index` too, so the order counts.
LAYOUTS = {
    "Olmix": ("run", "run_id"),
    "jaxsim": ("name",),
    "RegMix": ("index",),
}
# Columns of others that are neither weights nor metrics. The first two are
# what pandas makes of its row numbers.
LABELS = ("", "Unnamed: 0", "run", "run_id", "name", "index")

# A row number that went through a table with gaps comes back as a decimal.
_WHOLE = re.compile(r"^(\d+)\.0+$")
# RegMix's shares have three decimals: 17 of them sum to 0.996 and more.
ROUNDING = 0.01


@dataclasses.dataclass(frozen=True)
class Given:
    """Runs that the user already has.

    Attributes:
      table: what they were trained on, M rows; a single member is a row as
        any other.
      truth_MD: what was measured on them, lower is better; NaN for domains
        without a column.
      unit: of `truth_MD`: 'bits per byte', or 'unknown' if the files are not
        in jaxsim's layout; then the order of runs means something, and their
        level does not.
    """

    table: Mixtures
    truth_MD: np.ndarray
    unit: str


def read_truths(
    ratios: Path, metrics: Path, members: Sequence[str], domains: Sequence[str]
) -> Given:
    """Runs that the user already has; the header of `ratios` tells whose.

    jaxsim's layout is a column `name` in both files, then members in one and
    domains in the other, spelt as they are. RegMix's has `index` and Olmix's
    `run` or `run_id`; what all their columns begin or end with may be left
    out, and what is no domain is said and ignored.

    Args:
      ratios: a CSV with a column of weights for each member.
      metrics: a CSV with a column for each of some domains: bits per byte
        in jaxsim's layout.
      members: of the pool, C.
      domains: of the corpus, D.

    Raises:
      UserError: names file, line and column, and what to do.
    """
    header, _ = read_cells(ratios)
    layout = _layout(ratios, header, members)
    if layout == "jaxsim":
        table = _own_ratios(ratios, members)
        truth_MD = _own_metrics(metrics, ratios, table.names, domains)
        return Given(table, truth_MD, "bits per byte")
    columns, lines = _read_runs(ratios, layout)
    say(f"{ratios}: {len(lines)} runs in {layout}'s layout")
    table = _foreign_ratios(ratios, columns, lines, members)
    columns, lines = _read_runs(metrics, layout)
    if missing := [name for name in table.names if name not in lines]:
        raise UserError(
            f"{metrics}: no row for {missing[0]!r} of {ratios}; add it, or "
            "leave that run out"
        )
    if unused := [name for name in lines if name not in table.names]:
        say(f"{metrics}: not in {ratios}, and ignored: {some(unused)}")
    runs = [lines[name] for name in table.names]
    truth_MD = _foreign_metrics(metrics, columns, runs, domains)
    return Given(table, truth_MD, "unknown")


def _layout(path: Path, header: list[str], members: Sequence[str]) -> str:
    for layout, ids in LAYOUTS.items():
        if any(i in header and i not in members for i in ids):
            return layout
    raise UserError(
        f"{path}: no column names the runs; add `name` (jaxsim's layout), "
        "`index` (RegMix's), or `run` or `run_id` (Olmix's)"
    )


def _own_ratios(path: Path, members: Sequence[str]) -> Mixtures:
    try:
        table = read_csv(members, path)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from error
    for name, scale in zip(table.names, table.scale_M, strict=True):
        if scale != 1:
            raise UserError(
                f"{path}: row {name!r} has scale {scale:g}; a run has token "
                "shares and no scale"
            )
    return table


def _own_metrics(
    path: Path, ratios: Path, names: Sequence[str], domains: Sequence[str]
) -> np.ndarray:
    """[M, D] bits per byte."""
    header, lines = read_numbers(path, text_columns=("name",))
    unknown = [h for h in header if h not in (*domains, "name")]
    if unknown:
        raise UserError(
            f"{path}: column {unknown[0]!r} is not a domain; domains are "
            f"{', '.join(domains)}"
        )
    if len(header) < 2:
        raise UserError(
            f"{path}: no column is a domain; domains are {', '.join(domains)}"
        )
    by_name = {}
    for line in lines:
        if line["name"] in by_name:
            raise UserError(f"{path}: the name {line['name']!r} is used twice")
        by_name[line["name"]] = line
    bits_MD = np.full((len(names), len(domains)), np.nan)
    for m, name in enumerate(names):
        if name not in by_name:
            raise UserError(f"{path}: no row for {name!r} of {ratios}")
        for d, domain in enumerate(domains):
            if domain in header:
                bits_MD[m, d] = float(by_name[name][domain])
                if not math.isfinite(bits_MD[m, d]):
                    raise UserError(
                        f"{path}, row {name!r}, column {domain}: "
                        f"{bits_MD[m, d]} is not finite"
                    )
    return bits_MD


def _read_runs(path: Path, layout: str) -> tuple[list[str], dict[str, Line]]:
    """Columns of numbers, and a line for each run by what names it."""
    header, lines = read_cells(path)
    ids = LAYOUTS[layout]
    found = [i for i in ids if i in header]
    if not found:
        raise UserError(
            f"{path}: there is no column {' or '.join(map(repr, ids))}, by "
            "which the rows of both files pair; add it"
        )
    runs: dict[str, Line] = {}
    for line in lines:
        name = _WHOLE.sub(r"\1", line.cells[found[0]])
        where = f"{path}, line {line.number}, column {found[0]}"
        if not name:
            raise UserError(
                f"{where}: empty; rows of both files pair by it, so give "
                "every run its own"
            )
        if name in runs:
            raise UserError(
                f"{where}: {name!r} is used in line {runs[name].number} "
                "already; rows of both files pair by it, so give every run "
                "its own"
            )
        runs[name] = line
    if not runs:
        raise UserError(f"{path}: no rows; add a row for each run")
    return [column for column in header if column not in LABELS], runs


def _foreign_ratios(
    path: Path,
    columns: list[str],
    lines: dict[str, Line],
    members: Sequence[str],
) -> Mixtures:
    member_of = match(path, columns, members, "member")
    w_MC = np.zeros((len(lines), len(members)))
    for m, line in enumerate(lines.values()):
        for column in columns:
            weight = _number(path, line, column)
            where = f"{path}, line {line.number}, column {column}"
            if weight < 0:
                raise UserError(
                    f"{where}: a weight of {weight:g} is negative; correct "
                    "it, or leave this run out"
                )
            if column in member_of:
                w_MC[m, members.index(member_of[column])] = weight
            elif weight > 0:
                raise UserError(
                    f"{where}: a weight of {weight:g} for no member of this "
                    f"pool ({some(members)}); rename the column if it is "
                    "one, else leave this run out or train a member for it"
                )
    absent = [c for c in members if c not in member_of.values()]
    note = f" (without a column, so zero: {some(absent)})" if absent else ""
    sum_M = w_MC.sum(axis=1)
    for total, line in zip(sum_M, lines.values(), strict=True):
        if abs(total - 1) > ROUNDING:
            raise UserError(
                f"{path}, line {line.number}: the weights of members sum to "
                f"{total:g}, not to 1{note}; correct them, or leave this run "
                "out"
            )
    if rounded := int((np.abs(sum_M - 1) > SUM_TOLERANCE).sum()):
        say(
            f"{path}: the weights of {rounded} runs sum to 1 only within "
            f"rounding ({sum_M.min():.4g} to {sum_M.max():.4g}); each is "
            "divided by its sum"
        )
    return Mixtures(
        tuple(members),
        tuple(lines),
        ("given",) * len(lines),
        w_MC / sum_M[:, None],
        np.ones(len(lines)),
    )


def _foreign_metrics(
    path: Path, columns: list[str], runs: list[Line], domains: Sequence[str]
) -> np.ndarray:
    """[M, D] in whatever unit the file has."""
    domain_of = match(path, columns, domains, "domain")
    if ignored := [column for column in columns if column not in domain_of]:
        say(f"{path}: no domains of this corpus, ignored: {some(ignored)}")
    truth_MD = np.full((len(runs), len(domains)), np.nan)
    for column, domain in domain_of.items():
        d = domains.index(domain)
        truth_MD[:, d] = [_number(path, line, column) for line in runs]
    return truth_MD


def _number(path: Path, line: Line, column: str) -> float:
    cell = line.cells[column]
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"{path}, line {line.number}, column {column}: {cell!r} is not a "
            "finite number; correct it, or leave this run out"
        )
    return number
