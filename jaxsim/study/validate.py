"""What `validate` found, as the report, searches and programs read it."""

import dataclasses
import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim.errors import DamagedError
from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.mixture.files import replace
from jaxsim.mixture.scores import Scores
from jaxsim.pool.digests import object_digest
from jaxsim.search.objective import Objective
from jaxsim.search.ties import Residual
from jaxsim.study.calibration import ENOUGH, Calibration
from jaxsim.study.measured import PROXIES

SCALED, CALIBRATED = "merge at its scale", "calibrated merge"
BASELINES = ("log-linear", "trees")
# Everything that predicts, the plain proxies first.
PREDICTORS = ("merge", SCALED, *PROXIES[1:], CALIBRATED, *BASELINES)
# Files in WORKDIR/study.
TRAINED, GIVEN = "validation.json", "given.json"
IN_POOL, OUT_OF_POOL = "macro in-pool", "macro out-of-pool"


@dataclasses.dataclass(frozen=True)
class Validation:
    """What `validate` found.

    Attributes:
      truths: names of those that judge, in the order of `ratios` and points.
      laws: the part of the law that each was drawn from, or 'given'.
      members: columns of `ratios`.
      ratios: token shares, one row a truth.
      fit: names of the truths that were fitted on and never judged.
      fit_ratios: theirs.
      targets: domains that have truths, then the macros over them.
      kinds: of the targets: 'in-pool', 'out-of-pool' or 'macro'.
      points: bits per byte by predictor (and 'truth') and target.
      agreement: by target and predictor (and no-model rule).
      sizes: with the budget 'sum', Spearman correlations within ratios of one
        number of units: by number, target and predictor.
      claims: for each kind of domain and predictor, over the domains that are
        not noise-bound: mean Spearman, mean ceiling, the best no-model rule,
        and the difference to it, with intervals.
      ceilings: by target, where repeats were trained.
      ceiling_intervals: theirs; None where there is none.
      repeat_agreement: of truths with their own repeats, by target.
      noise: standard deviation of a run around its repeats, by target.
      repeats: how many repeated runs `noise` and `ceilings` rest on.
      scale: of merges, fitted on the fit truths; None without any.
      calibration: what searches use; see study/calibration.py.
      check: by target: mean absolute error of 'merge' and 'calibrated', and
        the share of truths 'covered' by 90 % intervals of half-length 'half'.
      learning: mean absolute error on truths judged after the first 'truths'
        of the fit truths were fitted, on the target `learning_target`.
      budget: 'fixed', or 'sum': then a truth of n units is n times as long,
        its loss says nothing of ratios at equal budget, and no search uses it.
      given: whether the user brought the truths.
      unit: of the truths; 'unknown' if a user's may be in other than bits per
        byte: then levels mean nothing.
      seed: bits per byte of the seed on the text of the truths, by half and
        domain.
      notes: what an override admitted.
      evaluation: digest of the windows.
      digests: of 'seed' and of every member, by name.
    """

    truths: list[str]
    members: list[str]
    ratios: list[list[float]]
    targets: list[str]
    kinds: list[str]
    points: dict[str, dict[str, list[float]]]
    agreement: dict[str, dict[str, dict[str, Any]]]
    ceilings: dict[str, float]
    repeats: int
    given: bool
    notes: list[str]
    evaluation: str = ""
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    laws: list[str] = dataclasses.field(default_factory=list)
    fit: list[str] = dataclasses.field(default_factory=list)
    fit_ratios: list[list[float]] = dataclasses.field(default_factory=list)
    sizes: dict[str, dict[str, dict[str, float]]] = dataclasses.field(
        default_factory=dict
    )
    claims: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    ceiling_intervals: dict[str, list[float | None]] = dataclasses.field(
        default_factory=dict
    )
    repeat_agreement: dict[str, dict[str, Any]] = dataclasses.field(
        default_factory=dict
    )
    noise: dict[str, float] = dataclasses.field(default_factory=dict)
    scale: float | None = None
    calibration: dict[str, Any] | None = None
    check: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    learning: list[dict[str, float]] = dataclasses.field(default_factory=list)
    learning_target: str = ""
    unit: str = "bits per byte"
    seed: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    budget: str = "fixed"

    @property
    def tells_levels(self) -> bool:
        """Whether levels are comparable with those of merges."""
        return self.unit == "bits per byte" and self.budget == "fixed"

    def is_of(self, scores: Scores) -> bool:
        """Whether it is of the same pool and text as these scores."""
        return self.evaluation == scores.evaluation.digest and dict(
            self.digests
        ) == dict(scores.digests)

    @property
    def predictors(self) -> tuple[str, ...]:
        """Those that there are."""
        return tuple(p for p in PREDICTORS if p in self.points)

    def calibrated(self, names: Collection[str]) -> Calibration | None:
        """What merges are corrected by; None if a domain has no truths.

        Or if truths are fewer than a calibration takes.
        """
        if self.calibration is None or not self.tells_levels:
            return None
        found = Calibration.from_plain(self.calibration)
        if len(found.off_FD) < ENOUGH:
            return None  # nothing was learned, so nothing is known
        return found if set(names) <= set(found.domains) else None

    def residual(
        self, target: Mapping[str, float], proxy: str = "merge"
    ) -> Residual | None:
        """`residual_of` a weighted mean of domains."""
        names = tuple(target)
        unlimited_D = np.full(len(names), np.inf)
        weights_D = np.array(list(target.values()))
        goal = Objective(
            names, weights_D, "mean", np.zeros(len(names)), unlimited_D
        )
        return self.residual_of(goal, proxy)

    def residual_of(
        self, goal: Objective, proxy: str = "merge"
    ) -> Residual | None:
        """How far truths lie from a predictor, for an objective.

        For a proxy: around the mean difference, on report text. For calibrated
        merges: of every truth, predicted without it by the calibration that
        searches use, on select text; around zero, because what bias is left is
        error. None with fewer than three truths, or where a domain that
        matters has no truth.
        """
        needed = [
            name
            for name, is_needed in zip(goal.domains, goal.needed_D, strict=True)
            if is_needed
        ]
        if not self.tells_levels:
            return None
        half = "report"
        points: Mapping[str, Mapping[str, Any]] = self.points
        if proxy == CALIBRATED and (left_out := self._left_out()):
            half, points = "select", left_out
        truth, predicted = points["truth"], points.get(proxy, {})
        if any(n not in truth or n not in predicted for n in needed):
            return None
        count = len(truth[needed[0]])
        if count < 3:
            return None
        if half in self.seed:
            seed_D = [self.seed[half].get(n, np.nan) for n in goal.domains]
            goal = dataclasses.replace(goal, seed_D=np.array(seed_D))
        truth_M, predicted_M = (
            goal.value(
                np.stack(
                    [bits.get(n, np.full(count, np.nan)) for n in goal.domains],
                    axis=1,
                )
            )
            for bits in (truth, predicted)
        )
        off_M = truth_M - predicted_M
        deviation = np.std(off_M, ddof=1)
        if proxy == CALIBRATED:
            deviation = np.sqrt(np.mean(off_M**2))
        if not np.isfinite(deviation):
            return None
        return Residual(float(deviation), count)

    def _left_out(self) -> dict[str, dict[str, np.ndarray]]:
        """Every truth, fitted or judged, and its prediction without it.

        By domain, on select text; of what an earlier version wrote nothing.
        """
        if self.calibration is None:
            return {}
        known = Calibration.from_plain(self.calibration)
        if not len(known.truth_FD):
            return {}
        predicted_FD = known.truth_FD - known.off_FD
        return {
            "truth": dict(zip(known.domains, known.truth_FD.T, strict=True)),
            CALIBRATED: dict(zip(known.domains, predicted_FD.T, strict=True)),
        }


def mean_agreement(
    validation: Validation, kind: str, predictor: str, field: str
) -> float:
    """Mean over the targets of a kind of one figure; NaN if it is blank."""
    values = [
        validation.agreement[target][predictor][field]
        for target, k in zip(validation.targets, validation.kinds, strict=True)
        if k == kind and predictor in validation.agreement[target]
    ]
    finite = [v for v in values if v is not None and np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")


def save_validation(workdir: Path, validation: Validation) -> None:
    """Truths of the user's lie beside those trained here."""
    folder = Path(workdir) / "study"
    folder.mkdir(parents=True, exist_ok=True)
    # JSON has no NaN: what is undefined is null.
    record = json.loads(
        json.dumps(_without_nan(dataclasses.asdict(validation)))
    )
    record["sha256"] = object_digest(record)
    text = json.dumps(record, indent=1, allow_nan=False)
    replace(
        folder / (GIVEN if validation.given else TRAINED),
        lambda file: file.write(f"{text}\n".encode()),
    )


def load_validation(workdir: Path) -> Validation | None:
    """What truths showed, if there are any; those trained here come first.

    Raises:
      DamagedError: its file is unreadable.
    """
    trained = _load(Path(workdir) / "study" / TRAINED)
    return load_given(workdir) if trained is None else trained


def current_validation(workdir: Path, scores: Scores) -> Validation | None:
    """The first of them that is of the same pool and text as these scores.

    Raises:
      DamagedError: a file is unreadable.
    """
    both = (_load(Path(workdir) / "study" / name) for name in (TRAINED, GIVEN))
    return next((v for v in both if v is not None and v.is_of(scores)), None)


def load_given(workdir: Path) -> Validation | None:
    """What truths showed that the user brought.

    Raises:
      DamagedError: its file is unreadable.
    """
    return _load(Path(workdir) / "study" / GIVEN)


def _load(path: Path) -> Validation | None:
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        digest = record.pop("sha256", None)
        # An earlier version wrote none.
        if digest is not None and digest != object_digest(record):
            raise ValueError("it was altered")
        validation = Validation(**record)
        for figures in _figures(validation):
            for key, value in figures.items():
                if value is None and not key.endswith("interval"):
                    figures[key] = float("nan")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{path}: unreadable ({error}); run `jaxsim validate` again"
        ) from error
    return validation


def _figures(validation: Validation) -> Iterator[dict[str, Any]]:
    """Tables of figures that may be undefined."""
    for table in validation.agreement.values():
        yield from table.values()
    yield from validation.repeat_agreement.values()
    yield from validation.check.values()
    for by_target in validation.sizes.values():
        yield from by_target.values()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def targets_of(
    evaluation: EvaluationSet, truth_MD: np.ndarray
) -> dict[str, tuple[str, np.ndarray]]:
    """Domains with truths and the macros over them: kind and weights [D]."""
    there = np.isfinite(truth_MD).all(axis=0)
    eye_DD = np.eye(len(evaluation.domains))
    inside_D = np.array(evaluation.in_pool)
    targets = {
        name: ("in-pool" if inside_D[d] else "out-of-pool", eye_DD[d])
        for d, name in enumerate(evaluation.domains)
        if there[d]
    }
    for name, kind_D in ((IN_POOL, inside_D), (OUT_OF_POOL, ~inside_D)):
        weights_D = (there & kind_D).astype(float)
        if weights_D.sum() > 1:
            targets[name] = ("macro", weights_D)
    return targets
