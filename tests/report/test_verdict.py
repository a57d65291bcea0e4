"""One word on trust: each outcome, and what leads to it."""

import dataclasses

import pytest

from jaxsim.report.verdict import verdict
from jaxsim.validation.measured import targets_of

from .workdirs import OUTSIDE, diagnostics_of, validation_of

GOOD = {"noise": 0.002, "bend": 0.0}


def changed(validation, target=OUTSIDE, **figures):
    """Other figures of the calibrated merge on a target."""
    table = validation.agreement[target]
    row = {**table["calibrated merge"], **figures}
    table = {**table, "calibrated merge": row}
    agreement = {**validation.agreement, target: table}
    return dataclasses.replace(validation, agreement=agreement)


def claimed(validation, predictor="calibrated merge", **figures):
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


def test_before_reference_runs_it_is_the_diagnoses_word():
    for word in ("trust", "trust ranks only", "do not trust"):
        found = verdict(diagnostics_of(word), None)
        assert found.word == word and not found.by_references
        assert found.reasons[0] == f"the reason for '{word}'"
    early = verdict(diagnostics_of("trust"), None)
    assert "not known yet (0 held-out runs" in early.reasons[-1]
    assert "Only reference runs can say" in early.meaning
    assert "hold within the intervals" not in early.meaning


def test_few_reference_runs_leave_it_to_the_diagnostics(workdir):
    few = validation_of(workdir, 11, **GOOD)
    found = verdict(diagnostics_of("trust ranks only"), few)
    assert found.word == "trust ranks only" and not found.by_references
    assert "not known yet (11 held-out runs, fewer than 12)" in found.reasons[-1]


def test_without_a_diagnostics_and_reference_runs_nothing_is_known(workdir):
    assert verdict(None, None).word == "not known"
    assert verdict(None, validation_of(workdir, 5)).word == "not known"
    assert "jaxsim validate" in verdict(None, None).meaning


def test_the_diagnostics_finds_nothing_to_rank():
    diagnostics = diagnostics_of("trust", below_noise=True)
    repeated = verdict(dataclasses.replace(diagnostics, replicates=4), None)
    assert repeated.word == "below the noise floor: nothing can be told apart"
    # Without repeats it is the text that resolves nothing.
    found = verdict(diagnostics, None)
    assert found.word.startswith("not resolved")
    assert "Training noise was not measured" in found.meaning


def test_good_reference_runs_are_trusted_with_or_without_a_diagnostics(good):
    for diagnostics in (
        None,
        diagnostics_of("trust"),
        diagnostics_of("trust ranks only"),
    ):
        found = verdict(diagnostics, good)
        assert found.word == "trust" and found.by_references
        assert "less than half" in found.reasons[-1]


def test_no_reference_run_saves_a_pool_that_the_diagnostics_refuses(good):
    assert verdict(diagnostics_of("do not trust"), good).word == "do not trust"


@pytest.mark.parametrize("bounds", [[0.0, 0.9], [-0.2, 0.5], None])
def test_a_rank_correlation_that_reaches_zero(good, bounds):
    found = verdict(None, claimed(good, spearman_interval=bounds))
    assert found.word == "do not trust"
    other = claimed(good, predictor="merge", spearman_interval=bounds)
    assert verdict(None, other).word == "trust"


def test_noise_binds_what_matters(good):
    low = {**good.ceilings, OUTSIDE: 0.89}
    found = verdict(None, dataclasses.replace(good, ceilings=low))
    assert found.word == "below the noise floor: nothing can be told apart"
    inside = dict.fromkeys(good.ceilings, 0.5) | {OUTSIDE: 0.9}
    found = verdict(None, dataclasses.replace(good, ceilings=inside))
    assert found.word == "trust"


def test_without_replicates_the_diagnostics_knows_of_noise(good):
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
    [(0.45, "trust", "less than half"),
     (0.55, "trust ranks only", "more than half"),
     (1.05, "trust ranks only", "more than all")],
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


def test_merges_without_calibration_are_no_levels(good):
    points = {k: v for k, v in good.points.items() if k != "calibrated merge"}
    found = verdict(None, dataclasses.replace(good, points=points))
    assert found.word == "trust ranks only"
    assert "not calibrated" in found.reasons[-1]


def test_without_a_domain_outside_the_macro_inside_decides(good):
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
