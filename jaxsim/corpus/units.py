"""A partition's training text, cut in base units of the common budget."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jaxsim.corpus.documents import Document
from jaxsim.corpus.names import check_name
from jaxsim.corpus.rows import training_rows
from jaxsim.corpus.split import unit_hash
from jaxsim.corpus.tokenizer import Tokenizer
from jaxsim.errors import UserError


@dataclasses.dataclass(frozen=True)
class Budget:
    """What every unit is brought to, and the limits of doing so."""

    rows: int  # of one member's run
    length: int  # L
    max_units: int
    max_epochs: float


@dataclasses.dataclass(frozen=True)
class UnitRows:
    """A base unit before it is stored."""

    name: str
    partition: str
    group: str
    tokens_RL1: np.ndarray
    documents: int


def cut_units(
    partition: str,
    group: str,
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    budget: Budget,
) -> list[UnitRows]:
    """The base units of a partition: itself, or numbered pieces of it.

    A partition of at least two budgets is cut if `max_units` allows; its
    documents are then taken in the order of a hash, so that pieces differ by
    chance only. A smaller unit repeats while it is trained.

    Raises:
      UserError: no text, or too little for `max_epochs`.
    """
    ids = tokenizer.encode_batch([document.text for document in documents])
    stream = sum(len(tokens) + 1 for tokens in ids)
    rows = max(0, (stream - 1) // budget.length)
    _check_size(partition, len(documents), rows, budget)
    pieces = max(1, min(budget.max_units, rows // budget.rows))
    if pieces == 1:
        tokens_RL1 = training_rows(ids, tokenizer.end_of_text, budget.length)
        return [
            UnitRows(partition, partition, group, tokens_RL1, len(documents))
        ]
    order = sorted(
        range(len(documents)),
        key=lambda i: (unit_hash("unit", documents[i].id), documents[i].id),
    )
    ids = [ids[i] for i in order]
    tokens_RL1 = training_rows(ids, tokenizer.end_of_text, budget.length)
    ends = np.cumsum([len(tokens) + 1 for tokens in ids])
    bounds = [rows * piece // pieces for piece in range(pieces + 1)]
    units = []
    for piece in range(pieces):
        start, stop = bounds[piece], bounds[piece + 1]
        first = int(np.searchsorted(ends, start * budget.length, "right"))
        last = int(np.searchsorted(ends, stop * budget.length, "right"))
        name = check_name(
            f"{partition}_{piece + 1}of{pieces}", "a piece of a partition"
        )
        touched = min(last, len(ids) - 1) - first + 1
        units.append(
            UnitRows(
                name, partition, partition, tokens_RL1[start:stop], touched
            )
        )
    return units


def _check_size(
    partition: str, documents: int, rows: int, budget: Budget
) -> None:
    what = f"partition {partition!r}"
    if not documents:
        raise UserError(
            f"{what}: no training document is left after the split, "
            "duplicates and overlap; give it more text or remove it"
        )
    needed = math.ceil(budget.rows / budget.max_epochs)
    if rows < max(1, needed):
        epochs = f"{budget.rows / rows:.1f}" if rows else "endless"
        raise UserError(
            f"{what}: {rows} rows of {budget.length} tokens for a budget of "
            f"{budget.rows} rows are {epochs} epochs, more than "
            f"corpus.max_epochs={budget.max_epochs:g}; give it at least "
            f"{max(1, needed)} rows, join it with another partition, lower "
            "recipe.steps or recipe.batch, or raise corpus.max_epochs"
        )
