"""The scores of seed, members and plain merges, as their Parquet file says.

The report reads the table and not the windows: it holds sums, is small
whatever the size of the evaluation text, and anybody else can read it too.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxsim.errors import DamagedError

SEED = "seed"


@dataclasses.dataclass(frozen=True)
class References:
    """Bits per byte of the merge of some named rows.

    Attributes:
      members: of the table, in pool order.
      names, kinds: of the rows, M.
      domains, in_pool: in-pool ones first, D.
      bits: by half, [M, D] float64; NaN where nothing was scored.
      documents: by half and domain.
      evaluation: digest of the evaluation text.
      notes: what an override admitted.
    """

    members: tuple[str, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    domains: tuple[str, ...]
    in_pool: tuple[bool, ...]
    bits: dict[str, np.ndarray]
    documents: dict[str, dict[str, int]]
    evaluation: str
    notes: tuple[str, ...]

    def row(self, name: str, half: str) -> np.ndarray:
        """[D] of one row; NaN if it was not scored."""
        if name not in self.names:
            return np.full(len(self.domains), np.nan)
        return self.bits[half][self.names.index(name)]

    def gains(self, half: str) -> np.ndarray:
        """[C, D]: by how many bits per byte a member betters the seed."""
        members_CD = np.array([self.row(name, half) for name in self.members])
        return self.row(SEED, half) - members_CD

    def macro_in_pool(self, half: str) -> np.ndarray:
        """[M] mean over the in-pool domains."""
        return self.bits[half][:, np.array(self.in_pool)].mean(axis=1)


def own_members(domain: str, members: Sequence[str]) -> list[str]:
    """The members trained on the partition that `domain` is held out of."""
    pattern = re.compile(re.escape(domain) + r"(_\d+of\d+)?")
    return [name for name in members if pattern.fullmatch(name)]


def own_best_sentence(references: References | None, half: str) -> str:
    """For how many in-pool domains an own member is the best one."""
    if references is None:
        return ""
    gain_CD = references.gains(half)
    best = total = 0
    for d, domain in enumerate(references.domains):
        own = own_members(domain, references.members)
        if not own or not np.isfinite(gain_CD[:, d]).any():
            continue
        total += 1
        best += references.members[int(np.nanargmax(gain_CD[:, d]))] in own
    if not total:
        return ""
    return (
        f"The own member is the best single one for {best} of {total} in-pool "
        "domains."
    )


def read_references(path: Path) -> References:
    """The table that `jaxsim score` left at `path`.

    Raises:
      DamagedError: it is no such table.
    """
    try:
        return references_of(pa.parquet.read_table(path))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DamagedError(
            f"{path}: not a table of scores ({error}); delete the folder "
            "scores/ and run `jaxsim score` again"
        ) from error


def references_of(table: pa.Table) -> References:
    """From the table of a `Scores`; sums become bits per byte here."""
    facts = {
        key.decode(): value.decode()
        for key, value in (table.schema.metadata or {}).items()
    }
    rows = [row for row in table.to_pylist() if row["proxy"] == "merge"]
    kinds = {row["mixture"]: row["kind"] for row in rows}
    in_pool = {row["domain"]: row["in_pool"] for row in rows}
    names, domains = list(kinds), list(in_pool)
    bits: dict[str, np.ndarray] = {}
    documents: dict[str, dict[str, int]] = {}
    for row in rows:
        half = row["half"]
        bits_MD = bits.setdefault(
            half, np.full((len(names), len(domains)), np.nan)
        )
        bits_MD[names.index(row["mixture"]), domains.index(row["domain"])] = (
            row["nll_sum"] / row["bytes"] / np.log(2.0)
        )
        documents.setdefault(half, {})[row["domain"]] = row["documents"]
    return References(
        members=tuple(json.loads(facts["jaxsim.members"])),
        names=tuple(names),
        kinds=tuple(kinds.values()),
        domains=tuple(domains),
        in_pool=tuple(in_pool.values()),
        bits=bits,
        documents=documents,
        evaluation=facts["jaxsim.evaluation"],
        notes=tuple(json.loads(facts["jaxsim.notes"])),
    )
