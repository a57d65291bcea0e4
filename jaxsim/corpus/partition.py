"""From a document to the partition, or domain, that it belongs to."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from jaxsim.config import SourceConfig
from jaxsim.corpus.documents import Document
from jaxsim.corpus.names import check_name
from jaxsim.errors import UserError

_ISO_PREFIX = re.compile(r"\d{4}(-\d{2}(-\d{2}([T ].*)?)?)?")


def check_dates(name: str, ranges: Iterable[tuple[str, str]]) -> None:
    """Refuses ranges that are no ISO prefixes, run backwards or overlap.

    Raises:
      UserError: with the offending range.
    """
    known: list[tuple[str, str]] = []
    for start, end in ranges:
        where = f"source {name!r}: by_dates {start!r} to {end!r}"
        if not (_ISO_PREFIX.fullmatch(start) and _ISO_PREFIX.fullmatch(end)):
            raise UserError(f"{where}: must be ISO dates, or prefixes of them")
        if start[: len(end)] > end:
            raise UserError(f"{where}: starts after its end")
        for other_start, other_end in known:
            starts_in_time = start[: len(other_end)] <= other_end
            if starts_in_time and other_start[: len(end)] <= end:
                raise UserError(
                    f"{where}: overlaps {other_start!r} to {other_end!r}"
                )
        known.append((start, end))


def partition_of(
    name: str, source: SourceConfig, document: Document
) -> tuple[str, str] | str:
    """(partition, group), or the cause why the document is dropped.

    With one rule the group is the source; with several it is the value of the
    first one, so that the cells of a field stay together.

    Raises:
      UserError: the rule gives an unusable name.
    """
    parts = []
    if source.by_field:
        value = document.metadata.get(source.by_field, "")
        if not value:
            return f"no {source.by_field}"
        parts.append(value)
    if source.by_file:
        parts.append(_stem(document.file))
    if source.by_dates:
        if not document.date:
            return "no date"
        label = next(
            (
                f"{start}-{end}"
                for start, end in source.by_dates
                if start <= document.date[: len(start)]
                and document.date[: len(end)] <= end
            ),
            "",
        )
        if not label:
            return "outside every range of by_dates"
        parts.append(label)
    what = f"source {name!r}, document {document.id[:200]!r}"
    partition = check_name(",".join(parts) if parts else name, what)
    return partition, parts[0] if len(parts) > 1 else name


def partition_documents(
    name: str, source: SourceConfig, read: Iterable[Document]
) -> tuple[dict[str, list[Document]], dict[str, str], dict[str, int]]:
    """Documents by partition, groups by partition, dropped counts by cause.

    Raises:
      UserError: no document, a field that none has, or a range without any.
    """
    check_name(name, f"source {name!r}")
    check_dates(name, source.by_dates)
    by_partition: dict[str, list[Document]] = {}
    groups: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    for document in read:
        place = partition_of(name, source, document)
        if isinstance(place, str):
            dropped[place] += 1
            continue
        by_partition.setdefault(place[0], []).append(document)
        groups[place[0]] = place[1]
    if not by_partition:
        causes = ", ".join(f"{n} with {c}" for c, n in dropped.items())
        raise UserError(
            f"source {name!r}: no documents left; "
            + (f"dropped {causes}" if causes else "none pass `where`")
        )
    if source.by_dates and not (source.by_field or source.by_file):
        for start, end in source.by_dates:
            if f"{start}-{end}" not in by_partition:
                raise UserError(
                    f"partition '{start}-{end}' of source {name!r}: no "
                    "document has such a date; remove the range"
                )
    ordered = {k: by_partition[k] for k in sorted(by_partition)}
    return ordered, groups, dict(dropped)


def _stem(file: str) -> str:
    """`a/b/physics.jsonl.gz` -> `physics`."""
    name = PurePosixPath(file).name
    for ending in (".gz", ".jsonl", ".json", ".txt", ".md", ".rst"):
        name = name.removesuffix(ending)
    return name
