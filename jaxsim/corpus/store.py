"""The corpus on disk: rows of units, windows of domains, and what is frozen.

WORKDIR/corpus/
  corpus.json          what was frozen, units, domains; written last
  tokenizer_DIGEST/    the tokenizer
  unit_DIGEST/         one data set for each base unit, and for the seed
  domain_DIGEST/       one data set for each half of a domain
  quarantine.jsonl     places of the records that could not be read
"""

import json
import os
import threading
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim.corpus.arrayrecord import TableReader
from jaxsim.corpus.datasets import (
    TEMPORARY,
    Domain,
    EvaluationRows,
    Unit,
    folder_of,
    open_unit,
    read_evaluation,
)
from jaxsim.corpus.names import check_name
from jaxsim.corpus.tokenizer import Tokenizer
from jaxsim.errors import DamagedError, UserError

FORMAT_VERSION = 1
SEED = "seed"  # the name of the seed's unit

__all__ = [
    "FORMAT_VERSION",
    "SEED",
    "Corpus",
    "Domain",
    "EvaluationRows",
    "RowReader",
    "Unit",
    "open_corpus",
    "write_record",
]


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
    """What `prepare` left in a workdir. Open it with `open_corpus`."""

    def __init__(self, workdir: Path, record: dict[str, Any]):
        self.workdir = workdir
        self.record = record  # corpus.json as it is
        frozen = record["frozen"]
        self.length: int = frozen["length"]
        self.budget_rows: int = frozen["budget_rows"]
        self.units = {n: Unit(**u) for n, u in record["units"].items()}
        self.domains = {n: Domain(**d) for n, d in record["domains"].items()}
        _check_names(workdir, [*self.units, *self.domains])
        self.seed = Unit(**frozen["seed"])
        self.tokenizer_digest: str = frozen["tokenizer_digest"]
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
        self._evaluations: dict[tuple[str, str], EvaluationRows] = {}

    @property
    def budget_tokens(self) -> int:
        """Tokens that one member is trained on."""
        return self.budget_rows * self.length

    def unit(self, name: str) -> Unit:
        """A base unit by name, or the seed's.

        Raises:
          UserError: unknown.
        """
        if name == SEED:
            return self.seed
        if name not in self.units:
            raise UserError(
                f"no unit {name!r} in the corpus of {self.workdir}; it has "
                f"{', '.join(self.units)}"
            )
        return self.units[name]

    def rows(self, name: str) -> RowReader:
        """Rows of a unit, or of 'seed'; the first call checks the digest.

        Raises:
          DamagedError: the rows are not what the digest says.
        """
        unit = self.unit(name)
        with self._lock:
            if name not in self._readers:
                reader = open_unit(
                    self.workdir, unit, self.length, self.tokenizer_digest
                )
                self._readers[name] = RowReader(unit, reader, self.tokenizer)
            return self._readers[name]

    def evaluation(self, domain: str, half: str) -> EvaluationRows:
        """The windows of 'select' or 'report'; the first call checks them.

        Raises:
          UserError: unknown domain.
          DamagedError: the windows are not what the digest says.
        """
        if domain not in self.domains:
            raise UserError(
                f"no domain {domain!r} in the corpus of {self.workdir}; it has "
                f"{', '.join(self.domains)}"
            )
        with self._lock:
            if (domain, half) not in self._evaluations:
                evaluation = read_evaluation(
                    self.workdir, self.domains[domain], half, self.length,
                    self.tokenizer_digest,
                )  # fmt: skip
                self.tokenizer.check_ids(evaluation.tokens_RL1)
                self._evaluations[domain, half] = evaluation
            return self._evaluations[domain, half]


def _check_names(workdir: Path, names: Iterable[str]) -> None:
    """They become folders: a corpus may have been copied from anywhere."""
    for name in names:
        try:
            check_name(name, f"corpus.json in {workdir}")
        except UserError as error:
            raise DamagedError(str(error)) from error


def open_corpus(workdir: Path) -> Corpus:
    """The corpus of a workdir.

    Raises:
      UserError: there is none.
      DamagedError: unreadable, or of an unknown format version.
    """
    path = workdir / "corpus" / "corpus.json"
    if not path.is_file():
        raise UserError(f"no corpus in {workdir}: run `jaxsim prepare`")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{path} is damaged: {error}; copy it again, or start over with "
            "`jaxsim prepare --refreeze`"
        ) from error
    if version != FORMAT_VERSION:
        raise DamagedError(
            f"{path} has format version {version!r}, this jaxsim reads "
            f"{FORMAT_VERSION}; use the version that wrote it, or start over "
            "with `jaxsim prepare --refreeze`"
        )
    try:
        return Corpus(workdir, record)
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{path} is damaged: {error!r}; copy it again, or start over with "
            "`jaxsim prepare --refreeze`"
        ) from error


def write_record(workdir: Path, record: dict[str, Any]) -> None:
    """Publishes corpus.json in one step: until then nothing has changed."""
    path = workdir / "corpus" / "corpus.json"
    # Of its own: two launchers may fetch one corpus.
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(record, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
