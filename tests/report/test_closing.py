"""The sentences: each says what is known and no more."""

import dataclasses

import pytest

from jaxsim.report.closing import answer, closing_lines, report_check

from .workdirs import MEMBERS, OUTSIDE, found_of, validation_of


def lines(found, validation=None, **more):
    return closing_lines(found, validation, "W", **more)


def test_nothing_searched():
    train, ties, left = lines(None)
    assert "jaxsim search --workdir=W" in train
    assert "not answered" in ties
    assert "no truth" in left


def test_before_truths_the_next_command_trains_some():
    found = found_of(trained=False)
    train, ties, left = lines(found)
    assert "1/2 each of" in train
    assert "jaxsim validate --workdir=W --config.validate.truths=12" in train
    assert found.ties["heading"] in ties
    assert "1 other of 40" in ties
    assert "downstream tasks" in left
    assert "not yet about training" in answer(found)


def test_the_next_command_follows_what_is_missing(workdir):
    found = found_of(trained=True)
    few = lines(found, validation_of(workdir, 5))
    assert "--config.validate.truths=12" in few[0]
    assert "fewer than 12" in few[2]
    single = lines(found, validation_of(workdir, 12))
    assert "--config.validate.repeats=" in single[0]
    assert "no repeats" in single[2]
    repeated = lines(found, validation_of(workdir, 12, repeats=3))
    assert f"--config.score.windows={4 * found.windows}" in repeated[0]
    assert "no repeats" not in repeated[2]
    alone = lines(
        found_of(trained=True, tied=1), validation_of(workdir, 12, repeats=3)
    )
    assert "jaxsim" not in alone[0]
    assert "no other of 40 mixtures" in alone[1]


def test_a_plain_mixture_that_ties_is_named():
    assert (
        "nothing here shows that weighting pays" in lines(found_of(tied=4))[1]
    )
    assert "weighting" not in lines(found_of(tied=3))[1]


def test_no_error_is_not_a_clear_winner():
    found = found_of(tied=1)
    for row in found.rows:
        row["error"] = 0.0
    assert "unknown" in lines(found)[1]
    assert "could not be measured" in answer(found)
    assert "none of the other" not in answer(found)


def test_a_choice_that_fails_on_report_text_says_so():
    found = found_of()
    assert "0.0300 better" in report_check(found)
    found.rows[-1]["report"] = 2.09
    assert "no better (0.0100 worse)" in report_check(found)
    found.rows[0]["report"] = None
    assert "not compared" in report_check(found)


def test_a_trained_choice_is_not_called_untrained(workdir):
    found = found_of(trained=True)
    validation = validation_of(workdir, 12)
    assert "it is no truth" in lines(found, validation)[2]
    ratio = [found.best["weights"].get(name, 0.0) for name in MEMBERS]
    ratios = [ratio, *validation.ratios[1:]]
    trained = dataclasses.replace(validation, ratios=ratios)
    assert "it is no truth" not in lines(found, trained)[2]


@pytest.mark.parametrize(
    ("horizon", "words"),
    [(1.0, "truths at horizon 1 only"), (2.5, "truths at horizon 2.5 only"),
     (None, "longer training")],
)  # fmt: skip
def test_the_horizon_is_open(horizon, words):
    assert words in lines(found_of(), horizon=horizon)[2]


def test_the_answer_is_one_sentence_with_target_and_weights():
    text = answer(found_of(trained=True))
    assert OUTSIDE in text and "1/2 each of" in text
    assert "1 other mixture of 40 cannot be told apart" in text
