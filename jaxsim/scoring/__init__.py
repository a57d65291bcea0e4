"""Members -> scores: tables of mixtures, merging, the one evaluator."""

from jaxsim.scoring.evaluation import EvaluationSet, gather
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import Scores
from jaxsim.scoring.stack import StackedPool
from jaxsim.scoring.table import Mixtures

__all__ = ["EvaluationSet", "Mixtures", "Scorer", "Scores", "StackedPool", "gather"]
