"""The corpus on disk: rows of units, windows of domains, and what is frozen.

WORKDIR/corpus/
  corpus.json          what was frozen, units, domains; written last
  tokenizer_DIGEST/    the tokenizer
  unit_DIGEST/         one data set for each unit, and for the base model
  domain_DIGEST/       one data set for each split of a domain
  quarantine.jsonl     where the records are that could not be read

Folders are named after the digest of their content: no name from a document
becomes a path, and unchanged content keeps its folder. A folder is renamed into
place when it is complete, and its content is checked against its digest in
corpus.json before it is used.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim import records
from jaxsim.config import SourceConfig, SplitConfig, TokenizerConfig
from jaxsim.corpus.arrayrecord import TableReader, write_table
from jaxsim.corpus.names import check_name
from jaxsim.corpus.rows import EvalWindows
from jaxsim.corpus.split import BASE
from jaxsim.corpus.tokenizer import Tokenizer
from jaxsim.errors import DamagedError, UserError

_ADVICE = "copy the corpus again, or start over with `jaxsim prepare --refreeze`"
TEMPORARY = ".tmp_"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK = 4096  # rows that are read at once while a digest is checked

# Columns of a stored domain, and their arrays in `EvalWindows`, in the order of the
# digest.
_COLUMNS = {
    "first_scored": "first_R",
    "n_scored": "count_R",
    "document": "document_R",
    "bytes": "bytes_R",
    "length": "length_R",
}


@dataclasses.dataclass(frozen=True)
class Unit:
    """The rows that one member, or the base model, is trained on."""

    name: str
    partition: str  # '' for the base model
    group: str
    digest: str  # of the rows and of the tokenizer that made them
    rows: int
    tokens: int  # targets: rows * L
    documents: int


@dataclasses.dataclass(frozen=True)
class Domain:
    """A named set of evaluation documents; every dict is keyed by split."""

    name: str
    in_pool: bool
    digests: dict[str, str]
    documents: dict[str, int]
    tokens: dict[str, int]
    bytes: dict[str, int]
    windows: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What the first `prepare` decided for the whole pool."""

    length: int
    budget_rows: int
    tokenizer: TokenizerConfig
    split: SplitConfig
    base_text: dict[str, SourceConfig]
    tokenizer_digest: str
    base_partitions: list[str]
    base: Unit


@dataclasses.dataclass(frozen=True)
class CorpusRecord:
    """What corpus.json says."""

    frozen: Frozen
    units: dict[str, Unit]
    domains: dict[str, Domain]
    generations: dict[str, int]
    summary: dict[str, Any]
    fingerprint: str


class RowReader:
    """Random access to the rows of a unit; safe to use from several threads."""

    def __init__(self, unit: Unit, reader: TableReader, tokenizer: Tokenizer):
        self.unit = unit
        self._reader = reader
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return self.unit.rows

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """Rows at `indices`, int32 [n, L + 1]."""
        indices = np.asarray(indices)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(
                f"rows {indices.min()} to {indices.max()} of unit "
                f"{self.unit.name!r}, which has {len(self)}"
            )
        tokens_RL1 = self._reader.read(indices)["tokens"]
        return self._tokenizer.check_ids(tokens_RL1)


class Corpus:
    """The corpus of a workdir. Open it with `open_corpus`."""

    def __init__(self, workdir: Path, record: CorpusRecord):
        self.workdir = workdir
        self.record: dict[str, Any] = records.plain(
            record
        )  # the content of corpus.json
        frozen = record.frozen
        self.length = frozen.length
        self.budget_rows = frozen.budget_rows
        self.units, self.domains = record.units, record.domains
        for name in [*self.units, *self.domains]:
            # Names become folders of the pool; the corpus may come from anywhere.
            try:
                check_name(name, f"corpus.json in {workdir}")
            except UserError as error:
                raise DamagedError(str(error)) from error
        self.base = frozen.base
        self.tokenizer_digest = frozen.tokenizer_digest
        self.tokenizer = Tokenizer.load(
            folder_of(workdir, "tokenizer", self.tokenizer_digest)
        )
        if self.tokenizer.digest != self.tokenizer_digest:
            raise DamagedError(
                f"corpus in {workdir}: its tokenizer has digest "
                f"{self.tokenizer.digest[:16]}, frozen was "
                f"{self.tokenizer_digest[:16]}; copy the corpus again"
            )
        self._lock = threading.Lock()
        self._readers: dict[str, RowReader] = {}
        self._evaluations: dict[tuple[str, str], EvalWindows] = {}

    @property
    def budget_tokens(self) -> int:
        """Tokens that one member is trained on."""
        return self.budget_rows * self.length

    def unit(self, name: str) -> Unit:
        """A unit by name; 'base' is the base model's.

        Raises:
          UserError: there is no such unit.
        """
        if name == BASE:
            return self.base
        if name not in self.units:
            raise UserError(
                f"no unit {name!r} in the corpus of {self.workdir}; it has "
                f"{', '.join(self.units)}"
            )
        return self.units[name]

    def rows(self, name: str) -> RowReader:
        """The rows of a unit, or of 'base'; the first call checks their digest.

        Raises:
          DamagedError: the rows do not match the digest.
        """
        unit = self.unit(name)
        with self._lock:
            if name not in self._readers:
                reader = _open_unit(
                    self.workdir, unit, self.length, self.tokenizer_digest
                )
                self._readers[name] = RowReader(unit, reader, self.tokenizer)
            return self._readers[name]

    def evaluation(self, domain: str, split: str) -> EvalWindows:
        """The windows of the split 'dev' or 'test'; the first call checks them.

        Raises:
          UserError: there is no such domain or split.
          DamagedError: the windows do not match the digest.
        """
        if domain not in self.domains:
            raise UserError(
                f"no domain {domain!r} in the corpus of {self.workdir}; it has "
                f"{', '.join(self.domains)}"
            )
        digests = self.domains[domain].digests
        if split not in digests:
            raise UserError(
                f"domain {domain!r} has no split {split!r}; it has {', '.join(digests)}"
            )
        with self._lock:
            if (domain, split) not in self._evaluations:
                windows = _read_windows(
                    folder_of(self.workdir, "domain", digests[split]),
                    f"domain {domain!r}, split {split!r}",
                    digests[split], self.length, self.tokenizer_digest,
                )  # fmt: skip
                self.tokenizer.check_ids(windows.tokens_RL1)
                self._evaluations[domain, split] = windows
            return self._evaluations[domain, split]


def open_corpus(workdir: Path) -> Corpus:
    """The corpus of a workdir.

    Raises:
      UserError: there is none.
      DamagedError: unreadable, or of an unknown format version.
    """
    path = workdir / "corpus" / "corpus.json"
    if not path.is_file():
        raise UserError(f"no corpus in {workdir}: run `jaxsim prepare`")
    return Corpus(workdir, records.load(path, CorpusRecord, _ADVICE))


def record_of(data: dict[str, Any]) -> CorpusRecord:
    """A corpus's record from plain data."""
    record: CorpusRecord = records.from_plain(
        CorpusRecord, records.plain(data), "corpus.json"
    )
    return record


def parse_record(text: str, where: str) -> dict[str, Any]:
    """The content of a corpus.json as plain data; see `records.parse`."""
    return dict(records.plain(records.parse(text, CorpusRecord, where, _ADVICE)))


def write_record(workdir: Path, record: dict[str, Any]) -> None:
    """Publishes corpus.json in one step: until then nothing has changed."""
    records.save(workdir / "corpus" / "corpus.json", record_of(record))


def write_unit(
    workdir: Path,
    tokens_RL1: np.ndarray,
    tokenizer_digest: str,
    name: str,
    partition: str,
    group: str,
    documents: int,
) -> Unit:
    """Stores the rows of a unit, unless they are stored already."""
    rows, length = len(tokens_RL1), tokens_RL1.shape[1] - 1
    digest = rows_digest([tokens_RL1], rows, length, tokenizer_digest)
    unit = Unit(name, partition, group, digest, rows, rows * length, documents)
    publish(
        folder_of(workdir, "unit", digest),
        lambda _: _open_unit(workdir, unit, length, tokenizer_digest),
        lambda folder: write_table(folder, {"tokens": tokens_RL1}),
    )
    return unit


def _open_unit(
    workdir: Path, unit: Unit, length: int, tokenizer_digest: str
) -> TableReader:
    """The rows of a unit, after checking all of them against its digest.

    Raises:
      DamagedError: missing or different.
    """
    what = f"unit {unit.name!r}"
    folder = folder_of(workdir, "unit", unit.digest)
    reader = TableReader(folder, what, length + 1)
    found = len(reader)
    chunks = (
        reader.read(np.arange(start, min(start + _CHUNK, found)))["tokens"]
        for start in range(0, found, _CHUNK)
    )
    if found != unit.rows or unit.digest != rows_digest(
        chunks, found, length, tokenizer_digest
    ):
        raise DamagedError(
            f"{what}: its rows differ from its digest {unit.digest[:16]}; copy "
            "the corpus again, or run `jaxsim prepare --refreeze`"
        )
    return reader


def rows_digest(
    chunks: Iterable[np.ndarray], rows: int, length: int, tokenizer_digest: str
) -> str:
    """SHA-256 of dtype, shape and bytes of int32 rows, and of a tokenizer.

    Args:
      chunks: parts of the array [rows, length + 1], in order.
    """
    sha = hashlib.sha256(f"int32 {rows} {length + 1}\0".encode())
    for chunk in chunks:
        sha.update(np.ascontiguousarray(chunk, "<i4").tobytes())
    sha.update(tokenizer_digest.encode())
    return sha.hexdigest()


def write_windows(workdir: Path, windows: EvalWindows, tokenizer_digest: str) -> str:
    """Stores one split of a domain, unless it is stored already; its digest."""
    # documents.json has the bytes and tokens of each document beside its id.
    bytes_E, tokens_E = (
        np.bincount(windows.document_R, array_R).astype(np.int64)
        for array_R in (windows.bytes_R, windows.count_R)
    )
    digest = windows_digest(windows, bytes_E, tokens_E, tokenizer_digest)
    length = windows.tokens_RL1.shape[1] - 1

    def write(folder: Path) -> None:
        columns = {name: getattr(windows, of) for name, of in _COLUMNS.items()}
        write_table(folder, {"tokens": windows.tokens_RL1, **columns})
        about = {
            "ids": windows.documents,
            "bytes": bytes_E.tolist(),
            "tokens": tokens_E.tolist(),
        }
        (folder / "documents.json").write_text(json.dumps(about) + "\n")

    publish(
        folder_of(workdir, "domain", digest),
        lambda folder: _read_windows(
            folder, "domain", digest, length, tokenizer_digest
        ),
        write,
    )
    return digest


def _read_windows(
    folder: Path, what: str, digest: str, length: int, tokenizer_digest: str
) -> EvalWindows:
    """One split of a domain, after checking it against its digest.

    Raises:
      DamagedError: missing or different.
    """
    reader = TableReader(folder, what, length + 1, list(_COLUMNS))
    columns = reader.read(np.arange(len(reader)))
    try:
        about = json.loads((folder / "documents.json").read_text())
        documents = tuple(map(str, about["ids"]))
        bytes_E, tokens_E = (
            np.array(about[key], np.int64) for key in ("bytes", "tokens")
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{what}: cannot read documents.json in {folder}: {error}; copy "
            "the corpus again"
        ) from error
    windows = EvalWindows(
        tokens_RL1=columns["tokens"],
        **{
            of: columns[name].astype(np.int64 if name == "bytes" else np.int32)
            for name, of in _COLUMNS.items()
        },
        documents=documents,
        digest=digest,
    )
    if digest != windows_digest(windows, bytes_E, tokens_E, tokenizer_digest):
        raise DamagedError(
            f"{what}: its windows differ from its digest {digest[:16]}; copy "
            "the corpus again, or run `jaxsim prepare --refreeze`"
        )
    return windows


def windows_digest(
    windows: EvalWindows,
    bytes_E: np.ndarray,
    tokens_E: np.ndarray,
    tokenizer_digest: str,
) -> str:
    """SHA-256 of the content of one split of a domain, and of a tokenizer."""
    about = [windows.tokens_RL1.shape, *windows.documents]
    sha = hashlib.sha256(json.dumps(about).encode())
    sha.update(np.ascontiguousarray(windows.tokens_RL1, "<i4").tobytes())
    arrays = [getattr(windows, of) for of in _COLUMNS.values()]
    for array in (*arrays, bytes_E, tokens_E):
        sha.update(np.ascontiguousarray(array, "<i8").tobytes())
    sha.update(tokenizer_digest.encode())
    return sha.hexdigest()


def folder_of(workdir: Path, kind: str, digest: str) -> Path:
    """The folder of a data set, by its digest.

    Raises:
      DamagedError: `digest` is no SHA-256.
    """
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise DamagedError(
            f"corpus.json in {workdir}: {digest!r} is no SHA-256; copy the corpus again"
        )
    return workdir / "corpus" / f"{kind}_{digest[:32]}"


def folders_of(workdir: Path, record: dict[str, Any]) -> list[Path]:
    """The folders of the tokenizer and all data sets that a corpus.json names.

    Raises:
      DamagedError: a digest in it is no SHA-256.
      KeyError, TypeError, AttributeError: it is no content of a corpus.json.
    """
    frozen = record["frozen"]
    digests = [("tokenizer", frozen["tokenizer_digest"])]
    units = [frozen["base"], *record["units"].values()]
    digests += [("unit", unit["digest"]) for unit in units]
    for domain in record["domains"].values():
        digests += [("domain", digest) for digest in domain["digests"].values()]
    return list(dict.fromkeys(folder_of(workdir, *pair) for pair in digests))


def publish(
    target: Path, stored: Callable[[Path], object], write: Callable[[Path], None]
) -> None:
    """Writes the folder `target`, unless `stored` can read it."""
    if target.exists():
        try:
            stored(target)
        except DamagedError:
            shutil.rmtree(target)
        else:
            return
    # `tempfile.mkdtemp` makes folders that only their owner can read.
    temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    temporary.mkdir()
    write(temporary)
    os.rename(temporary, target)
