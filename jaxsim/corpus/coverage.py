"""Encodes the texts of a corpus, and refuses those that a tokenizer does not keep."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxsim.corpus.tokenizer import KEY, Tokenizer
from jaxsim.errors import UserError

_NOT_COUNTED = re.compile(r"[\s\u0300-\u036f]+")  # white space and accents


class Coverage:
    """Encodes texts, and counts what the tokenizer does not know.

    Unknown text is easy to predict, whatever it says, and would make some mixtures
    look good. Only 'file' tokenizers can have unknown text.

    Attributes:
      counts: for each place of text, by `KEYS`: tokens, unknown tokens, bytes of the
        text, bytes that decoding loses, and bytes that only change in case, accents or
        Unicode form. White space is not counted.
    """

    KEYS = ("tokens", "unknown", "bytes", "lost", "changed")

    def __init__(self, tokenizer: Tokenizer, max_unknown: float):
        self.tokenizer = tokenizer
        self.max_unknown = max_unknown
        self.counts: dict[str, dict[str, int]] = {}

    def encode(self, where: str, texts: Sequence[str]) -> list[np.ndarray]:
        """The token ids of all texts of a place; see `check`."""
        batch = self.encode_some([where] * len(texts), texts)
        self.check(where)
        return batch

    def encode_some(
        self, where: Sequence[str], texts: Sequence[str]
    ) -> list[np.ndarray]:
        """The token ids of texts; `where` each of them is from."""
        try:
            batch = self.tokenizer.encode_batch(texts)
        # `tokenizers` raises bare Exception for text that it cannot encode.
        except Exception as error:
            raise UserError(
                f"{' or '.join(dict.fromkeys(where))}: the tokenizer cannot encode its "
                f"text: {error}; use another tokenizer"
            ) from error
        if self.tokenizer.kind == "file":
            for place, text, ids in zip(where, texts, batch, strict=True):
                self._count(place, text, ids)
        return batch

    def _count(self, where: str, text: str, ids: np.ndarray) -> None:
        tokenizer = self.tokenizer
        for key in ("end_of_text", "begin_of_text"):
            if (ids == getattr(tokenizer, key)).any():
                name = getattr(tokenizer, f"{key}_token")
                raise UserError(
                    f"{where}: the tokenizer turns a part of its text into its "
                    f"{key.replace('_', '-')} token {name!r}; set {KEY}.{key} to "
                    "a token that no text has"
                )
        data, known, lost, changed = text.encode(), ids, 0, 0
        size = len(data.translate(None, b" \t\n\r\f\v"))
        exact = tokenizer.keeps_bytes
        if not exact or tokenizer.byte_lengths(ids).sum() != len(data):
            known = ids[ids != tokenizer.unknown]
            if (decoded := tokenizer.decode(known)) != text:
                plain = _plain(text)
                size, lost = len(plain), _gone(plain, _plain(decoded))
                changed = max(0, _gone(data, decoded.encode()) - lost)
        self.add({where: (len(ids), len(ids) - len(known), size, lost, changed)})

    def add(self, counts: Mapping[str, Iterable[int]]) -> None:
        """Adds numbers, in the order of `KEYS`."""
        for where, numbers in counts.items():
            total = self.counts.setdefault(where, dict.fromkeys(self.KEYS, 0))
            for key, number in zip(self.KEYS, numbers, strict=True):
                total[key] += number

    def check(self, where: str) -> None:
        """Refuses more than `max_unknown` of unknown text in a place."""
        counts = self.counts.get(where, dict.fromkeys(self.KEYS, 0))
        tokens, unknown, size, lost, _ = counts.values()
        if unknown > self.max_unknown * tokens or lost > self.max_unknown * size:
            raise UserError(
                f"{where}: the tokenizer does not know all of its text: {unknown} of "
                f"{tokens} tokens are unknown, {lost} of {size} bytes are "
                "lost, and what is unknown looks easy to predict. Use a "
                "tokenizer that knows such text (with bytes for the rest), or "
                f"raise config.corpus.max_unknown={self.max_unknown:g}"
            )

    def lossy(self) -> dict[str, dict[str, int]]:
        """The counts of places whose text a tokenizer does not keep."""
        return {
            where: counts
            for where, counts in self.counts.items()
            if counts["unknown"] or counts["lost"] or counts["changed"]
        }


def _plain(text: str) -> bytes:
    """Text without white space, case and accents, which tokenizers may drop."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return _NOT_COUNTED.sub("", plain).encode("utf-8")


def _gone(text: bytes, decoded: bytes) -> int:
    """The bytes of a text, other than white space, that another one lacks."""
    gone = Counter(text) - Counter(decoded) if text != decoded else {}
    return sum(n for byte, n in gone.items() if byte > ord(" "))
