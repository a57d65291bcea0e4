"""A CSV of numbers: mixtures, and the user's own truths."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from jaxsim.errors import UserError


def read_numbers(
    path: Path, text_columns: Sequence[str]
) -> tuple[list[str], list[dict[str, float | str]]]:
    """Header and rows of a CSV of numbers, but for the columns named.

    Raises:
      UserError: names file, line and column.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _parse_numbers(path, text, text_columns)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV in UTF-8 ({error})") from error


def _parse_numbers(
    path: Path, text: str, text_columns: Sequence[str]
) -> tuple[list[str], list[dict[str, float | str]]]:
    reader = csv.reader(io.StringIO(text, newline=""))
    header = [cell.strip() for cell in next(reader, [])]
    if not header:
        raise UserError(f"{path}: empty")
    if len(set(header)) != len(header) or "" in header:
        raise UserError(f"{path}: an empty or repeated column in {header}")
    if missing := [c for c in text_columns if c not in header]:
        raise UserError(f"{path}: there is no column {missing[0]!r}")
    rows: list[dict[str, float | str]] = []
    for cells in reader:
        where = f"{path}, line {reader.line_num}"
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise UserError(
                f"{where}: {len(cells)} cells under {len(header)} columns"
            )
        row: dict[str, float | str] = {}
        for column, cell in zip(header, cells, strict=True):
            try:
                row[column] = (
                    cell.strip() if column in text_columns else float(cell)
                )
            except ValueError as error:
                raise UserError(
                    f"{where}, column {column}: {cell!r} is not a number"
                ) from error
        rows.append(row)
    return header, rows
