"""The stacked pool: the seed, and every member's difference from it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxsim.console import say
from jaxsim.corpus import Corpus
from jaxsim.errors import DamagedError, UserError
from jaxsim.mixture.table import Mixtures
from jaxsim.pool import Pool
from jaxsim.pool.verify import load_verified


@dataclasses.dataclass(frozen=True)
class Stack:
    """C pool entries in one tree, on the host.

    Attributes:
      names: of the entries, in column order.
      digests: their `params_digest`s, pinned when they were read.
      seed_digest: the seed's.
      seed: parameter tree, float32.
      delta_C: the same tree with a leading axis C, entry minus seed.
      damaged: entries whose column is zero under an override.
      notes: what an override admitted; every result must carry it.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    seed_digest: str
    seed: Any
    delta_C: Any
    damaged: frozenset[str]
    notes: tuple[str, ...]

    @property
    def pins(self) -> dict[str, str]:
        """Digests of 'seed' and of every entry, by name."""
        digests = dict(zip(self.names, self.digests, strict=True))
        return {"seed": self.seed_digest} | digests

    def check_usable(self, table: Mixtures) -> None:
        """Refuses rows that use a damaged entry.

        Raises:
          DamagedError: names row and entry.
        """
        for row, name in enumerate(table.names):
            if table.scale_M[row] == 0:
                continue
            for part in table.parts(row):
                if part in self.damaged:
                    raise DamagedError(
                        f"mixture {name!r} uses {part!r}, which is damaged"
                    )


def load_stack(
    pool: Pool,
    names: Sequence[str],
    corpus: Corpus | None = None,
    override: bool = False,
) -> Stack:
    """Loads and checks entries; nothing is scored if one of them fails.

    Args:
      pool: an open pool.
      names: the entries, in the order of the columns.
      corpus: if given, entries must have been trained on its units.
      override: admit foreign entries as they are and damaged ones as a zero
        column that no row may use.

    Raises:
      DamagedError: an entry is damaged or does not belong to this pool.
      UserError: there is no such entry.
    """
    if not names:
        raise UserError(
            f"{pool.workdir}: the pool is empty; run `jaxsim train`"
        )
    seed_manifest, seed = pool.seed()
    shapes = pool.model.shapes()
    digests, deltas, notes = [], [], []
    damaged: set[str] = set()
    for name in names:
        manifest = pool.manifest(name)
        problems = pool.kinship_problems(manifest)
        if corpus is not None:
            problems += [
                f"unit {unit} of the corpus is not the one it was trained on"
                for unit, digest in manifest.data_digests.items()
                if unit not in corpus.units
                or corpus.units[unit].digest != digest
            ]
        if problems:
            line = (
                f"{manifest.kind} {name} does not belong to this pool: "
                f"{'; '.join(problems)}"
            )
            if not override:
                raise DamagedError(line)
            notes.append(line)
        digests.append(manifest.params_digest)
        try:
            params = load_verified(pool.entry(name), manifest, shapes)
        except DamagedError as error:
            if not override:
                raise
            notes.append(str(error))
            damaged.add(name)
            params = seed
        deltas.append(jax.tree.map(np.subtract, params, seed))
    for note in notes:
        say(f"OVERRIDE: {note}")
    return Stack(
        names=tuple(names),
        digests=tuple(digests),
        seed_digest=seed_manifest.params_digest,
        seed=seed,
        delta_C=jax.tree.map(lambda *leaves: np.stack(leaves), *deltas),
        damaged=frozenset(damaged),
        notes=tuple(notes),
    )
