"""What `validate` found, as the report, searches and programs read it.

Agreement comes from held-out runs on test text. What is fitted on the way
(calibration, baselines on weights alone) is fitted on dev text of other
runs; without any, each held-out run is predicted from the others.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim import records
from jaxsim.search.objective import Objective, weighted_mean
from jaxsim.search.ties import Residual
from jaxsim.validation.agreement import (
    CHANCE,
    ENOUGH_PAIRS,
    ENOUGH_RUNS,
    Interval,
    agreement,
    claims,
    guessing,
    is_in,
    noise_ceiling,
    predictions,
    replicate_noise,
)
from jaxsim.validation.baselines import fit_log_linear, from_weights
from jaxsim.validation.calibration import (
    ENOUGH,
    Calibration,
    SavedCalibration,
    calibrated,
    fitted_on,
    learning,
)
from jaxsim.validation.measured import (
    BITS_PER_BYTE,
    CALIBRATED,
    LOG_LINEAR,
    PREDICTORS,
    Basis,
    PredictionTable,
    Targets,
    by_target,
    joined,
    plain_points,
    targets_of,
)

# Files in WORKDIR/study.
TRAINED, GIVEN = "validation.json", "external.json"


@dataclasses.dataclass(frozen=True)
class Validation:
    """What `validate` found.

    Attributes:
      reference runs: names of the held-out runs, in the order of `mixtures` and points.
      sampling distributions: the part of the sampling distribution that each was drawn
      from, or
        'given'.
      members: columns of `mixtures`.
      mixtures: token shares, one row a run.
      fit: names of the calibration runs, which are never judged.
      targets: domains that have runs, then the macros over them.
      kinds: of the targets: 'in-pool', 'out-of-pool' or 'macro'.
      points: bits per byte by predictor (and 'reference run') and target.
      agreement: by target and predictor (and weight-only rule).
      sizes: with the budget 'sum', Spearman correlations within mixtures of
        one number of units: by number, target and predictor.
      claims: for each kind of domain and predictor, over the domains that are
        not below the noise floor: mean Spearman, mean ceiling, the best weight-only
        rule, and the difference to it, with intervals.
      ceilings: by target, where replicates were trained.
      ceiling_intervals: theirs; None where there is none.
      replicate_agreement: of runs with their own replicates, by target. It is no
        upper bound: a replicate brings noise of its own, so its Pearson
        correlation is near the ceiling squared.
      noise: standard deviation of a run around its replicates, by target.
      repeats: how many replicates `noise` and `ceilings` rest on.
      calibration: what searches use; see validation/calibration.py.
      check: by target: mean absolute error of 'merge' and 'calibrated', and
        the share of runs 'covered' by 90 % intervals of half-length 'half'.
      learning: mean absolute error on held-out runs after the first 'reference runs'
        of the calibration runs were fitted, on the target `learning_target`.
      budget: 'fixed', or 'sum': then a run on n units is n times as long, its
        loss says nothing of mixtures at equal budget, and no search uses it.
      given: whether the user brought the runs.
      unit: of the runs; 'unknown' if a user's are in other than bits per
        byte: then levels mean nothing.
      base model: bits per byte of the base model on the text of the runs, by split
        and domain.
      notes: what an override admitted.
      basis: what it was computed from.
    """

    reference_runs: list[str]
    distributions: list[str]
    members: list[str]
    mixtures: list[list[float]]
    calibration_runs: list[str]
    targets: list[str]
    kinds: list[str]
    points: dict[str, dict[str, list[float]]]
    agreement: dict[str, dict[str, records.Row]]
    sizes: dict[str, dict[str, records.Row]]
    claims: list[records.Row]
    ceilings: dict[str, float]
    ceiling_intervals: dict[str, list[float | None]]
    replicate_agreement: dict[str, records.Row]
    noise: dict[str, float]
    replicates: int
    calibration: SavedCalibration
    check: dict[str, records.Row]
    learning: list[records.Row]
    learning_target: str
    budget: str
    given: bool
    unit: str
    base: dict[str, dict[str, float]]
    notes: list[str]
    basis: records.Basis

    @property
    def tells_levels(self) -> bool:
        """Whether levels are comparable with those of merges."""
        return self.unit == BITS_PER_BYTE and self.budget == "fixed"

    @property
    def predictors(self) -> tuple[str, ...]:
        """The predictors that have points."""
        return tuple(p for p in PREDICTORS if p in self.points)

    def calibrated(self, names: Collection[str]) -> Calibration | None:
        """What merges are corrected by; None if a domain has no runs.

        Or if runs are fewer than a calibration takes.
        """
        if not self.tells_levels:
            return None
        found = Calibration.from_plain(self.calibration)
        if len(found.off_FD) < ENOUGH:
            return None  # nothing was learned, so nothing is known
        return found if set(names) <= set(found.domains) else None

    def residual(
        self, target: Mapping[str, float], predictor: str = "merge"
    ) -> Residual | None:
        """`residual_of` a weighted mean of domains."""
        names = tuple(target)
        unlimited_D = np.full(len(names), np.inf)
        weights_D = np.array(list(target.values()))
        goal = Objective(names, weights_D, "mean", np.zeros(len(names)), unlimited_D)
        return self.residual_of(goal, predictor)

    def residual_of(self, goal: Objective, predictor: str = "merge") -> Residual | None:
        """How far trained losses lie from a predictor, for an objective.

        For a predictor: around the mean difference, on test text. For calibrated
        merges: of every run, predicted without it by the calibration that
        searches use, on dev text; around zero, because what bias is left is
        error. None with fewer than three runs, or where a domain that matters
        has no run.
        """
        if not self.tells_levels:
            return None
        split, reference = "test", self._columns("reference")
        predicted = self._columns(predictor)
        if predictor == CALIBRATED:
            split, known = "dev", Calibration.from_plain(self.calibration)
            off_FD, reference_FD = known.off_FD, known.reference_FD
            reference = dict(zip(known.domains, reference_FD.T, strict=True))
            predicted = dict(zip(known.domains, (reference_FD - off_FD).T, strict=True))
        needed = [
            name
            for name, is_needed in zip(goal.domains, goal.needed_D, strict=True)
            if is_needed
        ]
        if any(n not in reference or n not in predicted for n in needed):
            return None
        missing_M = np.full(len(reference[needed[0]]), np.nan)
        if len(missing_M) < 3:
            return None
        base_D = [self.base[split].get(n, np.nan) for n in goal.domains]
        goal = dataclasses.replace(goal, base_D=np.array(base_D))
        reference_M, predicted_M = (
            goal.value(np.stack([bits.get(n, missing_M) for n in goal.domains], axis=1))
            for bits in (reference, predicted)
        )
        off_M = reference_M - predicted_M
        deviation = np.std(off_M, ddof=1)
        if predictor == CALIBRATED:
            deviation = np.sqrt(np.mean(off_M**2))
        if not np.isfinite(deviation):
            return None
        return Residual(float(deviation), len(off_M))

    def _columns(self, predictor: str) -> dict[str, np.ndarray]:
        points = self.points.get(predictor, {})
        return {name: np.array(bits) for name, bits in points.items()}


def save_validation(workdir: Path, validation: Validation) -> None:
    """Saves it; the user's own runs have a file beside that of ours."""
    name = GIVEN if validation.given else TRAINED
    records.save(workdir / "validation" / name, validation)


def load_validation(workdir: Path) -> Validation | None:
    """What reference runs showed, if any; those trained here come first.

    Raises:
      DamagedError: its file is unreadable.
    """
    trained = _load(workdir, TRAINED)
    return load_given(workdir) if trained is None else trained


def current_validation(workdir: Path, now: records.Basis) -> Validation | None:
    """The first of both that fits what there is now.

    Raises:
      DamagedError: a file is unreadable.
    """
    both = [v for n in (TRAINED, GIVEN) if (v := _load(workdir, n)) is not None]
    return next((v for v in both if not v.basis.difference(now)), None)


def load_given(workdir: Path) -> Validation | None:
    """What reference runs showed that the user brought.

    Raises:
      DamagedError: its file is unreadable.
    """
    return _load(workdir, GIVEN)


def _load(workdir: Path, name: str) -> Validation | None:
    """The validation in a file, with NaN where a figure is null."""
    path = workdir / "validation" / name
    if not path.exists():
        return None
    v = records.load(path, Validation, "run `jaxsim validate` again")
    for table in (*v.agreement.values(), v.replicate_agreement, v.check,
                  *v.sizes.values()):  # fmt: skip
        for figures in table.values():
            for key, value in figures.items():
                if value is None and not key.endswith("interval"):
                    figures[key] = float("nan")
    return v


def compare(
    basis: Basis,
    held_out: PredictionTable,
    fitted: PredictionTable | None = None,
    replicates: tuple[np.ndarray, np.ndarray] | None = None,
    held_out_replicates: int = 0,
    distributions: Sequence[str] = (),
    unit: str = BITS_PER_BYTE,
    by_size: bool = False,
) -> Validation:
    """Agreement of every predictor and every rule with trained models.

    Args:
      basis: what runs and predictors are of.
      judged: runs that agreement comes from.
      fitted: runs that the calibration, the baselines and the best single
        weight come from.
      repeats: bits per byte [P, D] on test text of runs and of their
        replicates, of reference runs before members.
      held_out_replicates: how many of them are of the first of `judged`.
      sampling distributions: of the judged runs; none if the user brought them.
      unit: of the runs.
      by_size: also compare within mixtures of one number of units.
    """
    targets = targets_of(basis.evaluation, held_out.test["reference"])
    bits = dict(held_out.test)
    bits[CALIBRATED], check = calibrated(basis, held_out, fitted, targets)
    if fitted is not None:
        bits[LOG_LINEAR] = from_weights(fit_log_linear, basis, held_out, fitted)
    there_D = held_out.measured_D
    bits = {p: b for p, b in bits.items() if np.isfinite(b[:, there_D]).all()}
    points = by_target(bits, targets)
    rules, held = _rules(basis, held_out, fitted, targets)
    # A member's noise can be another one; it will do if there is no other.
    some = held_out_replicates if held_out_replicates >= ENOUGH_PAIRS else None
    ceilings: dict[str, Interval] = {}
    noise: dict[str, float] = {}
    again: dict[str, dict[str, Any]] = {}
    if replicates is not None:
        pairs = _by_pair(replicates, targets)
        for target, (first_P, second_P) in pairs.items():
            pair = first_P[:some], second_P[:some]
            ceilings[target] = noise_ceiling(points["reference"][target], *pair)
            noise[target] = replicate_noise(*pair)
        if held_out_replicates >= ENOUGH_RUNS:
            again = _repeat_agreement(pairs, held, held_out_replicates)
    learning_target, learned = learning(basis, held_out, fitted, targets)
    # Once all are judged, every run may teach what searches use.
    every = joined(held_out, fitted)
    return Validation(
        reference_runs=list(held_out.names),
        distributions=list(distributions) or ["given"] * len(held_out),
        members=list(basis.members),
        mixtures=held_out.w_MC.tolist(),
        calibration_runs=[] if fitted is None else list(fitted.names),
        targets=list(targets),
        kinds=[kind for kind, _ in targets.values()],
        points=plain_points(points),
        agreement=_agreement(points, rules, held),
        sizes=_within_sizes(held_out, points) if by_size else {},
        claims=claims(targets, points, rules, ceilings),
        ceilings={name: c.estimate for name, c in ceilings.items()},
        ceiling_intervals={n: [c.low, c.high] for n, c in ceilings.items()},
        replicate_agreement=again,
        noise=noise,
        replicates=0 if replicates is None else len(replicates[0][:some]),
        calibration=fitted_on(basis, every, there_D).to_plain(),
        check=check,
        learning=learned,
        learning_target=learning_target,
        budget="sum" if by_size else "fixed",
        given=not distributions,
        unit=unit,
        base={
            split: {
                name: float(bits)
                for name, bits, there in zip(
                    basis.evaluation.domains, bits_D, there_D, strict=True
                )
                if there
            }
            for split, bits_D in basis.base.items()
        },
        notes=list(basis.notes),
        basis=basis.basis,
    )


# By predictor (and 'reference run') or rule, and by target: [M].
_Values = dict[str, dict[str, np.ndarray]]


def _rules(
    basis: Basis,
    held_out: PredictionTable,
    fitted: PredictionTable | None,
    targets: Targets,
) -> tuple[_Values, dict[str, np.ndarray | None]]:
    """By target: what each rule predicts, and the runs that are `is_in`."""
    rules: _Values = {}
    held: dict[str, np.ndarray | None] = {}
    for target, (_, weights_D) in targets.items():
        own_C = basis.own(weights_D)
        choose = None
        if fitted is not None:
            loss_F = weighted_mean(fitted.dev["reference"], weights_D)
            choose = fitted.w_MC, loss_F
        rules[target] = predictions(held_out.w_MC, own_C, choose)
        held[target] = None if own_C is None else is_in(held_out.w_MC, own_C)
    return rules, held


def _agreement(
    points: _Values, rules: _Values, held: Mapping[str, np.ndarray | None]
) -> dict[str, dict[str, dict[str, Any]]]:
    """By target: every predictor, every rule and chance."""
    found = {}
    for target, reference_M in points["reference"].items():
        predicted = {p: points[p][target] for p in PREDICTORS if p in points}
        found[target] = {
            name: dataclasses.asdict(agreement(predicted_M, reference_M, held[target]))
            for name, predicted_M in (predicted | rules[target]).items()
        } | {CHANCE: dataclasses.asdict(guessing(reference_M))}
    return found


def _by_pair(
    replicates: tuple[np.ndarray, np.ndarray], targets: Targets
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By target, values [P] of runs and of their replicates."""
    first_PD, second_PD = replicates
    return {
        target: (
            weighted_mean(first_PD, weights_D),
            weighted_mean(second_PD, weights_D),
        )
        for target, (_, weights_D) in targets.items()
    }


def _repeat_agreement(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    held: Mapping[str, np.ndarray | None],
    count: int,
) -> dict[str, dict[str, Any]]:
    """By target, how well replicates predict the first `count` runs."""
    found = {}
    for target, (first_P, second_P) in pairs.items():
        in_M = held[target]
        in_P = None if in_M is None else in_M[:count]
        figures = agreement(second_P[:count], first_P[:count], in_P)
        found[target] = dataclasses.asdict(figures)
    return found


def _within_sizes(
    held_out: PredictionTable, points: _Values
) -> dict[str, dict[str, dict[str, float]]]:
    """Spearman correlations of mixtures with the same number of units.

    A run on more units is longer, so its loss is lower whatever is in it:
    over all sizes "more is better" ranks well.
    """
    size_M = np.count_nonzero(held_out.w_MC, axis=1)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for size in np.unique(size_M):
        here = size_M == size
        if here.sum() < 3:
            continue
        found[str(size)] = {
            target: {
                predictor: agreement(
                    values[target][here], reference_M[here], None
                ).spearman
                for predictor, values in points.items()
                if predictor != "reference"
            }
            for target, reference_M in points["reference"].items()
        }
    return found
