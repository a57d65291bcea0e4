"""A CSV of numbers: mixtures, and the user's own truths."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jaxsim.errors import UserError

_FORMULA = ("=", "+", "-", "@")


class Line(NamedTuple):
    """A row of a CSV: its line in the file, from 1, and text by column."""

    number: int
    cells: dict[str, str]


def as_text(cell: str) -> str:
    """A cell of text that no spreadsheet takes for a formula.

    It gets a leading apostrophe, which `read_cells` takes away again.
    """
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA) else cell


def _from_text(cell: str) -> str:
    text = cell.strip()
    is_marked = text.startswith("'") and text.lstrip("'").startswith(_FORMULA)
    return text[1:] if is_marked else text


def read_numbers(
    path: Path, text_columns: Sequence[str]
) -> tuple[list[str], list[dict[str, float | str]]]:
    """Header and rows of a CSV of numbers, but for the columns named.

    Raises:
      UserError: names file, line and column.
    """
    header, lines = read_cells(path)
    if "" in header:
        raise UserError(f"{path}: an empty or repeated column in {header}")
    if missing := [c for c in text_columns if c not in header]:
        raise UserError(f"{path}: there is no column {missing[0]!r}")
    rows: list[dict[str, float | str]] = []
    for line in lines:
        row: dict[str, float | str] = {}
        for column, cell in line.cells.items():
            try:
                row[column] = cell if column in text_columns else float(cell)
            except ValueError as error:
                raise UserError(
                    f"{path}, line {line.number}, column {column}: {cell!r} "
                    "is not a number"
                ) from error
        rows.append(row)
    return header, rows


def read_cells(path: Path) -> tuple[list[str], list[Line]]:
    """Header and lines of a CSV of text; the first column may lack a name.

    Raises:
      UserError: names file and line.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _parse_cells(path, text)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV in UTF-8 ({error})") from error


def _parse_cells(path: Path, text: str) -> tuple[list[str], list[Line]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    header = [_from_text(cell) for cell in next(reader, [])]
    if not header:
        raise UserError(f"{path}: empty")
    if len(set(header)) != len(header) or "" in header[1:]:
        raise UserError(f"{path}: an empty or repeated column in {header}")
    lines = []
    for cells in reader:
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {reader.line_num}: {len(cells)} cells under "
                f"{len(header)} columns"
            )
        stripped = [_from_text(cell) for cell in cells]
        lines.append(
            Line(reader.line_num, dict(zip(header, stripped, strict=True)))
        )
    return header, lines
