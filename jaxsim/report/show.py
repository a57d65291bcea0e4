"""What the commands print when they are done."""

from jaxsim.log import say
from jaxsim.pool import Pool
from jaxsim.report import agreement, answer, tables, trust
from jaxsim.report.data import standard_of
from jaxsim.report.table import marks, show
from jaxsim.scoring.scores import Scores, as_arrow
from jaxsim.search.result import SearchResult
from jaxsim.validation.agreement import ENOUGH_RUNS
from jaxsim.validation.chosen import TrainedChoice
from jaxsim.validation.diagnostics import Diagnostics
from jaxsim.validation.measured import targets_of
from jaxsim.validation.validate import Validation

_MOST_ROWS = 8
_EXTREMES = 3  # members shown at either end
_FOLDER = "report/tables/"


def show_pool(pool: Pool) -> None:
    """Prints data and cost of each member."""
    show(tables.members(pool.manifests("member")))


def show_members(scores: Scores) -> None:
    """Prints the losses of the standard mixtures."""
    standard = standard_of(
        as_arrow(scores), scores.table.members, scores.basis, scores.notes
    )
    show(tables.standard_bits(standard))


def show_scores(scores: Scores) -> None:
    """Prints the best rows of a table by the merge, and the standard mixtures."""
    show(tables.scores(scores))


def show_diagnostics(diagnostics: Diagnostics) -> None:
    """Prints what the diagnostics say of a pool, the verdict first."""
    say(f"Diagnostics of the pool, before reference runs: {diagnostics.verdict}")
    for reason in diagnostics.reasons:
        say(f"  {reason}")
    for word, text in trust.diagnostics(diagnostics):
        say(f"  {word}: {text}")


def show_search(found: SearchResult) -> None:
    """Prints what ties, and how it was found; the answer is printed after it."""
    table = tables.mixtures(found)
    show(table.take(tables.shown_mixtures(found, _MOST_ROWS), f"{_FOLDER}mixtures.csv"))
    if found.constraints:
        say(f"Constraints: {'; '.join(found.constraints)}")
    for text in (answer.shift_sentence(found), answer.on_test_text(found)):
        if text:
            say(text)
    for name, other in (
        ("objective", tables.objective(found)),
        ("binding", tables.binding(found)),
    ):
        if other.rows:
            most = min(len(other.rows), _MOST_ROWS)
            show(other.take(range(most), f"{_FOLDER}{name}.csv"))
    for text in answer.search_sentences(found):
        say(text)
    values = tables.marginal(found)
    if count := len(values.rows):
        ends = {*range(count)[:_EXTREMES], *range(count)[-_EXTREMES:]}
        show(values.take(sorted(ends), f"{_FOLDER}marginal.csv"))


def show_agreement(validation: Validation) -> None:
    """Prints how well predictors and baselines agree with reference runs."""
    runs = len(validation.reference_runs)
    source = "your runs" if validation.given else "held-out runs"
    table, points = agreement.agreement(validation), agreement.points(validation)
    for title, names in targets_of(validation).groups().items():
        show(table.where("on", title, f"agreement with {runs} {source}: {title}"))
        if runs < ENOUGH_RUNS and len(names) == 1:
            heading = f"points: {title}, {validation.unit}"
            show(points.where("target", names[0], heading))
    say(f"Noise: {trust.noise_sentence(validation)}")
    for part in agreement.claims_by_kind(agreement.claims(validation)):
        show(part)
    for word, text in trust.unclaimed(validation):
        say(f"{word}: {text}")
    if text := marks(validation.notes):
        say(text)


def show_chosen(
    chosen: TrainedChoice, found: SearchResult | None, validation: Validation | None
) -> None:
    """Prints trained and predicted losses of the chosen mixtures."""
    show(agreement.shown_chosen(agreement.chosen(chosen, found), chosen))
    for text in answer.outcomes(chosen, found, validation):
        say(text)
