"""Scores of tables of mixtures, in memory and on disk.

    scores/NAME.parquet      mixture x predictor x domain x split, as sums
    scores/NAME.PREDICTOR.npy    nats of every window, float32 [M, R]
    scores/NAME.json         the mixtures, which windows, and digests
    scores/KIND-DIGEST.log   cache of computed losses, see `journal`

Arrays hold losses of windows, the smallest unit that statistics resample;
documents and domains are sums of windows. The JSON is written last, and is
refused if it does not fit its arrays. Tables that use the same windows share a
journal, so no mixture is computed twice on the same windows.
"""

import dataclasses
import functools
import hashlib
import json
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxsim import records
from jaxsim.errors import DamagedError, UserError
from jaxsim.pool.digests import sha256_of_file
from jaxsim.records import Basis, digest
from jaxsim.scoring.evaluation import SPLITS, EvaluationSet
from jaxsim.scoring.journal import Journal
from jaxsim.scoring.stack import Stack
from jaxsim.scoring.table import Mixtures

JOURNAL_FORMAT = 1
_ADVICE = "delete it and run `jaxsim score` again"
# Mixtures that are converted to float64 at once.
_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class PredictorScores:
    """One predictor's losses on some windows.

    Attributes:
      rows: R indices of windows in the evaluation set.
      nll_MR: nats; `nll_MR[m, i]` is mixture m on window `rows[i]`.
    """

    rows: np.ndarray
    nll_MR: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scores:
    """A scored table.

    Attributes:
      name: name of the table.
      table: the mixtures.
      evaluation: the windows that `ProxyScores.rows` index.
      predictors: losses by predictor: 'merge', 'ensemble' and 'members', or
        'reference' for reference runs.
      notes: what an override admitted.
      basis: what it was computed from.
      how: precisions that merges were scored with.
    """

    name: str
    table: Mixtures
    evaluation: EvaluationSet
    predictors: dict[str, PredictorScores]
    notes: tuple[str, ...] = ()
    basis: Basis = dataclasses.field(default_factory=Basis)
    how: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def take(self, rows: np.ndarray) -> "Scores":
        """Keeps the mixtures at these indices."""
        predictors = {
            name: PredictorScores(predictor.rows, predictor.nll_MR[rows])
            for name, predictor in self.predictors.items()
        }
        return dataclasses.replace(
            self, table=self.table.take(rows), predictors=predictors
        )

    def on(self, rows: np.ndarray) -> "Scores":
        """Keeps the windows `rows`, as far as a predictor has them."""
        predictors = {}
        for name, predictor in self.predictors.items():
            here = np.isin(predictor.rows, rows)
            predictors[name] = PredictorScores(
                predictor.rows[here], predictor.nll_MR[:, here]
            )
        return dataclasses.replace(self, predictors=predictors)

    def bits_per_byte(self, predictor: str, split: str) -> np.ndarray:
        """Bits per byte [M, D], float64; NaN for a domain without windows."""
        return bits_of(self.evaluation, self.predictors[predictor], split)


def bits_per_byte(
    nats: np.ndarray | float, byte_count: np.ndarray | float
) -> np.ndarray:
    """Converts summed nats to bits per byte of text; NaN for 0 nats, 0 bytes.

    Args:
      nats: sums of negative log-likelihood.
      byte_count: UTF-8 bytes of the text that the sums are over; must
        broadcast with `nats`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(nats / (byte_count * np.log(2.0)))


def bits_of(
    evaluation: EvaluationSet, predictor: PredictorScores, split: str
) -> np.ndarray:
    """Bits per byte [M, D], float64; NaN for a domain without windows."""
    nll_MD, sums = domain_sums(evaluation, predictor, split)
    return bits_per_byte(nll_MD, sums["bytes"])


def domain_sums(
    evaluation: EvaluationSet, predictor: PredictorScores, split: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Sums losses over the windows of each domain in one split of the data.

    Returns:
      Nats [M, D], float64; and by name the numbers [D] of tokens, bytes,
      windows and documents that they are sums over.
    """
    e, d = evaluation, len(evaluation.domains)
    here = e.split_R[predictor.rows] == SPLITS.index(split)
    rows = predictor.rows[here]
    onehot_RD = np.eye(d)[e.domain_R[rows]]
    nll_MD = np.empty((len(predictor.nll_MR), d))
    for start in range(0, len(nll_MD), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        nll_MD[part] = predictor.nll_MR[part, here].astype(np.float64) @ onehot_RD
    sums = {
        "tokens": e.count_R[rows] @ onehot_RD,
        "bytes": e.bytes_R[rows] @ onehot_RD,
        "windows": onehot_RD.sum(0),
        "documents": np.array(
            [len(np.unique(e.document_R[rows][e.domain_R[rows] == i]))
             for i in range(d)]
        ),
    }  # fmt: skip
    return nll_MD, sums


def row_keys(
    stack: Stack, table: Mixtures, evaluation: EvaluationSet, how: Any
) -> list[str]:
    """Digests everything that the losses of each row depend on.

    The row of the base uses no member, so its key holds only the base's digest.
    """
    keys = []
    digests = dict(zip(stack.names, stack.digests, strict=True))
    for row in range(len(table)):
        scale = float(table.scale_M[row])
        parts = sorted((digests[n], w) for n, w in table.parts(row).items())
        keys.append(
            digest(
                [
                    stack.base_digest,
                    scale,
                    parts if scale else [],
                    evaluation.digest,
                    how,
                ]
            )
        )
    return keys


@dataclasses.dataclass(frozen=True)
class SavedPredictor:
    """Indices of a predictor's windows, and the digest of its array."""

    rows: list[int]
    sha256: str


@dataclasses.dataclass(frozen=True)
class ScoreRecord:
    """The JSON of a table; `parquet` is the SHA-256 of that file."""

    members: tuple[str, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    weights: list[list[float]]
    scales: list[float]
    predictors: dict[str, SavedPredictor]
    parquet: str
    basis: Basis
    how: dict[str, str]
    notes: tuple[str, ...]


class ScoreStore:
    """Saves and loads the scores of a workdir."""

    def __init__(self, workdir: Path) -> None:
        self.folder = Path(workdir) / "scores"
        self._journals: dict[Path, Journal] = {}

    def journal(
        self, kind: str, evaluation: EvaluationSet, rows: np.ndarray, width: int
    ) -> Journal:
        """Returns the cache of values computed on these windows.

        Args:
          kind: 'windows', 'tokens' or 'gradients'.
          evaluation: the evaluation set.
          rows: indices of windows in it.
          width: number of values per mixture.
        """
        little = np.ascontiguousarray(rows, "<i8")
        key = digest(
            [
                JOURNAL_FORMAT,
                evaluation.digest,
                hashlib.sha256(little.tobytes()).hexdigest(),
                width,
            ]
        )
        path = self.folder / f"{kind}-{key[:16]}.log"
        return self._journals.setdefault(path, Journal(path, width))

    def save(self, scores: Scores) -> None:
        """Writes the files of a table, the JSON last."""
        table = scores.table
        predictors = {}
        for name, predictor in scores.predictors.items():
            array = predictor.nll_MR
            predictors[name] = SavedPredictor(predictor.rows.tolist(), _sha256(array))
            records.write(
                self._array(scores.name, name), functools.partial(_save_array, array)
            )
        arrow, parquet = as_arrow(scores), self.folder / f"{scores.name}.parquet"
        records.write(parquet, lambda file: pa.parquet.write_table(arrow, file))
        record = ScoreRecord(
            members=table.members,
            names=table.names,
            kinds=table.kinds,
            weights=table.w_MC.tolist(),
            scales=table.scale_M.tolist(),
            predictors=predictors,
            parquet=sha256_of_file(parquet),
            basis=scores.basis,
            how=dict(scores.how),
            notes=tuple(scores.notes),
        )
        records.save(self.folder / f"{scores.name}.json", record)

    def load(self, name: str, evaluation: EvaluationSet) -> Scores:
        """Loads a table.

        Raises:
          UserError: it was never scored, or on other evaluation text.
          DamagedError: a file is unreadable, or the files do not fit together.
        """
        record = self.record(name)
        path = self.folder / f"{name}.json"
        if record.basis.text != evaluation.digest:
            raise UserError(
                f"{path}: scored on other evaluation text than the corpus has "
                "now; run `jaxsim score` again"
            )
        predictors = {}
        for predictor, about in record.predictors.items():
            array = self._array(name, predictor)
            try:
                nll_MR = _read_array(array)
            except (OSError, ValueError) as error:
                raise DamagedError(
                    f"{array}: unreadable ({error}); run `jaxsim score` again"
                ) from error
            # This is also how a kill while rescoring a table shows.
            shape = len(record.names), len(about.rows)
            if nll_MR.shape != shape or _sha256(nll_MR) != about.sha256:
                raise DamagedError(
                    f"{array}: not the array that {path.name} was saved with; "
                    "run `jaxsim score` again"
                )
            predictors[predictor] = PredictorScores(np.array(about.rows), nll_MR)
        try:
            table = Mixtures(
                record.members,
                record.names,
                record.kinds,
                np.array(record.weights, np.float64),
                np.array(record.scales, np.float64),
            )
        except (UserError, ValueError) as error:
            raise DamagedError(f"{path}: {error}; {_ADVICE}") from error
        return Scores(
            name, table, evaluation, predictors, record.notes, record.basis, record.how
        )

    def names(self) -> list[str]:
        """Names of all scored tables."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def record(self, name: str) -> "ScoreRecord":
        """The JSON of a table.

        Raises:
          UserError: it was never scored.
          DamagedError: it is unreadable, or was altered.
        """
        path = self.folder / f"{name}.json"
        if not path.exists():
            raise UserError(
                f"{self.folder}: table {name!r} has not been scored; run `jaxsim score`"
            )
        return records.load(path, ScoreRecord, _ADVICE)

    def arrow(self, name: str) -> pa.Table:
        """The Parquet file of a table, checked against its JSON.

        Raises:
          UserError: it was never scored.
          DamagedError: one of both is unreadable, or was altered.
        """
        record, path = self.record(name), self.folder / f"{name}.parquet"
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DamagedError(f"{path}: unreadable ({error}); {_ADVICE}") from error
        if hashlib.sha256(content).hexdigest() != record.parquet:
            raise DamagedError(
                f"{path}: not the file that {name}.json was saved with; {_ADVICE}"
            )
        return pa.parquet.read_table(pa.BufferReader(content))

    def _array(self, name: str, predictor: str) -> Path:
        return self.folder / f"{name}.{predictor}.npy"


def as_arrow(scores: Scores) -> pa.Table:
    """Makes a row for each mixture, predictor, domain and split, with sums."""
    e, table = scores.evaluation, scores.table
    m, c = table.w_MC.shape
    # Shared by all predictors, domains and splits.
    mixtures = {
        "mixture": pa.array(table.names, pa.string()),
        "kind": pa.array(table.kinds, pa.string()),
        "scale": pa.array(table.scale_M),
        "weights": pa.ListArray.from_arrays(
            np.arange(m + 1, dtype=np.int32) * c, table.w_MC.ravel()
        ),
    }
    parts = []
    for name, predictor in scores.predictors.items():
        for split in SPLITS:
            nll_MD, sums = domain_sums(e, predictor, split)
            for d in np.flatnonzero(sums["windows"]):
                columns = mixtures | {
                    "predictor": pa.repeat(name, m),
                    "domain": pa.repeat(e.domains[d], m),
                    "in_pool": pa.repeat(e.in_pool[d], m),
                    "split": pa.repeat(split, m),
                    "nll_sum": pa.array(nll_MD[:, d]),
                }
                for key in ("tokens", "bytes", "documents", "windows"):
                    columns[key] = pa.repeat(int(sums[key][d]), m)
                parts.append(pa.table(columns))
    arrow = pa.concat_tables(parts)
    facts = {
        "jaxsim.members": json.dumps(table.members),
        "jaxsim.evaluation": e.digest,
        "jaxsim.notes": json.dumps(scores.notes),
    }
    return arrow.replace_schema_metadata(facts)


def _save_array(array: np.ndarray, file: IO[bytes]) -> None:
    np.save(file, array)


def _read_array(path: Path) -> np.ndarray:
    """Reads an array.

    Raises:
      OSError: there is no such file.
      ValueError: the file is damaged.
    """
    try:
        # A map first: a header may claim any size, and a map cannot exceed the file.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    # NumPy parses the header of a .npy file as Python, and lets these through.
    except (EOFError, SyntaxError, tokenize.TokenError, OverflowError) as error:
        raise ValueError(f"damaged header: {error}") from error


def _sha256(nll_MR: np.ndarray) -> str:
    total = hashlib.sha256(f"{nll_MR.dtype.str} {nll_MR.shape}\0".encode())
    total.update(np.ascontiguousarray(nll_MR).data)
    return total.hexdigest()
