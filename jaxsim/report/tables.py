"""Every table of the report and of the commands, each built in one place."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.pool import Manifest
from jaxsim.report import agreement as runs
from jaxsim.report.data import ReportData, StandardScores
from jaxsim.report.format import (
    count,
    duration,
    flops,
    integer,
    largest,
    listed,
    marks,
    number,
    percent,
    signed,
    target,
    thousandths,
    yes,
)
from jaxsim.report.outcome import PLAIN
from jaxsim.report.table import Column, Table
from jaxsim.scoring.scores import Scores
from jaxsim.scoring.summary import summarize
from jaxsim.search.result import SearchResult, is_single
from jaxsim.validation.diagnostics import Diagnostics
from jaxsim.validation.measured import PREDICTED

# All that may have a file.
NAMES = (
    "members", "domains", "gains", "mixtures", "objective", "binding",
    "marginal", "diagnostics", "agreement", "claims", "points", "calibration_check",
    "learning", "noise", "given_agreement", "given_claims", "given_points",
    "chosen", "cost",
)  # fmt: skip
_MOST_SCORES, _MOST_TARGETS = 12, 3
_MOST_DOMAINS = 6  # columns that fit a console
PERCENT_NOTE = (
    "by the merge, to first order, on dev text: one percent of the tokens "
    "moves to a member, taken from all in proportion. What averaging alone "
    "gains is part of it"
)

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
        found["mixtures"] = mixtures(data.found)
        found["objective"] = objective(data.found)
        found["binding"] = binding(data.found)
        found["marginal"] = marginal(data.found)
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
    """What each member was trained on, what it took, how far it moved."""
    units = data.corpus.units if data and data.corpus else {}
    drift = data.diagnostics.drift if data and data.diagnostics else {}
    line_barriers = data.diagnostics.line_barriers if data and data.diagnostics else {}

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
        Column("drift", "drift from\nthe base", lambda v: percent(v, 2),
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
    counts = data.corpus.record["summary"]["documents"]
    splits = {"base": "base", "train": "training", "dev": "dev",
              "test": "test"}  # fmt: skip

    def documents(split: str) -> Callable[[Any], int | None]:
        return lambda d: counts.get(d.name, d.documents).get(split)

    def amount(what: str, split: str) -> Callable[[Any], int]:
        return lambda d: int(getattr(d, what)[split])

    columns = [
        _text("domain", "domain", get=lambda d: d.name),
        _text("in_pool", "pool", lambda v: "in-pool" if v else "out-of-pool",
              get=lambda d: d.in_pool),
        *(Column(f"{split}_documents", name, integer, get=documents(split))
          for split, name in splits.items()),
    ]  # fmt: skip
    for split in ("dev", "test"):
        for what in ("windows", "tokens", "bytes"):
            heading = f"{splits[split]} windows" if what == "windows" else ""
            columns.append(
                Column(f"{split}_{what}", heading, integer,
                       get=amount(what, split))
            )  # fmt: skip
    found = sorted(data.corpus.domains.values(), key=lambda d: not d.in_pool)
    return Table.of("documents by split", found, columns)


def gains(standard: StandardScores) -> Table:
    """By how many bits per byte members beat the base model, on test text."""
    gain_CD = standard.gains("test").tolist()
    return _by_domain(
        "gain over the base model on test text (bits per byte)",
        "member", "gain on", standard.domains, signed,
        list(zip(standard.members, gain_CD, strict=True)),
    )  # fmt: skip


def reference_bits(standard: StandardScores) -> Table:
    """Base model, members and plain merges, on dev text."""
    split, inside = "dev", np.array(standard.in_pool)
    outside = [d for d, i in enumerate(inside) if not i][:_MOST_DOMAINS]
    bits_MD = standard.bits[split]
    macro_M = [np.nan] * len(bits_MD)
    if inside.any():
        macro_M = bits_MD[:, inside].mean(axis=1).tolist()
    names = [standard.domains[d] for d in outside]
    columns = (
        _text("mixture", "mixture"),
        _bits("macro in-pool", "macro in-pool"),
        *(_bits(f"on {name}", name) for name in names),
    )
    rows = tuple(
        {"mixture": name, "macro in-pool": macro_M[m]}
        | {f"on {standard.domains[d]}": bits_MD[m, d] for d in outside}
        for m, name in enumerate(standard.names)
    )
    title = "bits per byte on dev text"
    return Table(title, columns, rows, marks(standard.notes))


def best_members(standard: StandardScores, note: str) -> Table:
    """The best member for each in-pool domain, and the rank of its own."""
    gain_CD = standard.gains("dev")
    rows = []
    for d, domain in enumerate(standard.domains):
        gain_C = gain_CD[:, d]
        if not standard.in_pool[d] or not np.isfinite(gain_C).any():
            continue
        best = standard.members[int(np.nanargmax(gain_C))]
        own = [standard.members.index(n) for n in standard.own(domain)]
        ranks = [str(1 + int((gain_C > gain_C[c]).sum())) for c in own]
        rows.append(
            {
                "domain": domain,
                "member": best,
                "bits": standard.row(best, "dev")[d],
                "gain": float(np.nanmax(gain_C)),
                "rank": listed(ranks) or "no own member",
            }
        )
    columns = (
        _text("domain", "domain"),
        _text("member", "best member"),
        _bits("bits", "bits per byte"),
        Column("gain", "gain over\nthe base", signed),
        Column("rank", "rank of its\nown member"),
    )
    title = "in-pool domains: which member is best?"
    return Table(title, columns, tuple(rows), note)


def scores(table: Scores) -> Table:
    """The best rows of a scored table by the merge, and the plain merges."""
    best = summarize(table, "dev", _MOST_SCORES)
    shown = list(enumerate(best.targets))[:_MOST_TARGETS]
    predictors = ["merge", *(p for p in PREDICTED[1:] if p in best.bits)]
    columns = (
        _text("mixture", "mixture"),
        _text("weights", "weights", show=largest),
        *(_bits(f"{name}: {predictor}", f"{name},\n{_narrow(predictor)}")
          for _, name in shown for predictor in predictors),
    )  # fmt: skip
    rows = tuple(
        {"mixture": table.table.names[m], "weights": table.table.parts(m)}
        | {f"{name}: {predictor}": best.bits[predictor][i, t]
           for t, name in shown for predictor in predictors}
        for i, m in enumerate(best.rows)
    )  # fmt: skip
    return Table(
        f"best of {len(table.table):,} mixtures by the merge on "
        f"{best.targets[0]}: bits per byte on dev text",
        columns,
        rows,
        f"All on the same windows, at most {best.windows} of each domain."
        + "".join(f"\n{line}" for line in [marks(table.notes)] if line),
    )


def _narrow(predictor: str) -> str:
    return runs.LABELS[predictor].replace("of ", "of\n")


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
    """The tied and the plain mixtures, the best one first."""

    def other(key: str) -> Callable[[Mapping[str, Any]], float | None]:
        return lambda row: None if row is found.best else row[key]

    columns = (
        _text("mixture", "mixture", get=lambda row: row["name"]),
        Column("kind"),
        _text("weights", "weights", largest),
        _bits("dev_bits_per_byte", "merge,\ndev",
              get=lambda row: row["dev"]),
        _bits("test_bits_per_byte", "merge,\ntest",
              get=lambda row: row["test"]),
        _bits("dev_ensemble", "ensemble,\ndev",
              get=lambda row: row.get("ensemble")),
        _bits("dev_members", "members,\ndev",
              get=lambda row: row.get("members")),
        Column("shift", "shift", signed, get=lambda row: (
            row.get("shift", 0.0) if found.calibrated else None)),
        Column("difference", "difference", signed),
        _bits("error", "error", get=other("error")),
        _bits("limit", "limit", get=other("limit")),
        Column("tied", "ties", yes),
    )  # fmt: skip
    note = (
        f"bits per byte; resampled: {found.ties['resampled']}; a mixture ties "
        f"if its difference is within its limit ({found.ties['level']:.0%} "
        "simultaneous over all mixtures)"
    )
    if found.ties["min_effect"]:
        note += (
            "; differences below the minimum effect, "
            f"{found.ties['min_effect']:.2%} of the best, count as ties"
        )
    return Table.of(
        f"{found.ties['heading']} ({found.ties['count']:,} of "
        f"{found.searched:,} mixtures, for "
        f"{target(found.target, found.objective)})",
        found.rows,
        columns,
        note,
        lambda row: "best" if row["error"] is None else "",
    )


def shown_mixtures(found: SearchResult, most: int) -> list[int]:
    """The first rows that tie, then the plain ones, tied or not."""
    rows = found.rows
    first = [i for i, row in enumerate(rows) if row["tied"]][:most]
    single = [i for i, row in enumerate(rows) if is_single(row)][:1]
    plain = [i for i, row in enumerate(rows) if row["kind"] in PLAIN]
    return first + [
        i
        for i, row in enumerate(rows)
        if i not in first and (not row["tied"] or i in plain or i in single)
    ]


def objective(found: SearchResult) -> Table:
    """Domains of a worst case, or with limits, least gain first."""
    is_shown = found.objective == "worst" or any(
        "limit" in row for row in found.domains.values()
    )
    known = found.domains.items() if is_shown else ()
    domains: list[dict[str, Any]] = [{"domain": n, **row} for n, row in known]
    columns = (
        _text("domain", "domain"),
        _bits("base", "base model"),
        _bits("best", "best mixture"),
        Column("change", "change", signed, get=lambda r: r["best"] - r["base"]),
        _bits("limit", "at most", get=lambda row: row.get("limit")),
    )
    note = ""
    if found.objective == "worst" and len(found.target) == 1:
        note = "with one domain, the worst is the mean"
    domains.sort(key=lambda row: row["base"] - row["best"])
    title = "the best mixture beside the base model, bits per byte on dev text"
    return Table.of(title, domains, columns, note)


def binding(found: SearchResult) -> Table:
    """The active constraints, and what relaxing each would gain."""
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
        "floor": f"at least {limit:.1%} of {name}",
        "ceiling": f"at most {limit:.1%} of {name}",
        "supply": f"the supply of {name}, {limit:.1%} of the run",
        "divergence": f"at most {limit:g} nats from the reference",
        "regret": f"at most {limit:.4f} bits per byte on {name}",
        "sources": f"at most {count(round(limit), 'source')}",
    }[row["kind"]]


def marginal(found: SearchResult) -> Table:
    """What one percent more of each member changes, most useful first."""
    rows = []
    names: Sequence[str] = ()
    if found.marginal:
        names = found.marginal["domains"]
        bits_CD = np.array(found.marginal["bits_DC"], float).T.tolist()
        pairs = zip(
            found.marginal["members"], found.marginal["objective_C"],
            bits_CD, strict=True,
        )  # fmt: skip
        rows = [
            (member, [goal, *bits_D])
            for member, goal, bits_D in sorted(pairs, key=lambda p: p[1])
        ]
    shown = [n for n in names if n in found.target][:_MOST_DOMAINS]
    note = f"change in thousandths of a bit per byte, {PERCENT_NOTE}"
    if found.calibrated:
        note += ". The objective is calibrated, single domains are not"
    return _by_domain(
        "marginal value of each member, at the best mixture",
        "1 % more of", "change on", ["the objective", *names], thousandths,
        rows, note, ["the objective", *shown],
    )  # fmt: skip


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
    columns = (
        _text("member", heading),
        *(Column(f"{what} {d}", d, show, on_console=d in on_console) for d in domains),
    )
    keys = [column.key for column in columns]
    return Table(
        title,
        columns,
        tuple(dict(zip(keys, [first, *values], strict=True)) for first, values in rows),
        note,
    )


# What it took.


def cost(data: ReportData) -> Table:
    """Training as manifests record it, and scoring as tables count it."""
    rows = []
    if data.base is not None:
        rows.append(_trained("base model", [data.base]))
    for kind, name in (
        ("member", "members"),
        ("reference", "reference runs"),
        ("replicate", "replicates"),
    ):
        if manifests := list(data.of_kind(kind).values()):
            rows.append(_trained(name, manifests))
    if rows:
        sums = {
            key: sum(row[key] for row in rows)
            for key in ("runs", "tokens", "flops", "seconds")
        }
        rows.append({"what": "all training", **sums, "basis": "sum"})
    if data.pool is not None:
        model = data.pool.model
        spent = [
            ("scoring", data.scored_windows * model.config.length,
             "forward passes, counted from the tables of scores, without "
             "diagnostics; time not recorded"),
            ("searching", data.found.tokens if data.found else 0,
             "evaluations of the search, a gradient counted as three forward "
             "passes; time not recorded"),
        ]  # fmt: skip
        rows += [
            {
                "what": what,
                "runs": 0,
                "tokens": tokens,
                "flops": float(model.forward_flops(tokens)),
                "seconds": None,
                "basis": basis,
            }
            for what, tokens, basis in spent
            if tokens
        ]
    columns = (
        _text("what", "what"),
        Column("runs", "models trained", integer),
        Column("tokens", "tokens", integer),
        Column("flops", "FLOPs", flops),
        Column("seconds", "time", duration),
        _text("basis", "how it is known"),
    )
    return Table(
        "cost", columns, tuple(rows),
        style=lambda row: "sum" if row["basis"] == "sum" else "",
    )  # fmt: skip


def _trained(what: str, manifests: Sequence[Manifest]) -> dict[str, Any]:
    return {
        "what": what,
        "runs": len(manifests),
        "tokens": sum(m.tokens for m in manifests),
        "flops": float(sum(m.flops for m in manifests)),
        "seconds": sum(m.wall_seconds for m in manifests),
        "basis": "recorded with every run",
    }


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
        frozen = data.corpus.record["frozen"]
        parts["tokenizer"] = {  # and no path: a report travels
            "kind": frozen["tokenizer"]["kind"],
            "entries": data.corpus.tokenizer.vocab_size,
        }
        parts["split"] = frozen["split"]
    columns = (
        _text("part", "of"), _text("key", "what"), Column("value", "value")
    )  # fmt: skip
    rows = tuple(
        {"part": part, "key": key, "value": value}
        for part, values in parts.items()
        for key, value in values.items()
    )
    return Table("", columns, rows)


def dropped(data: ReportData) -> Table:
    """Documents that did not get through, and why."""
    found = data.corpus.record["summary"] if data.corpus else {}
    rows = [
        (f"source {source}, {kind}", cause, times)
        for source, kinds in found.get("quarantine", {}).items()
        for kind, causes in kinds.items()
        for cause, times in causes.items()
    ]
    rows += [
        (f"source {source}", cause, times)
        for source, causes in found.get("dropped", {}).items()
        for cause, times in causes.items()
    ]
    rows += [
        (name, "repeats earlier training text", times)
        for name, times in found.get("duplicates", {}).items()
    ]
    rows += [
        (f"{name}, {kind} documents", f"overlap with domain {domain}", times)
        for name, overlaps in found.get("overlap", {}).items()
        for domain, counts in overlaps.items()
        for kind, times in counts.items()
    ]
    keys = ("from", "because", "documents")
    columns = (
        _text("from", "from"), _text("because", "because"),
        Column("documents", "documents", integer),
    )  # fmt: skip
    return Table("", columns, tuple(dict(zip(keys, r, strict=True)) for r in rows))


def digests(data: ReportData) -> Table:
    """What the numbers rest on, for the page."""
    found = dict(data.sources)
    if data.base is not None:
        found["base model's parameters"] = data.base.params_digest
        found["tokenizer"] = data.base.tokenizer_digest
    if data.standard is not None:
        found["evaluation text"] = data.standard.basis.text
    columns = (_text("file", "file"), _text("digest", "SHA-256"))
    rows = tuple({"file": n, "digest": d[:16]} for n, d in found.items())
    return Table("", columns, rows)
