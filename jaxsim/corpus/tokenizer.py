"""Tokenizers: text to token ids and back, with the bytes of each token.

Three kinds: 'bytes', 'bpe' (byte-level, trained here on the base text) and 'file'
(any tokenizer.json). Two tokens surround a document: begin-of-text and end-of-text,
which may be the same. No text in a document becomes one of them.

Scores are in bits per byte, so the bytes of the scored tokens must add up to the
bytes of the document. For byte-level tokenizers the length of each token is exact.
A 'file' tokenizer may normalize text or insert spaces; then the tokens share the
bytes of the document in proportion to their lengths (`token_bytes`).
"""

import hashlib
import itertools
import json
import operator
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers

from jaxsim.config import TokenizerConfig
from jaxsim.errors import DamagedError, UserError

END_OF_TEXT = "<|endoftext|>"
# What documents end and begin with in most tokenizers; turns of a chat may end and
# begin with something else.
_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
_BEGINS = ("<|begin_of_text|>", "<s>", "<bos>", "<|startoftext|>", *_ENDS)
_ALPHABET = tokenizers.pre_tokenizers.ByteLevel.alphabet
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SPECIAL = re.compile(r"<(?!0x)[^<>\s]+>|\[[A-Z]+\]")  # looks like <eos> or [SEP]
KEY = "config.corpus.tokenizer"


class Tokenizer:
    """A tokenizer; see `tokenizer_from_config` and `load`.

    Attributes:
      begin_of_text, end_of_text: ids of the tokens before and after a document.
      begin_of_text_token, end_of_text_token: their names.
      unknown: the id for unknown text; None if all text is known.
      keeps_bytes: whether text comes back from tokens that have as many bytes.
    """

    def __init__(
        self,
        kind: str,
        bpe: tokenizers.Tokenizer | None,
        end_of_text: str = "",
        begin_of_text: str = "",
    ):
        self.kind = kind
        self.end_of_text_token = end_of_text or END_OF_TEXT
        self.begin_of_text_token = begin_of_text or self.end_of_text_token
        self.unknown: int | None = None
        self.keeps_bytes = True
        self._bpe = bpe
        if bpe is None:
            self.vocab_size, self.begin_of_text, self.end_of_text = 257, 256, 256
            self._lengths_V = np.array([1] * 256 + [0], np.int64)
            content = "bytes: 256 byte values, then end-of-text"
            self.digest = hashlib.sha256(content.encode("utf-8")).hexdigest()
            return
        end = _id_of(bpe, "end_of_text", self.end_of_text_token)
        begin = _id_of(bpe, "begin_of_text", self.begin_of_text_token)
        self.begin_of_text, self.end_of_text = begin, end
        # A stored tokenizer may have any of them; all change text.
        bpe.no_truncation()
        bpe.no_padding()
        if getattr(bpe.model, "dropout", None):
            bpe.model.dropout = None
        # Special tokens inside documents are text like any other.
        bpe.encode_special_tokens = True
        added = bpe.get_added_tokens_decoder()
        for token in sorted({begin, end}):
            if token in added and not added[token].special:
                bpe.add_special_tokens([added[token].content])
        vocabulary = bpe.get_vocab(with_added_tokens=True)
        # Ids may have gaps; embedding rows must cover the largest one.
        largest = max(vocabulary.values())
        if largest >= 2 * len(vocabulary):
            raise UserError(
                f"{KEY}: token id {largest} is at least twice its "
                f"{len(vocabulary)} entries, and the model has a row for every id; "
                "use a tokenizer.json without such gaps"
            )
        self.vocab_size = largest + 1
        layout = json.loads(bpe.to_str())
        for kind in ("ByteLevel", "Metaspace"):
            # Without a decoder, no text comes back from its tokens.
            if layout["decoder"] is None and _mentions(layout["pre_tokenizer"], kind):
                bpe.decoder = getattr(tokenizers.decoders, kind)()
                layout = json.loads(bpe.to_str())
        self._lengths_V = _token_lengths(vocabulary, layout)
        self._lengths_V[[begin, end]] = 0
        self.unknown = _unknown_id(vocabulary, layout)
        self.keeps_bytes = layout["normalizer"] is None and _is_byte_level(
            vocabulary, layout
        )
        for key, token in (("end_of_text", end), ("begin_of_text", begin)):
            if self.unknown == token:
                raise UserError(
                    f"{KEY}.{key}: {bpe.id_to_token(token)!r} also stands for unknown "
                    "text, which would read as a border between documents; name "
                    "another token of this tokenizer"
                )
        content = json.dumps(layout, sort_keys=True) + f"\0{end}"
        content += f"\0{begin}" * (begin != end)
        self.digest = hashlib.sha256(content.encode("utf-8")).hexdigest()

    @classmethod
    def from_bytes(cls) -> Self:
        return cls("bytes", None)

    @classmethod
    def from_file(
        cls, path: Path, end_of_text: str = "", begin_of_text: str = ""
    ) -> Self:
        """A Hugging Face tokenizer.json: data only, nothing is executed.

        The names are those of `TokenizerConfig`.
        """
        return cls("file", _open(path), end_of_text, begin_of_text)

    @classmethod
    def train_bpe(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """A byte-level BPE; the same texts always give the same digest."""
        alphabet = sorted(_ALPHABET())
        if vocab_size < len(alphabet) + 1:
            raise UserError(
                f"{KEY}.vocab_size: must be at least "
                f"{len(alphabet) + 1} (256 bytes and end-of-text), is {vocab_size}"
            )
        bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
        bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=alphabet,
            show_progress=False,
        )
        bpe.train_from_iterator(texts, trainer)
        return cls("bpe", bpe)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int32, without begin-of-text and end-of-text."""
        if self._bpe is None:
            return [
                np.frombuffer(t.encode("utf-8"), np.uint8).astype(np.int32)
                for t in texts
            ]
        encodings = self._bpe.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(e.ids, np.int32) for e in encodings]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD."""
        checked = self.check_ids(np.asarray(ids, np.int64))
        borders = (self.begin_of_text, self.end_of_text)
        kept = checked[~np.isin(checked, borders)].tolist()
        if self._bpe is None:
            return bytes(kept).decode("utf-8", "replace")
        return str(self._bpe.decode(kept, skip_special_tokens=False))

    def byte_lengths(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The UTF-8 bytes of each token, int64; 0 for begin- and end-of-text."""
        return self._lengths_V[self.check_ids(np.asarray(ids, np.int64))]

    def token_bytes(self, text: str, ids: np.ndarray) -> np.ndarray:
        """The `byte_lengths`, adjusted to add up to the bytes of `text`.

        Where the tokenizer changes text, each prefix of the tokens gets its rounded
        proportion of the bytes.
        """
        lengths = self.byte_lengths(ids)
        total = len(text.encode("utf-8"))
        if len(ids) == 0 or lengths.sum() == total:
            return lengths
        weights = lengths if lengths.sum() else np.ones_like(lengths)
        ends = np.cumsum(weights)
        ends = (ends * total + ends[-1] // 2) // ends[-1]
        return np.diff(ends, prepend=0)

    def odd_borders(self) -> list[tuple[str, str, str]]:
        """Borders of documents that few tokenizers have: key, name, a usual name.

        A tokenizer of a chat model may name the tokens around a turn.
        """
        if self._bpe is None:
            return []
        special = _special_names(self._bpe)
        borders = {
            "end_of_text": (self.end_of_text_token, _ENDS),
            "begin_of_text": (self.begin_of_text_token, _BEGINS),
        }
        if self.begin_of_text == self.end_of_text:  # follows from it
            del borders["begin_of_text"]
        return [
            (key, name, other)
            for key, (name, usual) in borders.items()
            for other in usual
            if name not in usual and other in special
        ]

    def check_ids(self, ids: np.ndarray) -> np.ndarray:
        """Refuses ids outside the vocabulary: JAX would clamp them, or give NaN."""
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size):
            raise DamagedError(
                f"token ids {ids.min()} to {ids.max()} are outside the vocabulary of "
                f"{self.vocab_size} entries: made with another tokenizer, or damaged"
            )
        return ids

    def save(self, folder: Path) -> None:
        """Writes about.json and, except for bytes, tokenizer.json."""
        folder.mkdir(parents=True, exist_ok=True)
        if self._bpe is not None:
            (folder / "tokenizer.json").write_text(
                json.dumps(json.loads(self._bpe.to_str()), sort_keys=True),
                encoding="utf-8",
            )
        begin, end = self.begin_of_text_token, self.end_of_text_token
        about = {"kind": self.kind, "end_of_text": end, "digest": self.digest}
        if begin != end:
            about["begin_of_text"] = begin
        (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, digest: str) -> Self:
        """Reads what `save` wrote; a `DamagedError` if it is not that."""
        try:
            about = json.loads((folder / "about.json").read_text())
            bpe = None
            if about["kind"] != "bytes":
                bpe = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            names = about["end_of_text"], about.get("begin_of_text", "")
            loaded = cls(about["kind"], bpe, *names)
        except Exception as error:  # of any kind, as in `from_file`
            raise DamagedError(
                f"the tokenizer in {folder} cannot be read: {error}; run "
                "`jaxsim prepare --refreeze`, or copy the folder again"
            ) from error
        if loaded.digest != digest:
            raise DamagedError(
                f"the tokenizer in {folder} has digest {loaded.digest[:16]} instead of "
                f"{digest[:16]}; copy the folder again"
            )
        return loaded


def special_tokens(folder: Path, begin: str = "", end: str = "") -> tuple[str, str]:
    """The names of the tokens before and after a document, of a Hugging Face folder.

    tokenizer_config.json or special_tokens_map.json has them; else config.json has
    ids. If no token is before a document, it is the one after. Names that are given
    stay.

    Raises:
      UserError: there is no tokenizer.json, a file is not what its name says, or
        no token or several may end a document.
    """
    layout = folder / "tokenizer.json"
    if not layout.is_file():
        source, made = json.dumps(str(folder)), json.dumps(str(layout))
        program = (
            "from transformers import AutoTokenizer as T; "
            f"T.from_pretrained({source}).backend_tokenizer.save({made})"
        )
        advice = "copy it from where the model is from"
        if any((folder / name).is_file() for name in ("tokenizer.model", "merges.txt")):
            advice = f"make it with: {shlex.join(['python', '-c', program])}"
        raise UserError(f"{folder}: has no tokenizer.json; {advice}")
    if not (end := end or _named(folder, "eos")):
        raise UserError(
            f"{folder}: no file says which token ends a document; set "
            f"{KEY}.end_of_text to one of {_candidates(_open(layout))}"
        )
    return begin or _named(folder, "bos") or end, end


def _named(folder: Path, word: str) -> str:
    """The name of the 'bos' or 'eos' token; '' if there is none."""
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        found = _read(folder / file)
        name = found.get(key := f"{word}_token")
        name = name.get("content") if isinstance(name, dict) else name
        if not isinstance(name, str | None):
            raise UserError(f"{folder / file}: {key} is {name!r}, which is no name")
        # No such token; an id in config.json may be a leftover.
        if name or (word == "bos" and key in found):
            return name or ""
    path, key = folder / "config.json", f"{word}_token_id"
    ids = _read(path).get(key)
    ids = [i for i in (ids if isinstance(ids, list) else [ids]) if i is not None]
    if not ids:
        return ""
    bpe = _open(folder / "tokenizer.json")
    names = {bpe.token_to_id(name): name for name in _special_names(bpe)}
    verb = {"bos": "begin", "eos": "end"}[word]
    # Ids of another tokenizer are a common mistake.
    if wrong := [i for i in ids if not isinstance(i, int) or i not in names]:
        raise UserError(
            f"{path}: {key}: {wrong[0]!r} is no special token of tokenizer.json; set "
            f"{KEY}.{verb}_of_text to one of {_candidates(bpe)}"
        )
    if len(ids) > 1:
        several = ", ".join(f"{names[i]!r} ({i})" for i in ids)
        raise UserError(
            f"{path}: {key} is several tokens: {several}; set {KEY}.{verb}_of_text to "
            f"the one that documents {verb} with"
        )
    return names[ids[0]]


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no file."""
    try:
        found = json.loads(path.read_text("utf-8")) if os.path.lexists(path) else {}
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    return found


def _open(path: Path) -> tokenizers.Tokenizer:
    """A tokenizer.json."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise ValueError("not a regular file")
        return tokenizers.Tokenizer.from_file(str(path))
    # `tokenizers` raises bare Exception for all that it cannot read or parse.
    except Exception as error:
        raise UserError(
            f"{KEY}.path: {str(path)!r} is not a tokenizer.json: {error}"
        ) from error


def _id_of(bpe: tokenizers.Tokenizer, key: str, name: str) -> int:
    """The id of a token that a config names."""
    index = bpe.token_to_id(name)
    if index is None:
        raise UserError(
            f"{KEY}.{key}: {name!r} is no token of this tokenizer; its special "
            f"tokens are {_candidates(bpe)}"
        )
    return int(index)


def _candidates(bpe: tokenizers.Tokenizer) -> str:
    """The first special tokens of a tokenizer, for a message."""
    names = _special_names(bpe)
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return (", ".join(map(repr, names[:12])) or "none") + more


def _special_names(bpe: tokenizers.Tokenizer) -> list[str]:
    """Tokens that are marked as special, or else those that look so, by id."""
    added = sorted(bpe.get_added_tokens_decoder().items())
    vocabulary = sorted(bpe.get_vocab(True).items(), key=operator.itemgetter(1))
    return [token.content for _, token in added if token.special] or [
        name for name, _ in vocabulary if _SPECIAL.fullmatch(name)
    ]


def tokenizer_from_config(
    config: TokenizerConfig, groups: Sequence[Sequence[str]]
) -> Tokenizer:
    """The tokenizer that a config asks for; 'bpe' is trained on texts of all groups."""
    if config.kind == "bytes":
        return Tokenizer.from_bytes()
    if config.kind == "file":
        path = Path(config.path)
        return Tokenizer.from_file(path, config.end_of_text, config.begin_of_text)
    sample = training_sample(groups, config.sample_bytes)
    return Tokenizer.train_bpe(sample, config.vocab_size)


def training_sample(groups: Sequence[Sequence[str]], max_bytes: int) -> list[str]:
    """Texts of all groups in turn, up to `max_bytes` in total; the last one is cut.

    They are taken in turn so that large groups do not dominate.
    """
    sample: list[str] = []
    left = max_bytes
    turns = itertools.zip_longest(*groups)
    for text in itertools.chain.from_iterable(turns):
        if text is not None:
            data = text.encode("utf-8")
            sample.append(data[:left].decode("utf-8", "ignore"))
            left -= len(data)
            if left <= 0:
                break
    return sample


def _unknown_id(vocabulary: dict[str, int], layout: dict[str, Any]) -> int | None:
    """The id of the unknown token; None if the tokenizer knows every text."""
    model = layout["model"]
    if _is_byte_level(vocabulary, layout):
        return None
    if model.get("byte_fallback") and all(
        f"<0x{byte:02X}>" in vocabulary for byte in range(256)
    ):
        return None
    if isinstance(token := model.get("unk_token"), str):
        return vocabulary.get(token)
    return model.get("unk_id")


def _is_byte_level(vocabulary: dict[str, int], layout: dict[str, Any]) -> bool:
    """Whether every byte has a token."""
    steps = [layout.get("pre_tokenizer"), layout.get("normalizer")]
    return (
        layout["model"]["type"] == "BPE"
        and _mentions(steps, "ByteLevel")
        and vocabulary.keys() >= set(_ALPHABET())
    )


def _token_lengths(vocabulary: dict[str, int], layout: dict[str, Any]) -> np.ndarray:
    """The bytes of every token, int64 [V]."""
    steps = [layout.get("pre_tokenizer"), layout.get("decoder")]
    byte_level = _mentions(steps, "ByteLevel")
    added = {token["content"] for token in layout.get("added_tokens", [])}
    lengths_V = np.zeros(max(vocabulary.values()) + 1, np.int64)
    for token, index in vocabulary.items():
        if byte_level and token not in added:
            # One character of the byte alphabet stands for one byte.
            lengths_V[index] = len(token)
        elif _BYTE_TOKEN.fullmatch(token):
            lengths_V[index] = 1
        else:
            plain = token.replace("\u2581", " ").removeprefix("##")
            lengths_V[index] = len(plain.encode("utf-8"))
    return lengths_V


def _mentions(node: Any, kind: str) -> bool:
    """Whether a part of a tokenizer.json has a step of this kind."""
    if isinstance(node, dict):
        return node.get("type") == kind or _mentions(list(node.values()), kind)
    return isinstance(node, list) and any(_mentions(child, kind) for child in node)
