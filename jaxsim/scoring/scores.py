"""Scores of a table of mixtures: losses of windows, and bits per byte of domains.

Arrays hold losses of windows, the smallest unit that statistics resample; documents and
domains are sums of windows.
"""

import dataclasses
import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from jaxsim.errors import UserError, check_known
from jaxsim.records import Basis
from jaxsim.scoring.evaluation import SPLITS, EvaluationSet
from jaxsim.scoring.table import Mixtures

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
      evaluation: the windows that `PredictorScores.rows` index.
      predictors: losses by predictor: 'merge', 'ensemble' and 'members', or
        'reference' for reference runs.
      notes: what an override admitted, or the pool lacks.
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
        """Bits per byte [M, D], float64; NaN for a domain without windows.

        Raises:
          UserError: there is no such predictor, or none was scored on this split.
        """
        where = f"table {self.name!r}"
        check_known("predictor", predictor, self.predictors, where)
        check_known("split", split, SPLITS, where)
        scored = self.predictors[predictor]
        splits = np.unique(self.evaluation.split_R[scored.rows])
        if SPLITS.index(split) not in splits:
            others = " and ".join(SPLITS[h] for h in splits) or "no"
            raise UserError(
                f"{where}: {predictor!r} was scored on {others} text, not "
                f"on {split} text; call `Scorer.score` with split={split!r} or None"
            )
        return bits_of(self.evaluation, scored, split)


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
    """Bits per byte [M, D] by the domains' own averages, see `EvaluationSet.sums`.

    Float64; NaN for a domain without windows.
    """
    here = evaluation.split_R[predictor.rows] == SPLITS.index(split)
    rows = predictor.rows[here]
    nll_MD = np.empty((len(predictor.nll_MR), len(evaluation.domains)))
    for start in range(0, len(nll_MD), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        nll_MD[part] = evaluation.sums(predictor.nll_MR[part, here], rows)
    return bits_per_byte(nll_MD, evaluation.sums(evaluation.bytes_R[rows], rows))


@dataclasses.dataclass(frozen=True)
class DomainSums:
    """The text of one domain and split that a predictor was scored on.

    Attributes:
      tokens, bytes, documents, windows: how much there is of it.
      nll_M: nats of each mixture.
      mean_M: mean over documents of their bits per byte.
    """

    tokens: int
    bytes: int
    documents: int
    windows: int
    nll_M: np.ndarray
    mean_M: np.ndarray


def domain_sums(
    evaluation: EvaluationSet, predictor: PredictorScores, split: str
) -> dict[int, DomainSums]:
    """Sums over the windows of each domain that has some in a split, by its index."""
    e, nll_MR = evaluation, predictor.nll_MR
    is_here_R = e.split_R[predictor.rows] == SPLITS.index(split)
    found = {}
    for d in np.unique(e.domain_R[predictor.rows[is_here_R]]).tolist():
        at = np.flatnonzero(is_here_R & (e.domain_R[predictor.rows] == d))
        rows = predictor.rows[at]
        starts_E = document_starts(e, rows)
        bytes_E = np.add.reduceat(e.bytes_R[rows], starts_E)
        nll_M, mean_M = np.empty((2, len(nll_MR)))
        for start in range(0, len(nll_MR), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            nll_KR = nll_MR[part, at].astype(np.float64)
            nll_KE = np.add.reduceat(nll_KR, starts_E, axis=1)
            nll_M[part] = nll_KE.sum(axis=1)
            mean_M[part] = bits_per_byte(nll_KE, bytes_E).mean(axis=1)
        found[d] = DomainSums(
            tokens=int(e.count_R[rows].sum()),
            bytes=int(bytes_E.sum()),
            documents=len(starts_E),
            windows=len(rows),
            nll_M=nll_M,
            mean_M=mean_M,
        )
    return found


def document_starts(evaluation: EvaluationSet, rows: np.ndarray) -> np.ndarray:
    """Places in `rows`, which increase, of the first window of each document."""
    return np.unique(evaluation.document_R[rows], return_index=True)[1]


def as_arrow(scores: Scores) -> pa.Table:
    """Makes a row for each mixture, predictor, domain and split, with sums."""
    e, table = scores.evaluation, scores.table
    mixtures = mixture_columns(table)
    parts = [
        sums_as_arrow(e, mixtures, name, split, d, sums)
        for name, predictor in scores.predictors.items()
        for split in SPLITS
        for d, sums in domain_sums(e, predictor, split).items()
    ]
    facts = {
        "jaxsim.members": json.dumps(table.members),
        "jaxsim.evaluation": e.digest,
        "jaxsim.notes": json.dumps(scores.notes),
    }
    return pa.concat_tables(parts).replace_schema_metadata(facts)


def mixture_columns(table: Mixtures) -> dict[str, pa.Array]:
    """What is the same for all predictors, domains and splits."""
    m, c = table.w_MC.shape
    return {
        "mixture": pa.array(table.names, pa.string()),
        "kind": pa.array(table.kinds, pa.string()),
        "scale": pa.array(table.scale_M),
        "weights": pa.ListArray.from_arrays(
            np.arange(m + 1, dtype=np.int32) * c, table.w_MC.ravel()
        ),
    }


def sums_as_arrow(
    evaluation: EvaluationSet,
    mixtures: Mapping[str, pa.Array],
    predictor: str,
    split: str,
    d: int,
    sums: DomainSums,
) -> pa.Table:
    """A row for each mixture, of one predictor, domain and split."""
    e, m = evaluation, len(sums.nll_M)
    pooled_M = bits_per_byte(sums.nll_M, sums.bytes)
    own_M = sums.mean_M if e.by_document[d] else pooled_M
    columns = dict(mixtures) | {
        "predictor": pa.repeat(predictor, m),
        "domain": pa.repeat(e.domains[d], m),
        "group": pa.repeat(e.groups[d], m),
        "in_pool": pa.repeat(e.in_pool[d], m),
        "split": pa.repeat(split, m),
        "nll_sum": pa.array(sums.nll_M),
        "bits_per_byte": pa.array(own_M),
        "pooled_bits_per_byte": pa.array(pooled_M),
        "document_bits_per_byte": pa.array(sums.mean_M),
        "perplexity": pa.array(np.exp(sums.nll_M / sums.tokens)),
    }
    for key in ("tokens", "bytes", "documents", "windows"):
        columns[key] = pa.repeat(getattr(sums, key), m)
    return pa.table(columns)
