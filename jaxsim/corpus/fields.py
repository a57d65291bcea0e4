"""Values of the fields of a record: names of partitions, ids and dates.

Every value is a text, or missing, or neither. Missing are absent values, null, NaN,
infinities and empty texts. Neither are objects, most lists, and what is no date: they
have a cause of their own, with an example, and are never taken for missing.
"""

import contextlib
import datetime
import decimal
import functools
import json
import math
import re
import reprlib
from collections.abc import Mapping
from typing import Any

NOT_UTF8 = "invalid UTF-8"
TOO_LONG = "record over 50 MB"

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_METADATA = "metadata"  # where Dolma keeps the fields of a record
_KINDS = (
    (bool, "a boolean"),
    (int | float | decimal.Decimal, "a number"),
    (list, "a list"),
    (Mapping, "an object"),
    (str, "a text"),
    (bytes, "bytes"),
    (datetime.date, "a date"),
)


class Cause(str):
    """Why something was left out, in a few words, and an example of it."""

    example: str

    def __new__(cls, cause: str, example: object = None) -> "Cause":
        made = super().__new__(cls, cause)
        made.example = "" if example is None else shown(example)
        return made

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


class PointedCell(str):
    """A whole number with a point, in a table of text: 1.0 names what 1 does.

    Missing values beside whole numbers make tools write them so.
    """


def shown(value: object) -> str:
    """A value as a short example in a message."""
    said = _short.repr(value)
    return said if len(said) <= 80 else f"{said[:77]}..."


def kind_of(value: object) -> str:
    """What a value is, in the words of JSON."""
    kinds = (kind for type_, kind in _KINDS if isinstance(value, type_))
    return next(kinds, f"of type {type(value).__name__}")


def find(record: Mapping[str, Any], name: str) -> Any:
    """The value of a field, or None if it is missing.

    Args:
      name: as in a `SourceConfig`: `a.b` is `b` of `a`, unless there is a field
        `a.b`; of `a|b`, the first one that is not missing. A field is looked up in
        the record and then in its `metadata`.
    """
    return _find(record, name)[1]


def found_as(record: Mapping[str, Any], name: str) -> str:
    """Which of `a|b` the value of `find` is from, or the name itself."""
    return _find(record, name)[0]


def _find(record: Mapping[str, Any], name: str) -> tuple[str, Any]:
    for path in _paths(name):
        for start in (record, record.get(_METADATA)):
            value = _inside(start, path)
            if not is_missing(value):
                return path, value
    return name, None


@functools.lru_cache(maxsize=1024)
def _paths(name: str) -> tuple[str, ...]:
    return tuple(name.split("|"))


def _inside(start: Any, path: str) -> Any:
    """The value at a path of names; of a list of objects, the list of their values."""
    if isinstance(start, list):
        # Lists in lists hold no fields, at any depth.
        values = (v if isinstance(v, list) else _inside(v, path) for v in start)
        return [value for value in values if value is not None]
    if isinstance(start, str) and start.startswith("{"):  # an object, as JSON
        with contextlib.suppress(ValueError, RecursionError):
            start = json.loads(start)
    if not isinstance(start, Mapping):
        return None
    if path in start:
        return start[path]
    head, dot, rest = path.partition(".")
    return _inside(start[head], rest) if dot and head in start else None


def is_missing(value: Any) -> bool:
    """Whether a value is absent, null, not a number, or empty."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value or value.isspace()
    if isinstance(value, float | decimal.Decimal):
        return not math.isfinite(value)
    if isinstance(value, list):
        return all(not isinstance(each, list) and is_missing(each) for each in value)
    return isinstance(value, Mapping | bytes) and not value


def text_of(value: Any, name: str) -> str | Cause | None:
    """A value as text; None if it is missing, and a cause if it is no single value.

    Whole numbers have no point: 1.0 is a 1 that went through a table.
    """
    if is_missing(value):
        return None
    match value:
        case str():
            return value
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return Cause(f"{name}: {NOT_UTF8}")
        case bool() | int():
            return str(value)
        case float() | decimal.Decimal():
            if -1e300 < value < 1e300 and value == int(value):
                return str(int(value))
            return str(value)
        case datetime.date() | datetime.time():  # or a datetime
            return value.isoformat()
    return Cause(f"{name} is {kind_of(value)}", value)


def texts_of(value: Any, name: str, by_list: str) -> list[str] | Cause:
    """The texts that a value stands for: none, one, or those of a list.

    Args:
      by_list: 'first' or 'every', of a list.
    """
    values = value if isinstance(value, list) else [value]
    found: dict[str, None] = {}
    for each in values:
        text = text_of(each, name)
        if isinstance(text, Cause):
            within = f"{name} is a list with {kind_of(each)} in it"
            return Cause(within, value) if values is value else text
        if isinstance(text, PointedCell):
            text = str(int(text[:-2]))
        if text is not None:
            found[text.strip()] = None
            if by_list == "first":
                break
    return list(found)


_ISO = re.compile(
    r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01])([T ].*)?)?)?", re.ASCII | re.DOTALL
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_TIME = re.compile(r"\b\d{1,2}:\d\d(:\d\d(\.\d+)?)?|\s[+-]\d\d:?\d\d\b|\(.*\)")
_ORDINAL = re.compile(r"(\d+)(st|nd|rd|th)?")
_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august",
    "september", "october", "november", "december",
)  # fmt: skip
_DAYS = (
    "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday",
)  # fmt: skip
# Say nothing about the day, or less than a day of it.
_OTHERS = {
    "of", "the", "at", "z", "am", "pm", "utc", "gmt", "est", "edt", "cst", "cdt", "mst",
    "mdt", "pst", "pdt", "bst", "cet", "cest",
}  # fmt: skip
_LEAST_SECONDS, _MOST_SECONDS = 1e8, 7e9  # since 1970: from 1973 to 2191


def date_of(value: Any, name: str) -> str | Cause | None:
    """A value as an ISO date or a prefix of one; None if it is missing.

    Numbers are years, YYYYMM, YYYYMMDD, or time since 1970 in seconds, or in thousandth
    parts of them and so on. Of 01/02/2024 only the year is sure, and only that is
    given.
    """
    text = text_of(value, name)
    if text is None or isinstance(text, Cause):
        return text
    text = text.strip()
    if _ISO.fullmatch(text):
        return text
    if isinstance(value, bool):
        return Cause(f"{name} is a boolean", value)
    found = _of_number(float(text)) if _NUMBER.fullmatch(text) else _of_words(text)
    if isinstance(value, int | float):
        return found or Cause(f"{name} is a number that is no date", value)
    return found or Cause(f"{name} is no date", value)


def _of_number(number: float) -> str | None:
    if not math.isfinite(number):  # of 309 digits
        return None
    whole = int(number)
    if number == whole and 1000 <= whole <= 2999:
        return str(whole)
    if number == whole and 1900_01 <= whole <= 2999_12:
        return _iso(whole // 100, whole % 100)
    if number == whole and 1900_01_01 <= whole <= 2999_12_31:
        return _iso(whole // 10_000, whole // 100 % 100, whole % 100)
    for unit in (1, 1e3, 1e6, 1e9):
        seconds = number / unit
        if _LEAST_SECONDS <= abs(seconds) <= _MOST_SECONDS:
            return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()
    return None


def _of_words(text: str) -> str | None:
    """A date such as 1 Feb 2024, Thu, 01 Feb 2024 12:00:00 +0000, or 2024/2/1."""
    months: list[int] = []
    numbers: list[str] = []
    for word in re.split(r"[\s,./-]+", _TIME.sub(" ", text.casefold()).strip()):
        if number := _ORDINAL.fullmatch(word):
            numbers.append(number[1])
            continue
        known = [len(word) >= 3 and each.startswith(word) for each in _MONTHS]
        if any(known):
            months.append(known.index(True) + 1)
        elif word not in _OTHERS and not (
            len(word) >= 3 and any(each.startswith(word) for each in _DAYS)
        ):
            return None
    years = [number for number in numbers if len(number) == 4]
    others = [int(number) for number in numbers if len(number) <= 2]
    if len(years) != 1 or len(numbers) > 3 or len(others) + 1 != len(numbers):
        return None
    year = int(years[0])
    match months, others:
        case ([month], []) | ([], [month]):
            return _iso(year, month)
        case [month], [day]:
            return _iso(year, month, day)
        case [], [month, day] if numbers[0] == years[0]:
            return _iso(year, month, day)
        case [], [a, b] if numbers[2] == years[0]:
            if a == b or b > 12:
                return _iso(year, a, b)
            return _iso(year, b, a) if a > 12 else years[0]
    return None


def _iso(year: int, month: int, day: int = 0) -> str | None:
    try:
        made = datetime.date(year, month, day or 1).isoformat()
    except ValueError:
        return None
    return made if day else made[:7]
