"""Writes WORKDIR/report from what is on disk; trains and scores nothing.

    index.html     one self-contained file
    figures/       the same figures, PNG
    tables/        Parquet and CSV; proposed.csv is read by --mixtures
    report.json    everything, for programs

Called again with nothing changed it writes the same bytes.
"""

import json
import os
from pathlib import Path

from jaxsim.config import Config
from jaxsim.report import figures
from jaxsim.report.answer import answer
from jaxsim.report.closing import closing_lines
from jaxsim.report.collect import Facts, collect, load_closing
from jaxsim.report.effort import next_percent
from jaxsim.report.page import render
from jaxsim.report.price import price
from jaxsim.report.scatter import scatter
from jaxsim.report.summary import summary
from jaxsim.report.tabular import (
    PROPOSED,
    TABLES,
    tables,
    write_proposed,
    write_tables,
)

FIGURES = ("heat_map", "scatter", "mixtures", "next_percent", "ways")


def write_report(config: Config, workdir: Path) -> Path:
    """Writes the report, and returns its index.html.

    Raises:
      DamagedError: something on disk is not what it should be.
    """
    workdir = Path(workdir)
    folder = workdir / "report"
    facts = collect(workdir)
    # A report travels: it does not name a place on this machine.
    place = "DIR" if workdir.is_absolute() else workdir.as_posix()
    sentence = answer(facts.found)
    closing = closing_lines(
        facts.found,
        facts.validation,
        place,
        facts.horizon,
        facts.chosen,
        price(facts.entries),
    )
    drawn = _draw(facts)
    records = tables(facts)
    written = write_tables(folder / "tables", records)
    if facts.found is not None:
        members = facts.validation.members if facts.validation else None
        columns = members or list(facts.of_kind("member"))
        written.append(write_proposed(folder / "tables", facts.found, columns))
    written += [
        _write(folder / "figures" / f"{name}.png", png)
        for name, png in drawn.items()
    ]
    content = summary(config.name, facts, sentence, closing, records)
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    _remove_others(folder, written)
    _write(folder / "report.json", text.encode())
    page = render(config.name, facts, sentence, closing, drawn, records)
    return _write(folder / "index.html", page.encode())


def last_lines(workdir: Path) -> list[str]:
    """What to train, what ties and what is open, for the console."""
    workdir = Path(workdir)
    return closing_lines(workdir=workdir.as_posix(), **load_closing(workdir))


def _draw(facts: Facts) -> dict[str, bytes]:
    drawn = {}
    if facts.references is not None:
        drawn["heat_map"] = figures.heat_map(facts.references)
    if facts.gauge is not None:
        drawn["ways"] = figures.ways(facts.gauge)
    if facts.validation is not None:
        drawn["scatter"] = scatter(facts.validation)
    if facts.found is not None:
        drawn["mixtures"] = figures.mixtures(facts.found)
        if (percent := next_percent(facts.found)) is not None:
            drawn["next_percent"] = figures.next_percent(percent, facts.in_pool)
    return drawn


def _write(path: Path, content: bytes) -> Path:
    """Replaces a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)
    return path


def _remove_others(folder: Path, written: list[Path]) -> None:
    """Deletes what an earlier report said about parts that are gone."""
    ours = [folder / "figures" / f"{name}.png" for name in FIGURES]
    ours += [
        folder / "tables" / f"{name}.{suffix}"
        for name in TABLES
        for suffix in ("parquet", "csv")
    ]
    ours.append(folder / "tables" / PROPOSED)
    for path in ours:
        if path not in written:
            path.unlink(missing_ok=True)
