"""The answer: each sentence says only what is known."""

import dataclasses
import shlex

import numpy as np
import pytest

from jaxsim.records import Basis
from jaxsim.report import agreement
from jaxsim.report.answer import (
    aim_of,
    answer,
    next_command,
    on_test_text,
    outcomes,
    search_sentences,
    shift_sentence,
    train_command,
    usual,
)
from jaxsim.search.result import Ranking
from jaxsim.validation.calibration import LEVEL, reach_of

from .workdirs import MEMBERS, OUTSIDE, chosen_of, found_of, on_basis_of, validation_of

TRAIN = "jaxsim validate --workdir=W --mixtures=W/search/best.csv"


def lines(found, validation=None, **more):
    """The parts of the answer by their labels."""
    return dict(answer(found, validation, "W", **more))


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


def test_warnings_stand_with_the_answer():
    """What to know before training comes before the command that trains."""
    labels = [label for label, _ in answer(found_of(), None, "W")]
    assert labels.index("WARNING") < labels.index("Train it")
    assert "would repeat 2.5 times" in lines(found_of())["WARNING"]


@pytest.mark.parametrize(("over", "kept"), [(0.0, True), (0.02, False)])
def test_a_mixture_that_breaks_a_limit_is_not_called_the_best(over, kept):
    domains = {OUTSIDE: {"best": 2.0 + over, "base": 2.1, "limit": 2.0}}
    found = dataclasses.replace(found_of(), domains=domains)
    labels = [label for label, _ in answer(found, None, "W")]
    assert ("Best mixture" in labels) == ("Train it" in labels) == kept
    assert ("NO BEST MIXTURE" in labels) != kept
    if not kept:
        assert "keeps every limit" in lines(found)["NO BEST MIXTURE"]
        assert "The nearest: 1/2 each of" in lines(found)["NO BEST MIXTURE"]


def test_reference_runs_that_no_search_used_are_not_denied(workdir):
    """Two are too few for a search, and are counted all the same."""
    found = found_of(trained=False)
    text = current_lines(found, validation_of(workdir, 2))["Open questions"]
    assert "no search used the 2 held-out runs" in text
    assert "how well merges rank (2 held-out runs, fewer than 12)" in text
    assert "no reference runs used" not in text


def test_printed_commands_can_be_pasted():
    """Whatever the folder is called, a shell gives it to jaxsim as it is."""
    workdir = "my runs/it's $HOME"
    for command in (
        train_command(workdir),
        next_command(found_of(), None, workdir)[1].partition(" && ")[0],
    ):
        assert f"--workdir={workdir}" in shlex.split(command)


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


def test_nothing_searched():
    said = lines(None)
    assert "jaxsim run --config=FILE.py --workdir=W" in said["Next"]
    assert "None yet" in said["Best mixture"] and "Ties" not in said
    assert "no reference runs used" in said["Open questions"]


def test_before_reference_runs_the_next_command_trains_some():
    found = found_of(trained=False)
    said = lines(found)
    assert "1/2 each of" in said["Best mixture"]
    command = "jaxsim validate --workdir=W --config.validate.held_out=12"
    assert command in said["Next"]
    assert "1 of 39 other mixtures" in said["Ties"]
    assert "merges only" in said["Ties"]
    assert "accuracy on tasks" in said["Open questions"]


def current_lines(found, validation=None, **more):
    """With reference runs of the same pool and text."""
    if validation is not None:
        validation = on_basis_of(found, validation)
    return lines(found, validation, **more)


def test_reference_runs_of_another_pool_do_not_count(workdir):
    """The answer is the one without reference runs."""
    found = found_of(trained=False)
    other = validation_of(workdir, 12, replicates=3)
    assert lines(found, other) == lines(found, None)
    assert "no reference runs used" in lines(found, other)["Open questions"]


def test_the_next_command_follows_what_is_missing(workdir):
    found = found_of(trained=True)
    few = current_lines(found, validation_of(workdir, 5))
    assert "--config.validate.held_out=12" in few["Next"]
    assert "fewer than 12" in few["Open questions"]
    single = current_lines(found, validation_of(workdir, 12))
    assert "--config.validate.replicates=" in single["Next"]
    assert "no replicates" in single["Open questions"]
    repeated = current_lines(found, validation_of(workdir, 12, replicates=3))
    assert f"--config.search.windows={4 * found.windows}" in repeated["Next"]
    assert "jaxsim score" not in repeated["Next"]
    assert "no replicates" not in repeated["Open questions"]
    by_table = dataclasses.replace(found, method="table")
    by_table = current_lines(by_table, validation_of(workdir, 12, replicates=3))
    assert "jaxsim score --workdir=W --config.score.windows=20" in by_table["Next"]
    alone = current_lines(
        found_of(trained=True, tied=1), validation_of(workdir, 12, replicates=3)
    )
    assert "Next" not in alone and TRAIN in alone["Train it"]
    assert "0 of 39 other mixtures" in alone["Ties"]


def test_training_the_answer_comes_first_where_there_are_reference_runs(workdir):
    """Without enough of them it is offered last."""
    for trained, reference_runs in ((False, 0), (True, 5)):
        validation = validation_of(workdir, reference_runs) if reference_runs else None
        said = list(current_lines(found_of(trained), validation))
        assert said.index("Next") < said.index("Train it")
    enough = validation_of(workdir, 12, replicates=3)
    said = list(current_lines(found_of(trained=True), enough))
    assert said.index("Train it") < said.index("Next")


def test_reference_runs_that_came_after_the_search_ask_for_another_search(workdir):
    found = found_of(trained=False)
    validation = on_basis_of(found, validation_of(workdir, 12))
    expected = "Search again, with the reference runs: `jaxsim search --workdir=W`"
    assert lines(found, validation)["Next"] == expected
    other = dataclasses.replace(validation, basis=Basis("other text"))
    assert "Search again" not in lines(found, other)["Next"]


def test_simple_mixtures_that_tie_are_named():
    """What a search found has no name that says anything."""
    assert lines(found_of(tied=4))["Ties"].endswith(" and uniform.")
    assert "uniform" not in lines(found_of(tied=3))["Ties"]
    found = found_of(tied=4)
    for row in found.rows:
        row["kind"] = "found"
    assert "among them" not in lines(found)["Ties"]
    found.rows[2] |= {"weights": {MEMBERS[0]: 1.0}}
    assert f"among them {found.rows[2]['name']} alone" in lines(found)["Ties"]


def test_a_pool_of_one_member_needs_another():
    basis = Basis(text="t", base="b", members={"a": "1"})
    found = dataclasses.replace(found_of(), basis=basis, searched=1)
    found.rows[:] = found.rows[:1]
    found.ties["count"] = 1
    assert lines(found)["Ties"] == "None. No other mixture was scored."
    assert lines(found)["Next"].startswith("Add a partition")


def test_no_error_is_not_a_clear_winner():
    for tied in (1, 4):
        blind = found_of(tied=tied)
        for row in blind.rows:
            row["error"] = 0.0
        text = lines(blind)["Ties"]
        assert text.startswith("Unknown.") and "significantly" not in text


def test_a_choice_that_fails_on_test_text_says_so():
    found = found_of()
    assert "0.0300 more" in on_test_text(found)
    found.rows[-1]["test"] = 2.09
    assert "0.0100 less. The lead" in on_test_text(found)
    found.rows[0]["test"] = None
    assert "not compared" in on_test_text(found)


def test_a_trained_choice_is_reported(workdir):
    found = found_of(trained=True)
    validation = on_basis_of(found, validation_of(workdir, 12, replicates=3))
    said = lines(found, validation)
    assert "it was not trained" in said["Open questions"]
    assert TRAIN in said["Train it"]
    chosen = chosen_of(found, trained=2.1234)
    said = lines(found, validation, chosen=chosen)
    assert "as reference-best: 2.1234" in said["Trained"]
    assert "the merge predicted 2.1000" in said["Trained"]
    assert "trained minus merge is +0.0234" in said["Trained"]
    assert "Train it" not in said
    assert "not trained" not in said["Open questions"]


@pytest.mark.parametrize("other", ["mixture", "pool", "text"])
def test_only_the_best_of_this_pool_and_text_counts_as_trained(other):
    found = found_of(trained=True)
    chosen = chosen_of(found)
    if other == "mixture":
        mixtures = [[0.51, 0.49, 0.0], *chosen.mixtures[1:]]
        chosen = dataclasses.replace(chosen, mixtures=mixtures)
    elif other == "pool":
        members = chosen.basis.members | {MEMBERS[0]: "another"}
        basis = dataclasses.replace(chosen.basis, members=members)
        chosen = dataclasses.replace(chosen, basis=basis)
    else:
        basis = dataclasses.replace(chosen.basis, text="another")
        chosen = dataclasses.replace(chosen, basis=basis)
    said = lines(found, chosen=chosen)
    assert "Trained" not in said
    assert "it was not trained" in said["Open questions"]


def test_a_mixture_that_was_rounded_to_be_trained_is_the_same():
    found = found_of(trained=True)
    chosen = chosen_of(found)
    mixtures = [[0.500006, 0.499994, 0.0], *chosen.mixtures[1:]]
    chosen = dataclasses.replace(chosen, mixtures=mixtures)
    assert "reference-best" in lines(found, chosen=chosen)["Trained"]


def test_a_best_mixture_among_the_reference_runs_was_trained(workdir):
    found = found_of(trained=True)
    validation = on_basis_of(found, validation_of(workdir, 12))
    mixture = [found.best["weights"].get(name, 0.0) for name in MEMBERS]
    mixtures = [mixture, *validation.mixtures[1:]]
    validation = dataclasses.replace(validation, mixtures=mixtures)
    said = lines(found, validation)
    reference = validation.points["reference"][OUTSIDE][0]
    assert f"as reference-0: {reference:.4f}" in said["Trained"]
    assert "range" not in said["Trained"]  # it is one of the runs
    assert "not trained" not in said["Open questions"]


@pytest.mark.parametrize(
    ("token_multiplier", "words"),
    [(1.0, "token multiplier 1 only"), (2.5, "token multiplier 2.5 only"),
     (None, "longer training or other")],
)  # fmt: skip
def test_the_token_multiplier_is_open(token_multiplier, words):
    said = lines(found_of(), token_multiplier=token_multiplier)
    assert words in said["Open questions"]


def test_the_answer_has_target_and_weights():
    text = lines(found_of(trained=True))["Best mixture"]
    assert OUTSIDE in text and "1/2 each of" in text


def test_commands_keep_the_token_multiplier_of_the_reference_runs():
    found = found_of()
    flag = "--config.validate.token_multiplier=4"
    said = lines(found, None, token_multiplier=4.0)
    for label in ("Next", "Train it"):
        assert f"jaxsim validate --workdir=W {flag}" in said[label]
        assert "token_multiplier" not in lines(found, None, token_multiplier=1.0)[label]


def test_epochs_of_every_source_with_weight_are_named():
    """Those beyond what a member has seen are marked."""
    said = lines(found_of())["Epochs in the planned run"]
    assert said == (
        f"{MEMBERS[0]} 2.50 (extrapolated: its member 1.50), {MEMBERS[1]} 1.50."
    )
    found = found_of()
    for source in found.sources.values():
        source["epochs"] = None  # no run is planned
    assert "Epochs in the planned run" not in lines(found)


def test_the_range_of_every_weight_is_named():
    said = lines(found_of())["Range of weights"]
    ranges = f"{MEMBERS[0]} 0.30 to 0.70 and {MEMBERS[1]} 0.20 to 0.90."
    assert said.startswith(ranges)
    assert "at most 0.0125 bits per byte worse" in said
    found = found_of()
    found.sources[MEMBERS[0]] |= {"low": None, "high": None}
    said = lines(found)["Range of weights"]
    assert said.startswith(f"{MEMBERS[0]} unknown and {MEMBERS[1]} 0.20 to 0.90.")
    for source in found.sources.values():
        source |= {"low": None, "high": None}
    assert "Range of weights" not in lines(found)


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
