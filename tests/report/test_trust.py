"""Trust: the verdict and what leads to it; claims, calibration, diagnostics."""

import dataclasses

import numpy as np
import pytest

from jaxsim.report import agreement, trust
from jaxsim.report.trust import verdict
from jaxsim.scoring.targets import IN_POOL
from jaxsim.validation.measured import targets_of

from .workdirs import DRIFT, MEMBERS, OUTSIDE, diagnostics_of, validation_of

GOOD = {"noise": 0.002, "bend": 0.0}


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
    return agreement.claims_by_kind(validation)[0]


@pytest.mark.parametrize(
    ("bounds", "meaning"),
    [
        ([0.01, 0.9], "better"),
        ([-0.9, -0.01], "worse"),
        ([-0.1, 0.5], "not distinguishable"),
        (None, "not tested (needs 12 runs)"),
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


def test_claims_name_the_baseline_and_the_ceiling(validation):
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


def test_regressions_are_named_if_they_were_fitted(workdir, validation):
    tables = agreement.claims_by_kind(validation)
    table = tables[-1]
    assert "log-linear on weights" in [row["label"] for row in table.rows]
    assert "fitted on the calibration runs" in table.note
    assert tables[0].note == ""  # what holds for both is said once
    alone = agreement.claims(validation_of(workdir, 12))
    assert "fitted on" not in alone.note and alone.note


def test_nothing_is_claimed_below_the_noise_floor(validation):
    bound = dataclasses.replace(
        validation,
        claims=[c for c in validation.claims if c["kind"] == "in-pool"],
        ceilings={**validation.ceilings, OUTSIDE: 0.89},
    )
    text = trust.noise_sentence(bound)
    assert f"so in no comparison with baselines: {OUTSIDE}." in text
    assert "in no comparison" not in trust.noise_sentence(validation)
    (table,) = agreement.claims_by_kind(bound)
    assert "in-pool domains" in table.title


def test_every_predictor_is_in_the_table_of_claims(validation):
    table, _ = agreement.claims_by_kind(validation)
    (first, *_) = [c for c in validation.claims if c["kind"] == "out-of-pool"]
    assert table.title == (
        "predictors and baselines, over 1 out-of-pool domain; best baseline: "
        f"{first['rule']}, mean Spearman {first['rule_spearman']:.2f}; "
        f"mean noise ceiling {first['ceiling']:.2f}"
    )
    assert [row["label"] for row in table.rows][:5] == [
        "merge", "ensemble", "mean of members", "calibrated merge",
        "log-linear on weights",
    ]  # fmt: skip
    gain = table.rows[0]["gain"].shown_signed()
    assert gain.startswith(f"{first['gain']:+.2f} [")


def test_the_diagnostics_in_words():
    text = " ".join(t for _, t in trust.diagnostics(diagnostics_of()))
    assert "0.25 to 0.40 between" in text
    assert "0.4% (macro in-pool) and 0.31% (macro)" in text.replace(",", " and")
    assert f"its members: -0.0310 ({MEMBERS[0]} + {MEMBERS[1]})" in text
    assert "at most 4 windows" in text
    assert "training noise, which replicates of members would measure" in text
    assert "nothing to rank" not in text
    bound = dataclasses.replace(diagnostics_of(below_noise=True), windows=0)
    text = " ".join(t for _, t in trust.diagnostics(bound))
    assert "nothing to rank" in text and "all windows" in text


def test_diagnostics_without_text_resolve_nothing():
    blind = dataclasses.replace(diagnostics_of(), resolution=dict.fromkeys(DRIFT))
    text = dict(trust.diagnostics(blind))["Resolution"]
    assert "too little text" in text


def checked(validation, **rows):
    row = {"merge": 0.05, "calibrated": 0.02, "covered": 0.92, "margin": 0.04}
    check = dict.fromkeys(validation.targets, row)
    return dataclasses.replace(validation, check=check | rows)


def test_what_calibration_gains(validation):
    table = agreement.check(checked(validation))
    shown = [c.show(table.rows[0][c.key]) for c in table.visible]
    assert shown[1:] == ["0.0500", "0.0200", "-60%", "0.0400", "92%"]
    unknown = dataclasses.replace(checked(validation), unit="unknown")
    assert agreement.check(unknown).rows == ()
    assert trust.calibration_sentence(unknown) == ""


def test_what_calibration_was_fitted_on(workdir, validation):
    text = trust.calibration_sentence(checked(validation))
    assert text == (
        "Fitted on 6 calibration runs, tested on 12 held-out runs. The "
        "error falls in 4 of 4 domains."
    )
    alone = checked(validation_of(workdir, 12))
    assert "predicted from the others" in trust.calibration_sentence(alone)


def test_domains_that_calibration_harms_are_named(validation):
    worse = {"merge": 0.05, "calibrated": 0.06, "covered": 1.0, "margin": 0.1}
    harmed = checked(validation, **{MEMBERS[1]: worse})
    text = trust.calibration_sentence(harmed)
    assert text.endswith(f"falls in 3 of 4 domains, not in {MEMBERS[1]}.")
    # A macro is not counted as a domain.
    macro = trust.calibration_sentence(checked(validation, **{IN_POOL: worse}))
    assert macro.endswith("in 4 of 4 domains.")


# The verdict.


def changed(validation, target=OUTSIDE, **figures):
    """Other figures of the calibrated merge on a target."""
    table = validation.agreement[target]
    row = {**table["calibrated merge"], **figures}
    table = {**table, "calibrated merge": row}
    agreement = {**validation.agreement, target: table}
    return dataclasses.replace(validation, agreement=agreement)


def claims_of(validation, predictor="calibrated merge", **figures):
    claims = [
        {**c, **figures} if c["predictor"] == predictor else c
        for c in validation.claims
    ]
    return dataclasses.replace(validation, claims=claims)


def covering(validation, share):
    check = {**validation.check}
    check[OUTSIDE] = {**check[OUTSIDE], "covered": share}
    return dataclasses.replace(validation, check=check)


@pytest.fixture
def good(workdir):
    return covering(
        validation_of(workdir, 12, calibration_runs=6, replicates=4, **GOOD), 0.9
    )


def test_before_reference_runs_it_is_the_word_of_the_diagnostics():
    for word in ("trust", "trust ranks only", "do not trust"):
        found = verdict(diagnostics_of(word), None)
        assert found.word == word and not found.by_references
        assert found.reasons[0] == f"the reason for '{word}'"
    early = verdict(diagnostics_of("trust"), None)
    assert "not known (0 held-out runs" in early.reasons[-1]
    assert "Only reference runs can confirm" in early.meaning
    assert "agree with held-out runs" not in early.meaning


def test_few_reference_runs_leave_it_to_the_diagnostics(workdir):
    few = validation_of(workdir, 11, **GOOD)
    found = verdict(diagnostics_of("trust ranks only"), few)
    assert found.word == "trust ranks only" and not found.by_references
    assert "not known (11 held-out runs, fewer than 12)" in found.reasons[-1]


def test_without_diagnostics_and_reference_runs_nothing_is_known(workdir):
    assert verdict(None, None).word == "not known"
    assert verdict(None, validation_of(workdir, 5)).word == "not known"
    assert "`validate`" in verdict(None, None).meaning


def test_diagnostics_below_the_noise_floor_decide():
    diagnostics = diagnostics_of("trust", below_noise=True)
    repeated = verdict(dataclasses.replace(diagnostics, replicates=4), None)
    assert repeated.word == "below the noise floor"
    # Without repeats it is the text that resolves nothing.
    found = verdict(diagnostics, None)
    assert found.word.startswith("not resolved")
    assert "Training noise was not measured" in found.meaning


def test_good_reference_runs_are_trusted_with_or_without_diagnostics(good):
    for diagnostics in (
        None,
        diagnostics_of("trust"),
        diagnostics_of("trust ranks only"),
    ):
        found = verdict(diagnostics, good)
        assert found.word == "trust" and found.by_references
        assert "mean absolute error" in found.reasons[-1]


def test_no_reference_run_saves_a_pool_that_the_diagnostics_refuse(good):
    assert verdict(diagnostics_of("do not trust"), good).word == "do not trust"


@pytest.mark.parametrize("bounds", [[0.0, 0.9], [-0.2, 0.5], None])
def test_a_rank_correlation_that_reaches_zero(good, bounds):
    """Of the one domain out of the pool, that of its table; of several, their mean."""
    rows = {n: dict(row, interval=bounds) for n, row in good.agreement[OUTSIDE].items()}
    one = dataclasses.replace(good, agreement=good.agreement | {OUTSIDE: rows})
    assert verdict(None, one).word == "do not trust"
    assert verdict(None, claims_of(good, spearman_interval=bounds)).word == "trust"
    several = {"targets": [OUTSIDE, "another"], "spearman_interval": bounds}
    found = verdict(None, claims_of(good, **several))
    assert found.word == "do not trust"
    other = claims_of(good, predictor="merge", **several)
    assert verdict(None, other).word == "trust"


def test_targets_below_the_noise_floor_decide(good):
    low = {**good.ceilings, OUTSIDE: 0.89}
    found = verdict(None, dataclasses.replace(good, ceilings=low))
    assert found.word == "below the noise floor"
    inside = dict.fromkeys(good.ceilings, 0.5) | {OUTSIDE: 0.9}
    found = verdict(None, dataclasses.replace(good, ceilings=inside))
    assert found.word == "trust"


def test_without_replicates_the_diagnostics_know_of_noise(good):
    alone = dataclasses.replace(good, ceilings={})
    assert verdict(diagnostics_of(below_noise=True), alone).word.startswith(
        "below the noise"
    )
    assert verdict(diagnostics_of(below_noise=True), good).word == "trust"


@pytest.mark.parametrize(
    ("slope", "word"),
    [(0.49, "trust ranks only"), (0.5, "trust"), (2.0, "trust"),
     (2.01, "trust ranks only"), (float("nan"), "trust ranks only")],
)  # fmt: skip
def test_slopes(good, slope, word):
    assert verdict(None, changed(good, slope=slope)).word == word


@pytest.mark.parametrize(
    ("share", "word"),
    [(0.8, "trust"), (0.79, "trust ranks only"),
     (float("nan"), "trust ranks only")],
)  # fmt: skip
def test_coverage(good, share, word):
    assert verdict(None, covering(good, share)).word == word


@pytest.mark.parametrize(
    ("share", "word", "size"),
    [(0.45, "trust", "45%"),
     (0.55, "trust ranks only", "55%"),
     (1.05, "trust ranks only", "105%")],
)  # fmt: skip
def test_errors_beside_the_spread_of_reference_runs(good, share, word, size):
    reference_runs = good.points["reference"][OUTSIDE]
    mean = sum(reference_runs) / len(reference_runs)
    spread = (
        sum((t - mean) ** 2 for t in reference_runs) / (len(reference_runs) - 1)
    ) ** 0.5
    values = {
        **good.points["calibrated merge"],
        OUTSIDE: [t + share * spread for t in reference_runs],
    }
    points = {**good.points, "calibrated merge": values}
    found = verdict(None, dataclasses.replace(good, points=points))
    assert found.word == word
    assert size in found.reasons[-1]


def test_a_unit_that_is_not_known_leaves_ranks(good):
    found = verdict(None, dataclasses.replace(good, unit="unknown"))
    assert found.word == "trust ranks only"
    assert "a unit other than" in found.reasons[-1]


def test_merges_without_calibration_leave_ranks(good):
    points = {k: v for k, v in good.points.items() if k != "calibrated merge"}
    found = verdict(None, dataclasses.replace(good, points=points))
    assert found.word == "trust ranks only"
    assert "not calibrated" in found.reasons[-1]


def test_without_an_out_of_pool_domain_the_in_pool_macro_decides(good):
    keep = [i for i, k in enumerate(good.kinds) if k != "out-of-pool"]
    inside = dataclasses.replace(
        good,
        targets=[good.targets[i] for i in keep],
        kinds=[good.kinds[i] for i in keep],
        claims=[c for c in good.claims if c["kind"] == "in-pool"],
    )
    assert targets_of(inside).level == "macro in-pool"
    bad = changed(inside, "macro in-pool", interval=(-0.1, 0.4))
    assert verdict(None, bad).word == "do not trust"
    fine = changed(inside, "macro in-pool", interval=(0.5, 0.9))
    assert verdict(None, fine).word != "do not trust"
    low = {**inside.ceilings, "macro in-pool": 0.5}
    bound = dataclasses.replace(inside, ceilings=low)
    assert verdict(None, bound).word.startswith("below the noise")


def test_reference_runs_that_differ_in_length_leave_it_to_the_diagnostics(good):
    """Longer runs have lower losses, whatever is in them."""
    found = verdict(diagnostics_of("trust"), dataclasses.replace(good, budget="sum"))
    assert not found.by_references
    assert "n times as long" in found.reasons[-1]


def test_an_error_of_zero_has_no_share(validation):
    """Runs with constant losses are predicted without error."""
    row = {"merge": 0.0, "calibrated": 0.0, "covered": np.nan, "margin": np.nan}
    table = agreement.check(dataclasses.replace(validation, check={OUTSIDE: row}))
    (change,) = (column for column in table.columns if column.key == "change")
    assert change.show(table.rows[0]["change"]) == "-"
