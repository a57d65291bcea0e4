"""The corpus on disk: rows of units, windows of domains, and what is frozen.

WORKDIR/corpus/
  corpus.json          what was frozen, units, domains; written last
  tokenizer_DIGEST/    the tokenizer
  unit_DIGEST/         one data set for each unit, and for the base text
  domain_DIGEST/       one data set for each split of a domain
  seen_DIGEST/         which `prepare` first saw each evaluation document
  quarantine.jsonl     where the records are that could not be read

Folders are named after the digest of their content: no name from a document
becomes a path, and unchanged content keeps its folder. A folder is renamed into
place when it is complete, and its content is checked against its digest in
corpus.json before it is used.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar

import numpy as np

from jaxsim import records
from jaxsim.config import CorpusConfig, SourceConfig, SplitConfig, TokenizerConfig
from jaxsim.corpus.names import check_domain, check_free
from jaxsim.corpus.rows import EvalWindows, Piece
from jaxsim.corpus.split import BASE, SPLITS
from jaxsim.corpus.tasks import TaskCounts
from jaxsim.corpus.tokenizer import Tokenizer
from jaxsim.errors import DamagedError, UserError, check_known

if TYPE_CHECKING:  # TFDS is large, and processes that encode do without
    from jaxsim.corpus.arrayrecord import TableReader

T = TypeVar("T")

ADVICE = "copy the corpus again, or start over with `jaxsim prepare --refreeze`"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK = 4096  # rows that are read at once while a digest is checked

# An evaluation document, and which `prepare` first saw it, counted from 0.
SEEN = np.dtype([("document", "<u8"), ("generation", "<u4")])

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
    partition: str  # '' for the base text
    group: str
    digest: str  # of the rows and of the tokenizer that made them
    rows: int
    tokens: int  # targets: rows * L
    documents: int
    # Tokens that the sources have of it: more than `tokens` if a part was taken.
    supply: int


@dataclasses.dataclass(frozen=True)
class Domain:
    """A named set of evaluation documents; every dict is keyed by split.

    Several domains of one group have a mean under the group's name.
    """

    name: str
    in_pool: bool
    group: str  # of the partition, or the source
    digests: dict[str, str]
    documents: dict[str, int]
    tokens: dict[str, int]
    bytes: dict[str, int]
    windows: dict[str, int]
    # Of records of prompt and completion; empty for running text.
    tasks: dict[str, Annotated[dict[str, Any], TaskCounts]]

    @property
    def by_document(self) -> bool:
        """Whether its loss is a mean over documents, see `EvaluationSet`."""
        return bool(self.tasks)

    def sums(self) -> list[dict[str, Any]]:
        """Everything that is keyed by split."""
        return [self.digests, self.documents, self.tokens, self.bytes, self.windows]


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
    base: Unit | None  # None: nothing is trained on base text


Counts = dict[str, int]


class Summary(TypedDict):
    """Numbers of documents, for tables; by source, partition or domain."""

    records: Counts
    quarantine: dict[str, dict[str, Counts]]
    dropped: dict[str, Counts]
    unread: dict[str, list[list[str]]]
    duplicates: Counts
    near_duplicates: Counts
    sources: dict[str, str]
    overlap: dict[str, dict[str, Counts]]
    unknown: dict[str, Counts]
    documents: dict[str, Counts]


@dataclasses.dataclass(frozen=True)
class CorpusRecord:
    """What corpus.json says."""

    config: CorpusConfig  # that it was last made from
    frozen: Frozen
    units: dict[str, Unit]
    domains: dict[str, Domain]
    generations: dict[str, int]
    seen: str  # digest of the evaluation documents that training text was compared with
    summary: Annotated[dict[str, Any], Summary]
    fingerprint: str

    def check_parts(self) -> None:
        """Raises a `UserError` if the fields do not fit together; see `records`."""
        for name, entries in (("units", self.units), ("domains", self.domains)):
            records.need(bool(entries), "at least one", entries, name)


class _Documents(TypedDict):
    """What documents.json says of one split of a domain, by document."""

    ids: list[str]
    bytes: list[int]
    tokens: list[int]


@dataclasses.dataclass(frozen=True)
class Tables:
    """The data sets of a corpus: units and domains, each in a folder of its own."""

    workdir: Path
    length: int  # L; all rows have L + 1 tokens
    tokenizer: Tokenizer  # made them; its digest is a part of theirs

    def write_unit(
        self,
        piece: Piece,
        partition: str,
        group: str,
        supply: float,
        chunks: Callable[[], Iterable[np.ndarray]],
    ) -> Unit:
        """Stores the rows of a unit, unless they are stored already.

        Args:
          supply: tokens that there are for each token of the unit.
          chunks: gives int32 [R, L + 1], all rows in parts; called twice.
        """
        from jaxsim.corpus.arrayrecord import write_table

        rows = piece.stop - piece.start
        tokens, width = rows * self.length, self.length + 1
        digest = rows_digest(chunks(), rows, self.length, self.tokenizer.digest)
        unit = Unit(
            name=piece.name,
            partition=partition,
            group=group,
            digest=digest,
            rows=rows,
            tokens=tokens,
            documents=piece.documents,
            supply=round(tokens * supply),
        )
        publish(
            folder_of(self.workdir, "unit", digest),
            lambda folder: write_table(
                folder, ({"tokens": chunk} for chunk in chunks()), 4 * rows * width
            ),
            lambda _: self.open_unit(unit),
        )
        return unit

    def open_unit(self, unit: Unit) -> "TableReader":
        """The rows of a unit; a `DamagedError` if they do not match its digest."""
        from jaxsim.corpus.arrayrecord import TableReader

        what = f"unit {unit.name!r}"
        folder = folder_of(self.workdir, "unit", unit.digest)
        reader = TableReader(folder, what, self.length + 1)
        found = len(reader)
        parts = np.array_split(np.arange(found), found // _CHUNK + 1)
        chunks = (self.tokenizer.check_ids(reader[part]) for part in parts)
        digest = rows_digest(chunks, found, self.length, self.tokenizer.digest)
        if (found, digest) != (unit.rows, unit.digest):
            raise _differs(f"{what}: its rows differ", unit.digest)
        return reader

    def write_windows(self, windows: EvalWindows) -> str:
        """Stores one split of a domain, unless it is stored already; its digest."""
        from jaxsim.corpus.arrayrecord import write_table

        # documents.json has the bytes and tokens of each document beside its id.
        bytes_E, tokens_E = (
            np.bincount(windows.document_R, array_R).astype(np.int64).tolist()
            for array_R in (windows.bytes_R, windows.count_R)
        )
        about = {"ids": windows.documents, "bytes": bytes_E, "tokens": tokens_E}
        digest = windows_digest(windows, about, self.tokenizer.digest)

        def write(folder: Path) -> None:
            columns = {name: getattr(windows, of) for name, of in _COLUMNS.items()}
            columns = {"tokens": windows.tokens_RL1, **columns}
            size = sum(array.nbytes for array in columns.values())
            write_table(folder, [columns], size)
            (folder / "documents.json").write_text(json.dumps(about) + "\n")

        target = folder_of(self.workdir, "domain", digest)
        publish(target, write, lambda _: self.read_windows("domain", digest))
        return digest

    def read_windows(self, what: str, digest: str) -> EvalWindows:
        """One split of a domain; a `DamagedError` if it does not match its digest."""
        from jaxsim.corpus.arrayrecord import TableReader

        folder = folder_of(self.workdir, "domain", digest)
        reader = TableReader(folder, what, self.length + 1, list(_COLUMNS))
        columns = reader.read(np.arange(len(reader)))
        arrays = {
            of: columns[name].astype(np.int64 if name == "bytes" else np.int32)
            for name, of in _COLUMNS.items()
        }
        tokens_RL1 = self.tokenizer.check_ids(columns["tokens"])
        try:
            text = (folder / "documents.json").read_text()
            about = records.from_plain(_Documents, json.loads(text), "documents.json")
            documents = tuple(about["ids"])
            windows = EvalWindows(
                tokens_RL1=tokens_RL1, **arrays, documents=documents, digest=digest
            )
            found = windows_digest(windows, about, self.tokenizer.digest)
        except (OSError, ValueError, RecursionError, UserError) as error:
            raise DamagedError(
                f"{what}: cannot read documents.json in {folder}: {error}; copy "
                "the corpus again"
            ) from error
        if found != digest:
            raise _differs(f"{what}: its windows differ", digest)
        return windows


def write_seen(workdir: Path, seen: np.ndarray) -> str:
    """Stores which evaluation documents there were, `SEEN`; returns the digest."""
    digest = hashlib.sha256(seen.tobytes()).hexdigest()

    def write(folder: Path) -> None:
        (folder / "documents").write_bytes(seen.tobytes())

    publish(
        folder_of(workdir, "seen", digest), write, lambda _: read_seen(workdir, digest)
    )
    return digest


def read_seen(workdir: Path, digest: str) -> np.ndarray:
    """What `write_seen` stored; a `DamagedError` if it does not match its digest."""
    path = folder_of(workdir, "seen", digest) / "documents"
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != digest:
        raise _differs(f"{path}: its content differs", digest)
    return np.frombuffer(data, SEEN)


def _differs(what: str, digest: str) -> DamagedError:
    return DamagedError(
        f"{what} from its digest {digest[:16]}; copy the corpus again, or run "
        "`jaxsim prepare --refreeze`"
    )


class Corpus:
    """The corpus of a workdir; see `open_corpus`.

    Attributes:
      base: the unit of the base text; None if nothing is trained on it.
      base_digests: what the manifest of a run on it says: its digest, by its name.

    Raises:
      UserError: there is no unit, domain or split of this name.
      DamagedError: rows or windows do not match their digest.
    """

    def __init__(self, workdir: Path, record: CorpusRecord):
        self.workdir, self.record = workdir, record
        self.units, self.domains = record.units, record.domains
        frozen = record.frozen
        self.length, self.budget_rows = frozen.length, frozen.budget_rows
        self.budget_tokens = frozen.budget_rows * frozen.length  # of one member's run
        self.base, self.tokenizer_digest = frozen.base, frozen.tokenizer_digest
        based = {BASE: self.base} if self.base else {}
        self.base_digests = {name: unit.digest for name, unit in based.items()}
        # Names become folders of the pool; the corpus may come from anywhere.
        where, fits = f"corpus.json in {workdir}", True
        try:
            for name in self.units:
                check_free(name, where)
            for domain in self.domains.values():
                check_free(domain.group, where)
                (check_free if domain.in_pool else check_domain)(domain.name, where)
        except UserError as error:
            raise DamagedError(str(error)) from error
        for name, unit in (based | self.units).items():
            fits &= (unit.name, unit.tokens) == (name, unit.rows * self.length)
            fits &= unit.supply >= unit.tokens
        partitions = {unit.partition for unit in self.units.values()}
        for name, domain in self.domains.items():
            fits &= (domain.name, domain.in_pool) == (name, name in partitions)
            fits &= all(counts.keys() == {*SPLITS} for counts in domain.sums())
            fits &= domain.tasks.keys() in (set(), {*SPLITS})
        if not fits:
            raise DamagedError(f"{where}: its parts do not fit together; {ADVICE}")
        folder = folder_of(workdir, "tokenizer", self.tokenizer_digest)
        self.tokenizer = Tokenizer.load(folder, self.tokenizer_digest)
        tables = Tables(workdir, self.length, self.tokenizer)
        self._open_unit = functools.cache(tables.open_unit)
        self._read_windows = functools.cache(tables.read_windows)

    def unit(self, name: str) -> Unit:
        """A unit by name; 'base' is that of the base text."""
        if name == BASE and self.base:
            return self.base
        if name == BASE:
            raise UserError(
                f"{self.workdir}: its corpus has no base text, which "
                "config.recipe.replay needs; run `jaxsim prepare --refreeze`"
            )
        return self._find("unit", name, self.units)

    def _find(self, what: str, name: str, among: Mapping[str, T]) -> T:
        check_known(what, name, among, f"the corpus of {self.workdir}")
        return among[name]

    def rows(self, name: str) -> "TableReader":
        """The rows of a unit, or of 'base'; the first call checks all of them."""
        return self._open_unit(self.unit(name))

    def evaluation(self, domain: str, split: str) -> EvalWindows:
        """The windows of the split 'dev' or 'test'; the first call checks them."""
        entry = self._find("domain", domain, self.domains)
        digest = self._find("split", split, entry.digests)
        what = f"domain {domain!r}, split {split!r}"
        found = self._read_windows(what, digest)
        sums = len(found.documents), found.count_R.sum(), found.bytes_R.sum()
        if (digest, *sums, len(found)) != tuple(d[split] for d in entry.sums()):
            raise DamagedError(f"{what}: corpus.json has other sums; {ADVICE}")
        return found


def open_corpus(workdir: Path) -> Corpus:
    """The corpus of a workdir.

    Raises:
      UserError: there is none.
      DamagedError: unreadable, or of an unknown format version; or see `check_tree`.
    """
    records.check_tree(workdir)
    path = path_of(workdir)
    if not path.is_file():
        raise UserError(f"no corpus in {workdir}: run `jaxsim prepare`")
    return Corpus(workdir, records.load(path, CorpusRecord, ADVICE))


def path_of(workdir: Path) -> Path:
    return workdir / "corpus" / "corpus.json"


def rows_digest(
    chunks: Iterable[np.ndarray], rows: int, length: int, tokenizer_digest: str
) -> str:
    """SHA-256 of int32 [rows, length + 1], given in parts, and of a tokenizer."""
    head = f"int32 {rows} {length + 1}\0"
    return _digest(head, ((chunk, "<i4") for chunk in chunks), tokenizer_digest)


def windows_digest(
    windows: EvalWindows, about: dict[str, Any], tokenizer_digest: str
) -> str:
    """SHA-256 of one split of a domain, of `about` its documents, and a tokenizer."""
    head = json.dumps([windows.tokens_RL1.shape, *windows.documents])
    arrays = [getattr(windows, of) for of in _COLUMNS.values()]
    numbers = ((array, "<i8") for array in (*arrays, about["bytes"], about["tokens"]))
    return _digest(head, [(windows.tokens_RL1, "<i4"), *numbers], tokenizer_digest)


def _digest(
    head: str, arrays: Iterable[tuple[np.ndarray, str]], tokenizer_digest: str
) -> str:
    sha = hashlib.sha256(head.encode())
    for array, dtype in arrays:
        sha.update(np.ascontiguousarray(array, dtype).tobytes())
    sha.update(tokenizer_digest.encode())
    return sha.hexdigest()


def folder_of(workdir: Path, kind: str, digest: str) -> Path:
    """The folder of a data set, by its digest; a `DamagedError` if it is none."""
    if not _DIGEST.fullmatch(digest):
        raise DamagedError(
            f"corpus.json in {workdir}: {digest!r} is no SHA-256; copy the corpus again"
        )
    return workdir / "corpus" / f"{kind}_{digest[:32]}"


def folders_of(workdir: Path, record: CorpusRecord) -> list[Path]:
    """The folders of the tokenizer and all data sets that a corpus.json names."""
    digests = [("tokenizer", record.frozen.tokenizer_digest)]
    units = [*record.units.values(), record.frozen.base]
    digests += [("unit", unit.digest) for unit in units if unit]
    digests.append(("seen", record.seen))
    for domain in record.domains.values():
        digests += [("domain", digest) for digest in domain.digests.values()]
    return list(dict.fromkeys(folder_of(workdir, *pair) for pair in digests))


def publish(
    target: Path, write: Callable[[Path], None], read: Callable[[Path], object]
) -> None:
    """Writes the folder `target` in one step, unless it can be read, undamaged."""
    if target.exists():
        with contextlib.suppress(DamagedError):
            read(target)
            return
        shutil.rmtree(target)
    # `tempfile.mkdtemp` makes folders that only their owner can read.
    temporary = target.parent / f".tmp_{uuid.uuid4().hex}"
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        os.rename(temporary, target)
    except OSError:
        if not target.exists():  # another launcher of this workdir was faster
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
