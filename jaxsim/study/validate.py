"""Proxies against truths: the points, the agreement, the no-model rules."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim.corpus import Corpus
from jaxsim.errors import DamagedError
from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.mixture.files import replace
from jaxsim.mixture.scores import Scores
from jaxsim.mixture.table import Mixtures
from jaxsim.search.objective import Objective, weighted_mean
from jaxsim.search.ties import Residual
from jaxsim.study.agreement import agreement, guessing
from jaxsim.study.noise import noise_ceiling
from jaxsim.study.rules import predictions

PROXIES = ("merge", "probability", "members")
IN_POOL, OUT_OF_POOL = "macro in-pool", "macro out-of-pool"


@dataclasses.dataclass(frozen=True)
class Validation:
    """What `validate` found.

    Attributes:
      truths: names, in the order of `ratios` and of all points.
      members: columns of `ratios`.
      ratios: token shares, one row a truth.
      targets: domains that have truths, then the macros over them.
      kinds: of the targets: 'in-pool', 'out-of-pool' or 'macro'.
      points: bits per byte by predictor ('truth' and the proxies) and target.
      agreement: by target and predictor (proxies and no-model rules).
      ceilings: by target, where repeats were trained.
      repeats: how many truths were repeated.
      given: whether the user brought the truths.
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

    def is_of(self, scores: Scores) -> bool:
        """Whether it is of the same pool and text as these scores."""
        return self.evaluation == scores.evaluation.digest and dict(
            self.digests
        ) == dict(scores.digests)

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
        """Scatter of truths around a proxy, for an objective.

        None with fewer than three truths, or where a domain that matters has
        no truth.
        """
        needed = [
            name
            for name, is_needed in zip(goal.domains, goal.needed_D, strict=True)
            if is_needed
        ]
        if len(self.truths) < 3 or any(
            name not in self.points["truth"] for name in needed
        ):
            return None
        value_M = {}
        for which in ("truth", proxy):
            bits_MD = np.full((len(self.truths), len(goal.domains)), np.nan)
            for name in needed:
                column = goal.domains.index(name)
                bits_MD[:, column] = self.points[which][name]
            value_M[which] = goal.value(bits_MD)
        difference_M = value_M["truth"] - value_M[proxy]
        return Residual(
            float(np.std(difference_M, ddof=1)),
            len(self.truths),
            float(difference_M.mean()),
        )


def compare(
    corpus: Corpus,
    proxies: Scores,
    truth_MD: np.ndarray,
    choose_MD: np.ndarray | None,
    repeats: tuple[np.ndarray, np.ndarray] | None,
    given: bool,
) -> Validation:
    """Agreement of every proxy and every rule with the truths.

    Args:
      corpus: names the units that belong to each domain.
      proxies: scores of the merges at the truths' ratios, on report text.
      truth_MD: bits per byte of the truths on report text; NaN in a column
        where there is none.
      choose_MD: the same on select text, to pick the best single weight on.
      repeats: bits per byte [P, D] of runs and of their repeats.
      given: the user brought the truths.
    """
    evaluation, table = proxies.evaluation, proxies.table
    targets = targets_of(evaluation, truth_MD)
    bits = {p: proxies.bits_per_byte(p, "report") for p in PROXIES}
    bits["truth"] = truth_MD
    points = {
        name: {
            target: weighted_mean(values_MD, weights_D).tolist()
            for target, (_, weights_D) in targets.items()
        }
        for name, values_MD in bits.items()
    }
    tables, ceilings = {}, {}
    for target, (_, weights_D) in targets.items():
        own_C = _own_units(corpus, evaluation, table, weights_D)
        choose_M = None
        if choose_MD is not None:
            choose_M = weighted_mean(choose_MD, weights_D)
        tables[target] = _against(
            {p: np.array(points[p][target]) for p in PROXIES},
            np.array(points["truth"][target]),
            table.w_MC,
            own_C,
            choose_M,
        )
        if repeats is not None:
            ceilings[target] = noise_ceiling(
                np.array(points["truth"][target]),
                weighted_mean(repeats[0], weights_D),
                weighted_mean(repeats[1], weights_D),
            ).estimate
    return Validation(
        truths=list(table.names),
        members=list(table.members),
        ratios=table.w_MC.tolist(),
        targets=list(targets),
        kinds=[kind for kind, _ in targets.values()],
        points=points,
        agreement=tables,
        ceilings=ceilings,
        repeats=0 if repeats is None else len(repeats[0]),
        given=given,
        notes=list(proxies.notes),
        evaluation=evaluation.digest,
        digests=dict(proxies.digests),
    )


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
    folder = Path(workdir) / "study"
    folder.mkdir(parents=True, exist_ok=True)
    plain = dataclasses.asdict(validation)
    # JSON has no NaN: what is undefined is null.
    for figures in _figures(plain["agreement"]):
        for key, value in figures.items():
            if isinstance(value, float) and not math.isfinite(value):
                figures[key] = None
    text = json.dumps(plain, indent=1, allow_nan=False)
    replace(
        folder / "validation.json",
        lambda file: file.write(f"{text}\n".encode()),
    )


def load_validation(workdir: Path) -> Validation | None:
    """What the last `validate` of a workdir found, if there was one.

    Raises:
      DamagedError: its file is unreadable.
    """
    path = Path(workdir) / "study" / "validation.json"
    if not path.exists():
        return None
    try:
        validation = Validation(**json.loads(path.read_text()))
        for figures in _figures(validation.agreement):
            for key, value in figures.items():
                if value is None and key != "interval":
                    figures[key] = float("nan")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"{path}: unreadable ({error}); run `jaxsim validate` again"
        ) from error
    return validation


def _figures(
    tables: dict[str, dict[str, dict[str, Any]]],
) -> Iterator[dict[str, Any]]:
    """The figures of every target and predictor."""
    return (row for table in tables.values() for row in table.values())


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


def _own_units(
    corpus: Corpus,
    evaluation: EvaluationSet,
    table: Mixtures,
    weights_D: np.ndarray,
) -> np.ndarray | None:
    """[C] bool: the units of a single in-pool domain's partition."""
    chosen = np.flatnonzero(weights_D)
    if len(chosen) > 1 or not evaluation.in_pool[chosen[0]]:
        return None
    domain = evaluation.domains[chosen[0]]
    own_C = [
        name in corpus.units and corpus.units[name].partition == domain
        for name in table.members
    ]
    return np.array(own_C) if any(own_C) else None


def _against(
    proxies: dict[str, np.ndarray],
    truth_M: np.ndarray,
    w_MC: np.ndarray,
    own_C: np.ndarray | None,
    choose_M: np.ndarray | None,
) -> dict[str, dict[str, Any]]:
    in_M = None
    if own_C is not None:
        in_M = w_MC[:, own_C].sum(axis=1) >= 1 / w_MC.shape[1] - 1e-9
    choose = None if choose_M is None else (w_MC, choose_M)
    everything = {**proxies, **predictions(w_MC, own_C, choose)}
    table = {
        name: dataclasses.asdict(agreement(predicted_M, truth_M, in_M))
        for name, predicted_M in everything.items()
    }
    table["random"] = dataclasses.asdict(guessing(truth_M))
    return table
