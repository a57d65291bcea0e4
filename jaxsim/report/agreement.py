"""The agreement table, as console, page and files show it.

One group of targets at a time: each macro, and the mean over the domains of a
kind. Proxies come first, then the rules that know nothing of any model.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxsim.report.wording import interval, number
from jaxsim.study.agreement import ENOUGH_TRUTHS
from jaxsim.study.chosen import Chosen
from jaxsim.study.rules import RULES
from jaxsim.study.validate import PROXIES, Validation

LABELS = {
    "merge": "merge",
    "probability": "probability average",
    "members": "mean of members",
}
FIGURES = {
    "spearman": "Spearman",
    "pearson": "Pearson",
    "pairs": "pairs right",
    "pairs_mixed": "one in",
    "pairs_in": "both in",
    "pairs_out": "both out",
    "regret": "regret",
}


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
    """Proxies and rules that have a figure for any target of the group."""
    tables = [validation.agreement[target] for target in group.targets]
    found = []
    for predictor in (*PROXIES, *RULES):
        rows = [table[predictor] for table in tables if predictor in table]
        if not rows:
            continue
        bounds = rows[0]["interval"] if len(group.targets) == 1 else None
        found.append(
            Line(
                predictor,
                LABELS.get(predictor, predictor),
                predictor in RULES,
                {key: _mean([row[key] for row in rows]) for key in FIGURES},
                None if bounds is None else (bounds[0], bounds[1]),
            )
        )
    return found


def columns(found: Sequence[Line]) -> dict[str, str]:
    """Figures and their headings, without those that no proxy has here.

    Only an in-pool domain has a partition that a pair can hold.
    """
    proxies = [line for line in found if not line.is_rule]
    return {
        key: heading
        for key, heading in FIGURES.items()
        if not key.startswith("pairs_")
        or any(np.isfinite(line.values[key]) for line in proxies)
    }


def cells(line: Line, keys: Iterable[str]) -> list[str]:
    """The figures of a line as text, with the interval if there is one."""
    return [
        number(line.values[key], 4 if key == "regret" else 2)
        + (interval(line.interval) if key == "spearman" else "")
        for key in keys
    ]


def best_rule(found: Sequence[Line]) -> Line | None:
    """The no-model rule with the highest Spearman correlation."""
    rules = [
        line
        for line in found
        if line.is_rule
        and line.predictor != "random"
        and np.isfinite(line.values["spearman"])
    ]
    return max(rules, key=lambda r: r.values["spearman"], default=None)


def noise_bound(validation: Validation, limit: float = 0.9) -> list[str]:
    """Targets whose ceiling is so low that they say little."""
    return [n for n, ceiling in validation.ceilings.items() if ceiling < limit]


def ceilings_sentence(validation: Validation) -> str:
    """What repeats say about noise, or that there are none."""
    if not validation.ceilings:
        return "noise: not measured (no repeats)"
    macros = [t for t in validation.targets if t.startswith("macro ")]
    shown = [
        f"{name} {validation.ceilings[name]:.2f}"
        for name in macros
        if name in validation.ceilings
    ]
    for kind in ("out-of-pool", "in-pool"):
        names = targets_of(validation, kind)
        values = [
            validation.ceilings[n] for n in names if n in validation.ceilings
        ]
        if values:
            shown.append(
                f"{kind} domains {min(values):.2f} to {max(values):.2f}"
                if len(values) > 1
                else f"{names[0]} {values[0]:.2f}"
            )
    return (
        f"ceilings of a correlation, from {validation.repeats} repeated: "
        + "; ".join(shown)
    )


def enough_truths(validation: Validation) -> bool:
    return len(validation.truths) >= ENOUGH_TRUTHS


def records(validation: Validation) -> list[dict[str, Any]]:
    """Every figure of every target and predictor, for files."""
    found = []
    pairs = zip(validation.targets, validation.kinds, strict=True)
    for target, kind in pairs:
        for predictor, row in validation.agreement[target].items():
            low, high = row["interval"] or (None, None)
            figures = {k: v for k, v in row.items() if k != "interval"}
            found.append(
                {
                    "target": target,
                    "kind": kind,
                    "predictor": predictor,
                    "is_rule": predictor in RULES,
                    "truths": len(validation.truths),
                    **figures,
                    "spearman_low": low,
                    "spearman_high": high,
                    "ceiling": validation.ceilings.get(target),
                }
            )
    return found


def _mean(values: Sequence[float | None]) -> float:
    finite = [v for v in values if v is not None and np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")
