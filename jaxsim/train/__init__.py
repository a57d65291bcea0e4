"""Rows of tokens to parameters: one function trains every run.

The base model, members, reference runs and replicates differ only in data,
start and length. The base model has a learning-rate schedule of its own.
"""

from jaxsim.train.running import NonFiniteError
from jaxsim.train.runs import Run, member_run, repeat_of, truth_run
from jaxsim.train.trainer import (
    Trained,
    Trainer,
    trainer_of_recipe,
    trainer_of_seed,
)

__all__ = [
    "NonFiniteError",
    "Run",
    "Trained",
    "Trainer",
    "member_run",
    "repeat_of",
    "trainer_of_recipe",
    "trainer_of_seed",
    "truth_run",
]
