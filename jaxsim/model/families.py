"""Families of models on Hugging Face: what config.json and the tensors mean.

A family is a `model_type`. Its fields of config.json become a `ModelConfig`; a field
that jaxsim does not know is refused, because it might change numbers. Its tensors are
described once, so that import and export cannot disagree.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxsim.config import ModelConfig, RopeConfig
from jaxsim.errors import UserError
from jaxsim.records import from_plain, need

Shapes = Mapping[str, tuple[int, ...]]  # of parameters, by 'layers/query/kernel'
Fields = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """A `model_type`, or one of its layouts.

    Attributes:
      fields: of config.json, those that change numbers: their type and default.
      model: the keys of `ModelConfig` that they mean; also checks what cannot be said.
      modules: of the file, and the parameters that each holds, side by side. A module
        has a weight and perhaps a bias. `{}` stands for the number of the layer, and
        `:1` for one of the two halves of the MLP's input.
      prefixes: that the modules may have; files that were saved without a head have
        the last one.
      head: the module of the head; `{}` stands for the prefix.
      rope: the fields with the base and the share that is rotated, and its default.
      neutral: fields that change no number, besides `NEUTRAL`.
      inert: fields of which one value is known, besides `INERT`.
      buffers: a pattern of tensors that hold no parameters.
      transposed: whether kernels are stored as [out, in].
      by_head: whether queries, keys and values lie side by side within each head.
      identity: whether output projections may be the identity, and are not trained.
    """

    fields: Mapping[str, tuple[Any, Any]]
    model: Callable[[Fields], Fields]
    modules: Mapping[str, str]
    prefixes: tuple[str, ...] = ("model.", "")
    head: str = "lm_head"
    rope: tuple[str, str, float] | None = ("rope_theta", "partial_rotary_factor", 1.0)
    neutral: tuple[str, ...] = ()
    inert: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    buffers: str = r".*\.rotary_emb\.inv_freq"
    transposed: bool = True
    by_head: bool = False
    identity: bool = False


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file, and the parameters that it holds.

    Attributes:
      name, shape: in the file.
      leaves: of each parameter the path, and the half of the MLP's input or None. A
        tensor without any is the identity, or a bias of zeros.
      layer: its number, or None.
      transposed: whether the file has its axes swapped.
      heads: how many heads lie one after the other, each with a part of every
        parameter; 0 if each parameter lies in one piece.
    """

    name: str
    shape: tuple[int, ...]
    leaves: tuple[tuple[str, int | None], ...]
    layer: int | None
    transposed: bool
    heads: int

    def pieces(
        self, stored: np.ndarray, params: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of views that hold the same numbers, of the tensor and of `params`.

        To import, copy the first of each pair to the second; to export, the other way.
        Both arrays must be contiguous; `params` are stacked, by path.
        """
        start = 0
        for index, (path, half) in enumerate(self.leaves):
            leaf = params[path] if self.layer is None else params[path][self.layer]
            leaf = leaf if half is None else leaf[..., half, :]
            if self.heads:
                by_head = leaf.reshape(*leaf.shape[:-1], self.heads, -1)
                parts = stored.reshape(
                    self.heads, len(self.leaves), -1, *stored.shape[1:]
                )
                yield parts[:, index], np.moveaxis(by_head, (-2, -1), (0, 1))
                continue
            view = stored.T if self.transposed else stored
            if len(self.leaves) > 1:
                view = view[..., start : (start := start + leaf.shape[-1])]
            yield view, leaf

    def fixed(self) -> np.ndarray:
        """The value of a tensor without parameters."""
        made = np.eye if len(self.shape) == 2 else np.zeros
        return made(self.shape[0], dtype=np.float32)


def tensors(
    family: Family, shapes: Shapes, model: ModelConfig, prefix: str
) -> list[Tensor]:
    """All tensors of a model whose parameters have these shapes, layer by layer."""
    modules = {prefix + module: ours for module, ours in family.modules.items()}
    modules[family.head.format(prefix)] = "head"
    found = []
    for layer in (None, *range(model.layers)):
        for module, ours in modules.items():
            if ("{}" in module) == (layer is None):
                continue
            for end, ends in (
                (".weight", ("/kernel", "/scale", "")),
                (".bias", ("/bias",)),
            ):
                leaves = [
                    (base + of_leaf, int(half) if half else None)
                    for base, _, half in (each.partition(":") for each in ours.split())
                    for of_leaf in ends
                    if base + of_leaf in shapes
                ]
                name, matrix = module.format(layer) + end, end == ".weight"
                if leaves:
                    found.append(_tensor(family, name, leaves, layer, shapes, model))
                elif (
                    ours == "layers/output"
                    and not model.output_projection
                    and (matrix or model.bias == "all")
                ):
                    shape = (model.dim, model.dim) if matrix else (model.dim,)
                    found.append(Tensor(name, shape, (), layer, False, 0))
    return found


def _tensor(
    family: Family,
    name: str,
    leaves: list[tuple[str, int | None]],
    layer: int | None,
    shapes: Shapes,
    model: ModelConfig,
) -> Tensor:
    """A tensor of at least one parameter."""
    parts = []
    for path, half in leaves:
        shape = shapes[path] if layer is None else shapes[path][1:]
        parts.append(shape if half is None else (*shape[:-2], shape[-1]))
    whole = (*parts[0][:-1], sum(shape[-1] for shape in parts))
    transposed = family.transposed and leaves[0][0].endswith("/kernel")
    heads = model.heads if family.by_head and len(leaves) > 1 else 0
    stored = whole[::-1] if transposed else whole
    return Tensor(name, stored, tuple(leaves), layer, transposed, heads)


# Fields that transformers itself ignores, or that change no logits.
NEUTRAL = (
    "_attn_implementation_autoset", "_name_or_path", "architectures",
    "attention_dropout", "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
    "classifier_dropout", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id",
    "forced_eos_token_id", "gradient_checkpointing", "id2label", "initializer_range",
    "is_decoder", "is_llama_config", "label2id", "length_penalty", "max_length",
    "max_position_embeddings", "min_length", "model_type", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_scores", "pad_token_id", "prefix",
    "pretraining_tp", "problem_type", "remove_invalid_values", "repetition_penalty",
    "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class",
    "top_k", "top_p", "torch_dtype", "torchscript", "transformers.js_config",
    "transformers_version", "typical_p", "unsloth_fixed", "unsloth_version",
    "use_cache",
)  # fmt: skip
# Fields of which jaxsim knows one value, the one that changes nothing.
INERT: Mapping[str, Any] = {
    "add_cross_attention": False,
    "auto_map": None,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "quantization_config": None,
    "rope_interleaved": False,
    "tie_encoder_decoder": False,
    "use_bfloat16": False,
    "use_mrope": False,
}
_WHY = {
    "auto_map": "it needs Python code from its folder, which jaxsim does not run",
    "quantization_config": "it is quantized; give the model in float32 or bfloat16",
}
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_ROPE: Mapping[str, Mapping[str, str]] = {  # `rope_scaling`, and `RopeConfig`
    "default": {},
    "llama3": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
    },
}
_OPTIONAL = ("beta_fast", "beta_slow", "attention_factor")  # null is as absent


def _known(ok: bool, what: str) -> None:
    if not ok:
        raise UserError(f"jaxsim's decoder has no {what}")


def _llama_like(f: Fields) -> Fields:
    heads, dim = f["num_attention_heads"], f["hidden_size"]
    head_dim = f["head_dim"] or 0
    return {
        "layers": f["num_hidden_layers"],
        "dim": dim,
        "heads": heads,
        "kv_heads": f["num_key_value_heads"] or heads,
        "head_dim": 0 if head_dim * heads == dim else head_dim,
        "mlp_dim": f["intermediate_size"],
        "activation": f["hidden_act"],
        "norm_eps": f.get("rms_norm_eps", 1e-5),
        "tied": f["tie_word_embeddings"],
        "vocab_rows": f["vocab_size"],
    }


def _llama(f: Fields) -> Fields:
    biases = f["attention_bias"], f["mlp_bias"]
    _known(
        biases[0] == biases[1], f"attention_bias={biases[0]} with mlp_bias={biases[1]}"
    )
    return _llama_like(f) | {"bias": "all" if biases[0] else "none"}


def _qwen2(f: Fields) -> Fields:
    return _llama_like(f) | {"bias": "qkv"}


def _qwen3(f: Fields) -> Fields:
    return _llama_like(f) | {"qk_norm": "head"}


def _olmo(f: Fields) -> Fields:
    clip = {"clip_qkv": f["clip_qkv"] or 0.0}
    return _llama_like(f) | {"norm": "plain", **clip}


def _olmo2(f: Fields) -> Fields:
    return _llama_like(f) | {"norm_place": "after", "qk_norm": "width"}


def _gpt_neox(f: Fields) -> Fields:
    return {
        "layers": f["num_hidden_layers"],
        "dim": f["hidden_size"],
        "heads": f["num_attention_heads"],
        "kv_heads": f["num_attention_heads"],
        "mlp_dim": f["intermediate_size"],
        "activation": f["hidden_act"],
        "gated": False,
        "norm": "layer",
        "norm_eps": f["layer_norm_eps"],
        "bias": "all",
        "parallel": f["use_parallel_residual"],
        "tied": f["tie_word_embeddings"],
        "vocab_rows": f["vocab_size"],
    }


def _gpt2(f: Fields) -> Fields:
    return {
        "layers": f["n_layer"],
        "dim": f["n_embd"],
        "heads": f["n_head"],
        "kv_heads": f["n_head"],
        "mlp_dim": f["n_inner"] or 4 * f["n_embd"],
        "activation": f["activation_function"],
        "gated": False,
        "norm": "layer",
        "norm_eps": f["layer_norm_epsilon"],
        "bias": "all",
        "positions": f["n_positions"],
        "tied": f["tie_word_embeddings"],
        "vocab_rows": f["vocab_size"],
    }


def _old_olmo(f: Fields) -> Fields:
    dim, heads, bias = f["d_model"], f["n_heads"], f["include_bias"]
    affine, qk_norm = f["layer_norm_with_affine"], f["attention_layer_norm"]
    of_norms = bias if f["bias_for_layer_norm"] is None else f["bias_for_layer_norm"]
    _known(f["rope"], "rope=false")
    norm = f["layer_norm_type"]
    _known(norm in ("default", "low_precision"), f"layer_norm_type={norm!r}")
    _known(of_norms or not affine, "LayerNorm with a scale and without a bias")
    _known(
        not qk_norm or affine == f["attention_layer_norm_with_affine"],
        "attention_layer_norm_with_affine other than layer_norm_with_affine",
    )
    _known(f["weight_tying"] or not bias, "bias of the head, as include_bias implies")
    width = f["mlp_hidden_size"] or f["mlp_ratio"] * dim  # of both halves
    _known(width % 2 == 0, f"MLP of an odd width, {width}")
    groups = 1 if f["multi_query_attention"] else f["n_kv_heads"]
    return {
        "layers": f["n_layers"],
        "dim": dim,
        "heads": heads,
        "kv_heads": groups or heads,
        "mlp_dim": width // 2,
        "norm": "layer" if affine else "plain",
        "norm_eps": f["layer_norm_eps"],
        "qk_norm": "width" if qk_norm else "none",
        "bias": "all" if bias else "none",
        "clip_qkv": f["clip_qkv"] or 0.0,
        "rope": {"base": f["rope_theta"]},
        "tied": f["weight_tying"],
        "vocab_rows": f["embedding_size"] or f["vocab_size"],
    }


_LLAMA_FIELDS: dict[str, tuple[Any, Any]] = {
    "vocab_size": (int, 32_000),
    "hidden_size": (int, 4096),
    "intermediate_size": (int, 11_008),
    "num_hidden_layers": (int, 32),
    "num_attention_heads": (int, 32),
    "num_key_value_heads": (int | None, None),
    "head_dim": (int | None, None),
    "hidden_act": (str, "silu"),
    "rms_norm_eps": (float, 1e-6),
    "tie_word_embeddings": (bool, False),
    "rope_theta": (float, 10_000.0),
}
_QWEN_FIELDS = _LLAMA_FIELDS | {
    "vocab_size": (int, 151_936),
    "intermediate_size": (int, 22_016),
    "num_key_value_heads": (int | None, 32),
    "use_sliding_window": (bool, False),
    "sliding_window": (int | None, 4096),
    "max_window_layers": (int, 28),
    "layer_types": (list[str] | None, None),
}
_OLMO_FIELDS = _LLAMA_FIELDS | {"vocab_size": (int, 50_304)}
_LLAMA_MODULES = {
    "embed_tokens": "embedding",
    "norm": "final_norm",
    "layers.{}.input_layernorm": "layers/attention_norm",
    "layers.{}.self_attn.q_proj": "layers/query",
    "layers.{}.self_attn.k_proj": "layers/key",
    "layers.{}.self_attn.v_proj": "layers/value",
    "layers.{}.self_attn.q_norm": "layers/query_norm",
    "layers.{}.self_attn.k_norm": "layers/key_norm",
    "layers.{}.self_attn.o_proj": "layers/output",
    "layers.{}.post_attention_layernorm": "layers/mlp_norm",
    "layers.{}.mlp.gate_proj": "layers/mlp_in:0",
    "layers.{}.mlp.up_proj": "layers/mlp_in:1",
    "layers.{}.mlp.down_proj": "layers/mlp_out",
}
FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        _LLAMA_FIELDS | {"attention_bias": (bool, False), "mlp_bias": (bool, False)},
        _llama,
        _LLAMA_MODULES,
    ),
    "mistral": Family(
        _LLAMA_FIELDS
        | {
            "intermediate_size": (int, 14_336),
            "num_key_value_heads": (int | None, 8),
            "sliding_window": (int | None, 4096),
        },
        _llama_like,
        _LLAMA_MODULES,
    ),
    "qwen2": Family(_QWEN_FIELDS, _qwen2, _LLAMA_MODULES),
    "qwen3": Family(
        _QWEN_FIELDS | {"head_dim": (int | None, 128)},
        _qwen3,
        _LLAMA_MODULES,
        inert={"attention_bias": False},
    ),
    "olmo": Family(
        {k: v for k, v in _OLMO_FIELDS.items() if k != "rms_norm_eps"}
        | {"clip_qkv": (float | None, None)},
        _olmo,
        _LLAMA_MODULES,
        neutral=("rms_norm_eps",),  # some files have it; the code has 1e-5
        inert={"attention_bias": False},
    ),
    "olmo2": Family(
        _OLMO_FIELDS | {"rms_norm_eps": (float, 1e-5)},
        _olmo2,
        # The same name means another norm: that of what attention adds.
        {
            name: ours
            for name, ours in _LLAMA_MODULES.items()
            if not name.endswith("layernorm")
        }
        | {
            "layers.{}.post_attention_layernorm": "layers/attention_norm",
            "layers.{}.post_feedforward_layernorm": "layers/mlp_norm",
        },
        inert={"attention_bias": False},
    ),
    "gpt_neox": Family(
        {
            "vocab_size": (int, 50_432),
            "hidden_size": (int, 6144),
            "num_hidden_layers": (int, 44),
            "num_attention_heads": (int, 64),
            "intermediate_size": (int, 24_576),
            "hidden_act": (str, "gelu"),
            "layer_norm_eps": (float, 1e-5),
            "use_parallel_residual": (bool, True),
            "tie_word_embeddings": (bool, False),
            "rotary_emb_base": (float, 10_000.0),
            "rotary_pct": (float, 0.25),
        },
        _gpt_neox,
        {
            "embed_in": "embedding",
            "final_layer_norm": "final_norm",
            "layers.{}.input_layernorm": "layers/attention_norm",
            "layers.{}.attention.query_key_value": (
                "layers/query layers/key layers/value"
            ),
            "layers.{}.attention.dense": "layers/output",
            "layers.{}.post_attention_layernorm": "layers/mlp_norm",
            "layers.{}.mlp.dense_h_to_4h": "layers/mlp_in:0",
            "layers.{}.mlp.dense_4h_to_h": "layers/mlp_out",
        },
        prefixes=("gpt_neox.", ""),
        head="embed_out",
        rope=("rotary_emb_base", "rotary_pct", 0.25),
        neutral=("hidden_dropout",),
        inert={"attention_bias": True},
        buffers=r".*\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
        by_head=True,
    ),
    "gpt2": Family(
        {
            "vocab_size": (int, 50_257),
            "n_positions": (int, 1024),
            "n_embd": (int, 768),
            "n_layer": (int, 12),
            "n_head": (int, 12),
            "n_inner": (int | None, None),
            "activation_function": (str, "gelu_new"),
            "layer_norm_epsilon": (float, 1e-5),
            "tie_word_embeddings": (bool, True),
        },
        _gpt2,
        {
            "wte": "embedding",
            "wpe": "positions",
            "ln_f": "final_norm",
            "h.{}.ln_1": "layers/attention_norm",
            "h.{}.attn.c_attn": "layers/query layers/key layers/value",
            "h.{}.attn.c_proj": "layers/output",
            "h.{}.ln_2": "layers/mlp_norm",
            "h.{}.mlp.c_fc": "layers/mlp_in:0",
            "h.{}.mlp.c_proj": "layers/mlp_out",
        },
        prefixes=("transformer.", ""),
        rope=None,
        neutral=(
            "attn_pdrop", "embd_pdrop", "n_ctx", "reorder_and_upcast_attn",
            "resid_pdrop", "summary_activation", "summary_first_dropout",
            "summary_proj_to_labels", "summary_type", "summary_use_proj",
        ),
        inert={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        buffers=r"(.*\.)?h\.\d+\.attn\.(bias|masked_bias)",
        transposed=False,
    ),
    # OLMo's own layout, from before transformers had the family; also in `hf_olmo`.
    "hf_olmo": Family(
        {
            "vocab_size": (int, 50_257),
            "embedding_size": (int | None, 50_304),
            "d_model": (int, 768),
            "n_layers": (int, 12),
            "n_heads": (int, 12),
            "n_kv_heads": (int | None, None),
            "multi_query_attention": (bool | None, None),
            "mlp_ratio": (int, 4),
            "mlp_hidden_size": (int | None, None),
            "rope": (bool, False),
            "rope_theta": (float, 10_000.0),
            "layer_norm_type": (str, "default"),
            "layer_norm_eps": (float, 1e-5),
            "layer_norm_with_affine": (bool, True),
            "attention_layer_norm": (bool, False),
            "attention_layer_norm_with_affine": (bool, True),
            "include_bias": (bool, True),
            "bias_for_layer_norm": (bool | None, None),
            "clip_qkv": (float | None, None),
            "weight_tying": (bool, True),
        },
        _old_olmo,
        {
            "wte": "embedding",
            "ln_f": "final_norm",
            "blocks.{}.attn_norm": "layers/attention_norm",
            "blocks.{}.att_proj": "layers/query layers/key layers/value",
            "blocks.{}.q_norm": "layers/query_norm",
            "blocks.{}.k_norm": "layers/key_norm",
            "blocks.{}.attn_out": "layers/output",
            "blocks.{}.ff_norm": "layers/mlp_norm",
            # The half that is not activated comes first.
            "blocks.{}.ff_proj": "layers/mlp_in:1 layers/mlp_in:0",
            "blocks.{}.ff_out": "layers/mlp_out",
        },
        prefixes=("model.transformer.", "transformer."),
        head="{}ff_out",
        rope=None,
        identity=True,
        neutral=(
            "alibi_bias_max", "block_group_size", "embedding_dropout",
            "emb_init_std", "flash_attention", "init_cutoff_factor", "init_device",
            "init_fn", "init_std", "max_sequence_length", "precision",
            "residual_dropout", "rope_full_precision", "scale_emb_init",
        ),
        inert={
            "activation_type": "swiglu",
            "alibi": False,
            "block_type": "sequential",
            "embedding_layer_norm": False,
            "norm_after": False,
            "scale_logits": False,
        },
    ),
}  # fmt: skip


def read_config(
    raw: Mapping[str, Any], length: int, where: str
) -> tuple[Family, ModelConfig]:
    """What a config.json says, for rows of `length` tokens.

    Both of its forms are read: that of transformers 4 and that of 5. A missing field
    has its family's default.

    Args:
      raw: the file's content.
      length: of the model that is made.
      where: the file, for messages.

    Raises:
      UserError: the decoder cannot compute this model, or a field is unknown.
    """
    kind = raw.get("model_type")
    if kind == "olmo" and "d_model" in raw:
        kind = "hf_olmo"
    for name, why in _WHY.items():
        if raw.get(name):
            raise UserError(f"{where}: {name}: {why}")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(
            f"{where}: model_type is {kind!r}; jaxsim knows {', '.join(FAMILIES)}"
        )
    family = FAMILIES[kind]
    fields = {
        name: from_plain(hint, raw.get(name, default), f"{where}: {name}")
        for name, (hint, default) in family.fields.items()
    }
    inert = {**INERT, **family.inert}
    rope = family.rope and {"rope_scaling", "rope_parameters", "rope_theta"} | {
        "partial_rotary_factor"
    }
    for name, value in raw.items():
        if name in {*family.fields, *NEUTRAL, *family.neutral, *(rope or ())}:
            continue
        if name not in inert:
            raise UserError(
                f"{where}: jaxsim does not know the field {name!r} of {kind}, which is "
                f"{value!r}; if it changes no number, delete it"
            )
        if value != inert[name]:
            raise UserError(
                f"{where}: {name} is {value!r}, and jaxsim's decoder only knows "
                f"{inert[name]!r}"
            )
    _check_window(fields, length, where)
    try:
        keys = family.model(fields) | {"length": length}
        if family.rope:
            keys["rope"] = _rope(raw, *family.rope)
        defaults = {
            each.name: getattr(ModelConfig(), each.name)
            for each in dataclasses.fields(ModelConfig)
        }
        if (activation := keys.get("activation", "silu")) not in _ACTIVATIONS:
            raise UserError(f"jaxsim's decoder has no activation {activation!r}")
        keys["activation"] = _ACTIVATIONS[activation]
        rope_keys = dataclasses.asdict(RopeConfig()) | keys.get("rope", {})
        whole = defaults | keys | {"rope": rope_keys}
        return family, from_plain(ModelConfig, whole, "config.model")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_window(f: Fields, length: int, where: str) -> None:
    """Refuses rows in which a sliding window would hide tokens."""
    window = f.get("sliding_window")
    if "use_sliding_window" in f:
        layers, types = f["num_hidden_layers"], f["layer_types"]
        window = window if f["use_sliding_window"] else None
        slides = window is not None and f["max_window_layers"] < layers
        if types is not None:
            known = {"full_attention", "sliding_attention"}
            need(
                len(types) == layers and known.issuperset(types),
                f"{layers} of full_attention and sliding_attention",
                types,
                f"{where}: layer_types",
            )
            slides = "sliding_attention" in types
            window = window or 0
        window = window if slides else None
    if window is not None and length > window:
        raise UserError(
            f"{where}: attention reaches back {window} tokens (sliding_window), and "
            f"jaxsim's reaches all: config.model.length must be at most {window}, is "
            f"{length}"
        )


def _rope(raw: Mapping[str, Any], base: str, share: str, usual_share: float) -> Fields:
    """The keys of `RopeConfig`, from either form of config.json."""
    forms = [raw[k] for k in ("rope_scaling", "rope_parameters") if raw.get(k)]
    for form in forms:
        need(isinstance(form, dict), "a group of fields", form, "rope_scaling")
        need(form == forms[0], f"{forms[0]}, as rope_scaling", form, "rope_parameters")
    inner = dict(forms[0]) if forms else {}
    found = {}
    for name, outer, usual in (
        ("rope_theta", base, 10_000.0),
        ("partial_rotary_factor", share, usual_share),
    ):
        value = inner.pop(name, raw.get(outer, usual))
        for said in (value, *(raw[k] for k in {name, outer} if k in raw)):
            need(from_plain(float, said, name) == value, f"{value}", said, name)
        found[name] = float(value)
    need(
        usual_share < 1 or found["partial_rotary_factor"] == 1,
        "1.0 in this family",
        found["partial_rotary_factor"],
        "partial_rotary_factor",
    )
    kinds = [inner.pop(k) for k in ("rope_type", "type") if k in inner] or ["default"]
    need(
        kinds[0] in _ROPE and kinds[-1] == kinds[0],
        f"one of {', '.join(_ROPE)}",
        kinds[0] if kinds[0] == kinds[-1] else kinds,
        "rope_type",
    )
    keys: Fields = {"kind": kinds[0]}
    inner = {k: v for k, v in inner.items() if v is not None}
    scales = inner.pop("mscale", 0), inner.pop("mscale_all_dim", 0)
    if keys["kind"] == "yarn":
        need(inner.pop("truncate", True) is True, "true", False, "truncate")
        if all(scales) and "attention_factor" not in inner:
            log = 0.1 * math.log(from_plain(float, inner.get("factor"), "factor"))
            first, second = (from_plain(float, x, "mscale") * log for x in scales)
            inner["attention_factor"] = (1 + first) / (1 + second)
        need(inner.get("attention_factor") != 0, "positive", 0, "attention_factor")
    else:
        need(not any(scales), "absent", scales, "mscale")
    known = _ROPE[keys["kind"]]
    for name in {**known, **inner}:
        need(name in known, "absent", inner.get(name), f"{kinds[0]} RoPE's {name}")
        if name in inner:
            keys[known[name]] = inner[name]
        else:
            need(name in _OPTIONAL, "given", None, f"{kinds[0]} RoPE's {name}")
    return keys | {"base": found["rope_theta"], "share": found["partial_rotary_factor"]}


def version_4(raw: Mapping[str, Any], dtype: str) -> Fields:
    """The config.json as transformers 4 and 5 read it, for weights of `dtype`.

    Version 4 would take its default for what version 5 keeps in `rope_parameters`.
    """
    out = {k: v for k, v in raw.items() if k not in ("dtype", "rope_parameters")}
    out["torch_dtype"] = dtype
    if inner := dict(raw.get("rope_parameters") or {}):
        base, share, _ = FAMILIES[raw["model_type"]].rope or ("", "", 0)
        for name, outer in (("rope_theta", base), ("partial_rotary_factor", share)):
            if name in inner:
                out[outer] = inner.pop(name)
        if set(inner.values()) - {"default"}:
            out["rope_scaling"] = inner
    return out


def llama_config(model: ModelConfig, vocab_size: int) -> Fields:
    """The config.json of a Llama with this shape.

    Raises:
      UserError: no Llama has it; names the first key.
    """
    model = dataclasses.replace(model, vocab_rows=model.vocab_rows or vocab_size)
    rope = model.rope
    found = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab_rows,
        "hidden_size": model.dim,
        "intermediate_size": model.mlp_dim,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_size,
        "hidden_act": {"gelu_tanh": "gelu_pytorch_tanh"}.get(
            model.activation, model.activation
        ),
        "max_position_embeddings": model.length,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": rope.base,
        "rope_scaling": {"rope_type": rope.kind}
        | {
            name: getattr(rope, key)
            for name, key in _ROPE[rope.kind].items()
            if getattr(rope, key)  # 0: attention_factor follows from factor
        }
        if rope.kind != "default"
        else None,
        "attention_bias": model.bias == "all",
        "mlp_bias": model.bias == "all",
        "tie_word_embeddings": model.tied,
        "initializer_range": model.init_std,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    _, said = read_config(found, model.length, "config.json of a Llama")
    for each in dataclasses.fields(ModelConfig):
        ours, theirs = getattr(model, each.name), getattr(said, each.name)
        if ours != theirs and each.name != "init_std":
            raise UserError(
                f"config.model.{each.name} is {ours!r}, and a Llama's is {theirs!r}: "
                "a base that is trained here is exported as a Llama"
            )
    return found
