"""Rows of tokens to parameters: one function trains every run.

Seed, members, truths and repeats differ only in data, start, length and, for
the seed, the learning-rate schedule.
"""

from jaxsim.train.of_config import trainer_of_recipe, trainer_of_seed
from jaxsim.train.runs import Run, member_run, repeat_of, truth_run
from jaxsim.train.trainer import Trainer

__all__ = [
    "Run",
    "Trainer",
    "member_run",
    "repeat_of",
    "trainer_of_recipe",
    "trainer_of_seed",
    "truth_run",
]
