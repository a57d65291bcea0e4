"""Names that are no safe paths, or too similar, are refused."""

import pytest

from jaxsim.corpus.names import check_name, check_twins
from jaxsim.errors import UserError


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


@pytest.mark.parametrize(
    "twins", [("Physics", "physics"), ("\u00e9", "e\u0301"), ("stra\u00dfe", "STRASSE")]
)
def test_names_that_differ_in_case_or_unicode_form_are_refused(twins):
    with pytest.raises(UserError, match="rename"):
        check_twins(["other", *twins])
    check_twins(["other", twins[0]])
