"""The stacked pool: the base, and every member's difference from it.

`load_stack` reads and checks it on the host; `resident` puts it on devices.
"""

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
from jaxsim.mesh import parameter_shardings, replicated, scoring_mesh
from jaxsim.model import LanguageModel
from jaxsim.pool import Pool
from jaxsim.pool.manifest import Manifest, load_verified
from jaxsim.scoring.merge import BFLOAT16_BITS, MEMBER_AXIS, deltas_of, to_bfloat16_bits
from jaxsim.scoring.plan import held_deltas
from jaxsim.scoring.table import Mixtures
from jaxsim.train.runs import title

# Alignment, in bytes, of arrays that a CPU device uses without a copy (measured
# with JAX 0.10 and 0.12).
_ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Stack:
    """C pool entries stacked in one tree, on the host.

    Attributes:
      names: names of the entries, in column order.
      digests: their `params_digest`s, at the time they were read.
      base_digest: `params_digest` of the base.
      base: parameters of the base, float32.
      delta_C: entry minus base, for `merge`; see `stacked`.
      damaged: entries whose column is zero because of an override.
      notes: what an override admitted; every result must carry them.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    base_digest: str
    base: Any
    delta_C: Any
    damaged: frozenset[str]
    notes: tuple[str, ...]

    def check_usable(self, table: Mixtures) -> None:
        """Checks that no row uses a damaged entry.

        Raises:
          DamagedError: one does; names row and entry.
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
    """Loads and checks pool entries; fails if one of them fails.

    Args:
      pool: an open pool.
      names: names of entries, in the order of the columns.
      corpus: if given, entries must have been trained on its units.
      override: whether to admit entries of other pools as they are, and
        damaged ones as a zero column that no row may use.
      deltas: precision of the differences, 'float32' or 'bfloat16'.

    Raises:
      DamagedError: an entry is damaged or does not belong to this pool.
      UserError: there is no such entry, or the pool is empty.
    """
    if not names:
        raise UserError(f"{pool.workdir}: the pool is empty; run `jaxsim train`")
    base_manifest, base = pool.base()
    manifests = [pool.manifest(name) for name in names]
    notes: list[str] = []
    damaged: set[str] = set()

    def entries() -> Iterator[Any]:
        for name, manifest in zip(names, manifests, strict=True):
            if problems := _compatibility_problems(pool, manifest, corpus):
                line = (
                    f"{title(manifest.kind, name)} does not belong to this pool: "
                    f"{'; '.join(problems)}"
                )
                if not override:
                    raise DamagedError(line)
                notes.append(line)
            try:
                yield load_verified(pool.entry(name), manifest, pool.model.shapes())
            except DamagedError as error:
                if not override:
                    raise
                notes.append(str(error))
                damaged.add(name)
                yield base

    delta_C = stacked(base, entries(), len(names), deltas)
    for note in notes:
        say(f"OVERRIDE: {note}")
    return Stack(
        names=tuple(names),
        digests=tuple(manifest.params_digest for manifest in manifests),
        base_digest=base_manifest.params_digest,
        base=jax.tree.map(_aligned_copy, base),
        delta_C=delta_C,
        damaged=frozenset(damaged),
        notes=tuple(notes),
    )


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


@dataclasses.dataclass(frozen=True)
class Resident:
    """A stack on devices.

    Attributes:
      stack: the stack it was made from. On accelerators its trees are those
        below, so that the copies on the host can be freed; a CPU device uses
        the host's arrays.
      mesh: with the axes `mixture` and `model`.
      base, delta_C: the stack's trees, replicated over `mixture`, their widths
        divided over `model`. Sharding the member axis would cost an all-to-all
        for every merge.
    """

    stack: Stack
    mesh: Mesh
    base: Any
    delta_C: Any

    @property
    def deltas(self) -> str:
        """The precision of the differences: 'float32' or 'bfloat16'."""
        return deltas_of(self.delta_C)

    @property
    def on_cpu(self) -> bool:
        return bool(self.mesh.devices.flat[0].platform == "cpu")


def resident(
    stack: Stack, mesh: Mesh | None = None, model: LanguageModel | None = None
) -> Resident:
    """Puts a stack on the devices of `mesh`, by default on all devices.

    Args:
      stack: a CPU device uses the arrays that `stacked` made without a copy.
      mesh: see `scoring_mesh`.
      model: required if `mesh` divides the widths of the model.

    Raises:
      UserError: a width does not divide over `model`.
    """
    mesh = mesh or scoring_mesh()
    at_base: Any = replicated(mesh)
    at_deltas: Any = at_base
    if model is not None:
        at_base, at_deltas = pool_shardings(model, mesh)
    base = jax.device_put(stack.base, at_base)
    delta_C = jax.device_put(stack.delta_C, at_deltas)
    held = Resident(stack, mesh, base, delta_C)
    if held.on_cpu:
        return held
    stack = dataclasses.replace(stack, base=base, delta_C=delta_C)
    return dataclasses.replace(held, stack=stack)


def pool_shardings(model: LanguageModel, mesh: Mesh) -> tuple[Any, Any]:
    """Returns the trees of shardings of the base and of the differences.

    Raises:
      UserError: a width does not divide over `model`.
    """
    at_base = parameter_shardings(model.shapes(), model.logical_axes(), mesh, "score")
    return at_base, jax.tree.map(_with_members, at_base)


def load_resident(
    pool: Pool,
    names: Sequence[str],
    corpus: Corpus | None,
    override: bool,
    config: ScoreConfig,
) -> Resident:
    """Loads entries and puts them on all devices, as `config` says.

    Args:
      pool, names, corpus, override: see `load_stack`.
      config: sets the mesh and the precision of the differences.

    Raises:
      DamagedError, UserError: see `load_stack`, `scoring_mesh`, `resident`.
    """
    mesh = scoring_mesh(config.model_axis)
    deltas = held_deltas(config, pool.model, len(names), mesh)
    stack = load_stack(pool, names, corpus, override, deltas)
    return resident(stack, mesh, pool.model)


def _compatibility_problems(
    pool: Pool, manifest: Manifest, corpus: Corpus | None
) -> list[str]:
    problems = pool.compatibility_problems(manifest)
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


def _with_members(sharding: NamedSharding) -> NamedSharding:
    axes = list(sharding.spec)
    axes.insert(MEMBER_AXIS, None)
    return NamedSharding(sharding.mesh, PartitionSpec(*axes))
