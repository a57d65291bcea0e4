"""Every table of the report and of the commands, each built in one place."""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.corpus import Corpus
from jaxsim.corpus.names import Labels
from jaxsim.corpus.summary import document_rows, left_out, of_tasks
from jaxsim.log import counted
from jaxsim.pool import Manifest
from jaxsim.report import agreement as runs
from jaxsim.report.data import BASE, ReportData
from jaxsim.report.summary import summarize
from jaxsim.report.table import (
    Column,
    Estimate,
    Table,
    bits_column,
    duration,
    formatted,
    gain,
    integer,
    largest,
    marks,
    number,
    percent,
    signed,
    target,
    text_column,
)
from jaxsim.scoring.evaluation import SPLITS
from jaxsim.scoring.predicted import Predicted
from jaxsim.scoring.scores import Scores
from jaxsim.scoring.table import STANDARD_MERGES
from jaxsim.scoring.targets import Targets
from jaxsim.search.closed_form import ClosedForm
from jaxsim.search.objective import weighted_mean
from jaxsim.search.result import SearchResult, is_single
from jaxsim.validation.diagnostics import Diagnostics
from jaxsim.validation.measured import PREDICTED

_MOST_SCORES, _MOST_TARGETS = 12, 3
_MOST_DOMAINS = 6  # columns that fit a console
_DOCUMENTS = {
    "bad": "unreadable",
    "left out": "filtered, or without a date or place",
    "duplicate": "of other training text",
    "near duplicate": "of other training text",
    "overlapping": "with evaluation text",
    "held out": "for the base model and for evaluation",
    "not needed": "beyond the budget of tokens",
    "epochs": "how often a training run reads the text",
}
_SIMPLE = 3  # even subsets that are shown whatever group they are in


def build(data: ReportData) -> dict[str, Table | None]:
    """Every table that may have a file, by name; None where it has no rows."""
    made: dict[str, Table | None] = {}

    def add(part: Any, **functions: Callable[[Any], Table]) -> None:
        for name, function in functions.items():
            table = None if part is None else function(part)
            made[name] = table if table and table.rows else None

    add(data.pool, members=lambda _: members(data.of_kind("member"), data))
    add(data.corpus, domains=domains)
    add(data.standard, gains=lambda scores: gains(scores.members, data.bits["test"]))
    add(data.found, mixtures=mixtures, objective=objective,
        binding=binding, marginal=marginal)  # fmt: skip
    add(data.found, sources=lambda found: sources(found, data.closed))
    add(data.closed, tradeoff=tradeoff)
    add(data.diagnostics, diagnostics=paths)
    add(data.validation, agreement=runs.agreement, claims=runs.claims,
        within=runs.within, points=runs.points, calibration_check=runs.check,
        learning=runs.learning, noise=runs.noise)  # fmt: skip
    add(data.given, given_agreement=runs.agreement, given_claims=runs.claims,
        given_points=runs.points)  # fmt: skip
    add(data.chosen, trained=lambda chosen: runs.trained(chosen, data.found),
        chosen=lambda chosen: runs.chosen(chosen, data.found))  # fmt: skip
    add(data, cost=cost)
    return made


# The pool, its scores and its text.


def members(manifests: Mapping[str, Manifest], data: ReportData | None = None) -> Table:
    """Data, cost, drift and barrier of each member."""
    units = data.corpus.units if data and data.corpus else {}
    known = data.diagnostics if data else None

    def unit(field: str) -> Callable[[Manifest], Any]:
        return lambda m: getattr(units.get(m.name), field, None)

    def diagnosed(field: str) -> Callable[[Manifest], float | None]:
        return lambda m: getattr(known, field, {}).get(m.name)

    columns = (
        text_column("member", "member", get="name"),
        Column("partition", get=unit("partition")),
        text_column("group", "group", lambda v: v or "-", unit("group")),
        Column("documents", "documents", integer, unit("documents")),
        Column("tokens", "tokens", integer),
        Column("unique_tokens"),
        Column("epochs", "epochs", functools.partial(number, digits=2),
               lambda m: float(max(m.epochs.values(), default=0.0))),
        bits_column("final_loss", "final loss\n(nats/token)"),
        Column("drift", "drift", lambda v: percent(v, 2), diagnosed("drift")),
        Column("barrier", "barrier", signed, diagnosed("line_barriers")),
        Column("wall_seconds", "time", duration),
        *map(Column, ("device_seconds", "flops", "params_digest")),
    )  # fmt: skip
    title = f"members of the pool ({len(manifests)})"
    table = Table.of(title, manifests.values(), columns)
    note = "epochs: how often the member read its text; final loss: on that text"
    if known is not None:
        note += (
            "; drift: distance from the base model, a share of its norm; barrier: "
            "highest point above the straight line from the base model, bits per byte "
            "(positive: averaging hurts)"
        )
    return dataclasses.replace(table, note=note)


def domains(corpus: Corpus) -> Table:
    """Documents, windows, tokens and bytes of every evaluation domain."""
    counts = corpus.record.summary["documents"]
    names = {"base": "base", "train": "training", "dev": "dev", "test": "test"}
    sums = ("windows", "tokens", "bytes")
    columns = [
        text_column("domain", "domain"),
        Column("group"),
        text_column("in_pool", "kind", lambda v: "in-pool" if v else "out-of-pool"),
        text_column("average", "mean over"),
        *(Column(f"{split}_documents", name, integer) for split, name in names.items()),
        *(Column(f"{split}_{what}", f"{split}\nwindows" if what == "windows" else "",
                 integer) for split in SPLITS for what in sums),
    ]  # fmt: skip
    rows = [
        (
            d.name,
            d.group,
            d.in_pool,
            "documents" if d.by_document else "bytes",
            *((counts[d.name] | d.documents).get(split) for split in names),
            *(int(getattr(d, what)[split]) for split in SPLITS for what in sums),
        )
        for d in sorted(corpus.domains.values(), key=lambda d: not d.in_pool)
    ]
    return Table.of("documents by split", rows, columns)


def documents(corpus: Corpus) -> Table:
    """What became of the documents of each partition and domain."""
    headings, rows, warnings = document_rows(corpus)
    columns = [
        (text_column if i == 0 else Column)(f"column {i}", heading)
        for i, heading in enumerate(headings)
    ]
    cells = [tuple("" if cell == "-" else cell for cell in row) for row in rows]
    table = Table.of("documents", cells, columns)
    known = [f"{c.heading}: {why}" for c in table.visible
             if (why := _DOCUMENTS.get(c.heading))]  # fmt: skip
    return dataclasses.replace(table, note="; ".join(["documents", *known, *warnings]))


def gains(members: Sequence[str], bits: Mapping[str, Mapping[str, float]]) -> Table:
    """The share by which each member lowers the base model's loss, by domain."""
    domains = list(bits[BASE])
    nothing = dict.fromkeys(domains, np.nan)  # a damaged member was not scored
    rows = [
        (name, *(1 - bits.get(name, nothing)[d] / bits[BASE][d] for d in domains))
        for name in members
    ]
    title = "gain over the base model on test text (% of its loss)"
    return _by_domain(title, "member", "gain on", domains, gain, rows)


def standard_bits(scores: Scores) -> Table:
    """Base model, members and other standard mixtures, on dev text."""
    e = scores.evaluation
    known = Targets.of(e, np.ones(len(e.domains), bool))
    inside = known.lead("in-pool")
    weights = known.weights(e.domains)
    bits_MD = scores.bits_per_byte("merge", "dev")
    outside = known.firsts[:_MOST_DOMAINS]
    names = (inside, *outside) if inside else outside
    bits = [weighted_mean(bits_MD, weights[n]) for n in names]
    columns = [text_column("mixture", "mixture"), *(bits_column(n, n) for n in names)]
    rows = zip(scores.table.names, *bits, strict=True)
    title = "bits per byte on all dev text"
    return Table.of(title, rows, columns, note=marks(scores.notes))


def scores(table: Scores, asked: int = 0) -> Table:
    """The best rows of a scored table by the merge, and the standard mixtures.

    `asked`: mixtures that its rows are the best of; 0: its own.
    """
    best = summarize(table, "dev", _MOST_SCORES)
    predictors = ["merge", *(p for p in PREDICTED[1:] if p in best.bits)]
    headings = {p: runs.label(p).replace("of ", "of\n") for p in predictors}
    shown = table.table.take(best.rows)
    columns = (
        text_column("mixture", "mixture", get=shown.names.__getitem__),
        text_column("weights", "weights", largest, shown.parts),
        *(bits_column(f"{on}: {p}", f"{on},\n{heading}",
                      get=best.bits[p][:, t].__getitem__)
          for t, on in enumerate(best.targets[:_MOST_TARGETS])
          for p, heading in headings.items()),
    )  # fmt: skip
    title = (
        f"best of {counted(asked or len(table.table), 'mixture')} by the "
        f"{'quadratic' if asked else 'merge'} on {best.targets[0]}: bits per byte on "
        f"dev text, at most {best.windows} windows a domain"
    )
    return Table.of(title, range(len(shown)), columns, note=marks(table.notes))


def misfits(predicted: Predicted) -> Table:
    """How far the closed forms of a predicted table are from what they predict."""
    merge, ensemble, mean = predicted.misfits.values()
    best = {
        on: dataclasses.replace(found, spread=merge[on].spread)
        for on, found in predicted.best_misfits.items()
    }
    rows = [
        (
            *(on, found.spread, found.error, found.share),
            *((best[on].error, best[on].share) if best else (None, None)),
            *(ensemble[on].share, mean[on].share),
        )
        for on, found in merge.items()
    ]
    bits = functools.partial(Column, show=functools.partial(number, digits=5))
    share = functools.partial(Column, show=functools.partial(percent, digits=1))
    columns = (
        text_column("on", "on"),
        bits("spread", "spread of\nmerges"),
        bits("error", "error"),
        share("share", "of the\nspread"),
        bits("best_error", "error on\nthe best"),
        share("best_share", "of the\nspread"),
        share("ensemble_share", "ensemble,\nof its spread"),
        share("mean_share", "mean of both,\nof its spread"),
    )
    count = next(iter(merge.values())).count
    title = f"closed form and {count} random merges: bits per byte on dev text"
    note = (
        "error: root mean square of predicted minus real; spread: standard deviation "
        "of the random ones"
    )
    if best:
        count = next(iter(best.values())).count
        note += f"; the best: the {count} that it likes best, merged"
    return Table.of(title, rows, columns, note=note)


def paths(diagnostics: Diagnostics) -> Table:
    """The loss on the paths from the base model, for files."""
    keys = ("line", "target", "scale", "bits_per_byte")
    rows = [
        (name, on, scale, bits)
        for name, line in diagnostics.lines.items()
        for on, bits_S in line.items()
        if on != "scale"
        for scale, bits in zip(line["scale"], bits_S, strict=True)
    ]
    return Table.of("paths from the base model", rows, list(map(Column, keys)))


# What a search found.


def mixtures(found: SearchResult) -> Table:
    """The tied and the standard mixtures, the best one first."""
    best = found.predicted(found.best, "dev")
    fellows = Counter(row["group"] for row in found.rows if row["tied"])

    def other(key: str, sign: int = 1) -> Callable[[Mapping[str, Any]], float | None]:
        """A share of the best one's loss."""
        return lambda row: None if row is found.best else sign * row[key] / best

    def named(row: Mapping[str, Any]) -> str:
        """What a mixture is, and how many of its group it speaks for."""
        text = largest(row["weights"])
        if row["kind"] in STANDARD_MERGES:
            text = str(row["name"])
        elif row is found.best:
            text = f"the answer: {text}"
        more = fellows[row["group"]] - 1
        if row["tied"] and more and row is firsts[row["group"]]:
            text += f" (and {more} within 10% of its tokens)"
        return text

    firsts = {row["group"]: row for row in reversed(found.rows)}
    columns = (
        text_column("label", "mixture", get=named),
        text_column("mixture", get="name"),
        *map(Column, ("kind", "group", "weights")),
        bits_column("predicted", "predicted loss\n(bits per byte)",
                    get=lambda row: found.predicted(row, "dev")),
        Column("gain", "gain over the\nanswer (%)", gain, other("difference", -1)),
        Column("limit", "limit of\na tie (%)", gain, other("limit", -1)),
        Column("tied", "ties", lambda v: "yes" if v else "no"),
        Column("error", get=other("error")),
        Column("dev_merge", get="dev"),
        Column("test_merge", get="test"),
        *(Column(f"dev_{p}", get=p) for p in ("quadratic", "ensemble", "members")),
        Column("shift", get=lambda row: row["shift"] if found.calibrated else None),
        Column("test_shift"),
    )  # fmt: skip
    ties, resampled = found.ties, found.ties["resampled"]
    if resampled == "windows":
        resampled = "windows, as if independent (too few documents)"
    note = (
        "on dev text, where the choice was made"
        f"{', calibrated with reference runs' if found.calibrated else ''}; a mixture "
        "ties with the answer if its gain over it is above the limit, which holds for "
        f"all mixtures at once ({ties['level']:.0%}, from resampled {resampled})"
    )
    if least := ties["min_effect"]:
        note += f"; less than {least:.2%} (min_effect) counts as a tie"
    title = (
        f"{ties['heading']} ({ties['count']:,} of "
        f"{counted(found.searched, 'mixture')}, for "
        f"{target(found.named, found.objective)})"
    )
    return Table.of(
        title, found.rows, columns, note=note,
        style=lambda row: "best" if row["error"] is None else "",
    )  # fmt: skip


def shown_mixtures(found: SearchResult, most: int, file: str = "") -> Table:
    """The first of each group of ties, simple and standard ones; `file` has all."""
    rows, groups = found.rows, dict[int | None, int]()
    for i, row in enumerate(rows):
        groups.setdefault(row["group"], i)
    tied = [i for group, i in groups.items() if group is not None][:most]
    even = [i for i, row in enumerate(rows) if row["kind"] == "subset"][:_SIMPLE]
    single = [i for i, row in enumerate(rows) if is_single(row)][:1]
    others = [
        i for i, row in enumerate(rows)
        if not row["tied"] or row["kind"] in STANDARD_MERGES
    ]  # fmt: skip
    shown = sorted({*tied, *even, *single, *others})
    return mixtures(found).take(shown, file)


def sources(found: SearchResult, closed: ClosedForm | None = None) -> Table:
    """What the answer takes of each source and what the source does, by weight."""
    by_weight = sorted(found.sources.items(), key=lambda pair: -pair[1]["weight"])
    presets = {p["name"]: p["weights"] for p in closed.presets} if closed else {}
    before = presets.get(Labels.PROPORTIONAL)
    epochs = functools.partial(number, digits=2)
    share = functools.partial(percent, digits=1)
    columns = (
        text_column("member", "source"),
        Column("weight", "the\nanswer", share),
        Column("proportional", "proportional\nto tokens", share),
        Column("uniform"),
        Column("gain", "gain over the\nbase model (%)", Estimate.shown_gain,
               lambda row: Estimate(row["gain"], (row["gain_low"], row["gain_high"]))),
        Column("low", "lowest", share),
        Column("high", "highest", share),
        Column("epochs", "epochs\nplanned", epochs),
        Column("member_epochs", "epochs of\nthe member", epochs),
        text_column("extrapolated", "beyond the\nmember's", lambda _: "yes",
                    lambda row: row["extrapolated"] or None),
    )  # fmt: skip
    rows = [
        {"member": name, **source, "uniform": 1 / len(by_weight)}
        | {"proportional": before.get(name, 0.0) if before else None}
        for name, source in by_weight
    ]
    parts = [
        "gain: of the member that was trained on this source alone, on the target's "
        f"test text, with a {found.ties['level']:.0%} interval (error of the text)"
    ]
    if any(row["low"] is not None for row in rows):
        parts.append(
            "lowest, highest: weight of mixtures that the quadratic expects to be at "
            f"most {number(found.range_limit)} bits per byte worse than the best, the "
            "limit for the last mixture that ties; the other weights move, too, within "
            "the constraints; with a limit on sources, among those of the best"
        )
    if any(row["extrapolated"] for row in rows):
        parts.append(
            "beyond the member's: extrapolated; the planned run uses more epochs of "
            "the text, and what that changes was not measured"
        )
    title = "what the best mixture takes from each member's text"
    return Table.of(title, rows, columns, note="; ".join(parts))


def tradeoff(closed: ClosedForm) -> Table:
    """What mixtures do to the target and to the other domains, the answer first."""
    aimed = {domain for parts in closed.target.values() for domain in parts}
    others = [d for d, name in enumerate(closed.domains) if name not in aimed]
    best, *rest = ((p["name"], p["weights"], p["bits"]) for p in closed.presets)
    mixtures = [best, *sorted(rest, key=lambda row: row[0] != closed.reference)]
    singles = [w for _, w, _ in mixtures if len(w) == 1]
    if not closed.refusal:
        alone_CD = closed.bits(np.eye(len(closed.members)))
        mixtures += [
            ("", {name: 1.0}, bits_D)
            for name, bits_D in zip(closed.members, alone_CD, strict=True)
            if {name: 1.0} not in singles
        ]
    bits_MD = np.array([bits_D for _, _, bits_D in mixtures])
    reference = [name for name, _, _ in mixtures].index(closed.reference)
    gain_M, gain_MD = closed.gain(bits_MD), 1 - bits_MD / bits_MD[reference]
    rows: list[tuple[Any, ...]] = []
    for m, (name, parts, _) in enumerate(mixtures if others else ()):
        label, kind = largest(parts, 2), "member" if len(parts) == 1 else "mixture"
        if m == 0:
            label, kind = "the answer", "answer"
        elif name in STANDARD_MERGES:
            label = name
        worst = min(others, key=lambda d: gain_MD[m, d])
        elsewhere = float(gain_MD[m, others].mean()), float(gain_MD[m, worst])
        rows.append((label, kind, float(gain_M[m]), *elsewhere, closed.domains[worst]))
    columns = (
        text_column("mixture", "mixture"),
        Column("kind"),
        Column("target", "on the\ntarget (%)", gain),
        Column("others", "mean of the\nothers (%)", gain),
        Column("worst", "worst of the\nothers (%)", gain),
        text_column("worst_domain", "which"),
    )
    note = (
        f"gain over {closed.reference}, predicted on test text; others: the "
        f"{counted(len(others), 'domain')} outside the target"
    )
    title = "gain on the target and elsewhere"
    return Table.of(title, rows, columns, note=note)


def objective(found: SearchResult) -> Table:
    """Targets of a worst case or with limits, least gain first."""
    is_worst = found.objective == "worst"
    domains = {
        name: row
        for name, row in (found.means | found.domains).items()
        if name in found.named or "limit" in row
    }
    rows: list[dict[str, Any]] = []
    if is_worst or any("limit" in row for row in domains.values()):
        rows = [
            {
                "domain": name,
                "gain": 1 - row["best"] / row["base"],
                "limit": None,
                **row,
            }
            for name, row in domains.items()
        ]
        rows.sort(key=lambda row: row["gain"])
    columns = (
        text_column("domain", "domain"),
        bits_column("base", "base model"),
        bits_column("best", "best mixture"),
        Column("gain", "gain (%)", gain),
        bits_column("limit", "at most"),
    )
    is_one = is_worst and len(found.named) == 1
    note = "with one target, the worst is the mean" if is_one else ""
    title = "best mixture and base model, bits per byte on dev text"
    return Table.of(title, rows, columns, note=note)


def binding(found: SearchResult) -> Table:
    """The active constraints, and the gain from relaxing each."""
    columns = (
        text_column("constraint", "active constraint", get=constraint_words),
        *map(Column, ("name", "kind", "limit", "value")),
        Column("gain", "gain if relaxed",
               lambda v: "not known" if v is None else number(v)),
        text_column("step", "relaxed by"),
    )  # fmt: skip
    note = "bits per byte, to first order"
    return Table.of("active constraints", found.binding, columns, note=note)


def constraint_words(row: Mapping[str, Any]) -> str:
    """A constraint with its limit, as in 'at most 30.0% of alpha'."""
    limit, name = row["limit"], row["name"]
    return {
        "min_weight": f"at least {limit:.1%} of {name}",
        "max_weight": f"at most {limit:.1%} of {name}",
        "supply": f"the supply of {name}, {limit:.1%} of the run",
        "divergence": f"at most {limit:g} nats from the prior mixture",
        "max_regression": f"at most {limit:.4f} bits per byte on {name}",
        "sources": f"at most {counted(round(limit), 'source')}",
    }[row["kind"]]


def marginal(found: SearchResult) -> Table:
    """What one percent more of each member gains, most useful first."""
    nothing: dict[str, Any] = {"members": [], "domains": [], "bits_DC": [],
                               "objective_C": []}  # fmt: skip
    known = found.marginal or nothing
    values = -np.array([known["objective_C"], *known["bits_DC"]], float).T
    members = zip(known["members"], values.tolist(), strict=True)
    rows = sorted(((name, *row) for name, row in members), key=lambda row: -row[1])
    on_console = [n for n in known["domains"] if n in found.target][:_MOST_DOMAINS]
    note = (
        "gain in thousandths of a bit per byte on dev text, to first order, when one "
        "percent of the tokens moves to this source, taken from all in proportion; "
        "positive is better; includes the gain of averaging itself"
    )
    if any(row["kind"] == "max_regression" for row in found.binding):
        note += "; the objective includes the penalty for a regression limit"
    if found.calibrated:
        note += "; the objective is calibrated, single domains are not"
    return _by_domain(
        "what the next percent buys", "1% more of", "gain on",
        [Labels.OBJECTIVE, *known["domains"]], lambda v: signed(1000 * v, 2), rows,
        note, [Labels.OBJECTIVE, *on_console],
    )  # fmt: skip


def _by_domain(
    title: str,
    heading: str,
    what: str,
    domains: Sequence[str],
    show: Callable[[Any], str],
    rows: Iterable[tuple[Any, ...]],
    note: str = "",
    on_console: Sequence[str] = (),
) -> Table:
    """Members by domains; keys say `what`, so that no domain is 'member'."""
    columns = [text_column("member", heading)] + [
        Column(f"{what} {domain}", domain, show, on_console=domain in on_console)
        for domain in domains
    ]
    return Table.of(title, rows, columns, note=note)


# What it took.


def cost(data: ReportData) -> Table:
    """Training as manifests record it, and scoring as tables count it."""
    trained = [m for m in (data.base,) if m is not None and m.source is None]
    runs = {"base model": trained} | {
        what: list(data.of_kind(kind).values())
        for kind, what in (("member", "members"), ("reference", "reference runs"),
                           ("replicate", "replicates"))
    }  # fmt: skip
    summed = ("tokens", "flops", "wall_seconds")
    rows: list[tuple[Any, ...]] = [
        (what, len(all_of), *(sum(getattr(m, key) for m in all_of) for key in summed))
        for what, all_of in runs.items()
        if all_of
    ]
    total = "all training"
    if rows:
        rows.append((total, *(sum(row[i] for row in rows) for i in range(1, 5))))
    if data.pool is not None:
        model = data.pool.model
        searched = data.found.tokens if data.found else 0
        scored = data.scored_windows * model.config.length
        for what, tokens in (("scoring", scored), ("searching", searched)):
            if tokens:
                rows.append((what, 0, tokens, model.forward_flops(tokens), None))
    columns = (
        text_column("what", "what"),
        Column("runs", "models trained", integer),
        Column("tokens", "tokens", integer),
        Column("flops", "FLOPs", functools.partial(formatted, spec=".1e")),
        Column("seconds", "time", duration),
    )
    return Table.of(
        "cost", rows, columns, style=lambda row: "sum" if row["what"] == total else ""
    )


def setup(data: ReportData) -> Table:
    """Model, recipes, tokenizer and split, by the names of the config."""
    parts: dict[str, Mapping[str, Any]] = {}
    if data.base is not None:
        shapes = [shape for shape, _ in data.base.leaves.values()]
        facts: dict[str, Any] = {"parameters": sum(map(math.prod, shapes))}
        if (source := data.base.source) is None:
            facts |= {"tokens": data.base.tokens} | data.base.recipe
        else:  # and no path
            facts |= {"imported from": source.name, "family": source.family}
        parts |= {"base model": facts, "model": data.base.model}
    if data.pool is not None:
        parts["recipe of all runs"] = data.pool.identity["recipe"]
    if data.corpus is not None:
        frozen = data.corpus.record.frozen
        parts["tokenizer"] = {  # and no path: a report travels
            "kind": frozen.tokenizer.kind,
            "entries": data.corpus.tokenizer.vocab_size,
            "begin_of_text": data.corpus.tokenizer.begin_of_text_token,
            "end_of_text": data.corpus.tokenizer.end_of_text_token,
        }
        parts["split"] = dataclasses.asdict(frozen.split)
    rows = [(part, *item) for part, values in parts.items() for item in values.items()]
    names = text_column("part", "of"), text_column("key", "what")
    return Table.of("", rows, [*names, text_column("value", "value")])


def dropped(data: ReportData) -> Table:
    """Documents that were left out, and why."""
    corpus, rows = data.corpus, list[tuple[str, str, int]]()
    if corpus is not None:
        rows = left_out(corpus.record.summary) + of_tasks(corpus.domains)
    names = text_column("from", "from"), text_column("because", "reason")
    return Table.of("", rows, [*names, Column("documents", "documents", integer)])
