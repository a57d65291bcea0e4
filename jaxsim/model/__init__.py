"""Tokens to log-likelihoods: the only package that knows Flax."""

from jaxsim.model.language_model import Execution, LanguageModel, Params
from jaxsim.model.presets import preset

__all__ = ["Execution", "LanguageModel", "Params", "preset"]
