"""The agreement table: its rows, and which figures are blank."""

import dataclasses

import numpy as np
import pytest

from jaxsim.report import agreement
from jaxsim.report.show import show_agreement
from jaxsim.report.trust import noise_sentence

from .workdirs import OUTSIDE, validation_of


@pytest.fixture
def validation(workdir):
    return validation_of(workdir, 12, replicates=12, calibration_runs=5)


def table_of(validation, title=OUTSIDE):
    table = agreement.agreement(validation)
    (on,) = {row["on"] for row in table.rows if title in row["on"]}
    return {row["predictor"]: row for row in table.where("on", on).rows}


def test_predictors_then_baselines_then_replicates(validation):
    labels = [row["label"] for row in table_of(validation).values()]
    assert labels[:5] == [
        "merge",
        "ensemble",
        "mean of members",
        "calibrated merge",
        "log-linear on weights",
    ]
    assert labels[-5:] == [
        "baseline: closeness",
        "baseline: best single weight",
        "baseline: number of units",
        "baseline: random",
        "replicates",
    ]


def test_without_replicates_there_is_no_ceiling(workdir):
    table = table_of(validation_of(workdir, 12))
    assert "replicate" not in table
    assert all(np.isnan(row["corrected"]) for row in table.values())


def test_a_correlation_is_divided_by_its_ceiling_above_the_noise_floor(validation):
    ceiling = {**validation.ceilings, OUTSIDE: 0.95}
    table = table_of(dataclasses.replace(validation, ceilings=ceiling))
    merge = table["merge"]
    assert merge["corrected"] == pytest.approx(merge["spearman"].value / 0.95)
    bound = {**validation.ceilings, OUTSIDE: 0.85}
    table = table_of(dataclasses.replace(validation, ceilings=bound))
    assert np.isnan(table["merge"]["corrected"])


def test_a_mean_over_ceilings_leaves_out_domains_below_the_noise_floor(validation):
    inside = [
        t
        for t, k in zip(validation.targets, validation.kinds, strict=True)
        if k == "in-pool"
    ]
    ceilings = dict.fromkeys(inside, 0.5) | {inside[0]: 1.0}
    few = dataclasses.replace(validation, ceilings=ceilings)
    merge = table_of(few, "mean over")["merge"]
    first = validation.agreement[inside[0]]["merge"]["spearman"]
    assert merge["corrected"] == pytest.approx(first)
    assert merge["spearman"].value != pytest.approx(first)


def test_files_have_every_figure(validation):
    rows = table_of(validation)
    merge = rows["merge"]
    for key in (*(c.key for c in agreement.FIGURES), "ceiling", "gain_share"):
        assert key in merge
    assert merge["gain"] == validation.agreement[OUTSIDE]["merge"]["gain"]
    on = {row["on"] for row in agreement.agreement(validation).rows}
    for target in validation.targets:
        assert any(name.endswith(target) for name in on)


def test_the_console_is_narrow(validation, capsys):
    show_agreement(validation)
    out = capsys.readouterr().out
    tables = out[: out.index("Noise: ")].splitlines()
    assert max(map(len, tables)) <= 80
    assert not any("Pearson" in line for line in tables)
    assert any("baseline: best single weight" in n for n in tables)  # whole
    claims = out[out.index("predictors and baselines") : out.index("Correlations are")]
    assert max(map(len, claims.splitlines())) <= 100


def test_ceilings_have_intervals(validation):
    low, high = validation.ceiling_intervals["macro in-pool"]
    text = noise_sentence(validation)
    assert f"[{low:.2f}, {high:.2f}]" in text
    before = dataclasses.replace(validation, ceiling_intervals={})
    assert "[" not in noise_sentence(before)


def test_levels_are_blank_for_baselines_and_in_an_unknown_unit(validation):
    table = table_of(validation)
    assert np.isfinite(table["merge"]["slope"])
    for name in ("closeness", "random", "replicate"):
        assert np.isnan(table[name]["slope"])
        assert np.isnan(table[name]["offset"])
    other = table_of(dataclasses.replace(validation, unit="unknown"))
    assert np.isnan(other["merge"]["slope"])
    assert np.isnan(other["merge"]["offset"])
    assert np.isfinite(other["merge"]["pearson"])


def test_replicates_have_no_regret_and_no_ceiling(validation):
    row = table_of(validation)["replicate"]
    assert np.isfinite(row["spearman"].value) and np.isfinite(row["pairs"])
    assert np.isnan(row["regret"]) and np.isnan(row["gain"])
    assert np.isnan(row["corrected"])


def test_agreement_within_parts_of_the_sampling_distribution(workdir, capsys):
    show_agreement(validation_of(workdir, 12))
    out = capsys.readouterr().out
    table = out[out.index("Spearman within each kind of runs") :]
    assert max(map(len, table.splitlines())) <= 100
    for part in ("dirichlet, 6 runs", "subset, 3 runs", "near the best, 3 runs"):
        assert part in table
    assert "1 out-of-pool domain" in table
    show_agreement(validation_of(workdir, 12, distributions=["subset"] * 12))
    assert "within each kind" not in capsys.readouterr().out


def test_the_ceiling_with_the_noise_of_predictions(validation, capsys):
    assert "noise of merges" not in noise_sentence(validation)
    row = {"noise": 0.01, "ceiling": 0.91, "ceiling_interval": (0.8, 0.96)}
    noisy = {target: {"merge": row} for target in validation.targets}
    claims = [claim | {"joint_ceiling": 0.91} for claim in validation.claims]
    known = dataclasses.replace(validation, predictor_noise=noisy, claims=claims)
    text = noise_sentence(known)
    assert f"With the noise of merges as well: 0.91 [0.80, 0.96] ({OUTSIDE})" in text
    show_agreement(known)
    assert "its own noise" in capsys.readouterr().out
    (first, *_) = agreement.noise(known).rows
    assert (first["joint_ceiling"].value, first["merge_noise"]) == (0.91, 0.01)
