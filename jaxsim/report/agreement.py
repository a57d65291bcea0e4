"""Tables of reference runs beside predictions, noise and calibration."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.report.answer import aim_of, on_target
from jaxsim.report.table import (
    Column,
    Estimate,
    Table,
    count,
    marks,
    number,
    percent,
    signed,
    target,
    weights,
)
from jaxsim.scoring.targets import KINDS
from jaxsim.search.result import SearchResult
from jaxsim.validation.agreement import ENOUGH_RUNS, RULES, corrected
from jaxsim.validation.chosen import TrainedChoice
from jaxsim.validation.measured import BASELINES, CALIBRATED, PREDICTED, targets_of
from jaxsim.validation.validate import Validation

REPLICATE = "replicate"
_LABELS = {
    "members": "mean of members",
    CALIBRATED: "calibrated merge",
    "log-linear": "log-linear on weights",
    REPLICATE: "replicates",
}
_two = functools.partial(number, digits=2)
_text = functools.partial(Column, is_text=True)
_bits = functools.partial(Column, show=number)
# The figures of an agreement table.
FIGURES = (
    Column("spearman", "Spearman", Estimate.shown, is_estimate=True),
    Column("corrected", "/ ceiling", _two),
    Column("pearson", "Pearson", _two, on_console=False),
    Column("pairs", "pairs\nright", _two),
    Column("slope", "slope", _two, on_console=False),
    *(
        Column(key, key, number, on_console=False)
        for key in ("offset", "regret", "gain")
    ),
)
_KEYS = [column.key for column in FIGURES]
# Replicates exist for some runs only, so no choice among them can be compared.
_OF_REPLICATES = ("spearman", "pearson", "pairs")


def label(predictor: str) -> str:
    """The name shown for a predictor, a weight-only baseline or the replicates."""
    if predictor in RULES:
        return f"baseline: {predictor}"
    return _LABELS.get(predictor, predictor)


def agreement(validation: Validation) -> Table:
    """Predictors, weight-only baselines and replicates, by target.

    Groups of targets (each macro, and the mean over the domains of a kind),
    then the single domains of a mean.
    """
    groups = targets_of(validation).groups()
    alone = {names[0] for names in groups.values() if len(names) == 1}
    groups |= {n: (n,) for n in validation.targets if n not in alone}
    rows = [
        row
        for title, names in groups.items()
        for row in _agreement_rows(validation, title, names)
    ]
    columns = (
        _text("on", "on"), _text("label", "predictor"), Column("predictor"),
        Column("is_rule"), Column("reference_runs"), *FIGURES, Column("gain_share"),
        Column("ceiling"),
    )  # fmt: skip
    return Table(
        "agreement", columns, tuple(rows),
        style=lambda row: "rule" if row["is_rule"] else "",
    )  # fmt: skip


def _agreement_rows(
    validation: Validation, title: str, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for predictor in (*validation.predictors, *RULES, REPLICATE):
        known = {
            name: row
            for name in names
            if (
                row := validation.replicate_agreement.get(name)
                if predictor == REPLICATE
                else validation.agreement[name].get(predictor)
            )
            is not None
        }
        if not known:
            continue
        each = [_figures(validation, n, predictor, r) for n, r in known.items()]
        values: dict[str, Any] = {k: _mean([f[k] for f in each]) for k in _KEYS}
        lone = next(iter(known.values())) if len(names) == 1 else None
        bounds = lone["interval"] if lone else None
        values["spearman"] = Estimate(values["spearman"], bounds)
        yield {
            "on": title,
            "label": label(predictor),
            "predictor": predictor,
            "is_rule": predictor in RULES,
            "reference_runs": len(validation.reference_runs),
            **values,
            "gain_share": lone.get("gain_share") if lone else None,
            "ceiling": validation.ceilings.get(names[0]) if lone else None,
        }


def _figures(
    validation: Validation, name: str, predictor: str, row: Mapping[str, Any]
) -> dict[str, float]:
    """What is shown of a row; NaN where it would mean nothing.

    Levels mean nothing for a weight-only baseline, or in an unknown unit. A target
    below the noise floor has no Spearman divided by its ceiling.
    """
    nan = float("nan")
    keys = _OF_REPLICATES if predictor == REPLICATE else _KEYS
    found = dict.fromkeys(_KEYS, nan) | {
        key: float(row[key]) for key in keys if row.get(key) is not None
    }
    if predictor != REPLICATE:
        ceiling = validation.ceilings.get(name, nan)
        found["corrected"] = corrected(found["spearman"], ceiling)
    if predictor in RULES or validation.unit == "unknown":
        found["slope"] = found["offset"] = nan
    if predictor in BASELINES:  # fitted on dev text, compared on test text
        found["offset"] = nan
    if validation.unit == "unknown":
        found["regret"] = found["gain"] = nan
    return found


def _mean(values: Sequence[float]) -> float:
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")


def claims(validation: Validation) -> Table:
    """Every predictor beside the best weight-only baseline, by kind."""
    columns = (
        _text("kind", "kind"),
        _text("label", "predictor", get=lambda c: label(c["predictor"])),
        Column("predictor"),
        Column("domains", get=lambda c: "; ".join(c["targets"])),
        Column("count", get=lambda c: len(c["targets"])),
        Column("reference_runs", get=lambda c: len(validation.reference_runs)),
        Column("spearman", "mean\nSpearman", Estimate.shown, is_estimate=True,
               get=lambda c: Estimate(c["spearman"], c["spearman_interval"])),
        Column("ceiling", "mean noise\nceiling", _two),
        _text("rule", "best\nbaseline", lambda v: v or "-"),
        Column("rule_spearman", "its mean\nSpearman", _two),
        Column("gain", "difference", Estimate.shown_signed, is_estimate=True,
               get=lambda c: Estimate(c["gain"], c["gain_interval"])),
        _text("meaning", "predictor is", get=_meaning),
    )  # fmt: skip
    note = (
        "Correlations are estimates for all mixtures that could have been drawn, so "
        "they differ a little from those of the runs at hand, below. In brackets: 95% "
        "jackknife intervals over runs. The best weight-only baseline is picked after "
        "the fact"
    )
    if any(claim["predictor"] in BASELINES for claim in validation.claims):
        note += (
            ". Regressions on weights were fitted on the calibration runs, and on "
            "members of the same length"
        )
    return Table.of("predictors and baselines", validation.claims, columns, note)


def _meaning(claim: Mapping[str, Any]) -> str:
    """Whether a predictor beats the best weight-only baseline."""
    if claim["rule"] is None:
        return "without a baseline"
    bounds = claim["gain_interval"]
    if bounds is None:
        return f"not tested (needs {ENOUGH_RUNS} runs)"
    if bounds[0] > 0:
        return "better"
    return "worse" if bounds[1] < 0 else "not distinguishable"


def claims_by_kind(table: Table) -> list[Table]:
    """A table for each kind, with how many domains it is over."""
    found = []
    for kind in KINDS:
        if rows := [row for row in table.rows if row["kind"] == kind]:
            over = count(rows[0]["domains"].count("; ") + 1, f"{kind} domain")
            found.append(table.where("kind", kind, f"{table.title}, over {over}"))
    # One note is enough for both.
    return [dataclasses.replace(t, note="") for t in found[:-1]] + found[-1:]


def points(result: Validation | TrainedChoice) -> Table:
    """Every reference run on every target, beside its predictions."""
    shown = [p for p in (*PREDICTED, CALIBRATED) if p in result.points]
    others = [p for p in result.points if p not in ("reference", *shown)]
    kinds = dict(zip(result.targets, result.kinds, strict=True))
    rows = tuple(
        {
            "target": name,
            "kind": kind,
            "reference": run,
            "mixture": dict(zip(result.members, result.mixtures[i], strict=True)),
            "reference_bits_per_byte": result.points["reference"][name][i],
            **{p: result.points[p][name][i] for p in (*shown, *others)},
        }
        for name, kind in kinds.items()
        for i, run in enumerate(result.reference_runs)
    )
    columns = (
        _text("target", "target"),
        Column("kind"),
        _text("reference", "run"),
        _text("mixture", "mixture", show=functools.partial(weights, most=3)),
        _bits("reference_bits_per_byte", "trained"),
        *(_bits(p, label(p)) for p in shown),
        *map(Column, others),
    )
    return Table("points (bits per byte)", columns, rows)


def chosen(result: TrainedChoice, found: SearchResult | None) -> Table:
    """Chosen mixtures: predicted and trained, on the objective and targets."""
    aim = aim_of(result, found)
    on = {target(aim): aim}
    on |= {name: {name: 1.0} for name in result.targets if {name} != set(aim)}
    rows = []
    for name, goal in on.items():
        values = {p: on_target(v, goal) for p, v in result.points.items()}
        for i, one in enumerate(result.labels):
            predicted = {p: float(values[p][i]) for p in PREDICTED}
            trained = float(values["reference"][i])
            rows.append(
                {
                    "mixture": one,
                    "reference": result.reference_runs[i],
                    "target": name,
                    "reference_bits_per_byte": trained,
                    **predicted,
                    "difference": trained - predicted["merge"],
                }
            )
    columns = (
        _text("mixture", "mixture"),
        Column("reference"),
        _text("target", "on"),
        _bits("reference_bits_per_byte", "trained"),
        *(_bits(p, label(p)) for p in PREDICTED),
        Column("difference", "trained - merge", signed),
    )
    title = "chosen mixtures, bits per byte on test text"
    return Table(title, columns, tuple(rows), marks(result.notes))


def shown_chosen(table: Table, result: TrainedChoice) -> Table:
    """Objective, macros and lone domains; the other domains are in the CSV."""
    groups = targets_of(result).groups().values()
    leads = {names[0] for names in groups if len(names) == 1}
    leads.add(table.rows[0]["target"])
    return table.take(i for i, r in enumerate(table.rows) if r["target"] in leads)


def check(validation: Validation) -> Table:
    """Errors on runs that were not fitted, before and after calibration."""
    known = {} if validation.unit == "unknown" else validation.check
    columns = (
        _text("target", "target"),
        _bits("merge_error", "mean absolute\nerror, merge",
              get=lambda row: row["merge"]),
        _bits("calibrated_error", "calibrated\nmerge",
              get=lambda row: row["calibrated"]),
        Column("change", "change", lambda v: f"{v:+.0%}",
               get=lambda row: row["calibrated"] / row["merge"] - 1),
        _bits("half_interval", "90% interval,\n+/-",
              get=lambda row: row["margin"]),
        Column("covered_by_90_percent", "runs\nwithin it", percent,
               get=lambda row: row["covered"]),
    )  # fmt: skip
    rows = [{"target": name, **row} for name, row in known.items()]
    return Table.of("calibration", rows, columns)


def learning(validation: Validation) -> Table:
    """The error by the number of calibration runs."""
    on = validation.learning_target
    columns = (
        Column("target", get=lambda row: on),
        Column("calibration_runs", "calibration runs", lambda v: f"{v:.0f}",
               get=lambda row: row["reference runs"]),
        _bits("error", "mean absolute error"),
    )  # fmt: skip
    title = f"error by the number of calibration runs, on {on}"
    return Table.of(title, validation.learning, columns)


def noise(validation: Validation) -> Table:
    """Noise of a run and noise ceilings, by target."""
    v = validation
    columns = (
        _text("target", "target", get=str),
        Column("ceiling", "noise ceiling", lambda v: v.shown(3), is_estimate=True,
               get=lambda n: Estimate(v.ceilings[n], v.ceiling_intervals.get(n))),
        _bits("noise", "noise of a run", get=lambda n: v.noise.get(n)),
    )  # fmt: skip
    title = "noise ceilings"
    return Table.of(title, v.ceilings, columns)
