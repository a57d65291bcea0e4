"""Members to scores: tables of mixtures, merging, the one evaluator, search."""

from jaxsim.mixture.evaluation import EvaluationSet, gather
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.scores import Scores, load_scores
from jaxsim.mixture.stack import Stack, load_stack
from jaxsim.mixture.table import Mixtures

__all__ = [
    "EvaluationSet",
    "Mixtures",
    "Scorer",
    "Scores",
    "Stack",
    "gather",
    "load_scores",
    "load_stack",
]
