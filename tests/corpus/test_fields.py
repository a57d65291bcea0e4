"""Values of fields: what is one, what is missing, and what is neither."""

import datetime
import decimal
import json
import math
import pickle
import random

import pytest

from jaxsim.corpus.fields import Cause, date_of, find, found_as, text_of, texts_of

MISSING = [
    None, "", " \n", math.nan, math.inf, decimal.Decimal("NaN"), [], [None, ""], {},
    b"",
]  # fmt: skip


@pytest.mark.parametrize("value", MISSING)
def test_missing_values_are_no_texts_and_no_dates(value):
    assert text_of(value, "f") is None
    assert date_of(value, "f") is None
    assert texts_of(value, "f", "every") == []
    assert find({"f": value, "g": "x"}, "f|g") == "x"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("web", "web"),
        (1, "1"),
        (1.0, "1"),
        (decimal.Decimal("1.00"), "1"),
        (-3.0, "-3"),
        (0.5, "0.5"),
        (2.0**60, str(2**60)),
        (True, "True"),
        (b"web", "web"),
        (datetime.date(2024, 2, 1), "2024-02-01"),
    ],
)
def test_single_values_are_texts(value, text):
    assert text_of(value, "f") == text
    assert texts_of([None, value], "f", "first") == [text]


@pytest.mark.parametrize(
    ("value", "cause", "example"),
    [
        ({"a": 1}, "f is an object", "{'a': 1}"),
        (["a"], "f is a list", "['a']"),
        (b"\xff", "f: invalid UTF-8", ""),
    ],
)
def test_other_values_have_a_cause_with_an_example(value, cause, example):
    found = text_of(value, "f")
    assert isinstance(found, Cause)
    assert (found, found.example) == (cause, example)
    assert pickle.loads(pickle.dumps(found)) == cause


def test_lists_are_their_first_or_every_value():
    fields = ["", "Biology", 3.0, "Biology", "Physics"]
    assert texts_of(fields, "f", "first") == ["Biology"]
    assert texts_of(fields, "f", "every") == ["Biology", "3", "Physics"]
    assert texts_of("one", "f", "every") == ["one"]
    assert texts_of([" one", "one "], "f", "every") == ["one"]
    for by_list in ("first", "every"):
        found = texts_of([["a"], "b"], "f", by_list)
        assert found == "f is a list with a list in it"
        assert found.example == "[['a'], 'b']"


def test_values_of_any_depth_and_size_have_short_examples():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, ["words"] * 10**6, {"key": "x" * 10**6}):
        found = texts_of([value], "f", "first")
        assert isinstance(found, Cause)
        assert len(found.example) <= 80


def test_fields_are_found_by_dotted_names():
    record = {
        "source": "web", "a.b": "literal", "a": {"b": "nested", "c": {"d": 1}},
        "fields": [{"category": "Art"}, {"category": "Law"}, {"other": 1}],
        "metadata": {"topic": "t", "source": "inner", "meta": {"set": "s"}},
    }  # fmt: skip
    assert find(record, "a.b") == "literal"
    assert find(record, "a.c.d") == 1
    assert find(record, "fields.category") == ["Art", "Law"]
    assert find(record, "topic") == find(record, "metadata.topic") == "t"
    assert find(record, "source") == "web"
    assert find(record, "meta.set") == "s"
    for name in ("none", "a.none", "source.x", "a.c.d.e", ""):
        assert find(record, name) is None
    assert find({"metadata": "text"}, "topic") is None
    # An object may be written as text, in columns of a table.
    assert find({"metadata": '{"topic": "t"}'}, "topic") == "t"
    assert find({"meta": '{"a": {"b": 1}}'}, "meta.a.b") == 1
    assert find({"meta": "{broken"}, "meta.a") is None
    assert find(record, "none|topic|source") == "t"
    assert found_as(record, "none|topic|source") == "topic"
    assert found_as(record, "none|nor") == "none|nor"


DATES = {
    "1995": "1995",
    "1995-07": "1995-07",
    "2024-02-01": "2024-02-01",
    "2024-02-01T23:30:00+02:00": "2024-02-01T23:30:00+02:00",
    "2024-02-01 10:00": "2024-02-01 10:00",
    "2024/02/01": "2024-02-01",
    "2024.2.1": "2024-02-01",
    "2024/02": "2024-02",
    "20240201": "2024-02-01",
    "Feb 1 2024": "2024-02-01",
    "Feb 1, 2024": "2024-02-01",
    "february 1st, 2024": "2024-02-01",
    "1 February 2024": "2024-02-01",
    "1-Feb-2024": "2024-02-01",
    "Sept. 2024": "2024-09",
    "Thu, 01 Feb 2024 12:00:00 +0000": "2024-02-01",
    "Thu Feb  1 12:00:00 2024": "2024-02-01",
    "13/02/2024": "2024-02-13",
    "02/13/2024": "2024-02-13",
    "01/02/2024": "2024",  # only the year is sure
    "1052000000": "2003-05-03",
    "1995.0": "1995",
    1995.0: "1995",
    199507: "1995-07",
    20240201: "2024-02-01",
    1052000000: "2003-05-03",
    1052000000000: "2003-05-03",
    1.052e18: "2003-05-03",
    -500000000: "1954-02-26",
    datetime.datetime(2024, 2, 1, 3): "2024-02-01",
}


@pytest.mark.parametrize("value", DATES)
def test_usual_spellings_of_dates(value):
    found = date_of(value, "f")
    assert not isinstance(found, Cause)
    assert found == DATES[value] or found[:10] == DATES[value]


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("n.d.", "f is no date"),
        ("c. 1995", "f is no date"),
        ("1995-1999", "f is no date"),
        ("2024-13-01", "f is no date"),
        ("0000-00-00", "f is no date"),
        ("31/02/2024", "f is no date"),
        ("February 30, 2024", "f is no date"),
        ("01/02/24", "f is no date"),
        ("May", "f is no date"),
        (12, "f is a number that is no date"),
        (0.5, "f is a number that is no date"),
        (True, "f is a boolean"),
        (["1995"], "f is a list"),
        ({"year": 1995}, "f is an object"),
    ],
)
def test_what_is_no_date_is_not_missing(value, cause):
    found = date_of(value, "f")
    assert isinstance(found, Cause)
    assert found == cause
    assert found.example == repr(value)


def test_dates_keep_their_day_in_every_spelling():
    rng = random.Random(0)
    for _ in range(300):
        day = datetime.date(1900, 1, 1) + datetime.timedelta(rng.randrange(70_000))
        for spelling in ("%Y/%m/%d", "%d %B %Y", "%b %d, %Y", "%Y%m%d", "%a %b %d %Y"):
            assert date_of(day.strftime(spelling), "f") == day.isoformat()
        if day.year >= 1974:
            seconds = (day - datetime.date(1970, 1, 1)).days * 86_400 + 1
            for unit in (1, 1e3, 1e6):
                assert date_of(seconds * unit, "f")[:10] == day.isoformat()


def test_a_trip_through_a_table_does_not_change_a_value():
    """Numbers with missing values between them come back as floats."""
    rng = random.Random(0)
    for _ in range(300):
        value = rng.choice([rng.randrange(-(10**9), 10**9), str(rng.random()), True])
        there = json.loads(json.dumps(value))
        back = float(value) if type(value) is int else there
        assert text_of(back, "f") == text_of(value, "f")


def test_any_value_of_any_size_and_depth_has_a_text_or_a_cause():
    rng = random.Random(0)
    digits = "0123456789٣.-:/, Tez"

    def made(depth):
        kind = rng.randrange(12 if depth else 9)
        size = int(10 ** rng.uniform(0, 3.5))
        match kind:
            case 0:
                return rng.randrange(10**size) * rng.choice([1, -1])
            case 1:
                return rng.uniform(-1, 1) * 10.0 ** rng.randrange(-300, 308)
            case 2:
                return decimal.Decimal(f"{rng.random()}e{rng.choice([1, -1]) * size}")
            case 3:
                return str(rng.randrange(10**size))
            case 4:
                return "".join(rng.choices(digits, k=rng.randrange(30)))
            case 5:
                return rng.choice([True, None, b"\xff", math.inf, "{", "\ud800"])
            case 6:
                return datetime.date(rng.randrange(1, 10_000), 12, 31)
            case 7:
                return datetime.datetime(rng.randrange(1, 10_000), 1, 1)
            case 8:
                return json.dumps({"x": "9" * size})
            case 9:
                value = made(depth - 1)
                for _ in range(size if size < 900 else 1):
                    value = [value]
                return value
            case 10:
                return [made(depth - 1) for _ in range(3)]
        return {rng.choice(["x", "a.x", "y"]): made(depth - 1) for _ in range(2)}

    assert date_of("9" * 400, "f") == "f is no date"
    assert date_of(10**400, "f") == "f is a number that is no date"
    for _ in range(3000):
        record = {"a": made(3), "metadata": made(2)}
        for name in ("a", "a.x", "a.x.x|y"):
            value = find(record, name)
            for found in (text_of(value, "f"), date_of(value, "f")):
                assert found is None or isinstance(found, str)
            assert isinstance(texts_of(value, "f", "every"), list | Cause)
