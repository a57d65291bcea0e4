"""The rows of a run and their order: a pure function, no iterator.

The order depends only on digests of the data and on the data seed. A run that
resumes at any step, on any number of processes, sees the same global batches.
Members, reference runs and replicates all use it.

Letters: R rows of the run, C units.
"""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from jaxsim.corpus.store import Unit
from jaxsim.errors import UserError

MOST_ROWS = 10**8  # of a run, whose order is held in memory


def permutation(digest: str, data_seed: int, epoch: int, n: int) -> np.ndarray:
    """A permutation of n rows, int64.

    It sorts the raw output of a bit generator: numpy promises that these streams
    never change, but makes no such promise for `Generator.permutation`.
    """
    key = hashlib.sha256(f"{digest}\0{data_seed}\0{epoch}".encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(key[:16])).random_raw(n)
    return np.argsort(raw, kind="stable").astype(np.int64)


def shares(weights_C: Sequence[float] | np.ndarray, total: int) -> np.ndarray:
    """Divides `total` in proportion to weights by largest remainder, int64.

    Ties go to the earlier position, a zero weight gets nothing, and the sum is
    `total`. The arithmetic is rational, so rounding decides nothing.
    """
    weights = [Fraction(float(w)) for w in weights_C]
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0 or total < 0:
        raise ValueError(
            f"weights must be non-negative with a positive sum and total "
            f"non-negative; got {list(weights_C)!r} and {total}"
        )
    quotas = [w * total / whole for w in weights]
    result = [math.floor(q) for q in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda c: (result[c] - quotas[c], c))
    for c in by_remainder[: total - sum(result)]:
        result[c] += 1
    return np.array(result, np.int64)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Row r of a run is row `row_R[r]` of unit `units[unit_R[r]]`."""

    units: tuple[str, ...]  # names; replayed base text comes last
    unit_R: np.ndarray  # int32
    row_R: np.ndarray  # int64
    unique_rows: int
    epochs: dict[str, float]  # of each unit: rows given / rows it has


def schedule(
    units: Sequence[Unit],
    weights_C: Sequence[float] | np.ndarray,
    own_rows: int,
    data_seed: int,
    replay: tuple[Unit, int] | None = None,
) -> Schedule:
    """All rows of a run, as a function of its mixture and data seed.

    Each unit gives its share of `own_rows`, see `shares`: the first rows of its own
    permutation, and a new epoch when it runs out. Replay is the base text and its rows,
    which come on top. Units of weight zero and the order of units do not matter, given
    the shares.
    """
    members, counts = list(units), shares(weights_C, own_rows).tolist()
    if replay is not None:
        members, counts = [*members, replay[0]], [*counts, replay[1]]
    total_rows = sum(counts)
    if total_rows > MOST_ROWS:
        raise UserError(
            f"a run of {total_rows:,} rows, and the most are {MOST_ROWS:,}; lower "
            "config.base.steps, config.recipe.steps or config.validate.token_multiplier"
        )
    used = sorted(
        np.flatnonzero(counts).tolist(),
        key=lambda c: (members[c].digest, members[c].name),
    )
    slots = np.repeat(np.array(used, np.int32), np.array(counts)[used])
    mixed = "interleave\0" + "\0".join(members[c].digest for c in used)
    unit_R = slots[permutation(mixed, data_seed, 0, total_rows)]
    row_R = np.zeros(total_rows, np.int64)
    for c in used:
        digest, own = members[c].digest, members[c].rows
        epochs = range(math.ceil(counts[c] / own))
        rows = [permutation(digest, data_seed, epoch, own) for epoch in epochs]
        row_R[unit_R == c] = np.concatenate(rows)[: counts[c]]
    pairs = list(zip(members, counts, strict=True))
    return Schedule(
        units=tuple(unit.name for unit in members),
        unit_R=unit_R,
        row_R=row_R,
        unique_rows=sum(min(n, unit.rows) for unit, n in pairs),
        epochs={unit.name: n / unit.rows for unit, n in pairs},
    )
