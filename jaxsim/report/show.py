"""What the commands print when they are done."""

import dataclasses

from jaxsim.log import counted, detail, say, show_table
from jaxsim.report import agreement, answer, tables, trust
from jaxsim.report.table import Table, marks, short
from jaxsim.scoring.predicted import Predicted
from jaxsim.search.result import SearchResult
from jaxsim.validation.diagnostics import Diagnostics
from jaxsim.validation.measured import TrainedChoice
from jaxsim.validation.validate import Validation

_LONGEST = 40  # name in the first column
_MOST_ROWS = 8
_EXTREMES = 3  # members shown at either end
_FOLDER = "report/tables/"


def show(table: Table, always: bool = False) -> None:
    """Prints a table of details, or one that is `always` shown."""
    columns = [c for c in table.visible if c.on_console]
    first = columns[0]
    show_table(
        table.title,
        [column.heading for column in columns],
        [
            [short(first.show(row[first.key]), _LONGEST)]
            + [column.show(row[column.key]) for column in columns[1:]]
            for row in table.rows
        ],
        note=table.note,
        always=always,
    )


def show_predicted(predicted: Predicted) -> None:
    """Prints how good the closed forms of a predicted table are, and its best."""
    show(tables.misfits(predicted))
    for form, known in predicted.misfits.items():
        refused = {on: f"{on} ({x.refusal})" for on, x in known.items() if x.refusal}
        left_out = [refused.pop(domain) for domain in predicted.left_out[form]]
        if left_out:
            say(f"LEFT OUT: {form} on {'; '.join(left_out)}")
        if refused:
            say(f"NOT TO BE AVERAGED: {form} over {'; '.join(refused.values())}")
    if predicted.best is not None:
        show(tables.scores(predicted.best, predicted.count))


def show_diagnostics(diagnostics: Diagnostics) -> None:
    """Prints what the diagnostics say of a pool, the verdict first."""
    detail(f"Diagnostics of the pool, before reference runs: {diagnostics.verdict}")
    for reason in diagnostics.reasons:
        detail(f"  {reason}")
    for word, text in trust.diagnostics(diagnostics):
        detail(f"  {word}: {text}")


def show_search(found: SearchResult) -> None:
    """Prints what ties, and how it was found; the answer is printed after it."""
    show(tables.shown_mixtures(found, _MOST_ROWS, f"{_FOLDER}mixtures.csv"))
    for text in (answer.shift_sentence(found), answer.on_test_text(found)):
        if text:
            detail(text)
    for name, build in (("objective", tables.objective), ("binding", tables.binding)):
        table = build(found)
        if table.rows:
            most = range(len(table.rows))[:_MOST_ROWS]
            show(table.take(most, f"{_FOLDER}{name}.csv"))
    for text in answer.search_sentences(found):
        detail(text)
    values = tables.marginal(found)
    if count := len(values.rows):
        ends = {*range(count)[:_EXTREMES], *range(count)[-_EXTREMES:]}
        show(values.take(sorted(ends), f"{_FOLDER}marginal.csv"))


def show_agreement(validation: Validation) -> None:
    """Prints how well predictors and baselines agree with reference runs."""
    source = "run of yours" if validation.given else "held-out run"
    plural = "runs of yours" if validation.given else ""
    runs = counted(len(validation.reference_runs), source, plural)
    for table, points in agreement.by_group(validation):
        title = f"agreement with {runs}: {table.title}"
        show(dataclasses.replace(table, title=title))
        if points:
            title = f"points: {table.title}, {validation.unit}"
            show(dataclasses.replace(points, title=title))
    detail(f"Noise: {trust.noise_sentence(validation)}")
    for part in agreement.claims_by_kind(validation):
        show(part)
    if (within := agreement.within(validation)).rows:
        show(within)
    if text := marks(validation.notes):
        detail(text)


def show_chosen(
    chosen: TrainedChoice, found: SearchResult | None, validation: Validation | None
) -> None:
    """Prints trained and predicted losses of the chosen mixtures."""
    show(agreement.shown_chosen(chosen, found))
    for text in answer.outcomes(chosen, found, validation):
        detail(text)
