"""What the sides of `scoring.py` are given: model, pool, mixtures, windows.

Imports neither JAX nor PyTorch, which would start their thread pools.
"""

import dataclasses
from typing import Any

import numpy as np
from workload import Arrays, flatten

from jaxsim.config import ModelConfig
from jaxsim.model import LanguageModel
from jaxsim.model.presets import preset
from jaxsim.scoring.evaluation import EvaluationSet

PARTS = 3  # members of a mixture, as of most rows of the quickstart's table


@dataclasses.dataclass(frozen=True)
class ScoringWork:
    preset: str
    vocab: int
    members: int
    evaluation: EvaluationSet
    score: dict[str, Any]  # fields of ScoreConfig that are not the default

    @property
    def model(self) -> ModelConfig:
        return preset(self.preset)

    @property
    def language_model(self) -> LanguageModel:
        return LanguageModel(self.model, self.vocab)

    def parameters(self) -> tuple[Arrays, Arrays]:
        """The base model by path, and [C, ...] differences: random, not small.

        Trained ones would take as long to score.
        """
        rng = np.random.default_rng(0)
        base, delta_C = {}, {}
        for path, shape in flatten(self.language_model.shapes()).items():
            size = shape.item().shape
            one = 1.0 if path.endswith("scale") else 0.0
            base[path] = one + 0.04 * rng.standard_normal(size, np.float32)
            delta_C[path] = 0.01 * rng.standard_normal(
                (self.members, *size), np.float32
            )
        return base, delta_C

    def mixtures(self, count: int) -> np.ndarray:
        """[M, C] float64: equal weights of `PARTS` members each."""
        rng = np.random.default_rng(1)
        w_MC = np.zeros((count, self.members))
        for w_C in w_MC:
            w_C[rng.choice(self.members, PARTS, replace=False)] = 1 / PARTS
        return w_MC
