"""How chosen mixtures came out: trained beside predicted, and beside plain.

What a search picked is where its predictor errs in its own favor, so one
chosen mixture says nothing about agreement; it says whether the choice held.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import scipy.stats

from jaxsim.report.data import same_basis
from jaxsim.report.format import number, signed, target, weights
from jaxsim.search.result import SearchResult, is_single
from jaxsim.validation.chosen import TrainedChoice
from jaxsim.validation.measured import targets_of
from jaxsim.validation.validate import Validation

PLAIN = ("uniform", "proportional", "macro")
RANGE = 0.9  # of one more run
# A mixture is rounded before it is trained; a run cannot tell so little apart.
_SAME_MIXTURE = 1e-4


@dataclasses.dataclass(frozen=True)
class Usual:
    """How far held-out runs lie from their merges, for one objective.

    Attributes:
      offset: their mean distance; positive where runs are worse.
      deviation: standard deviation around it.
      reference runs: how many.
    """

    offset: float
    deviation: float
    reference_runs: int

    @property
    def reach(self) -> float:
        """Half the range of one more run, by Student's t distribution."""
        quantile = scipy.stats.t.ppf((1 + RANGE) / 2, self.reference_runs - 1)
        return float(quantile * self.deviation * np.sqrt(1 + 1 / self.reference_runs))


@dataclasses.dataclass(frozen=True)
class Trained:
    """A mixture that was trained, on one objective, in bits per byte."""

    label: str
    reference: str
    trained: float
    merge: float


def on_target(
    points: Mapping[str, Sequence[float]], aim: Mapping[str, float]
) -> np.ndarray:
    """[M] weighted mean over the domains of an objective."""
    values_TM = np.array([points[name] for name in aim])
    weights_T = np.array(list(aim.values()))
    return np.asarray(weights_T @ values_TM / weights_T.sum())


def aim_of(chosen: TrainedChoice, found: SearchResult | None) -> dict[str, float]:
    """The search's objective, if it was measured, or the default one."""
    if found is not None and all(n in chosen.targets for n in found.target):
        return dict(found.target)
    return targets_of(chosen).default


def usual(validation: Validation, aim: Mapping[str, float]) -> Usual | None:
    """None with fewer than three runs, or without runs on the objective."""
    residual = validation.residual(dict(aim))
    if residual is None:
        return None
    reference_M, merge_M = (
        on_target(validation.points[name], aim) for name in ("reference", "merge")
    )
    offset = float(np.mean(reference_M - merge_M))
    return Usual(offset, residual.deviation, residual.reference_runs)


def came_out(
    found: SearchResult, validation: Validation | None, chosen: TrainedChoice | None
) -> str:
    """How the best mixture came out, in words; '' if it was not trained."""
    best = _find(found.best["weights"], found, validation, chosen)
    if best is None:
        return ""
    text = (
        f"trained as {best.reference} it has {number(best.trained)} bits per byte "
        f"on test text; its merge predicted {number(best.merge)}"
    )
    if validation is None or best.reference in validation.reference_runs:
        return text
    return f"{text}, {_verdict(best, _usual_of(found, validation))}"


def sentences(
    chosen: TrainedChoice, found: SearchResult | None, validation: Validation | None
) -> list[str]:
    """What came out of each mixture, whether that is usual, and the rivals."""
    aim = aim_of(chosen, found)
    known = None
    if validation is not None and same_basis(validation, chosen):
        known = usual(validation, aim)
    lines = []
    for one, mixture in _trained(chosen, aim):
        lines.append(
            f"{one.label} ({weights(mixture, 4)}): trained it has "
            f"{number(one.trained)} bits per byte on {target(aim)}, test text; "
            f"its merge predicted {number(one.merge)}, {_verdict(one, known)}"
        )
        if found is None or not same_basis(found, chosen):
            continue
        best = found.best
        if (
            found.calibrated
            and found.objective == "mean"
            and best["test"] is not None
            and _same(best["weights"], mixture)
        ):
            predicted = number(found.predicted(best, "test"))
            lines.append(f"Calibrated, the search predicted {predicted} for it")
        lines += _rivals(one, mixture, found, validation, chosen)
    return lines


def _verdict(one: Trained, known: Usual | None) -> str:
    """Whether it lies where held-out runs would put it."""
    gap = one.trained - one.merge
    text = f"a difference of {signed(gap)}"
    if known is None:
        return f"{text}; too few held-out runs to say whether that is usual"
    low, high = known.offset - known.reach, known.offset + known.reach
    place = "worse than" if gap > high else "better than"
    if low <= gap <= high:
        place = "within"
    return (
        f"{text}, {place} the {RANGE:.0%} range of single runs, by "
        f"{known.reference_runs} held-out runs ({signed(low)} to {signed(high)})"
    )


def _rivals(
    one: Trained,
    mixture: Mapping[str, float],
    found: SearchResult,
    validation: Validation | None,
    chosen: TrainedChoice,
) -> Iterator[str]:
    """It beside the plain mixtures that were trained, and the best member."""
    for row in found.rows:
        if row["kind"] not in PLAIN or _same(row["weights"], mixture):
            continue
        name, value = row["name"], None
        if rival := _find(row["weights"], found, None, chosen):
            value = rival.trained
        elif (
            found.objective == "mean"
            and row["test"] is not None
            and (rival := _find(row["weights"], found, validation, None))
        ):
            # Held-out runs may be scored on part of the test text: what
            # training adds to the merge there is taken over to all of it.
            value = row["test"] + rival.trained - rival.merge
        if rival is not None and value is not None:
            yield _against(one, f"{name}, trained as {rival.reference}", value)
    singles = [row for row in found.rows if is_single(row) and row["test"] is not None]
    # Values of the worst case are not on the scale of a trained mean.
    if singles and found.objective == "mean":
        best = min(singles, key=lambda row: float(row["test"]))
        member = next(iter(best["weights"]))
        name = f"the member {member} alone, as long as a member is trained"
        yield _against(one, name, best["test"])


def _against(one: Trained, rival: str, trained: float) -> str:
    gain = trained - one.trained
    return (
        f"Against {rival} ({number(trained)}): {one.label} is "
        f"{number(abs(gain))} {'better' if gain > 0 else 'worse'}, training "
        "noise of single runs included"
    )


def _trained(
    result: TrainedChoice | Validation, aim: Mapping[str, float]
) -> Iterator[tuple[Trained, dict[str, float]]]:
    """Every run on an objective, and its mixture."""
    reference_M, merge_M = (
        on_target(result.points[name], aim) for name in ("reference", "merge")
    )
    labels = (
        result.labels if isinstance(result, TrainedChoice) else result.reference_runs
    )
    for i, (name, run) in enumerate(zip(labels, result.reference_runs, strict=True)):
        parts = dict(zip(result.members, result.mixtures[i], strict=True))
        yield Trained(name, run, float(reference_M[i]), float(merge_M[i])), parts


def _find(
    parts: Mapping[str, float],
    found: SearchResult,
    validation: Validation | None,
    chosen: TrainedChoice | None,
) -> Trained | None:
    """A mixture among what was trained on the pool and text of a search."""
    for result in (chosen, validation):
        if result is None or not same_basis(found, result):
            continue
        if all(name in result.points["reference"] for name in found.target):
            for one, mixture in _trained(result, found.target):
                if _same(parts, mixture):
                    return one
    return None


def _usual_of(found: SearchResult, validation: Validation) -> Usual | None:
    if not same_basis(validation, found):
        return None
    return usual(validation, found.target)


def _same(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    gaps = [abs(a.get(name, 0.0) - b.get(name, 0.0)) for name in {*a, *b}]
    return max(gaps) < _SAME_MIXTURE
