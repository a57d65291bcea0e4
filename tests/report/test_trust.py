"""What the section on trust says: claims, calibration, gauge, when to stop."""

import dataclasses

import pytest

from jaxsim.report import calibrated, claims
from jaxsim.report.gauged import gauge_sentences
from jaxsim.report.page_study import study
from jaxsim.study.measured import IN_POOL

from .workdirs import DRIFT, MEMBERS, OUTSIDE, gauge_of, validation_of


@pytest.fixture
def validation(workdir):
    return validation_of(workdir, 12, repeats=4, fit=6)


def claimed(validation, **figures):
    """Other figures of every claim about out-of-pool domains."""
    changed = [
        {**c, **figures} if c["kind"] == "out-of-pool" else c
        for c in validation.claims
    ]
    return dataclasses.replace(validation, claims=changed)


def outside(validation):
    return dict(claims.sentences(validation))["Merge or no model (out-of-pool)"]


@pytest.mark.parametrize(
    ("bounds", "meaning"),
    [
        ([0.01, 0.9], "better than the rule"),
        ([-0.9, -0.01], "worse than the rule"),
        ([-0.1, 0.5], "the two cannot be told apart"),
        (None, "no interval could be computed"),
    ],
)
def test_a_difference_is_tested(validation, bounds, meaning):
    text = outside(claimed(validation, gain=0.123, gain_interval=bounds))
    assert "a difference of +0.12" in text
    every = [
        "better than the rule", "worse than the rule",
        "cannot be told apart", "no interval",
    ]  # fmt: skip
    assert [e for e in every if e in text] == [e for e in every if e in meaning]
    if bounds:
        assert f"[{bounds[0]:.2f}, {bounds[1]:.2f}]" in text


def test_few_truths_are_not_tested(workdir):
    text = outside(validation_of(workdir, 11))
    assert "not tested, with fewer than 12 truths" in text
    assert "[" not in text


def test_claims_name_the_rule_and_the_ceiling(validation):
    text = outside(
        claimed(validation, rule="closeness", rule_spearman=0.3, ceiling=0.97)
    )
    assert "closeness with a mean Spearman of 0.30" in text
    assert "(mean ceiling 0.97)" in text
    for word in ("the merge has", "the probability average has",
                 "the calibrated merge has"):  # fmt: skip
        assert word in text
    assert "ratios alone" not in text
    none = outside(
        claimed(validation, rule=None, rule_spearman=None, gain=None,
                gain_interval=None)
    )  # fmt: skip
    assert "no rule without a model has anything to say" in none
    assert "difference" not in none


def test_nothing_is_claimed_where_noise_binds_or_nothing_was_tested(validation):
    bound = dataclasses.replace(
        validation,
        claims=[c for c in validation.claims if c["kind"] == "in-pool"],
        ceilings={**validation.ceilings, OUTSIDE: 0.89},
    )
    assert "all of them noise-bound" in outside(bound)
    for ceilings in ({}, {OUTSIDE: 0.9}):
        before = dataclasses.replace(bound, claims=[], ceilings=ceilings)
        assert "run `jaxsim validate` again" in outside(before)


def test_every_predictor_is_in_the_table_of_claims(validation):
    (title, rows), _ = claims.tables(validation)
    assert title == "tested over 1 out-of-pool domain"
    assert [row[0] for row in rows] == [
        "merge", "probability average", "mean of members",
        "calibrated merge", "log-linear on ratios alone",
    ]  # fmt: skip
    (first, *_) = [c for c in validation.claims if c["kind"] == "out-of-pool"]
    assert rows[0][5].startswith(f"{first['gain']:+.2f} [")


def test_ratios_alone_are_named_if_they_were_fitted(workdir, validation):
    text = claims.baselines_sentence(validation)
    assert "the same 6 truths" in text
    assert "for log-linear on ratios alone" in text
    assert claims.baselines_sentence(validation_of(workdir, 12)) == ""


def test_what_calibration_gained(validation):
    check = {"merge": 0.05, "calibrated": 0.02, "covered": 0.92, "half": 0.04}
    one = dataclasses.replace(validation, check={OUTSIDE: check})
    (text,) = calibrated.gain_sentences(one)
    assert "falls from 0.0500 to 0.0200 bits per byte (by 60%)" in text
    assert "0.0400 to either side, holds 92% of them" in text
    check = {**check, "calibrated": 0.05}
    same = dataclasses.replace(validation, check={OUTSIDE: check})
    assert "gains nothing" in calibrated.gain_sentences(same)[0]
    unknown = dataclasses.replace(one, unit="unknown")
    assert calibrated.gain_sentences(unknown) == []


def test_what_it_learned_from(workdir, validation):
    assert calibrated.fitted_on(validation) == (
        "Fitted on 6 truths chosen for it and judged on 12 others"
    )
    alone = validation_of(workdir, 12)
    assert "predicted from the others" in calibrated.fitted_on(alone)


def learned(validation, noise, *errors):
    rows = [{"truths": 0, "error": 1.0}]
    rows += [
        {"truths": 3 + i, "error": error} for i, error in enumerate(errors)
    ]
    return dataclasses.replace(
        validation,
        fit=[f"fit-{i}" for i in range(2 + len(errors))],
        learning=rows,
        learning_target=OUTSIDE,
        noise=noise,
    )


def test_the_curve_is_found_again(validation):
    a, b = 0.01**2, 0.04**2
    errors = [(a + b / k) ** 0.5 for k in (3, 4, 5, 6)]
    one = learned(validation, {OUTSIDE: 0.0001}, *errors)
    assert calibrated.curve(one.learning) == pytest.approx((a, b))
    gain = (a + b / 6) ** 0.5 - (a + b / 7) ** 0.5
    text = calibrated.next_truth_sentence(one)
    assert f"by about {gain:.5f} bits per byte" in text
    assert "above the noise of a run (0.00010): it is worth training" in text
    noisy = dataclasses.replace(one, noise={OUTSIDE: 0.1})
    assert "stop here" in calibrated.next_truth_sentence(noisy)
    unknown = dataclasses.replace(one, noise={})
    assert "not known without repeats" in calibrated.next_truth_sentence(
        unknown
    )


def test_errors_that_do_not_fall_promise_nothing(validation):
    flat = learned(validation, {OUTSIDE: 0.01}, 0.02, 0.03, 0.04)
    text = calibrated.next_truth_sentence(flat)
    assert text.endswith("promise nothing.")


def test_two_points_are_no_curve(validation):
    assert calibrated.curve(learned(validation, {}, 0.2, 0.1).learning) is None
    two = learned(validation, {}, 0.2, 0.1)
    assert calibrated.next_truth_sentence(two) == ""


def test_the_gauge_in_words():
    text = " ".join(t for _, t in gauge_sentences(gauge_of()))
    assert "cosines of 0.25 to 0.40" in text
    assert "0.4 % (macro in-pool) and 0.31 % (macro)" in text.replace(
        ",", " and"
    )
    assert f"averages: -0.0310 ({MEMBERS[0]} + {MEMBERS[1]})" in text
    assert "at most 4 windows" in text
    assert "noise of training, which was not measured" in text
    assert "nothing to rank" not in text
    bound = dataclasses.replace(gauge_of(noise_bound=True), windows=0)
    text = " ".join(t for _, t in gauge_sentences(bound))
    assert "nothing to rank" in text and "all windows" in text


def test_a_gauge_without_text_resolves_nothing():
    blind = dataclasses.replace(gauge_of(), resolution=dict.fromkeys(DRIFT))
    text = dict(gauge_sentences(blind))["Resolution"]
    assert "too little text" in text


def test_no_gauge_is_said():
    ((_, text),) = gauge_sentences(None)
    assert "Not gauged" in text and "jaxsim validate" in text


def test_domains_that_calibration_harms_are_named(validation):
    better = {"merge": 0.2, "calibrated": 0.1, "covered": 1.0, "half": 0.3}
    worse = better | {"calibrated": 0.3}
    names = [
        t
        for t, k in zip(validation.targets, validation.kinds, strict=True)
        if k != "macro"
    ]
    check = dict.fromkeys(validation.targets, better)
    one = dataclasses.replace(validation, check=check | {names[1]: worse})
    text = calibrated.harmed_sentence(one)
    assert text == f"The error rises in 1 of {len(names)} domains: {names[1]}"
    # A macro is told apart, and not counted again.
    macro = dataclasses.replace(validation, check=check | {IN_POOL: worse})
    assert calibrated.harmed_sentence(macro) == ""


def test_a_ceiling_that_may_lie_on_either_side_is_not_judged(validation):
    def bound(ceiling, *bounds):
        one = dataclasses.replace(
            validation,
            ceilings={OUTSIDE: ceiling},
            ceiling_intervals={OUTSIDE: list(bounds)},
        )
        return study(one)["ceilings"][0][-1]

    assert bound(0.95, 0.91, 0.99) == "no"
    assert bound(0.8, 0.6, 0.85) == "yes"
    assert bound(0.95, 0.44, 0.99) == "cannot be told"
    assert bound(0.8, None, None) == "yes"
