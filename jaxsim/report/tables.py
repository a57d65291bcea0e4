"""Every table of the report and of the commands, each built in one place."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.corpus.prepare import left_out
from jaxsim.pool import Manifest
from jaxsim.report import agreement as runs
from jaxsim.report.answer import STANDARD
from jaxsim.report.data import ReportData, StandardScores
from jaxsim.report.table import (
    Column,
    Table,
    count,
    duration,
    formatted,
    integer,
    largest,
    marks,
    number,
    percent,
    signed,
    target,
)
from jaxsim.scoring.evaluation import SPLITS
from jaxsim.scoring.scores import Scores
from jaxsim.scoring.summary import summarize
from jaxsim.search.result import SearchResult, is_single
from jaxsim.validation.diagnostics import Diagnostics
from jaxsim.validation.measured import PREDICTED

# All tables that may have a file.
NAMES = (
    "members", "domains", "gains", "mixtures", "objective", "binding",
    "marginal", "diagnostics", "agreement", "claims", "points", "calibration_check",
    "learning", "noise", "given_agreement", "given_claims", "given_points",
    "chosen", "cost",
)  # fmt: skip
_MOST_SCORES, _MOST_TARGETS = 12, 3
_MOST_DOMAINS = 6  # columns that fit a console
_two = functools.partial(number, digits=2)
_text = functools.partial(Column, is_text=True)
_bits = functools.partial(Column, show=number)


def build(data: ReportData) -> dict[str, Table]:
    """Every table with a file, by its name; those without rows are left out."""
    found: dict[str, Table] = {}
    if data.pool is not None:
        found["members"] = members(data.of_kind("member"), data)
    if data.corpus is not None:
        found["domains"] = domains(data)
    if data.standard is not None:
        found["gains"] = gains(data.standard)
    if data.found is not None:
        for name, table in (
            ("mixtures", mixtures), ("objective", objective), ("binding", binding),
            ("marginal", marginal),
        ):  # fmt: skip
            found[name] = table(data.found)
    if data.diagnostics is not None:
        found["diagnostics"] = paths(data.diagnostics)
    for prefix, validation in (("", data.validation), ("given_", data.given)):
        if validation is not None:
            found[f"{prefix}agreement"] = runs.agreement(validation)
            found[f"{prefix}claims"] = runs.claims(validation)
            found[f"{prefix}points"] = runs.points(validation)
    if data.validation is not None:
        found["calibration_check"] = runs.check(data.validation)
        found["learning"] = runs.learning(data.validation)
        found["noise"] = runs.noise(data.validation)
    if data.chosen is not None:
        found["chosen"] = runs.chosen(data.chosen, data.found)
    found["cost"] = cost(data)
    return {name: table for name, table in found.items() if table.rows}


# The pool, its scores and its text.


def members(manifests: Mapping[str, Manifest], data: ReportData | None = None) -> Table:
    """Data, cost, drift and barrier of each member."""
    units = data.corpus.units if data and data.corpus else {}
    diagnostics = data.diagnostics if data else None
    drift = diagnostics.drift if diagnostics else {}
    line_barriers = diagnostics.line_barriers if diagnostics else {}

    def unit(field: str) -> Callable[[Manifest], Any]:
        return lambda m: getattr(units.get(m.name), field, None)

    columns = (
        _text("member", "member", get=lambda m: m.name),
        Column("partition", get=unit("partition")),
        _text("group", "group", lambda v: v or "-", get=unit("group")),
        Column("documents", "documents", integer, get=unit("documents")),
        Column("tokens", "tokens", integer, get=lambda m: m.tokens),
        Column("unique_tokens", get=lambda m: m.unique_tokens),
        Column("epochs", "epochs", _two,
               get=lambda m: float(max(m.epochs.values(), default=0.0))),
        _bits("final_loss", "final loss\n(nats/token)",
              get=lambda m: float(m.final_loss)),
        Column("drift", "drift", lambda v: percent(v, 2),
               get=lambda m: drift.get(m.name)),
        Column("barrier", "barrier", signed, get=lambda m: line_barriers.get(m.name)),
        Column("wall_seconds", "time", duration, get=lambda m: m.wall_seconds),
        Column("device_seconds", get=lambda m: m.device_seconds),
        Column("flops", get=lambda m: float(m.flops)),
        Column("params_digest", get=lambda m: m.params_digest),
    )  # fmt: skip
    title = f"members of the pool ({len(manifests)})"
    return Table.of(title, manifests.values(), columns)


def domains(data: ReportData) -> Table:
    """Documents, windows, tokens and bytes of every evaluation domain."""
    assert data.corpus is not None
    counts = data.corpus.record.summary["documents"]

    def documents(split: str) -> Callable[[Any], int | None]:
        return lambda d: counts.get(d.name, d.documents).get(split)

    def amount(what: str, split: str) -> Callable[[Any], int]:
        return lambda d: int(getattr(d, what)[split])

    names = {"base": "base", "train": "training", "dev": "dev", "test": "test"}
    columns = [
        _text("domain", "domain", get=lambda d: d.name),
        _text("in_pool", "kind", lambda v: "in-pool" if v else "out-of-pool",
              get=lambda d: d.in_pool),
        *(Column(f"{split}_documents", name, integer, get=documents(split))
          for split, name in names.items()),
        *(Column(f"{split}_{what}", f"{split}\nwindows" if what == "windows" else "",
                 integer, get=amount(what, split))
          for split in SPLITS for what in ("windows", "tokens", "bytes")),
    ]  # fmt: skip
    found = sorted(data.corpus.domains.values(), key=lambda d: not d.in_pool)
    return Table.of("documents by split", found, columns)


def gains(standard: StandardScores) -> Table:
    """Loss of the base model minus loss of each member, on test text."""
    gain_CD = standard.gains("test").tolist()
    return _by_domain(
        "gain over the base model on test text (bits per byte)",
        "member", "gain on", standard.domains, signed,
        list(zip(standard.members, gain_CD, strict=True)),
    )  # fmt: skip


def standard_bits(standard: StandardScores) -> Table:
    """Base model, members and other standard mixtures, on dev text."""
    inside, bits_MD = np.array(standard.in_pool), standard.bits["dev"]
    outside = np.flatnonzero(~inside)[:_MOST_DOMAINS]
    macro_M = np.full(len(bits_MD), np.nan)
    if inside.any():
        macro_M = bits_MD[:, inside].mean(axis=1)
    columns = (
        _text("mixture", "mixture"),
        _bits("macro in-pool", "macro in-pool"),
        *(_bits(f"on {standard.domains[d]}", standard.domains[d]) for d in outside),
    )
    rows = tuple(
        {"mixture": name, "macro in-pool": macro_M[m]}
        | {f"on {standard.domains[d]}": bits_MD[m, d] for d in outside}
        for m, name in enumerate(standard.names)
    )
    return Table("bits per byte on dev text", columns, rows, marks(standard.notes))


def scores(table: Scores) -> Table:
    """The best rows of a scored table by the merge, and the standard mixtures."""
    best = summarize(table, "dev", _MOST_SCORES)
    targets = list(enumerate(best.targets))[:_MOST_TARGETS]
    predictors = ["merge", *(p for p in PREDICTED[1:] if p in best.bits)]
    headings = {p: runs.label(p).replace("of ", "of\n") for p in predictors}
    columns = (
        _text("mixture", "mixture"),
        _text("weights", "weights", show=largest),
        *(_bits(f"{name}: {predictor}", f"{name},\n{heading}")
          for _, name in targets for predictor, heading in headings.items()),
    )  # fmt: skip
    rows = tuple(
        {"mixture": table.table.names[m], "weights": table.table.parts(m)}
        | {f"{name}: {predictor}": best.bits[predictor][i, t]
           for t, name in targets for predictor in predictors}
        for i, m in enumerate(best.rows)
    )  # fmt: skip
    return Table(
        f"best of {len(table.table):,} mixtures by the merge on "
        f"{best.targets[0]}: bits per byte on dev text",
        columns,
        rows,
        "\n".join(
            filter(
                None,
                (
                    f"on the same windows, at most {best.windows} per domain",
                    marks(table.notes),
                ),
            )
        ),
    )


def paths(diagnostics: Diagnostics) -> Table:
    """The loss on the paths from the base model, for files."""
    rows = tuple(
        {"line": name, "target": on, "scale": scale, "bits_per_byte": bits}
        for name, line in diagnostics.lines.items()
        for on, bits_S in line.items()
        if on != "scale"
        for scale, bits in zip(line["scale"], bits_S, strict=True)
    )
    keys = ("line", "target", "scale", "bits_per_byte")
    return Table("paths from the base model", tuple(map(Column, keys)), rows)


# What a search found.


def mixtures(found: SearchResult) -> Table:
    """The tied and the standard mixtures, the best one first."""

    def other(key: str) -> Callable[[Mapping[str, Any]], float | None]:
        return lambda row: None if row is found.best else row[key]

    columns = (
        _text("mixture", "mixture", get=lambda row: row["name"]),
        Column("kind"),
        _text("weights", "weights", largest),
        _bits("dev_bits_per_byte", "merge,\ndev", get=lambda row: row["dev"]),
        _bits("test_bits_per_byte", "merge,\ntest", get=lambda row: row["test"]),
        _bits("dev_ensemble", "ensemble,\ndev", get=lambda row: row.get("ensemble")),
        _bits("dev_members", "members,\ndev", get=lambda row: row.get("members")),
        Column("shift", "calibration", signed,
               get=lambda row: row.get("shift", 0.0) if found.calibrated else None),
        Column("difference", "difference", signed),
        _bits("error", "standard\nerror", get=other("error")),
        _bits("limit", "tie limit", get=other("limit")),
        Column("tied", "ties", lambda v: "yes" if v else "no"),
    )  # fmt: skip
    note = (
        "bits per byte, lower is better; difference: to the best, on dev text, "
        f"calibration included; resampled: {found.ties['resampled']}; a mixture ties "
        "if its difference is at most its tie limit "
        f"({found.ties['level']:.0%} simultaneous over all mixtures)"
    )
    if found.ties["min_effect"]:
        note += (
            f"; differences below {found.ties['min_effect']:.2%} of the best "
            "(min_effect) count as ties"
        )
    ties, aim = found.ties, target(found.target, found.objective)
    return Table.of(
        f"{ties['heading']} ({ties['count']:,} of {found.searched:,} mixtures, "
        f"for {aim})",
        found.rows, columns, note, lambda row: "best" if row["error"] is None else "",
    )  # fmt: skip


def shown_mixtures(found: SearchResult, most: int) -> list[int]:
    """The first rows that tie, then the standard ones, tied or not."""
    rows = list(enumerate(found.rows))
    first = [i for i, row in rows if row["tied"]][:most]
    single = [i for i, row in rows if is_single(row)][:1]
    return first + [
        i
        for i, row in rows
        if i not in first
        and (not row["tied"] or row["kind"] in STANDARD or i in single)
    ]


def objective(found: SearchResult) -> Table:
    """Domains of a worst case or with limits, least gain first."""
    domains: list[dict[str, Any]] = [
        {"domain": name, **row}
        for name, row in sorted(
            found.domains.items(), key=lambda pair: pair[1]["base"] - pair[1]["best"]
        )
    ]
    if found.objective != "worst" and not any("limit" in row for row in domains):
        domains = []
    columns = (
        _text("domain", "domain"),
        _bits("base", "base model"),
        _bits("best", "best mixture"),
        Column("change", "change", signed, get=lambda r: r["best"] - r["base"]),
        _bits("limit", "at most", get=lambda row: row.get("limit")),
    )
    is_one = found.objective == "worst" and len(found.target) == 1
    note = "with one domain, the worst is the mean" if is_one else ""
    title = "best mixture and base model, bits per byte on dev text"
    return Table.of(title, domains, columns, note)


def binding(found: SearchResult) -> Table:
    """The active constraints, and the gain from relaxing each."""
    columns = (
        _text("constraint", "active constraint", get=constraint_words),
        Column("name"),
        Column("kind"),
        Column("limit"),
        Column("value"),
        Column("gain", "gain if relaxed",
               lambda v: "not known" if v is None else number(v)),
        _text("step", "relaxed by"),
    )  # fmt: skip
    note = "bits per byte, to first order"
    return Table.of("active constraints", found.binding, columns, note)


def constraint_words(row: Mapping[str, Any]) -> str:
    """A constraint with its limit, as in 'at most 30.0% of alpha'."""
    limit, name = row["limit"], row["name"]
    return {
        "min_weight": f"at least {limit:.1%} of {name}",
        "max_weight": f"at most {limit:.1%} of {name}",
        "supply": f"the supply of {name}, {limit:.1%} of the run",
        "divergence": f"at most {limit:g} nats from the prior mixture",
        "max_regression": f"at most {limit:.4f} bits per byte on {name}",
        "sources": f"at most {count(round(limit), 'source')}",
    }[row["kind"]]


def marginal(found: SearchResult) -> Table:
    """What one percent more of each member changes, most useful first."""
    rows: list[tuple[str, list[float]]] = []
    names: Sequence[str] = found.marginal.get("domains", ())
    if found.marginal:
        bits_CD = np.array(found.marginal["bits_DC"], float).T.tolist()
        goals = found.marginal["objective_C"]
        members = zip(found.marginal["members"], goals, bits_CD, strict=True)
        ordered = sorted(members, key=lambda row: row[1])
        rows = [(member, [goal, *bits_D]) for member, goal, bits_D in ordered]
    on_console = [n for n in names if n in found.target][:_MOST_DOMAINS]
    note = (
        "change of the merge's loss on dev text in thousandths of a bit per byte, to "
        "first order, when one percent of the tokens moves to this member, taken from "
        "all in proportion; negative is better; includes the gain of averaging itself"
    )
    if found.calibrated:
        note += "; the objective is calibrated, single domains are not"
    return _by_domain(
        "marginal values at the best mixture",
        "1% more of", "change on", ["the objective", *names], _thousandths,
        rows, note, ["the objective", *on_console],
    )  # fmt: skip


def _thousandths(value: float | None) -> str:
    return signed(None if value is None else 1000 * value, 2)


def _by_domain(
    title: str,
    heading: str,
    what: str,
    domains: Sequence[str],
    show: Any,
    rows: Sequence[tuple[str, Sequence[float]]],
    note: str = "",
    on_console: Sequence[str] = (),
) -> Table:
    """Members by domains; keys say `what`, so that no domain is 'member'."""
    keys = ["member", *(f"{what} {d}" for d in domains)]
    columns = [_text("member", heading)] + [
        Column(key, d, show, on_console=d in on_console)
        for key, d in zip(keys[1:], domains, strict=True)
    ]
    lines = (dict(zip(keys, [name, *values], strict=True)) for name, values in rows)
    return Table(title, tuple(columns), tuple(lines), note)


# What it took.


def cost(data: ReportData) -> Table:
    """Training as manifests record it, and scoring as tables count it."""
    runs = {"base model": [data.base] if data.base is not None else []} | {
        what: list(data.of_kind(kind).values())
        for kind, what in (
            ("member", "members"), ("reference", "reference runs"),
            ("replicate", "replicates"),
        )
    }  # fmt: skip
    rows: list[dict[str, Any]] = [
        {
            "what": what,
            "runs": len(manifests),
            "tokens": sum(m.tokens for m in manifests),
            "flops": float(sum(m.flops for m in manifests)),
            "seconds": sum(m.wall_seconds for m in manifests),
        }
        for what, manifests in runs.items()
        if manifests
    ]
    keys = ("runs", "tokens", "flops", "seconds")
    if rows:
        rows.append(
            {"what": "all training"} | {k: sum(r[k] for r in rows) for k in keys}
        )
    if data.pool is not None:
        model = data.pool.model
        searched = data.found.tokens if data.found else 0
        scored = data.scored_windows * model.config.length
        for what, tokens in (("scoring", scored), ("searching", searched)):
            if tokens:
                values = (0, tokens, float(model.forward_flops(tokens)), None)
                rows.append({"what": what, **dict(zip(keys, values, strict=True))})
    columns = (
        _text("what", "what"),
        Column("runs", "models trained", integer),
        Column("tokens", "tokens", integer),
        Column("flops", "FLOPs", functools.partial(formatted, spec=".1e")),
        Column("seconds", "time", duration),
    )
    return Table(
        "cost", columns, tuple(rows),
        style=lambda row: "sum" if row["what"] == "all training" else "",
    )  # fmt: skip


def setup(data: ReportData) -> Table:
    """Model, recipes, tokenizer and split, by the names of the config."""
    parts: dict[str, Mapping[str, Any]] = {}
    if data.base is not None:
        leaves = data.base.leaves.values()
        parts["base model"] = {
            "parameters": sum(math.prod(shape) for shape, _ in leaves),
            "tokens": data.base.tokens,
        } | data.base.recipe
        parts["model"] = data.base.model
    if data.pool is not None:
        parts["recipe of all runs"] = data.pool.identity["recipe"]
    if data.corpus is not None:
        frozen = data.corpus.record.frozen
        parts["tokenizer"] = {  # and no path: a report travels
            "kind": frozen.tokenizer.kind,
            "entries": data.corpus.tokenizer.vocab_size,
        }
        parts["split"] = dataclasses.asdict(frozen.split)
    columns = (_text("part", "of"), _text("key", "what"), Column("value", "value"))
    rows = tuple(
        {"part": part, "key": key, "value": value}
        for part, values in parts.items()
        for key, value in values.items()
    )
    return Table("", columns, rows)


def dropped(data: ReportData) -> Table:
    """Documents that were left out, and why."""
    rows = left_out(data.corpus.record.summary) if data.corpus else []
    columns = (
        _text("from", "from", get=lambda row: row[0]),
        _text("because", "reason", get=lambda row: row[1]),
        Column("documents", "documents", integer, get=lambda row: row[2]),
    )
    return Table.of("", rows, columns)
