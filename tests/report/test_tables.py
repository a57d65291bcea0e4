"""Console tables: what must be said, and what must not."""

import dataclasses
import re

import pytest

from jaxsim.corpus import open_corpus
from jaxsim.mixture.evaluation import gather
from jaxsim.pool import open_pool
from jaxsim.report import agreement
from jaxsim.report.answer import shown_rows
from jaxsim.report.tables import (
    show_agreement,
    show_chosen,
    show_found,
    show_members,
    show_pool,
    show_scores,
)

from .workdirs import (
    MEMBERS,
    OUTSIDE,
    as_before,
    chosen_of,
    found_of,
    reference_scores,
    validation_of,
)


def said(capsys):
    """What was printed, with what the tables folded joined again."""
    return " ".join(capsys.readouterr().out.split())


def test_pool(workdir, capsys):
    show_pool(open_pool(workdir))
    out = said(capsys)
    assert "members of the pool (3)" in out
    for name in MEMBERS:
        assert f"{name} 256 1.50 2.0000 3.0 s" in out


def test_members_are_best_on_their_own_domains(workdir, capsys):
    scores = reference_scores(gather(open_corpus(workdir)))
    show_members(scores)
    out = said(capsys)
    assert f"mixture macro in-pool {OUTSIDE}" in out
    for name in ("seed", *MEMBERS, "uniform", "proportional"):
        assert name in out
    for name in MEMBERS:
        assert re.search(rf"{re.escape(name)} {re.escape(name)} \d", out)
    assert "best single one for 3 of 3 in-pool domains" in out
    assert "OVERRIDE" not in out


def test_members_carry_the_marks_of_an_override(workdir, capsys):
    evaluation = gather(open_corpus(workdir))
    show_members(reference_scores(evaluation, ("member alpha is damaged",)))
    assert "OVERRIDE: member alpha is damaged" in said(capsys)


def test_scores_by_every_proxy(workdir, capsys):
    scores = reference_scores(gather(open_corpus(workdir)), ("a mark",))
    show_scores(scores)
    out = said(capsys)
    assert f"best of {len(scores.table)} mixtures by the merge on" in out
    for word in ("merge", "probability", "average", "mean of", "members"):
        assert word in out
    bits_MD = scores.bits_per_byte("merge", "select")
    outside = scores.evaluation.domains.index(OUTSIDE)
    # By every proxy, which here are all the same.
    for bits in bits_MD[:, outside]:
        assert " ".join([f"{bits:.4f}"] * 3) in out
    assert "OVERRIDE: a mark" in out


@pytest.mark.parametrize(("truths", "enough"), [(11, False), (12, True)])
def test_interval_or_points(workdir, capsys, truths, enough):
    show_agreement(validation_of(workdir, truths))
    out = said(capsys)
    assert bool(re.search(r"\d \[-?[01]\.\d\d, -?[01]\.\d\d\]", out)) == enough
    assert ("the points" in out) != enough
    assert ("truth-10" in out) != enough


def test_agreement_has_rules_and_groups(workdir, capsys):
    validation = validation_of(workdir, 5, fit=4, notes=("a mark",))
    show_agreement(validation)
    out = said(capsys)
    for predictor in (
        "merge",
        "probability average",
        "mean of members",
        "no model: membership",
        "no model: closeness",
        "no model: best single weight",
        "no model: random",
    ):
        assert predictor in out
    for group in (
        "macro in-pool",
        "mean over 3 in-pool domains",
        f"out-of-pool domain {OUTSIDE}",
    ):
        assert f"agreement with 5 trained truths: {group}" in out
    assert "noise: not measured (no repeats)" in out
    assert "calibrated merge" in out
    assert "the truth's repeat" not in out
    assert "Merge or no model (out-of-pool): Over 1 out-of-pool domain" in out
    assert "OVERRIDE: a mark" in out


def test_agreement_names_the_ceilings(workdir, capsys):
    show_agreement(validation_of(workdir, 12, repeats=3))
    out = said(capsys)
    assert "from 3 repeated: macro in-pool 0." in out
    assert "not measured" not in out


def test_a_mean_over_domains_has_no_interval(workdir):
    validation = validation_of(workdir, 12)
    for group in agreement.groups(validation):
        line = agreement.lines(validation, group)[0]
        assert (line.interval is None) == (len(group.targets) > 1)


@pytest.mark.parametrize("trained", [False, True])
def test_found(capsys, trained):
    found = plain_names(found_of(trained))
    show_found(found)
    out = said(capsys)
    heading = found.ties["heading"]
    assert out.startswith(f"{heading} (2 of 40 mixtures, for {OUTSIDE})")
    for row in found.rows:
        assert (
            f"{row['name']} 1/{len(row['weights'])} each {row['select']:.4f} "
            f"{row['report']:.4f} {row['probability']:.4f} "
            f"{row['members']:.4f} {row['difference']:+.4f}"
        ) in out
    assert "WARNING: " in out and "would repeat 2.5 times" in out
    for sentence in ("What binds: ", "Certificate: were", "The race dropped"):
        assert sentence in out


def test_found_shows_the_shift_where_merges_are_calibrated(capsys):
    found = plain_names(found_of(trained=True))
    for row in found.rows:
        row["shift"] = 0.0123
    show_found(found)
    assert "shift" not in said(capsys)
    show_found(dataclasses.replace(found, calibrated=True))
    out = said(capsys)
    assert "2.3000 +0.0123 +0.0000" in out
    assert "shifted by +0.0123" in out


def test_found_of_before_has_the_merge_alone(capsys):
    show_found(as_before(found_of()))
    out = said(capsys)
    for absent in ("mean of members", "Certificate", "percent", "WARNING"):
        assert absent not in out
    assert "2.0100" in out


def test_found_says_that_nothing_beats_uniform(capsys):
    show_found(found_of(tied=4))
    assert said(capsys).startswith("Nothing is shown to beat uniform. ties")


def test_found_of_twelve_members_is_no_wall(capsys):
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
        },
    )
    show_found(found)
    out = capsys.readouterr().out.splitlines()
    assert len(out) <= 40
    assert any("and 34 more that tie" in line for line in out)


def test_the_next_percent_shows_both_ends(capsys):
    names = [f"m{i}" for i in range(9)]
    found = dataclasses.replace(
        found_of(),
        marginal={
            "members": names,
            "domains": [OUTSIDE],
            "bits_DC": [[0.001 * (i - 4) for i in range(9)]],
        },
    )
    show_found(found)
    out = said(capsys)
    for name, value in (("m0", -4), ("m2", -2), ("m6", 2), ("m8", 4)):
        assert f"{name} {value:+.2f}" in out
    assert "m4 " not in out
    assert "by the merge, to first order" in out


def test_chosen(capsys):
    found = found_of(trained=True)
    show_chosen(chosen_of(found, trained=2.1875), found, None)
    out = said(capsys)
    assert f"the best {OUTSIDE} 2.1875 2.1000 2.1100 2.1200 +0.0875" in out
    assert "even macro in-pool 2.2275 2.1400" in out
    assert "trained it has 2.1875 bits per byte" in out
    assert "too few earlier truths" in out


def test_chosen_carries_the_marks_of_an_override(capsys):
    chosen = dataclasses.replace(chosen_of(found_of()), notes=["a mark"])
    show_chosen(chosen, None, None)
    assert "OVERRIDE: a mark" in said(capsys)


def plain_names(found):
    """Names that no table folds."""
    rows = [dict(row, name=f"row {i}") for i, row in enumerate(found.rows)]
    return dataclasses.replace(found, rows=rows)


def test_a_name_is_no_style(capsys):
    found = dataclasses.replace(found_of(), target={"a [red] domain": 1.0})
    show_found(found)
    assert "for a [red] domain)" in said(capsys)


def test_the_best_single_member_is_shown_however_late_it_ties():
    found = found_of(tied=4)
    many = [{**found.rows[0], "name": f"mixture {i}"} for i in range(20)]
    single = {
        **found.rows[0], "name": "alone", "weights": {MEMBERS[0]: 1.0},
        "scale": 1.0,
    }  # fmt: skip
    rows = [*many, single, *found.rows]
    names = [
        row["name"]
        for row in shown_rows(dataclasses.replace(found, rows=rows), 8)
    ]
    assert names[:8] == [f"mixture {i}" for i in range(8)]
    assert names[8:] == ["alone", "uniform"]
