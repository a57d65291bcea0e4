"""Which column of a foreign table stands for which member or domain."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise, takewhile
from pathlib import Path

from jaxsim.errors import UserError


def match(
    path: Path, columns: list[str], names: Sequence[str], what: str
) -> dict[str, str]:
    """The name that a column stands for, for those that stand for one.

    A name spelt as a column is that one. Of other columns, parts at either
    end that all columns share may be left out, and `_`, `-`, `/`, `:`, space
    and case make no difference.
    """
    exact = [column for column in columns if column in names]
    parts = {column: _parts(column) for column in columns}
    head = _shared(parts.values())
    tail = _shared(part[::-1] for part in parts.values())
    matched = {column: column for column in exact}
    for column, own in parts.items():
        if column in exact:
            continue
        spelt = [
            own[i : len(own) - j]
            for i in range(head + 1)
            for j in range(tail + 1)
            if i + j < len(own)
        ]
        fits = [n for n in names if n not in exact and _parts(n) in spelt]
        if len(fits) > 1:
            raise UserError(
                f"{path}: column {column!r} may be the {what} "
                f"{' or '.join(map(repr, fits))}; rename it to one of them"
            )
        if fits:
            matched[column] = fits[0]
    # Two columns of one name are neighbours when sorted by it.
    by_name = sorted(matched, key=lambda column: matched[column])
    for one, other in pairwise(by_name):
        if matched[one] == matched[other]:
            raise UserError(
                f"{path}: the {what} {matched[one]!r} may be column {one!r} "
                f"or {other!r}; rename the right one to {matched[one]!r}"
            )
    if not matched:
        raise UserError(
            f"{path}: no column is a {what}; columns are {some(columns)}; "
            f"{what}s are {some(names)}; rename the columns"
        )
    return matched


def _parts(name: str) -> list[str]:
    return re.split("[-_/: ]", name.casefold())


def _shared(parts: Iterable[list[str]]) -> int:
    """How many parts all begin with."""
    ranks = zip(*parts, strict=False)
    return sum(1 for _ in takewhile(lambda rank: len(set(rank)) == 1, ranks))


def some(names: Sequence[str], most: int = 6) -> str:
    """The names, or the first and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
