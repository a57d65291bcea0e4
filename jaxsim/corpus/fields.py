"""Values of the fields of a record: names of partitions, ids and dates.

Every value is a text, or missing, or neither. Missing are absent values, null, NaN,
infinities and empty texts. Neither are lists and objects, and what is no date; they
have a cause of their own, with an example, so that none is taken for missing.
"""

import datetime
import decimal
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

NOT_UTF8 = "invalid UTF-8"
TOO_LONG = "record over 50 MB"

_METADATA = "metadata"  # where Dolma keeps the fields of a record
_ABSENT = object()


class Cause(str):
    """Why something was left out, in a few words, and an example of it."""

    example: str

    def __new__(cls, cause: str, example: object = None) -> "Cause":
        made = super().__new__(cls, cause)
        said = "" if example is None else repr(example)
        made.example = said if len(said) <= 80 else said[:77] + "..."
        return made

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def find(record: Mapping[str, Any], name: str) -> Any:
    """The value of a field, or None if it is missing.

    Args:
      name: as in a `SourceConfig`: `a.b` is `b` of `a`, unless there is a field
        `a.b`; of `a|b`, the first one that is not missing. A field is looked up in
        the record and then in its `metadata`.
    """
    for path in _paths(name):
        for start in (record, record.get(_METADATA)):
            value = _inside(start, path)
            if not is_missing(value):
                return value
    return None


@functools.lru_cache(maxsize=1024)
def _paths(name: str) -> tuple[str, ...]:
    return tuple(name.split("|"))


def _inside(start: Any, path: str) -> Any:
    """The value at a path of names; of a list of objects, the list of their values."""
    if isinstance(start, list):
        return [value for each in start if (value := _inside(each, path)) is not None]
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
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, list):
        return all(map(is_missing, value))
    return isinstance(value, Mapping | bytes) and not value


def text_of(value: Any, name: str) -> str | Cause | None:
    """A value as text; None if it is missing, and a cause if it is no single value.

    Whole numbers are written without a point: 1.0 is 1 that went through a table.
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
                return Cause(f"{name} is {NOT_UTF8}")
        case bool() | int():
            return str(value)
        case float() | decimal.Decimal():
            return str(int(value)) if value == int(value) else str(value)
        case datetime.date():  # or a datetime
            return value.isoformat()
        case list():
            return Cause(f"{name} is a list", value)
        case Mapping():
            return Cause(f"{name} is an object", value)
    return Cause(f"{name} is of type {type(value).__name__}")


def texts_of(value: Any, name: str, by_list: str) -> list[str] | Cause:
    """The texts that a value stands for: none, one, or those of a list.

    Args:
      by_list: 'first' or 'every', of a list.
    """
    values = value if isinstance(value, list) else [value]
    found: list[str] = []
    for each in values:
        text = text_of(each, name)
        if isinstance(text, Cause):
            return Cause(text.replace(" is ", " is a list with ", 1), value)
        if text is not None and text not in found:
            found.append(text)
            if by_list == "first":
                break
    return found


_ISO = re.compile(
    r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01])([T ].*)?)?)?", re.DOTALL
)


def date_of(value: Any, name: str) -> str | Cause | None:
    """A value as an ISO date or a prefix of one; None if it is missing."""
    text = text_of(value, name)
    if text is None or isinstance(text, Cause):
        return text
    text = text.strip()
    if _ISO.fullmatch(text):
        return text
    return Cause(f"{name} is not a date", value)
