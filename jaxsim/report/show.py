"""What the commands print when they are done."""

from jaxsim.log import say
from jaxsim.pool import Pool
from jaxsim.report import agreement, answer, outcome, tables, trust
from jaxsim.report.data import standard_of
from jaxsim.report.format import marks, weights
from jaxsim.report.table import show
from jaxsim.report.targets import targets_of
from jaxsim.scoring.scores import Scores, as_arrow
from jaxsim.search.result import SearchResult
from jaxsim.validation.agreement import ENOUGH_RUNS
from jaxsim.validation.chosen import TrainedChoice
from jaxsim.validation.diagnostics import Diagnostics
from jaxsim.validation.validate import Validation

_MOST_ROWS = 8
_EXTREMES = 3  # members shown at either end
_FOLDER = "report/tables/"


def show_pool(pool: Pool) -> None:
    """Prints what each member was trained on, and what it took."""
    show(tables.members(pool.manifests("member")))


def show_members(scores: Scores) -> None:
    """Prints the references, and the best member for each in-pool domain."""
    standard = standard_of(
        as_arrow(scores), scores.table.members, scores.basis, scores.notes
    )
    show(tables.reference_bits(standard))
    best = tables.best_members(standard, trust.own_best_sentence(standard, "dev"))
    if best.rows:
        show(best)


def show_scores(scores: Scores) -> None:
    """Prints the best rows of a table by the merge, and the plain merges."""
    show(tables.scores(scores))


def show_diagnostics(diagnostics: Diagnostics) -> None:
    """Prints what the diagnostics say of a pool, the verdict first."""
    say(f"averages of this pool: {diagnostics.verdict}")
    for reason in diagnostics.reasons:
        say(f"  {reason}")
    for word, text in trust.diagnostics(diagnostics):
        say(f"  {word}: {text}")


def show_search(found: SearchResult) -> None:
    """Prints the best mixture, what ties with it, and how it was found.

    The command that trains it is in the closing lines, which follow.
    """
    if text := answer.nothing_beats(found):
        say(text)
    table = tables.mixtures(found)
    show(table.take(tables.shown_mixtures(found, _MOST_ROWS), f"{_FOLDER}mixtures.csv"))
    say(f"The best: {weights(found.best['weights'], 12)}")
    if found.constraints:
        say(f"Under: {'; '.join(found.constraints)}")
    if text := answer.shift_sentence(found):
        say(text)
    say(answer.report_check(found))
    for text in found.warnings:
        say(f"WARNING: {text}")
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
        rows = [i for i in range(count)
                if i < _EXTREMES or i >= count - _EXTREMES]  # fmt: skip
        show(values.take(rows, f"{_FOLDER}marginal.csv"))


def show_agreement(validation: Validation) -> None:
    """Prints how well predictors and baselines agree with reference runs."""
    runs = len(validation.reference_runs)
    source = "of yours" if validation.given else "trained here"
    table = agreement.agreement(validation)
    groups = targets_of(validation).groups()
    for title in groups:
        part = table.where("on", title, f"agreement with {runs} runs {source}: {title}")
        # With pairs by membership there is no room; the page has both.
        has_pairs = any(c.key == "pairs_in" for c in part.visible)
        show(part, skip=("corrected",) if has_pairs else ())
    if runs < ENOUGH_RUNS:
        for title, names in groups.items():
            if len(names) == 1:
                show(
                    agreement.points(validation).where(
                        "target", names[0],
                        f"the points: {title}, {validation.unit}",
                    )
                )  # fmt: skip
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
    """Prints what training the chosen mixtures gave, and what was predicted."""
    show(agreement.shown_chosen(agreement.chosen(chosen, found), chosen))
    for text in outcome.sentences(chosen, found, validation):
        say(text)
