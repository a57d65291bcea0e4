"""All documents of a config, by partition or domain and by half."""

import dataclasses
from collections import Counter
from collections.abc import Collection

from jaxsim.config import CorpusConfig, SourceConfig, SplitConfig
from jaxsim.corpus.documents import Document, Quarantine
from jaxsim.corpus.names import check_twins
from jaxsim.corpus.partition import partition_documents
from jaxsim.corpus.progress import track
from jaxsim.corpus.sources import read_documents
from jaxsim.corpus.split import HALVES, SEED, TRAIN, half_of
from jaxsim.errors import UserError


@dataclasses.dataclass
class Gathered:
    """Documents by place; later steps take documents out and count them."""

    train: dict[str, list[Document]]  # by partition
    seed: dict[str, list[Document]]  # by partition, or by source of seed text
    evaluation: dict[str, dict[str, list[Document]]]  # by domain and half
    groups: dict[str, str]  # of partitions
    dropped: dict[str, Counter[str]]  # by source, by cause

    @property
    def partitions(self) -> list[str]:
        return list(self.train)


def gather(
    config: CorpusConfig,
    quarantine: Quarantine,
    seed_partitions: Collection[str] | None,
) -> Gathered:
    """Reads, partitions and splits everything the config names.

    Args:
      seed_partitions: whose seed share went in the frozen seed; None before
        anything is frozen, when all give theirs. A partition that came later
        trains on its share instead: the seed does not know it.

    Raises:
      UserError: bad input, bad names, or a source without documents.
    """
    result = Gathered({}, {}, {}, {}, {})
    for name, documents in _read_all(
        config.partitions, "reading partitions", quarantine, result
    ).items():
        gives_seed = not config.seed_text and (
            seed_partitions is None or name in seed_partitions
        )
        halves: dict[str, list[Document]] = {
            half: [] for half in (SEED, TRAIN, *HALVES)
        }
        for document in documents:
            half = half_of(
                document, config.split, seed_from_partitions=gives_seed
            )
            halves[half].append(document)
        result.train[name] = halves[TRAIN]
        if gives_seed:
            result.seed[name] = halves[SEED]
        result.evaluation[name] = {half: halves[half] for half in HALVES}

    for name, documents in _read_all(
        config.domains, "reading domains", quarantine, result
    ).items():
        if name in result.evaluation:
            raise UserError(
                f"corpus.domains: {name!r} is the name of a partition, which "
                "is a domain already; choose another name"
            )
        result.evaluation[name] = {half: [] for half in HALVES}
        for document in documents:
            half = half_of(document, config.split, in_pool=False)
            result.evaluation[name][half].append(document)
    check_twins([*result.evaluation, SEED], "partitions, domains and the seed")

    if seed_partitions is None:
        seed_text = _read_all(
            config.seed_text, "reading seed text", quarantine, result
        )
        result.seed.update(seed_text)
    return result


def check_halves(gathered: Gathered, split: SplitConfig, frozen: bool) -> None:
    """Every half of every domain must have a document.

    Args:
      frozen: the split rule can no longer be changed.

    Raises:
      UserError: naming all that have none, and a salt that would do.
    """
    empty = [
        f"{'partition' if domain in gathered.train else 'domain'} "
        f"{domain!r} has no document in its {half} half"
        for domain, halves in gathered.evaluation.items()
        for half, documents in halves.items()
        if not documents
    ]
    if not empty:
        return
    advice = "give them more documents"
    if not frozen:
        advice += ", raise corpus.split.select and corpus.split.report"
        if salt := _working_salt(gathered, split):
            advice += f", or set corpus.split.salt={salt!r}: none is empty then"
    raise UserError("; ".join(empty) + ". What helps: " + advice)


def _working_salt(gathered: Gathered, split: SplitConfig) -> str:
    """The first of a thousand salts that leaves nothing empty, or ''."""
    pooled = {
        domain: [
            *(document for half in halves.values() for document in half),
            *gathered.train.get(domain, ()),
            *gathered.seed.get(domain, ()),
        ]
        for domain, halves in gathered.evaluation.items()
    }
    gives_seed = any(domain in gathered.seed for domain in gathered.train)
    for number in range(1000):
        trial = dataclasses.replace(split, salt=str(number))
        found: set[str] = set()
        for domain, documents in pooled.items():
            in_pool = domain in gathered.train
            halves = {half_of(d, trial, in_pool) for d in documents}
            if not halves.issuperset((*HALVES, TRAIN) if in_pool else HALVES):
                break
            found |= halves
        else:
            if SEED in found or not gives_seed:
                return trial.salt
    return ""


def _read_all(
    sources: dict[str, SourceConfig],
    what: str,
    quarantine: Quarantine,
    result: Gathered,
) -> dict[str, list[Document]]:
    documents: dict[str, list[Document]] = {}
    if not sources:
        return documents
    for name, source in track(list(sources.items()), what):
        found, groups, dropped = partition_documents(
            name, source, read_documents(name, source, quarantine)
        )
        for partition in found:
            if partition in documents:
                raise UserError(
                    f"source {name!r}: another source names {partition!r} "
                    "too; give one of them another rule or name"
                )
        documents.update(found)
        result.groups.update(groups)
        if dropped:
            result.dropped[name] = Counter(dropped)
    return documents
