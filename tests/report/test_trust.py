"""What the section on trust says: claims, calibration, gauge, when to stop."""

import dataclasses

import pytest

from jaxsim.report import agreement, trust
from jaxsim.study.validate import IN_POOL

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
    return dict(trust.claim_sentences(validation))[
        "Predictors and baselines (out-of-pool)"
    ]


@pytest.mark.parametrize(
    ("bounds", "meaning"),
    [
        ([0.01, 0.9], "better than the baseline"),
        ([-0.9, -0.01], "worse than the baseline"),
        ([-0.1, 0.5], "the two cannot be told apart"),
        (None, "no interval could be computed"),
    ],
)
def test_a_difference_is_tested(validation, bounds, meaning):
    text = outside(claimed(validation, gain=0.123, gain_interval=bounds))
    assert "a difference of +0.12" in text
    every = [
        "better than the baseline", "worse than the baseline",
        "cannot be told apart", "no interval",
    ]  # fmt: skip
    assert [e for e in every if e in text] == [e for e in every if e in meaning]
    if bounds:
        assert f"[{bounds[0]:.2f}, {bounds[1]:.2f}]" in text


def test_few_truths_are_not_tested(workdir):
    text = outside(validation_of(workdir, 11))
    assert "not tested, with fewer than 12 held-out runs" in text
    assert "[" not in text


def test_claims_name_the_rule_and_the_ceiling(validation):
    text = outside(
        claimed(validation, rule="closeness", rule_spearman=0.3, ceiling=0.97)
    )
    assert "closeness with a mean Spearman of 0.30" in text
    assert "(mean noise ceiling 0.97)" in text
    for word in ("the merge has", "the ensemble has",
                 "the calibrated merge has"):  # fmt: skip
        assert word in text
    assert "log-linear" not in text
    none = outside(
        claimed(validation, rule=None, rule_spearman=None, gain=None,
                gain_interval=None)
    )  # fmt: skip
    assert "no weight-only baseline has anything to say" in none
    assert "difference" not in none


def test_nothing_is_claimed_where_noise_binds(validation):
    bound = dataclasses.replace(
        validation,
        claims=[c for c in validation.claims if c["kind"] == "in-pool"],
        ceilings={**validation.ceilings, OUTSIDE: 0.89},
    )
    assert "all of them below the noise floor" in outside(bound)


def test_every_predictor_is_in_the_table_of_claims(validation):
    table, _ = agreement.claims_by_kind(agreement.claims(validation))
    assert table.title == "tested over 1 out-of-pool domain"
    assert [row["label"] for row in table.rows][:5] == [
        "merge", "ensemble", "mean of members", "calibrated merge",
        "log-linear on weights",
    ]  # fmt: skip
    (first, *_) = [c for c in validation.claims if c["kind"] == "out-of-pool"]
    gain = table.rows[0]["gain"].shown_signed()
    assert gain.startswith(f"{first['gain']:+.2f} [")


def test_ratios_alone_are_named_if_they_were_fitted(workdir, validation):
    text = trust.baselines_sentence(validation)
    assert "the same 6 calibration runs" in text
    assert "for log-linear on weights" in text
    assert trust.baselines_sentence(validation_of(workdir, 12)) == ""


def test_what_calibration_gained(validation):
    check = {"merge": 0.05, "calibrated": 0.02, "covered": 0.92, "half": 0.04}
    one = dataclasses.replace(validation, check={OUTSIDE: check})
    (text,) = trust.calibration_gains(one)
    assert "falls from 0.0500 to 0.0200 bits per byte (by 60%)" in text
    assert "90 % intervals, +/- 0.0400, hold 92% of the runs" in text
    check = {**check, "calibrated": 0.05}
    same = dataclasses.replace(validation, check={OUTSIDE: check})
    assert "gains nothing" in trust.calibration_gains(same)[0]
    unknown = dataclasses.replace(one, unit="unknown")
    assert trust.calibration_gains(unknown) == []


def test_what_it_learned_from(workdir, validation):
    assert trust.fitted_on(validation) == (
        "Fitted on 6 calibration runs and judged on 12 held-out runs"
    )
    alone = validation_of(workdir, 12)
    assert "predicted from the others" in trust.fitted_on(alone)


def test_the_gauge_in_words():
    text = " ".join(t for _, t in trust.diagnostics(gauge_of()))
    assert "weight deltas: 0.25 to 0.40" in text
    assert "0.4 % (macro in-pool) and 0.31 % (macro)" in text.replace(
        ",", " and"
    )
    assert f"averages: -0.0310 ({MEMBERS[0]} + {MEMBERS[1]})" in text
    assert "at most 4 windows" in text
    assert "training noise, which was not measured" in text
    assert "nothing to rank" not in text
    bound = dataclasses.replace(gauge_of(noise_bound=True), windows=0)
    text = " ".join(t for _, t in trust.diagnostics(bound))
    assert "nothing to rank" in text and "all windows" in text


def test_a_gauge_without_text_resolves_nothing():
    blind = dataclasses.replace(gauge_of(), resolution=dict.fromkeys(DRIFT))
    text = dict(trust.diagnostics(blind))["Resolution"]
    assert "too little text" in text


def test_no_gauge_is_said():
    ((_, text),) = trust.diagnostics(None)
    assert (
        "nobody looked whether averages" in text and "jaxsim validate" in text
    )


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
    text = trust.harmed_sentence(one)
    assert text == f"The error rises in 1 of {len(names)} domains: {names[1]}"
    # A macro is told apart, and not counted again.
    macro = dataclasses.replace(validation, check=check | {IN_POOL: worse})
    assert trust.harmed_sentence(macro) == ""


def test_a_ceiling_that_may_lie_on_either_side_is_not_judged(validation):
    def bound(ceiling, *bounds):
        one = dataclasses.replace(
            validation,
            ceilings={OUTSIDE: ceiling},
            ceiling_intervals={OUTSIDE: list(bounds)},
        )
        return agreement.noise(one).rows[0]["below_floor"]

    assert bound(0.95, 0.91, 0.99) == "no"
    assert bound(0.8, 0.6, 0.85) == "yes"
    assert bound(0.95, 0.44, 0.99) == "cannot tell"
    assert bound(0.8, None, None) == "yes"
