"""A pool of random members, made where it is used, and random windows.

For benchmarks of speed and memory: trained members take as long to score.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsim.config import ModelConfig
from jaxsim.mesh import scoring_mesh
from jaxsim.model import LanguageModel
from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.scoring.program import MEMBER_AXIS
from jaxsim.scoring.stack import StackedPool
from jaxsim.scoring.table import Mixtures, dirichlet

_CHANGE = 0.002  # standard deviation of a difference


def random_stack(model: LanguageModel, members: int, deltas: str) -> StackedPool:
    """`members` random entries around a fresh base model, on the devices."""
    base = jax.jit(model.init)(jax.random.key(0))

    @jax.jit
    def leaf(key: jax.Array, like: jax.Array) -> jax.Array:
        shape = list(like.shape)
        shape.insert(MEMBER_AXIS, members)
        # bfloat16 from the start, so that no float32 pool has to fit as well.
        kind = jnp.dtype(deltas)
        delta_C = jnp.asarray(_CHANGE, kind) * jax.random.normal(key, shape, kind)
        if kind == jnp.float32:
            return delta_C
        return jax.lax.bitcast_convert_type(delta_C, jnp.uint16)  # `to_bfloat16_bits`

    leaves, tree = jax.tree.flatten(base)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    delta_C = jax.tree.unflatten(
        tree, [leaf(k, s) for k, s in zip(keys, leaves, strict=True)]
    )
    names = _names(members)
    return StackedPool(names, names, "", base, delta_C).on(scoring_mesh(), model)


def mixtures(members: int, count: int) -> Mixtures:
    """`count` Dirichlet draws over those members."""
    return dirichlet(_names(members), count, 1.0, seed=0)


def random_windows(count: int, vocab: int, model: ModelConfig) -> EvaluationSet:
    """Windows of full length of one domain."""
    rng = np.random.default_rng(0)
    shape = (count, model.length + 1)
    zeros = np.zeros(count, np.int32)
    full = np.full(count, model.length, np.int32)
    return EvaluationSet(
        tokens_RL1=rng.integers(0, vocab, shape, dtype=np.int32),
        first_R=zeros,
        count_R=full,
        length_R=full,
        domain_R=zeros,
        split_R=zeros,
        document_R=np.arange(count, dtype=np.int32),
        bytes_R=4 * full.astype(np.int64),
        domains=("random",),
        in_pool=(False,),
        groups=("random",),
        by_document=(False,),
        documents=tuple(str(i) for i in range(count)),
        digest="",
    )


def _names(members: int) -> tuple[str, ...]:
    return tuple(f"member-{c}" for c in range(members))
