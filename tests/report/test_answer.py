"""The sentences: each says what is known and no more."""

import dataclasses

import pytest

from jaxsim.records import Basis
from jaxsim.report.answer import (
    answer,
    closing_lines,
    report_check,
    search_sentences,
    shift_sentence,
)

from .workdirs import (
    MEMBERS,
    OUTSIDE,
    chosen_of,
    found_of,
    on_basis_of,
    validation_of,
)

TRAIN = "jaxsim validate --workdir=W --mixtures=W/search/best.csv"


def lines(found, validation=None, **more):
    return closing_lines(found, validation, "W", **more)


def calibrated(found, *shifts, singles_known=True):
    """A search whose merges were shifted by the calibration."""
    for row, shift in zip(found.rows, shifts, strict=True):
        row["shift"] = shift
    return dataclasses.replace(found, calibrated=True, singles_known=singles_known)


def test_a_single_member_is_compared_as_its_own_reference_run():
    """Merges of several are corrected by what reference runs showed of them."""
    found = found_of(trained=True)
    found.rows[0]["test"] = 1.00
    alone = dict(found.rows[3], name="alone", weights={MEMBERS[0]: 1.0})
    alone |= {"kind": "member", "test": 1.02}
    found.rows[:] = [*found.rows[:3], alone]
    assert "it has 1.0000 bits per byte" in report_check(found)
    assert "0.0200 better" in report_check(found)
    known = calibrated(found, 0.05, 0.05, 0.05, 0.0)
    assert "it is predicted to have 1.0500" in report_check(known)
    assert "no better (0.0300 worse)" in report_check(known)


def test_the_shift_of_the_rows_is_said():
    found = found_of(trained=True)
    assert shift_sentence(found) == ""
    found.rows[3]["weights"] = {MEMBERS[0]: 1.0}
    text = shift_sentence(calibrated(found, 0.01, 0.05, -0.002, 0.0))
    assert "shifted by -0.0020 to +0.0500 bits per byte" in text
    assert "a single member is a reference run itself" in text
    same = shift_sentence(calibrated(found, 0.03, 0.03, 0.03, 0.0))
    assert "shifted by +0.0300 bits per byte" in same
    nothing = shift_sentence(calibrated(found, 0.0, 0.0, 0.0, 0.0))
    assert "left the merges as they are" in nothing


def test_a_single_member_may_be_shifted_where_it_is_no_reference_run():
    found = found_of(trained=True)
    found.rows[3]["weights"] = {MEMBERS[0]: 1.0}
    other = calibrated(found, 0.01, 0.01, 0.01, 0.09, singles_known=False)
    text = shift_sentence(other)
    assert "shifted by +0.0100 to +0.0900 bits per byte" in text
    assert "run itself" not in text


def test_nothing_searched():
    train, ties, left = lines(None)
    assert "jaxsim search --workdir=W" in train
    assert "not answered" in ties
    assert "no reference run counted" in left


def test_before_reference_runs_the_next_command_trains_some():
    found = found_of(trained=False)
    train, ties, left = lines(found)
    assert "1/2 each of" in train
    assert "jaxsim validate --workdir=W --config.validate.held_out=12" in train
    assert found.ties["heading"] in ties
    assert "1 other of 40" in ties
    assert "downstream tasks" in left
    assert "not yet about training" in answer(found)


def current_lines(found, validation=None, **more):
    """Of reference runs of the same pool and text."""
    if validation is not None:
        validation = on_basis_of(found, validation)
    return lines(found, validation, **more)


def test_reference_runs_of_another_pool_do_not_count(workdir):
    """As if there were none: nothing that they would silence is silenced."""
    found = found_of(trained=False)
    other = validation_of(workdir, 12, replicates=3)
    assert lines(found, other) == lines(found, None)
    assert "no reference run counted" in lines(found, other)[2]


def test_the_next_command_follows_what_is_missing(workdir):
    found = found_of(trained=True)
    few = current_lines(found, validation_of(workdir, 5))
    assert "--config.validate.held_out=12" in few[0]
    assert "fewer than 12" in few[2]
    single = current_lines(found, validation_of(workdir, 12))
    assert "--config.validate.replicates=" in single[0]
    assert "no replicates" in single[2]
    repeated = current_lines(found, validation_of(workdir, 12, replicates=3))
    assert f"--config.search.windows={4 * found.windows}" in repeated[0]
    assert "jaxsim score" not in repeated[0]
    by_table = dataclasses.replace(found, method="table")
    by_table = current_lines(by_table, validation_of(workdir, 12, replicates=3))
    assert "jaxsim score --workdir=W --config.score.windows=20" in by_table[0]
    assert "no replicates" not in repeated[2]
    alone = current_lines(
        found_of(trained=True, tied=1), validation_of(workdir, 12, replicates=3)
    )
    assert alone[0].count("jaxsim") == 1 and TRAIN in alone[0]
    assert "no other of 40 mixtures" in alone[1]


def test_training_the_answer_comes_first_where_there_are_reference_runs(workdir):
    """Before that it is offered, but after what should come first."""
    for trained, reference_runs in ((False, 0), (True, 5)):
        validation = validation_of(workdir, reference_runs) if reference_runs else None
        text = current_lines(found_of(trained), validation)[0]
        assert text.index("held_out=12") < text.index(TRAIN)
        assert f"to train it at once: `{TRAIN}`" in text
    enough = validation_of(workdir, 12, replicates=3)
    text = current_lines(found_of(trained=True), enough)[0]
    assert text.index(TRAIN) < text.index("to narrow the ties")
    assert "at once" not in text


def test_reference_runs_that_came_after_the_search_ask_for_another_search(workdir):
    found = found_of(trained=False)
    validation = on_basis_of(found, validation_of(workdir, 12))
    text = lines(found, validation)[0]
    assert "it did not use the reference runs: `jaxsim search --workdir=W`;" in text
    other = dataclasses.replace(validation, basis=Basis("other text"))
    assert "did not use" not in lines(found, other)[0]


def test_a_plain_mixture_that_ties_is_named():
    assert "nothing here shows that weighting pays" in lines(found_of(tied=4))[1]
    assert "weighting" not in lines(found_of(tied=3))[1]


def test_no_error_is_not_a_clear_winner():
    found = found_of(tied=1)
    for row in found.rows:
        row["error"] = 0.0
    assert "unknown" in lines(found)[1]
    assert "could not be measured" in answer(found)
    assert "none of the other" not in answer(found)


def test_a_choice_that_fails_on_test_text_says_so():
    found = found_of()
    assert "0.0300 better" in report_check(found)
    found.rows[-1]["test"] = 2.09
    assert "no better (0.0100 worse)" in report_check(found)
    found.rows[0]["test"] = None
    assert "not compared" in report_check(found)


def test_the_headline_says_that_nothing_beats_uniform():
    assert answer(found_of(tied=4)).startswith(
        "No mixture is significantly better than uniform. "
    )
    assert "No mixture" not in answer(found_of(tied=3))
    blind = found_of(tied=4)
    for row in blind.rows:
        row["error"] = 0.0
    assert "No mixture" not in answer(blind)


def test_a_trained_choice_says_what_came_out(workdir):
    found = found_of(trained=True)
    validation = on_basis_of(found, validation_of(workdir, 12, replicates=3))
    train, _, left = lines(found, validation)
    assert "it was not trained" in left and TRAIN in train
    chosen = chosen_of(found, trained=2.1234)
    train, _, left = lines(found, validation, chosen=chosen)
    assert "trained as reference-best it has 2.1234" in train
    assert "its merge predicted 2.1000, a difference of +0.0234" in train
    assert TRAIN not in train
    assert "not trained" not in left


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
    train, _, left = lines(found, chosen=chosen)
    assert "reference-best" not in train
    assert "it was not trained" in left


def test_a_mixture_that_was_rounded_to_be_trained_is_the_same():
    found = found_of(trained=True)
    chosen = chosen_of(found)
    mixtures = [[0.500006, 0.499994, 0.0], *chosen.mixtures[1:]]
    chosen = dataclasses.replace(chosen, mixtures=mixtures)
    assert "reference-best" in lines(found, chosen=chosen)[0]


def test_a_best_mixture_among_the_reference_runs_was_trained(workdir):
    found = found_of(trained=True)
    validation = on_basis_of(found, validation_of(workdir, 12))
    mixture = [found.best["weights"].get(name, 0.0) for name in MEMBERS]
    mixtures = [mixture, *validation.mixtures[1:]]
    validation = dataclasses.replace(validation, mixtures=mixtures)
    train, _, left = lines(found, validation)
    reference = validation.points["reference"][OUTSIDE][0]
    assert f"trained as reference-0 it has {reference:.4f}" in train
    assert "single runs" not in train  # it is one of them
    assert "not trained" not in left


@pytest.mark.parametrize(
    ("token_multiplier", "words"),
    [(1.0, "token multiplier 1 only"), (2.5, "token multiplier 2.5 only"),
     (None, "longer training")],
)  # fmt: skip
def test_the_token_multiplier_is_open(token_multiplier, words):
    assert words in lines(found_of(), token_multiplier=token_multiplier)[2]


def test_the_answer_is_one_sentence_with_target_and_weights():
    text = answer(found_of(trained=True))
    assert OUTSIDE in text and "1/2 each of" in text
    assert "1 other mixture of 40 cannot be told apart" in text


def test_what_is_simpler_and_as_good_is_named():
    found = found_of(trained=True, tied=4)
    first = closing_lines(found, None)[0]
    assert "uniform is simpler and, as far as can be told, as good" in first
    assert "simpler" not in closing_lines(found_of(trained=True), None)[0]


def test_commands_keep_the_token_multiplier_of_the_reference_runs():
    found = found_of(trained=True)
    text = lines(found, None, token_multiplier=4.0)[0]
    assert "jaxsim validate --workdir=W --config.validate.token_multiplier=4" in text
    assert "token_multiplier" not in lines(found, None, token_multiplier=1.0)[0]


def test_a_single_member_is_not_told_of_simpler_ones():
    found = found_of(trained=True, tied=4)
    found.rows[0]["weights"] = {MEMBERS[0]: 1.0}
    first, second, _ = lines(found)
    assert "simpler" not in first
    assert "uniform" in second and "weighting pays" not in second


def test_only_what_is_seen_again_is_named():
    (text, _) = search_sentences(found_of())
    assert f"{MEMBERS[0]} 2.50 times" in text
    assert f"{MEMBERS[1]} 1.50 times" in text
    assert MEMBERS[2] not in text
    once = dataclasses.replace(found_of(), epochs=dict.fromkeys(MEMBERS, 1.0))
    assert "repeat no source" in search_sentences(once)[0]
    unknown = dataclasses.replace(found_of(), epochs={}, evaluations=0)
    assert search_sentences(unknown) == []


def test_cost_is_that_of_the_file():
    found = dataclasses.replace(found_of(), evaluations=317.0, tokens=98_765)
    text = search_sentences(found)[1]
    assert "317 evaluations" in text and "98,765 tokens" in text
    assert "a gradient counting as three" in text
    assert "40 mixtures scored by merging, of 5,000" in text


def test_no_cheap_predictor_no_claim_about_it():
    found = dataclasses.replace(found_of(), looked_at=0)
    text = search_sentences(found)[1]
    assert "cheap" not in text and "40 mixtures scored by merging" in text
