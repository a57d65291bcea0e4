"""Rows of tokens to parameters: one function trains every run.

The base model, members, reference runs and replicates differ only in data,
start and length. The base model has a learning-rate schedule of its own.
"""

from jaxsim.train.running import NonFiniteError
from jaxsim.train.runs import Run, member_run, reference_run, replicate_of
from jaxsim.train.trainer import (
    Trained,
    Trainer,
    base_trainer,
    recipe_trainer,
)

__all__ = [
    "NonFiniteError",
    "Run",
    "Trained",
    "Trainer",
    "base_trainer",
    "member_run",
    "recipe_trainer",
    "reference_run",
    "replicate_of",
]
