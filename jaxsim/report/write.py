"""Writes WORKDIR/report from what is on disk; trains and scores nothing.

    index.html     one self-contained file
    figures/       the same figures, PNG
    tables/        the same tables, CSV; proposed.csv is read by --mixtures
    summary.json   everything, for programs

Nothing in the page is loaded from anywhere, and nothing but its own script is
executed: a content security policy names its hash. Every name and text is escaped
by the template engine. Called again with nothing changed it writes the same bytes.
"""

import base64
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim import __version__
from jaxsim.config import Config
from jaxsim.errors import with_workdir
from jaxsim.log import counted
from jaxsim.records import VERSION, plain, write
from jaxsim.report import agreement, answer, figures, tables, trust
from jaxsim.report.data import ReportData
from jaxsim.report.explorer import explorer
from jaxsim.report.headline import Headline, headline
from jaxsim.report.table import Table, csv_lines, csv_text, target
from jaxsim.search.result import SearchResult
from jaxsim.validation.measured import CALIBRATED
from jaxsim.validation.validate import Validation

_MOST_MIXTURES = 6
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
    said = headline(data, place)
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
    for key, one in drawn.items():
        files[f"figures/{key}.png"] = one.png if one else None
    summary = _summary(config.name, data, built, said)
    files["summary.json"] = f"{json.dumps(summary, indent=1, allow_nan=False)}\n"
    files["index.html"] = _page(config.name, data, built, drawn, said, place)
    folder = workdir / "report"
    for name in ("summary.json", "index.html"):  # a kill leaves no mix of old and new
        if not _holds(folder / name, files[name]):
            (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        if content is None:
            if (folder / name).exists():  # an earlier report had it
                (folder / name).unlink()
        else:
            write(folder / name, content)
    return folder / "index.html"


def _holds(path: Path, content: str | bytes | None) -> bool:
    wanted = content.encode() if isinstance(content, str) else content
    return path.is_file() and path.read_bytes() == wanted


def _proposed(found: SearchResult, members: Sequence[str]) -> str:
    """The tied and the standard mixtures, as `--mixtures` and `--runs` read."""
    rows = [
        [row["name"], *(row["weights"].get(name, 0.0) for name in members)]
        for row in found.rows
    ]
    return csv_lines([["name", *members], *rows])


def _draw(data: ReportData, built: Tables) -> dict[str, figures.Drawn | None]:
    """Every figure by its name; None for one without data."""
    draw, found = figures.draw, data.found
    drawn: dict[str, figures.Drawn | None] = dict.fromkeys(
        ("shares", "effects", "predicted", "tradeoff", "ties", "marginal", "heat_map",
         "paths", "scatter", "curves")
    )  # fmt: skip

    def heat_map(table: Table, inside: list[bool], *style: Any) -> figures.Drawn:
        """The page has a table in its place."""
        width, height = figures.heat_map_size(table, len(inside))
        return draw(
            lambda a: figures.heat_map(a, table, inside, *style), width, height, False
        )

    if found is not None and (sources := built["sources"]):
        height = figures.bars_height(len(sources.rows))
        drawn["shares"] = draw(lambda a: figures.shares(a, sources), 5.6, height)
        drawn["effects"] = draw(lambda a: figures.effects(a, sources), 5.6, height)
        shown = tables.shown_mixtures(found, _MOST_MIXTURES)
        drawn["ties"] = draw(
            lambda a: figures.ties(a, shown, found.ties["level"]),
            8.0, 0.9 + 0.25 * len(shown.rows),
        )  # fmt: skip
    if validation := data.validation:
        drawn["scatter"] = figures.scatter(validation)
        if (
            found is not None
            and found.basis.same_pool(validation.basis)
            and set(found.target) <= set(validation.points["reference"])
            and validation.unit != "unknown"
        ):
            drawn["predicted"] = draw(
                lambda a: figures.predicted(a, *_on_target(data, validation)), 5.6, 4.2
            )
    if tradeoff := built["tradeoff"]:
        drawn["tradeoff"] = draw(lambda a: figures.tradeoff(a, tradeoff), 5.6, 4.2)
    if table := built["gains"]:
        inside = list(data.in_pool.values())
        drawn["heat_map"] = heat_map(table, inside, "gain (%)", 100.0, 1)
    if found is not None and (table := built["marginal"]):
        inside = [data.in_pool.get(n, True) for n in found.marginal["domains"]]
        label = "gain (0.001 bits per byte)"
        drawn["marginal"] = heat_map(table, inside, label, 1000.0, 2)
    if (diagnostics := data.diagnostics) is not None:
        drawn["paths"] = draw(lambda a: figures.paths(a, diagnostics), 6.4, 3.3)
    if data.curves:
        drawn["curves"] = draw(lambda a: figures.curves(a, data.curves), 6.4, 3.3)
    return drawn


def _on_target(
    data: ReportData, validation: Validation
) -> tuple[np.ndarray, np.ndarray, float, float | None, list[float]]:
    """What `figures.predicted` shows, on the search's target and test text."""
    found = data.found
    assert found is not None
    which = CALIBRATED if CALIBRATED in validation.points else "merge"
    predicted_M, trained_M = (
        answer.on_target(validation.points[name], found.target)
        for name in (which, "reference")
    )
    (noise,) = answer.on_target(
        {n: [validation.noise.get(n, 0.0)] for n in found.target}, found.target
    )
    best, outcomes = None, list[float]()
    if found.objective == "mean" and found.best["test"] is not None:
        best = found.predicted(found.best, "test")
        if (
            (chosen := data.chosen)
            and found.basis.same_pool(chosen.basis)
            and set(found.target) <= set(chosen.targets)
        ):
            runs = answer.runs_on(chosen, found.target)
            is_best = functools.partial(answer.same_mixture, found.best["weights"])
            outcomes = [run.trained for run in runs if is_best(run.mixture)]
    return predicted_M, trained_M, float(noise), best, outcomes


def _page(
    name: str,
    data: ReportData,
    built: Tables,
    drawn: Mapping[str, figures.Drawn | None],
    said: Headline,
    place: Path,
) -> str:
    """The page's text; `built` are the tables that the CSV files hold."""
    import jinja2

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = counted
    found, chosen, validation = data.found, data.chosen, data.validation
    scripts = (folder / "report.js", folder / "explorer.js")
    script = "".join(file.read_text(encoding="utf-8") for file in scripts)
    path = "tables/mixtures.csv"
    return environment.get_template("report.html.j2").render(
        name=name,
        data=data,
        built=built,
        said=said,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        figures={key: one.svg for key, one in drawn.items() if one},
        target=found and target(found.named, found.objective),
        documents=data.corpus and tables.documents(data.corpus),
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
        explorer=data.closed and explorer(data.closed, place),
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
    name: str, data: ReportData, built: Tables, said: Headline
) -> dict[str, Any]:
    """Everything in the report, as strict JSON holds it."""
    base, standard = data.base, data.standard
    tabled = {key: built[key] for key in ("members", "domains", "cost")}
    record = {
        "format": VERSION,
        "jaxsim": __version__,
        "name": name,
        "answer": said,
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
