"""A document, and the account of the records that could not become one.

Bad input is counted by cause and listed by place in a quarantine file, never
with its text; a source with too large a share of it stops `prepare`.
"""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from jaxsim.errors import UserError

NOT_UTF8 = "invalid UTF-8"
NUL = "NUL characters"
NOT_JSON = "not JSON"
NOT_OBJECT = "not a JSON object"
NO_TEXT = "missing, empty or non-string text"
SURROGATES = "lone surrogates"
DUPLICATE_ID = "duplicate id"
CUT_GZIP = "cut or damaged .gz"
TOO_LONG = "record over 50 MB"

# Repaired in place, therefore not bad.
BOM = "byte order mark removed"
CRLF = "CRLF turned into LF"

MAX_RECORD_BYTES = 50_000_000


@dataclasses.dataclass(frozen=True)
class Document:
    """One text.

    `file` is where it was read, relative to its source's path: the key of
    `by_file`.
    """

    id: str
    text: str
    source: str
    date: str = ""  # ISO, or a prefix of it; '' if unknown
    licence: str = ""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)
    file: str = ""


class Quarantine:
    """Counts records, bad ones by cause, and lists the places of bad ones."""

    def __init__(self, path: Path, max_bad: float):
        self.path = path
        self.max_bad = max_bad
        self.records: Counter[str] = Counter()  # by source, bad ones included
        self.bad: dict[str, Counter[str]] = {}
        self.repaired: dict[str, Counter[str]] = {}
        self._file = path.open("w", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def count(self, source: str) -> None:
        """One record was seen, whatever becomes of it."""
        self.records[source] += 1

    def reject(self, source: str, cause: str, file: str, line: int) -> None:
        """A bad record; `line` counts from 1, 0 means the file as a whole."""
        self.bad.setdefault(source, Counter())[cause] += 1
        entry = {"source": source, "cause": cause, "file": file, "line": line}
        self._file.write(json.dumps(entry) + "\n")

    def repair(self, source: str, cause: str) -> None:
        self.repaired.setdefault(source, Counter())[cause] += 1

    def check(self, source: str) -> None:
        """Call after the last record of `source`.

        Raises:
          UserError: more than `max_bad` of its records are bad.
        """
        bad = self.bad.get(source, Counter())
        total = bad.total()
        if not total or total <= self.max_bad * self.records[source]:
            return
        self._file.flush()
        causes = ", ".join(f"{n} {cause}" for cause, n in bad.most_common())
        raise UserError(
            f"source {source!r}: {total} of {self.records[source]} records "
            f"are bad ({causes}), more than corpus.max_bad={self.max_bad:g} "
            f"allows; see {self.path} for their places, repair the input or "
            "raise corpus.max_bad"
        )

    def summary(self) -> dict[str, dict[str, dict[str, int]]]:
        """Counts for each source that had anything to report."""
        result = {}
        for source in sorted(self.bad.keys() | self.repaired.keys()):
            result[source] = {
                "bad": dict(self.bad.get(source, {})),
                "repaired": dict(self.repaired.get(source, {})),
            }
        return result
