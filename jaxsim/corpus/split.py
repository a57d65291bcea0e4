"""Sorts documents into partitions and domains, and these into splits.

The split of a document is a hash of its split key, never a random draw. It is the
same in every run and on every machine, whatever other documents there are.
"""

import dataclasses
import functools
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from jaxsim.config import CorpusConfig, SourceConfig, SplitConfig
from jaxsim.corpus.documents import Document
from jaxsim.corpus.fields import Cause, date_of, find, found_as, text_of, texts_of
from jaxsim.corpus.formats import stem_of
from jaxsim.corpus.names import (
    Labels,
    check_domain,
    check_free,
    check_name,
    check_twins,
)
from jaxsim.errors import UserError

BASE, TRAIN, DEV, TEST = Labels.BASE, "train", "dev", "test"
SPLITS = (DEV, TEST)
# Of config.corpus, those that name sources.
SECTIONS = PARTITIONS, DOMAINS, BASE_TEXT = ("partitions", "domains", "base_text")
_ISO_PREFIX = re.compile(r"\d{4}(-\d{2}(-\d{2})?)?")


@dataclasses.dataclass(frozen=True)
class Place:
    """A partition, a domain, or text for the base model."""

    section: str  # of config.corpus
    source: str
    name: str
    group: str


# Section and source of each file, and what its documents belong to: (name, group).
FoundPlaces = Iterable[tuple[str, str, list[tuple[str, str]]]]


def check_sources(config: CorpusConfig) -> None:
    """Raises a `UserError` for a bad name of a source, or bad dates."""
    for section in SECTIONS:
        check = check_name if section == BASE_TEXT else check_free
        for name, source in getattr(config, section).items():
            check(name, f"config.corpus.{section}")
            _check_dates(name, source.by_dates)


def collect_places(config: CorpusConfig, found: FoundPlaces) -> list[Place]:
    """All places by section, source and name, with names that can be used.

    Raises:
      UserError: a bad name, or one that means two things; a source or a range of dates
        without documents.
    """
    by_source: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for section, source, pairs in found:
        groups = by_source[section, source]
        for name, group in pairs:
            if groups.setdefault(name, group) != group:
                raise UserError(
                    f"source {source!r}: {name!r} is the name of two partitions, "
                    f"of {min(groups[name], group)!r} and of "
                    f"{max(groups[name], group)!r}; rename a file or a value"
                )
    places: dict[tuple[bool, str], Place] = {}
    for section in SECTIONS:
        # Sources of base text name nothing.
        check = {BASE_TEXT: check_name, DOMAINS: check_domain}.get(section, check_free)
        for source, settings in getattr(config, section).items():
            names = sorted(by_source.get((section, source), {}))
            for name in names:
                group = by_source[section, source][name]
                for taken in (name, group):
                    check(taken, f"source {source!r}")
                key = section == BASE_TEXT, name
                if key in places:
                    raise UserError(
                        f"source {source!r}: another source names {name!r} "
                        "too; give one of them another rule or name"
                    )
                places[key] = Place(section, source, name, group)
            one_rule = not (settings.by_field or settings.by_file)
            for start, end in settings.by_dates if one_rule and names else ():
                value = f"{start}-{end}"
                if (f"{source}/{value}" if section == DOMAINS else value) not in names:
                    raise UserError(
                        f"partition {value!r} of source {source!r}: no "
                        "document has such a date; remove the range"
                    )
    used = [place for place in places.values() if place.section != BASE_TEXT]
    check_twins((place.name for place in used), "partitions and domains")
    partitions = [place for place in used if place.section == PARTITIONS]
    inside = {place.name for place in partitions}
    for name in config.domains:
        if name in inside | {place.group for place in partitions}:
            raise UserError(
                f"config.corpus.domains: {name!r} is the name of a partition or of a "
                "group of them, whose held-out text is evaluated under that name; "
                "choose another name"
            )
    for place in partitions:
        if place.group != place.name and place.group in inside:
            raise UserError(
                f"config.corpus.partitions: {place.group!r} is the name of a partition "
                f"and of the group of {place.name!r}; rename the source of one of them"
            )
    return list(places.values())


def places_of(
    name: str, source: SourceConfig, document: Document, section: str = PARTITIONS
) -> list[tuple[str, str]] | str:
    """The partitions or domains that a document belongs to, each with its group.

    There is one, or with `by_list='every'` one for each value of a list. With one
    rule the group is the source; with several it is the value of the first one.
    Out-of-pool domains that a rule cuts are SOURCE/VALUE, and their group is SOURCE.

    Args:
      section: of config.corpus that names the source.

    Returns:
      Or a `Cause` why the document is dropped.
    """
    values, rest = [""], []
    if source.by_field:
        value = find(document.fields, source.by_field)
        found = texts_of(value, source.by_field, source.by_list)
        if not found:
            return f"no {source.by_field}"
        if isinstance(found, Cause):
            return found
        values = found
    if source.by_file:
        rest.append(stem_of(document.file))
    if source.by_dates:
        if not (date := document.date):
            value = find(document.fields, source.date_field)
            named = found_as(document.fields, source.date_field)
            return date_of(value, named) or f"no {source.date_field}"
        first, last = _days_of(date[:10])
        for start, end in source.by_dates:
            if _days_of(start)[0] <= first and last <= _days_of(end)[1]:
                rest.append(f"{start}-{end}")
                break
        else:
            return Cause("outside every range of by_dates", date)
    what = f"source {name!r}, document {document.id[:200]!r}"
    places = []
    for value in values:
        parts = [value, *rest] if value else rest
        place = check_name(",".join(parts) or name, what)
        if section == DOMAINS:
            places.append((f"{name}/{place}" if parts else name, name))
        else:
            places.append((place, parts[0] if len(parts) > 1 else name))
    return places


@functools.lru_cache(maxsize=4096)
def _days_of(date: str) -> tuple[str, str]:
    """The first and the last day of an ISO date, or of a prefix of one."""
    known = len(date) - len("YYYY")
    return date + "-01-01"[known:], date + "-12-31"[known:]


def _check_dates(name: str, ranges: Iterable[tuple[str, str]]) -> None:
    """Checks that ranges are ISO dates or prefixes, in order and disjoint."""
    known: list[tuple[str, str]] = []
    for start, end in ranges:
        where = f"source {name!r}: by_dates {start!r} to {end!r}"
        if not (_ISO_PREFIX.fullmatch(start) and _ISO_PREFIX.fullmatch(end)):
            raise UserError(f"{where}: must be ISO dates, or prefixes of them")
        if start[: len(end)] > end:
            raise UserError(f"{where}: starts after its end")
        for other_start, other_end in known:
            if start[: len(other_end)] <= other_end and other_start[: len(end)] <= end:
                raise UserError(f"{where}: overlaps {other_start!r} to {other_end!r}")
        known.append((start, end))


def unit_hash(salt: str, key: str) -> float:
    """A hash of two strings, as a number in [0, 1)."""
    data = f"{salt}\0{key}".encode("utf-8", "surrogatepass")
    # 53 bits: more would round up to 1.0 in a double.
    return (int.from_bytes(hashlib.sha256(data).digest()[:8]) >> 11) / 2**53


def split_of(
    document: Document,
    split: SplitConfig,
    in_pool: bool = True,
    base_from_partitions: bool = True,
) -> str:
    """The split of a document: 'test', 'dev', 'base' or 'train'.

    Args:
      in_pool: the document belongs to a partition. Documents of out-of-pool domains
        are never trained on: half of them are 'dev', half 'test'.
      base_from_partitions: False if the base text comes from elsewhere; then 'base'
        documents are 'train' documents.
    """
    if split.key == "id":
        key = document.id
    else:
        found = text_of(find(document.fields, split.key), split.key)
        if found is None and split.key == "file":
            found = document.file
        if found is None or isinstance(found, Cause):
            raise UserError(
                f"config.corpus.split.key={split.key!r}: document "
                f"{document.id[:200]!r} of source {document.source[:200]!r}: "
                f"{found or 'it has no such field'}"
            )
        key = found
    u = unit_hash(split.salt, key)
    if not in_pool:
        return TEST if u < 0.5 else DEV
    if u < split.test:
        return TEST
    if u < split.test + split.dev:
        return DEV
    if u < split.test + split.dev + split.base and base_from_partitions:
        return BASE
    return TRAIN


def working_salt(
    documents: Mapping[Place, Sequence[Document]], split: SplitConfig, bases: bool
) -> str:
    """The first of a thousand salts that leaves no split of a place empty, or ''.

    Args:
      bases: whether partitions give base text.
    """
    for number in range(1000):
        trial = dataclasses.replace(split, salt=str(number))
        found: set[str] = set()
        for place, of_place in documents.items():
            in_pool = place.section == PARTITIONS
            splits = {split_of(d, trial, in_pool) for d in of_place}
            if not splits.issuperset((*SPLITS, TRAIN) if in_pool else SPLITS):
                break
            found |= splits
        else:
            if BASE in found or not bases:
                return trial.salt
    return ""
