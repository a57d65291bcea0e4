"""A config.json of Hugging Face: what it says of a model, and how it is written.

It has two forms, that of transformers 4 and that of 5. A missing field has its family's
default, and one that jaxsim does not know is refused: it might change numbers.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jaxsim.config import ModelConfig, RopeConfig
from jaxsim.errors import UserError
from jaxsim.model.families import FAMILIES, Family, Fields
from jaxsim.records import from_plain, need, plain

# Fields that transformers itself ignores, or that change no logits.
NEUTRAL = (
    "architectures", "attention_dropout", "bad_words_ids", "begin_suppress_tokens",
    "bos_token_id",
    "classifier_dropout", "decoder_start_token_id", "diversity_penalty", "do_sample",
    "dtype", "early_stopping", "encoder_no_repeat_ngram_size", "eos_token_id",
    "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id",
    "forced_eos_token_id", "gradient_checkpointing", "id2label", "initializer_range",
    "is_decoder", "is_llama_config", "label2id", "length_penalty", "max_length",
    "min_length", "model_type", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_labels", "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_scores", "pad_token_id", "prefix", "pretraining_tp", "problem_type",
    "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "sep_token_id", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "tokenizer_class", "top_k",
    "top_p", "torch_dtype", "torchscript", "transformers.js_config",
    "transformers_version", "typical_p", "unk_token_id", "unsloth_fixed",
    "unsloth_version", "use_cache",
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
# Known where a family has RoPE; the last one is neutral.
_ROPE_FIELDS = (
    "rope_scaling", "rope_parameters", "rope_theta", "partial_rotary_factor",
    "max_position_embeddings",
)  # fmt: skip
_OPTIONAL = ("beta_fast", "beta_slow", "attention_factor")  # null is as absent


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
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    for name, why in _WHY.items():
        if raw.get(name) and not (family and name in family.neutral):
            raise UserError(f"{where}: {name}: {why}")
    if family is None:
        raise UserError(
            f"{where}: model_type is {kind!r}; jaxsim knows {', '.join(FAMILIES)}"
        )
    _check_fields(family, raw, where)
    fields = {
        name: from_plain(hint, raw.get(name, default), f"{where}: {name}")
        for name, (hint, default) in family.fields.items()
    }
    for name, value in fields.items():
        # In a ModelConfig, 0 often stands for the default.
        fine = value != 0 or isinstance(value, bool) or "window" in name
        need(fine, "positive", value, f"{where}: {name}")
    _check_window(fields, length, where)
    try:
        keys = family.model(fields) | {"length": length}
        if family.rope:
            keys["rope"] = _rope(raw, *family.rope)
        keys["rope"] = RopeConfig(**keys.get("rope", {}))
        model = dataclasses.replace(ModelConfig(), **keys)
        return family, from_plain(ModelConfig, plain(model), "config.model")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_fields(family: Family, raw: Mapping[str, Any], where: str) -> None:
    """Refuses fields that are unknown, and values that are."""
    known = {
        *family.fields,
        *NEUTRAL,
        *family.neutral,
        *(_ROPE_FIELDS if family.rope else ()),
    }
    inert = {**INERT, **family.inert}
    # Names with an underscore are notes of transformers and its users.
    for name in sorted(n for n in raw.keys() - known if not n.startswith("_")):
        if name not in inert:
            raise UserError(
                f"{where}: jaxsim does not know the field {name!r}, which is "
                f"{raw[name]!r}; delete it if it changes no number"
            )
        if raw[name] != inert[name]:
            raise UserError(
                f"{where}: {name} is {raw[name]!r}, and jaxsim's decoder only knows "
                f"{inert[name]!r}"
            )


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
            ok = from_plain(float, said, name) == value
            need(ok, f"{value}, as by the rest of the file", said, name)
        found[name] = float(value)
    need(
        usual_share < 1 or found["partial_rotary_factor"] == 1,
        "1.0 in this family",
        found["partial_rotary_factor"],
        "partial_rotary_factor",
    )
    kinds = [inner.pop(k) for k in ("rope_type", "type") if k in inner] or ["default"]
    need(
        kinds[0] in list(_ROPE) and kinds[-1] == kinds[0],
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
            log = math.log(max(from_plain(float, inner.get("factor"), "factor"), 1))
            for each in scales:
                need(from_plain(float, each, "mscale") > 0, "positive", each, "mscale")
            first, second = (1 + 0.1 * scale * log for scale in scales)
            inner["attention_factor"] = first / second
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
