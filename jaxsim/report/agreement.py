"""The agreement table, as console, page and files show it.

One group of targets at a time: each macro, and the mean over the domains of a
kind. Predictors come first, then the rules that know nothing of any model, and
last what a truth's own repeat reaches.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.report.wording import interval, number
from jaxsim.study.agreement import ENOUGH_TRUTHS, NOISE_BOUND, RULES, corrected
from jaxsim.study.chosen import Chosen
from jaxsim.study.measured import BASELINES, CALIBRATED, PROXIES
from jaxsim.study.validate import Validation

REPEAT = "repeat"
LABELS = {
    "merge": "merge",
    "probability": "probability average",
    "members": "mean of members",
    CALIBRATED: "calibrated merge",
    "log-linear": "log-linear on ratios alone",
    REPEAT: "the truth's repeat",
}
FIGURES = {
    "spearman": "Spearman",
    "corrected": "of its ceiling",
    "pearson": "Pearson",
    "pairs": "pairs right",
    "pairs_mixed": "one in",
    "pairs_in": "both in",
    "pairs_out": "both out",
    "slope": "slope",
    "offset": "offset",
    "regret": "regret",
    "gain": "gain",
}
# What fits a console, with headings as narrow as the figures.
NARROW = {
    "spearman": "Spearman",
    "corrected": "of its\nceiling",
    "pairs": "pairs\nright",
    "pairs_mixed": "one\nin",
    "pairs_in": "both\nin",
    "pairs_out": "both\nout",
}
_LOSSES = ("offset", "regret", "gain")
# Of another set of truths, the repeated ones, so no choice can be compared.
_OF_REPEATS = (
    "spearman", "pearson", "pairs", "pairs_mixed", "pairs_in", "pairs_out",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Group:
    """Targets whose figures stand together, as a mean if there are several."""

    title: str
    targets: tuple[str, ...]
    in_pool: bool


@dataclasses.dataclass(frozen=True)
class Line:
    """One predictor in a group; `values` by the names in `FIGURES`."""

    predictor: str
    label: str
    is_rule: bool
    values: dict[str, float]
    interval: tuple[float, float] | None


def label(predictor: str, validation: Validation) -> str:
    """What to call a predictor, a rule or the repeat."""
    return LABELS.get(predictor, predictor)


def groups(validation: Validation | Chosen) -> list[Group]:
    """Out-of-pool first: there a rule without a model has nothing to know."""
    found = []
    for kind in ("out-of-pool", "in-pool"):
        inside = kind == "in-pool"
        macro = f"macro {kind}"
        if macro in validation.targets:
            found.append(Group(macro, (macro,), inside))
        names = targets_of(validation, kind)
        if len(names) == 1:
            found.append(Group(f"{kind} domain {names[0]}", names, inside))
        elif names:
            title = f"mean over {len(names)} {kind} domains"
            found.append(Group(title, names, inside))
    return found


def targets_of(validation: Validation | Chosen, kind: str) -> tuple[str, ...]:
    """The targets of a kind: 'in-pool', 'out-of-pool' or 'macro'."""
    pairs = zip(validation.targets, validation.kinds, strict=True)
    return tuple(name for name, k in pairs if k == kind)


def lines(validation: Validation, group: Group) -> list[Line]:
    """All that have a figure for any target of the group."""
    found = []
    for predictor in (*validation.predictors, *RULES, REPEAT):
        rows = [
            (target, row)
            for target in group.targets
            if (row := _row(validation, target, predictor)) is not None
        ]
        if not rows:
            continue
        values = [figures(validation, t, predictor, row) for t, row in rows]
        bounds = rows[0][1]["interval"] if len(group.targets) == 1 else None
        found.append(
            Line(
                predictor,
                label(predictor, validation),
                predictor in RULES,
                {key: _mean([v[key] for v in values]) for key in FIGURES},
                None if bounds is None else (bounds[0], bounds[1]),
            )
        )
    return found


def figures(
    validation: Validation,
    target: str,
    predictor: str,
    row: Mapping[str, Any],
) -> dict[str, float]:
    """What is shown of a row; NaN where it would mean nothing.

    Levels mean nothing for a rule, nor in a unit that is not known. A
    noise-bound target has no Spearman correlation of its ceiling.
    """
    nan = float("nan")
    keys = _OF_REPEATS if predictor == REPEAT else FIGURES
    found = {key: nan for key in FIGURES} | {
        key: float(row[key]) for key in keys if row.get(key) is not None
    }
    if predictor != REPEAT:
        found["corrected"] = corrected(
            found["spearman"], validation.ceilings.get(target, nan)
        )
    if predictor in RULES or validation.unit == "unknown":
        found["slope"] = found["offset"] = nan
    if predictor in BASELINES:  # learned on select text, judged on report text
        found["offset"] = nan
    if validation.unit == "unknown":
        found["regret"] = found["gain"] = nan
    return found


def columns(
    found: Sequence[Line], headings: Mapping[str, str] = FIGURES
) -> dict[str, str]:
    """Figures and their headings, without those that nothing has here.

    Only an in-pool domain has a partition that a pair can hold.
    """
    return {
        key: heading
        for key, heading in headings.items()
        if any(
            np.isfinite(line.values[key]) for line in found if not line.is_rule
        )
    }


def cells(line: Line, keys: Iterable[str]) -> list[str]:
    """The figures of a line as text, with the interval if there is one."""
    return [
        number(line.values[key], 4 if key in _LOSSES else 2)
        + (interval(line.interval) if key == "spearman" else "")
        for key in keys
    ]


def noise_bound(
    validation: Validation, limit: float = NOISE_BOUND
) -> list[str]:
    """Targets whose ceiling is so low that they say little."""
    return [n for n, ceiling in validation.ceilings.items() if ceiling < limit]


def ceilings_sentence(validation: Validation) -> str:
    """What repeats say about noise, or that there are none."""
    if not validation.ceilings:
        return "noise: not measured (no repeats)"
    shown = [
        f"{name} {ceiling(validation, name)}"
        for name in targets_of(validation, "macro")
        if name in validation.ceilings
    ]
    for kind in ("out-of-pool", "in-pool"):
        names = [
            n for n in targets_of(validation, kind) if n in validation.ceilings
        ]
        values = [validation.ceilings[n] for n in names]
        if len(values) > 1:
            shown.append(
                f"{kind} domains {min(values):.2f} to {max(values):.2f}"
            )
        elif values:
            shown.append(f"{names[0]} {ceiling(validation, names[0])}")
    return (
        f"ceilings of a correlation, from {validation.repeats} repeated: "
        + "; ".join(shown)
    )


def ceiling(validation: Validation, target: str, digits: int = 2) -> str:
    """A ceiling as text, with its interval if there is one."""
    low, high = validation.ceiling_intervals.get(target) or (None, None)
    bounds = None if low is None or high is None else (low, high)
    return number(validation.ceilings[target], digits) + interval(
        bounds, digits
    )


def enough_truths(validation: Validation) -> bool:
    return len(validation.truths) >= ENOUGH_TRUTHS


def pointed(validation: Validation) -> tuple[str, ...]:
    """Predictors whose points are shown where truths are few."""
    wanted = (*PROXIES, CALIBRATED)
    return tuple(p for p in wanted if p in validation.points)


def records(validation: Validation) -> list[dict[str, Any]]:
    """Every figure of every target and predictor, for files."""
    found = []
    for target, kind in zip(validation.targets, validation.kinds, strict=True):
        for predictor in (*validation.agreement[target], REPEAT):
            row = _row(validation, target, predictor)
            if row is None:
                continue
            low, high = row["interval"] or (None, None)
            found.append(
                {
                    "target": target,
                    "kind": kind,
                    "predictor": predictor,
                    "label": label(predictor, validation),
                    "is_rule": predictor in RULES,
                    "truths": len(validation.truths),
                    **{
                        key: value if np.isfinite(value) else None
                        for key, value in figures(
                            validation, target, predictor, row
                        ).items()
                    },
                    "gain_share": _finite(row.get("gain_share")),
                    "spearman_low": low,
                    "spearman_high": high,
                    "ceiling": validation.ceilings.get(target),
                }
            )
    return found


def _row(
    validation: Validation, target: str, predictor: str
) -> Mapping[str, Any] | None:
    if predictor == REPEAT:
        return validation.repeat_agreement.get(target)
    return validation.agreement[target].get(predictor)


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")
