"""Checkpoints of Hugging Face, in and out, against transformers' own logits.

The folders in `families` and their logits are made by `benchmarks/parity.py`.
"""

import dataclasses
import errno
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsim.config import ModelConfig, RopeConfig
from jaxsim.errors import UserError
from jaxsim.model import Execution, LanguageModel, huggingface
from jaxsim.model.config_json import read_config
from jaxsim.model.families import FAMILIES
from jaxsim.model.huggingface import (
    CONFIG,
    INDEX,
    WEIGHTS,
    open_checkpoint,
    save_checkpoint,
)

from . import reference
from .folders import FAMILIES as COMMITTED
from .folders import FOLDERS, LENGTH, Folder, cast, changed

# Of the logits' standard deviation; tanh for erf in a GELU costs 1e-4.
TOLERANCE = 3e-5


def logits(params, model, tokens_BL):
    """The decoder's, not the reference's."""
    decoder = LanguageModel(model, model.vocab_rows)._decoder(Execution())

    def apply(params, tokens_BL):
        x_BLD, head_VD = decoder.apply({"params": params}, tokens_BL)
        return jnp.einsum("BLD,VD->BLV", x_BLD, head_VD, precision="highest")

    return np.float64(jax.jit(apply)(params, tokens_BL))


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
    found = reference.logits(checkpoint.load(), expected["tokens"][0], checkpoint.model)
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


def test_16_bit_floats_become_the_same_numbers_in_float32(tmp_path):
    whole = open_checkpoint(COMMITTED / "llama", LENGTH).load()
    for dtype in (ml_dtypes.bfloat16, np.float16):
        to = tmp_path / np.dtype(dtype).name
        found = open_checkpoint(changed(cast(dtype), to), LENGTH).load()
        rounded = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), whole)  # noqa: B023
        assert jax.tree.all(jax.tree.map(np.array_equal, found, rounded))
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found))


def test_a_missing_field_has_the_default_of_its_family():
    defaults = json.loads((COMMITTED / "defaults.json").read_text())
    assert set(defaults) == set(FAMILIES) - {"hf_olmo"}  # transformers has not
    for kind, fields in defaults.items():
        whole, empty = (
            read_config(raw, LENGTH, "")[1] for raw in (fields, {"model_type": kind})
        )
        assert whole == empty, kind


def test_a_sliding_window_must_reach_over_the_length():
    mistral = {"model_type": "mistral", "sliding_window": 64}
    assert read_config(mistral, 64, "")[1].length == 64
    assert read_config(mistral | {"sliding_window": None}, 9999, "")
    qwen = {"model_type": "qwen3", "sliding_window": 64, "num_hidden_layers": 2}
    used = qwen | {"use_sliding_window": True}
    for raw, refused in (
        (mistral, True),
        ({"model_type": "mistral"}, False),  # 4,096 by default
        (qwen, False),
        (used, False),  # the layers from 28 on, by default
        (used | {"max_window_layers": 1}, True),
        (used | {"layer_types": ["full_attention"] * 2}, False),
        (used | {"layer_types": ["full_attention", "sliding_attention"]}, True),
        (qwen | {"layer_types": ["sliding_attention"] * 2}, True),
        (qwen | {"layer_types": ["full_attention"]}, True),
        (qwen | {"layer_types": ["chunked_attention"] * 2}, True),
    ):
        if refused:
            with pytest.raises(UserError, match=r"sliding_window|layer_types"):
                read_config(raw, 65, "")
        else:
            assert read_config(raw, 65, "")


def test_rope_is_the_same_in_both_forms():
    yarn = {"factor": 4.0, "original_max_position_embeddings": 64, "beta_slow": 2.0}
    llama3 = {
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    for kind, base, share, name, fields in (
        ("llama", "rope_theta", None, "llama3", llama3),
        ("llama", "rope_theta", None, "yarn", yarn),
        ("llama", "rope_theta", None, "default", {}),
        ("gpt_neox", "rotary_emb_base", "rotary_pct", "default", {}),
        ("gpt_neox", "rotary_emb_base", "rotary_pct", "yarn", yarn),
    ):
        form_5 = {"rope_type": name, "rope_theta": 5e5, **fields}
        form_4 = {base: 5e5, "rope_scaling": {"type": name, **fields}}
        if share:
            form_5["partial_rotary_factor"] = form_4[share] = 0.5
        models = [
            read_config({"model_type": kind, **form}, LENGTH, "")[1]
            for form in ({"rope_parameters": form_5}, form_4)
        ]
        assert models[0] == models[1]
        assert (models[0].rope.base, models[0].rope.kind) == (5e5, name)
        assert models[0].rope.share == (0.5 if share else 1)


def test_only_values_that_change_nothing_are_accepted():
    for kind, name, fine, wrong in (
        ("gpt2", "scale_attn_by_inverse_layer_idx", False, True),
        ("gpt2", "scale_attn_weights", True, False),
        ("gpt2", "add_cross_attention", False, True),
        ("gpt_neox", "attention_bias", True, False),
        ("qwen3", "attention_bias", False, True),
        ("olmo", "attention_bias", False, True),
        ("olmo", "clip_qkv", None, 0.0),
        ("olmo2", "rope_interleaved", False, True),
        ("llama", "partial_rotary_factor", 1.0, 0.5),
        ("llama", "num_key_value_heads", None, 0),
    ):
        assert read_config({"model_type": kind, name: fine}, LENGTH, "")
        with pytest.raises(UserError, match=name):
            read_config({"model_type": kind, name: wrong}, LENGTH, "")


SMALL = {
    "model_type": "olmo",
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 4,
    "mlp_ratio": 3,
    "vocab_size": 40,
    "embedding_size": 48,
    "rope": True,
    "layer_norm_type": "low_precision",
    "attention_layer_norm": True,
    "block_type": "sequential",
    "activation_type": "swiglu",
    "auto_map": {"AutoModelForCausalLM": "modeling_olmo.OLMoForCausalLM"},
}


def old_olmo(folder, output=None):
    """A random folder in OLMo's own layout; returns the parameters that it holds."""
    rng = np.random.default_rng(0)
    dim, layers, half = 16, 2, 24

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32) / 3

    def norm(*shape):
        return {"scale": 1 + draw(*shape), "bias": draw(*shape)}

    def linear(*shape):
        return {"kernel": draw(layers, *shape), "bias": draw(layers, *shape[1:])}

    params = {
        "embedding": draw(48, dim),
        "final_norm": norm(dim),
        "layers": {
            name: norm(layers, dim)
            for name in ("attention_norm", "mlp_norm", "query_norm", "key_norm")
        }
        | {name: linear(dim, dim) for name in ("query", "key", "value")}
        | {"mlp_in": linear(dim, 2, half), "mlp_out": linear(half, dim)},
    }
    identity = np.eye(dim, dtype=np.float32)
    if output is not None:
        params["layers"]["output"] = {
            "kernel": np.stack([output] * layers),
            "bias": np.zeros((layers, dim), np.float32),
        }
    prefix = "model.transformer."
    found = {f"{prefix}wte.weight": params["embedding"]}
    modules = {f"{prefix}ln_f": params["final_norm"]}
    for n in range(layers):
        layer = jax.tree.map(lambda leaf: leaf[n], params["layers"])  # noqa: B023
        block = f"{prefix}blocks.{n}."
        qkv = [layer[name] for name in ("query", "key", "value")]
        found[f"{block}att_proj.weight"] = np.concatenate([x["kernel"].T for x in qkv])
        found[f"{block}att_proj.bias"] = np.concatenate([x["bias"] for x in qkv])
        found[f"{block}attn_out.weight"] = identity if output is None else output.T
        found[f"{block}attn_out.bias"] = np.zeros(dim, np.float32)
        gate, value = layer["mlp_in"]["kernel"][:, 0], layer["mlp_in"]["kernel"][:, 1]
        found[f"{block}ff_proj.weight"] = np.concatenate([value.T, gate.T])
        found[f"{block}ff_proj.bias"] = layer["mlp_in"]["bias"][::-1].reshape(-1)
        found[f"{block}ff_out.weight"] = layer["mlp_out"]["kernel"].T
        found[f"{block}ff_out.bias"] = layer["mlp_out"]["bias"]
        modules |= {
            f"{block}attn_norm": layer["attention_norm"],
            f"{block}ff_norm": layer["mlp_norm"],
            f"{block}q_norm": layer["query_norm"],
            f"{block}k_norm": layer["key_norm"],
        }
    for name, module in modules.items():
        found |= {f"{name}.weight": module["scale"], f"{name}.bias": module["bias"]}
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(SMALL))
    found = {name: np.ascontiguousarray(value) for name, value in found.items()}
    save_file(found, folder / WEIGHTS, {"format": "pt"})
    return params


@pytest.mark.parametrize("output", [None, np.ones((16, 16), np.float32)])
def test_an_identity_after_attention_stays_one(output, tmp_path):
    """In Na et al.'s models it is no parameter: members would train it."""
    params = old_olmo(tmp_path / "source", output)
    checkpoint = open_checkpoint(tmp_path / "source", LENGTH)
    assert checkpoint.model.output_projection == (output is not None)
    assert jax.tree.all(jax.tree.map(np.array_equal, checkpoint.load(), params))
    save(tmp_path / "export", params, checkpoint, tmp_path / "source")
    before, after = (load_file(tmp_path / x / WEIGHTS) for x in ("source", "export"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_only_one_layer_with_an_identity_is_refused(tmp_path):
    old_olmo(folder := tmp_path / "source")
    found = load_file(folder / WEIGHTS)
    found["model.transformer.blocks.1.attn_out.weight"][0, 1] = 1e-3
    save_file(found, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=r"blocks\.1\.attn_out\.weight"):
        open_checkpoint(folder, LENGTH).load()


def save(to, params, checkpoint, source, dtype="float32"):
    save_checkpoint(to, params, checkpoint.model, 48, source, dtype)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "olmo2"])
def test_an_export_is_the_source_but_for_its_weights(kind, tmp_path, monkeypatch):
    source = COMMITTED / kind
    checkpoint = open_checkpoint(source, LENGTH)
    params = jax.tree.map(lambda leaf: leaf + np.float32(0.5), checkpoint.load())
    save(tmp_path / "one", params, checkpoint, source)
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 5000)
    save(tmp_path / "more", params, checkpoint, source)
    assert len(list((tmp_path / "more").glob("*.safetensors"))) > 3
    for folder in (tmp_path / "one", tmp_path / "more"):
        again = open_checkpoint(folder, LENGTH)
        assert again.model == checkpoint.model
        assert jax.tree.all(jax.tree.map(np.array_equal, again.load(), params))
        name = "generation_config.json"
        assert (folder / name).read_bytes() == (source / name).read_bytes()
        fields = json.loads((folder / CONFIG).read_text())
        assert fields["torch_dtype"] == "float32"
        assert not {"dtype", "rope_parameters"} & fields.keys()  # of transformers 5
    before, after = load_file(source / WEIGHTS), load_file(tmp_path / "one" / WEIGHTS)
    assert before.keys() == after.keys()
    assert {x.name for x in tmp_path.iterdir()} == {"one", "more"}


def test_what_is_kept_suffices_for_the_sources_names(tmp_path):
    """GPT-2's files have no prefix, and some tied models hold their head."""

    def change(folder):
        found = {
            name.removeprefix("model."): value
            for name, value in load_file(folder / WEIGHTS).items()
        }
        found["lm_head.weight"] = found["embed_tokens.weight"].copy()
        save_file(found, folder / WEIGHTS, {"format": "pt"})

    source = changed(change, tmp_path)
    checkpoint = open_checkpoint(source, LENGTH)
    checkpoint.keep(tmp_path / "kept")
    assert {path.name for path in checkpoint.kept} | {INDEX} == {
        path.name for path in (tmp_path / "kept").iterdir()
    }
    save(tmp_path / "export", checkpoint.load(), checkpoint, tmp_path / "kept")
    before, after = (load_file(x / WEIGHTS) for x in (source, tmp_path / "export"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_bfloat16_is_written_on_request(tmp_path):
    checkpoint = open_checkpoint(COMMITTED / "llama", LENGTH)
    params = checkpoint.load()
    save(tmp_path / "export", params, checkpoint, COMMITTED / "llama", "bfloat16")
    assert json.loads((tmp_path / "export" / CONFIG).read_text())["torch_dtype"] == (
        "bfloat16"
    )
    found = open_checkpoint(tmp_path / "export", LENGTH).load()
    rounded = jax.tree.map(lambda x: x.astype("bfloat16").astype("float32"), params)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, rounded))


def test_an_export_replaces_nothing_and_leaves_nothing_half_done(tmp_path, monkeypatch):
    checkpoint = open_checkpoint(COMMITTED / "llama", LENGTH)
    params = checkpoint.load()
    (to := tmp_path / "to").mkdir()
    (to / "mine").touch()
    with pytest.raises(UserError, match="exists"):
        save(to, params, checkpoint, COMMITTED / "llama")
    (to / "mine").unlink()
    with pytest.raises(UserError, match="not of the model"):
        save(to, params, checkpoint, COMMITTED / "olmo2")

    def full(*args):
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(huggingface.os, "fsync", full)
        save(to, params, checkpoint, COMMITTED / "llama")
    assert [x.name for x in tmp_path.iterdir()] == ["to"]
    assert not list(to.iterdir())
    source, model = COMMITTED / "llama", checkpoint.model
    with pytest.raises(UserError, match="choose a new folder"):  # another was faster
        save_checkpoint(
            to, params, model, 48, source, "float32", lambda _: (to / "mine").touch()
        )
    assert [x.name for x in to.iterdir()] == ["mine"]
    (to / "mine").unlink()
    save(to, params, checkpoint, COMMITTED / "llama")
    assert open_checkpoint(to, LENGTH).model == checkpoint.model


TRAINED = ModelConfig(length=16, layers=2, dim=16, heads=4, kv_heads=2, mlp_dim=24)


def test_a_base_trained_here_becomes_a_llama(tmp_path):
    rng = np.random.default_rng(0)
    rope = RopeConfig(kind="yarn", factor=4.0, original_length=64, base=500.0)
    for number, changes in enumerate(
        ({}, {"rope": rope, "bias": "all", "tied": False, "head_dim": 8})
    ):
        model = dataclasses.replace(TRAINED, **changes)
        shapes = LanguageModel(model, 40).shapes()
        params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype("f4"), shapes)
        save_checkpoint(
            to := tmp_path / str(number), params, model, 40, None, "float32"
        )
        again = open_checkpoint(to, 16)
        assert again.model == dataclasses.replace(model, vocab_rows=40)
        assert jax.tree.all(jax.tree.map(np.array_equal, again.load(), params))
    for key, value in (
        ("norm", "layer"),
        ("qk_norm", "width"),
        ("parallel", True),
        ("positions", 16),
        ("rope", RopeConfig(share=0.5)),
        ("bias", "qkv"),
    ):
        model = dataclasses.replace(TRAINED, **{key: value})
        with pytest.raises(UserError, match=key):
            save_checkpoint(tmp_path / "no", {}, model, 40, None, "float32")
