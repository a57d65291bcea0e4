"""Parity with transformers: every family, into jaxsim and out of it.

    python benchmarks/parity.py

Needs torch, transformers and safetensors besides jaxsim. Models are small and random,
with scales moved off 1 and biases off 0, so that each part of each family counts.
Errors are in units of the logits' standard deviation. Those of float32 are about
1e-6; a right decoder is within 3e-5, or at most twice as far from float64 as
transformers is, and the mistakes of the second table are not.

`--fixtures` also writes what tests/model/test_huggingface.py reads: three small folders
with transformers' logits. `--large` also measures the import of a folder in the shape
of a model with a billion parameters.
"""

import contextlib
import copy
import dataclasses
import io
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.append(str(Path(__file__).parent.parent))

import jax.numpy as jnp
import machine
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tests.model import folders, reference

from jaxsim.config import ModelConfig
from jaxsim.errors import JaxsimError
from jaxsim.model import Execution, LanguageModel
from jaxsim.model.config_json import NEUTRAL
from jaxsim.model.families import FAMILIES
from jaxsim.model.huggingface import open_checkpoint, save_checkpoint

LENGTH, TOLERANCE = 96, 3e-5
FIXTURES = Path(__file__).parent.parent / "tests" / "model" / "families"
SMALL = {
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "rope_theta": 500.0,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500.0,
}
GPT2 = {
    "vocab_size": 101,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
}
# What is built, by name: the family and its fields. Where transformers has none for
# a field, it is the default.
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "Llama": ("llama", SMALL),
    "Llama, tied, GQA, base 1e5 (SmolLM2)": (
        "llama",
        SMALL
        | {"num_key_value_heads": 2, "tie_word_embeddings": True}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}},
    ),
    "Llama, biases, head_dim": (
        "llama",
        SMALL | {"attention_bias": True, "mlp_bias": True, "head_dim": 24},
    ),
    "Llama 3.1": (
        "llama",
        SMALL | {"num_key_value_heads": 2, "rope_parameters": LLAMA3},
    ),
    "Llama, YaRN": ("llama", SMALL | {"rope_parameters": YARN}),
    "Llama, YaRN with its fields": (
        "llama",
        SMALL
        | {
            "rope_parameters": YARN
            | {"beta_fast": 8.0, "beta_slow": 2.0, "mscale": 1.2}
            | {"mscale_all_dim": 0.7}
        },
    ),
    "Mistral, window of the length": (
        "mistral",
        SMALL | {"num_key_value_heads": 2, "sliding_window": LENGTH},
    ),
    "Mistral, no window, head_dim": (
        "mistral",
        SMALL | {"num_key_value_heads": 2, "sliding_window": None, "head_dim": 24},
    ),
    "Qwen2": (
        "qwen2",
        SMALL | {"num_key_value_heads": 2, "tie_word_embeddings": True},
    ),
    "Qwen2, windows of the length": (
        "qwen2",
        SMALL
        | {"num_key_value_heads": 2, "use_sliding_window": True}
        | {"sliding_window": LENGTH, "max_window_layers": 1},
    ),
    "Qwen3": ("qwen3", SMALL | {"num_key_value_heads": 2, "head_dim": 24}),
    "OLMo": ("olmo", SMALL | {"tie_word_embeddings": True}),
    "OLMo, clipped": ("olmo", SMALL | {"num_key_value_heads": 2, "clip_qkv": 0.6}),
    "OLMo 2": ("olmo2", SMALL | {"num_key_value_heads": 2}),
    "GPT-NeoX (Pythia)": ("gpt_neox", SMALL),
    "GPT-NeoX, in sequence, half rotated": (
        "gpt_neox",
        SMALL
        | {"use_parallel_residual": False, "hidden_act": "gelu_new"}
        | {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 1e3}},
    ),
    "GPT-2": ("gpt2", GPT2),
    "GPT-2, n_inner, untied": (
        "gpt2",
        GPT2 | {"n_inner": 80, "tie_word_embeddings": False},
    ),
}


def built(kind: str, fields: Mapping[str, Any], seed: int = 0) -> Any:
    """A random model of transformers, no parameter at a value that hides it."""
    config = transformers.AutoConfig.for_model(kind, **copy.deepcopy(dict(fields)))
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            noise = torch.randn(leaf.shape, generator=generator)
            if leaf.ndim == 2:
                embeds = any(x in name for x in ("embed", "wte", "wpe", "lm_head"))
                leaf.copy_(noise * (0.3 if embeds else leaf.shape[-1] ** -0.5))
            else:
                scale = name.endswith("weight")
                leaf.copy_(1 + 0.3 * noise if scale else 0.3 * noise)
    return model


def token_rows(vocabulary: int, length: int = LENGTH) -> np.ndarray:
    """[2, L] random token ids."""
    return np.random.default_rng(0).integers(0, vocabulary, (2, length))


def loaded(folder: Path) -> Any:
    """The folder, as transformers loads it: all tensors used, none made up."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        attn_implementation="eager",
        dtype=torch.float32,
        output_loading_info=True,
    )
    if any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise ValueError(f"transformers: {info}")
    return model.eval()


def logits_torch(model: Any, tokens_BL: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(tokens_BL)).logits.double().numpy()


def logits_jaxsim(params: Any, model: ModelConfig, tokens_BL: np.ndarray) -> np.ndarray:
    language = LanguageModel(model, model.vocab_rows)
    decoder = language._decoder(Execution())
    x_BLD, head_VD = decoder.apply({"params": params}, jnp.asarray(tokens_BL))
    return np.float64(x_BLD) @ np.float64(head_VD).T


def off(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, in standard deviations of what is wanted."""
    return float(np.abs(found - wanted).max() / wanted.std())


@dataclasses.dataclass(frozen=True)
class Row:
    """How far apart the logits of one variant are."""

    jaxsim: float  # from transformers
    jaxsim_float64: float  # jaxsim's from the reference in float64
    transformers_float64: float
    exported: float  # transformers' of the export, from those of the source
    export_equal: bool  # whether names and values of tensors are the source's

    @property
    def ok(self) -> bool:
        near = self.jaxsim <= TOLERANCE
        near = near or self.jaxsim_float64 <= 2 * self.transformers_float64
        return near and self.exported <= TOLERANCE and self.export_equal


def weights(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def compare(kind: str, fields: Mapping[str, Any], where: Path) -> Row:
    source, exported = where / "source", where / "export"
    model = built(kind, fields)
    model.save_pretrained(source)
    tokens_BL = token_rows(fields["vocab_size"])
    theirs = logits_torch(model, tokens_BL)
    checkpoint = open_checkpoint(source, LENGTH)
    params = checkpoint.load()
    ours = logits_jaxsim(params, checkpoint.model, tokens_BL)
    exact = np.stack(
        [reference.logits(params, tokens_L, checkpoint.model) for tokens_L in tokens_BL]
    )
    save_checkpoint(exported, params, checkpoint.model, 101, source, "float32")
    before, after = weights(source), weights(exported)
    equal = before.keys() == after.keys() and all(
        np.array_equal(before[name], after[name]) for name in before
    )
    return Row(
        off(ours, theirs),
        off(ours, exact),
        off(theirs, exact),
        off(logits_torch(loaded(exported), tokens_BL), theirs),
        equal,
    )


# Small enough to be committed.
TINY = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
COMMITTED: Mapping[str, Mapping[str, Any]] = {
    "llama": TINY
    | {"num_key_value_heads": 2, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}
    | {
        "rope_parameters": LLAMA3
        | {"original_max_position_embeddings": 16, "rope_theta": 500.0}
    },
    "gpt_neox": TINY | {"rope_parameters": {"partial_rotary_factor": 0.5}},
    "olmo2": TINY | {"num_key_value_heads": 2},
}


def fixtures() -> None:
    """Writes the folders of tests/model, with logits."""
    for kind, fields in COMMITTED.items():
        folder = FIXTURES / kind
        shutil.rmtree(folder, ignore_errors=True)
        model = built(kind, fields)
        model.save_pretrained(folder)
        tokens_BL = token_rows(fields["vocab_size"], folders.LENGTH)
        expected = {"tokens": tokens_BL, "logits": logits_torch(model, tokens_BL)}
        save_file(expected, folder / "expected.safetensors")
