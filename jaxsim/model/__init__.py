"""Tokens -> log-likelihoods: the only folder that uses Flax."""

from jaxsim.model.language_model import Execution, LanguageModel, Params
from jaxsim.model.presets import preset
from jaxsim.model.transformer import LAYERS, MATRICES

__all__ = ["LAYERS", "MATRICES", "Execution", "LanguageModel", "Params", "preset"]
