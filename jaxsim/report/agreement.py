"""Tables of reference runs beside predictions, noise and calibration."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.corpus.names import Labels
from jaxsim.log import counted
from jaxsim.report.answer import Trained, aim_of, on_target, runs_on, same_mixture
from jaxsim.report.table import (
    Column,
    Estimate,
    Table,
    bits_column,
    formatted,
    gain,
    largest,
    marks,
    number,
    percent,
    target,
    text_column,
    weights,
)
from jaxsim.scoring.table import STANDARD_MERGES
from jaxsim.scoring.targets import KINDS
from jaxsim.search.result import SearchResult
from jaxsim.validation.agreement import ENOUGH_RUNS, RULES, corrected
from jaxsim.validation.measured import (
    BASELINES,
    CALIBRATED,
    PREDICTED,
    PREDICTORS,
    TrainedChoice,
    targets_of,
)
from jaxsim.validation.validate import Validation

REPLICATE = "replicate"
_LABELS = {
    "members": "mean of members",
    CALIBRATED: "calibrated merge",
    "log-linear": "log-linear on weights",
    REPLICATE: "replicates",
}
_two = functools.partial(number, digits=2)
# The figures of an agreement table.
FIGURES = (
    Column("spearman", "Spearman", Estimate.shown),
    Column("corrected", "/ ceiling", _two),
    Column("pearson", "Pearson", _two, on_console=False),
    Column("pairs", "pairs\nright", _two),
    Column("slope", "slope", _two, on_console=False),
    *(Column(k, k, number, on_console=False) for k in ("offset", "regret", "gain")),
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
    groups = targets_of(validation).titles()
    alone = {names[0] for names in groups.values() if len(names) == 1}
    groups |= {n: (n,) for n in validation.targets if n not in alone}
    rows = [
        row
        for title, names in groups.items()
        for row in _agreement_rows(validation, title, names)
    ]
    columns = (
        text_column("on", "on"),
        text_column("label", "predictor", get=lambda row: label(row["predictor"])),
        Column("predictor"),
        Column("is_rule", get=lambda row: row["predictor"] in RULES),
        Column("reference_runs", get=lambda row: len(validation.reference_runs)),
        *FIGURES,
        *map(Column, ("gain_share", "ceiling")),
    )
    return Table.of(
        "agreement", rows, columns, style=lambda row: "rule" if row["is_rule"] else ""
    )


def _agreement_rows(
    validation: Validation, title: str, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    again = validation.replicate_agreement
    known = {n: {**validation.agreement[n], REPLICATE: again.get(n)} for n in names}
    for predictor in (*PREDICTORS, *RULES, REPLICATE):
        rows = {n: row for n in names if (row := known[n].get(predictor))}
        if not rows:
            continue
        each = [_figures(validation, n, predictor, row) for n, row in rows.items()]
        shown = {key: _mean([found[key] for found in each]) for key in _KEYS}
        lone = rows[names[0]] if len(names) == 1 else {}
        yield shown | {
            "on": title,
            "predictor": predictor,
            "spearman": Estimate(shown["spearman"], lone.get("interval")),
            "gain_share": lone.get("gain_share"),
            "ceiling": validation.ceilings.get(names[0]) if lone else None,
        }


def _figures(
    validation: Validation, name: str, predictor: str, row: Mapping[str, Any]
) -> dict[str, float]:
    """What is shown of a row; NaN where it would mean nothing.

    Levels mean nothing for a weight-only baseline, or in an unknown unit. A target
    below the noise floor has no Spearman divided by its ceiling.
    """
    found = {k: np.nan if row.get(k) is None else float(row[k]) for k in _KEYS}
    blank: Sequence[str] = ()
    if predictor == REPLICATE:
        blank = [key for key in _KEYS if key not in _OF_REPLICATES]
    else:
        ceiling = validation.ceilings.get(name, np.nan)
        found["corrected"] = corrected(found["spearman"], ceiling)
        if validation.unit == "unknown":
            blank = ("slope", "offset", "regret", "gain")
        elif predictor in BASELINES:  # fitted on dev text, compared on test text
            blank = ("offset",)
        elif predictor in RULES:
            blank = ("slope", "offset")
    return found | dict.fromkeys(blank, np.nan)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean([v for v in values if np.isfinite(v)] or [np.nan]))


def claims(validation: Validation) -> Table:
    """Every predictor beside the best weight-only baseline, by kind."""
    columns = (
        text_column("kind", "kind"),
        text_column("label", "predictor", get=lambda c: label(c["predictor"])),
        Column("predictor"),
        Column("domains", get=lambda c: "; ".join(c["targets"])),
        Column("count", get=lambda c: len(c["targets"])),
        Column("reference_runs", get=lambda c: len(validation.reference_runs)),
        Column("spearman", "mean\nSpearman", Estimate.shown,
               lambda c: Estimate(c["spearman"], c["spearman_interval"])),
        Column("ceiling"),
        Column("joint_ceiling", "ceiling with\nits own noise", _two),
        *map(Column, ("rule", "rule_spearman")),
        Column("gain", "difference to\nbaseline", Estimate.shown_signed,
               lambda c: Estimate(c["gain"], c["gain_interval"])),
        text_column("meaning", "predictor is", get=_meaning),
    )  # fmt: skip
    note = (
        "Correlations are estimates for all mixtures that could have been drawn, so "
        "they differ a little from those of the runs at hand. In brackets: 95% "
        "jackknife intervals over runs. The best weight-only baseline is picked after "
        "the fact"
    )
    if any(claim["predictor"] in BASELINES for claim in validation.claims):
        note += (
            ". Regressions on weights were fitted on the calibration runs, and on "
            "members of the same length"
        )
    return Table.of("predictors and baselines", validation.claims, columns, note=note)


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


def claims_by_kind(validation: Validation) -> list[Table]:
    """A table for each kind; its title says what all its rows are compared with."""
    table, found = claims(validation), []
    for kind in KINDS:
        rows = [row for row in table.rows if row["kind"] == kind]
        if not rows:
            continue
        first = rows[0]
        title = f"{table.title}, over {counted(first['count'], f'{kind} domain')}"
        mean = number(first["rule_spearman"], 2)
        if first["rule"] is not None and mean != "-":  # of two runs there is none
            title += f"; best baseline: {first['rule']}, mean Spearman {mean}"
        if first["ceiling"] is not None:
            title += f"; mean noise ceiling {number(first['ceiling'], 2)}"
        found.append(table.where("kind", kind, title))
    # One note is enough for both.
    return [dataclasses.replace(t, note="") for t in found[:-1]] + found[-1:]


def by_group(validation: Validation) -> list[tuple[Table, Table | None]]:
    """Agreement on each group of targets, and its single runs if they are few."""
    table, runs = agreement(validation), points(validation)
    is_few = len(validation.reference_runs) < ENOUGH_RUNS
    return [
        (
            table.where("on", title),
            runs.where("target", names[0]) if is_few and len(names) == 1 else None,
        )
        for title, names in targets_of(validation).titles().items()
    ]


def within(validation: Validation) -> Table:
    """Spearman correlations within the parts that runs were drawn from, by kind."""
    runs, known = validation.runs_by_kind, validation.within
    shown = [p for p in PREDICTORS if p in validation.points]
    rows = [
        {"part": part, "reference_runs": int(runs[part].sum())}
        | {"kind": kind, "domains": len(names)}
        | {p: _mean([known[part][name][p] for name in names]) for p in shown}
        for part in known
        for kind, names in targets_of(validation).domains.items()
        if names
    ]
    columns = (
        text_column("label", "within", get=lambda row:
                    f"{row['part']}, {counted(row['reference_runs'], 'run')}"),
        text_column("on", "mean over",
                    get=lambda row: counted(row["domains"], f"{row['kind']} domain")),
        *map(Column, ("part", "reference_runs", "kind", "domains")),
        *(Column(p, label(p).replace(" ", "\n", 1), _two) for p in shown),
    )  # fmt: skip
    note = "Correlations of so few runs show only large differences"
    return Table.of("Spearman within each kind of runs", rows, columns, note=note)


def points(validation: Validation) -> Table:
    """Every reference run on every target, beside its predictions."""
    known = validation.points
    shown = [p for p in (*PREDICTED, CALIBRATED) if p in known]
    others = [p for p in known if p not in ("reference", *shown)]
    rows = [
        (
            name,
            kind,
            run,
            dict(zip(validation.members, mixture, strict=True)),
            *(known[p][name][i] for p in ("reference", *shown, *others)),
        )
        for name, kind in targets_of(validation).kinds.items()
        for i, (run, mixture) in enumerate(
            zip(validation.reference_runs, validation.mixtures, strict=True)
        )
    ]
    columns = (
        text_column("target", "target"),
        Column("kind"),
        text_column("reference", "run"),
        text_column("mixture", "mixture", functools.partial(weights, most=3)),
        bits_column("reference_bits_per_byte", "trained"),
        *(bits_column(p, label(p)) for p in shown),
        *map(Column, others),
    )
    return Table.of("points (bits per byte)", rows, columns)


def trained(result: TrainedChoice, found: SearchResult | None) -> Table:
    """Chosen mixtures on the objective, the runs of each together."""
    aim = aim_of(result, found)
    runs: dict[str, list[Trained]] = {}
    for one in runs_on(result, aim):
        runs.setdefault(one.label, []).append(one)
    mean = {label: np.mean([x.trained for x in same]) for label, same in runs.items()}
    before = mean.get(Labels.PROPORTIONAL)

    def named(label: str) -> str:
        """What the mixture is."""
        if label in STANDARD_MERGES:
            return label
        mixture = runs[label][0].mixture
        if found is not None and same_mixture(mixture, found.best["weights"]):
            return f"the answer: {largest(mixture)}"
        return f"{label}: {largest(mixture)}"

    rows = [
        {"mixture": named(label), "runs": len(same), "merge": same[0].merge}
        | {"trained": float(mean[label])}
        | {"low": min(x.trained for x in same), "high": max(x.trained for x in same)}
        | {"gain": float(1 - mean[label] / before) if before else None}
        for label, same in runs.items()
    ]
    columns = (
        text_column("mixture", "mixture"),
        Column("runs", "runs"),
        bits_column("trained", "trained,\nmean"),
        bits_column("low", "lowest"),
        bits_column("high", "highest"),
        bits_column("merge", "merge"),
        Column("gain", "gain over\nproportional (%)", gain),
    )
    note = (
        "bits per byte on test text; merge: the prediction, not calibrated; gain: of "
        "the means of trained runs"
    )
    return Table.of(f"trained, on {target(aim)}", rows, columns, note=note)


def chosen(result: TrainedChoice, found: SearchResult | None) -> Table:
    """Chosen mixtures: predicted and trained, on the objective and targets."""
    aim = aim_of(result, found)
    on = [(target(aim), aim)]
    on += [(name, {name: 1.0}) for name in result.targets if {name} != set(aim)]
    rows = [
        {"mixture": one.label, "reference": one.reference, "target": name}
        | {"trained": one.trained, "gain": 1 - one.trained / one.merge}
        | {p: float(on_target(result.points[p], goal)[i]) for p in PREDICTED}
        for name, goal in on
        for i, one in enumerate(runs_on(result, goal))
    ]
    columns = (
        text_column("mixture", "mixture"),
        Column("reference"),
        text_column("target", "on"),
        bits_column("reference_bits_per_byte", "trained", get="trained"),
        *(bits_column(p, label(p)) for p in PREDICTED),
        Column("gain", "gain over\nthe merge (%)", gain),
    )
    title, note = "chosen mixtures, bits per byte on test text", marks(result.notes)
    return Table.of(title, rows, columns, note=note)


def shown_chosen(result: TrainedChoice, found: SearchResult | None) -> Table:
    """Objective, macros and lone domains; the other domains are in the CSV."""
    table, groups = chosen(result, found), targets_of(result).titles().values()
    leads = {names[0] for names in groups if len(names) == 1}
    leads.add(table.rows[0]["target"])
    return table.take(i for i, r in enumerate(table.rows) if r["target"] in leads)


def check(validation: Validation) -> Table:
    """Errors on runs that were not fitted, before and after calibration."""
    known = {} if validation.unit == "unknown" else validation.check
    columns = (
        text_column("target", "target"),
        bits_column("merge_error", "mean absolute\nerror, merge", get="merge"),
        bits_column("calibrated_error", "calibrated\nmerge", get="calibrated"),
        Column("change", "change", lambda v: formatted(v, "+z.0%")),
        bits_column("half_interval", "90% interval,\n+/-", get="margin"),
        Column("covered_by_90_percent", "runs\nwithin it", percent, "covered"),
    )
    # No share of an error of zero is defined.
    rows = [
        {"target": n, "change": row["calibrated"] / (row["merge"] or np.nan) - 1, **row}
        for n, row in known.items()
    ]
    note = (
        "bits per byte, on runs that the calibration was not fitted on; change: of the "
        "error, negative is better; the interval should hold nine runs of ten"
    )
    return Table.of("calibration", rows, columns, note=note)


def learning(validation: Validation) -> Table:
    """The error by the number of calibration runs."""
    on = validation.learning_target
    columns = (
        Column("target"),
        Column("calibration_runs", "calibration runs", lambda v: f"{v:.0f}"),
        bits_column("error", "mean absolute error"),
    )
    rows = [(on, row["reference runs"], row["error"]) for row in validation.learning]
    title = f"error by the number of calibration runs, on {on}"
    return Table.of(title, rows, columns)


def noise(validation: Validation) -> Table:
    """Noise of a run and noise ceilings, by target."""
    known, bounds = validation.ceilings, validation.ceiling_intervals
    merges = {n: rows["merge"] for n, rows in validation.predictor_noise.items()}

    def joint(target: str) -> Estimate | None:
        row = merges.get(target)
        return Estimate(row["ceiling"], row["ceiling_interval"]) if row else None

    columns = (
        text_column("target", "target", get=str),
        Column("ceiling", "noise ceiling", lambda v: v.shown(3),
               lambda n: Estimate(known[n], bounds.get(n))),
        bits_column("noise", "noise of a run", get=validation.noise.get),
        Column("joint_ceiling", "noise ceiling\nof merges",
               lambda v: v.shown(3), joint),
        bits_column("merge_noise", "noise of a merge",
                    get=lambda n: merges.get(n, {}).get("noise")),
    )  # fmt: skip
    return Table.of("noise ceilings", known, columns)
