"""Rows of tokens -> parameters: one loop trains every run.

The base model, members, reference runs and replicates differ in data, start, length
and learning-rate schedule. `step.py` is the train step, `trainer.py` the loop.
"""

from jaxsim.train.running import NonFiniteError
from jaxsim.train.runs import Run, member_run, reference_run, replicate_of
from jaxsim.train.trainer import Trained, Trainer, base_trainer, recipe_trainer

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
