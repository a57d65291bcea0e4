"""The stacked pool: the base, and every member's difference from it, on devices."""

import dataclasses
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsim.config import ScoreConfig
from jaxsim.corpus import Corpus
from jaxsim.errors import DamagedError, UserError
from jaxsim.log import say
from jaxsim.mesh import parameter_shardings, scoring_mesh
from jaxsim.model import LanguageModel
from jaxsim.pool import Pool
from jaxsim.pool.manifest import Manifest, load_verified, repair
from jaxsim.scoring.layout import held_deltas
from jaxsim.scoring.program import BFLOAT16_BITS, MEMBER_AXIS, to_bfloat16_bits
from jaxsim.scoring.table import Mixtures
from jaxsim.train.runs import title

# Alignment, in bytes, of arrays that a CPU device uses without a copy (measured
# with JAX 0.10 and 0.12).
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class StackedPool:
    """C members stacked in one tree, as differences from the base.

    Attributes:
      names: names of the members, in column order.
      digests: their `params_digest`s, at the time they were read.
      base_digest: `params_digest` of the base.
      base: parameters of the base, float32; arrays, or shapes with shardings.
      delta_C: member minus base, for `merge`; see `stacked`.
      damaged: members whose column is zero because of an override.
      notes: what an override admitted; every result must carry them.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    base_digest: str
    base: Any
    delta_C: Any
    damaged: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def mesh(self) -> Mesh:
        """The devices that it is on; see `scoring_mesh`."""
        mesh: Mesh = jax.tree.leaves(self.base)[0].sharding.mesh
        return mesh

    @classmethod
    def planned(
        cls, model: LanguageModel, members: int, deltas: str, mesh: Mesh
    ) -> "StackedPool":
        """A pool of shapes with shardings, to plan and compile without it."""
        dtype = BFLOAT16_BITS if deltas == "bfloat16" else np.dtype(np.float32)

        def stacked(s: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((s.shape[0], members, *s.shape[1:]), dtype)

        shapes = model.shapes(), jax.tree.map(stacked, model.shapes())
        base, delta_C = jax.tree.map(
            lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at),
            shapes,
            pool_shardings(model, mesh),
        )
        names = tuple(map(str, range(members)))
        return cls(names, names, "", base, delta_C)

    def on(self, mesh: Mesh, model: LanguageModel) -> "StackedPool":
        """Puts it on devices; a CPU uses arrays from `stacked` without a copy.

        It is replicated over the axis `mixture`, and its widths are divided over
        `model`.

        Raises:
          UserError: a width does not divide over `model`.
        """
        at_base, at_deltas = pool_shardings(model, mesh)
        base = jax.device_put(self.base, at_base)
        delta_C = jax.device_put(self.delta_C, at_deltas)
        return dataclasses.replace(self, base=base, delta_C=delta_C)

    def check_usable(self, table: Mixtures) -> None:
        """Checks that a table has the columns of this pool, and no damaged member.

        Raises:
          UserError: its members are others, or in another order.
          DamagedError: a row uses a damaged one; names row and member.
        """
        if table.members != self.names:
            raise UserError(
                f"a table of mixtures has the members {', '.join(table.members)}; it "
                f"must have those of the pool, in this order: {', '.join(self.names)}"
            )
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
    corpus: Corpus,
    config: ScoreConfig,
    override: bool = False,
) -> StackedPool:
    """Loads and checks members, and puts them on all devices.

    Args:
      pool: an open pool.
      names: names of members, in the order of the columns.
      corpus: members must have been trained on its units.
      config: sets the mesh and the precision of the differences.
      override: whether to admit members of other pools as they are, and damaged
        ones as a zero column that no row may use.

    Raises:
      DamagedError: a member is damaged or does not belong to this pool.
      UserError: there is no such member, or the pool is empty; or a width does not
        divide over the devices.
    """
    if not names:
        raise UserError(f"{pool.workdir}: the pool is empty; run `jaxsim train`")
    mesh = scoring_mesh(config.model_axis)
    base_manifest, base = pool.base()
    manifests = [pool.manifest(name) for name in names]
    notes: list[str] = []
    damaged: set[str] = set()

    def entries() -> Iterator[Any]:
        for name, manifest in zip(names, manifests, strict=True):
            check_entry(pool, manifest, corpus, override, notes)
            try:
                yield load_verified(pool.entry(name), manifest, pool.model.shapes())
            except DamagedError as error:
                if not override:
                    raise DamagedError(f"{error}; --override leaves it out") from error
                notes.append(f"OVERRIDE: {error.what}")
                damaged.add(name)
                yield base

    deltas = held_deltas(config, pool.model, len(names), mesh)
    delta_C = stacked(base, entries(), len(names), deltas)
    for note in notes:
        say(note)
    return StackedPool(
        names=tuple(names),
        digests=tuple(manifest.params_digest for manifest in manifests),
        base_digest=base_manifest.params_digest,
        base=jax.tree.map(_aligned_copy, base),
        delta_C=delta_C,
        damaged=frozenset(damaged),
        notes=tuple(notes),
    ).on(mesh, pool.model)


def check_entry(
    pool: Pool, manifest: Manifest, corpus: Corpus, override: bool, notes: list[str]
) -> None:
    """Checks that an entry belongs to the pool and the corpus.

    Args:
      pool, corpus, override: see `load_stack`.
      manifest: of the entry.
      notes: says what an override admits.

    Raises:
      DamagedError: it does not, and `override` is not set.
    """
    problems = pool.compatibility_problems(manifest) + [
        f"unit {unit} of the corpus is not the one it was trained on"
        for unit, digest in manifest.data_digests.items()
        if unit not in corpus.units or corpus.units[unit].digest != digest
    ]
    if problems:
        line = (
            f"{title(manifest.kind, manifest.name)} does not belong to this pool: "
            f"{'; '.join(problems)}"
        )
        if not override:
            advice = f"{repair(pool.entry(manifest.name))}; --override admits it"
            raise DamagedError(line, advice)
        notes.append(f"OVERRIDE: {line}")


def stacked(
    base: Any, entries: Iterable[Any], count: int, deltas: str = "float32"
) -> Any:
    """Stacks the differences of parameter trees from the base in one tree.

    Each entry is stored before the next one is requested, so memory holds no
    more than the result and one entry.

    Args:
      base: parameters of the base.
      entries: trees like it.
      count: number of entries.
      deltas: 'float32' (the base's dtype), or 'bfloat16' for `to_bfloat16_bits`.

    Returns:
      Arrays [n, C, ...] for leaves [n, ...], aligned for the device.
    """
    split = deltas == "bfloat16"

    def allocate(s: np.ndarray) -> np.ndarray:
        shape = (s.shape[0], count, *s.shape[1:])
        return _aligned(shape, BFLOAT16_BITS if split else s.dtype)

    def fill(column: np.ndarray, s: np.ndarray, entry: np.ndarray) -> None:
        if split:
            column[...] = to_bfloat16_bits(entry - s)
        else:
            np.subtract(entry, s, out=column)

    delta_C = jax.tree.map(allocate, base)
    for c, entry in enumerate(entries):
        column = jax.tree.map(operator.itemgetter((slice(None), c)), delta_C)
        jax.tree.map(fill, column, base, entry)
    return delta_C


def pool_shardings(model: LanguageModel, mesh: Mesh) -> tuple[Any, Any]:
    """Returns the trees of shardings of the base and of the differences.

    Raises:
      UserError: a width does not divide over `model`.
    """
    at_base = parameter_shardings(model.shapes(), model.logical_axes(), mesh, "score")
    return at_base, jax.tree.map(_with_members, at_base)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _aligned_copy(x: np.ndarray) -> np.ndarray:
    copy = _aligned(x.shape, x.dtype)
    copy[...] = x
    return copy


def _with_members(sharding: NamedSharding) -> NamedSharding:
    axes = list(sharding.spec)
    axes.insert(MEMBER_AXIS, None)
    return NamedSharding(sharding.mesh, PartitionSpec(*axes))
