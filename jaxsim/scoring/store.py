"""What scoring keeps on disk: scored tables, and a cache of losses.

    scores/NAME.parquet      mixture x predictor x domain x split, as sums
    scores/NAME.PREDICTOR.npy    nats of every window, float32 [M, R]
    scores/NAME.json         the mixtures, which windows, and digests
    scores/NAME.documents.parquet  losses by document, if asked for; see `documents`
    scores/NAME.parquet alone: a very large table; see `predicted`
    scores/KIND-DIGEST.log   cache of computed losses, see `Journal`

The JSON is written last, and is refused if it does not fit its arrays. Tables that use
the same windows share a journal, so no mixture is computed twice on the same windows.
"""

import dataclasses
import fcntl
import functools
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxsim import records
from jaxsim.errors import DamagedError, UserError
from jaxsim.pool.digests import sha256_of_file
from jaxsim.records import Basis, digest
from jaxsim.scoring.documents import write_documents
from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.scoring.scores import PredictorScores, Scores, as_arrow
from jaxsim.scoring.stack import StackedPool
from jaxsim.scoring.table import Mixtures

JOURNAL_FORMAT = 1
BEST_OF = "best-of-"  # begins the name of the table of a predicted table's best
_ADVICE = "delete it and run `jaxsim score` again"
_KEY, _CHECK = 32, 4  # bytes


class Journal:
    """An append-only file of losses, saved row by row as they are computed.

    It holds records of one size:

        key      32 bytes: SHA-256 of everything that the values depend on
        values   float32, little-endian
        check    CRC-32 of both, 4 bytes, little-endian

    A record that is not finite or whose check fails, because it was half written or a
    bit flipped, is ignored: its values are computed again and appended. Several
    processes of one machine may append to the same file.

    Args:
      path: of the file, which is created with its folder by the first append.
      width: number of values in a row.
    """

    def __init__(self, path: Path, width: int) -> None:
        self.path = Path(path)
        self.width = width
        self._size = _KEY + width * 4 + _CHECK
        self._record_of: dict[bytes, int] = {}
        self._indexed = 0

    def read(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Reads the rows that are on file.

        Args:
          keys: hexadecimal SHA-256 of M rows.

        Returns:
          Values, float32 [M, width], and the indices of the rows that are missing.
        """
        values_MW = np.empty((len(keys), self.width), np.float32)
        missing = np.arange(len(keys))
        if self.path.exists():
            with self.path.open("rb", buffering=0) as file:
                self._index(file.fileno())
                rows = enumerate(zip(keys, values_MW, strict=True))
                gone = [m for m, row in rows if not self._found(file.fileno(), *row)]
            missing = np.array(gone, int)
        return values_MW, missing

    def append(self, keys: Sequence[str], values_KW: np.ndarray) -> None:
        """Appends rows, so that a process that is killed later does not lose them."""
        rows = []
        for key, values_W in zip(
            keys, np.ascontiguousarray(values_KW, "<f4"), strict=True
        ):
            body = bytes.fromhex(key) + values_W.tobytes()
            rows += [body, _check(body)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with records.naming(self.path), self.path.open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Remove the partial record of a killed process, so that records
            # stay aligned.
            size = file.seek(0, os.SEEK_END)
            file.truncate(size - size % self._size)
            view = memoryview(b"".join(rows))
            while view:
                view = view[os.write(file.fileno(), view) :]

    def _found(self, file: int, key: str, values_W: np.ndarray) -> bool:
        """Whether a sound row with this key is on file; reads its values."""
        raw = bytes.fromhex(key)
        if (at := self._record_of.get(raw)) is None:
            return False
        record = os.pread(file, self._size, at * self._size)
        if not record.startswith(raw) or _check(record[:-_CHECK]) != record[-_CHECK:]:
            return False
        values_W[:] = np.frombuffer(record, "<f4", self.width, offset=_KEY)
        return bool(np.isfinite(values_W).all())

    def _index(self, file: int) -> None:
        """Indexes the keys appended since the last call; the last one wins.

        The rest of a record is read and checked only when it is requested.
        """
        count = os.fstat(file).st_size // self._size
        if count < self._indexed:  # the file was deleted
            self._record_of.clear()
            self._indexed = 0
        for i in range(self._indexed, count):
            self._record_of[os.pread(file, _KEY, i * self._size)] = i
        self._indexed = count


def _check(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(_CHECK, "little")


def row_keys(
    stack: StackedPool, table: Mixtures, evaluation: EvaluationSet, how: object
) -> list[str]:
    """Digests everything that the losses of each row depend on.

    The row of the base uses no member, so its key holds only the base's digest.
    """
    keys = []
    digests = dict(zip(stack.names, stack.digests, strict=True))
    for row in range(len(table)):
        scale = float(table.scale_M[row])
        parts = sorted((digests[n], w) for n, w in table.parts(row).items())
        models = [stack.base_digest, scale, parts if scale else []]
        keys.append(digest([*models, evaluation.digest, how]))
    return keys


@dataclasses.dataclass(frozen=True)
class SavedPredictor:
    """Indices of a predictor's windows, and the SHA-256 of its file."""

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

    def check_parts(self) -> None:
        """Raises a `UserError` if there are no scores; see `records`."""
        records.need(bool(self.predictors), "at least one", {}, "predictors")


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
        windows = hashlib.sha256(np.ascontiguousarray(rows, "<i8").tobytes())
        key = digest([JOURNAL_FORMAT, evaluation.digest, windows.hexdigest(), width])
        path = self.folder / f"{kind}-{key[:16]}.log"
        return self._journals.setdefault(path, Journal(path, width))

    def save(self, scores: Scores) -> None:
        """Writes the files of a table, the JSON last."""
        table, predictors = scores.table, {}
        for name, predictor in scores.predictors.items():
            path = self._array(scores.name, name)
            records.write(path, functools.partial(np.save, arr=predictor.nll_MR))
            rows = predictor.rows.tolist()
            predictors[name] = SavedPredictor(rows, sha256_of_file(path))
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

    def save_predicted(self, name: str, fill: Callable[[IO[bytes]], None]) -> None:
        """Writes the only file of a table that is predicted; see `predicted`.

        What was scored under its name, and the best of an earlier one, are deleted,
        their JSON first.
        """
        old = [p for x in (name, BEST_OF + name) for p in self.folder.glob(f"{x}.*")]
        for path in sorted(old, key=lambda p: p.suffix != ".json"):
            path.unlink()
        records.write(self.folder / f"{name}.parquet", fill)

    def save_documents(self, scores: Scores) -> Path:
        """Writes the losses by document of a table that is saved."""
        path = self.folder / f"{scores.name}.documents.parquet"
        records.write(path, functools.partial(write_documents, scores))
        return path

    def load(self, name: str, evaluation: EvaluationSet) -> Scores:
        """Loads a table.

        Raises:
          UserError: it was never scored, or on other evaluation text.
          DamagedError: a file is unreadable, or the files do not fit together.
        """
        record, path = self.record(name), self.folder / f"{name}.json"
        if record.basis.text != evaluation.digest:
            raise UserError(
                f"{path}: scored on other evaluation text than the corpus has now; run "
                "`jaxsim score` again"
            )
        predictors = {}
        try:
            table = Mixtures(
                record.members,
                record.names,
                record.kinds,
                np.array(record.weights, np.float64),
                np.array(record.scales, np.float64),
            )
            for predictor, about in record.predictors.items():
                # Windows are increasing, and none is beyond the last.
                if np.any(np.diff([-1, *about.rows, len(evaluation)]) < 1):
                    raise ValueError(f"predictor {predictor!r} has unknown windows")
                content = self._content(self._array(name, predictor), about.sha256)
                nll_MR = _floats(content, (len(table), len(about.rows)))
                # Predictors that run no model know other scales as NaN.
                blank_M = (table.scale_M != 1) & (predictor in ("ensemble", "members"))
                if not np.isfinite(nll_MR[~blank_M]).all():
                    raise ValueError(f"predictor {predictor!r} has a loss of NaN")
                predictors[predictor] = PredictorScores(np.array(about.rows), nll_MR)
        except (UserError, ValueError) as error:
            raise DamagedError(f"{path}: {error}; {_ADVICE}") from error
        return Scores(
            name, table, evaluation, predictors, record.notes, record.basis, record.how
        )

    def names(self) -> list[str]:
        """Names of all scored tables."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def record(self, name: str) -> ScoreRecord:
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
        """The Parquet file of a table.

        Raises:
          UserError: it was never scored.
          DamagedError: one of both is unreadable, or was altered.
        """
        path = self.folder / f"{name}.parquet"
        content = self._content(path, self.record(name).parquet)
        # In this thread: a process that ends while Arrow's own begin is aborted.
        file = pa.parquet.ParquetFile(pa.BufferReader(content.getbuffer()))
        return file.read(use_threads=False)

    def _array(self, name: str, predictor: str) -> Path:
        return self.folder / f"{name}.{predictor}.npy"

    def _content(self, path: Path, sha256: str) -> io.BytesIO:
        """A file of a table, checked against its JSON before it is parsed.

        Raises:
          DamagedError: it is another one, as after a kill while a table is rescored.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DamagedError(f"{path}: unreadable ({error}); {_ADVICE}") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            name = path.name.partition(".")[0]
            raise DamagedError(
                f"{path}: not the file that {name}.json was saved with; {_ADVICE}"
            )
        return io.BytesIO(content)


def _floats(file: IO[bytes], shape: tuple[int, int]) -> np.ndarray:
    """An array that `np.save` wrote, of this shape; nothing else is allocated.

    Raises:
      ValueError: it is another one.
    """
    np.lib.format.read_magic(file)
    found, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
    content = file.read()
    size = 4 * shape[0] * shape[1]
    if (found, dtype, len(content)) != (shape, np.dtype(np.float32), size):
        raise ValueError(f"an array of {found} {dtype} instead of {shape} float32")
    flat = np.frombuffer(content, np.float32)
    return flat.reshape(shape, order="F" if columns_first else "C")
