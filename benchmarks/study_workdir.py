"""What `validate` left in a workdir, as the study looks at it."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.trees import fit_trees
from jaxsim.config import Config, load_config
from jaxsim.errors import UserError
from jaxsim.pool import Manifest
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import Scores
from jaxsim.scoring.targets import Targets
from jaxsim.search.objective import weighted_mean
from jaxsim.validation.agreement import BELOW_NOISE, Interval, is_in, predictions
from jaxsim.validation.baselines import from_weights
from jaxsim.validation.diagnostics import Diagnostics
from jaxsim.validation.measured import (
    PoolLosses,
    PredictionTable,
    measured,
    pool_losses,
)
from jaxsim.validation.validate import Validation, load_validation

INSIDE, OUTSIDE = "in-pool", "out-of-pool"
TREES = "trees"


@dataclasses.dataclass(frozen=True)
class Workdir:
    """A validated workdir; nothing is trained or scored here."""

    path: Path
    validation: Validation

    @functools.cached_property
    def config(self) -> Config:
        return load_config(self.path / "config.json")

    @functools.cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.path, self.config.score)

    @functools.cached_property
    def manifests(self) -> dict[str, Manifest]:
        """The manifests of everything in the pool, by name."""
        return dict(self.scorer.pool.manifests())

    @functools.cached_property
    def diagnostics(self) -> Diagnostics | None:
        return Diagnostics.load(self.path)

    @functools.cached_property
    def winner(self) -> dict[str, Any] | None:
        """What benchmarks/winner.py found."""
        path = self.path / "validation" / "winner.json"
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def table(self, name: str) -> Scores | None:
        """A scored table, if there is one."""
        try:
            return self.scorer.load(name)
        except UserError:
            return None

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The windows that reference runs were scored on."""
        rows: np.ndarray = (
            self.scorer.load("reference-runs").predictors["reference"].rows
        )
        return rows

    @functools.cached_property
    def held_out(self) -> PredictionTable:
        load = self.scorer.load
        return measured(load("mixtures"), load("reference-runs"))

    @functools.cached_property
    def fitted(self) -> PredictionTable | None:
        """The calibration runs, on dev text only."""
        if not self.validation.calibration_runs:
            return None
        load = self.scorer.load
        return measured(load("calibration-mixtures"), load("calibration-runs"))

    @functools.cached_property
    def basis(self) -> PoolLosses:
        as_long = self.steps("reference") == self.steps("member")
        standard = self.scorer.load("standard")
        return pool_losses(self.scorer.corpus, standard, as_long, self.rows)

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """[D] of the domains, by target."""
        e = self.scorer.evaluation
        return Targets.of(e, self.held_out.measured_D).weights(e.domains)

    @functools.cached_property
    def w_MC(self) -> np.ndarray:
        return np.array(self.validation.mixtures)

    @functools.cached_property
    def predicted(self) -> dict[str, dict[str, np.ndarray]]:
        """By predictor or weight-only baseline, then by target: [M], lower is better.

        A rule is absent where it is undefined.
        """
        found = {
            name: {t: np.array(values) for t, values in by_target.items()}
            for name, by_target in self.validation.points.items()
            if name != "reference"
        }
        if self.fitted is not None:
            bits_MD = from_weights(fit_trees, self.basis, self.held_out, self.fitted)
            found[TREES] = {
                target: weighted_mean(bits_MD, weights_D)
                for target, weights_D in self.weights.items()
            }
        for target in self.validation.targets:
            choose = None
            if self.fitted is not None:
                loss_F = weighted_mean(
                    self.fitted.dev["reference"], self.weights[target]
                )
                choose = self.fitted.w_MC, loss_F
            rules = predictions(self.w_MC, self.own(target), choose)
            for name, values_M in rules.items():
                if np.ptp(values_M) > 0:
                    found.setdefault(name, {})[target] = values_M
        return found

    def steps(self, kind: str) -> int:
        """The steps of members, or of held-out runs."""
        names = self.validation.reference_runs
        if kind == "member":
            names = self.validation.members
        return self.manifests[names[0]].steps

    def own(self, target: str) -> np.ndarray | None:
        """[C] bool, the units of a domain's own partition."""
        if target not in self.targets(INSIDE):
            return None
        domains = self.basis.evaluation.domains
        own_C: np.ndarray = self.basis.own_DC[domains.index(target)]
        return own_C if own_C.any() else None

    def within(self, target: str) -> np.ndarray | None:
        """[M] bool, reference runs that hold a domain's own partition."""
        own_C = self.own(target)
        return None if own_C is None else is_in(self.w_MC, own_C)

    def targets(self, kind: str) -> list[str]:
        """The targets of a kind: 'in-pool', 'out-of-pool' or 'macro'."""
        v = self.validation
        pairs = zip(v.targets, v.kinds, strict=True)
        return [target for target, k in pairs if k == kind]

    def sound(self, kind: str) -> list[str]:
        """Those that replicates do not show to be below the noise floor."""
        ceilings = self.validation.ceilings
        return [
            target
            for target in self.targets(kind)
            if ceilings.get(target, 1.0) >= BELOW_NOISE
        ]

    def reference_MT(self, targets: Sequence[str]) -> np.ndarray:
        return columns(self.validation.points["reference"], targets)

    def values_MT(self, name: str, targets: Sequence[str]) -> np.ndarray | None:
        """What a predictor or rule says; None where it is undefined."""
        by_target = self.predicted.get(name, {})
        if not targets or any(t not in by_target for t in targets):
            return None
        return columns(by_target, targets)

    def repeated(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Indices [P] of the runs with replicates, and the replicates' bits.

        By target, [P] on test text.
        """
        scores = self.table("replicates")
        if scores is None:
            return np.zeros(0, int), {}
        at = {name: m for m, name in enumerate(self.validation.reference_runs)}
        bases = [n.rpartition(".replicate")[0] for n in scores.table.names]
        rows_P = [p for p, base in enumerate(bases) if base in at]
        bits_PD = scores.bits_per_byte("reference", "test")[rows_P]
        return np.array([at[bases[p]] for p in rows_P], int), {
            target: weighted_mean(bits_PD, weights_D)
            for target, weights_D in self.weights.items()
        }


def open_workdir(path: Path | None) -> Workdir | None:
    """None if it was not given, or not validated yet."""
    if path is None:
        return None
    validation = load_validation(path)
    return None if validation is None else Workdir(path, validation)


def columns(by_target: Any, targets: Sequence[str]) -> np.ndarray:
    """[M, T] of some targets."""
    return np.stack([np.array(by_target[name]) for name in targets], axis=1)


def plain(value: Interval) -> dict[str, Any]:
    """An interval as JSON holds it."""
    return {"value": value.estimate, "low": value.low, "high": value.high}
