"""The first pass over a file: what documents it has, without their text.

Each document gets one entry for each partition or domain that it belongs to. All
choices are made on these entries; see `choose`.
"""

import dataclasses
import hashlib
import itertools
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from jaxsim import records
from jaxsim.config import SourceConfig, SplitConfig
from jaxsim.corpus.documents import Document, Tally, read_file
from jaxsim.corpus.sources import InputFile
from jaxsim.corpus.split import BASE, DEV, TEST, TRAIN, places_of, split_of
from jaxsim.corpus.work import ADVICE, mapped
from jaxsim.errors import UserError

ENTRY = np.dtype(
    [
        ("id", "<u8", 2),  # a digest; its first half is the document's place in order
        ("text", "<u8", 2),  # a digest
        # Of the text in UTF-8; 0 for a completion that may not fit in a window.
        ("bytes", "<u4"),
        ("document", "<u4"),  # the number of its record in the file, from 1
        ("place", "<u4"),  # index into `Scanned.places`
        ("split", "<u4"),  # index into `ALL_SPLITS`
    ]
)
ALL_SPLITS = (TRAIN, BASE, DEV, TEST)
_PACK = struct.Struct("<4Q4I")  # an entry
_PAIR = struct.Struct(">2Q")


@dataclasses.dataclass(frozen=True)
class Scanned:
    """What a scan says of its file beside the entries."""

    entries: int
    places: list[tuple[str, str]]  # partition and group
    records: int
    bad: dict[str, int]
    bad_places: list[tuple[str, int, str]]  # file, line, cause
    repaired: dict[str, int]
    filtered: int
    dropped: dict[str, int]
    examples: dict[str, str]
    fields: dict[str, str]
    hopeless: list[str]

    def tally(self) -> Tally:
        return Tally(
            records=self.records,
            bad=Counter(self.bad),
            places=list(self.bad_places),
            repaired=Counter(self.repaired),
            filtered=self.filtered,
            dropped=Counter(self.dropped),
            examples=self.examples,
            fields=self.fields,
            hopeless=self.hopeless,
        )


def digest(data: bytes) -> tuple[int, int]:
    """Two numbers, whose order is that of the digest as text."""
    return _PAIR.unpack(hashlib.blake2b(data, digest_size=16).digest())


def content(document: Document) -> str:
    """All text of a document."""
    if document.prompt is None:
        return document.text
    return f"{document.prompt}\0{document.text}"


def scan(
    folder: Path,
    file: InputFile,
    source: SourceConfig,
    split: SplitConfig,
    section: str,
    length: int,
    max_bad: float,
) -> None:
    """Writes the entries of a file, and what else is known of it.

    Args:
      section: of config.corpus that names the source.
      length: tokens of a window.
    """
    tally = Tally(max_bad)
    places: dict[tuple[str, str], int] = {}
    total = 0
    with (folder / "entries").open("wb") as out:
        for document in documents_of(file, source, split, tally):
            found = places_of(file.source, source, document, section)
            if isinstance(found, str):
                tally.drop(found)
                continue
            half = BASE
            if section != "base_text":
                half = split_of(document, split, section == "partitions")
            text = content(document).encode()
            size = len(text)
            if document.prompt is not None:
                # A token has at least one byte, as a rule.
                size *= len(document.parts()[1].encode()) <= length
            for place in found:
                total += 1
                out.write(
                    _PACK.pack(
                        *digest(document.id.encode()), *digest(text), size,
                        tally.records, places.setdefault(place, len(places)),
                        ALL_SPLITS.index(half),
                    )
                )  # fmt: skip
    about = Scanned(
        total,
        list(places),
        tally.records,
        dict(tally.bad),
        tally.places,
        dict(tally.repaired),
        tally.filtered,
        dict(tally.dropped),
        tally.examples,
        tally.fields,
        tally.hopeless,
    )
    records.save(folder / "about.json", about)


def documents_of(
    file: InputFile,
    source: SourceConfig,
    split: SplitConfig,
    tally: Tally,
    only: Iterable[int] | None = None,
) -> Iterator[Document]:
    """The documents of a file, the same ones in each pass; `only` those records."""
    also = () if split.key in ("id", "file") else (split.key,)
    return read_file(file, source, tally, also, only)


def load(folder: Path) -> tuple[Scanned, np.ndarray]:
    """What `scan` wrote; the entries are mapped, not read."""
    about = records.load(folder / "about.json", Scanned, ADVICE)
    return about, mapped(folder / "entries", ENTRY, about.entries)


def picked(
    file: InputFile,
    source: SourceConfig,
    split: SplitConfig,
    wanted_D: np.ndarray,
    id_D: np.ndarray,
    text_D: np.ndarray,
) -> Iterator[Document]:
    """The documents of records with these numbers, in order.

    Args:
      id_D, text_D: the first halves of the digests of their ids and texts.

    Raises:
      UserError: the file is not the one that was scanned.
    """
    found = documents_of(file, source, split, Tally(), map(int, wanted_D))
    known = zip(id_D.tolist(), text_D.tolist(), strict=True)
    for pair, document in itertools.zip_longest(known, found):
        if document is None:
            break
        read = document.id.encode(), content(document).encode()
        if pair != tuple(digest(data)[0] for data in read):
            break
        yield document
    else:
        return
    raise UserError(
        f"source {file.source!r}: {file.name!r} was changed while `prepare` read it; "
        "run `jaxsim prepare` again"
    )
