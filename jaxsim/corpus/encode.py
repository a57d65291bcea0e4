"""The second pass over a file: the chosen documents, as tokens or as text."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import numpy as np

from jaxsim import records
from jaxsim.config import CorpusConfig, SourceConfig, SplitConfig
from jaxsim.corpus.coverage import Coverage
from jaxsim.corpus.documents import Document
from jaxsim.corpus.duplicates import (
    NEAR_WORDS,
    EvaluationIndex,
    band_hashes,
    grams_of,
    text_digests,
    word_hashes,
)
from jaxsim.corpus.scan import picked
from jaxsim.corpus.sources import InputFile
from jaxsim.corpus.tokenizer import Tokenizer
from jaxsim.corpus.work import ADVICE, mapped

_BATCH = 1_000_000  # characters that are encoded at once

ENCODED = np.dtype(
    [
        ("document", "<u4"),  # the number of its record in the file
        ("tokens", "<u4"),
        ("digest", "<u8"),  # of its words
    ]
)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Documents of a file; arrays are [D]."""

    file: InputFile
    source: SourceConfig
    split: SplitConfig
    document: np.ndarray  # numbers of their records, in order
    id: np.ndarray  # first halves of the digests of their ids
    text: np.ndarray  # and of their texts
    where: np.ndarray  # indices into `names`
    names: tuple[str, ...]  # what messages call the place of a text

    def read(self) -> Iterator[Document]:
        numbers = self.document, self.id, self.text
        yield from picked(self.file, self.source, self.split, *numbers)


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What `encode` says of its file."""

    documents: int
    tokens: int
    unknown: dict[str, dict[str, int]]  # counts of `Coverage`


def pick(folder: Path, wanted: Wanted, words: int) -> None:
    """Writes documents as text, and the hashes of their n-grams of words."""
    grams, sizes, starts = [], [], []
    with (folder / "texts.jsonl").open("wb") as out:
        for batch in _batches(wanted.read()):
            for d in batch:
                starts.append(out.tell())
                out.write(json.dumps([d.id, d.text, d.prompt]).encode() + b"\n")
            texts = [f"{d.prompt or ''} {d.text}" for d in batch]
            gram_G, begin_D = grams_of(*word_hashes(texts), words)
            grams.append(gram_G)
            sizes.append(np.diff(begin_D))
    np.save(folder / "starts.npy", np.array(starts, np.int64))
    np.save(folder / "grams.npy", np.concatenate([np.zeros(0, np.uint64), *grams]))
    np.save(folder / "sizes.npy", np.concatenate([np.zeros(0, np.int64), *sizes]))


def texts_of(folder: Path, numbers: Iterable[int]) -> Iterator[Document]:
    """Some of the documents that `pick` wrote: id, text and prompt."""
    starts = np.load(folder / "starts.npy")
    with (folder / "texts.jsonl").open("rb") as lines:
        for number in numbers:
            lines.seek(starts[number])
            identity, text, prompt = json.loads(lines.readline())
            yield Document(identity, text, "", prompt=prompt)


def grams_in(folder: Path) -> list[np.ndarray]:
    """The n-grams of the documents that `pick` wrote."""
    ends = np.cumsum(np.load(folder / "sizes.npy"))
    return np.split(np.load(folder / "grams.npy"), ends[:-1]) if len(ends) else []


@dataclasses.dataclass(frozen=True)
class Tools:
    """What all files are encoded with."""

    tokenizer: Path
    tokenizer_digest: str
    token_type: str  # how tokens are stored
    index: Path  # of evaluation text
    overlap_words: int
    overlap_share: float
    near_duplicates: float
    max_unknown: float

    @classmethod
    def of(
        cls, config: CorpusConfig, tokenizer: Tokenizer, folder: Path, index: Path
    ) -> Self:
        kind = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<i4"
        return cls(
            folder, tokenizer.digest, kind, index,
            config.overlap_words, config.overlap_share,
            config.near_duplicates, config.max_unknown,
        )  # fmt: skip


# A process opens them once, for all its files.
_tokenizer = functools.lru_cache(1)(Tokenizer.load)
_index = functools.lru_cache(1)(EvaluationIndex.load)


def encode(folder: Path, wanted: Wanted, tools: Tools) -> None:
    """Writes the tokens of documents, and what copies of them are found by."""
    tokenizer = _tokenizer(tools.tokenizer, tools.tokenizer_digest)
    index = _index(tools.index)
    coverage = Coverage(tokenizer, tools.max_unknown)
    rows, bands, overlaps = [], [], list[tuple[int, int]]()
    done = total = 0
    with (folder / "tokens").open("wb") as out:
        for batch in _batches(wanted.read()):
            texts = [document.text for document in batch]
            numbers = slice(done, done + len(batch))
            names = [wanted.names[w] for w in wanted.where[numbers].tolist()]
            ids = coverage.encode_some(names, texts)
            np.concatenate(ids).astype(tools.token_type).tofile(out)
            hash_W, begin_D = word_hashes(texts)
            row_D = np.zeros(len(batch), ENCODED)
            row_D["document"] = wanted.document[numbers]
            row_D["tokens"] = list(map(len, ids))
            row_D["digest"] = text_digests(hash_W, begin_D)
            rows.append(row_D)
            grams = grams_of(hash_W, begin_D, tools.overlap_words)
            pairs = index.find_all(*grams, tools.overlap_share)
            overlaps += [(done + d, e) for d, e in pairs]
            if tools.near_duplicates:
                grams = grams_of(hash_W, begin_D, NEAR_WORDS)
                bands.append(band_hashes(*grams, tools.near_duplicates))
            done += len(batch)
            total += int(row_D["tokens"].sum())
    np.concatenate([np.zeros(0, ENCODED), *rows]).tofile(folder / "documents")
    np.save(folder / "overlaps.npy", np.array(overlaps, np.int64).reshape(-1, 2))
    if bands:
        np.save(folder / "bands.npy", np.concatenate(bands))
    about = Encoded(done, total, coverage.counts)
    records.save(folder / "about.json", about)


def load(folder: Path) -> tuple[Encoded, np.ndarray]:
    """What `encode` wrote about documents, and they; their arrays are mapped."""
    about = records.load(folder / "about.json", Encoded, ADVICE)
    return about, mapped(folder / "documents", ENCODED, about.documents)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, size = list[Document](), 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
