"""The stacked pool: the seed, and every member's difference from it."""

import dataclasses
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxsim.console import say
from jaxsim.corpus import Corpus
from jaxsim.errors import DamagedError, UserError
from jaxsim.mixture.merge import HALVES, halves
from jaxsim.mixture.table import Mixtures
from jaxsim.pool import Pool
from jaxsim.pool.manifest import Manifest, load_verified

# A CPU device takes over arrays that begin at a multiple of this, in bytes,
# and copies all others (measured with JAX 0.10 and 0.12).
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Stack:
    """C pool entries in one tree, on the host.

    Attributes:
      names: of the entries, in column order.
      digests: their `params_digest`s, pinned when they were read.
      seed_digest: the seed's.
      seed: parameter tree, float32.
      delta_C: entry minus seed, as `merge` takes it; see `stacked`.
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
    deltas: str = "float32",
) -> Stack:
    """Loads and checks entries; nothing is scored if one of them fails.

    Args:
      pool: an open pool.
      names: the entries, in the order of the columns.
      corpus: if given, entries must have been trained on its units.
      override: admit foreign entries as they are and damaged ones as a zero
        column that no row may use.
      deltas: what differences are held in, 'float32' or 'bfloat16'.

    Raises:
      DamagedError: an entry is damaged or does not belong to this pool.
      UserError: there is no such entry.
    """
    if not names:
        raise UserError(
            f"{pool.workdir}: the pool is empty; run `jaxsim train`"
        )
    seed_manifest, seed = pool.seed()
    manifests = [pool.manifest(name) for name in names]
    notes: list[str] = []
    damaged: set[str] = set()

    def entries() -> Iterator[Any]:
        for name, manifest in zip(names, manifests, strict=True):
            if problems := _kinship_problems(pool, manifest, corpus):
                line = (
                    f"{manifest.kind} {name} does not belong to this pool: "
                    f"{'; '.join(problems)}"
                )
                if not override:
                    raise DamagedError(line)
                notes.append(line)
            try:
                yield load_verified(
                    pool.entry(name), manifest, pool.model.shapes()
                )
            except DamagedError as error:
                if not override:
                    raise
                notes.append(str(error))
                damaged.add(name)
                yield seed

    delta_C = stacked(seed, entries(), len(names), deltas)
    for note in notes:
        say(f"OVERRIDE: {note}")
    return Stack(
        names=tuple(names),
        digests=tuple(manifest.params_digest for manifest in manifests),
        seed_digest=seed_manifest.params_digest,
        seed=jax.tree.map(_aligned_copy, seed),
        delta_C=delta_C,
        damaged=frozenset(damaged),
        notes=tuple(notes),
    )


def stacked(
    seed: Any, entries: Iterable[Any], count: int, deltas: str = "float32"
) -> Any:
    """Differences of parameter trees from the seed, in one tree.

    Each entry goes to its place before the next one is asked for, so that
    no more is held than the result and one entry.

    Args:
      seed: parameter tree.
      entries: `count` trees like it.
      deltas: 'float32' (the seed's dtype), or 'bfloat16' for its `halves`.

    Returns:
      Arrays [n, C, ...] for leaves [n, ...], aligned for the device.
    """
    half = deltas == "bfloat16"

    def allocate(s: np.ndarray) -> np.ndarray:
        shape = (s.shape[0], count, *s.shape[1:])
        return _aligned(shape, HALVES if half else s.dtype)

    def fill(column: np.ndarray, s: np.ndarray, entry: np.ndarray) -> None:
        if half:
            column[...] = halves(entry - s)
        else:
            np.subtract(entry, s, out=column)

    delta_C = jax.tree.map(allocate, seed)
    for c, entry in enumerate(entries):
        column = jax.tree.map(operator.itemgetter((slice(None), c)), delta_C)
        jax.tree.map(fill, column, seed, entry)
    return delta_C


def _kinship_problems(
    pool: Pool, manifest: Manifest, corpus: Corpus | None
) -> list[str]:
    problems = pool.kinship_problems(manifest)
    if corpus is not None:
        problems += [
            f"unit {unit} of the corpus is not the one it was trained on"
            for unit, digest in manifest.data_digests.items()
            if unit not in corpus.units or corpus.units[unit].digest != digest
        ]
    return problems


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _aligned_copy(x: np.ndarray) -> np.ndarray:
    copy = _aligned(x.shape, x.dtype)
    copy[...] = x
    return copy
