"""How chosen mixtures came out: what is usual, and beside what."""

import dataclasses

import numpy as np
import pytest

from jaxsim.records import Basis
from jaxsim.report import agreement, outcome

from .workdirs import (
    MEMBERS,
    OUTSIDE,
    chosen_of,
    found_of,
    on_basis_of,
    validation_of,
)


@pytest.fixture
def found():
    return found_of(trained=True)


@pytest.fixture
def validation(workdir, found):
    return on_basis_of(found, validation_of(workdir, 12))


def said(chosen, found, validation):
    return " ".join(outcome.sentences(chosen, found, validation))


def test_the_range_is_that_of_one_more_reference_run():
    """Of reference runs drawn from one sampling distribution it holds the next at its
    level.
    """
    gap_DM = np.random.default_rng(0).normal(0.05, 0.01, (50_000, 4))
    offset_D = gap_DM[:, :3].mean(axis=1)
    deviation_D = gap_DM[:, :3].std(axis=1, ddof=1)
    reach_D = deviation_D * outcome.Usual(0.0, 1.0, 3).reach
    inside_D = np.abs(gap_DM[:, 3] - offset_D) <= reach_D
    assert abs(inside_D.mean() - outcome.RANGE) < 0.01


@pytest.mark.parametrize(
    ("away", "word"),
    [(0.0, "within"), (1.5, "worse than"), (-1.5, "better than")],
)
def test_whether_the_reference_run_is_usual(found, validation, away, word):
    known = outcome.usual(validation, found.target)
    gap = known.offset + away * known.reach
    text = said(chosen_of(found, 2.1 + gap), found, validation)
    assert f"{word} the 90% range of single runs, by 12 held-out runs" in text


@pytest.mark.parametrize("why", ["none", "two", "text", "pool"])
def test_without_reference_runs_of_this_pool_nothing_is_usual(
    workdir, found, validation, why
):
    if why == "none":
        validation = None
    elif why == "two":
        validation = on_basis_of(found, validation_of(workdir, 2))
    elif why == "text":
        validation = dataclasses.replace(validation, basis=Basis("other"))
    else:
        validation = dataclasses.replace(validation, basis=Basis("text", base="other"))
    text = said(chosen_of(found), found, validation)
    assert "too few held-out runs to say" in text
    assert "range of single runs" not in text


def test_a_trained_rival_is_compared_as_trained(found, validation):
    chosen = chosen_of(found, trained=2.18)
    text = said(chosen, found, validation)
    assert "Against uniform, trained as reference-even (2.2200)" in text
    assert "the best is 0.0400 better, training noise" in text


def test_a_single_member_is_a_trained_model(found):
    row = found.rows[1]
    row["weights"] = {MEMBERS[2]: 1.0}
    text = said(chosen_of(found), found, None)
    assert f"the member {MEMBERS[2]} alone, as long as a member is" in text
    assert f"({row['test']:.4f})" in text


def test_the_worst_case_is_not_compared_with_a_mean(found, validation):
    """Values of rows are then on another scale than means of reference runs."""
    found = dataclasses.replace(found, objective="worst")
    chosen = alone(chosen_of(found))
    assert "Against" not in said(chosen, found, validation)
    both = said(chosen_of(found), found, validation)
    assert "Against uniform, trained as" in both


def test_rivals_of_another_search_are_not_compared(found, validation):
    other = dataclasses.replace(found, basis=Basis("other"))
    text = said(chosen_of(found), other, validation)
    assert "Against" not in text and "trained it has" in text


def test_every_target_is_there_and_every_group_is_shown_once(found):
    chosen = chosen_of(found)
    table = agreement.chosen(chosen, found)
    shown = agreement.shown_chosen(table, chosen)
    assert [row["target"] for row in shown.rows] == (
        [OUTSIDE] * 2 + ["macro in-pool"] * 2
    )
    assert {row["target"] for row in table.rows} == set(chosen.targets)
    for row in table.rows:
        i = chosen.labels.index(row["mixture"])
        points = {n: p[row["target"]][i] for n, p in chosen.points.items()}
        assert row["reference_bits_per_byte"] == pytest.approx(points["reference"])
        assert row["merge"] == pytest.approx(points["merge"])
    aim = dataclasses.replace(found, target={MEMBERS[0]: 1.0, OUTSIDE: 3.0})
    first = agreement.chosen(chosen, aim).rows[0]
    expected = 0.25 * 2.28 + 0.75 * 2.18
    assert first["reference_bits_per_byte"] == pytest.approx(expected)


def test_without_a_search_the_target_is_what_is_outside(found):
    assert outcome.aim_of(chosen_of(found), None) == {OUTSIDE: 1.0}
    inside = dataclasses.replace(
        chosen_of(found), targets=list(MEMBERS), kinds=["in-pool"] * 3
    )
    assert outcome.aim_of(inside, None) == dict.fromkeys(MEMBERS, 1.0)


def alone(chosen):
    """Only the first mixture."""
    return dataclasses.replace(
        chosen,
        labels=chosen.labels[:1],
        reference_runs=chosen.reference_runs[:1],
        mixtures=chosen.mixtures[:1],
        points={
            name: {target: values[:1] for target, values in points.items()}
            for name, points in chosen.points.items()
        },
    )


def test_a_rival_of_other_windows_is_taken_over_by_its_merge(found, validation):
    """Reference runs may be scored on part of the text that chosen mixtures are."""
    validation = dataclasses.replace(
        validation,
        members=list(MEMBERS),
        mixtures=[[1 / 3] * 3, *validation.mixtures[1:]],
    )
    added = (
        validation.points["reference"][OUTSIDE][0]
        - validation.points["merge"][OUTSIDE][0]
    )
    text = said(alone(chosen_of(found, trained=2.18)), found, validation)
    expected = found.rows[-1]["test"] + added
    assert f"trained as {validation.reference_runs[0]} ({expected:.4f})" in text


def test_what_the_search_predicted_stands_beside_the_merge(found, validation):
    for row in found.rows:
        row["shift"] = 0.02
    calibrated = dataclasses.replace(found, calibrated=True)
    expected = found.rows[0]["test"] + 0.02
    text = said(chosen_of(found), calibrated, validation)
    assert f"the search predicted {expected:.4f} for it" in text
    assert "the search predicted" not in said(chosen_of(found), found, validation)
