"""Takes training text that repeats evaluation text out of the corpus.

Who came first stays: what an earlier `prepare` gave to training or to the
seed is in members already, and taking it out now would cost them. So a
document of a domain that is newer than the training text it repeats is
dropped instead, and counted as such. Within one `prepare`, evaluation stays
and training text goes.
"""

import dataclasses
from collections.abc import Mapping

from jaxsim.config import CorpusConfig
from jaxsim.corpus.documents import Document
from jaxsim.corpus.gather import Gathered
from jaxsim.corpus.overlap import Fingerprinter, build_index, find
from jaxsim.corpus.progress import track
from jaxsim.corpus.split import SEED
from jaxsim.errors import UserError

FROZEN = -1  # generation of a seed that no later evaluation can change


@dataclasses.dataclass(frozen=True)
class OverlapReport:
    """Documents taken out.

    `found[partition][domain]` counts training documents (of a partition, or of
    the seed) that repeat the domain, and evaluation documents that repeat
    older training text.
    """

    found: dict[str, dict[str, dict[str, int]]]
    duplicates: dict[str, int]  # of earlier training text, by partition


def decontaminate(
    gathered: Gathered,
    config: CorpusConfig,
    generations: Mapping[str, int],
    frozen_seed: list[Document] | None,
) -> OverlapReport:
    """Removes duplicates and overlaps from `gathered`, in place.

    Args:
      generations: the `prepare`, counted from 0, that first saw a partition or
        domain.
      frozen_seed: the seed's text, if it is frozen.

    Raises:
      UserError: there is overlap and `corpus.overlap` is 'refuse'.
    """
    fingerprint = Fingerprinter(config.overlap_words)
    places = [
        (domain, half, position)
        for domain, halves in gathered.evaluation.items()
        for half, documents in halves.items()
        for position in range(len(documents))
    ]
    index = build_index(
        [
            fingerprint(gathered.evaluation[domain][half][position].text)[1]
            for domain, half, position in places
        ]
    )
    report = OverlapReport({}, {})
    repeated: set[int] = set()  # evaluation documents to drop

    def clean(
        name: str, documents: list[Document], generation: int, seen: set[str]
    ) -> list[Document]:
        kept = []
        for document in documents:
            digest, grams = fingerprint(document.text)
            if digest in seen:
                report.duplicates[name] = report.duplicates.get(name, 0) + 1
                continue
            seen.add(digest)
            found = find(grams, index, config.overlap_share).tolist()
            older = [
                e for e in found if generations[places[e][0]] <= generation
            ]
            for domain in {places[e][0] for e in older}:
                _count(report, name, domain, "training")
            if older:
                continue
            for e in found:
                if e not in repeated:
                    _count(report, name, places[e][0], "evaluation")
            repeated.update(found)
            kept.append(document)
        return kept

    seen_in_seed: set[str] = set()
    if frozen_seed is not None:
        clean(SEED, frozen_seed, FROZEN, seen_in_seed)
        report.duplicates.pop(SEED, None)
    for name, documents in gathered.seed.items():
        if frozen_seed is None:
            gathered.seed[name] = clean(SEED, documents, 0, seen_in_seed)
    seen: set[str] = set()
    # Older partitions first: of two copies the older one stays.
    names = sorted(gathered.train, key=lambda name: generations[name])
    for name in track(names, "looking for evaluation text in training text"):
        gathered.train[name] = clean(
            name, gathered.train[name], generations[name], seen
        )
    if report.found and config.overlap == "refuse":
        raise UserError(
            "corpus.overlap='refuse': training text repeats evaluation text: "
            + "; ".join(_lines(report))
            + ". Remove it, or set corpus.overlap='drop'"
        )
    _drop(gathered, [places[e] for e in repeated])
    return report


def _count(report: OverlapReport, name: str, domain: str, side: str) -> None:
    counts = report.found.setdefault(name, {}).setdefault(
        domain, {"training": 0, "evaluation": 0}
    )
    counts[side] += 1


def _lines(report: OverlapReport) -> list[str]:
    return [
        f"{name!r} and domain {domain!r}: "
        f"{counts['training'] + counts['evaluation']} documents"
        for name, domains in report.found.items()
        for domain, counts in domains.items()
    ]


def _drop(gathered: Gathered, places: list[tuple[str, str, int]]) -> None:
    gone = set(places)
    for domain, halves in gathered.evaluation.items():
        for half, documents in halves.items():
            halves[half] = [
                document
                for position, document in enumerate(documents)
                if (domain, half, position) not in gone
            ]
