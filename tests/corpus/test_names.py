"""Names that are no safe paths, or too similar, are refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxsim.config import RecipeConfig
from jaxsim.corpus.names import (
    Labels,
    check_domain,
    check_free,
    check_name,
    check_twins,
)
from jaxsim.errors import UserError
from jaxsim.scoring.table import (
    base_row,
    dirichlet,
    macro,
    proportional,
    subsets,
    uniform,
)
from jaxsim.scoring.targets import MACROS, Targets
from jaxsim.train import member_run, reference_run, replicate_of
from jaxsim.validation.diagnostics import line_table


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "a\0b", "a\nb",
        "a\x7fb", "\ud800", ".hidden", "-rf", " a", "a ", "x" * 101,
        "\u00e9" * 51, "e\u0301", "a\u200bb", "a\u2028b", "a[b]", "a*", "a?",
    ],
)  # fmt: skip
def test_a_hostile_name_is_refused(name):
    with pytest.raises(UserError) as error:
        check_name(name, "partition")
    assert repr(name[:200]) in str(error.value)


@pytest.mark.parametrize(
    "name", ["a", "1790-1809", "history, 1790-1809", "\u00e9" * 50, "x" * 100]
)
def test_a_plain_name_is_kept(name):
    assert check_name(name, "partition") == name


def test_every_label_of_the_program_is_refused_as_a_name():
    """So no allowed name of a member or domain is ever the label of something else."""
    members = ("a", "b x", "reference", "\u00e9.replicate", "1790-1809")
    groups = ("g", "g", "group", "group", "h 1")
    run = reference_run(dict.fromkeys(members, 0.2), RecipeConfig())
    kinds = {"in": True, "in too": True, "out": False, "out too": False}
    labels = {
        *(Labels.NAME, Labels.SCALE, Labels.UNIT, Labels.MIXTURE),
        *(Labels.OBJECTIVE, run.name),
        *(replicate_of(r).name for r in (run, member_run("a", RecipeConfig()))),
        *map(Labels.FOUND.format, (1, 20)),
    }
    for table in (
        base_row(members), uniform(members), proportional(members, [1, 2, 3, 4, 5]),
        macro(members, groups), subsets(members, 2, 5), dirichlet(members, 12, 1.0, 0),
        line_table(members, members, {"uniform": list(members)}),
    ):  # fmt: skip
        labels |= {*table.names} - {*members}
    targets = Targets.of(
        SimpleNamespace(
            domains=tuple(kinds), in_pool=tuple(kinds.values()), groups=tuple(kinds)
        ),
        np.ones(len(kinds), bool),
    )
    labels |= {*targets.all, *MACROS} - {*kinds}
    assert len(labels) > 60
    for label in labels:
        for spelled in (label, label.upper()):
            with pytest.raises(UserError, match="choose another name"):
                check_free(spelled, "partition")
    with pytest.raises(UserError, match="longer than 100 bytes"):
        check_free("x" * 95, "partition")  # that of its replicate is
    for name in (*members, *groups, *kinds, "grouped", "basement", "found it", "x 2"):
        assert check_free(name, "partition") == name


@pytest.mark.parametrize(
    "twins", [("Physics", "physics"), ("\u00e9", "e\u0301"), ("stra\u00dfe", "STRASSE")]
)
def test_names_that_differ_in_case_or_unicode_form_are_refused(twins):
    with pytest.raises(UserError, match="rename"):
        check_twins(["other", *twins])
    check_twins(["other", twins[0]])


@pytest.mark.parametrize("name", ["web", "mmlu/abstract algebra", "code/C++"])
def test_domains_have_names_of_two_levels(name):
    assert check_domain(name, "here") == name


@pytest.mark.parametrize(
    "name", ["a/b/c", "/a", "a/", "a/..", "../a", "base/x", "a/b + c", "a/b*", "a\\b"]
)
def test_other_slashes_are_refused(name):
    with pytest.raises(UserError, match="here"):
        check_domain(name, "here")
    with pytest.raises(UserError):
        check_free(name, "here")
