"""Sorts documents into partitions and domains, and these into splits.

The split of a document is a hash of its split key, never a random draw. It is the
same in every run and on every machine, whatever other documents there are.
"""

import dataclasses
import hashlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from jaxsim.config import CorpusConfig, SourceConfig, SplitConfig
from jaxsim.corpus.documents import Document, Quarantine, read_documents
from jaxsim.corpus.fields import Cause, date_of, find, text_of, texts_of
from jaxsim.corpus.formats import stem_of
from jaxsim.corpus.names import Labels, check_free, check_name, check_twins
from jaxsim.errors import UserError
from jaxsim.log import progress

BASE, TRAIN, DEV, TEST = Labels.BASE, "train", "dev", "test"
SPLITS = (DEV, TEST)
_ISO_PREFIX = re.compile(r"\d{4}(-\d{2}(-\d{2}([T ].*)?)?)?")


@dataclasses.dataclass
class Gathered:
    """Documents by partition, domain and split; `decontaminate` removes some."""

    train: dict[str, list[Document]]  # by partition
    base: dict[str, list[Document]]  # by partition, or "/" and source of base text
    evaluation: dict[str, dict[str, list[Document]]]  # by domain and split
    groups: dict[str, str]  # of partitions
    dropped: dict[str, Counter[str]]  # by source, by cause
    # Those that repeat earlier training text, by partition.
    duplicates: Counter[str] = dataclasses.field(default_factory=Counter)
    # By partition or 'base', and domain: training documents that repeat the domain,
    # and evaluation documents that repeat older training text.
    overlap: dict[str, dict[str, dict[str, int]]] = dataclasses.field(
        default_factory=lambda: defaultdict(
            lambda: defaultdict(lambda: {"training": 0, "evaluation": 0})
        )
    )


def gather(
    config: CorpusConfig,
    quarantine: Quarantine,
    base_partitions: Collection[str] | None,
) -> Gathered:
    """Reads, partitions and splits everything that the config names.

    Args:
      base_partitions: the partitions whose 'base' split is base text; the others
        are trained on it instead. None before base text is frozen, when all
        partitions, or the sources of `base_text`, give theirs.

    Raises:
      UserError: bad input, bad names, or a source without documents.
      DamagedError: a compressed file is truncated or changed.
    """
    result = Gathered({}, {}, {}, {}, {})
    for what, in_pool in (("partitions", True), ("domains", False)):
        for name, documents in _read_all(config, what, quarantine, result).items():
            if name in result.evaluation:
                raise UserError(
                    f"config.corpus.domains: {name!r} is the name of a partition, "
                    "which is a domain already; choose another name"
                )
            gives_base = not config.base_text and (
                base_partitions is None or name in base_partitions
            )
            splits: dict[str, list[Document]] = defaultdict(list)
            for document in documents:
                split = split_of(document, config.split, in_pool, gives_base)
                splits[split].append(document)
            result.evaluation[name] = {split: splits[split] for split in SPLITS}
            if in_pool:
                result.train[name] = splits[TRAIN]
                if gives_base:
                    result.base[name] = splits[BASE]
    check_twins(result.evaluation, "partitions and domains")

    for name in result.train:
        if (group := result.groups[name]) != name and group in result.train:
            raise UserError(
                f"config.corpus.partitions: {group!r} is the name of a partition and "
                f"of the group of {name!r}; rename the source of one of them"
            )

    if base_partitions is None:
        texts = _read_all(config, "base_text", quarantine, result)
        result.base |= {f"/{name}": found for name, found in texts.items()}
    return result


def _read_all(
    config: CorpusConfig, what: str, quarantine: Quarantine, result: Gathered
) -> dict[str, list[Document]]:
    """The documents of sources by partition; `result` gets groups and counts."""
    documents: dict[str, list[Document]] = {}
    sources: dict[str, SourceConfig] = getattr(config, what)
    if not sources:
        return documents
    # Sources of base text name nothing.
    check = check_name if what == "base_text" else check_free
    for name in sources:
        check(name, f"config.corpus.{what}")
    with progress(len(sources), f"reading corpus.{what}", "sources") as advance:
        for name, source in sources.items():
            read = read_documents(name, source, quarantine)
            found, groups, dropped = partition_documents(name, source, read)
            for partition in found:
                for taken in (partition, groups[partition]):
                    check(taken, f"source {name!r}")
                if partition in documents:
                    raise UserError(
                        f"source {name!r}: another source names {partition!r} "
                        "too; give one of them another rule or name"
                    )
            documents |= found
            result.groups = groups | result.groups  # base text comes last
            if dropped:
                result.dropped.setdefault(name, Counter()).update(dropped)
            advance(1)
    return documents


def partition_documents(
    name: str, source: SourceConfig, read: Iterable[Document]
) -> tuple[dict[str, list[Document]], dict[str, str], Counter[str]]:
    """Documents by partition, groups by partition, and dropped counts by cause."""
    _check_dates(name, source.by_dates)
    by_partition: dict[str, list[Document]] = defaultdict(list)
    groups: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    for document in read:
        places = places_of(name, source, document)
        if isinstance(places, str):
            dropped[places] += 1
            continue
        for partition, group in places:
            by_partition[partition].append(document)
            if groups.setdefault(partition, group) != group:
                raise UserError(
                    f"source {name!r}: {partition!r} is the name of two partitions, "
                    f"of {groups[partition]!r} and of {group!r}; rename a file or a "
                    "value"
                )
    if not by_partition:
        causes = ", ".join(f"{n} with {c}" for c, n in dropped.items())
        why = f"dropped {causes}" if causes else "none pass `where`"
        raise UserError(f"source {name!r}: no documents left; {why}")
    if source.by_dates and not (source.by_field or source.by_file):
        for start, end in source.by_dates:
            if f"{start}-{end}" not in by_partition:
                raise UserError(
                    f"partition '{start}-{end}' of source {name!r}: no "
                    "document has such a date; remove the range"
                )
    return dict(sorted(by_partition.items())), groups, dropped


def places_of(
    name: str, source: SourceConfig, document: Document
) -> list[tuple[str, str]] | str:
    """The partitions that a document belongs to, each with its group.

    There is one, or with `by_list='every'` one for each value of a list. With one
    rule the group is the source; with several it is the value of the first one.

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
            return date_of(value, source.date_field) or f"no {source.date_field}"
        for start, end in source.by_dates:
            if start <= date[: len(start)] and date[: len(end)] <= end:
                rest.append(f"{start}-{end}")
                break
        else:
            return Cause("outside every range of by_dates", date)
    what = f"source {name!r}, document {document.id[:200]!r}"
    places = []
    for value in values:
        parts = [value, *rest] if value else rest
        partition = check_name(",".join(parts) or name, what)
        places.append((partition, parts[0] if len(parts) > 1 else name))
    return places


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


def hash_order(salt: str, documents: Iterable[Document]) -> list[int]:
    """Indices of documents in the order of a hash of their ids."""
    keys = [(unit_hash(salt, d.id), d.id) for d in documents]
    return sorted(range(len(keys)), key=keys.__getitem__)


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


def check_splits(gathered: Gathered, split: SplitConfig, frozen: bool) -> None:
    """Raises a `UserError` that names all splits of domains without a document.

    It proposes another salt, unless the rule is `frozen`.
    """
    empty = [
        f"{'partition' if domain in gathered.train else 'domain'} "
        f"{domain!r} has no document in its {split} split"
        for domain, splits in gathered.evaluation.items()
        for split, documents in splits.items()
        if not documents
    ]
    if not empty:
        return
    advice = "give them more documents"
    if not frozen:
        advice += ", raise config.corpus.split.dev and config.corpus.split.test"
        if salt := _working_salt(gathered, split):
            advice += f", or set config.corpus.split.salt={salt!r}: none is empty then"
    raise UserError("; ".join(empty) + ". What helps: " + advice)


def _working_salt(gathered: Gathered, split: SplitConfig) -> str:
    """The first of a thousand salts that leaves no split empty, or ''."""
    pooled = {
        domain: [
            *itertools.chain.from_iterable(splits.values()),
            *gathered.train.get(domain, ()),
            *gathered.base.get(domain, ()),
        ]
        for domain, splits in gathered.evaluation.items()
    }
    gives_base = any(domain in gathered.base for domain in gathered.train)
    for number in range(1000):
        trial = dataclasses.replace(split, salt=str(number))
        found: set[str] = set()
        for domain, documents in pooled.items():
            in_pool = domain in gathered.train
            splits = {split_of(d, trial, in_pool) for d in documents}
            if not splits.issuperset((*SPLITS, TRAIN) if in_pool else SPLITS):
                break
            found |= splits
        else:
            if BASE in found or not gives_base:
                return trial.salt
    return ""
