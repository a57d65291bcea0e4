"""Checkpoints of Hugging Face: a folder with config.json and safetensors, in and out.

No network, no code from the folder, no pickles: a folder is data. It may be a snapshot
in the hub's cache, whose files are links. The files that an index names must be in it.
"""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import ml_dtypes  # noqa: F401 - lets NumPy know bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxsim.config import ModelConfig
from jaxsim.errors import DamagedError, UserError
from jaxsim.log import progress
from jaxsim.model.config_json import llama_config, read_config, version_4
from jaxsim.model.families import Family
from jaxsim.model.language_model import LanguageModel, Params
from jaxsim.model.tensors import Shapes, Tensor, tensors
from jaxsim.records import naming

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
# Files of a folder that an export has, too, byte for byte but for config.json.
KEPT = (
    CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "vocab.json",
    "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
SHARD_BYTES = 5_000_000_000  # of a file; what is larger is cut
_MOST_BYTES = 100_000_000  # of a JSON file; an index of 1,000 layers has 2 MB
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_INSTEAD = {  # what is there where a checkpoint should be
    "adapter_config.json": "it is an adapter (PEFT); merge it into its model first "
    "(`merge_and_unload`, then `save_pretrained`)",
    "*.gguf": "it is GGUF, which is quantized for inference; take the original model, "
    "or write it with transformers (`from_pretrained(..., gguf_file=...)`, then "
    "`save_pretrained`)",
    "pytorch_model*.bin": "it has pickles, which can run code; where you trust them, "
    "write safetensors with transformers (`from_pretrained`, then `save_pretrained`) "
    "or with torch (`torch.load(..., weights_only=True)`)",
    "snapshots/*": "it is the hub's cache of a model; give a folder in its snapshots",
}


@dataclass(frozen=True)
class Checkpoint:
    """A folder that can be imported. Its weights are not read yet.

    Attributes:
      folder: where it lies.
      model: what its config.json says, with the length that was asked for.
      kept: its files that an export has, too; see `keep`.
      family: the `model_type` of its config.json.
      dtypes: of its weights, as in 'F32' or 'BF16'.
    """

    folder: Path
    model: ModelConfig
    kept: tuple[Path, ...]
    family: str
    dtypes: tuple[str, ...]
    _files: Mapping[str, str]  # the file of every tensor
    _tensors: tuple[Tensor, ...]
    _head: str  # a tensor that must equal the embedding, or ''

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files of its weights."""
        return tuple(self.folder / name for name in sorted({*self._files.values()}))

    def load(self) -> Params:
        """The parameters, float32 on the host; peak memory is little more.

        Raises:
          DamagedError: a tensor holds NaN or an infinity, or cannot be read.
          UserError: tied heads disagree, or an attention output is no identity.
        """
        params = {
            path: np.empty(shape, np.float32)
            for path, shape in _shapes(self.model).items()
        }
        for name, stored, tensor in self._stored():
            if tensor is None:
                embedding = params["embedding"]
                if not np.array_equal(stored.astype(np.float32), embedding):
                    raise UserError(
                        f"{self.folder}: {name} and the embedding differ, but "
                        f"{CONFIG} says that they are tied; say "
                        '"tie_word_embeddings": false if the model has a head'
                    )
                continue
            if not tensor.leaves and not np.array_equal(stored, tensor.fixed()):
                raise UserError(
                    f"{self.folder}: {name} is not the identity, but that of the "
                    "first layer is"
                )
            for there, here in tensor.pieces(stored, params):
                np.copyto(here, there, casting="unsafe")
                if not np.isfinite(here).all():
                    raise DamagedError(f"{self.folder}: {name} has NaN or infinity")
        return _nested(params)

    def _stored(self) -> Iterator[tuple[str, np.ndarray, Tensor | None]]:
        """Every tensor as it is stored; the largest ones come first."""
        wanted: list[tuple[str, Tensor | None]] = [(t.name, t) for t in self._tensors]
        if self._head:
            at = next(i for i, t in enumerate(self._tensors) if t.layer is not None)
            wanted.insert(at, (self._head, None))
        with contextlib.ExitStack() as stack:
            opened: dict[str, Any] = {}
            tick = stack.enter_context(progress(len(wanted), "importing", "tensors"))
            for name, tensor in wanted:
                file = self._files[name]
                if file not in opened:
                    opened[file] = stack.enter_context(_opened(self.folder / file))
                try:
                    yield name, opened[file].get_tensor(name), tensor
                except (SafetensorError, OSError) as error:
                    raise DamagedError(f"{self.folder / file}: {error}") from error
                tick(1)

    def keep(self, to: Path) -> None:
        """Copies what `save_checkpoint` needs to write a folder like this one.

        The index names the tensors of this folder, whether it has one or not.
        """
        to.mkdir(parents=True, exist_ok=True)
        for path in self.kept:
            _copy(path, to)
        with naming(to / INDEX):
            text = json.dumps({"weight_map": dict(self._files)}, indent=1)
            (to / INDEX).write_text(text)


def open_checkpoint(folder: Path, length: int) -> Checkpoint:
    """Reads what a folder says of its model: config.json, and names and shapes.

    Args:
      folder: with config.json and one or more safetensors files.
      length: of the rows that the model will read.

    Raises:
      UserError: jaxsim cannot compute this model, or the folder holds something else.
      DamagedError: files are missing, truncated, or contradict each other.
    """
    raw = _json(folder / CONFIG, _instead(folder, CONFIG))
    files = _files(folder)
    family, model = read_config(raw, length, str(folder / CONFIG))
    found = {
        name: header
        for name, header in _headers(folder, files).items()
        if not re.fullmatch(family.buffers, name)
    }
    for name, (_, dtype) in found.items():
        if dtype not in _DTYPES:
            raise UserError(
                f"{folder}: {name} is {dtype}; jaxsim reads {', '.join(_DTYPES)}, no "
                "quantized models"
            )
    prefix = _prefix(family, files)
    if family.identity:
        model = _without_identity(folder, files, family, model, prefix)
    listed = tensors(family, _shapes(model), model, prefix)
    for tensor in listed:
        if tensor.name not in found:
            raise DamagedError(
                f"{folder}: has no tensor {tensor.name}; by {CONFIG} the model has one"
            )
        if (shape := found[tensor.name][0]) != tensor.shape:
            raise DamagedError(
                f"{folder}: {tensor.name} is {list(shape)}, and by {CONFIG} it is "
                f"{list(tensor.shape)}"
            )
    head = family.head.format(prefix) + ".weight"
    head = head if model.tied and head in found else ""
    for name in sorted(found.keys() - {each.name for each in listed} - {head}):
        raise UserError(
            f"{folder}: has a tensor {name}, which jaxsim does not know; by {CONFIG} "
            "the model has none"
        )
    kept = tuple(folder / name for name in KEPT if os.path.lexists(folder / name))
    for path in kept:
        if not path.is_file():
            raise DamagedError(
                f"{path}: is a link that leads nowhere, or no file; copy or download "
                "the model again"
            )
    return Checkpoint(
        folder=folder,
        model=model,
        kept=kept,
        family=str(raw["model_type"]),
        dtypes=tuple(sorted({found[each.name][1] for each in listed})),
        _files=files,
        _tensors=tuple(listed),
        _head=head,
    )


def _without_identity(
    folder: Path,
    files: Mapping[str, str],
    family: Family,
    model: ModelConfig,
    prefix: str,
) -> ModelConfig:
    """The model without output projections, if the first one is the identity.

    Training must not change them: members would no longer be models of this kind.
    """
    without = dataclasses.replace(model, output_projection=False)
    if model.heads * model.head_size != model.dim:
        return model
    for tensor in tensors(family, {}, without, prefix):
        if tensor.layer != 0 or tensor.name not in files:
            continue
        with _opened(folder / files[tensor.name]) as file:
            if file.get_slice(tensor.name).get_shape() != list(tensor.shape):
                return model
            if not np.array_equal(file.get_tensor(tensor.name), tensor.fixed()):
                return model
    return without


def _prefix(family: Family, names: Mapping[str, str]) -> str:
    """What the names of modules begin with in these files."""
    first = next(iter(family.modules))
    usual, *others = family.prefixes
    return next((p for p in others if f"{p}{first}.weight" in names), usual)


def _shapes(model: ModelConfig) -> Shapes:
    tree = LanguageModel(model, model.vocab_rows).shapes()
    return {path: leaf.shape for path, leaf in _by_path(tree).items()}


def _by_path(params: Any) -> dict[str, Any]:
    """The leaves of a nested dict, by 'a/b/c'."""
    pairs = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(str(k.key) for k in path): leaf for path, leaf in pairs}


def _nested(leaves: Mapping[str, np.ndarray]) -> Params:
    params: Params = {}
    for path, leaf in leaves.items():
        *groups, name = path.split("/")
        inner = params
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[name] = leaf
    return params


def _json(path: Path, missing: str) -> dict[str, Any]:
    """A JSON object in a file; `missing` is the message if there is none."""
    if not path.is_file():
        raise UserError(missing)
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ValueError(f"{size:,} bytes are too many")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: unreadable ({error})") from error
    return found


def _instead(folder: Path, missing: str) -> str:
    """What a folder is that lacks a file."""
    if not folder.is_dir():
        return (
            f"{folder}: no such folder; give that of a Hugging Face model (nothing is "
            "downloaded; docs/models.md says how to)"
        )
    found = (why for glob, why in _INSTEAD.items() if next(folder.glob(glob), None))
    return f"{folder}: has no {missing}; {next(found, 'a Hugging Face model has one')}"


def _files(folder: Path) -> dict[str, str]:
    """The file of every tensor, as the index says, if there is not one file."""
    if os.path.lexists(folder / WEIGHTS):
        with _opened(folder / WEIGHTS) as file:
            return dict.fromkeys(file.keys(), WEIGHTS)
    path = folder / INDEX
    files = _json(path, _instead(folder, f"{WEIGHTS} and no {INDEX}")).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise DamagedError(f"{path}: has no weight_map")
    for name in files.values():
        plain = isinstance(name, str) and Path(name).name == name and "\0" not in name
        if not plain or not name.endswith(".safetensors") or len(name.encode()) > 255:
            raise UserError(
                f"{path}: names {name!r}, which is no safetensors file in this folder"
            )
    return files


def _headers(
    folder: Path, files: Mapping[str, str]
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every tensor."""
    found = {}
    for name in sorted(set(files.values())):
        with _opened(folder / name) as file:
            there, listed = set(file.keys()), {k for k, v in files.items() if v == name}
            if there != listed:
                raise DamagedError(
                    f"{folder / name}: {min(there ^ listed)} is only "
                    f"{'here' if there - listed else f'in {INDEX}'}; download the "
                    "folder again"
                )
            for key in there:
                part = file.get_slice(key)
                found[key] = tuple(part.get_shape()), part.get_dtype()
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open safetensors file, whose header has been checked."""
    if not path.is_file():
        what = "leads to no file" if path.is_symlink() else "is missing or no file"
        raise DamagedError(f"{path}: {what}; download the folder again")
    try:
        # Without a memory map, whose pages would count as this process's memory.
        opened = safe_open(path, framework="numpy", backend="pread")
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            pointer = file.read(20).startswith(b"version https://git")
        why = "a pointer of Git LFS, run `git lfs pull`" if pointer else error
        raise DamagedError(f"{path}: is no whole safetensors file ({why})") from error
    with opened as file:
        yield file


def save_checkpoint(
    to: Path,
    params: Params,
    model: ModelConfig,
    vocab_size: int,
    source: Path | None,
    dtype: Literal["float32", "bfloat16"],
    add: Callable[[Path], None] = lambda _: None,
) -> None:
    """Writes parameters as a folder that transformers loads; in one step.

    The names of tensors are those of the source; its buffers are left out.

    Args:
      to: a new or empty folder.
      params: see `Checkpoint.load`.
      model: of these parameters.
      vocab_size: ids of the tokenizer.
      source: a folder that was imported, or one that `Checkpoint.keep` has written;
        None for a base that was trained here, which becomes a Llama.
      dtype: of the weights.
      add: adds or changes files of the folder, before it appears.

    Raises:
      UserError: `to` holds something or cannot be made, or no family can say this
        model.
    """
    check_new(to)
    if source:
        where, missing = str(source / CONFIG), _instead(source, CONFIG)
        raw = _json(source / CONFIG, missing)
    else:
        where, raw = "config.json of a Llama", llama_config(model, vocab_size)
    family, said = read_config(raw, model.length, where)
    said = dataclasses.replace(
        said, output_projection=model.output_projection, init_std=model.init_std
    )
    model = dataclasses.replace(model, vocab_rows=model.vocab_rows or vocab_size)
    if said != model:
        raise UserError(f"{where}: is not of the model that is exported")
    shapes, leaves = _shapes(model), _by_path(params)
    if {path: leaf.shape for path, leaf in leaves.items()} != dict(shapes):
        raise UserError(f"{where}: its parameters have other shapes")
    names = _files_of(source)
    prefix = _prefix(family, names)
    listed = tensors(family, shapes, model, prefix)
    head = family.head.format(prefix) + ".weight"
    if model.tied and head in names:
        embedding = next(t for t in listed if t.leaves[:1] == (("embedding", None),))
        listed.append(dataclasses.replace(embedding, name=head))
    with _appearing(to) as part:
        for path in (source / name for name in KEPT) if source else ():
            if path.is_file():
                _copy(path, part)
        text = json.dumps(version_4(raw, dtype), indent=2, ensure_ascii=False)
        with naming(part / CONFIG):
            (part / CONFIG).write_text(text + "\n", encoding="utf-8")
        with naming(part):
            _write_weights(
                part,
                listed,
                {k: np.asarray(v) for k, v in leaves.items()},
                np.dtype(dtype),
            )
            add(part)


def check_new(to: Path) -> None:
    """Raises a `UserError` if there is something at `to`, but an empty folder."""
    there = os.path.lexists(to)
    if there and (to.is_symlink() or not to.is_dir() or next(to.iterdir(), None)):
        raise UserError(f"{to}: exists; choose a new folder")


@contextlib.contextmanager
def _appearing(to: Path) -> Iterator[Path]:
    """A folder that becomes `to` when it is complete; what a kill left of one goes.

    A lock says that somebody still writes to it.
    """
    name = re.compile(re.escape(f".{to.name}.part-") + "[0-9a-f]{12}")
    part = to.with_name(f".{to.name}.part-{uuid.uuid4().hex[:12]}")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        for left in filter(lambda p: name.fullmatch(p.name), to.parent.iterdir()):
            with contextlib.suppress(OSError), _locked(left):
                shutil.rmtree(left)
        part.mkdir()
    except OSError as error:
        raise UserError(f"{to}: cannot be made: {error.strerror}") from error
    try:
        with _locked(part):
            yield part
            try:
                part.rename(to)
            except OSError as error:
                raise UserError(
                    f"{to}: cannot be made: {error.strerror}; choose a new folder"
                ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder; a `BlockingIOError` if somebody else does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _copy(path: Path, folder: Path) -> None:
    """Copies a file; an error names the new one, whose disk may be full."""
    with naming(folder / path.name):
        (folder / path.name).write_bytes(path.read_bytes())


def _files_of(source: Path | None) -> dict[str, str]:
    """The tensors of the source, if that is known."""
    if source and any((source / name).is_file() for name in (WEIGHTS, INDEX)):
        return _files(source)
    return {}


def _write_weights(
    folder: Path, listed: list[Tensor], params: Mapping[str, Any], dtype: np.dtype
) -> None:
    """Writes one file, or several with an index."""
    shards: list[list[Tensor]] = []
    room = 0
    for tensor in listed:
        size = math.prod(tensor.shape) * dtype.itemsize
        if size > room:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(tensor)
        room -= size
    count = len(shards)
    files: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        several = f"model-{number:05}-of-{count:05}.safetensors"
        name = WEIGHTS if count == 1 else several
        _write_shard(folder / name, shard, params, dtype)
        files |= {tensor.name: name for tensor in shard}
    if count > 1:
        total = sum(math.prod(tensor.shape) for tensor in listed) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": files}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write_shard(
    path: Path, shard: list[Tensor], params: Mapping[str, Any], dtype: np.dtype
) -> None:
    """Writes a safetensors file, one tensor in memory at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in shard:
        start, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        header[tensor.name] = {
            "dtype": next(k for k, v in _DTYPES.items() if v == dtype.name),
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in shard:
            stored = np.empty(tensor.shape, dtype)
            if not tensor.leaves:
                stored[...] = tensor.fixed()
            for there, here in tensor.pieces(stored, params):
                np.copyto(there, here, casting="unsafe")
            file.write(stored.reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())
