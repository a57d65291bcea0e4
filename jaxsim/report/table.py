"""Tables for console, page and CSV, and numbers, names and weights as text."""

import csv
import dataclasses
import functools
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxsim.log import counted
from jaxsim.scoring.table import as_text


def formatted(value: float | None, spec: str) -> str:
    """A number by a format specification ('z': 0, never -0); '-' where none is."""
    return format(value, spec) if _is_there(value) else "-"


def number(value: float | None, digits: int = 4) -> str:
    return formatted(value, f"z.{digits}f")


def signed(value: float | None, digits: int = 4) -> str:
    return formatted(value, f"+z.{digits}f")


def percent(value: float | None, digits: int = 0) -> str:
    """A share, as in '80%'."""
    return formatted(value, f"z.{digits}%")


def integer(value: int | None) -> str:
    return formatted(value, ",")


def interval(bounds: Sequence[float | None] | None, digits: int = 2) -> str:
    """' [low, high]', or nothing where there is none."""
    if bounds is None or bounds[0] is None or bounds[1] is None:
        return ""
    return f" [{number(bounds[0], digits)}, {number(bounds[1], digits)}]"


def gain(value: float | None, digits: int = 1) -> str:
    """A share that is better if positive, in per cent: '+1.5'."""
    return signed(None if value is None else 100 * value, digits)


def duration(seconds: float | None) -> str:
    """'38 s', '12 min', '3.4 h' or '5.1 days'."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    for limit, size, spec, unit in (
        (9.95, 1, ".1f", "s"), (90, 1, ".0f", "s"), (5400, 60, ".0f", "min"),
        (172_800, 3600, ".1f", "h"),
    ):  # fmt: skip
        if seconds < limit:
            return f"{seconds / size:{spec}} {unit}"
    return f"{seconds / 86_400:,.1f} days"


def short(name: str, length: int = 22) -> str:
    """A name that fits a figure: one line, shortened in the middle."""
    line = " ".join(name.split())
    if len(line) <= length:
        return line
    head = (length - 1) * 2 // 3
    return f"{line[:head]}…{line[len(line) - (length - 1 - head) :]}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """'a, b and c', or the first few and how many more."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def weights(parts: Mapping[str, float], most: int = 8) -> str:
    """A mixture in words: '1/3 each of a, b and c', or the largest weights first."""
    used, ordered, is_even = _used(parts)
    if len(used) == 1:
        return f"{used[0]} alone"
    if is_even:
        return f"1/{len(used)} each of {listed(used, most)}"
    shown = ", ".join(f"{name} {w:.3f}" for name, w in ordered[:most])
    rest = ordered[most:]
    if not rest:
        return shown
    together = sum(w for _, w in rest)
    return f"{shown}, and {counted(len(rest), 'other')} together {together:.3f}"


def largest(parts: Mapping[str, float], most: int = 3) -> str:
    """A mixture by what it is, in a table cell: '1970-1989 alone', '53% a, 47% b'."""
    used, ordered, is_even = _used(parts)
    if is_even:
        return weights({short(name): 1.0 for name in used}, most)
    shown = [f"{w:.0%} {short(name)}" for name, w in ordered[:most] if w >= 0.005]
    more = [f"{len(used) - len(shown)} more"] if len(used) > len(shown) else []
    return ", ".join(shown + more)


def _used(
    parts: Mapping[str, float],
) -> tuple[list[str], list[tuple[str, float]], bool]:
    """The members with weight, the same by weight, and whether all are equal."""
    used = {name: w for name, w in parts.items() if w > 0}
    ordered = sorted(used.items(), key=lambda pair: -pair[1])
    return list(used), ordered, ordered[0][1] - ordered[-1][1] < 1e-6


def target(parts: Mapping[str, float], kind: str = "mean") -> str:
    """An objective in words: 'mean', or 'worst' over several domains."""
    names = list(parts)
    if len(names) == 1:
        return names[0]
    if kind == "worst":
        return f"the worst of {listed(names)} (least gain over the base model)"
    shares = {name: w / sum(parts.values()) for name, w in parts.items()}
    if max(shares.values()) - min(shares.values()) < 1e-6:
        return f"the mean of {listed(names)}"
    return "the weighted mean of " + listed(
        [f"{name} ({share:.2f})" for name, share in shares.items()]
    )


def marks(notes: Iterable[str]) -> str:
    """What an override admitted, or the pool lacks, one line each."""
    return "\n".join(notes)


# Tables.


class Estimate(NamedTuple):
    """A figure and its interval; three columns of a CSV."""

    value: float | None
    bounds: Sequence[float | None] | None = None

    def shown(self, digits: int = 2) -> str:
        return number(self.value, digits) + interval(self.bounds, digits)

    def shown_signed(self) -> str:
        return signed(self.value, 2) + interval(self.bounds)

    def shown_gain(self) -> str:
        """A gain with its interval: '+1.5 [0.2, 2.9]'."""
        ends = self.bounds or (None, None)
        return gain(self.value) + interval([e and 100 * e for e in ends], 1)


@dataclasses.dataclass(frozen=True)
class Column:
    """One column; without a heading, it is in the CSV alone."""

    key: str  # of the row, and the header in a CSV
    heading: str = ""  # on console and page
    show: Callable[[Any], str] = str  # a value as text
    # The value, from what a row is about, or the name of the item or attribute that it
    # is; by default `key`.
    get: Callable[[Any], Any] | str = ""
    is_text: bool = False  # aligned to the left
    on_console: bool = True  # whether a console has room for it

    def value(self, thing: Any) -> Any:
        """The value, from what a row is about."""
        if callable(self.get):
            return self.get(thing)
        name = self.get or self.key
        return thing[name] if isinstance(thing, Mapping) else getattr(thing, name)


text_column = functools.partial(Column, is_text=True)
bits_column = functools.partial(Column, show=number)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of raw values under columns."""

    title: str
    columns: tuple[Column, ...]  # in order; the first one names the row
    rows: tuple[Mapping[str, Any], ...]  # values by the key of their column
    note: str = ""
    style: Callable[[Mapping[str, Any]], str] = lambda row: ""  # a CSS class

    @classmethod
    def of(
        cls, title: str, things: Iterable[Any], columns: Sequence[Column], **more: Any
    ) -> "Table":
        """One row for each thing, which may be the tuple of its values.

        `more` are the other attributes.
        """
        keys = [column.key for column in columns]
        values = (
            x if isinstance(x, tuple) else [c.value(x) for c in columns] for x in things
        )
        rows = tuple(dict(zip(keys, row, strict=True)) for row in values)
        return cls(title, tuple(columns), rows, **more)

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

    def largest(self, columns: Iterable[Column]) -> float:
        """The largest absolute value in some columns of numbers."""
        cells = [abs(row[c.key]) for c in columns for row in self.rows]
        return max(filter(math.isfinite, cells), default=0.0)

    def best(self, column: Column) -> float:
        """The largest value of a column of numbers."""
        cells = (row[column.key] for row in self.rows)
        return max(filter(math.isfinite, cells), default=math.nan)

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
            notes.append(f"{counted(more, 'more row')} in {left}")
        return dataclasses.replace(self, rows=chosen, note="; ".join(notes))


def csv_text(table: Table, extra: dict[str, str]) -> str:
    """Rows as CSV: raw values, undefined ones empty; `extra` is in every row."""
    lines = []
    for row in table.rows:
        cells: dict[str, Any] = {}
        for column in table.columns:
            key, value = column.key, row[column.key]
            if isinstance(value, Estimate):
                low, high = value.bounds or (None, None)
                cells |= {key: value.value, f"{key}_low": low, f"{key}_high": high}
            else:
                cells[key] = value
        lines.append(cells | extra)
    return csv_lines([list(lines[0]), *(list(line.values()) for line in lines)])


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
