"""The stacked pool on the devices, shared by everything that merges."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsim.config import ScoreConfig
from jaxsim.corpus import Corpus
from jaxsim.mesh import parameter_shardings, replicated, scoring_mesh
from jaxsim.mixture.compiled import deltas_of
from jaxsim.mixture.merge import MEMBER_AXIS
from jaxsim.mixture.plan import held_deltas
from jaxsim.mixture.stack import Stack, load_stack
from jaxsim.model import LanguageModel
from jaxsim.pool import Pool


@dataclasses.dataclass(frozen=True)
class Resident:
    """A stack where programs can use it.

    Attributes:
      stack: what it was made from. On accelerators its trees are those below,
        so that nobody holds the host's copies; a CPU has taken them over.
      mesh: with the axes `mixture` and `model`.
      seed, delta_C: the stack's trees, on every device of `mixture`, their
        widths divided over `model`. Sharding the member axis would cost an
        all-to-all for every merge.
    """

    stack: Stack
    mesh: Mesh
    seed: Any
    delta_C: Any

    @property
    def deltas(self) -> str:
        """What differences are held in: 'float32' or 'bfloat16'."""
        return deltas_of(self.delta_C)

    @property
    def on_cpu(self) -> bool:
        return bool(self.mesh.devices.flat[0].platform == "cpu")


def resident(
    stack: Stack,
    mesh: Mesh | None = None,
    model: LanguageModel | None = None,
) -> Resident:
    """Puts a stack on the devices of `mesh`, by default on all.

    Args:
      stack: arrays that `stacked` made are taken over by a CPU device, not
        copied.
      mesh: see `scoring_mesh`.
      model: needed where `mesh` divides the widths of the model.

    Raises:
      UserError: a width does not divide over `model`.
    """
    mesh = mesh or scoring_mesh()
    at_seed: Any = replicated(mesh)
    at_deltas: Any = at_seed
    if model is not None:
        at_seed, at_deltas = pool_shardings(model, mesh)
    seed = jax.device_put(stack.seed, at_seed)
    delta_C = jax.device_put(stack.delta_C, at_deltas)
    held = Resident(stack, mesh, seed, delta_C)
    if held.on_cpu:
        return held
    stack = dataclasses.replace(stack, seed=seed, delta_C=delta_C)
    return dataclasses.replace(held, stack=stack)


def pool_shardings(model: LanguageModel, mesh: Mesh) -> tuple[Any, Any]:
    """Trees of shardings, of the seed and of the differences.

    Raises:
      UserError: a width does not divide over `model`.
    """
    at_seed = parameter_shardings(
        model.shapes(), model.logical_axes(), mesh, "score"
    )
    return at_seed, jax.tree.map(_with_members, at_seed)


def load_resident(
    pool: Pool,
    names: Sequence[str],
    corpus: Corpus | None,
    override: bool,
    config: ScoreConfig,
) -> Resident:
    """Loads entries as `load_stack` does, and as `config` wants them held.

    Raises:
      DamagedError, UserError: as `load_stack`, `scoring_mesh`, `resident`.
    """
    mesh = scoring_mesh(config.model_axis)
    deltas = held_deltas(config, pool.model, len(names), mesh)
    stack = load_stack(pool, names, corpus, override, deltas)
    return resident(stack, mesh, pool.model)


def _with_members(sharding: NamedSharding) -> NamedSharding:
    axes = list(sharding.spec)
    axes.insert(MEMBER_AXIS, None)
    return NamedSharding(sharding.mesh, PartitionSpec(*axes))
