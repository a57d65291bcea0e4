"""How chosen ratios came out: predicted beside trained, and beside the plain.

What a search picked is where its proxy errs in its own favour, so one chosen
ratio says nothing of agreement; it says whether the choice held.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from jaxsim.report.agreement import groups
from jaxsim.report.wording import number, signed, target, weights
from jaxsim.search.found import Found
from jaxsim.study.chosen import Chosen
from jaxsim.study.measured import CALIBRATED, PROXIES
from jaxsim.study.validate import Validation

PLAIN = ("uniform", "proportional", "macro")
RANGE = 0.9  # of one more truth
# A ratio is rounded before it is trained; a run cannot tell so little apart.
_SAME_RATIO = 1e-4


@dataclasses.dataclass(frozen=True)
class Usual:
    """How far truths lie from their merges, for one target.

    Attributes:
      offset: their mean distance; positive where truths are worse.
      deviation: standard deviation around it.
      truths: how many.
    """

    offset: float
    deviation: float
    truths: int

    @property
    def reach(self) -> float:
        """Half the range of one more truth, by Student's t distribution."""
        return _reach(self.deviation, self.truths)


@dataclasses.dataclass(frozen=True)
class Trained:
    """One ratio that was trained, on one target, in bits per byte.

    Attributes:
      label: what to call it.
      truth: its name in the pool.
      trained: the truth.
      predicted: by proxy.
    """

    label: str
    truth: str
    trained: float
    predicted: dict[str, float]


def _reach(deviation: float, truths: int) -> float:
    quantile = scipy.stats.t.ppf((1 + RANGE) / 2, truths - 1)
    return float(quantile * deviation * np.sqrt(1 + 1 / truths))


def same_basis(a: Found | Validation | Chosen, b: Any) -> bool:
    """Whether both are of the same pool and text."""
    return bool(a.evaluation) and (
        (a.evaluation, dict(a.digests)) == (b.evaluation, dict(b.digests))
    )


def usual(validation: Validation, aim: Mapping[str, float]) -> Usual | None:
    """None with fewer than three truths, or without truths for the target."""
    residual = validation.residual(dict(aim))
    if residual is None:
        return None
    truth_M, merge_M = (
        _on_target(validation.points[name], aim) for name in ("truth", "merge")
    )
    return Usual(
        float(np.mean(truth_M - merge_M)), residual.deviation, residual.truths
    )


def trained_best(
    found: Found, validation: Validation | None, chosen: Chosen | None
) -> Trained | None:
    """The best mixture of the search as it was trained, if it was."""
    return _find(found.best["weights"], found, validation, chosen)


def came_out(
    found: Found, validation: Validation | None, chosen: Chosen | None
) -> str:
    """How the best mixture came out, in words; '' if it was not trained."""
    best = trained_best(found, validation, chosen)
    if best is None:
        return ""
    is_judged = validation is not None and best.truth in validation.truths
    where = "the report text of truths" if is_judged else "report text"
    text = (
        f"trained as {best.truth} it has {number(best.trained, 4)} bits per "
        f"byte on {where}; its merge predicted "
        f"{number(best.predicted['merge'], 4)}"
    )
    if validation is None or best.truth in validation.truths:
        return text
    return f"{text}, {_verdict(best, _usual_of(validation, found))}"


def target_of(chosen: Chosen, found: Found | None) -> dict[str, float]:
    """The search's target, or every out-of-pool domain, or every one."""
    if found is not None and all(n in chosen.targets for n in found.target):
        return dict(found.target)
    kinds = list(zip(chosen.targets, chosen.kinds, strict=True))
    outside = {name: 1.0 for name, kind in kinds if kind == "out-of-pool"}
    inside = {name: 1.0 for name, kind in kinds if kind == "in-pool"}
    return outside or inside


def outcomes(
    chosen: Chosen, found: Found | None, aim: Mapping[str, float] | None = None
) -> list[Trained]:
    """Every chosen ratio on a target; by default the search's."""
    aim = target_of(chosen, found) if aim is None else aim
    values = {n: _on_target(p, aim) for n, p in chosen.points.items()}
    return [
        Trained(
            label,
            truth,
            float(values["truth"][i]),
            {proxy: float(values[proxy][i]) for proxy in PROXIES},
        )
        for i, (label, truth) in enumerate(
            zip(chosen.labels, chosen.truths, strict=True)
        )
    ]


def comparisons(
    chosen: Chosen, found: Found | None
) -> Iterator[tuple[str, list[Trained]]]:
    """The target, then macros and lone domains of a kind, with all ratios."""
    aim = target_of(chosen, found)
    first = outcomes(chosen, found, aim)
    yield target(aim), first
    for group in groups(chosen):
        if len(group.targets) > 1:  # its mean is the macro
            continue
        these = outcomes(chosen, found, {group.targets[0]: 1.0})
        if any(
            not math.isclose(a.trained, b.trained, rel_tol=1e-12)
            for a, b in zip(first, these, strict=True)
        ):
            yield group.title, these


def sentences(
    chosen: Chosen, found: Found | None, validation: Validation | None
) -> list[str]:
    """What came out of each ratio, whether that is usual, and the rivals."""
    aim = target_of(chosen, found)
    if validation is not None and not same_basis(validation, chosen):
        validation = None
    known = usual(validation, aim) if validation is not None else None
    if found is not None and not same_basis(found, chosen):
        found = None
    lines = []
    for i, one in enumerate(outcomes(chosen, found, aim)):
        ratio = dict(zip(chosen.members, chosen.ratios[i], strict=True))
        lines.append(
            f"{one.label} ({weights(ratio, 4)}): trained it has "
            f"{number(one.trained, 4)} bits per byte on {target(aim)}, "
            f"report text; its merge predicted "
            f"{number(one.predicted['merge'], 4)}, {_verdict(one, known)}"
        )
        if found is not None and _same(found.best["weights"], ratio):
            lines += _as_searched(found)
        if found is not None:
            lines += _rivals(one, ratio, found, validation, chosen, known)
    return lines


def _as_searched(found: Found) -> list[str]:
    """What the search said of its best, where truths corrected the merge."""
    best = found.best
    if not found.calibrated or not _is_on_all_text(best, found):
        return []
    return [
        "With what truths had taught, the search predicted "
        f"{number(found.predicted(best, 'report'), 4)} for it on report text"
    ]


def _verdict(one: Trained, known: Usual | None) -> str:
    """Whether it lies where earlier truths would put it."""
    gap = one.trained - one.predicted["merge"]
    text = f"a difference of {signed(gap)}"
    if known is None:
        return f"{text}; too few earlier truths to say whether that is usual"
    low, high = known.offset - known.reach, known.offset + known.reach
    place = (
        "within"
        if low <= gap <= high
        else "worse than"
        if gap > high
        else "better than"
    )
    return (
        f"{text}, {place} what {known.truths} earlier truths showed "
        f"({signed(low)} to {signed(high)} for {RANGE:.0%} of single runs)"
    )


def _rivals(
    one: Trained,
    ratio: Mapping[str, float],
    found: Found,
    validation: Validation | None,
    chosen: Chosen,
    known: Usual | None,
) -> list[str]:
    """The chosen ratio beside plain ones, trained or else predicted."""
    lines, predicted = [], []
    for row in found.rows:
        if row["kind"] not in PLAIN or _same(row["weights"], ratio):
            continue
        rival = _find(row["weights"], found, None, chosen)
        truth = _find(row["weights"], found, validation, None)
        if rival is not None:
            name = f"{row['name']}, trained as {rival.truth}"
            lines.append(_against(one, name, rival.trained))
        elif truth is not None and _is_on_all_text(row, found):
            # Truths may be scored on part of the report text: what training
            # adds to the merge there is taken over to all of it.
            name = f"{row['name']}, trained as {truth.truth}"
            added = truth.trained - truth.predicted["merge"]
            lines.append(_against(one, name, row["report"] + added))
        else:
            predicted.append(row)
    # Values of the worst case are not on the scale of a trained mean.
    if found.objective != "mean":
        return lines
    singles = [row for row in found.rows if len(row["weights"]) == 1]
    single, plain = _lowest(singles), _lowest(predicted)
    if single is not None:
        # A member is a trained model: its merge is itself.
        member = next(iter(single["weights"]))
        name = f"the member {member} alone, as long as a member is trained"
        lines.append(_against(one, name, single["report"]))
    if plain is not None:
        lines.append(_against_predicted(one, plain, found, validation, known))
    return lines


def _is_on_all_text(row: Mapping[str, Any], found: Found) -> bool:
    """Whether it has a mean over the target on all report text."""
    return found.objective == "mean" and row["report"] is not None


def _lowest(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """On report text, of those that were scored there."""
    there = [row for row in rows if row["report"] is not None]
    return min(there, key=lambda row: row["report"], default=None)


def _against(one: Trained, rival: str, trained: float) -> str:
    return (
        f"Against {rival} ({number(trained, 4)}): {one.label} is "
        f"{_gap(trained - one.trained)}; one run each, so part of that is the "
        "noise of training"
    )


def _gap(gain: float) -> str:
    return f"{number(abs(gain), 4)} {'better' if gain > 0 else 'worse'}"


def _against_predicted(
    one: Trained,
    row: dict[str, Any],
    found: Found,
    validation: Validation | None,
    known: Usual | None,
) -> str:
    start = (
        f"Against {row['name']}, which was not trained and is predicted at "
        f"{number(row['report'], 4)} by its merge"
    )
    left = None
    if validation is not None and found.calibrated:
        left = validation.residual(found.target, CALIBRATED)
    if left is not None:
        expected = found.predicted(row, "report")
        reach, how = _reach(left.deviation, left.truths), "what truths taught"
    elif known is not None:
        expected, reach = row["report"] + known.offset, known.reach
        how = "the offset of earlier truths"
    else:
        return (
            f"{start}: no verdict, because merges and trained models differ "
            "in level by an amount that only truths show"
        )
    gain = expected - one.trained
    size = "more" if abs(gain) > reach else "less"
    return (
        f"{start}, {number(expected, 4)} with {how}: {one.label} is "
        f"{_gap(gain)} than that, {size} than the {number(reach, 4)} that a "
        "single run may be off"
    )


def _find(
    parts: Mapping[str, float],
    found: Found,
    validation: Validation | None,
    chosen: Chosen | None,
) -> Trained | None:
    """A mixture among what was trained on the pool and text of a search."""
    if chosen is not None and same_basis(found, chosen):
        for i, ratio in enumerate(chosen.ratios):
            if _same(parts, dict(zip(chosen.members, ratio, strict=True))):
                there = [n for n in found.target if n in chosen.targets]
                if len(there) == len(found.target):
                    return outcomes(chosen, found, found.target)[i]
    if validation is None or not same_basis(found, validation):
        return None
    if any(name not in validation.points["truth"] for name in found.target):
        return None
    for i, ratio in enumerate(validation.ratios):
        if _same(parts, dict(zip(validation.members, ratio, strict=True))):
            values = {
                name: float(_on_target(points, found.target)[i])
                for name, points in validation.points.items()
            }
            trained = values.pop("truth")
            name = validation.truths[i]
            return Trained(name, name, trained, values)
    return None


def _usual_of(validation: Validation, found: Found) -> Usual | None:
    if not same_basis(validation, found):
        return None
    return usual(validation, found.target)


def _on_target(
    points: Mapping[str, Sequence[float]], aim: Mapping[str, float]
) -> np.ndarray:
    """[M] weighted mean over the domains of a target."""
    total = sum(aim.values())
    values_TM = np.array([points[name] for name in aim])
    return np.array(list(aim.values())) @ values_TM / total


def _same(a: Mapping[str, float], b: Mapping[str, float]) -> bool:
    names = {*a, *b}
    gaps = [abs(a.get(name, 0.0) - b.get(name, 0.0)) for name in names]
    return max(gaps) < _SAME_RATIO
