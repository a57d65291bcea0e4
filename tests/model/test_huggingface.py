"""Checkpoints of Hugging Face, in and out, against transformers' own logits.

The folders in `families` and their logits are made by `benchmarks/parity.py`.
"""

import dataclasses
import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsim.config import ModelConfig, RopeConfig
from jaxsim.errors import DamagedError, UserError
from jaxsim.model import Execution, LanguageModel
from jaxsim.model import huggingface
from jaxsim.model.config_json import read_config
from jaxsim.model.families import FAMILIES
from jaxsim.model.huggingface import CONFIG, INDEX, WEIGHTS
from jaxsim.model.huggingface import open_checkpoint, save_checkpoint
from jaxsim.records import plain

from . import reference
from .folders import FAMILIES as COMMITTED
from .folders import EMBEDDING, FOLDERS, LENGTH, Folder, cast, changed, config

# Of the logits' standard deviation; tanh for erf in a GELU costs 1e-4.
TOLERANCE = 3e-5


def logits(params, model, tokens_BL):
    """The decoder's, not the reference's."""
    decoder = LanguageModel(model, model.vocab_rows)._decoder(Execution())
    x_BLD, head_VD = decoder.apply({"params": params}, jnp.asarray(tokens_BL))
    return np.float64(x_BLD) @ np.float64(head_VD).T


def off(found, wanted):
    return np.abs(found - wanted).max() / wanted.std()


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "olmo2"])
def test_logits_are_those_of_transformers(kind):
    checkpoint = open_checkpoint(COMMITTED / kind, LENGTH)
    expected = load_file(COMMITTED / kind / "expected.safetensors")
    found = logits(checkpoint.load(), checkpoint.model, expected["tokens"])
    assert off(found, expected["logits"]) < TOLERANCE


def same_as_before(folder):
    """Whether the folder is the small Llama, by the float64 reference."""
    checkpoint = open_checkpoint(folder, LENGTH)
    expected = load_file(COMMITTED / "llama" / "expected.safetensors")
    found = reference.logits(
        checkpoint.load(), expected["tokens"][0], checkpoint.model
    )
    return off(found, expected["logits"][0]) < TOLERANCE


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_the_same_model_or_refused_with_a_sentence(name, tmp_path):
    case: Folder = FOLDERS[name]
    folder = changed(case.change, tmp_path)
    if case.error is None:
        assert same_as_before(folder)
        return
    with pytest.raises(case.error) as raised:
        open_checkpoint(folder, LENGTH).load()
    message = str(raised.value)
    assert case.says in message
    assert str(folder) in message
