"""Encodes the texts of a corpus, and refuses those that a tokenizer does not keep."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxsim.corpus.tokenizer import KEY, Tokenizer
from jaxsim.errors import UserError

_NOT_COUNTED = re.compile(r"[\s\u0300-\u036f]+")  # white space and accents


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
            for key in ("end_of_text", "begin_of_text"):
                if (ids == getattr(self.tokenizer, key)).any():
                    name = getattr(self.tokenizer, f"{key}_token")
                    raise UserError(
                        f"{where}: the tokenizer turns a part of its text into its "
                        f"{key.replace('_', '-')} token {name!r}; set {KEY}.{key} to "
                        "a token that no text has"
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
