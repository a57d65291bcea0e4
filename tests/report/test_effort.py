"""How a search went: no claim without its condition, every number its own."""

import dataclasses
import itertools

import numpy as np
import pytest

from jaxsim.report import effort

from .workdirs import MEMBERS, OUTSIDE, as_before, found_of


def test_the_certificate_has_its_condition_and_its_numbers():
    text = effort.certificate_sentence(found_of())
    assert "were the merged loss convex in the weights" in text
    assert "nobody has shown" in text
    assert "0.002100 bits per byte (0.105% of the objective)" in text
    assert "within the constraints" in text and "select text" in text


def test_what_binds_and_what_relaxing_it_would_give():
    text = effort.binding_sentence(found_of())
    assert f"at most 50.0% of {MEMBERS[0]} (if relaxed: 0.0007 bits" in text
    assert "for 1 percentage point, to first order" in text
    assert "at most 2 sources (if relaxed: not known)" in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("floor", "at least 12.5% of x"),
        ("ceiling", "at most 12.5% of x"),
        ("supply", "the supply of x, 12.5% of the run"),
        ("divergence", "at most 0.125 nats from the reference"),
        ("regret", "at most 0.1250 bits per byte on x"),
        ("of a later version", "of a later version 0.125 x"),
    ],
)
def test_constraints_in_words(kind, words):
    row = {"name": "x", "kind": kind, "limit": 0.125}
    assert effort.constraint_words(row) == words


def test_only_what_is_seen_again_is_named():
    text = effort.repetition_sentence(found_of())
    assert f"{MEMBERS[0]} 2.50 times" in text
    assert f"{MEMBERS[1]} 1.50 times" in text
    assert MEMBERS[2] not in text
    once = dataclasses.replace(found_of(), epochs=dict.fromkeys(MEMBERS, 1.0))
    assert "repeat no source" in effort.repetition_sentence(once)
    unknown = dataclasses.replace(found_of(), epochs={})
    assert effort.repetition_sentence(unknown) == ""


@pytest.mark.parametrize("rng", range(5))
def test_cost_is_that_of_the_file(rng):
    generator = np.random.default_rng(rng)
    entered = sorted(generator.integers(10, 10_000, 3).tolist(), reverse=True)
    race = [
        {"windows": 100 * (i + 1), "entered": a, "dropped": a - b}
        for i, (a, b) in enumerate(itertools.pairwise(entered))
    ]
    found = dataclasses.replace(
        found_of(),
        race=race,
        evaluations=float(generator.integers(1, 500)),
        tokens=int(generator.integers(1, 10**9)),
    )
    text = effort.effort_sentence(found)
    assert f"{found.evaluations:,.0f} evaluations" in text
    assert "a gradient counting as three" in text
    assert f"{found.tokens:,} tokens" in text
    assert "looked at 5,000 mixtures, 40 were scored" in text
    for look in race:
        assert (
            f"{look['dropped']:,} of {look['entered']:,} on "
            f"{look['windows']:,} windows"
        ) in effort.race_sentence(found)


def test_no_cheap_proxy_no_claim_about_it():
    found = dataclasses.replace(found_of(), looked_at=0)
    text = effort.effort_sentence(found)
    assert "cheap" not in text and "40 mixtures scored by merging" in text


def test_a_search_of_before_says_nothing():
    before = as_before(found_of())
    assert effort.sentences(before) == []
    assert effort.next_percent(before) is None
    assert len(effort.sentences(found_of())) == 5


def test_the_next_percent_is_ordered_by_what_the_target_gains():
    found = found_of()
    percent = effort.next_percent(found)
    assert percent.domains == (*MEMBERS, OUTSIDE)
    np.testing.assert_allclose(percent.aim_C, [-0.0012, 0.0003, 0.0009])
    assert np.isnan(percent.bits_CD[1, 2])  # null in the file
    assert percent.bits_CD[0, 2] == 0.0
    assert percent.extremes(1) == [0, None, 2]
    assert percent.extremes(2) == [0, 1, 2]
    both = dataclasses.replace(found, target={OUTSIDE: 3.0, MEMBERS[0]: 1.0})
    np.testing.assert_allclose(
        effort.next_percent(both).aim_C,
        0.75 * np.array([-0.0012, 0.0003, 0.0009])
        + 0.25 * np.array([-0.003, 0.001, 0.002]),
    )


def test_thousandths():
    assert effort.thousandths(-0.0012) == "-1.20"
    assert effort.thousandths(float("nan")) == "-"
