"""Data sets of the corpus: the rows of one unit, or one half of a domain.

Folders are named after the digest of their content, not after partitions: no
name from a document ever becomes a path here, and content that did not change
keeps its folder. A folder appears by a rename, complete, and is trusted only
if what is in it has the digest that corpus.json gives.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from jaxsim.corpus.arrayrecord import TableReader, write_table
from jaxsim.corpus.rows import Windows
from jaxsim.errors import DamagedError, UserError

_CHUNK = 4096  # rows that are read at once while a digest is checked
_COLUMNS = ("first_scored", "n_scored", "document", "bytes", "length")
TEMPORARY = ".tmp_"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Unit:
    """What one member trains on; also the seed's text."""

    name: str
    partition: str  # '' for the seed
    group: str
    digest: str  # of the rows and of the tokenizer that made them
    rows: int
    tokens: int  # targets: rows * L
    documents: int


@dataclasses.dataclass(frozen=True)
class Domain:
    """A named set of evaluation documents; every dict is keyed by half."""

    name: str
    in_pool: bool
    digests: dict[str, str]
    documents: dict[str, int]
    tokens: dict[str, int]
    bytes: dict[str, int]
    windows: dict[str, int]


@dataclasses.dataclass(frozen=True)
class EvaluationRows:
    """One half of a domain. Letters: R windows, L length, E documents.

    Targets of a row are `tokens[1:]`; those at positions `first_scored` to
    `first_scored + n_scored - 1` are scored.
    """

    tokens_RL1: np.ndarray  # int32
    first_scored_R: np.ndarray  # int32
    n_scored_R: np.ndarray  # int32
    document_R: np.ndarray  # int32, index into `ids`
    bytes_R: np.ndarray  # int64, of the scored targets
    length_R: np.ndarray  # int32, valid targets; below L in a padded row
    ids: tuple[str, ...]
    bytes_E: np.ndarray  # int64
    tokens_E: np.ndarray  # int64
    digest: str


def rows_digest(
    chunks: Iterable[np.ndarray], rows: int, length: int, tokenizer_digest: str
) -> str:
    """SHA-256 of dtype, shape and bytes of int32 rows, and of a tokenizer.

    Args:
      chunks: together the array [rows, length + 1].
    """
    sha = hashlib.sha256(f"int32 {rows} {length + 1}\0".encode())
    for chunk in chunks:
        sha.update(np.ascontiguousarray(chunk, "<i4").tobytes())
    sha.update(tokenizer_digest.encode())
    return sha.hexdigest()


def write_unit(
    workdir: Path, tokens_RL1: np.ndarray, tokenizer_digest: str
) -> str:
    """Stores rows, unless they are stored already; their digest."""
    rows, width = tokens_RL1.shape
    digest = rows_digest([tokens_RL1], rows, width - 1, tokenizer_digest)
    target = folder_of(workdir, "unit", digest)

    def stored(folder: Path) -> None:
        reader = TableReader(folder, "unit", width)
        _check_unit(reader, "unit", digest, rows, width - 1, tokenizer_digest)

    publish(
        target,
        stored,
        lambda folder: write_table(folder, {"tokens": tokens_RL1}),
    )
    return digest


def open_unit(
    workdir: Path, unit: Unit, length: int, tokenizer_digest: str
) -> TableReader:
    """The rows of a unit, after checking all of them against its digest.

    Raises:
      DamagedError: missing or different.
    """
    what = f"unit {unit.name!r}"
    folder = folder_of(workdir, "unit", unit.digest)
    reader = TableReader(folder, what, length + 1)
    _check_unit(reader, what, unit.digest, unit.rows, length, tokenizer_digest)
    return reader


def _check_unit(
    reader: TableReader,
    what: str,
    digest: str,
    rows: int,
    length: int,
    tokenizer_digest: str,
) -> None:
    found = len(reader)
    chunks = (
        reader.read(np.arange(start, min(start + _CHUNK, found)))["tokens"]
        for start in range(0, found, _CHUNK)
    )
    if found != rows or digest != rows_digest(
        chunks, rows, length, tokenizer_digest
    ):
        raise DamagedError(
            f"{what}: its rows differ from its digest {digest[:16]}; copy the "
            "corpus again, or run `jaxsim prepare --refreeze`"
        )


def evaluation_digest(
    windows: Windows,
    ids: Sequence[str],
    bytes_E: np.ndarray,
    tokens_E: np.ndarray,
    tokenizer_digest: str,
) -> str:
    """SHA-256 of all there is in one half of a domain, and of a tokenizer."""
    sha = hashlib.sha256(json.dumps([windows.tokens_RL1.shape, *ids]).encode())
    sha.update(np.ascontiguousarray(windows.tokens_RL1, "<i4").tobytes())
    for array in (
        windows.first_scored_R,
        windows.n_scored_R,
        windows.document_R,
        windows.bytes_R,
        windows.length_R,
        bytes_E,
        tokens_E,
    ):
        sha.update(np.ascontiguousarray(array, "<i8").tobytes())
    sha.update(tokenizer_digest.encode())
    return sha.hexdigest()


def write_evaluation(
    workdir: Path,
    windows: Windows,
    ids: Sequence[str],
    bytes_E: np.ndarray,
    tokens_E: np.ndarray,
    tokenizer_digest: str,
) -> str:
    """Stores one half of a domain, unless stored already; its digest."""
    digest = evaluation_digest(
        windows, ids, bytes_E, tokens_E, tokenizer_digest
    )
    target = folder_of(workdir, "domain", digest)
    length = windows.tokens_RL1.shape[1] - 1

    def write(folder: Path) -> None:
        write_table(
            folder,
            {
                "tokens": windows.tokens_RL1,
                "first_scored": windows.first_scored_R,
                "n_scored": windows.n_scored_R,
                "document": windows.document_R,
                "bytes": windows.bytes_R,
                "length": windows.length_R,
            },
        )
        about = {
            "ids": list(ids),
            "bytes": bytes_E.tolist(),
            "tokens": tokens_E.tolist(),
        }
        (folder / "documents.json").write_text(json.dumps(about) + "\n")

    publish(
        target,
        lambda folder: _read_evaluation(
            folder, "domain", digest, length, tokenizer_digest
        ),
        write,
    )
    return digest


def read_evaluation(
    workdir: Path,
    domain: Domain,
    half: str,
    length: int,
    tokenizer_digest: str,
) -> EvaluationRows:
    """One half of a domain, after checking it against its digest.

    Raises:
      UserError: no such half.
      DamagedError: missing or different.
    """
    if half not in domain.digests:
        raise UserError(
            f"domain {domain.name!r} has no half {half!r}; it has "
            f"{', '.join(domain.digests)}"
        )
    digest = domain.digests[half]
    folder = folder_of(workdir, "domain", digest)
    what = f"domain {domain.name!r}, half {half!r}"
    return _read_evaluation(folder, what, digest, length, tokenizer_digest)


def _read_evaluation(
    folder: Path, what: str, digest: str, length: int, tokenizer_digest: str
) -> EvaluationRows:
    reader = TableReader(folder, what, length + 1, _COLUMNS)
    columns = reader.read(np.arange(len(reader)))
    windows = Windows(
        columns["tokens"],
        columns["first_scored"].astype(np.int32),
        columns["n_scored"].astype(np.int32),
        columns["document"].astype(np.int32),
        columns["bytes"],
        columns["length"].astype(np.int32),
    )
    try:
        about = json.loads((folder / "documents.json").read_text())
        ids = tuple(map(str, about["ids"]))
        bytes_E = np.array(about["bytes"], np.int64)
        tokens_E = np.array(about["tokens"], np.int64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{what}: cannot read documents.json in {folder}: {error}; copy "
            "the corpus again"
        ) from error
    if digest != evaluation_digest(
        windows, ids, bytes_E, tokens_E, tokenizer_digest
    ):
        raise DamagedError(
            f"{what}: its windows differ from its digest {digest[:16]}; copy "
            "the corpus again, or run `jaxsim prepare --refreeze`"
        )
    return EvaluationRows(
        tokens_RL1=windows.tokens_RL1,
        first_scored_R=windows.first_scored_R,
        n_scored_R=windows.n_scored_R,
        document_R=windows.document_R,
        bytes_R=windows.bytes_R,
        length_R=windows.length_R,
        ids=ids,
        bytes_E=bytes_E,
        tokens_E=tokens_E,
        digest=digest,
    )


def folder_of(workdir: Path, kind: str, digest: str) -> Path:
    """The folder of a data set: only a digest can choose it.

    Raises:
      DamagedError: the digest is none.
    """
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise DamagedError(
            f"corpus.json in {workdir}: {digest!r} is no SHA-256; copy the "
            "corpus again"
        )
    return workdir / "corpus" / f"{kind}_{digest[:32]}"


def publish(
    target: Path,
    stored: Callable[[Path], object],
    write: Callable[[Path], None],
) -> None:
    """Leaves `target` as it is if `stored` can read it, else writes it anew."""
    if target.exists():
        try:
            stored(target)
        except DamagedError:
            shutil.rmtree(target)
        else:
            return
    # Not `tempfile.mkdtemp`: its folders can only be read by their owner.
    temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    temporary.mkdir()
    write(temporary)
    os.rename(temporary, target)


def remove_leftovers(parent: Path) -> None:
    """Deletes what a killed `prepare` had begun; only under its lock."""
    for leftover in parent.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover)
