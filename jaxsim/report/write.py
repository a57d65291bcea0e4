"""Writes WORKDIR/report from what is on disk; trains and scores nothing.

    index.html     one self-contained file
    figures/       the same figures, PNG
    tables/        the same tables, CSV; proposed.csv is read by --mixtures
    summary.json   everything, for programs

Nothing in the page is loaded from anywhere, and nothing is executed: figures
are data URLs, there is no script, and a content security policy says so. Every
name and text is escaped by the template engine. Called again with nothing
changed it writes the same bytes.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsim import __version__
from jaxsim.config import Config
from jaxsim.errors import with_workdir
from jaxsim.log import counted
from jaxsim.records import VERSION, plain, write
from jaxsim.report import agreement, answer, figures, tables, trust
from jaxsim.report.data import ReportData
from jaxsim.report.explorer import explorer
from jaxsim.report.table import Table, csv_lines, csv_text
from jaxsim.search.closed_form import ClosedForm
from jaxsim.search.result import SearchResult
from jaxsim.validation.validate import Validation

_MOST_MIXTURES = 12
Tables = Mapping[str, Table | None]


def write_report(config: Config, workdir: Path) -> Path:
    """Writes the report, and returns its index.html.

    Raises:
      DamagedError: something on disk is not what it should be.
    """
    workdir = Path(workdir)
    data = ReportData(workdir)
    built = tables.build(data)
    # A report travels: it does not name a place on this machine.
    place = Path("DIR") if workdir.is_absolute() else workdir
    data.missing = [with_workdir(line, place) for line in data.missing]
    data.stale = [with_workdir(line, place) for line in data.stale]
    lines = _answer(data, place)
    drawn = _draw(data, built)
    # Every row says what it may rest on: a table travels alone.
    marks = {"override": data.overrides, "out_of_date": data.stale}
    mark = {key: "; ".join(texts) for key, texts in marks.items() if texts}
    files: dict[str, str | bytes | None] = {
        f"tables/{name}.csv": csv_text(table, mark) if table else None
        for name, table in built.items()
    }
    files["tables/proposed.csv"] = None
    if data.found is not None:
        members = data.validation.members if data.validation else None
        columns = members or list(data.of_kind("member"))
        files["tables/proposed.csv"] = _proposed(data.found, columns)
    files |= {f"figures/{name}.png": png for name, png in drawn.items()}
    summary = _summary(config.name, data, built, lines)
    files["summary.json"] = f"{json.dumps(summary, indent=1, allow_nan=False)}\n"
    form = ClosedForm.load(workdir)
    explored = explorer(form, place) if form else None
    files["index.html"] = _page(config.name, data, built, drawn, lines, explored)
    folder = workdir / "report"
    for name, content in files.items():
        if content is None:
            if (folder / name).exists():  # an earlier report had it
                (folder / name).unlink()
        else:
            write(folder / name, content)
    return folder / "index.html"


def last_lines(workdir: Path) -> list[str]:
    """The answer, for the console."""
    lines = _answer(ReportData(Path(workdir)), Path(workdir))
    return [f"{word}: {text}" for word, text in lines]


def _answer(data: ReportData, place: Path) -> answer.Lines:
    """The answer and the verdict; `place` is the workdir in its commands."""
    lines = answer.answer(
        data.found,
        data.validation,
        place.as_posix(),
        data.token_multiplier,
        data.chosen,
    )
    lines.insert(-1, trust.verdict(data.diagnostics, data.validation).line)
    return [*(("OUT OF DATE", text) for text in data.stale), *lines]


def _proposed(found: SearchResult, members: Sequence[str]) -> str:
    """The tied and the standard mixtures, as `--mixtures` and `--runs` read."""
    rows = [
        [row["name"], *(row["weights"].get(name, 0.0) for name in members)]
        for row in found.rows
    ]
    return csv_lines([["name", *members], *rows])


def _draw(data: ReportData, built: Tables) -> dict[str, bytes | None]:
    """Every figure by its name; None for one without data."""
    names = ("heat_map", "paths", "scatter", "mixtures", "marginal")
    drawn: dict[str, bytes | None] = dict.fromkeys(names)
    if table := built["gains"]:
        inside, label = list(data.in_pool.values()), "gain (bits per byte)"
        drawn["heat_map"] = figures.heat_map(table, inside, label)
    if data.diagnostics is not None:
        drawn["paths"] = figures.paths(data.diagnostics)
    if data.validation is not None:
        drawn["scatter"] = figures.scatter(data.validation)
    if data.found is not None:
        shown = tables.shown_mixtures(data.found, _MOST_MIXTURES)
        drawn["mixtures"] = figures.mixtures(shown, data.found.ties["level"])
        if table := built["marginal"]:
            domains = data.found.marginal["domains"]
            inside = [data.in_pool.get(n, True) for n in domains]
            label = "gain (0.001 bits per byte)"
            drawn["marginal"] = figures.heat_map(table, inside, label, -1000.0, 2)
    return drawn


def _page(
    name: str,
    data: ReportData,
    built: Tables,
    drawn: Mapping[str, bytes | None],
    lines: answer.Lines,
    explored: Mapping[str, Any] | None,
) -> str:
    """The page's text; `built` are the tables that the CSV files hold."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = counted
    found, chosen, validation = data.found, data.chosen, data.validation
    path = "tables/mixtures.csv"
    return environment.get_template("report.html.j2").render(
        name=name,
        data=data,
        built=built,
        answer=lines,
        figures={
            key: "data:image/png;base64," + base64.b64encode(png).decode()
            for key, png in drawn.items()
            if png is not None
        },
        mixtures=found and tables.shown_mixtures(found, _MOST_MIXTURES, path),
        search=answer.search_sentences(found) if found else [],
        chosen=chosen and agreement.shown_chosen(chosen, found),
        outcomes=answer.outcomes(chosen, found, validation) if chosen else [],
        verdict=trust.verdict(data.diagnostics, validation),
        trust=trust.trust_lines(data),
        study=_study(validation),
        given=_study(data.given),
        setup=tables.setup(data),
        dropped=tables.dropped(data),
        explorer=explored,
    )


def _study(validation: Validation | None) -> dict[str, list[Table]]:
    """Tables of a comparison with reference runs, in parts for the page."""
    if validation is None:
        return {}
    groups, within = agreement.by_group(validation), agreement.within(validation)
    return {
        "claims": agreement.claims_by_kind(validation),
        "within": [within] if within.rows else [],
        "points": [points for _, points in groups if points],
        "agreement": [table for table, _ in groups],
    }


def _summary(
    name: str, data: ReportData, built: Tables, lines: answer.Lines
) -> dict[str, Any]:
    """Everything in the report, as strict JSON holds it."""
    base, standard = data.base, data.standard
    tabled = {key: built[key] for key in ("members", "domains", "cost")}
    record = {
        "format": VERSION,
        "jaxsim": __version__,
        "name": name,
        "answer": [f"{word}: {text}" for word, text in lines],
        "not_done": data.missing,
        "overrides": data.overrides,
        "out_of_date": data.stale,
        "digests": {
            "base": base.params_digest if base else None,
            "tokenizer": base.tokenizer_digest if base else None,
            "evaluation": standard.basis.text if standard else None,
            "entries": {n: m.params_digest for n, m in data.entries.items()},
            "files": data.sources,
        },
        "provenance": base.provenance if base else None,
        "model": base.model if base else None,
        "recipe": data.pool.identity["recipe"] if data.pool else None,
        "corpus": data.corpus.record.summary if data.corpus else None,
        **{key: table.rows if table else [] for key, table in tabled.items()},
        "bits_per_byte": data.bits,
        "search": data.found,
        "verdict": trust.verdict(data.diagnostics, data.validation),
        "diagnostics": data.diagnostics,
        "validation": data.validation,
        "given": data.given,
        "chosen": data.chosen,
    }
    return dict(plain(record))
