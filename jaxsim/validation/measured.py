"""Reference runs beside predictions, the targets they are compared on, files.

What the domains and macros of a comparison are is decided here alone.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from jaxsim import records
from jaxsim.corpus import Corpus
from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.scoring.scores import Scores
from jaxsim.search.objective import weighted_mean

PREDICTED = ("merge", "ensemble", "members")
CALIBRATED, LOG_LINEAR = "calibrated merge", "log-linear"
BASELINES = (LOG_LINEAR,)  # fitted on runs: they see weights, and no model
PREDICTORS = (*PREDICTED, CALIBRATED, *BASELINES)
BITS_PER_BYTE = "bits per byte"
IN_POOL, OUT_OF_POOL = "macro in-pool", "macro out-of-pool"
ALL = "macro"  # over all domains, whether in the pool or not

# By name: 'in-pool', 'out-of-pool' or 'macro', and weights [D] of the domains.
Targets = Mapping[str, tuple[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class PredictionTable:
    """Reference runs and their predictions, in bits per byte.

    Attributes:
      names: of the runs.
      w_MC: their mixtures.
      select, report: [M, D] by 'reference run' and predictor, on the text of that
        split; a run has NaN in a domain that it was not measured on.
    """

    names: tuple[str, ...]
    w_MC: np.ndarray
    dev: Mapping[str, np.ndarray]
    test: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def measured_D(self) -> np.ndarray:
        """[D] bool: the domains that every run was measured on."""
        there_D: np.ndarray = np.isfinite(self.test["reference"]).all(axis=0)
        return there_D

    def take(self, rows: np.ndarray) -> "PredictionTable":
        """The runs at these indices, or where a mask says so."""
        rows = np.arange(len(self))[rows]
        return PredictionTable(
            tuple(self.names[m] for m in rows),
            self.w_MC[rows],
            {name: bits_MD[rows] for name, bits_MD in self.dev.items()},
            {name: bits_MD[rows] for name, bits_MD in self.test.items()},
        )


def joined(first: PredictionTable, more: PredictionTable | None) -> PredictionTable:
    """The runs of both, on dev text."""
    if more is None:
        return first
    return PredictionTable(
        first.names + more.names,
        np.concatenate([first.w_MC, more.w_MC]),
        {
            name: np.concatenate([bits_MD, more.dev[name]])
            for name, bits_MD in first.dev.items()
        },
        {},
    )


def measured(predictors: Scores, reference_runs: Scores) -> PredictionTable:
    """Runs beside the predictors of their mixtures, on the runs' own text."""
    predictors = predictors.on(reference_runs.predictors["reference"].rows)
    return _beside(
        predictors, lambda split: reference_runs.bits_per_byte("reference", split)
    )


def predictions_for_external(
    predictors: Scores, reference_MD: np.ndarray
) -> PredictionTable:
    """Runs of a user: what text they were measured on is not known.

    They stand beside the predictors of either split, because what a search
    learns from them must not have seen test text.
    """
    return _beside(predictors, lambda split: reference_MD)


def _beside(
    predictors: Scores, reference: Callable[[str], np.ndarray]
) -> PredictionTable:
    splits = {
        split: {p: predictors.bits_per_byte(p, split) for p in PREDICTED}
        | {"reference": reference(split)}
        for split in ("dev", "test")
    }
    return PredictionTable(predictors.table.names, predictors.table.w_MC, **splits)


@dataclasses.dataclass(frozen=True)
class Basis:
    """What a comparison rests on.

    Attributes:
      evaluation: the domains.
      members: names of the C columns.
      own_DC: see `own_units`.
      dev_CD, test_CD: see `member_bits`.
      base model: [D] bits per byte of the base model, by split.
      basis: digests of what it was computed from.
      notes: what an override admitted.
      singles_known: whether reference runs are as long as members: then a
        member is the reference run of its own mixture.
    """

    evaluation: EvaluationSet
    members: tuple[str, ...]
    own_DC: np.ndarray
    dev_CD: np.ndarray
    test_CD: np.ndarray
    base: Mapping[str, np.ndarray]
    basis: records.Basis
    notes: tuple[str, ...]
    singles_known: bool

    def own(self, weights_D: np.ndarray) -> np.ndarray | None:
        """[C] bool: the units of a single in-pool domain's own partition.

        None for a macro, and for a domain that is not in the pool.
        """
        chosen = np.flatnonzero(weights_D)
        if len(chosen) > 1 or not self.own_DC[chosen[0]].any():
            return None
        own_C: np.ndarray = self.own_DC[chosen[0]]
        return own_C


def basis_of(
    corpus: Corpus,
    standard: Scores,
    singles_known: bool,
    rows: np.ndarray | None = None,
    runs: Iterable[Scores] = (),
) -> Basis:
    """The basis that the scored references give.

    Args:
      corpus: names the units that belong to each domain.
      references: on every window, with a row for each member.
      singles_known: see `Basis`.
      rows: the windows that reference runs were scored on; None: all.
      runs: scores of the reference runs and replicates that it rests on.
    """
    others = {n: digest for s in runs for n, digest in s.basis.others.items()}
    if rows is not None:
        standard = standard.on(rows)
    table, evaluation = standard.table, standard.evaluation
    base = table.names.index("base")
    return Basis(
        evaluation,
        table.members,
        own_units(corpus, table.members, evaluation),
        member_bits(standard, "dev"),
        member_bits(standard, "test"),
        {
            split: standard.bits_per_byte("merge", split)[base]
            for split in ("dev", "test")
        },
        dataclasses.replace(standard.basis, others=others),
        standard.notes,
        singles_known,
    )


def own_units(
    corpus: Corpus, members: Sequence[str], evaluation: EvaluationSet
) -> np.ndarray:
    """[D, C] bool: the units of each in-pool domain's own partition."""
    partition_C = [
        corpus.units[name].partition if name in corpus.units else "" for name in members
    ]
    return np.array(
        [[p == domain and inside for p in partition_C]
         for domain, inside in zip(evaluation.domains, evaluation.in_pool,
                                   strict=True)]
    )  # fmt: skip


def member_bits(standard: Scores, split: str) -> np.ndarray:
    """[C, D] bits per byte of the members; NaN for a damaged one.

    Under an override a damaged member has no row among the references.
    """
    row_of = {name: m for m, name in enumerate(standard.table.names)}
    bits_MD = standard.bits_per_byte("merge", split)
    missing_D = np.full(bits_MD.shape[1], np.nan)
    return np.array(
        [bits_MD[row_of[n]] if n in row_of else missing_D
         for n in standard.table.members]
    )  # fmt: skip


def targets_of(evaluation: EvaluationSet, reference_MD: np.ndarray) -> Targets:
    """The domains that all runs were measured on, and the macros over them.

    A macro needs two domains: over a single one it is that domain.
    """
    there_D = np.isfinite(reference_MD).all(axis=0)
    inside_D = np.array(evaluation.in_pool)
    targets = {
        name: ("in-pool" if inside_D[d] else "out-of-pool", weights_D)
        for d, (name, weights_D) in enumerate(_single(evaluation))
        if there_D[d]
    }
    for name, kind_D in ((IN_POOL, inside_D), (OUT_OF_POOL, ~inside_D)):
        weights_D = (there_D & kind_D).astype(float)
        if weights_D.sum() > 1:
            targets[name] = ("macro", weights_D)
    return targets


def targets_with_text(
    evaluation: EvaluationSet, bits_MD: np.ndarray
) -> dict[str, np.ndarray]:
    """Weights [D] of the domains with text, and of the macros over them.

    Here a macro over one domain is there too, as is the one over all domains;
    weights sum to 1.
    """
    there_D = np.isfinite(bits_MD).all(axis=0)
    targets = {
        name: weights_D
        for d, (name, weights_D) in enumerate(_single(evaluation))
        if there_D[d]
    }
    inside_D = there_D & np.array(evaluation.in_pool)
    if inside_D.any():
        targets[IN_POOL] = inside_D / inside_D.sum()
    return targets | ({ALL: there_D / there_D.sum()} if targets else {})


def by_target(
    bits: Mapping[str, np.ndarray], targets: Targets
) -> dict[str, dict[str, np.ndarray]]:
    """Bits per byte [M] of each predictor on each target, from [M, D]."""
    return {
        name: {
            target: weighted_mean(bits_MD, weights_D)
            for target, (_, weights_D) in targets.items()
        }
        for name, bits_MD in bits.items()
    }


def plain_points(
    points: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, dict[str, list[float]]]:
    """`by_target` as JSON holds it."""
    return {
        name: {target: values_M.tolist() for target, values_M in by.items()}
        for name, by in points.items()
    }


def main_target(targets: Targets) -> str | None:
    """The target that says most: out-of-pool, or else in-pool."""
    outside = [n for n, (kind, _) in targets.items() if kind == "out-of-pool"]
    wanted = (OUT_OF_POOL, *outside, IN_POOL, *targets)
    return next((name for name in wanted if name in targets), None)


def _single(evaluation: EvaluationSet) -> Iterable[tuple[str, np.ndarray]]:
    eye_DD = np.eye(len(evaluation.domains))
    return zip(evaluation.domains, eye_DD, strict=True)
