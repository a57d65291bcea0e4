"""What training and scoring cost: by hand, and as `prepare` and `plan` say it."""

import dataclasses

from jaxsim.log import showing_details
from jaxsim.plan.cost import (
    closed_form_sentence,
    scoring_costs,
    show_costs,
    training_costs,
)

from . import small

UNIT = 3 * small.ROWS * 32  # tokens of a member
# Domains of two splits, as (tokens, windows).
DOMAINS = {
    "a": {"dev": (3_000, 100), "test": (2_000, 80)},
    "b": {"dev": (1_000, 4), "test": (500, 2)},
}


def test_costs_of_all_runs():
    config = small.changed(
        "validate",
        held_out=3,
        calibration_runs=1,
        replicates=2,
        member_replicates=1,
        token_multiplier=2.0,
    )
    by_name = {cost.name: cost for cost in training_costs(config, 5)}
    assert by_name["members"].tokens == 5 * UNIT
    assert by_name["reference runs"].tokens == 4 * 2 * UNIT
    assert by_name["replicates"].tokens == (2 * 2 + 1) * UNIT
    assert by_name["members"].work == 3 * 5 * UNIT
    base = config.base
    assert by_name["base"].tokens == base.steps * base.batch * 32
    assert [cost.count for cost in by_name.values()] == [1, 5, 4, 3]
    # Subsets of two to all five members, as many units long.
    paper = small.changed("validate", config, budget="sum")
    by_name = {cost.name: cost for cost in training_costs(paper, 5)}
    assert by_name["reference runs"].tokens == 4 * 3.5 * UNIT
    # A pool of two has one subset, a pool of one none.
    for members, runs in ((2, 1 + 1), (1, 1)):
        by_name = {cost.name: cost for cost in training_costs(paper, members)}
        assert by_name["reference runs"].count == runs


def test_costs_of_scoring():
    config = small.changed("score", mixtures="subsets:1-2", windows=10)
    config = small.changed("search", config, evaluations=40, windows=2)
    validate = {"held_out": 4, "candidates": 500, "windows": 8, "member_replicates": 5}
    config = small.changed("validate", config, **validate)
    work = {cost.name: cost.work for cost in scoring_costs(config, 5, DOMAINS)}
    assert work == {
        "scoring standard mixtures": (1 + 5 + 2) * 6_500,
        "scoring subsets:1-2": (5 + 10) * (300 + 1_000),
        # The runs, and the merges that they are compared with.
        "scoring reference runs": 2 * 4 * (240 + 1_000 + 200 + 500),
        "scoring the same from replicates": (4 + 5) * (200 + 500),
        # One gradient, whatever the number of candidates.
        "scoring candidates of held-out runs": 5 * (300 + 1_000),
        "scoring of the search, on all domains": 40 * (60 + 500),
        "the answer's closed form, on test": (5 + 20) * (2_000 + 500),
    }


def test_a_very_large_table_is_not_merged():
    """A gradient counts as five passes; 20 checks and the best 9 are merged."""
    config = small.changed("score", mixtures="dirichlet:100000", windows=10)
    config = small.changed("search", config, method="table")
    tokens = 300 + 1_000
    work = {cost.name: cost.work for cost in scoring_costs(config, 5, DOMAINS)}
    del work["scoring standard mixtures"]
    assert work == {
        "scoring the best of dirichlet:100000": 9 * tokens,
        "a closed form's gradient": 5 * tokens,
        "a closed form's checks": 20 * tokens,
        "the answer's closed form, on test": (5 + 20) * (2_000 + 500),
    }
    config = small.changed("score", config, merges=100_000)
    work = {cost.name: cost.work for cost in scoring_costs(config, 5, DOMAINS)}
    assert work["scoring dirichlet:100000"] == 100_000 * tokens


def test_without_text_a_large_table_and_a_search_are_a_measure():
    """Of 1B: 33 base and members, a gradient and 20 checks are 58 passes."""
    *table, search = scoring_costs(small.changed("search", evaluations=40), 32, None)
    assert sum(cost.work for cost in table) == 58 * 2**20
    assert search.work == 40 * 2**20
    said = closed_form_sentence(32)
    assert "58 forward passes" in said and "25 if the members are scored" in said


def test_much_scoring_is_a_warning(capsys):
    """Only where it takes more than a minute."""
    config = small.changed("validate", held_out=0)
    much = {"a": {"dev": (3_000_000, 0), "test": (2_000_000, 0)}}
    for domains, members, expected in ((DOMAINS, 3, False), (much, 3, True)):
        with showing_details():
            show_costs(config, members, small.VOCABULARY, domains)
        out = capsys.readouterr().out
        assert "all scoring" in out
        assert ("WARNING: scoring costs" in out) == expected
    for key in (
        "corpus.evaluation_tokens",
        "corpus.evaluation_windows",
        "score.windows",
    ):
        assert f"config.{key}" in out
    large = dataclasses.replace(config.recipe, steps=10**6)
    config = dataclasses.replace(config, recipe=large)
    show_costs(config, 3, small.VOCABULARY, much)
    assert "WARNING" not in capsys.readouterr().out
