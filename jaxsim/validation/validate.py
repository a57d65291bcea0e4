"""What `validate` found, as the report, searches and programs read it.

Agreement comes from held-out runs on test text. What is fitted on the way
(the calibration, weight-only baselines) is fitted on dev text of other runs;
if there are none, each held-out run is predicted from the others.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np

from jaxsim import records
from jaxsim.corpus.split import SPLITS
from jaxsim.scoring.targets import Targets
from jaxsim.search.objective import Objective, weighted_mean
from jaxsim.search.ties import Residual
from jaxsim.validation.agreement import (
    CHANCE,
    ENOUGH_PAIRS,
    ENOUGH_RUNS,
    AgreementRow,
    Claim,
    Interval,
    agreement,
    claims,
    guessing,
    is_in,
    joint_ceiling,
    noise_ceiling,
    predictions,
    replicate_noise,
    sample_spearman,
)
from jaxsim.validation.baselines import fit_log_linear, from_weights
from jaxsim.validation.calibration import (
    ENOUGH,
    Calibration,
    check_of,
    corrected_merges,
    fitted_on,
    learning,
    left_out,
)
from jaxsim.validation.measured import (
    BITS_PER_BYTE,
    CALIBRATED,
    LOG_LINEAR,
    PREDICTORS,
    Comparison,
    FromReplicates,
    PoolLosses,
    PredictionTable,
    Replicates,
    by_target,
)

# Of the sampling distribution: the best by each predictor, and by the mean of both.
NEAR_BEST = {f"best by {name}": name for name in ("merge", "ensemble", "mean")}

# Files in a workdir.
TRAINED, GIVEN = "validation/validation.json", "validation/external.json"


# Of a row that is kept as it is.
Numbers = Annotated[dict[str, Any], dict[str, float | None]]
_CHECK, _LEARNED = (
    ("merge", "calibrated", "covered", "margin"),
    ("reference runs", "error"),
)


class NoiseRow(TypedDict):
    """The noise of a predictor that its members' replicates show."""

    noise: float | None  # standard deviation of a prediction
    ceiling: float | None  # with the noise of runs; see `joint_ceiling`
    ceiling_interval: tuple[float, float] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation(Comparison):
    """What `validate` found."""

    distributions: list[str]  # what each held-out run was drawn from, or 'given'
    calibration_runs: list[str]  # names; they are never held out
    # By target and predictor or baseline.
    agreement: dict[str, dict[str, Annotated[dict[str, Any], AgreementRow]]]
    # Spearman correlations within `runs_by_kind`: by kind, target and predictor.
    within: dict[str, dict[str, Numbers]]
    claims: list[Annotated[dict[str, Any], Claim]]
    ceilings: dict[str, float]  # by target, where replicates were trained
    ceiling_intervals: dict[str, list[float | None]]
    # Of runs with their replicates, by target. It is no upper bound: its Pearson
    # correlation is near the ceiling squared.
    replicate_agreement: dict[str, Annotated[dict[str, Any], AgreementRow]]
    noise: dict[str, float]  # standard deviation of a run, by target
    # By target and predictor, where every member has a replicate.
    predictor_noise: dict[str, dict[str, Annotated[dict[str, Any], NoiseRow]]]
    replicates: int  # that noise and ceilings are computed from
    calibration: Calibration  # what searches use
    # By target: mean absolute error of 'merge' and 'calibrated', and the share of runs
    # 'covered' by 90 % intervals that reach 'margin' to both sides.
    check: dict[str, Numbers]
    # Mean absolute error on held-out runs with the first 'reference runs' of the
    # calibration runs fitted.
    learning: list[Numbers]
    learning_target: str
    budget: Literal["fixed", "sum"]  # no search uses 'sum'; see docs/validate.md
    given: bool  # whether the user brought the runs
    unit: str  # of the runs; 'unknown' if levels mean nothing
    base: dict[str, dict[str, float]]  # bits of the base model, by split and domain

    def check_parts(self) -> None:
        """Raises a `UserError` if the fields do not fit together; see `records`."""
        super().check_parts()
        records.need_shape(
            self.distributions, [len(self.reference_runs)], "distributions"
        )
        records.need_names(self.base, SPLITS, "base")
        records.need_names(self.agreement, self.targets, "agreement")
        records.need_names(self.check, self.targets, "check")
        for row in self.check.values():
            records.need_names(row, _CHECK, "check")
        for row in self.learning:
            records.need_names(row, _LEARNED, "learning")
            count = row["reference runs"]
            records.need(count is not None, "a number", count, "learning")
        for name in self.ceilings:
            bounds = self.ceiling_intervals.get(name, [])
            records.need_shape(bounds, [2], f"ceiling_intervals.{name}")
        for kind, table in self.within.items():
            records.need(kind in self.runs_by_kind, "of its runs", kind, "within")
            records.need_names(table, self.targets, f"within.{kind}")
            for row in table.values():
                records.need_names(row, self.points.keys() - {"reference"}, "within")
        for row in self.predictor_noise.values():
            records.need("merge" in row, "with merge", sorted(row), "predictor_noise")
        for figures in self.agreement.values():
            absent = self.points.keys() - {"reference", *figures}
            records.need(not absent, f"with {sorted(absent)}", "none", "agreement")

    @property
    def runs_by_kind(self) -> dict[str, np.ndarray]:
        """The runs [M] that are compared on their own, too; bool."""
        w_MC = np.array(self.mixtures)
        return _kinds(self.distributions, w_MC, self.budget == "sum")

    @property
    def tells_levels(self) -> bool:
        """Whether levels are comparable with those of merges."""
        return self.unit == BITS_PER_BYTE and self.budget == "fixed"

    def calibrated(self, names: Collection[str]) -> Calibration | None:
        """What merges are corrected by; None with too few runs on these domains."""
        found = self.calibration
        enough = self.tells_levels and len(found.off) >= ENOUGH
        return found if enough and set(names) <= set(found.domains) else None

    def residual(
        self, target: Mapping[str, float], predictor: str = "merge"
    ) -> Residual | None:
        """`residual_of` for a weighted mean of domains."""
        weights_D, base_D = np.array(list(target.values())), np.zeros(len(target))
        goal = Objective.of_domains(tuple(target), weights_D, "mean", base_D)
        return self.residual_of(goal, predictor)

    def residual_of(self, goal: Objective, predictor: str = "merge") -> Residual | None:
        """How far the losses of runs scatter around a predictor, on an objective.

        Around the mean difference, on test text. For calibrated merges: of every
        run, predicted without it by the calibration that searches use, on dev
        text; around zero, because the remaining bias is error. None with fewer
        than three runs, or where a domain that matters has no run.
        """
        if not self.tells_levels:
            return None
        if predictor == CALIBRATED:
            off_M = self._left_out(goal, self.calibration.off)
        else:
            predicted = self.points.get(predictor, {})
            off_M = self._off(goal, "test", self.points["reference"], predicted)
        if off_M is None or len(off_M) < 3:
            return None
        deviation = np.std(off_M, ddof=1)
        if predictor == CALIBRATED:
            deviation = np.sqrt(np.mean(off_M**2))
        found = Residual(float(deviation), len(off_M))
        return found if np.isfinite(deviation) else None

    def calibration_helps(self, goal: Objective) -> tuple[bool, str]:
        """Whether an objective of runs is predicted better with it; and a warning.

        By mean absolute errors on runs that were left out. Dev text decides; where
        test text disagrees, the warning says so.
        """
        known, points = self.calibration, self.points
        misses = {
            "dev": [self._left_out(goal, x) for x in (known.merge_off, known.off)],
            "test": [
                self._off(goal, "test", points["reference"], points.get(name, {}))
                for name in ("merge", CALIBRATED)
            ],
        }
        for split, pair in misses.items():
            merge, calibrated = (
                np.nan if x is None else np.abs(x).mean() for x in pair
            )
            if calibrated > merge:
                text = (
                    f"on the {split} text of left-out runs, plain merges are off by "
                    f"{merge:.4f} bits per byte on average, and calibrated merges by "
                    f"{calibrated:.4f}"
                )
                if split == "dev":
                    return False, f"NOT CALIBRATED: {text}"
                return True, f"CALIBRATION IN DOUBT: {text}; dev text says otherwise"
        return True, ""

    def _left_out(
        self, goal: Objective, off: Sequence[Sequence[float | None]]
    ) -> np.ndarray | None:
        """`_off` on dev text, from misses [F, D] of runs that were left out."""
        reference_FD = np.array(self.calibration.reference, float)
        reference, predicted = (
            dict(zip(self.calibration.domains, bits_FD.T.tolist(), strict=True))
            for bits_FD in (reference_FD, reference_FD - np.array(off, float))
        )
        return self._off(goal, "dev", reference, predicted)

    def _off(
        self,
        goal: Objective,
        split: str,
        reference: Mapping[str, Sequence[float]],
        predicted: Mapping[str, Sequence[float]],
    ) -> np.ndarray | None:
        """[M] an objective's value of runs minus predictions; None if not measured."""
        if not reference.keys() & predicted.keys() >= set(goal.needed):
            return None
        missing_M = np.full(len(reference[goal.needed[0]]), np.nan)
        base_D = [self.base[split].get(n, np.nan) for n in goal.domains]
        goal = dataclasses.replace(goal, base_D=np.array(base_D))
        reference_M, predicted_M = (
            goal.value(np.stack([bits.get(n, missing_M) for n in goal.domains], axis=1))
            for bits in (reference, predicted)
        )
        return np.asarray(reference_M - predicted_M)


def save_validation(workdir: Path, validation: Validation) -> None:
    """Replaces what was found on runs trained here, or on the user's own."""
    name = GIVEN if validation.given else TRAINED
    records.save(workdir / name, validation)


def load_validation(
    workdir: Path,
    now: records.Basis | None = None,
    files: Sequence[str] = (TRAINED, GIVEN),
) -> Validation | None:
    """What reference runs showed, from the first of the files that there is.

    Results that do not fit what there is `now` are passed over. NaN stands for a
    figure that is null in the file.

    Raises:
      DamagedError: a file is unreadable.
    """
    for path in filter(Path.exists, (Path(workdir) / name for name in files)):
        v = records.load(path, Validation, "run `jaxsim validate` again")
        if now is not None and v.basis.difference(now):
            continue
        nested = v.agreement, v.within, v.predictor_noise
        tables = [table for tables in nested for table in tables.values()]
        for table in (*tables, v.replicate_agreement, v.check):
            for figures in table.values():
                for key, value in figures.items():
                    if value is None and not key.endswith("interval"):
                        figures[key] = float("nan")
        return v
    return None


def compare(
    basis: PoolLosses,
    held_out: PredictionTable,
    fitted: PredictionTable | None = None,
    replicates: Replicates | None = None,
    held_out_replicates: int = 0,
    again: FromReplicates | None = None,
    distributions: Sequence[str] = (),
    asked_MC: np.ndarray | None = None,
    unit: str = BITS_PER_BYTE,
    by_size: bool = False,
) -> Validation:
    """Agreement of every predictor and every baseline with trained models.

    Args:
      basis: the pool and the text of runs and predictions.
      held_out: the runs that agreement is computed from.
      fitted: the runs that the calibration and the baselines are fitted on.
      replicates: on test text, of reference runs before members.
      held_out_replicates: how many of them are of the first held-out runs.
      again: predictions of the held-out runs from the members' replicates; `replicates`
        are needed, too.
      distributions: none if the user brought the runs.
      asked_MC: the mixtures of the held-out runs, if they realized slightly others.
      unit: see `Validation`.
      by_size: whether the budget is 'sum'.
    """
    # Whether a unit is in a mixture must not depend on how its rows were rounded.
    asked_MC = held_out.w_MC if asked_MC is None else asked_MC
    domains, there_D = basis.evaluation.domains, held_out.measured_D
    targets = Targets.of(basis.evaluation, there_D)
    weights = targets.weights(domains)
    bits = dict(held_out.test)
    used = left_out(basis, held_out, fitted)
    bits[CALIBRATED] = corrected_merges(basis, held_out, used)
    check = check_of(held_out, bits[CALIBRATED], used, weights)
    if fitted is not None:
        bits[LOG_LINEAR] = from_weights(fit_log_linear, basis, held_out, fitted)
    bits = {p: b for p, b in bits.items() if np.isfinite(b[:, there_D]).all()}
    points = by_target(bits, weights)
    # A member's noise may differ; it is used only if there is no other.
    some = held_out_replicates if held_out_replicates >= ENOUGH_PAIRS else None
    count = held_out_replicates
    again_points = {}
    if again is not None:
        again_points = by_target(_again(basis, held_out, again, used), weights)
    # By target, and what each weight-only rule predicts.
    rules: dict[str, dict[str, np.ndarray]] = {}
    figures: dict[str, dict[str, records.Row]] = {}
    ceilings, noise, agree, noisy = {}, {}, {}, {}
    for target, reference_M in points["reference"].items():
        own_C, choose = basis.own(weights[target]), None
        if fitted is not None:
            loss_F = weighted_mean(fitted.dev["reference"], weights[target])
            choose = fitted.w_MC, loss_F
        rules[target] = predictions(asked_MC, own_C, choose)
        in_M = None if own_C is None else is_in(asked_MC, own_C)
        predicted = {p: points[p][target] for p in PREDICTORS if p in points}
        figures[target] = {
            name: agreement(predicted_M, reference_M, in_M)
            for name, predicted_M in (predicted | rules[target]).items()
        } | {CHANCE: guessing(reference_M)}
        if replicates is None:
            continue
        first_P, second_P = (weighted_mean(r, weights[target]) for r in replicates)
        pairs = first_P[:some], second_P[:some]
        ceilings[target] = noise_ceiling(reference_M, *pairs)
        noise[target] = replicate_noise(*pairs)
        noisy[target] = {
            p: _noisy(ceilings[target], points[p][target], of[target], held_out.w_MC)
            for p, of in again_points.items()
            if p in points
        }
        if count >= ENOUGH_RUNS:
            in_P = None if in_M is None else in_M[:count]
            agree[target] = agreement(second_P[:count], first_P[:count], in_P)
    main, learned = "", []
    if fitted is not None and targets.all:
        main = targets.level
        learned = learning(basis, held_out, fitted, weights[main])
    # Once the comparison is done, searches may use every run.
    every = held_out.with_dev(fitted)
    return Validation(
        reference_runs=list(held_out.names),
        distributions=list(distributions) or ["given"] * len(held_out),
        members=list(basis.members),
        mixtures=asked_MC.tolist(),
        calibration_runs=[] if fitted is None else list(fitted.names),
        targets=list(targets.all),
        kinds=list(targets.kinds.values()),
        groups=dict(targets.groups),
        points=records.plain(points),
        agreement=figures,
        within=_within(points, _kinds(distributions, asked_MC, by_size)),
        claims=claims(targets, points, rules, ceilings, noisy),
        ceilings={name: c.estimate for name, c in ceilings.items()},
        ceiling_intervals={n: [c.low, c.high] for n, c in ceilings.items()},
        replicate_agreement=agree,
        noise=noise,
        predictor_noise=noisy if again_points else {},
        replicates=0 if replicates is None else len(replicates[0][:some]),
        calibration=fitted_on(basis, every, there_D),
        check=check,
        learning=learned,
        learning_target=main,
        budget="sum" if by_size else "fixed",
        given=not distributions,
        unit=unit,
        base={
            split: {domains[d]: float(bits_D[d]) for d in np.flatnonzero(there_D)}
            for split, bits_D in basis.base.items()
        },
        notes=list(basis.notes),
        basis=basis.basis,
    )


def _again(
    basis: PoolLosses,
    held_out: PredictionTable,
    again: FromReplicates,
    used: Sequence[Calibration],
) -> dict[str, np.ndarray]:
    """Bits per byte [M, D] by predictor; merges are corrected as those of members."""
    basis = dataclasses.replace(basis, test_CD=again.member_CD)
    table = dataclasses.replace(held_out, test={**held_out.test, **again.test})
    return {**again.test, CALIBRATED: corrected_merges(basis, table, used)}


def _noisy(
    runs: Interval, predicted_M: np.ndarray, again_M: np.ndarray, w_MC: np.ndarray
) -> records.Row:
    """A `NoiseRow`."""
    found = joint_ceiling(runs, predicted_M, again_M, w_MC)
    return {
        "noise": replicate_noise(predicted_M, again_M),
        "ceiling": found.estimate,
        "ceiling_interval": found.bounds,
    }


def _kinds(
    distributions: Sequence[str], w_MC: np.ndarray, by_size: bool
) -> dict[str, np.ndarray]:
    """The runs [M] of each part of the sampling distribution, and all near the best.

    With `by_size`, those of each number of units: a run on more units is longer, so its
    loss is lower whatever the mixture, and over all "more is better" ranks well.
    """
    if by_size:
        size_M = np.count_nonzero(w_MC, axis=1)
        return {f"{size} units": size_M == size for size in np.unique(size_M)}
    part_M = np.array(distributions)
    parts = {part: part_M == part for part in dict.fromkeys(distributions)}
    if len(parts) < 2:
        return {}
    return parts | {"near the best": np.isin(part_M, [*NEAR_BEST])}


def _within(
    points: Mapping[str, Mapping[str, np.ndarray]], kinds: Mapping[str, np.ndarray]
) -> dict[str, dict[str, dict[str, float]]]:
    """Spearman correlations within each kind of three runs or more."""

    def spearman(in_M: np.ndarray, p: str, target: str) -> float:
        pair = (points[name][target][in_M, None] for name in (p, "reference"))
        return sample_spearman(*pair)

    return {
        name: {
            target: {p: spearman(in_M, p, target) for p in points if p != "reference"}
            for target in points["reference"]
        }
        for name, in_M in kinds.items()
        if np.count_nonzero(in_M) >= 3
    }
