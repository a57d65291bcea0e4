"""What the section on trust says: claims, calibration, diagnostics, when to stop."""

import dataclasses

import pytest

from jaxsim.report import agreement, trust
from jaxsim.scoring.targets import IN_POOL

from .workdirs import DRIFT, MEMBERS, OUTSIDE, diagnostics_of, validation_of


@pytest.fixture
def validation(workdir):
    return validation_of(workdir, 12, replicates=4, calibration_runs=6)


def claimed(validation, **figures):
    """Other figures of every claim about out-of-pool domains."""
    changed = [
        {**c, **figures} if c["kind"] == "out-of-pool" else c for c in validation.claims
    ]
    return dataclasses.replace(validation, claims=changed)


def outside(validation):
    """The table of claims about out-of-pool domains."""
    return agreement.claims_by_kind(agreement.claims(validation))[0]


@pytest.mark.parametrize(
    ("bounds", "meaning"),
    [
        ([0.01, 0.9], "better"),
        ([-0.9, -0.01], "worse"),
        ([-0.1, 0.5], "not told apart"),
        (None, "not tested (it takes 12 runs)"),
    ],
)
def test_a_difference_is_tested(validation, bounds, meaning):
    table = outside(claimed(validation, gain=0.123, gain_interval=bounds))
    assert {row["meaning"] for row in table.rows} == {meaning}
    text = table.rows[0]["gain"].shown_signed()
    assert text.startswith("+0.12")
    if bounds:
        assert f"[{bounds[0]:.2f}, {bounds[1]:.2f}]" in text


def test_few_reference_runs_are_not_tested(workdir):
    for row in outside(validation_of(workdir, 11)).rows:
        assert row["meaning"].startswith("not tested")
        assert "[" not in row["gain"].shown_signed()


def test_claims_name_the_rule_and_the_ceiling(validation):
    table = outside(
        claimed(validation, rule="closeness", rule_spearman=0.3, ceiling=0.97)
    )
    row = table.rows[0]
    assert (row["rule"], row["rule_spearman"]) == ("closeness", 0.3)
    assert row["ceiling"] == 0.97
    none = outside(
        claimed(validation, rule=None, rule_spearman=None, gain=None,
                gain_interval=None)
    )  # fmt: skip
    assert {row["meaning"] for row in none.rows} == {"without a baseline"}
    assert "difference" not in [c.heading for c in none.visible]


def test_mixtures_alone_are_named_if_they_were_fitted(workdir, validation):
    tables = agreement.claims_by_kind(agreement.claims(validation))
    table = tables[-1]
    assert "log-linear on weights" in [row["label"] for row in table.rows]
    assert "fitted on the calibration runs" in table.note
    assert tables[0].note == ""  # what holds for both is said once
    alone = agreement.claims(validation_of(workdir, 12))
    assert "fitted on" not in alone.note and alone.note


def test_nothing_is_claimed_where_noise_binds(validation):
    bound = dataclasses.replace(
        validation,
        claims=[c for c in validation.claims if c["kind"] == "in-pool"],
        ceilings={**validation.ceilings, OUTSIDE: 0.89},
    )
    ((word, text),) = trust.unclaimed(bound)
    assert "out-of-pool" in word and "below the noise floor" in text
    assert trust.unclaimed(validation) == []


def test_every_predictor_is_in_the_table_of_claims(validation):
    table, _ = agreement.claims_by_kind(agreement.claims(validation))
    assert table.title.endswith("baselines, over 1 out-of-pool domain")
    assert [row["label"] for row in table.rows][:5] == [
        "merge", "ensemble", "mean of members", "calibrated merge",
        "log-linear on weights",
    ]  # fmt: skip
    (first, *_) = [c for c in validation.claims if c["kind"] == "out-of-pool"]
    gain = table.rows[0]["gain"].shown_signed()
    assert gain.startswith(f"{first['gain']:+.2f} [")


def test_the_diagnostics_in_words():
    text = " ".join(t for _, t in trust.diagnostics(diagnostics_of()))
    assert "weight deltas: 0.25 to 0.40" in text
    assert "0.4 % (macro in-pool) and 0.31 % (macro)" in text.replace(",", " and")
    assert f"averages: -0.0310 ({MEMBERS[0]} + {MEMBERS[1]})" in text
    assert "at most 4 windows" in text
    assert "training noise, which was not measured" in text
    assert "nothing to rank" not in text
    bound = dataclasses.replace(diagnostics_of(below_noise=True), windows=0)
    text = " ".join(t for _, t in trust.diagnostics(bound))
    assert "nothing to rank" in text and "all windows" in text


def test_a_diagnostics_without_text_resolves_nothing():
    blind = dataclasses.replace(diagnostics_of(), resolution=dict.fromkeys(DRIFT))
    text = dict(trust.diagnostics(blind))["Resolution"]
    assert "too little text" in text


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


def checked(validation, **rows):
    row = {"merge": 0.05, "calibrated": 0.02, "covered": 0.92, "split": 0.04}
    check = dict.fromkeys(validation.targets, row)
    return dataclasses.replace(validation, check=check | rows)


def test_what_calibration_gained(validation):
    table = agreement.check(checked(validation))
    shown = [c.show(table.rows[0][c.key]) for c in table.visible]
    assert shown[1:] == ["0.0500", "0.0200", "-60%", "0.0400", "92%"]
    unknown = dataclasses.replace(checked(validation), unit="unknown")
    assert agreement.check(unknown).rows == ()
    assert trust.calibration_sentence(unknown) == ""


def test_what_it_learned_from(workdir, validation):
    text = trust.calibration_sentence(checked(validation))
    assert text == (
        "Fitted on 6 calibration runs and judged on 12 held-out runs. The "
        "error falls in 4 of 4 domains."
    )
    alone = checked(validation_of(workdir, 12))
    assert "predicted from the others" in trust.calibration_sentence(alone)


def test_domains_that_calibration_harms_are_named(validation):
    worse = {"merge": 0.05, "calibrated": 0.06, "covered": 1.0, "split": 0.1}
    harmed = checked(validation, **{MEMBERS[1]: worse})
    text = trust.calibration_sentence(harmed)
    assert text.endswith(f"falls in 3 of 4 domains, but not in {MEMBERS[1]}.")
    # A macro is told apart, and not counted again.
    macro = trust.calibration_sentence(checked(validation, **{IN_POOL: worse}))
    assert macro.endswith("in 4 of 4 domains.")
