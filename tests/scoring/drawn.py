"""A pool of random members: several layers, biases, shared key heads."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxsim.config import ModelConfig, ScoreConfig
from jaxsim.model import LanguageModel
from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.scoring.evaluator import Evaluator
from jaxsim.scoring.stack import StackedPool, stacked
from jaxsim.scoring.table import Mixtures, dirichlet

MEMBERS = ("a", "b", "c")
LENGTH, WINDOWS = 16, 6
MODEL = LanguageModel(
    ModelConfig(
        length=LENGTH,
        layers=3,
        dim=32,
        heads=4,
        kv_heads=2,
        mlp_dim=48,
        norm="layer",
        qk_norm="width",
        bias="all",
    ),
    vocab_size=98,
)
ROWS = np.arange(WINDOWS)


@functools.cache
def trees() -> list[Any]:
    """Base model and members."""
    rng = np.random.default_rng(0)

    def random(std: float) -> Any:
        return jax.tree.map(
            lambda s: std * rng.standard_normal(s.shape, dtype=np.float32),
            MODEL.shapes(),
        )

    base = random(0.2)
    return [base] + [jax.tree.map(np.add, base, random(0.05)) for _ in MEMBERS]


@functools.cache
def stack(deltas: str = "float32") -> StackedPool:
    base, *members = trees()
    delta_C = stacked(base, members, len(MEMBERS), deltas)
    return StackedPool(MEMBERS, MEMBERS, "", base, delta_C)


@functools.cache
def evaluation() -> EvaluationSet:
    shape = (WINDOWS, LENGTH + 1)
    tokens = np.random.default_rng(1).integers(0, 98, shape, dtype=np.int32)
    zero_R, full_R = np.zeros_like(ROWS), np.full_like(ROWS, LENGTH)
    return EvaluationSet(
        tokens_RL1=tokens,
        first_R=zero_R,
        count_R=full_R,
        length_R=full_R,
        domain_R=zero_R,
        split_R=zero_R,
        document_R=ROWS,
        bytes_R=full_R,
        domains=("text",),
        in_pool=(True,),
        groups=("text",),
        by_document=(False,),
        documents=tuple(map(str, ROWS)),
    )


def table(count: int = 5) -> Mixtures:
    return dirichlet(MEMBERS, count, 1.0, seed=0)


def mesh(devices: int, model_axis: int = 1) -> Mesh:
    """Some of the devices as `scoring_mesh` arranges all of them."""
    return jax.make_mesh(
        (devices // model_axis, model_axis),
        ("mixture", "model"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[:devices],
    )


def evaluator(
    devices: int = 1, model_axis: int = 1, deltas: str = "float32", **settings
) -> Evaluator:
    settings = {"unroll": False} | settings
    pool = stack(deltas).on(mesh(devices, model_axis), MODEL)
    return Evaluator(MODEL, pool, evaluation(), ScoreConfig(**settings))
