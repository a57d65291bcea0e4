"""Reference runs beside the predictions of their mixtures."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxsim import records
from jaxsim.corpus import Corpus
from jaxsim.scoring.evaluation import SPLITS, EvaluationSet
from jaxsim.scoring.scores import Scores, bits_of
from jaxsim.scoring.table import check_mixtures
from jaxsim.scoring.targets import Targets
from jaxsim.search.objective import weighted_mean

PREDICTED = ("merge", "ensemble", "members")
CALIBRATED, LOG_LINEAR = "calibrated merge", "log-linear"
BASELINES = (LOG_LINEAR,)  # fitted on runs: they see weights, and no model
PREDICTORS = (*PREDICTED, CALIBRATED, *BASELINES)
BITS_PER_BYTE = "bits per byte"
# Bits per byte [P, D] of runs and of their replicates, which measure noise.
Replicates = tuple[np.ndarray, np.ndarray]


class FromReplicates(NamedTuple):
    """Predictions from replicates in the place of all members, on test text."""

    test: Mapping[str, np.ndarray]  # bits per byte [M, D] by predictor
    member_CD: np.ndarray  # of the replicates, see `member_bits`


@dataclasses.dataclass(frozen=True)
class PredictionTable:
    """Reference runs and the predictions of their mixtures, in bits per byte."""

    names: tuple[str, ...]  # of the runs
    w_MC: np.ndarray  # their mixtures
    # [M, D] by 'reference' and predictor, on the text of a split; a run has NaN in a
    # domain that it was not measured on.
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

    def with_dev(self, more: "PredictionTable | None") -> "PredictionTable":
        """These runs and more of them, on dev text."""
        if more is None:
            return self
        bits = {n: np.concatenate([b, more.dev[n]]) for n, b in self.dev.items()}
        w_MC = np.concatenate([self.w_MC, more.w_MC])
        return PredictionTable(self.names + more.names, w_MC, bits, {})


def measured(predictors: Scores, reference_runs: Scores) -> PredictionTable:
    """Runs beside the predictions of their mixtures, on the runs' own windows."""
    e, known = reference_runs.evaluation, reference_runs.predictors["reference"]
    dev_MD, test_MD = (bits_of(e, known, split) for split in SPLITS)
    rows = known.rows
    return beside(predictors.on(rows), dev_MD, test_MD)


def beside(
    predictors: Scores, dev_MD: np.ndarray, test_MD: np.ndarray
) -> PredictionTable:
    """Runs with these bits per byte beside the predictions of their mixtures."""
    splits = {
        split: {
            p: bits_of(predictors.evaluation, predictors.predictors[p], split)
            for p in PREDICTED
        }
        | {"reference": reference_MD}
        for split, reference_MD in zip(SPLITS, (dev_MD, test_MD), strict=True)
    }
    return PredictionTable(predictors.table.names, predictors.table.w_MC, **splits)


@dataclasses.dataclass(frozen=True)
class PoolLosses:
    """What a comparison rests on."""

    evaluation: EvaluationSet
    members: tuple[str, ...]  # names of the C columns
    own_DC: np.ndarray  # see `own_units`
    dev_CD: np.ndarray  # see `member_bits`
    test_CD: np.ndarray
    base: Mapping[str, np.ndarray]  # [D] bits per byte of the base model, by split
    basis: records.Basis
    notes: tuple[str, ...]  # what an override admitted
    # Whether reference runs are as long as members: then a member is the reference run
    # on its own unit.
    singles_known: bool

    def own(self, weights_D: np.ndarray) -> np.ndarray | None:
        """[C] bool: the units of a single in-pool domain's own partition.

        None for a macro, and for a domain that is not in the pool.
        """
        own_dC = self.own_DC[weights_D > 0]
        return own_dC[0] if len(own_dC) == 1 and own_dC.any() else None


def pool_losses(
    corpus: Corpus,
    standard: Scores,
    singles_known: bool,
    rows: np.ndarray | None = None,
    runs: Iterable[Scores] = (),
) -> PoolLosses:
    """The basis that the scores of the standard mixtures give.

    Args:
      corpus, singles_known: see `PoolLosses`.
      standard: scores on every window, with a row for each member.
      rows: the windows that reference runs were scored on; None: all.
      runs: scores of the reference runs and replicates that it rests on.
    """
    others = {n: digest for s in runs for n, digest in s.basis.others.items()}
    if rows is not None:
        standard = standard.on(rows)
    table, evaluation = standard.table, standard.evaluation
    return PoolLosses(
        evaluation,
        table.members,
        own_units(corpus, table.members, evaluation),
        member_bits(standard, "dev"),
        member_bits(standard, "test"),
        {s: bits_by_name(standard, "merge", s)["base"] for s in SPLITS},
        dataclasses.replace(standard.basis, others=others),
        standard.notes,
        singles_known,
    )


def own_units(
    corpus: Corpus, members: Sequence[str], evaluation: EvaluationSet
) -> np.ndarray:
    """[D, C] bool: the units of each in-pool domain's own partition."""
    units = [corpus.units.get(name) for name in members]
    partition_C = np.array([unit.partition if unit else "" for unit in units])
    domain_D1 = np.array(evaluation.domains)[:, None]
    return (partition_C == domain_D1) & np.array(evaluation.in_pool)[:, None]


def member_bits(standard: Scores, split: str) -> np.ndarray:
    """[C, D] bits per byte of the members; NaN for a damaged one.

    Under an override a damaged member has no row among the standard mixtures.
    """
    bits = bits_by_name(standard, "merge", split)
    missing_D = np.full(len(standard.evaluation.domains), np.nan)
    return np.array([bits.get(name, missing_D) for name in standard.table.members])


def bits_by_name(scores: Scores, predictor: str, split: str) -> dict[str, np.ndarray]:
    """Bits per byte [D] of each mixture or run of a table."""
    bits_MD = bits_of(scores.evaluation, scores.predictors[predictor], split)
    return dict(zip(scores.table.names, bits_MD, strict=True))


def by_target(
    bits: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Bits per byte [M] of each predictor on each target.

    Args:
      bits: [M, D] by predictor.
      weights: [D] of the domains, by target.
    """
    return {
        name: {t: weighted_mean(bits_MD, w_D) for t, w_D in weights.items()}
        for name, bits_MD in bits.items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Reference runs beside predictions, on test text."""

    reference_runs: list[str]  # names of the M runs
    members: list[str]  # columns of `mixtures`
    # Token shares that were asked for, one row for each run. Predictions are of those
    # that its rows realized.
    mixtures: list[list[float]]
    targets: list[str]  # domains, then the macros over them
    kinds: list[str]  # 'in-pool', 'out-of-pool' or 'macro', of the targets
    groups: dict[str, str]  # of the domains
    points: dict[str, dict[str, list[float]]]  # [M] by predictor or run, and target
    basis: records.Basis
    notes: list[str]  # what an override admitted

    def check_parts(self) -> None:
        """Raises a `UserError` if the fields do not fit together; see `records`."""
        check_mixtures(self.members, self.reference_runs, self.mixtures)
        records.need_shape(self.kinds, [len(self.targets)], "kinds")
        domains = [n for n, k in targets_of(self).kinds.items() if k != "macro"]
        records.need_names(self.groups, domains, "groups")
        for name in {"reference", *PREDICTED, *self.points}:
            of_target, key = self.points.get(name, {}), f"points.{name}"
            records.need_names(of_target, self.targets, key)
            for loss_M in of_target.values():
                records.need_shape(loss_M, [len(self.reference_runs)], key)


def targets_of(result: Comparison) -> Targets:
    """The targets of reference runs, whether drawn or chosen."""
    kinds = dict(zip(result.targets, result.kinds, strict=True))
    return Targets(kinds, result.groups)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedChoice(Comparison, records.Stored):
    """Mixtures that were trained because they were chosen, not drawn.

    They show how a choice turned out, and count in no agreement: a search picks
    mixtures where its predictor errs in its favor.

    Attributes:
      labels: what the user called the mixtures, in the order of the runs; the same
        for each data seed.
    """

    FILE = "validation/chosen.json"
    ADVICE = "run `jaxsim validate --mixtures=FILE.csv` again"

    labels: list[str]

    def check_parts(self) -> None:
        """Raises a `UserError` if the fields do not fit together; see `records`."""
        super().check_parts()
        records.need_shape(self.labels, [len(self.reference_runs)], "labels")


def compare_chosen(
    labels: Sequence[str], asked_MC: np.ndarray, predictors: Scores, trained: Scores
) -> TrainedChoice:
    """Compares the scores of chosen mixtures with those of their runs, on test text.

    Args:
      labels: what the user called the mixture of each run.
      asked_MC: the mixtures as they were asked for.
      predictors: of what the runs realized.
      trained: of the runs.
    """
    found, domains = measured(predictors, trained), predictors.evaluation.domains
    targets = Targets.of(predictors.evaluation, found.measured_D)
    return TrainedChoice(
        labels=list(labels),
        reference_runs=list(found.names),
        members=list(predictors.table.members),
        mixtures=asked_MC.tolist(),
        targets=list(targets.all),
        kinds=list(targets.kinds.values()),
        groups=dict(targets.groups),
        points=records.plain(by_target(found.test, targets.weights(domains))),
        basis=dataclasses.replace(predictors.basis, others=trained.basis.others),
        notes=list(predictors.notes),
    )
