"""Reference runs that the user already has, from two CSV files."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsim.corpus.names import Labels
from jaxsim.errors import UserError
from jaxsim.scoring.table import Mixtures, read_cells, read_csv, read_numbers
from jaxsim.validation.measured import BITS_PER_BYTE


@dataclasses.dataclass(frozen=True)
class ExternalRuns:
    """Runs that the user already has."""

    table: Mixtures  # a single member is a row like any other
    reference_MD: np.ndarray  # losses; NaN for domains without a column
    unit: str  # 'bits per byte', or 'unknown': then levels mean nothing


def read_external_runs(
    mixtures: Path, metrics: Path, members: Sequence[str], domains: Sequence[str]
) -> ExternalRuns:
    """Reads the mixtures and the losses of a user's runs.

    Args:
      mixtures: a CSV file with a column `name`, then weights of members.
      metrics: a CSV file with a column `name`, then losses on some domains, in
        bits per byte unless a column `unit` says otherwise.
      members: of the pool, C.
      domains: of the corpus, D.

    Raises:
      UserError: names file, row and column, and what to do.
    """
    for path in (mixtures, metrics):
        header, _ = read_cells(path)
        if "" in header:
            raise UserError(
                f"{path}: the first column has no name; if pandas wrote its "
                "row numbers there, write the file with index=False"
            )
        if Labels.NAME not in header:
            raise UserError(
                f"{path}: there is no column 'name'; both files need one, and "
                "a row for each run; the other columns are members in the "
                "first file and domains in the second, spelled as in the pool "
                "(docs/own_runs.md converts other tools' files)"
            )
    table = read_mixtures(mixtures, members)
    # The header is now that of the metrics.
    has_unit = Labels.UNIT in header
    text_columns = (Labels.NAME, *([Labels.UNIT] * has_unit))
    _, lines = read_numbers(metrics, text_columns)
    columns = [h for h in header if h not in text_columns]
    known = f"domains are {', '.join(domains)}"
    if unknown := [h for h in columns if h not in domains]:
        raise UserError(
            f"{metrics}: column {unknown[0]!r} is not a domain; {known}; rename "
            "it, or leave it out"
        )
    if not columns:
        raise UserError(f"{metrics}: no column is a domain; {known}")
    by_name = {}
    for line in lines:
        if line["name"] in by_name:
            raise UserError(f"{metrics}: the name {line['name']!r} is used twice")
        by_name[line["name"]] = line
    reference_MD = np.full((len(table), len(domains)), np.nan)
    for m, name in enumerate(table.names):
        if name not in by_name:
            raise UserError(
                f"{metrics}: no row for {name!r} of {mixtures}; add it, or leave "
                "that run out"
            )
        for column in columns:
            loss = float(by_name[name][column])
            if not math.isfinite(loss):
                raise UserError(
                    f"{metrics}, row {name!r}, column {column}: {loss} is not "
                    "finite; correct it, or leave this run out"
                )
            reference_MD[m, domains.index(column)] = loss
    units = {by_name[name][Labels.UNIT] for name in table.names} if has_unit else set()
    unit = BITS_PER_BYTE if units <= {BITS_PER_BYTE} else "unknown"
    return ExternalRuns(table, reference_MD, unit)


def read_mixtures(path: Path, members: Sequence[str]) -> Mixtures:
    """Reads the token shares of runs: `name`, then a column for each member.

    Raises:
      UserError: names file and row.
    """
    table = read_csv(members, path)
    for name, scale in zip(table.names, table.scale_M, strict=True):
        if scale != 1:
            raise UserError(
                f"{path}: row {name!r} has scale {scale:g}; a run has token "
                "shares and no scale"
            )
    return table
