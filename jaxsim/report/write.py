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
from jaxsim.pool import open_pool
from jaxsim.records import VERSION, plain, write
from jaxsim.report import agreement, answer, figures, tables, trust
from jaxsim.report.data import (
    KINDS,
    ReportData,
    StandardScores,
    collect,
    token_multiplier,
)
from jaxsim.report.table import Table, csv_lines, csv_text
from jaxsim.search.result import SearchResult, load_search
from jaxsim.validation.agreement import ENOUGH_RUNS
from jaxsim.validation.chosen import load_chosen
from jaxsim.validation.diagnostics import load_diagnostics
from jaxsim.validation.measured import targets_of
from jaxsim.validation.validate import Validation, load_validation

SUMMARY = "summary.json"
PROPOSED = "proposed"
FIGURES = ("heat_map", "scatter", "mixtures", "marginal", "paths")
_MOST_MIXTURES = 12


def write_report(config: Config, workdir: Path) -> Path:
    """Writes the report, and returns its index.html.

    Raises:
      DamagedError: something on disk is not what it should be.
    """
    workdir = Path(workdir)
    data = collect(workdir)
    built = tables.build(data)
    # A report travels: it does not name a place on this machine.
    place = "DIR" if workdir.is_absolute() else workdir.as_posix()
    found = answer.answer(
        data.found, data.validation, place, data.token_multiplier, data.chosen
    )
    verdict = trust.verdict(data.diagnostics, data.validation)
    found.insert(-1, ("Verdict", f"{verdict.word}. {verdict.meaning}"))
    drawn = _draw(data, built)
    # Under an override every row says so: a table travels alone.
    mark = {"override": "; ".join(data.overrides)} if data.overrides else {}
    files = {
        f"tables/{name}.csv": csv_text(table, mark).encode()
        for name, table in built.items()
    }
    if data.found is not None:
        members = data.validation.members if data.validation else None
        columns = members or list(data.of_kind("member"))
        files[f"tables/{PROPOSED}.csv"] = _proposed(data.found, columns)
    files |= {f"figures/{name}.png": png for name, png in drawn.items()}
    summary = _summary(config.name, data, built, found, verdict)
    files[SUMMARY] = f"{json.dumps(summary, indent=1, allow_nan=False)}\n".encode()
    page = _page(config.name, data, built, found, drawn, verdict)
    folder = workdir / "report"
    # What an earlier report said about parts that are gone.
    names = [f"tables/{name}.csv" for name in (*tables.NAMES, PROPOSED)]
    for name in [*names, *(f"figures/{name}.png" for name in FIGURES)]:
        if name not in files:
            (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        write(folder / name, content)
    write(folder / "index.html", page)
    return folder / "index.html"


def last_lines(workdir: Path) -> list[str]:
    """The answer, for the console."""
    workdir = Path(workdir)
    has_found = (workdir / "search" / "result.json").is_file()
    has_pool = (workdir / "pool" / "pool.json").is_file()
    entries = open_pool(workdir).manifests(*KINDS) if has_pool else {}
    lines = answer.answer(
        load_search(workdir) if has_found else None,
        load_validation(workdir),
        workdir.as_posix(),
        token_multiplier(entries),
        load_chosen(workdir),
    )
    verdict = trust.verdict(load_diagnostics(workdir), load_validation(workdir))
    lines.insert(-1, ("Verdict", f"{verdict.word}. {verdict.meaning}"))
    return [f"{word}: {text}" for word, text in lines]


def _proposed(found: SearchResult, members: Sequence[str]) -> bytes:
    """The tied and the standard mixtures, as `--mixtures` and `--runs` read."""
    rows = [
        [row["name"], *(row["weights"].get(name, 0.0) for name in members)]
        for row in found.rows
    ]
    return csv_lines([["name", *members], *rows]).encode()


def _draw(data: ReportData, built: Mapping[str, Table]) -> dict[str, bytes]:
    drawn = {}
    if data.standard is not None and "gains" in built:
        drawn["heat_map"] = figures.heat_map(
            built["gains"], data.standard.in_pool, "gain (bits per byte)"
        )
    if data.diagnostics is not None:
        drawn["paths"] = figures.paths(data.diagnostics)
    if data.validation is not None:
        drawn["scatter"] = figures.scatter(data.validation)
    if data.found is not None:
        shown = tables.shown_mixtures(data.found, _MOST_MIXTURES)
        drawn["mixtures"] = figures.mixtures(
            built["mixtures"].take(shown), data.found.ties["level"]
        )
    if data.found is not None and "marginal" in built:
        drawn["marginal"] = figures.heat_map(
            built["marginal"],
            [data.in_pool.get(n, True) for n in data.found.marginal["domains"]],
            "gain (0.001 bits per byte)", -1000.0, 2,
        )  # fmt: skip
    return drawn


def _page(
    name: str,
    data: ReportData,
    built: Mapping[str, Table],
    found: answer.Lines,
    drawn: Mapping[str, bytes],
    verdict: trust.Verdict,
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
    more: dict[str, Any] = {"mixtures": None, "search": [], "chosen": None,
                            "outcomes": []}  # fmt: skip
    if data.found is not None:
        shown = tables.shown_mixtures(data.found, _MOST_MIXTURES)
        more["mixtures"] = built["mixtures"].take(shown, "tables/mixtures.csv")
        more["search"] = answer.search_sentences(data.found)
    if data.chosen is not None:
        more["chosen"] = agreement.shown_chosen(built["chosen"], data.chosen)
        more["outcomes"] = answer.outcomes(data.chosen, data.found, data.validation)
    return environment.get_template("report.html.j2").render(
        name=name,
        data=data,
        built={key: built.get(key) for key in tables.NAMES},
        answer=found,
        figures={
            key: "data:image/png;base64," + base64.b64encode(png).decode()
            for key, png in drawn.items()
        },
        verdict=verdict,
        trust=trust.trust_lines(data),
        study=_study(data.validation, built, ""),
        given=_study(data.given, built, "given_"),
        setup=tables.setup(data),
        dropped=tables.dropped(data),
        **more,
    )


def _study(
    validation: Validation | None, built: Mapping[str, Table], prefix: str
) -> dict[str, list[Table]]:
    """Tables of a comparison with reference runs, in parts for the page."""
    if validation is None:
        return {"claims": [], "points": [], "agreement": []}
    groups = targets_of(validation).groups()
    is_few = len(validation.reference_runs) < ENOUGH_RUNS
    lone = [names[0] for names in groups.values() if len(names) == 1 and is_few]
    claims = built.get(f"{prefix}claims")
    return {
        "claims": agreement.claims_by_kind(claims) if claims else [],
        "points": [built[f"{prefix}points"].where("target", name) for name in lone],
        "agreement": [
            built[f"{prefix}agreement"].where("on", title) for title in groups
        ],
    }


def _summary(
    name: str,
    data: ReportData,
    built: Mapping[str, Table],
    found: answer.Lines,
    verdict: trust.Verdict,
) -> dict[str, Any]:
    """Everything in the report, as strict JSON holds it."""
    base, standard = data.base, data.standard
    record = {
        "format": VERSION,
        "jaxsim": __version__,
        "name": name,
        "answer": [f"{word}: {text}" for word, text in found],
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
        **{
            key: built[key].rows if key in built else []
            for key in ("members", "domains", "cost")
        },
        "bits_per_byte": _bits(standard) if standard else {},
        "search": data.found,
        "verdict": verdict,
        "diagnostics": data.diagnostics,
        "validation": data.validation,
        "given": data.given,
        "chosen": data.chosen,
    }
    return dict(plain(record))


def _bits(standard: StandardScores) -> dict[str, Any]:
    """By split, standard mixture and domain."""
    return {
        split: {
            name: dict(zip(standard.domains, bits_D.tolist(), strict=True))
            for name, bits_D in zip(standard.names, bits_MD, strict=True)
        }
        for split, bits_MD in standard.bits.items()
    }
