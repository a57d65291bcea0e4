"""The first step of every project: documents become the corpus of a workdir.

Safe to kill and to repeat: data sets appear complete, and corpus.json, which
alone makes them part of the corpus, is replaced in one step at the end.
"""

import contextlib
import dataclasses
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim.config import Config
from jaxsim.corpus.datasets import (
    Domain,
    Unit,
    folder_of,
    publish,
    remove_leftovers,
    write_evaluation,
    write_unit,
)
from jaxsim.corpus.decontaminate import OverlapReport, decontaminate
from jaxsim.corpus.documents import Document, Quarantine
from jaxsim.corpus.freeze import (
    check_frozen,
    fingerprint,
    frozen_config,
    plain,
)
from jaxsim.corpus.gather import Gathered, check_halves, gather
from jaxsim.corpus.names import check_twins
from jaxsim.corpus.progress import track
from jaxsim.corpus.rows import evaluation_rows, training_rows
from jaxsim.corpus.split import HALVES, unit_hash
from jaxsim.corpus.store import (
    FORMAT_VERSION,
    SEED,
    Corpus,
    open_corpus,
    write_record,
)
from jaxsim.corpus.summary import print_summary
from jaxsim.corpus.tokenizer import (
    Tokenizer,
    tokenizer_from_config,
    training_sample,
)
from jaxsim.corpus.units import Budget, cut_units
from jaxsim.errors import UserError


def prepare(config: Config, workdir: Path, refreeze: bool = False) -> Corpus:
    """Brings the corpus of a workdir up to the config, and prints it.

    The first call freezes tokenizer, seed text, length, budget and split. A
    later one adds what is new, and touches nothing that did not change.

    Args:
      refreeze: forget what was frozen: removes `corpus/` and starts over. The
        seed and the pool stay, and are refused later by their digests.

    Raises:
      UserError: bad input, an impossible corpus, or a config that contradicts
        what was frozen.
    """
    folder = workdir / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        remove_leftovers(folder)
        if refreeze:
            _remove(folder)
        previous = None
        if (folder / "corpus.json").exists():
            previous = open_corpus(workdir)
            check_frozen(previous.record["frozen"], config, folder)
        evidence = fingerprint(config)
        if previous is not None and _is_current(previous, evidence):
            corpus = previous
        else:
            record = _build(config, workdir, previous)
            write_record(workdir, record | {"fingerprint": evidence})
            corpus = open_corpus(workdir)
    print_summary(corpus)
    return corpus


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One `prepare` at a time; the system frees the lock of a dead one."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove(folder: Path) -> None:
    # First what makes the rest part of a corpus: a kill leaves no half of one.
    (folder / "corpus.json").unlink(missing_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != ".lock":
            entry.unlink()


def _is_current(corpus: Corpus, evidence: str) -> bool:
    folders = [
        folder_of(corpus.workdir, "unit", unit.digest)
        for unit in (corpus.seed, *corpus.units.values())
    ] + [
        folder_of(corpus.workdir, "domain", digest)
        for domain in corpus.domains.values()
        for digest in domain.digests.values()
    ]
    return corpus.record["fingerprint"] == evidence and all(
        folder.is_dir() for folder in folders
    )


def _build(
    config: Config, workdir: Path, previous: Corpus | None
) -> dict[str, Any]:
    """Does all the work; returns what corpus.json will say."""
    frozen = previous.record["frozen"] if previous else None
    seed_partitions = frozen["seed_partitions"] if frozen else None
    place = workdir / "corpus" / "quarantine.jsonl"
    with Quarantine(place, config.corpus.max_bad) as quarantine:
        gathered = gather(config.corpus, quarantine, seed_partitions)
    generations = _generations(gathered, previous)
    overlap = decontaminate(
        gathered,
        config.corpus,
        generations,
        _frozen_seed_text(previous) if previous else None,
    )
    check_halves(gathered, config.corpus.split, frozen is not None)
    if frozen is None or previous is None:
        tokenizer, frozen = _freeze(config, workdir, gathered)
    else:
        tokenizer = previous.tokenizer
    units = _write_units(config, workdir, gathered, tokenizer)
    domains = _write_domains(config, workdir, gathered, tokenizer)
    return {
        "format": FORMAT_VERSION,
        "frozen": frozen,
        "units": {unit.name: dataclasses.asdict(unit) for unit in units},
        "domains": {d.name: dataclasses.asdict(d) for d in domains},
        "generations": generations,
        "summary": _summary(gathered, quarantine, overlap),
    }


def _generations(gathered: Gathered, previous: Corpus | None) -> dict[str, int]:
    """Which `prepare` first saw each partition and domain, counted from 0."""
    known: dict[str, int] = (
        dict(previous.record["generations"]) if previous else {}
    )
    new = max(known.values(), default=-1) + 1
    for name in gathered.evaluation:
        known.setdefault(name, new)
    return known


def _frozen_seed_text(previous: Corpus) -> list[Document]:
    """The seed's documents, from its rows.

    The sources may be gone or changed. The last document is left out: the
    rows may hold only its beginning.
    """
    reader = previous.rows(SEED)
    rows_RL1 = reader[np.arange(len(reader))]
    stream = rows_RL1[:, :-1].ravel()
    ends = np.flatnonzero(stream == previous.tokenizer.end_of_text)
    starts = np.concatenate([[0], ends + 1])
    return [
        Document(f"{SEED}:{i}", previous.tokenizer.decode(stream[a:b]), SEED)
        for i, (a, b) in enumerate(zip(starts, ends, strict=False))
    ]


def _freeze(
    config: Config, workdir: Path, gathered: Gathered
) -> tuple[Tokenizer, dict[str, Any]]:
    """Makes and stores the tokenizer and the seed's rows."""
    groups = [[d.text for d in docs] for docs in gathered.seed.values()]
    sample = training_sample(groups, config.corpus.tokenizer.sample_bytes)
    tokenizer = tokenizer_from_config(config.corpus.tokenizer, sample)
    publish(
        folder_of(workdir, "tokenizer", tokenizer.digest),
        stored=lambda folder: Tokenizer.load(folder),
        write=tokenizer.save,
    )
    texts = [text for group in groups for text in group]
    length = config.model.length
    tokens_RL1 = training_rows(
        tokenizer.encode_batch(texts), tokenizer.end_of_text, length
    )
    if not len(tokens_RL1):
        raise UserError(
            f"the seed's text ({len(texts)} documents) is less than one row "
            f"of {length} tokens; raise corpus.split.seed, give "
            "corpus.seed_text more text, or lower model.length"
        )
    seed = Unit(
        name=SEED,
        partition="",
        group=SEED,
        digest=write_unit(workdir, tokens_RL1, tokenizer.digest),
        rows=len(tokens_RL1),
        tokens=len(tokens_RL1) * length,
        documents=len(texts),
    )
    frozen = frozen_config(config) | {
        "tokenizer_digest": tokenizer.digest,
        "seed_partitions": (
            [] if config.corpus.seed_text else gathered.partitions
        ),
        "seed": dataclasses.asdict(seed),
    }
    return tokenizer, frozen


def _write_units(
    config: Config, workdir: Path, gathered: Gathered, tokenizer: Tokenizer
) -> list[Unit]:
    budget = Budget(
        rows=config.recipe.steps * config.recipe.batch,
        length=config.model.length,
        max_units=config.corpus.max_units,
        max_epochs=config.corpus.max_epochs,
    )
    units = []
    for name in track(gathered.partitions, "writing base units"):
        for piece in cut_units(
            name,
            gathered.groups[name],
            gathered.train[name],
            tokenizer,
            budget,
        ):
            rows = len(piece.tokens_RL1)
            unit = Unit(
                name=piece.name,
                partition=piece.partition,
                group=piece.group,
                digest=write_unit(workdir, piece.tokens_RL1, tokenizer.digest),
                rows=rows,
                tokens=rows * budget.length,
                documents=piece.documents,
            )
            units.append(unit)
    check_twins([*(unit.name for unit in units), SEED], "base units")
    return units


def _write_domains(
    config: Config, workdir: Path, gathered: Gathered, tokenizer: Tokenizer
) -> list[Domain]:
    length, most = config.model.length, config.corpus.evaluation_tokens
    domains = []
    for name in track(list(gathered.evaluation), "writing domains"):
        domain = Domain(name, name in gathered.train, {}, {}, {}, {}, {})
        for half in HALVES:
            documents = gathered.evaluation[name][half]
            ids = tokenizer.encode_batch([d.text for d in documents])
            taken = _some(documents, ids, most)
            _write_half(
                workdir,
                domain,
                half,
                [documents[i] for i in taken],
                [ids[i] for i in taken],
                tokenizer,
                length,
            )
        domains.append(domain)
    return domains


def _some(
    documents: list[Document], ids: list[np.ndarray], most: int
) -> list[int]:
    """Which documents are scored: all, or about `most` tokens of them.

    Whole documents in the order of a hash of their ids, so that what a domain
    is scored on does not depend on how its files are sorted, until there are
    `most` tokens.
    """
    if not most:
        return list(range(len(documents)))
    order = sorted(
        range(len(documents)),
        key=lambda i: (
            unit_hash("evaluation", documents[i].id),
            documents[i].id,
        ),
    )
    before = np.cumsum([0, *(len(ids[i]) for i in order)])
    return sorted(order[: int(np.searchsorted(before, most))])


def _write_half(
    workdir: Path,
    domain: Domain,
    half: str,
    documents: list[Document],
    ids: list[np.ndarray],
    tokenizer: Tokenizer,
    length: int,
) -> None:
    """Stores one half, and enters it in `domain`."""
    byte_counts = [
        tokenizer.token_bytes(document.text, tokens)
        for document, tokens in zip(documents, ids, strict=True)
    ]
    # A tokenizer that drops all of a document leaves nothing to score.
    kept = [i for i, tokens in enumerate(ids) if len(tokens)]
    if not kept:
        raise UserError(
            f"domain {domain.name!r}, half {half!r}: the tokenizer makes no "
            "token of any of its documents; use another tokenizer"
        )
    windows = evaluation_rows(
        [ids[i] for i in kept],
        [byte_counts[i] for i in kept],
        tokenizer.end_of_text,
        length,
    )
    tokens_E = np.array([len(ids[i]) for i in kept], np.int64)
    bytes_E = np.array([byte_counts[i].sum() for i in kept], np.int64)
    domain.digests[half] = write_evaluation(
        workdir,
        windows,
        [documents[i].id for i in kept],
        bytes_E,
        tokens_E,
        tokenizer.digest,
    )
    domain.documents[half] = len(kept)
    domain.tokens[half] = int(tokens_E.sum())
    domain.bytes[half] = int(bytes_E.sum())
    domain.windows[half] = len(windows.tokens_RL1)


def _summary(
    gathered: Gathered, quarantine: Quarantine, overlap: OverlapReport
) -> dict[str, Any]:
    """What the printed tables and the report say besides the data sets."""
    return plain(
        {
            "records": quarantine.records,
            "quarantine": quarantine.summary(),
            "dropped": gathered.dropped,
            "duplicates": overlap.duplicates,
            "overlap": overlap.found,
            "documents": {
                name: {
                    "seed": len(gathered.seed.get(name, [])),
                    "train": len(gathered.train[name]),
                    **{
                        half: len(gathered.evaluation[name][half])
                        for half in HALVES
                    },
                }
                for name in gathered.partitions
            },
        }
    )
