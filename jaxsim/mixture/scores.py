"""Scores on disk: per table of mixtures one Parquet file, and its arrays.

    scores/NAME.parquet           mixture x proxy x domain x half, as sums
    scores/NAME.PROXY.npy         nats of every window, float32 [M, R]
    scores/NAME.json              the mixtures, and which windows
    scores/NAME.PROXY.keys.json   what each row was computed from

The array holds windows, the finest unit that statistics resample; documents
and domains are sums of them. It is written chunk by chunk: a row that is not
there yet is NaN, and a row whose key is known is not computed again.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxsim.errors import DamagedError, UserError
from jaxsim.mixture.evaluation import HALVES, EvaluationSet
from jaxsim.mixture.stack import Stack
from jaxsim.mixture.table import Mixtures
from jaxsim.pool.digests import object_digest

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class ProxyScores:
    """One proxy's nats on some windows: `nll_MR[m, i]` is window `rows[i]`."""

    rows: np.ndarray
    nll_MR: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scores:
    """A scored table.

    Attributes:
      name: of the table.
      table: the mixtures.
      evaluation: the windows that `ProxyScores.rows` index.
      proxies: by name: 'merge', 'probability', 'members' or 'truth'.
      notes: what an override admitted.
    """

    name: str
    table: Mixtures
    evaluation: EvaluationSet
    proxies: dict[str, ProxyScores]
    notes: tuple[str, ...] = ()

    def bits_per_byte(self, proxy: str, half: str) -> np.ndarray:
        """[M, D] float64; NaN where the proxy has no window of a domain."""
        nll_MD, sums = domain_sums(self.evaluation, self.proxies[proxy], half)
        with np.errstate(invalid="ignore", divide="ignore"):
            return nll_MD / (sums["bytes"] * np.log(2.0))


def domain_sums(
    evaluation: EvaluationSet, proxy: ProxyScores, half: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Nats [M, D] float64, and tokens, bytes, documents and windows [D]."""
    e, d = evaluation, len(evaluation.domains)
    here = e.half_R[proxy.rows] == HALVES.index(half)
    rows = proxy.rows[here]
    onehot_RD = np.eye(d)[e.domain_R[rows]]
    nll_MD = proxy.nll_MR[:, here].astype(np.float64) @ onehot_RD
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
    """What each row's losses depend on, as a digest.

    The seed's row uses no member, so its key has only the seed's digest.
    """
    keys = []
    for row in range(len(table)):
        scale = float(table.scale_M[row])
        digests = dict(zip(stack.names, stack.digests, strict=True))
        parts = sorted((digests[n], w) for n, w in table.parts(row).items())
        keys.append(
            object_digest(
                [
                    stack.seed_digest,
                    scale,
                    parts if scale else [],
                    evaluation.digest,
                    how,
                ]
            )
        )
    return keys


class ScoreStore:
    """Reads and writes the scores of a workdir."""

    def __init__(self, workdir: Path) -> None:
        self.folder = Path(workdir) / "scores"

    def fill(
        self,
        name: str,
        proxy: str,
        keys: list[str],
        rows: np.ndarray,
        compute: Callable[[np.ndarray], Iterator[tuple[np.ndarray, np.ndarray]]],
    ) -> ProxyScores:
        """The losses of a table, computing only rows that are not there.

        Args:
          name, proxy: which file.
          keys: one for each mixture.
          rows: windows, the columns.
          compute: called with the indices of missing mixtures; yields some of
            them at a time and their losses [k, len(rows)].
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.{proxy}.npy"
        keep = self.folder / f"{name}.{proxy}.keys.json"
        shape = (len(keys), len(rows))
        known = self._known(path, keep, rows)
        if list(known) != keys:
            fresh = np.full(shape, np.nan, np.float32)
            for m, key in enumerate(keys):
                if key in known:
                    fresh[m] = known[key]
            _replace(path, lambda file: np.save(file, fresh))
            record = {"format": FORMAT, "rows": rows.tolist(), "keys": keys}
            _replace(keep, lambda f: f.write(json.dumps(record).encode()))
        nll_MR = np.lib.format.open_memmap(path, mode="r+")
        missing = np.flatnonzero(np.isnan(nll_MR).any(axis=1))
        if len(missing):
            for some, nll_KR in compute(missing):
                nll_MR[some] = nll_KR
                nll_MR.flush()
        result = np.array(nll_MR)
        if np.isnan(result).any():
            bad = int(np.flatnonzero(np.isnan(result).any(axis=1))[0])
            raise DamagedError(
                f"scores {name}: row {bad} of proxy {proxy} is not finite; "
                "run `jaxsim verify`"
            )
        return ProxyScores(rows, result)

    def save(self, scores: Scores) -> None:
        """Writes the table's own files, the last step of scoring it."""
        table = scores.table
        record = {
            "format": FORMAT,
            "members": table.members,
            "names": table.names,
            "kinds": table.kinds,
            "weights": table.w_MC.tolist(),
            "scales": table.scale_M.tolist(),
            "evaluation": scores.evaluation.digest,
            "rows": {k: v.rows.tolist() for k, v in scores.proxies.items()},
            "notes": scores.notes,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, proxy in scores.proxies.items():
            _replace(
                self.folder / f"{scores.name}.{name}.npy",
                lambda file, nll_MR=proxy.nll_MR: np.save(file, nll_MR),
            )
        parquet = self.folder / f"{scores.name}.parquet"
        arrow = as_arrow(scores)
        _replace(parquet, lambda file: pa.parquet.write_table(arrow, file))
        _replace(
            self.folder / f"{scores.name}.json",
            lambda file: file.write((json.dumps(record) + "\n").encode()),
        )

    def load(self, name: str, evaluation: EvaluationSet) -> Scores:
        """A saved table.

        Raises:
          UserError: it was never scored.
          DamagedError: it is unreadable, or of other evaluation text.
        """
        path = self.folder / f"{name}.json"
        if not path.exists():
            raise UserError(
                f"{self.folder}: table {name!r} is not scored; run "
                "`jaxsim score`"
            )
        try:
            record = json.loads(path.read_text())
            if record["format"] != FORMAT:
                raise DamagedError(
                    f"{path}: format {record['format']}; this jaxsim reads "
                    f"{FORMAT}"
                )
            if record["evaluation"] != evaluation.digest:
                raise UserError(
                    f"{path}: scored on other evaluation text; run "
                    "`jaxsim score` again"
                )
            table = Mixtures(
                tuple(record["members"]),
                tuple(record["names"]),
                tuple(record["kinds"]),
                np.array(record["weights"], np.float64),
                np.array(record["scales"], np.float64),
            )
            proxies = {}
            for proxy, places in record["rows"].items():
                rows = np.array(places)
                nll_MR = np.load(
                    self.folder / f"{name}.{proxy}.npy", allow_pickle=False
                )
                if nll_MR.shape != (len(table), len(rows)):
                    raise DamagedError(
                        f"{path}: {proxy} has shape {nll_MR.shape}; delete "
                        "the folder scores/ and score again"
                    )
                proxies[proxy] = ProxyScores(rows, nll_MR)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedError(
                f"{path}: not a table of scores ({error}); delete the folder "
                "scores/ and score again"
            ) from error
        return Scores(
            name, table, evaluation, proxies, tuple(record["notes"])
        )

    def names(self) -> list[str]:
        """The tables that are there."""
        found = self.folder.glob("*.json")
        return sorted(
            p.stem for p in found if not p.name.endswith(".keys.json")
        )

    def _known(
        self, path: Path, keep: Path, rows: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        """Rows that are on disk for these windows, by key."""
        if not (path.exists() and keep.exists()):
            return {}
        with contextlib.suppress(ValueError, KeyError, OSError):
            record = json.loads(keep.read_text())
            nll_MR = np.load(path, allow_pickle=False)
            same = record["format"] == FORMAT and record["rows"] == rows.tolist()
            if same and nll_MR.shape == (len(record["keys"]), len(rows)):
                return dict(zip(record["keys"], nll_MR, strict=True))
        return {}  # unreadable is the same as not there: it is computed again


def as_arrow(scores: Scores) -> pa.Table:
    """One line for each mixture, proxy, domain and half; sums, not means."""
    e, table = scores.evaluation, scores.table
    columns: dict[str, list[Any]] = {
        key: []
        for key in (
            "mixture", "kind", "scale", "weights", "proxy", "domain",
            "in_pool", "half", "nll_sum", "tokens", "bytes", "documents",
            "windows",
        )
    }  # fmt: skip
    for name, proxy in scores.proxies.items():
        for half in HALVES:
            nll_MD, sums = domain_sums(e, proxy, half)
            for d, domain in enumerate(e.domains):
                if not sums["windows"][d]:
                    continue
                for m in range(len(table)):
                    values = (
                        table.names[m],
                        table.kinds[m],
                        float(table.scale_M[m]),
                        table.w_MC[m].tolist(),
                        name,
                        domain,
                        e.in_pool[d],
                        half,
                        float(nll_MD[m, d]),
                        int(sums["tokens"][d]),
                        int(sums["bytes"][d]),
                        int(sums["documents"][d]),
                        int(sums["windows"][d]),
                    )
                    for key, value in zip(columns, values, strict=True):
                        columns[key].append(value)
    arrow = pa.table(columns)
    facts = {
        "jaxsim.members": json.dumps(table.members),
        "jaxsim.evaluation": e.digest,
        "jaxsim.notes": json.dumps(scores.notes),
    }
    return arrow.replace_schema_metadata(facts)


def load_scores(
    workdir: Path | str, name: str, evaluation: EvaluationSet
) -> Scores:
    """A scored table of a workdir, by name."""
    return ScoreStore(Path(workdir)).load(name, evaluation)


def _replace(path: Path, write: Callable[[Any], Any]) -> None:
    """Writes a file under another name, then puts it in place."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        write(file)
    os.replace(part, path)
