"""Documents of a file, and counts of what was read, repaired and left out."""

import dataclasses
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxsim.config import SourceConfig
from jaxsim.corpus import readers
from jaxsim.corpus.fields import (
    NOT_UTF8,
    TOO_LONG,
    Cause,
    date_of,
    find,
    is_missing,
    kind_of,
    shown,
    text_of,
    texts_of,
)
from jaxsim.corpus.sources import InputFile, readable
from jaxsim.errors import UserError

NUL = "NUL characters"
SURROGATES = "lone surrogates"
DUPLICATE_ID = "duplicate id"

# These are repaired, so the record is not bad.
BOM = "byte order mark removed"
CRLF = "CRLF turned into LF"

MANY_BAD = 1000  # bad records after which their share is watched
NO_ACCIDENT = 10  # records of a file, if all of them are bad
MAX_PLACES = 10_000  # of bad records of a file that are kept
FROM_TEXT = "sha256:"  # begins ids that are made of the text

_SAMPLE = 100  # records of a file whose fields are looked at
_MOST_FIELDS, _MOST_LEVELS = 200, 4
_UNCONDITIONAL = 1_000_000  # numbers of OLMES's requests without a prompt
_BOM = "\ufeff"


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One text, or the completion of a prompt.

    Attributes:
      source: its name in the config.
      date: ISO, or a prefix of it; '' if unknown.
      fields: the record that it is from; see `fields.find`.
      file: its file, relative to the source's path.
      prompt: what comes before the text of a task, and is not scored.
    """

    id: str
    text: str
    source: str
    date: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    file: str = ""
    prompt: str | None = None

    def parts(self) -> tuple[str, str]:
        """What is read, and what is scored: the white space between is scored."""
        prompt = self.prompt or ""
        stripped = prompt.rstrip()
        return stripped, prompt[len(stripped) :] + self.text


@dataclasses.dataclass
class Tally:
    """What was found in a file, or with `+` in several.

    Attributes:
      max_bad: reading ends early if `MANY_BAD` records, and ten times this share, are
        bad so far.
    """

    max_bad: float = 1.0
    records: int = 0  # bad ones included
    bad: Counter[str] = dataclasses.field(default_factory=Counter)
    # Of bad records: file, line (from 1; 0 is the whole file) and cause.
    places: list[tuple[str, int, str]] = dataclasses.field(default_factory=list)
    repaired: Counter[str] = dataclasses.field(default_factory=Counter)
    filtered: int = 0  # readable, but not in `where`
    dropped: Counter[str] = dataclasses.field(default_factory=Counter)  # no partition
    examples: dict[str, str] = dataclasses.field(default_factory=dict)  # by cause
    # Names of the fields of the first records, with an example.
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    hopeless: list[str] = dataclasses.field(default_factory=list)  # all are bad

    def reject(self, file: InputFile, line: int, cause: str) -> None:
        """Counts a bad record; a `UserError` if there are too many."""
        self.bad[str(cause)] += 1
        self._illustrate(cause)
        if len(self.places) < MAX_PLACES:
            self.places.append((file.name, line, str(cause)))
        total, share = self.bad.total(), min(10 * self.max_bad, (1 + self.max_bad) / 2)
        if total >= MANY_BAD and total > share * self.records:
            self.hopeless = [file.name] * (total == self.records)
            check_bad(file.source, self, share)

    def drop(self, cause: str) -> None:
        """Counts a document that no partition takes."""
        self.dropped[str(cause)] += 1
        self._illustrate(cause)

    def _illustrate(self, cause: str) -> None:
        if isinstance(cause, Cause) and cause.example:
            self.examples.setdefault(str(cause), cause.example)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.max_bad,
            self.records + other.records,
            self.bad + other.bad,
            self.places + other.places,
            self.repaired + other.repaired,
            self.filtered + other.filtered,
            self.dropped + other.dropped,
            other.examples | self.examples,
            other.fields | self.fields,
            self.hopeless + other.hopeless,
        )


def read_file(
    file: InputFile,
    source: SourceConfig,
    tally: Tally,
    also: Collection[str] | None = None,
    only: Iterable[int] | None = None,
) -> Iterator[Document]:
    """The readable documents of a file that pass the source's `where`, in order.

    Args:
      tally: gets the counts.
      also: fields that the caller looks up beside those that the source names; of a
        Parquet file no others are read. None: all fields.
      only: numbers of records, from 1 and in order; the others, which cost time, are
        passed over. None: all records.

    Raises:
      UserError: the file cannot be opened.
      DamagedError: it is truncated or changed.
    """
    if source.reader == "olmes":
        source = dataclasses.replace(
            source,
            prompt_field="request.context",
            completion_field="request.continuation",
        )
    numbers = itertools.count(1) if only is None else iter(only)
    number, bad = next(numbers, 0), 0
    with readable(file.source, file.path):
        for line, record in _records(file, source, also):
            if not number:
                return
            tally.records += 1
            if tally.records != number:
                continue
            number = next(numbers, 0)
            if not isinstance(record, Cause):
                record.update(file.parts)
                if tally.records <= _SAMPLE:
                    _look_at(record, tally.fields, source)
                if not _wanted(source, record, tally):
                    continue
                made = _document(file, source, record, tally.repaired)
                if not isinstance(made, Cause):
                    yield made
                    continue
                record = made
            bad += 1
            tally.reject(file, line, record)
    # The caller may reject more.
    if bad == tally.records > 0:
        tally.hopeless.append(file.name)


def _records(
    file: InputFile, source: SourceConfig, also: Collection[str] | None
) -> Iterator[readers.Record]:
    where = f"source {file.source!r}"
    if source.reader not in ("text", "sotu"):
        yield from readers.read_records(where, file.path, _columns(source, also))
        return
    data = readers.read_text(where, file.path)
    if len(data) > readers.MAX_RECORD_BYTES:
        yield 0, Cause(TOO_LONG)
        return
    try:
        yield 0, {source.text_field: data.decode()}
    except UnicodeDecodeError:
        yield 0, Cause(NOT_UTF8)


def _columns(source: SourceConfig, also: Collection[str] | None) -> set[str] | None:
    """The columns of a table that hold the fields that are looked up."""
    if also is None:
        return None
    names = {
        source.text_field, source.id_field, source.date_field, source.by_field,
        source.prompt_field, source.completion_field,
        *(key for key, _ in source.where), *also,
    }  # fmt: skip
    paths = [path for name in names for path in name.split("|")]
    return {"metadata", *paths, *(path.partition(".")[0] for path in paths)}


def _wanted(source: SourceConfig, record: dict[str, Any], tally: Tally) -> bool:
    """Whether a record is asked for; counts it if not."""
    wanted: dict[str, set[str]] = {}
    for name, value in source.where:
        wanted.setdefault(name, set()).add(value)
    for name, values in wanted.items():
        found = texts_of(find(record, name), name, "every")
        if isinstance(found, Cause) or values.isdisjoint(found):
            tally.filtered += 1
            return False
    if source.reader == "olmes":
        number, label, idx = map(record.get, ("doc_id", "label", "idx"))
        if isinstance(number, int) and number >= _UNCONDITIONAL:
            tally.drop("request without its prompt")
            return False
        # A label of another kind is the answer itself, and the request the only one.
        if (label is None or isinstance(label, int)) and (label or 0) != idx:
            tally.drop("choice that is not the answer")
            return False
    return True


def _document(
    file: InputFile, source: SourceConfig, record: dict[str, Any], repaired: Counter
) -> Document | Cause:
    text = _text_in(record, source.completion_field or source.text_field, source)
    if isinstance(text, Cause):
        return text
    prompt = None
    if source.prompt_field:
        prompt = _text_in(record, source.prompt_field, source)
        if isinstance(prompt, Cause):
            return prompt
    else:
        text = _repair(text, repaired)
    identity = _identity(file, source, record)
    if isinstance(identity, Cause):
        return identity
    if identity is None:
        content = text if prompt is None else f"{prompt}\0{text}"
        identity = FROM_TEXT + hashlib.sha256(content.encode()).hexdigest()[:16]
    date = date_of(find(record, source.date_field), source.date_field)
    return Document(
        id=identity,
        text=text,
        source=file.source,
        date="" if isinstance(date, Cause) or date is None else date,
        fields=record,
        file=file.name,
        prompt=prompt,
    )


def _identity(
    file: InputFile, source: SourceConfig, record: dict[str, Any]
) -> str | Cause | None:
    """The id that a record has, if it has one."""
    match source.reader:
        case "text":
            return file.name
        case "sotu":
            return str(record["fileid"])
        case "olmes":
            # The same task may be there with other prompts, in another folder.
            folder = PurePosixPath(file.path).parent.name
            return f"{record.get('task_name')}/{folder}:{record.get('doc_id')}"
    identity = text_of(find(record, source.id_field), source.id_field)
    if identity is None or isinstance(identity, Cause):
        return identity
    if source.ids == "per file":
        identity = f"{file.name}:{identity}"
    # Lone surrogates in an id become escapes, so that it can be written down.
    return identity.encode("utf-8", "backslashreplace").decode("utf-8")


def _text_in(record: dict[str, Any], name: str, source: SourceConfig) -> str | Cause:
    """The text in a field; a number is one in tasks, as JSON writes it."""
    value = find(record, name)
    if value is None:
        return Cause(f"no {name}")
    if source.prompt_field and type(value) in (int, float):
        value = json.dumps(value)
    if not isinstance(value, str | bytes):
        return Cause(f"{name} is {kind_of(value)}")  # no example: it may be text
    text = text_of(value, name)
    if isinstance(text, Cause) or text is None:
        return text or Cause(f"no {name}")
    if len(text) > readers.MAX_RECORD_BYTES:
        return Cause(TOO_LONG)
    if "\0" in text:
        return Cause(NUL)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return Cause(SURROGATES)
    return text if text.strip(_BOM) else Cause(f"no {name}")


def _repair(text: str, repaired: Counter[str]) -> str:
    """Running text with small faults repaired; tasks are scored as they are."""
    if text.startswith(_BOM):
        text = text.lstrip(_BOM)
        repaired[BOM] += 1
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
        repaired[CRLF] += 1
    return text


def _look_at(
    record: Mapping[str, Any],
    seen: dict[str, str],
    source: SourceConfig,
    prefix: str = "",
) -> None:
    """Adds the names of a record's fields, each with an example, but no text."""
    texts = (source.text_field, source.prompt_field, source.completion_field)
    for key, value in record.items():
        name = prefix + key
        if isinstance(value, Mapping) and prefix.count(".") < _MOST_LEVELS:
            _look_at(value, seen, source, f"{name}.")
        elif not seen.get(name) and len(seen) < _MOST_FIELDS:
            example = "" if is_missing(value) else shown(value)
            seen[name] = "(text)" if name and name in texts and example else example


def check_bad(
    name: str, tally: Tally, max_bad: float, place: Path | None = None
) -> None:
    """Raises a `UserError` if more than a share of a source's records is bad.

    A file of several records, all of them bad, is an error whatever their share.

    Args:
      place: a file that lists where they are; None while they are being read.
    """
    total = tally.bad.total()
    file, cause, records = _all_bad(tally)
    is_many = total > max_bad * tally.records
    if not is_many and records < NO_ACCIDENT:
        return
    causes = [
        f"{n} {cause}" + (f", as {example}" if example else "")
        for cause, n in tally.bad.most_common()
        for example in [tally.examples.get(cause)]
    ]
    of, most = ("", max_bad) if place else ("the first ", tally.max_bad)
    many = f", more than config.corpus.max_bad={most:g} allows" if is_many else ""
    ((common, _),) = tally.bad.most_common(1)
    if records >= NO_ACCIDENT or cause == common:
        advice = f"all records of {file!r} are bad: {_advice(cause, tally)}"
    elif common == DUPLICATE_ID:
        advice = (
            "if ids restart in each file, set ids='per file' for this source; with "
            "id_field='' ids are made from the text"
        )
    elif rows := [p for p in tally.places if p[2] == common == readers.IN_BAD_ROW]:
        file, line, _ = rows[0]
        advice = (
            f"a quote that line {line} of {file!r} opens may have swallowed rows; "
            "close it, or double it if it is text"
        )
    else:
        where = f"see {place} for their places, " if place else ""
        advice = f"{where}repair or remove them, or raise config.corpus.max_bad"
        if place:
            least = math.ceil(1000 * total / tally.records) / 1000
            advice += f", which holds for every source, to {least:g}"
    raise UserError(
        f"source {name!r}: {total} of {of}{tally.records} records are bad "
        f"({'; '.join(causes)}){many}; {advice}"
    )


def _all_bad(tally: Tally) -> tuple[str, str, int]:
    """The largest file that is all bad, the most common cause, and its records."""
    causes: dict[str, Counter[str]] = {file: Counter() for file in tally.hopeless}
    for file, _, cause in tally.places:
        if file in causes:
            causes[file][cause] += 1
    file = max(causes, key=lambda file: causes[file].total(), default="")
    if not file or not causes[file]:
        return "", "", 0
    return file, causes[file].most_common(1)[0][0], causes[file].total()


def _advice(cause: str, tally: Tally) -> str:
    """What helps if all records of a file are bad."""
    if cause in (readers.NOT_JSON, readers.NOT_OBJECT):
        return "it is no file of JSON Lines, with one record on each line"
    if cause == NOT_UTF8:
        return "convert it, as `iconv -f latin1 -t utf-8` does"
    if cause.startswith("no ") or " is " in cause:
        return (
            "set text_field of this source, or for a task its prompt_field and "
            "completion_field, or leave such files out with a pattern in its path; "
            f"its fields are {', '.join(tally.fields) or 'none'}"
        )
    return "repair it or remove it"
