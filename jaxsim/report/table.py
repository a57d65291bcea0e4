"""A table: built once for each fact, printed on console, page and as CSV."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsim.log import show_table
from jaxsim.report.format import interval, number, short, signed
from jaxsim.scoring.table import as_text

_LONGEST = 40  # name in the first column of a console table


class Estimate(NamedTuple):
    """A figure and its interval; three columns of a CSV."""

    value: float | None
    bounds: Sequence[float | None] | None = None

    def shown(self, digits: int = 2) -> str:
        return number(self.value, digits) + interval(self.bounds, digits)

    def shown_signed(self) -> str:
        return signed(self.value, 2) + interval(self.bounds)


@dataclasses.dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
      key: of the row, and the header in a CSV.
      heading: on console and page; empty for a column of the CSV alone.
      show: a value as text.
      is_text: whether it is aligned to the left.
      on_console: whether a console has room for it.
      is_estimate: whether its values are `Estimate`s.
      get: the value, from what a row is about.
    """

    key: str
    heading: str = ""
    show: Callable[[Any], str] = str
    is_text: bool = False
    on_console: bool = True
    is_estimate: bool = False
    get: Callable[[Any], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of plain values under columns.

    Attributes:
      title: above it.
      columns: in order; the first one names the row.
      rows: values by the key of their column.
      note: below it.
      style: of a row on the page, as a CSS class.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    note: str = ""
    style: Callable[[Mapping[str, Any]], str] = lambda row: ""

    @classmethod
    def of(
        cls,
        title: str,
        things: Iterable[Any],
        columns: Sequence[Column],
        note: str = "",
        style: Callable[[Mapping[str, Any]], str] = lambda row: "",
    ) -> "Table":
        """One row for each thing, by the columns' `get`, or a mapping's key."""
        rows = tuple(
            {c.key: c.get(x) if c.get else x[c.key] for c in columns} for x in things
        )
        return cls(title, tuple(columns), rows, note, style)

    @property
    def visible(self) -> list[Column]:
        """Columns with a heading in which a row has a value.

        Rows of the style 'rule' count only where there are no others.
        """
        rows = [row for row in self.rows if self.style(row) != "rule"]
        return [
            column
            for column in self.columns
            if column.heading
            and any(_is_there(row[column.key]) for row in rows or self.rows)
        ]

    def where(self, key: str, value: Any, title: str = "") -> "Table":
        """The rows with a value, without its column."""
        return dataclasses.replace(
            self,
            title=title or str(value),
            columns=tuple(c for c in self.columns if c.key != key),
            rows=tuple(row for row in self.rows if row[key] == value),
        )

    def take(self, rows: Iterable[int], left: str = "") -> "Table":
        """Some rows; `left` names the file that has the others."""
        chosen = tuple(self.rows[i] for i in rows)
        more = len(self.rows) - len(chosen)
        notes = [self.note] if self.note else []
        if more and left:
            notes.append(f"{more} more rows are in {left}")
        return dataclasses.replace(self, rows=chosen, note="; ".join(notes))


def show(table: Table, skip: Sequence[str] = ()) -> None:
    """Prints a table on the console, without the columns in `skip`."""
    columns = [c for c in table.visible if c.on_console and c.key not in skip]
    first = columns[0]
    show_table(
        table.title,
        [column.heading for column in columns],
        [
            [short(first.show(row[first.key]), _LONGEST)]
            + [column.show(row[column.key]) for column in columns[1:]]
            for row in table.rows
        ],
        note=table.note,
    )


def csv_text(table: Table, extra: Mapping[str, str]) -> str:
    """A table as CSV: raw values, undefined ones empty.

    Args:
      table: the table.
      extra: columns with the same value in every row.
    """
    header: list[str] = []
    for column in table.columns:
        ends = ("", "_low", "_high") if column.is_estimate else ("",)
        header += [column.key + end for end in ends]
    lines: list[list[Any]] = [[*header, *extra]]
    for row in table.rows:
        cells: list[Any] = []
        for column in table.columns:
            value = row[column.key]
            if column.is_estimate:
                cells += [value.value, *(value.bounds or (None, None))]
            else:
                cells.append(value)
        lines.append([*cells, *extra.values()])
    return csv_lines(lines)


def csv_lines(lines: Iterable[Sequence[Any]]) -> str:
    """Lines of a CSV; no cell of text is a formula to a spreadsheet."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([_cell(value) for value in line] for line in lines)
    return file.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json.dumps(dict(value))
    if isinstance(value, str):
        return as_text(value)
    return value if _is_there(value) else None


def _is_there(value: Any) -> bool:
    if isinstance(value, Estimate):
        value = value.value
    if isinstance(value, int | float | np.floating):
        return bool(np.isfinite(value))
    return value is not None and value != ""
