"""Tokenizers: text to token ids and back, with the bytes of each token.

Three kinds: 'bytes', 'bpe' (byte-level, trained here on the base text) and 'file'
(any tokenizer.json). No text in a document becomes the end-of-text token.

Scores are in bits per byte, so the bytes of the scored tokens must add up to the
bytes of the document. For byte-level tokenizers the length of each token is exact.
A 'file' tokenizer may normalize text or insert spaces; then the tokens share the
bytes of the document in proportion to their lengths (`token_bytes`).
"""

import hashlib
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import tokenizers

from jaxsim.config import TokenizerConfig
from jaxsim.errors import DamagedError, UserError

END_OF_TEXT = "<|endoftext|>"
_ALPHABET = tokenizers.pre_tokenizers.ByteLevel.alphabet
_NOT_COUNTED = re.compile(r"[\s\u0300-\u036f]+")  # white space and accents
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Tokenizer:
    """A tokenizer; see `tokenizer_from_config` and `load`."""

    def __init__(self, kind: str, bpe: tokenizers.Tokenizer | None, end_of_text: str):
        self.kind = kind
        self.end_of_text_token = end_of_text
        self.unknown: int | None = None  # id for unknown text; None: all is known
        self._bpe = bpe
        if bpe is None:
            self.vocab_size, self.end_of_text = 257, 256
            self._lengths_V = np.array([1] * 256 + [0], np.int64)
            content = "bytes: 256 byte values, then end-of-text"
            self.digest = hashlib.sha256(content.encode("utf-8")).hexdigest()
            return
        wrong = f"config.corpus.tokenizer.end_of_text: {end_of_text!r}"
        end = bpe.token_to_id(end_of_text)
        if end is None:
            raise UserError(f"{wrong} is no token of this tokenizer")
        # A stored tokenizer may have any of them; all change text.
        bpe.no_truncation()
        bpe.no_padding()
        if getattr(bpe.model, "dropout", None):
            bpe.model.dropout = None
        # Special tokens inside documents are text like any other.
        bpe.encode_special_tokens = True
        added = bpe.get_added_tokens_decoder().get(end)
        if added is not None and not added.special:
            bpe.add_special_tokens([end_of_text])
        vocabulary = bpe.get_vocab(with_added_tokens=True)
        # Ids may have gaps; embedding rows must cover the largest one.
        largest = max(vocabulary.values())
        if largest >= 2 * len(vocabulary):
            raise UserError(
                f"config.corpus.tokenizer: token id {largest} is at least twice its "
                f"{len(vocabulary)} entries, and the model has a row for every id; "
                "use a tokenizer.json without such gaps"
            )
        self.vocab_size, self.end_of_text = largest + 1, end
        layout = json.loads(bpe.to_str())
        for kind in ("ByteLevel", "Metaspace"):
            # Without a decoder, no text comes back from its tokens.
            if layout["decoder"] is None and _mentions(layout["pre_tokenizer"], kind):
                bpe.decoder = getattr(tokenizers.decoders, kind)()
                layout = json.loads(bpe.to_str())
        self._lengths_V = _token_lengths(vocabulary, layout)
        self._lengths_V[end] = 0
        self.unknown = _unknown_id(vocabulary, layout)
        if self.unknown == end:
            raise UserError(
                f"{wrong} also stands for unknown text, which would read as the end "
                "of a document; name another token of this tokenizer"
            )
        content = json.dumps(layout, sort_keys=True) + f"\0{end}"
        self.digest = hashlib.sha256(content.encode("utf-8")).hexdigest()

    @classmethod
    def from_bytes(cls) -> Self:
        return cls("bytes", None, END_OF_TEXT)

    @classmethod
    def from_file(cls, path: Path, end_of_text: str) -> Self:
        """A Hugging Face tokenizer.json: data only, nothing is executed."""
        try:
            if path.exists() and not path.is_file():  # a pipe would never end
                raise ValueError("not a regular file")
            bpe = tokenizers.Tokenizer.from_file(str(path))
        # `tokenizers` raises bare Exception for all that it cannot read or parse.
        except Exception as error:
            raise UserError(
                f"config.corpus.tokenizer.path: {str(path)!r} is not a "
                f"tokenizer.json: {error}"
            ) from error
        return cls("file", bpe, end_of_text)

    @classmethod
    def train_bpe(cls, texts: Iterable[str], vocab_size: int) -> Self:
        """A byte-level BPE; the same texts always give the same digest."""
        alphabet = sorted(_ALPHABET())
        if vocab_size < len(alphabet) + 1:
            raise UserError(
                f"config.corpus.tokenizer.vocab_size: must be at least "
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
        return cls("bpe", bpe, END_OF_TEXT)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int32, without end-of-text."""
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
        kept = checked[checked != self.end_of_text].tolist()
        if self._bpe is None:
            return bytes(kept).decode("utf-8", "replace")
        return str(self._bpe.decode(kept, skip_special_tokens=False))

    def byte_lengths(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The UTF-8 bytes of each token, int64; 0 for end-of-text."""
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
        end = self.end_of_text_token
        about = {"kind": self.kind, "end_of_text": end, "digest": self.digest}
        (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, digest: str) -> Self:
        """Reads what `save` wrote; a `DamagedError` if it is not that."""
        try:
            about = json.loads((folder / "about.json").read_text())
            bpe = None
            if about["kind"] != "bytes":
                bpe = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            loaded = cls(about["kind"], bpe, about["end_of_text"])
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


class Coverage:
    """Encodes texts, and counts what the tokenizer does not know.

    Unknown text is easy to predict, whatever it says, and would make some mixtures
    look good. Only 'file' tokenizers can have unknown text.

    Attributes:
      counts: for each place whose text a tokenizer does not keep: tokens, unknown
        tokens, bytes of the text, bytes that decoding loses, and bytes that only
        change in case, accents or Unicode form. White space is not counted.
    """

    def __init__(self, tokenizer: Tokenizer, max_unknown: float):
        self.tokenizer = tokenizer
        self.max_unknown = max_unknown
        self.counts: dict[str, dict[str, int]] = {}

    def encode(self, where: str, texts: Sequence[str]) -> list[np.ndarray]:
        """The token ids of texts; refuses more than `max_unknown` of unknown text."""
        try:
            batch = self.tokenizer.encode_batch(texts)
        # `tokenizers` raises bare Exception for text that it cannot encode.
        except Exception as error:
            raise UserError(
                f"{where}: the tokenizer cannot encode its text: {error}; use "
                "another tokenizer"
            ) from error
        if self.tokenizer.kind != "file":
            return batch
        counts = dict.fromkeys(("tokens", "unknown", "bytes", "lost", "changed"), 0)
        for text, ids in zip(texts, batch, strict=True):
            if (ids == self.tokenizer.end_of_text).any():
                raise UserError(
                    f"{where}: the tokenizer turns a part of its text into its "
                    f"end-of-text token {self.tokenizer.end_of_text_token!r}; set "
                    "config.corpus.tokenizer.end_of_text to a token that no text has"
                )
            known = ids[ids != self.tokenizer.unknown]
            plain, decoded = _plain(text), self.tokenizer.decode(known)
            lost = _gone(plain, _plain(decoded))
            changed = max(0, _gone(text.encode(), decoded.encode()) - lost)
            found = len(ids), len(ids) - len(known), len(plain), lost, changed
            for key, number in zip(counts, found, strict=True):
                counts[key] += number
        tokens, unknown, size, lost, changed = counts.values()
        if unknown or lost or changed:
            self.counts[where] = counts
        if unknown > self.max_unknown * tokens or lost > self.max_unknown * size:
            raise UserError(
                f"{where}: the tokenizer does not know all of its text: {unknown} of "
                f"{tokens} tokens are unknown, {lost} of {size} bytes are "
                "lost, and what is unknown looks easy to predict. Use a "
                "tokenizer that knows such text (with bytes for the rest), or "
                f"raise config.corpus.max_unknown={self.max_unknown:g}"
            )
        return batch


def _plain(text: str) -> bytes:
    """Text without white space, case and accents, which tokenizers may drop."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return _NOT_COUNTED.sub("", plain).encode("utf-8")


def _gone(text: bytes, decoded: bytes) -> int:
    """The bytes of a text, other than white space, that another one lacks."""
    gone = Counter(text) - Counter(decoded) if text != decoded else {}
    return sum(n for byte, n in gone.items() if byte > ord(" "))


def tokenizer_from_config(
    config: TokenizerConfig, groups: Sequence[Sequence[str]]
) -> Tokenizer:
    """The tokenizer that a config asks for; 'bpe' is trained on texts of all groups."""
    if config.kind == "bytes":
        return Tokenizer.from_bytes()
    if config.kind == "file":
        return Tokenizer.from_file(Path(config.path), config.end_of_text)
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
    if model["type"] == "BPE":
        steps = [layout.get("pre_tokenizer"), layout.get("normalizer")]
        if _mentions(steps, "ByteLevel") and vocabulary.keys() >= set(_ALPHABET()):
            return None
    if model.get("byte_fallback") and all(
        f"<0x{byte:02X}>" in vocabulary for byte in range(256)
    ):
        return None
    if isinstance(token := model.get("unk_token"), str):
        return vocabulary.get(token)
    return model.get("unk_id")


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
