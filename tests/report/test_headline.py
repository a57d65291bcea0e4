"""The headline: one test for each thing that it may have to say."""

import dataclasses
import shlex
from pathlib import Path

import numpy as np
import pytest

from jaxsim.report.data import ReportData
from jaxsim.report.headline import compared, headline, shares
from jaxsim.validation.measured import TrainedChoice

from .workdirs import (
    MEMBERS,
    OUTSIDE,
    add_diagnostics,
    against_of,
    current,
    found_of,
    validation_of,
)

BASE = 3.0  # of the base model on the target, in `told`


def told(workdir, runs=12, diagnostics="trust", change=None, chosen=None, **more):
    """The headline of a search on a workdir; `change` edits the search."""
    add_diagnostics(workdir, diagnostics)
    data = ReportData(workdir)
    found = dataclasses.replace(current(workdir, found_of(runs > 0)), warnings=[])
    if change is not None:
        found = change(found) or found
    data.found, data.stale = found, []
    if runs:
        known = validation_of(workdir, runs, **more)
        data.validation = dataclasses.replace(known, basis=found.basis)
    data.chosen = chosen and dataclasses.replace(chosen(found), basis=found.basis)
    return headline(data, Path("W"))


def trained(answer: list[float], proportional: list[float]):
    """Runs of the answer and of the proportional mixture, by their losses."""

    def chosen(found) -> TrainedChoice:
        best = [found.best["weights"].get(name, 0.0) for name in MEMBERS]
        count, others = len(answer), len(proportional)
        values = {name: [*answer, *proportional] for name in (*MEMBERS, OUTSIDE)}
        labels = [found.best["name"]] * count + ["proportional"] * others
        return TrainedChoice(
            labels=labels,
            reference_runs=[f"run-{i}" for i in range(count + others)],
            members=list(MEMBERS),
            mixtures=[best] * count + [[0.2, 0.3, 0.5]] * others,
            targets=[*MEMBERS, OUTSIDE],
            kinds=["in-pool"] * 3 + ["out-of-pool"],
            groups={name: name for name in (*MEMBERS, OUTSIDE)},
            points=dict.fromkeys(("reference", "merge", "ensemble", "members"), values),
            basis=found.basis,
            notes=[],
        )

    return chosen


def test_a_proposal_that_was_trained_and_won(workdir):
    said = told(workdir, chosen=trained([1.90, 1.91, 1.89], [2.0, 2.01, 1.99]))
    assert said.state == "won"
    assert said.answer.startswith(f"Train on 50% {MEMBERS[0]} and 50% {MEMBERS[1]}.")
    # Deviation 0.01, 4 degrees of freedom: 2.132 * 0.01 * sqrt(2 / 3) / 2 = 0.9 %.
    gave = f"Trained with 3 data seeds, it has 5.0% lower loss [4.1, 5.9] on {OUTSIDE}"
    assert f"{gave} than proportional, trained alike" in said.answer
    assert "(predicted: 2.0% lower loss)" in said.answer
    assert [label for label, _ in said.evidence][:2] == ["Trained", "Predicted"]
    assert said.why == "Export the mixture" and "jaxsim export" in said.command


def test_a_proposal_that_was_trained_and_lost(workdir):
    said = told(workdir, chosen=trained([2.10, 2.11, 2.09], [2.0, 2.01, 1.99]))
    assert said.state == "lost"
    assert said.answer.startswith("Do not train on 50%")
    assert "5.0% higher loss [4.1, 5.9]" in said.answer
    assert "predicted: 2.0% lower loss" in said.answer
    assert "jaxsim export" not in said.command


def test_a_proposal_that_was_trained_and_tied(workdir):
    said = told(workdir, chosen=trained([2.0, 2.02, 1.98], [2.01, 1.99, 2.02]))
    assert said.state == "tied"
    assert said.answer.startswith("No difference is shown between proportional and")
    assert "Train on" not in said.answer


def test_one_run_uses_the_noise_of_replicates(workdir):
    """Without any, it says that noise is not known, and asks for more data seeds."""
    chosen = trained([1.9], [2.0])
    said = told(workdir, chosen=chosen, replicates=3)
    assert said.state == "won" and "Trained once, it has 5.0% lower" in said.answer
    assert "--config.validate.seeds=3" in said.command
    said = told(workdir, chosen=chosen)
    assert said.state == "unclear" and said.answer.startswith("Train on")
    worse = told(workdir, chosen=trained([2.1], [2.0])).answer
    assert worse.startswith("No gain is shown by") and "5.0% higher loss" in worse
    assert "Training noise was not measured" in said.answer
    assert "--config.validate.seeds=3" in said.command


def test_a_proposal_that_was_not_trained(workdir):
    said = told(workdir)
    assert said.state == "not trained"
    assert said.answer == (
        f"Train on 50% {MEMBERS[0]} and 50% {MEMBERS[1]}: predicted 2.0% lower loss "
        f"[1.0, 3.0] on {OUTSIDE} than proportional. It was not trained."
    )
    assert "--mixtures=W/search/" in said.command
    assert [label for label, _ in said.evidence] == ["Predicted", "Ties"]


def test_a_prediction_that_may_be_nothing_proposes_nothing(workdir):
    def unsure(found):
        return dataclasses.replace(found, against=against_of(0.004, -0.003, 0.011))

    said = told(workdir, change=unsure)
    assert said.answer.startswith(f"Nothing is shown to beat proportional on {OUTSIDE}")
    assert "0.4% lower loss [-0.3, 1.1]" in said.answer


def test_a_prediction_that_is_worse_says_higher(workdir):
    """Constraints may leave nothing that is as good as proportional."""

    def worse(found):
        return dataclasses.replace(found, against=against_of(-0.02, -0.03, -0.01))

    said = told(workdir, change=worse)
    assert "2.0% higher loss [1.0, 3.0]" in said.answer
    assert said.answer.startswith("Nothing that the constraints allow is predicted")


def test_an_answer_that_is_proportional_asks_for_no_comparison_with_it(workdir):
    def same(found):
        return dataclasses.replace(found, against=against_of(0.0, None, None))

    said = told(workdir, change=same)
    assert said.answer.startswith("Nothing is predicted to beat all in proportion")
    assert "search/best.csv" not in said.command


@pytest.mark.parametrize(
    ("gain", "low", "high", "text"),
    [
        (0.02, 0.01, 0.03, "2.0% lower loss [1.0, 3.0] than b"),
        (-0.02, -0.03, -0.01, "2.0% higher loss [1.0, 3.0] than b"),
        (0.0004, -0.0001, 0.001, "the same loss [0.0, 0.1] as b"),
        (0.02, None, None, "2.0% lower loss than b"),
    ],
)
def test_intervals_count_in_the_direction_of_the_word(gain, low, high, text):
    assert compared(gain, low, high, "b") == text


def test_before_reference_runs_it_is_by_merges_alone(workdir):
    said = told(workdir, runs=0)
    assert "by merges alone, predicted 2.0% lower loss" in said.answer
    assert "--config.validate.held_out=12" in said.command


def test_evidence_that_weights_alone_give_comes_first(workdir):
    """Runs that a rule without any model ranks as well as merges do."""
    said = told(workdir, noise=1.0)
    text = next(t for t in said.first if "sees the weights alone" in t)
    assert text.startswith("The runs do not show that merges rank better than")
    assert not any("weights alone" in t for t in told(workdir, noise=1e-4).first)


def test_a_pool_that_cannot_be_trusted_gives_no_answer_to_act_on(workdir):
    said = told(workdir, diagnostics="do not trust")
    assert said.answer.startswith("None to act on")
    assert any("cannot be trusted" in text for text in said.first)
    assert said.trust.startswith("do not trust")
    # What was trained does not rest on predictions.
    chosen = trained([1.90, 1.91, 1.89], [2.0, 2.01, 1.99])
    assert told(workdir, diagnostics="do not trust", chosen=chosen).state == "won"


def test_a_target_that_no_source_improves_is_said_first(workdir):
    def harmful(found):
        for place, source in enumerate(found.sources.values()):
            source |= {"gain": -0.01 * (1 + place), "gain_low": -1.0, "gain_high": 1.0}

    said = told(workdir, change=harmful)
    assert said.first[0] == (
        f"No source alone improves {OUTSIDE} over the base model. The best, "
        f"{MEMBERS[0]}, has 1.0% higher loss."
    )
    assert not any("No source" in text for text in told(workdir).first)


def test_a_shortlist_that_is_cheaper_to_train_than_the_pool_is_said_first(workdir):
    """Two mixtures tie, and three members were trained."""
    said = told(workdir)
    assert said.first[0].startswith("Training the 2 mixtures of the shortlist costs")
    assert said.command.endswith("--mixtures=W/search/shortlist.csv")

    def many(found):
        rows = [dict(row) for row in found.rows * 20]
        for group, row in enumerate(rows):
            row |= {"tied": True, "group": group}
        return dataclasses.replace(found, rows=rows)

    said = told(workdir, change=many)
    assert not any("shortlist" in text for text in said.first)
    assert said.command.endswith("--mixtures=W/search/best.csv")


def test_limits_that_no_mixture_keeps_leave_no_answer(workdir):
    def over(found):
        domains = {OUTSIDE: {"best": 2.02, "base": 2.1, "limit": 2.0}}
        return dataclasses.replace(found, domains=domains)

    said = told(workdir, change=over)
    assert said.answer.startswith("None: no scored mixture keeps every limit")


def test_nothing_searched_names_the_command(workdir):
    said = headline(ReportData(workdir), Path("it's here"))
    assert said.state == "no search" and said.answer.startswith("None yet")
    assert "--workdir=it's here" in shlex.split(said.command)


def test_what_was_trained_on_other_text_or_another_pool_does_not_count(workdir):
    add_diagnostics(workdir)
    data = ReportData(workdir)
    data.found = dataclasses.replace(current(workdir, found_of(True)), warnings=[])
    chosen = trained([1.9], [2.0])(data.found)
    basis = dataclasses.replace(chosen.basis, text="another")
    data.chosen = dataclasses.replace(chosen, basis=basis)
    assert headline(data, Path("W")).state == "not trained"


def test_a_worst_case_is_the_least_gain_over_the_base_model(workdir):
    """Of the trained mixtures, too."""

    def worst(found):
        names = {MEMBERS[0]: 1.0, OUTSIDE: 1.0}
        return dataclasses.replace(found, objective="worst", named=names)

    data = ReportData(workdir)
    base = data.bits["test"]["base"]

    def chosen(found):
        known = trained([1.0, 1.0], [1.5, 1.5])(found)
        points = {
            MEMBERS[0]: [base[MEMBERS[0]] - 0.3] * 2 + [base[MEMBERS[0]] - 0.2] * 2,
            OUTSIDE: [base[OUTSIDE] - 0.1] * 2 + [base[OUTSIDE] - 0.25] * 2,
        }
        run = known.points["reference"] | points
        return dataclasses.replace(known, points={**known.points, "reference": run})

    said = told(workdir, change=worst, chosen=chosen)
    mean = (base[MEMBERS[0]] + base[OUTSIDE]) / 2
    share = 1 - (mean - 0.1) / (mean - 0.2)
    assert f"{-share:.1%} higher loss" in said.answer and said.state == "lost"


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"a": 1.0, "b": 0.0}, "a alone"),
        ({"a": 0.4, "b": 0.6}, "60% b and 40% a"),
        (
            dict(zip("abcdefg", np.array([6, 5, 4, 3, 2, 1, 1]) / 22, strict=True)),
            "27% a, 23% b, 18% c, 14% d and 18% 3 others",
        ),
    ],
)
def test_shares_are_per_cent_the_largest_first(parts, text):
    assert shares(parts) == text
