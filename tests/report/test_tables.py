"""Console tables: what must be said, and what must not."""

import dataclasses
import re

import numpy as np
import pytest

from jaxsim.corpus import open_corpus
from jaxsim.pool import open_pool
from jaxsim.report import agreement, tables
from jaxsim.report.show import show, show_agreement, show_chosen, show_search
from jaxsim.report.table import Estimate, number, percent, short, signed
from jaxsim.report.tables import (
    constraint_words,
    marginal,
    mixtures,
    objective,
    shown_mixtures,
    sources,
    tradeoff,
)
from jaxsim.scoring.evaluation import gather

from .workdirs import (
    MEMBERS,
    OUTSIDE,
    chosen_of,
    closed_of,
    found_of,
    reference_scores,
    validation_of,
)


def test_zero_has_no_minus():
    for value in (-1e-9, -0.0, np.float32(-1e-9), np.float64(-1e-9)):
        shown = number(value), signed(value, 2), percent(value)
        assert shown == ("0.0000", "+0.00", "0%")
    assert (number(-1, 2), signed(2), percent(-0.014, 1)) == (
        "-1.00",
        "+2.0000",
        "-1.4%",
    )
    assert Estimate(-1e-9, (-0.001, 0.2)).shown() == "0.00 [0.00, 0.20]"


def said(capsys):
    """What was printed, with what the tables folded joined again."""
    return " ".join(capsys.readouterr().out.split())


def test_pool(workdir, capsys):
    show(tables.members(open_pool(workdir).manifests("member")))
    out = said(capsys)
    assert "members of the pool (3)" in out
    for name in MEMBERS:
        assert f"{name} 256 1.50 2.0000 3.0 s" in out


def test_losses_of_the_standard_mixtures(workdir, capsys):
    scores = reference_scores(gather(open_corpus(workdir)))
    show(tables.standard_bits(scores))
    out = said(capsys)
    assert f"mixture macro in-pool {OUTSIDE}" in out
    for name in ("base", *MEMBERS, "uniform", "proportional"):
        assert name in out
    assert "bits per byte on all dev text" in out
    assert "OVERRIDE" not in out


def test_members_carry_the_marks_of_an_override(workdir, capsys):
    evaluation = gather(open_corpus(workdir))
    scores = reference_scores(evaluation, ("member alpha is damaged",))
    show(tables.standard_bits(scores))
    assert "member alpha is damaged" in said(capsys)


def test_scores_by_every_predictor(workdir, capsys):
    scores = reference_scores(gather(open_corpus(workdir)), ("a mark",))
    show(tables.scores(scores))
    out = said(capsys)
    assert f"best of {len(scores.table)} mixtures by the merge on" in out
    for word in ("merge", "ensemble", "mean of", "members"):
        assert word in out
    bits_MD = scores.bits_per_byte("merge", "dev")
    outside = scores.evaluation.domains.index(OUTSIDE)
    # By every predictor, which here are all the same.
    for bits in bits_MD[:, outside]:
        assert " ".join([f"{bits:.4f}"] * 3) in out
    assert "a mark" in out


@pytest.mark.parametrize(("reference_runs", "enough"), [(11, False), (12, True)])
def test_interval_or_points(workdir, capsys, reference_runs, enough):
    show_agreement(validation_of(workdir, reference_runs))
    out = said(capsys)
    assert bool(re.search(r"\d \[-?[01]\.\d\d, -?[01]\.\d\d\]", out)) == enough
    assert ("points: " in out) != enough
    assert ("reference-10" in out) != enough


def test_agreement_has_baselines_and_groups(workdir, capsys):
    validation = validation_of(workdir, 5, calibration_runs=4, notes=("a mark",))
    show_agreement(validation)
    out = said(capsys)
    for predictor in (
        "merge",
        "ensemble",
        "mean of members",
        "baseline: membership",
        "baseline: closeness",
        "baseline: best single weight",
        "baseline: random",
    ):
        assert predictor in out
    for group in (
        "macro in-pool",
        "mean over 3 in-pool domains",
        f"out-of-pool domain {OUTSIDE}",
    ):
        assert f"agreement with 5 held-out runs: {group}" in out
    assert "Not measured (no replicates)" in out
    assert "calibrated merge" in out
    assert "replicates 0" not in out
    assert "predictors and baselines, over 1 out-of-pool domain" in out
    assert "a mark" in out


def test_agreement_names_the_ceilings(workdir, capsys):
    show_agreement(validation_of(workdir, 12, replicates=3))
    out = said(capsys)
    assert "Noise: 3 replicates." in out
    assert "Not measured" not in out


@pytest.mark.parametrize("trained", [False, True])
def test_found(capsys, trained):
    found = plain_names(found_of(trained))
    show_search(found)
    out = said(capsys)
    heading = found.ties["heading"]
    assert out.startswith(f"{heading} (2 of 40 mixtures, for {OUTSIDE})")
    assert "2.0000 - - yes" in out
    for row in found.rows[1:]:
        gain, limit = (-100 * row[key] / 2.0 for key in ("difference", "limit"))
        tied = "yes" if row["tied"] else "no"
        assert f"{row['dev']:.4f} {gain:+.1f} {limit:+.1f} {tied}" in out
    assert out.count("row 3 2.0300") == 1
    assert short(f"at most 50.0% of {MEMBERS[0]}", 40) in out
    assert "0.0007 1 percentage point" in out
    assert "at most 2 sources not known" in out


def test_found_shows_the_shift_where_merges_are_calibrated(capsys):
    found = plain_names(found_of(trained=True))
    for row in found.rows:
        row["shift"] = 0.0123
    show_search(found)
    assert "calibrated with reference runs" not in said(capsys)
    show_search(dataclasses.replace(found, calibrated=True))
    out = said(capsys)
    assert "2.0123 - - yes" in out
    assert "calibrated with reference runs" in out
    assert "shifts the merges by +0.0123" in out


def test_a_search_over_twelve_members_stays_short(capsys):
    found = plain_names(found_of(trained=True, tied=3))
    names = [f"19{i}0-19{i}9" for i in range(12)]
    more = {"name": "x", "weights": {n: 1 / 12 for n in names}}
    rows = [dict(found.rows[0], **more) for _ in range(40)]
    domains = [f"domain {i}" for i in range(13)]
    found = dataclasses.replace(
        found,
        rows=[*rows, *found.rows[1:]],
        target=dict.fromkeys(domains, 1.0),
        marginal={
            "members": names,
            "domains": domains,
            "bits_DC": [[0.001 * i for i in range(12)]] * 13,
            "objective_C": [0.001 * i for i in range(12)],
        },
    )
    show_search(found)
    out = capsys.readouterr().out.splitlines()
    assert len(out) <= 42
    assert any("37 more rows in" in line for line in out)


def test_marginal_values_show_both_ends(capsys):
    names = [f"m{i}" for i in range(9)]
    found = dataclasses.replace(
        found_of(),
        marginal={
            "members": names,
            "domains": [OUTSIDE],
            "bits_DC": [[0.001 * (i - 4) for i in range(9)]],
            "objective_C": [0.001 * (i - 4) for i in range(9)],
        },
    )
    show_search(found)
    out = said(capsys)
    for name, value in (("m0", 4), ("m2", 2), ("m6", -2), ("m8", -4)):
        assert f"{name} {value:+.2f}" in out
    assert "m4 " not in out
    assert "to first order" in out


def test_chosen(capsys):
    found = found_of(trained=True)
    show_chosen(chosen_of(found, trained=2.1875), found, None)
    out = said(capsys)
    assert f"the best {OUTSIDE} 2.1875 2.1000 2.1100 2.1200 -4.2" in out
    assert "even macro in-pool 2.2275 2.1400" in out
    assert "trained minus merge is +0.0875" in out
    assert "too few held-out runs" in out


def test_the_runs_of_a_mixture_are_one_row():
    found = found_of(trained=True)
    one = chosen_of(found)
    both = {
        name: {t: [*values, values[0] + 0.02] for t, values in by_target.items()}
        for name, by_target in one.points.items()
    }
    chosen = dataclasses.replace(
        one, labels=["the best", "proportional", "the best"], points=both,
        mixtures=[*one.mixtures, one.mixtures[0]],
        reference_runs=[*one.reference_runs, "reference-best-2"],
    )  # fmt: skip
    first, second = agreement.trained(chosen, found).rows
    assert first["mixture"].startswith("the answer: 1/2 each of")
    assert (first["runs"], second["runs"]) == (2, 1)
    assert first["trained"] == pytest.approx(2.19)
    assert (first["low"], first["high"]) == pytest.approx((2.18, 2.20))
    assert first["gain"] == pytest.approx(1 - 2.19 / 2.22)
    assert second["mixture"] == "proportional" and second["gain"] == 0
    alone = agreement.trained(one, found)  # nothing to count gains from
    assert alone.rows[0]["gain"] is None
    assert alone.rows[1]["mixture"].startswith("even: 1/3 each of")


def test_chosen_carries_the_marks_of_an_override(capsys):
    chosen = dataclasses.replace(chosen_of(found_of()), notes=["a mark"])
    show_chosen(chosen, None, None)
    assert "a mark" in said(capsys)


def plain_names(found):
    """Names that no table folds."""
    rows = [dict(row, name=f"row {i}") for i, row in enumerate(found.rows)]
    return dataclasses.replace(found, rows=rows)


def test_a_name_is_not_markup(capsys):
    found = dataclasses.replace(found_of(), named={"a [red] domain": 1.0})
    show_search(found)
    assert "for a [red] domain)" in said(capsys)


def test_a_mean_over_domains_has_no_interval(workdir):
    for row in agreement.agreement(validation_of(workdir, 12)).rows:
        if row["predictor"] == "merge":
            is_mean = row["on"].startswith("mean over")
            assert (row["spearman"].bounds is None) == is_mean


def test_the_best_single_member_is_shown_however_late_it_ties():
    found = found_of(tied=4)
    many = [{**found.rows[0], "name": f"mixture {i}", "group": i} for i in range(20)]
    single = {
        **found.rows[0], "name": "alone", "weights": {MEMBERS[0]: 1.0},
        "scale": 1.0, "kind": "member", "group": 20,
    }  # fmt: skip
    found = dataclasses.replace(found, rows=[*many, single, *found.rows])
    table = shown_mixtures(found, 8)
    names = [row["mixture"] for row in table.rows]
    assert names[:8] == [f"mixture {i}" for i in range(8)]
    assert names[8:] == ["alone", "uniform"]
    assert table.rows[8]["label"] == f"{short(MEMBERS[0])} alone"


def test_a_row_speaks_for_its_group_and_simple_mixtures_for_themselves():
    """Rows 0 to 4 are one group; 5 and 6, even subsets, belong to it, too."""
    found = found_of()
    weights = {MEMBERS[0]: 0.62, MEMBERS[1]: 0.38}
    many = [
        {**found.rows[0], "name": f"found {i}", "kind": "found", "group": 0}
        | {"weights": weights}
        for i in range(5)
    ]
    even = [{**found.rows[i], "group": 0} for i in range(2)]
    found = dataclasses.replace(found, rows=[*many, *even, found.rows[3]])
    labels = [row["label"] for row in shown_mixtures(found, 8).rows]
    names = [short(name) for name in MEMBERS]
    assert labels == [
        f"the answer: 62% {names[0]}, 38% {names[1]} (and 6 within 10% of its tokens)",
        f"1/2 each of {names[0]} and {names[1]}",
        f"1/2 each of {names[0]} and {names[2]}",
        "uniform",
    ]
    assert len(mixtures(found).rows) == 8  # the CSV has all of them


def test_the_tradeoff_is_counted_from_the_reference():
    rows = {row["mixture"]: row for row in tradeoff(closed_of()).rows}
    reference = rows["proportional"]
    assert reference["target"] == reference["others"] == reference["worst"] == 0
    # On the target, the first member is best; on the domain of the third, worst.
    alone = rows[f"{short(MEMBERS[0])} alone"]
    assert alone["kind"] == "member" and alone["target"] > 0 > alone["worst"]
    assert alone["worst_domain"] == MEMBERS[2]
    assert rows["the answer"]["target"] > 0
    aimed = {name: 1.0 for name in [*MEMBERS, OUTSIDE]}
    everything = dataclasses.replace(closed_of(), target={"all": aimed},
                                     weights={"all": 1.0})  # fmt: skip
    assert tradeoff(everything).rows == ()  # nothing is elsewhere


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("min_weight", "at least 12.5% of x"),
        ("max_weight", "at most 12.5% of x"),
        ("supply", "the supply of x, 12.5% of the run"),
        ("divergence", "at most 0.125 nats from the prior mixture"),
        ("max_regression", "at most 0.1250 bits per byte on x"),
    ],
)
def test_constraints_in_words(kind, words):
    row = {"name": "x", "kind": kind, "limit": 0.125}
    assert constraint_words(row) == words


def test_marginal_values_are_ordered_by_what_the_objective_gains():
    found = found_of()
    goal = [0.0009, -0.0012, 0.0003]
    changed = {**found.marginal, "objective_C": goal}
    table = marginal(dataclasses.replace(found, marginal=changed))
    members = [row["member"] for row in table.rows]
    assert members == [MEMBERS[1], MEMBERS[2], MEMBERS[0]]
    first = table.rows[0]
    assert first["gain on the objective"] == 0.0012
    assert first[f"gain on {MEMBERS[1]}"] == 0.002
    assert np.isnan(first[f"gain on {MEMBERS[2]}"])  # null there
    assert marginal(dataclasses.replace(found, marginal={})).rows == ()


def test_the_sources_of_the_best_mixture():
    table = sources(found_of(), closed_of())
    assert table.rows[1]["proportional"] == pytest.approx(2 / 6)
    assert table.rows[0]["gain"] == (0.02, (0.01, 0.03))
    assert "+2.0 [1.0, 3.0]" in [c.show(table.rows[0][c.key]) for c in table.visible]
    assert [row["member"] for row in table.rows] == list(MEMBERS)
    assert table.rows[0]["high"] == 0.7 and table.rows[0]["epochs"] == 2.5
    assert "at most 0.0125 bits per byte worse" in table.note
    assert "extrapolated; " in table.note
    found = found_of()
    for source in found.sources.values():
        source |= {"low": None, "high": None, "epochs": None, "extrapolated": False}
    table = sources(found)
    keys = ["member", "weight", "gain", "member_epochs"]
    assert [c.key for c in table.visible] == keys
    assert table.note.startswith("gain: ") and ";" not in table.note


def test_domains_of_a_worst_case_are_shown_least_gain_first():
    found = found_of()
    assert objective(found).rows == ()
    domains = {
        "a": {"base": 3.0, "best": 2.5},
        "b": {"base": 3.0, "best": 2.9, "limit": 2.95},
    }
    named = {"a": 1.0, "task": 1.0}
    means = {"task": {"base": 2.0, "best": 1.8}}
    many = domains | {"task/x": {"base": 2.0, "best": 1.0}}  # a part of a target
    table = objective(
        dataclasses.replace(found, named=named, domains=many, means=means)
    )
    assert [row["domain"] for row in table.rows] == ["b", "task", "a"]
    assert table.rows[0]["limit"] == 2.95
    only = {"a": {"base": 3.0, "best": 2.5}}
    worst = dataclasses.replace(
        found, named={"a": 1.0}, domains=only, objective="worst"
    )
    assert objective(worst).note == "with one target, the worst is the mean"


def test_an_estimate_has_an_interval_if_there_is_one():
    assert Estimate(0.5).shown() == "0.50"
    assert Estimate(0.5, (0.25, None)).shown() == "0.50"
    assert Estimate(0.5, (-0.25, 0.75)).shown() == "0.50 [-0.25, 0.75]"
    assert Estimate(0.5, (0.0, 1.0)).shown_signed() == "+0.50 [0.00, 1.00]"
    assert Estimate(None).shown() == "-"
    assert Estimate(0.0151, (-0.001, 0.03)).shown_gain() == "+1.5 [-0.1, 3.0]"
    assert Estimate(-0.02, (None, None)).shown_gain() == "-2.0"
