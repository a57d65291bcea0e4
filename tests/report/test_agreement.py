"""The agreement table: who is in it, and what means nothing and is blank."""

import dataclasses

import numpy as np
import pytest

from jaxsim.report import agreement
from jaxsim.report.agreement_tables import show_agreement

from .workdirs import OUTSIDE, validation_of


@pytest.fixture
def validation(workdir):
    return validation_of(workdir, 12, repeats=12, fit=5)


def table_of(validation, title=OUTSIDE):
    (group,) = [g for g in agreement.groups(validation) if title in g.title]
    return {n.predictor: n for n in agreement.lines(validation, group)}


def test_predictors_then_rules_then_the_repeat(validation):
    labels = [n.label for n in table_of(validation).values()]
    assert labels == [
        "merge",
        "probability average",
        "mean of members",
        "calibrated merge",
        "log-linear on ratios alone",
        "closeness",
        "best single weight",
        "number of units",
        "random",
        "the truth's repeat",
    ]


def test_without_repeats_there_is_no_reference(workdir):
    table = table_of(validation_of(workdir, 12))
    assert "repeat" not in table
    assert all(np.isnan(n.values["corrected"]) for n in table.values())


def test_a_correlation_is_divided_by_its_ceiling_unless_bound(validation):
    ceiling = {**validation.ceilings, OUTSIDE: 0.95}
    table = table_of(dataclasses.replace(validation, ceilings=ceiling))
    merge = table["merge"].values
    assert merge["corrected"] == pytest.approx(merge["spearman"] / 0.95)
    bound = {**validation.ceilings, OUTSIDE: 0.85}
    table = table_of(dataclasses.replace(validation, ceilings=bound))
    assert np.isnan(table["merge"].values["corrected"])


def test_a_mean_over_domains_leaves_out_what_noise_binds(validation):
    inside = [
        t
        for t, k in zip(validation.targets, validation.kinds, strict=True)
        if k == "in-pool"
    ]
    ceilings = dict.fromkeys(inside, 0.5) | {inside[0]: 1.0}
    few = dataclasses.replace(validation, ceilings=ceilings)
    merge = table_of(few, "mean over")["merge"].values
    first = validation.agreement[inside[0]]["merge"]["spearman"]
    assert merge["corrected"] == pytest.approx(first)
    assert merge["spearman"] != pytest.approx(first)


def test_levels_mean_nothing_for_rules_and_in_an_unknown_unit(validation):
    table = table_of(validation)
    assert np.isfinite(table["merge"].values["slope"])
    for name in ("closeness", "random", "repeat"):
        assert np.isnan(table[name].values["slope"])
        assert np.isnan(table[name].values["offset"])
    other = table_of(dataclasses.replace(validation, unit="unknown"))
    assert np.isnan(other["merge"].values["slope"])
    assert np.isnan(other["merge"].values["offset"])
    assert np.isfinite(other["merge"].values["pearson"])


def test_the_repeat_chooses_among_other_truths(validation):
    values = table_of(validation)["repeat"].values
    assert np.isfinite(values["spearman"]) and np.isfinite(values["pairs"])
    assert np.isnan(values["regret"]) and np.isnan(values["gain"])
    assert np.isnan(values["corrected"])


def test_files_have_every_figure(validation):
    rows = {
        (r["target"], r["predictor"]): r for r in agreement.records(validation)
    }
    merge = rows[OUTSIDE, "merge"]
    for key in (*agreement.FIGURES, "ceiling", "gain_share"):
        assert key in merge
    assert merge["gain"] == validation.agreement[OUTSIDE]["merge"]["gain"]
    assert rows[OUTSIDE, "closeness"]["slope"] is None
    assert rows[OUTSIDE, "repeat"]["regret"] is None


def test_the_console_is_narrow(validation, capsys):
    show_agreement(validation)
    out = capsys.readouterr().out
    tables = out[: out.index("ceilings of")].splitlines()
    assert max(map(len, tables)) <= 80
    assert not any("Pearson" in line for line in tables)
    assert any("log-linear on ratios alone" in n for n in tables)  # not folded


def test_ceilings_have_intervals(validation):
    low, high = validation.ceiling_intervals["macro in-pool"]
    text = agreement.ceilings_sentence(validation)
    assert f"[{low:.2f}, {high:.2f}]" in text
    before = dataclasses.replace(validation, ceiling_intervals={})
    assert "[" not in agreement.ceilings_sentence(before)
