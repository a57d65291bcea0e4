"""Families of models on Hugging Face: what config.json and the tensors mean.

A family is a `model_type`. Its fields of config.json become a `ModelConfig`; a field
that jaxsim does not know is refused, because it might change numbers. Its tensors are
described once, so that import and export cannot disagree.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxsim.errors import UserError

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


_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def _known(ok: bool, what: str) -> None:
    if not ok:
        raise UserError(f"jaxsim's decoder has no {what}")


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _activation(name: str) -> str:
    _known(name in _ACTIVATIONS, f"activation {name!r}")
    return _ACTIVATIONS[name]


def _llama_like(f: Fields) -> Fields:
    heads, dim = f["num_attention_heads"], f["hidden_size"]
    head_dim = _or(f["head_dim"], 0)
    return {
        "layers": f["num_hidden_layers"],
        "dim": dim,
        "heads": heads,
        "kv_heads": _or(f["num_key_value_heads"], heads),
        "head_dim": 0 if head_dim * heads == dim else head_dim,
        "mlp_dim": f["intermediate_size"],
        "activation": _activation(f["hidden_act"]),
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
    clip = {"clip_qkv": _or(f["clip_qkv"], 0.0)}
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
        "activation": _activation(f["hidden_act"]),
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
        "mlp_dim": _or(f["n_inner"], 4 * f["n_embd"]),
        "activation": _activation(f["activation_function"]),
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
    width = _or(f["mlp_hidden_size"], f["mlp_ratio"] * dim)  # of both halves
    _known(width % 2 == 0, f"MLP of an odd width, {width}")
    groups = 1 if f["multi_query_attention"] else f["n_kv_heads"]
    return {
        "layers": f["n_layers"],
        "dim": dim,
        "heads": heads,
        "kv_heads": _or(groups, heads),
        "mlp_dim": width // 2,
        "norm": "layer" if affine else "plain",
        "norm_eps": f["layer_norm_eps"],
        "qk_norm": "width" if qk_norm else "none",
        "bias": "all" if bias else "none",
        "clip_qkv": _or(f["clip_qkv"], 0.0),
        "rope": {"base": f["rope_theta"]},
        "tied": f["weight_tying"],
        "vocab_rows": _or(f["embedding_size"], f["vocab_size"]),
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
            # transformers reads this layout with its own code, or AI2's package.
            "auto_map",
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
