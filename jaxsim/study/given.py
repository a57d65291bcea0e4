"""Truths that the user already has."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsim.errors import UserError
from jaxsim.mixture.csv_numbers import read_numbers
from jaxsim.mixture.table import Mixtures, read_csv


def read_truths(
    ratios: Path, metrics: Path, members: Sequence[str], domains: Sequence[str]
) -> tuple[Mixtures, np.ndarray]:
    """Runs that the user already has.

    Args:
      ratios: a CSV with `name` and a column of weights for each member.
      metrics: a CSV with `name` and bits per byte for some domains.
      members: of the pool.
      domains: of the corpus.

    Returns:
      The ratios as mixtures, and [M, D] bits per byte with NaN for domains
      without a column.

    Raises:
      UserError: names file, line and column.
    """
    table = read_csv(members, ratios)
    header, lines = read_numbers(metrics, text_columns=("name",))
    unknown = [h for h in header if h not in (*domains, "name")]
    if unknown:
        raise UserError(
            f"{metrics}: column {unknown[0]!r} is not a domain; domains are "
            f"{', '.join(domains)}"
        )
    if len(header) < 2:
        raise UserError(f"{metrics}: no column is a domain")
    by_name = {line["name"]: line for line in lines}
    if len(by_name) < len(lines):
        raise UserError(f"{metrics}: a name is used twice")
    bits_MD = np.full((len(table), len(domains)), np.nan)
    for m, name in enumerate(table.names):
        if name not in by_name:
            raise UserError(f"{metrics}: no row for {name!r} of {ratios}")
        for d, domain in enumerate(domains):
            if domain in header:
                bits_MD[m, d] = float(by_name[name][domain])
                if not math.isfinite(bits_MD[m, d]):
                    raise UserError(
                        f"{metrics}, row {name!r}, column {domain}: "
                        f"{bits_MD[m, d]} is not finite"
                    )
    return table, bits_MD
