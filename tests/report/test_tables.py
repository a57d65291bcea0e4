"""Console tables: what must be said, and what must not."""

import dataclasses
import re

import pytest

from jaxsim.corpus import open_corpus
from jaxsim.mixture.evaluation import gather
from jaxsim.pool import open_pool
from jaxsim.report import agreement
from jaxsim.report.tables import (
    show_agreement,
    show_found,
    show_members,
    show_pool,
)

from .workdirs import (
    MEMBERS,
    OUTSIDE,
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


@pytest.mark.parametrize(("truths", "enough"), [(11, False), (12, True)])
def test_interval_or_points(workdir, capsys, truths, enough):
    show_agreement(validation_of(workdir, truths))
    out = said(capsys)
    assert bool(re.search(r"\d \[-?[01]\.\d\d, -?[01]\.\d\d\]", out)) == enough
    assert ("the points" in out) != enough
    assert ("truth-10" in out) != enough


def test_agreement_has_rules_and_groups(workdir, capsys):
    validation = validation_of(workdir, 5, notes=("a mark",))
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
    found = found_of(trained)
    show_found(found)
    out = said(capsys)
    heading = found.ties["heading"]
    assert out.startswith(f"{heading} (2 of 40 mixtures, for {OUTSIDE})")
    assert all(row["name"] in out for row in found.rows)


def test_a_name_is_no_style(capsys):
    found = dataclasses.replace(found_of(), target={"a [red] domain": 1.0})
    show_found(found)
    assert "for a [red] domain)" in said(capsys)
