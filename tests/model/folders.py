"""Hostile and unusual folders, made of a good one: what jaxsim says of each."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

from jaxsim.errors import DamagedError, JaxsimError, UserError
from jaxsim.model.huggingface import CONFIG, INDEX, WEIGHTS

FAMILIES = Path(__file__).parent / "families"
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
LENGTH = 12


@dataclass(frozen=True)
class Folder:
    """A change of the folder of a small Llama.

    Attributes:
      change: of a copy of it.
      error: what opening or loading it raises; None if it has the same logits.
      says: a part of the message.
    """

    change: Callable[[Path], Any]
    error: type[JaxsimError] | None = None
    says: str = ""


def config(folder: Path, **changes: Any) -> None:
    """Sets fields of config.json; those that are `...` go."""
    path = folder / CONFIG
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))


def tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Changes the tensors of the one file."""
    found = load_file(folder / WEIGHTS)
    change(found)
    save_file(found, folder / WEIGHTS, {"format": "pt"})


def sharded(folder: Path) -> dict[str, str]:
    """Cuts the one file in two, with an index, which it returns."""
    found = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    files = {}
    for number in (1, 2):
        file = f"model-{number:05}-of-00002.safetensors"
        part = dict(list(found.items())[number - 1 :: 2])
        save_file(part, folder / file, {"format": "pt"})
        files |= dict.fromkeys(part, file)
    index(folder, files)
    return files


def index(folder: Path, files: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def linked(folder: Path) -> None:
    """Moves the files away and leaves links, as the hub's cache has them."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / f"{number}")
        path.symlink_to(Path("..") / "blobs" / f"{number}")


def only(name: str) -> Callable[[Path], None]:
    """A folder with this one file."""

    def change(folder: Path) -> None:
        shutil.rmtree(folder)
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()

    return change


def text(name: str, content: str | bytes) -> Callable[[Path], Any]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def fields(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: config(folder, **changes)


def values(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    return lambda folder: tensors(folder, change)


def renamed(change: Callable[[str], str]) -> Callable[[Path], None]:
    def names(found: dict[str, np.ndarray]) -> None:
        new = {change(name): value for name, value in found.items()}
        found.clear()
        found.update(new)

    return values(names)


def cast(dtype: Any, *names: str) -> Callable[[Path], None]:
    def change(found: dict[str, np.ndarray]) -> None:
        for name in names or tuple(found):
            found[name] = found[name].astype(dtype)

    return values(change)


def rope(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = json.loads((folder / CONFIG).read_text())["rope_parameters"] | changes
        found = {k: v for k, v in found.items() if v is not ...}
        config(folder, rope_parameters=found)

    return change


def version_4(folder: Path) -> None:
    found = json.loads((folder / CONFIG).read_text())["rope_parameters"]
    theta = found.pop("rope_theta")
    found["type"] = found["rope_type"]  # the older name, which some files have too
    config(
        folder,
        rope_parameters=...,
        dtype=...,
        torch_dtype="float32",
        rope_theta=theta,
        rope_scaling=found,
    )


def lost(folder: Path) -> None:
    (folder / sharded(folder)[NORM]).unlink()


def truncated(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate((folder / WEIGHTS).stat().st_size - 100)


def dangling(folder: Path) -> None:
    linked(folder)
    (folder / WEIGHTS).resolve().unlink()


def outside(folder: Path) -> None:
    files = sharded(folder)
    shutil.copy(folder / files[NORM], folder.parent / "other.safetensors")
    index(folder, files | {NORM: "../other.safetensors"})


def named(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index(folder, sharded(folder) | {NORM: f"{name}.safetensors"})

    return change


def pipe(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def pickles(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def wrong_index(folder: Path) -> None:
    files = sharded(folder)
    other = next(file for file in files.values() if file != files[NORM])
    index(folder, files | {NORM: other})


def without_model(name: str) -> str:
    return name.removeprefix("model.")


FOLDERS: Mapping[str, Folder] = {
    # Unusual, and the same model.
    "links of the hub's cache": Folder(linked),
    "two shards": Folder(sharded),
    "config.json of transformers 4": Folder(version_4),
    "tensors without prefix": Folder(renamed(without_model)),
    "a tied head that is in the file": Folder(
        values(lambda t: t.update({"lm_head.weight": t[EMBEDDING].copy()}))
    ),
    "buffers": Folder(
        values(
            lambda t: t.update(
                {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4)}
            )
        )
    ),
    "pickles beside safetensors": Folder(text("pytorch_model.bin", "no pickle")),
    "null for as many key heads as heads": Folder(
        fields(head_dim=None, attention_dropout=0.5, use_cache=None)
    ),
    # Something else than a checkpoint.
    "no folder": Folder(shutil.rmtree, UserError, "no such folder"),
    "a file": Folder(
        lambda f: (shutil.rmtree(f), f.touch()), UserError, "no such folder"
    ),
    "another folder": Folder(only("notes.txt"), UserError, "has no config.json"),
    "an adapter": Folder(only("adapter_config.json"), UserError, "merge_and_unload"),
    "GGUF": Folder(only("model-Q4_K_M.gguf"), UserError, "it is GGUF"),
    "pickles only": Folder(pickles, UserError, "pickles, which can run code"),
    "the hub's cache of a model": Folder(
        only("snapshots/0a1b2c/config.json"), UserError, "a folder in its snapshots"
    ),
    "weights under another name": Folder(
        lambda f: (f / WEIGHTS).rename(f / "consolidated.safetensors"),
        UserError,
        "has no model.safetensors and no",
    ),
    "no weights": Folder(
        lambda f: (f / WEIGHTS).unlink(), UserError, "a Hugging Face model has one"
    ),
    "a link that leads nowhere": Folder(
        lambda f: (f / "merges.txt").symlink_to(f / "gone"), DamagedError, "nowhere"
    ),
    # config.json
    "a web page": Folder(text(CONFIG, "<html>"), DamagedError, "unreadable"),
    "a list": Folder(text(CONFIG, "[1]"), DamagedError, "not a JSON object"),
    "brackets without end": Folder(
        text(CONFIG, "[" * 100_000), DamagedError, "unreadable"
    ),
    "no text": Folder(text(CONFIG, b"\xff\xfe\x00"), DamagedError, "unreadable"),
    "a pipe": Folder(pipe(CONFIG), UserError, "has no config.json"),
    "no family": Folder(fields(model_type=...), UserError, "model_type is None"),
    "a family in a list": Folder(
        fields(model_type=["llama"]), UserError, "model_type is"
    ),
    **{
        f"the family {name}": Folder(
            fields(model_type=name), UserError, f"model_type is '{name}'"
        )
        for name in ("gemma2", "phi", "mixtral", "olmo3")
    },
    "code of its own": Folder(
        fields(auto_map={"AutoModelForCausalLM": "modeling.Model"}),
        UserError,
        "auto_map: it needs Python code",
    ),
    "quantized": Folder(
        fields(quantization_config={"quant_method": "gptq"}), UserError, "is quantized"
    ),
    "an unknown field": Folder(
        fields(logits_scaling=8.0),
        UserError,
        "does not know the field 'logits_scaling'",
    ),
    "a number as text": Folder(
        fields(hidden_size="16"), UserError, "hidden_size: must be int"
    ),
    "a huge number": Folder(fields(vocab_size=10**30), UserError, "vocab_size"),
    "no heads": Folder(fields(head_dim=0), UserError, "head_dim: must be positive"),
    "half of the biases": Folder(
        fields(attention_bias=True), UserError, "attention_bias=True with mlp_bias=Fal"
    ),
    "an unknown activation": Folder(
        fields(hidden_act="relu2"), UserError, "no activation 'relu2'"
    ),
    "key heads that do not divide": Folder(
        fields(num_key_value_heads=3), UserError, "config.model.kv_heads"
    ),
    "dynamic RoPE": Folder(
        rope(rope_type="dynamic"), UserError, "rope_type: must be one of default, llam"
    ),
    "two bases": Folder(fields(rope_theta=1e6), UserError, "rope_theta: must be 500"),
    "RoPE without a factor": Folder(
        rope(low_freq_factor=...), UserError, "low_freq_factor: must be given"
    ),
    "RoPE with an unknown field": Folder(
        rope(beta=3.0), UserError, "beta: must be absent"
    ),
    "a part is rotated": Folder(
        fields(partial_rotary_factor=0.5), UserError, "1.0 in this family"
    ),
    # Weights
    "truncated": Folder(truncated, DamagedError, "no whole safetensors file"),
    "no header": Folder(
        text(WEIGHTS, b"\xff" * 64), DamagedError, "no whole safetensors file"
    ),
    "a pointer of Git LFS": Folder(
        text(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"),
        DamagedError,
        "git lfs pull",
    ),
    "a link to nothing": Folder(dangling, DamagedError, "leads to no file"),
    "weights are a pipe": Folder(pipe(WEIGHTS), DamagedError, "or no file"),
    "a shard is missing": Folder(lost, DamagedError, "is missing"),
    "an index that leads out": Folder(outside, UserError, "'../other.safetensors'"),
    "an index with a name too long": Folder(named("a" * 300), UserError, "no safetens"),
    "an index with a NUL": Folder(named("a\0"), UserError, "no safetensors file"),
    "an index of nothing": Folder(
        lambda f: (sharded(f), index(f, {})), DamagedError, "no weight_map"
    ),
    "an index of another file": Folder(
        lambda f: index(f, sharded(f) | {NORM: 3}), UserError, "names 3"
    ),
    "an index that is wrong": Folder(wrong_index, DamagedError, f"{NORM} is only"),
    "a tensor too many": Folder(
        values(lambda t: t.update({"score.weight": t[NORM].copy()})),
        UserError,
        "has a tensor score.weight, which jaxsim",
    ),
    "a tensor is missing": Folder(
        values(lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        DamagedError,
        "has no tensor model.layers.1.mlp.up_proj.weight",
    ),
    "a layer too many": Folder(
        fields(num_hidden_layers=1), UserError, "has a tensor model.layers.1"
    ),
    "other rows": Folder(
        fields(vocab_size=50), DamagedError, f"{EMBEDDING} is [48, 16], and by config"
    ),
    "no head": Folder(
        fields(tie_word_embeddings=False), DamagedError, "has no tensor lm_head.weight"
    ),
    "tied heads that disagree": Folder(
        values(lambda t: t.update({"lm_head.weight": t[EMBEDDING] + 1e-3})),
        UserError,
        "lm_head.weight and the embedding differ",
    ),
    "8-bit floats": Folder(
        cast(ml_dtypes.float8_e4m3fn, NORM), UserError, f"{NORM} is F8_E4M3"
    ),
    "integers": Folder(cast(np.int8, NORM), UserError, f"{NORM} is I8"),
    "64-bit floats": Folder(cast(np.float64, NORM), UserError, f"{NORM} is F64"),
    "NaN": Folder(
        values(lambda t: t[NORM].__setitem__(3, np.nan)), DamagedError, "has NaN"
    ),
}


def changed(change: Callable[[Path], Any], to: Path) -> Path:
    """A copy of the small Llama, changed."""
    folder = to / "model"
    shutil.copytree(FAMILIES / "llama", folder)
    change(folder)
    return folder
