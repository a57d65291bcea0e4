"""The answer: each sentence says only what is known."""

import dataclasses
import shlex

import numpy as np
import pytest

from jaxsim.records import Basis
from jaxsim.report import agreement
from jaxsim.report.answer import (
    aim_of,
    next_command,
    on_test_text,
    outcomes,
    same_mixture,
    search_sentences,
    shift_sentence,
    ties_sentence,
    usual,
)
from jaxsim.search.result import Ranking
from jaxsim.validation.calibration import LEVEL, reach_of

from .workdirs import MEMBERS, OUTSIDE, chosen_of, found_of, on_basis_of, validation_of

TRAIN = "jaxsim validate --workdir=W --mixtures=W/search/best.csv"


def calibrated(found, *shifts, singles_known=True):
    """A search whose merges were shifted by the calibration."""
    for row, shift in zip(found.rows, shifts, strict=True):
        row["shift"] = row["test_shift"] = shift
    return dataclasses.replace(found, calibrated=True, singles_known=singles_known)


def test_a_single_member_is_compared_as_its_own_reference_run():
    """Merges of several are corrected by what reference runs showed of them."""
    found = found_of(trained=True)
    found.rows[0]["test"] = 1.00
    alone = dict(found.rows[3], name="alone", weights={MEMBERS[0]: 1.0})
    alone |= {"kind": "member", "test": 1.02}
    found.rows[:] = [*found.rows[:3], alone]
    assert "has 1.0000 bits per byte" in on_test_text(found)
    assert "has 1.0200, 0.0200 more" in on_test_text(found)
    known = calibrated(found, 0.05, 0.05, 0.05, 0.0)
    assert "is predicted to have 1.0500" in on_test_text(known)
    assert "has 1.0200, 0.0300 less" in on_test_text(known)


def test_the_shift_of_the_rows_is_said():
    found = found_of(trained=True)
    assert shift_sentence(found) == ""
    found.rows[3]["weights"] = {MEMBERS[0]: 1.0}
    text = shift_sentence(calibrated(found, 0.01, 0.05, -0.002, 0.0))
    assert "shifts the merges by -0.0020 to +0.0500 bits per byte" in text
    assert "Single members are trained runs" in text
    same = shift_sentence(calibrated(found, 0.03, 0.03, 0.03, 0.0))
    assert "shifts the merges by +0.0300 bits per byte" in same
    nothing = shift_sentence(calibrated(found, 0.0, 0.0, 0.0, 0.0))
    assert "Calibration changed nothing" in nothing


def test_a_single_member_may_be_shifted_where_it_is_no_reference_run():
    found = found_of(trained=True)
    found.rows[3]["weights"] = {MEMBERS[0]: 1.0}
    other = calibrated(found, 0.01, 0.01, 0.01, 0.09, singles_known=False)
    text = shift_sentence(other)
    assert "shifts the merges by +0.0100 to +0.0900 bits per byte" in text
    assert "Single members" not in text


def test_a_choice_that_fails_on_test_text_says_so():
    found = found_of()
    assert "0.0300 more" in on_test_text(found)
    found.rows[-1]["test"] = 2.09
    assert "0.0100 less. The lead" in on_test_text(found)
    found.rows[0]["test"] = None
    assert "not compared" in on_test_text(found)


def test_how_far_the_quadratic_is_from_merges():
    """At random, and on what the search has chosen with it."""
    found = found_of()
    text = search_sentences(found)[0]
    assert "from 20 random merges by 0.00050 bits per byte, 2.5% of" in text
    assert "from 2 merges that tie with the best by 0.00100 (5.0%)" in text
    alone = dataclasses.replace(found.ranking, shown=None)
    text = search_sentences(dataclasses.replace(found, ranking=alone))[0]
    assert "20 random merges" in text and "tie" not in text
    other = Ranking("ensemble", "it is off by half", found.ranking.random, None)
    text = search_sentences(dataclasses.replace(found, ranking=other))[0]
    assert (
        text == "The ensemble ranked candidates, not the quadratic: it is off by half."
    )
    table = dataclasses.replace(found, ranking=None, evaluations=0)
    assert search_sentences(table) == []


def test_cost_is_that_of_the_file():
    found = dataclasses.replace(found_of(), evaluations=317.0, tokens=98_765)
    text = search_sentences(found)[1]
    assert "317 evaluations" in text and "98,765 tokens" in text
    assert "a gradient counts as three" in text
    assert "40 merges, with the best of 5,000 ranked mixtures" in text


def test_nothing_ranked_no_claim_about_it():
    found = dataclasses.replace(found_of(), looked_at=0)
    text = search_sentences(found)[1]
    assert "ranked" not in text and "It compared 40 merges." in text


# Trained mixtures.


@pytest.fixture
def found():
    return found_of(trained=True)


@pytest.fixture
def validation(workdir, found):
    return on_basis_of(found, validation_of(workdir, 12))


def said(chosen, found, validation):
    return " ".join(outcomes(chosen, found, validation))


def test_the_range_is_that_of_one_more_reference_run():
    """For runs from one distribution it holds the next one with its probability."""
    gap_DM = np.random.default_rng(0).normal(0.05, 0.01, (50_000, 4))
    offset_D = gap_DM[:, :3].mean(axis=1)
    deviation_D = gap_DM[:, :3].std(axis=1, ddof=1)
    reach_D = deviation_D * reach_of(1.0, 3)
    inside_D = np.abs(gap_DM[:, 3] - offset_D) <= reach_D
    assert abs(inside_D.mean() - LEVEL) < 0.01


@pytest.mark.parametrize(
    ("away", "word"), [(0.0, "within"), (1.5, "worse than"), (-1.5, "better than")]
)
def test_whether_the_reference_run_is_usual(found, validation, away, word):
    known = usual(validation, found.target)
    offset, reach = (known.high + known.low) / 2, (known.high - known.low) / 2
    gap = offset + away * reach
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
        basis = dataclasses.replace(validation.basis, text="other")
        validation = dataclasses.replace(validation, basis=basis)
    else:
        basis = dataclasses.replace(validation.basis, base="other")
        validation = dataclasses.replace(validation, basis=basis)
    text = said(chosen_of(found), found, validation)
    assert "too few held-out runs to say" in text
    assert "range of one more run" not in text


def test_rivals_of_another_search_are_not_compared(found, validation):
    basis = dataclasses.replace(found.basis, text="other")
    other = dataclasses.replace(found, basis=basis)
    text = said(chosen_of(found), other, validation)
    assert "training noise included" not in text and "trained minus merge" in text


def test_every_target_is_there_and_every_group_is_shown_once(found):
    chosen = chosen_of(found)
    table = agreement.chosen(chosen, found)
    shown = agreement.shown_chosen(chosen, found)
    assert [row["target"] for row in shown.rows] == (
        [OUTSIDE] * 2 + ["macro in-pool"] * 2
    )
    assert {row["target"] for row in table.rows} == set(chosen.targets)
    for row in table.rows:
        i = chosen.labels.index(row["mixture"])
        points = {n: p[row["target"]][i] for n, p in chosen.points.items()}
        assert row["reference_bits_per_byte"] == pytest.approx(points["reference"])
        assert row["merge"] == pytest.approx(points["merge"])
    aim = {MEMBERS[0]: 1.0, OUTSIDE: 3.0}
    aim = dataclasses.replace(found, target=aim, named=aim)
    first = agreement.chosen(chosen, aim).rows[0]
    expected = 0.25 * 2.28 + 0.75 * 2.18
    assert first["reference_bits_per_byte"] == pytest.approx(expected)


def test_without_a_search_the_target_is_out_of_pool(found):
    assert aim_of(chosen_of(found), None) == {OUTSIDE: 1.0}
    inside = dataclasses.replace(
        chosen_of(found), targets=list(MEMBERS), kinds=["in-pool"] * 3
    )
    assert aim_of(inside, None) == dict.fromkeys(MEMBERS, 1.0)


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


def following(found, validation=None, **more):
    """What to do next, in words and as a command."""
    if validation is not None:
        validation = on_basis_of(found, validation)
    return next_command(found, validation, "W", **more)


def test_the_next_command_follows_what_is_missing(workdir):
    why, command = following(found_of())
    assert "how well merges predict" in why
    assert "jaxsim validate --workdir=W --config.validate.held_out=12" in command
    found = found_of(trained=True)
    assert "held_out=12" in following(found, validation_of(workdir, 5))[1]
    single = following(found, validation_of(workdir, 12))
    assert "--config.validate.replicates=" in single[1]
    repeated = validation_of(workdir, 12, replicates=3)
    command = following(found, repeated)[1]
    assert f"--config.search.windows={4 * found.windows}" in command
    assert "jaxsim score" not in command
    by_table = dataclasses.replace(found, method="table")
    command = following(by_table, repeated)[1]
    assert "jaxsim score --workdir=W --config.score.windows=20" in command
    assert following(found_of(trained=True, tied=1), repeated) == ("", "")


def test_reference_runs_that_came_after_the_search_ask_for_another_search(workdir):
    said = following(found_of(trained=False), validation_of(workdir, 12))
    expected = "Search again, with the reference runs", "jaxsim search --workdir=W"
    assert said == expected


def test_commands_keep_the_token_multiplier_of_the_reference_runs():
    flag = "--config.validate.token_multiplier=4"
    command = following(found_of(), token_multiplier=4.0)[1]
    assert f"jaxsim validate --workdir=W {flag}" in command
    assert "token_multiplier" not in following(found_of(), token_multiplier=1.0)[1]


def test_printed_commands_can_be_pasted():
    """Whatever the folder is called, a shell gives it to jaxsim as it is."""
    workdir = "my runs/it's $HOME"
    command = next_command(found_of(), None, workdir)[1].partition(" && ")[0]
    assert f"--workdir={workdir}" in shlex.split(command)


def test_ties_say_how_many_and_what_they_rest_on():
    assert ties_sentence(found_of()).startswith("1 of 39 other mixtures cannot be told")
    assert "merges only" in ties_sentence(found_of())
    said = ties_sentence(found_of(trained=True))
    assert "error of reference runs included" in said


def test_simple_mixtures_that_tie_are_named():
    """What a search found has no name that says anything."""
    assert ties_sentence(found_of(tied=4)).endswith(" and uniform.")
    assert "uniform" not in ties_sentence(found_of(tied=3))
    found = found_of(tied=4)
    for row in found.rows:
        row["kind"] = "found"
    assert "among them" not in ties_sentence(found)
    found.rows[2] |= {"weights": {MEMBERS[0]: 1.0}}
    assert f"among them {found.rows[2]['name']} alone" in ties_sentence(found)


def test_a_pool_of_one_member_needs_another():
    basis = Basis(text="t", base="b", members={"a": "1"})
    found = dataclasses.replace(found_of(), basis=basis, searched=1)
    found.rows[:] = found.rows[:1]
    found.ties["count"] = 1
    assert ties_sentence(found) == "None. No other mixture was scored."
    assert following(found)[0].startswith("Add a partition")


def test_no_error_is_not_a_clear_winner():
    for tied in (1, 4):
        blind = found_of(tied=tied)
        for row in blind.rows:
            row["error"] = 0.0
        assert ties_sentence(blind).startswith("Unknown.")


def test_a_mixture_that_was_rounded_to_be_trained_is_the_same():
    assert same_mixture({"a": 0.5, "b": 0.5}, {"a": 0.500006, "b": 0.499994, "c": 0.0})
    assert not same_mixture({"a": 0.5, "b": 0.5}, {"a": 0.51, "b": 0.49})
