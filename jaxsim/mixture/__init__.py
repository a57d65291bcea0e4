"""Members -> scores: tables of mixtures, merging, the one evaluator."""

from jaxsim.mixture.evaluation import EvaluationSet, gather
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.scores import Scores
from jaxsim.mixture.stack import Stack, load_stack
from jaxsim.mixture.table import Mixtures

__all__ = [
    "EvaluationSet",
    "Mixtures",
    "Scorer",
    "Scores",
    "Stack",
    "gather",
    "load_stack",
]
