"""The page: facts in, one self-contained HTML file out.

Nothing in it is loaded from anywhere, and nothing is executed: figures are
data URLs, there is no script, and a content security policy says so. Every
name and text is escaped by the template engine.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsim.report import effort, outcome, wording
from jaxsim.report.agreement import LABELS
from jaxsim.report.answer import shown_rows
from jaxsim.report.collect import Facts
from jaxsim.report.cost import Cost, alternatives, cheaper_sentence, spent
from jaxsim.report.description import (
    dropped_lines,
    recipe_words,
    seed_words,
    tokenizer_words,
)
from jaxsim.report.page_study import study
from jaxsim.report.references import References, own_best_sentence
from jaxsim.report.trust import trust_lines
from jaxsim.report.verdict import verdict
from jaxsim.study.measured import PROXIES

_MOST_MIXTURES = 12


def render(
    name: str,
    facts: Facts,
    answer: str,
    closing: Sequence[str],
    figures: Mapping[str, bytes],
    records: Mapping[str, Sequence[dict[str, Any]]],
) -> str:
    """The page's text.

    Args:
      name: of the config.
      facts: what was collected.
      answer: the sentence on top.
      closing: the last lines.
      figures: PNG by name.
      records: the tables, by name.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        name=name,
        facts=facts,
        answer=answer,
        closing=[line.partition(": ")[::2] for line in closing],
        figures={key: _data_url(png) for key, png in figures.items()},
        records=records,
        trust=trust_lines(facts),
        words=[
            text
            for text in (
                seed_words(facts),
                recipe_words(facts),
                tokenizer_words(facts),
            )
            if text
        ],
        dropped=dropped_lines(facts),
        verdict=verdict(facts.gauge, facts.validation),
        study=study(facts.validation),
        yours=study(facts.given),
        mixtures=_mixtures(facts),
        search=_search(facts),
        percent=_percent(facts),
        chosen=_chosen(facts),
        own_best=own_best_sentence(facts.references, "report"),
        heat_rows=_heat_rows(facts.references),
        documents=_documents(facts),
        cost=[_cost(line) for line in spent(facts) + alternatives(facts)],
        cheaper=cheaper_sentence(facts),
        w=wording,
    )


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _mixtures(facts: Facts) -> list[dict[str, Any]]:
    if facts.found is None:
        return []
    return shown_rows(facts.found, _MOST_MIXTURES)


def _search(facts: Facts) -> dict[str, Any]:
    """What there is to say about how the best mixture was found."""
    found = facts.found
    if found is None:
        return {}
    return {
        "others": [
            (key, LABELS[key])
            for key in ("probability", "members")
            if key in found.best
        ],
        "binding": [
            (effort.constraint_words(row), effort.relaxing_words(row))
            for row in found.binding
        ],
        "sentences": [
            text
            for text in (
                effort.repetition_sentence(found),
                effort.certificate_sentence(found),
                effort.effort_sentence(found),
                effort.race_sentence(found),
            )
            if text
        ],
    }


def _percent(facts: Facts) -> dict[str, Any] | None:
    """What one percent more of each member changes, as text."""
    if facts.found is None:
        return None
    percent = effort.next_percent(facts.found)
    if percent is None:
        return None
    return {
        "how": effort.next_percent_words(facts.found),
        "unit": effort.THOUSANDTHS,
        "domains": percent.domains,
        "rows": [
            (
                percent.members[c],
                [
                    effort.thousandths(bits)
                    for bits in (percent.aim_C[c], *percent.bits_CD[c])
                ],
            )
            for c in percent.extremes(len(percent.members))
            if c is not None
        ],
    }


def _chosen(facts: Facts) -> dict[str, Any] | None:
    """Ratios that were trained by choice, beside what was predicted."""
    if facts.chosen is None:
        return None
    return {
        "rows": [
            [
                one.label,
                on,
                wording.number(one.trained, 4),
                *(wording.number(one.predicted[p], 4) for p in PROXIES),
                wording.signed(one.trained - one.predicted["merge"]),
            ]
            for on, these in outcome.comparisons(facts.chosen, facts.found)
            for one in these
        ],
        "sentences": outcome.sentences(
            facts.chosen, facts.found, facts.validation
        ),
    }


def _heat_rows(references: References | None) -> list[tuple[str, list[float]]]:
    if references is None:
        return []
    gain_CD = references.gains("report").tolist()
    return list(zip(references.members, gain_CD, strict=True))


def _documents(facts: Facts) -> list[dict[str, Any]]:
    """Documents of every partition, by half; other domains have two."""
    if facts.corpus is None:
        return []
    halves = ("seed", "train", "select", "report")
    counts = facts.corpus.record["summary"]["documents"]
    rows = [
        {
            "name": name,
            "in_pool": domain.in_pool,
            "cells": [
                counts[name][half]
                if name in counts
                else domain.documents.get(half)
                for half in halves
            ],
            "windows": [domain.windows[h] for h in ("select", "report")],
        }
        for name, domain in facts.corpus.domains.items()
    ]
    return sorted(rows, key=lambda row: not row["in_pool"])


def _cost(line: Cost) -> dict[str, str]:
    return {
        "what": line.what,
        "runs": f"{line.runs:,}",
        "tokens": f"{line.tokens:,}",
        "flops": wording.flops(line.flops),
        "time": wording.duration(line.seconds),
        "kind": line.kind,
        "basis": line.basis,
    }
