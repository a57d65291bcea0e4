"""Trained mixtures: whether the result is usual, and how rivals compare."""

import dataclasses

import numpy as np
import pytest

from jaxsim.report import agreement, answer

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
    return " ".join(answer.outcomes(chosen, found, validation))


def test_the_range_is_that_of_one_more_reference_run():
    """For runs from one distribution it holds the next one with its probability."""
    gap_DM = np.random.default_rng(0).normal(0.05, 0.01, (50_000, 4))
    offset_D = gap_DM[:, :3].mean(axis=1)
    deviation_D = gap_DM[:, :3].std(axis=1, ddof=1)
    reach_D = deviation_D * answer.Usual(0.0, 1.0, 3).reach
    inside_D = np.abs(gap_DM[:, 3] - offset_D) <= reach_D
    assert abs(inside_D.mean() - answer.RANGE) < 0.01


@pytest.mark.parametrize(
    ("away", "word"),
    [(0.0, "within"), (1.5, "worse than"), (-1.5, "better than")],
)
def test_whether_the_reference_run_is_usual(found, validation, away, word):
    known = answer.usual(validation, found.target)
    gap = known.offset + away * known.reach
    text = said(chosen_of(found, 2.1 + gap), found, validation)
    assert f"{word} the 90% range of one more run" in text
    assert "from 12 held-out runs)." in text


@pytest.mark.parametrize("why", ["none", "two", "text", "pool"])
def test_without_reference_runs_of_this_pool_nothing_is_usual(
    workdir, found, validation, why
):
    if why == "none":
        validation = None
    elif why == "two":
        validation = on_basis_of(found, validation_of(workdir, 2))
    elif why == "text":
        validation = dataclasses.replace(validation, evaluation="other")
    else:
        validation = dataclasses.replace(validation, digests={"base": "other"})
    text = said(chosen_of(found), found, validation)
    assert "too few held-out runs to say" in text
    assert "range of one more run" not in text


def test_a_trained_rival_is_compared_as_trained(found, validation):
    chosen = chosen_of(found, trained=2.18)
    text = said(chosen, found, validation)
    assert "the best is 0.0400 better than uniform, trained as reference-even" in text
    assert "(2.2200), training noise included." in text


def test_a_single_member_is_a_trained_model(found):
    row = found.rows[1]
    row["weights"] = {MEMBERS[2]: 1.0}
    text = said(chosen_of(found), found, None)
    assert f"than the member {MEMBERS[2]} ({row['test']:.4f})" in text


def test_the_worst_case_is_not_compared_with_a_mean(found, validation):
    """Values of rows are then on another scale than means of reference runs."""
    found = dataclasses.replace(found, objective="worst")
    chosen = alone(chosen_of(found))
    assert "training noise included" not in said(chosen, found, validation)
    both = said(chosen_of(found), found, validation)
    assert "than uniform, trained as" in both


def test_rivals_of_another_search_are_not_compared(found, validation):
    other = dataclasses.replace(found, evaluation="other")
    text = said(chosen_of(found), other, validation)
    assert "training noise included" not in text and "trained minus merge" in text


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


def test_without_a_search_the_target_is_out_of_pool(found):
    assert answer.aim_of(chosen_of(found), None) == {OUTSIDE: 1.0}
    inside = dataclasses.replace(
        chosen_of(found), targets=list(MEMBERS), kinds=["in-pool"] * 3
    )
    assert answer.aim_of(inside, None) == dict.fromkeys(MEMBERS, 1.0)


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
