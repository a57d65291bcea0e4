"""The first step of every project: documents become the corpus of a workdir.

Safe to kill and to repeat: data sets appear complete, and corpus.json, which
alone makes them part of the corpus, is replaced in one step at the end.
"""

import contextlib
import dataclasses
import fcntl
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import rich.markup
import rich.table

from jaxsim.config import Config
from jaxsim.corpus.decontaminate import OverlapReport, decontaminate
from jaxsim.corpus.names import check_twins
from jaxsim.corpus.rows import cut_units, evaluation_rows, training_rows
from jaxsim.corpus.sources import Document, Quarantine, input_files
from jaxsim.corpus.split import (
    BASE,
    SPLITS,
    Gathered,
    check_splits,
    gather,
    hash_order,
)
from jaxsim.corpus.store import (
    TEMPORARY,
    Corpus,
    Domain,
    Unit,
    folder_of,
    open_corpus,
    publish,
    write_record,
    write_unit,
    write_windows,
)
from jaxsim.corpus.tokenizer import (
    Coverage,
    Tokenizer,
    tokenizer_from_config,
    training_sample,
)
from jaxsim.errors import UserError
from jaxsim.log import progress
from jaxsim.records import VERSION, digest, plain

# Fields that decide what each kind of tokenizer is; a 'file' by its digest.
_DECIDING = {
    "bytes": ("kind",),
    "bpe": ("kind", "vocab_size", "sample_bytes"),
    "file": ("kind", "end_of_text"),
}


def prepare(config: Config, workdir: Path, refreeze: bool = False) -> Corpus:
    """Brings the corpus of a workdir up to the config, and prints it.

    The first call freezes tokenizer, base text, length, budget and split. A
    later one adds what is new, and touches nothing that did not change.

    Args:
      refreeze: forget what was frozen: removes `corpus/` and starts over. The
        base model and the pool stay, and are refused later by their digests.

    Raises:
      UserError: bad input, an impossible corpus, or a config that contradicts
        what was frozen.
      DamagedError: a compressed input file is cut or changed.
    """
    folder = workdir / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        for leftover in folder.glob(f"{TEMPORARY}*"):  # of a killed `prepare`
            shutil.rmtree(leftover)
        if refreeze:
            _remove(folder)
        previous = None
        if (folder / "corpus.json").exists():
            previous = open_corpus(workdir)
            _check_frozen(previous.record["frozen"], config, folder)
        evidence = _fingerprint(config)
        if previous is not None and _is_current(previous, evidence):
            corpus = previous
        else:
            record = _build(config, workdir, previous)
            write_record(workdir, record | {"fingerprint": evidence})
            corpus = open_corpus(workdir)
    _print_summary(corpus)
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
    stored = [("unit", u.digest) for u in (corpus.base, *corpus.units.values())]
    stored += [
        ("domain", digest)
        for domain in corpus.domains.values()
        for digest in domain.digests.values()
    ]
    return corpus.record["fingerprint"] == evidence and all(
        folder_of(corpus.workdir, *pair).is_dir() for pair in stored
    )


def _build(config: Config, workdir: Path, previous: Corpus | None) -> dict[str, Any]:
    """Does all the work; returns what corpus.json will say."""
    frozen = previous.record["frozen"] if previous else None
    base_partitions = frozen["base_partitions"] if frozen else None
    place = workdir / "corpus" / "quarantine.jsonl"
    with Quarantine(place, config.corpus.max_bad) as quarantine:
        gathered = gather(config.corpus, quarantine, base_partitions)
    # Which `prepare` first saw each partition and domain, counted from 0.
    generations: dict[str, int] = (
        dict(previous.record["generations"]) if previous else {}
    )
    new = max(generations.values(), default=-1) + 1
    for name in gathered.evaluation:
        generations.setdefault(name, new)
    overlap = decontaminate(
        gathered,
        config.corpus,
        generations,
        _frozen_base_text(previous) if previous else None,
    )
    check_splits(gathered, config.corpus.split, frozen is not None)
    if frozen is None or previous is None:
        coverage, frozen = _freeze(config, workdir, gathered)
    else:
        coverage = Coverage(previous.tokenizer, config.corpus.max_unknown)
    units = _write_units(config, workdir, gathered, coverage)
    domains = _write_domains(config, workdir, gathered, coverage)
    return {
        "frozen": frozen,
        "units": {unit.name: dataclasses.asdict(unit) for unit in units},
        "domains": {d.name: dataclasses.asdict(d) for d in domains},
        "generations": generations,
        "summary": _summary(gathered, quarantine, overlap, coverage),
    }


def _frozen_base_text(previous: Corpus) -> list[Document]:
    """The base model's documents, from its rows.

    The sources may be gone or changed. The last document is left out: the
    rows may hold only its beginning.
    """
    reader = previous.rows(BASE)
    rows_RL1 = reader[np.arange(len(reader))]
    stream = rows_RL1[:, :-1].ravel()
    ends = np.flatnonzero(stream == previous.tokenizer.end_of_text)
    starts = np.concatenate([[0], ends + 1])
    return [
        Document(f"{BASE}:{i}", previous.tokenizer.decode(stream[a:b]), BASE)
        for i, (a, b) in enumerate(zip(starts, ends, strict=False))
    ]


def _freeze(
    config: Config, workdir: Path, gathered: Gathered
) -> tuple[Coverage, dict[str, Any]]:
    """Makes and stores the tokenizer and the base model's rows."""
    groups = [[d.text for d in docs] for docs in gathered.base.values()]
    sample = training_sample(groups, config.corpus.tokenizer.sample_bytes)
    tokenizer = tokenizer_from_config(config.corpus.tokenizer, sample)
    publish(
        folder_of(workdir, "tokenizer", tokenizer.digest),
        stored=Tokenizer.load,
        write=tokenizer.save,
    )
    coverage = Coverage(tokenizer, config.corpus.max_unknown)
    texts = [text for group in groups for text in group]
    length = config.model.length
    tokens_RL1 = training_rows(
        coverage.encode("the base model", texts), tokenizer.end_of_text, length
    )
    if not len(tokens_RL1):
        raise UserError(
            f"the base model's text ({len(texts)} documents) is less than one row "
            f"of {length} tokens; raise corpus.split.base, give "
            "corpus.base_text more text, or lower model.length"
        )
    base = write_unit(
        workdir, tokens_RL1, tokenizer.digest,
        name=BASE, partition="", group=BASE, documents=len(texts),
    )  # fmt: skip
    frozen = _frozen_config(config) | {
        "tokenizer_digest": tokenizer.digest,
        "base_partitions": ([] if config.corpus.base_text else gathered.partitions),
        "base": dataclasses.asdict(base),
    }
    return coverage, frozen


def _write_units(
    config: Config, workdir: Path, gathered: Gathered, coverage: Coverage
) -> list[Unit]:
    units = []
    names, tokenizer = gathered.partitions, coverage.tokenizer
    with progress(len(names), "writing units", "partitions") as advance:
        for name in names:
            documents = gathered.train[name]
            ids = coverage.encode(f"partition {name!r}", [d.text for d in documents])
            pieces = cut_units(name, documents, ids, tokenizer.end_of_text, config)
            # Pieces of one partition belong together before anything else.
            group = gathered.groups[name] if len(pieces) == 1 else name
            units += [
                write_unit(
                    workdir, piece.tokens_RL1, tokenizer.digest,
                    name=piece.name, partition=name, group=group,
                    documents=piece.documents,
                )
                for piece in pieces
            ]  # fmt: skip
            advance(1)
    check_twins([*(unit.name for unit in units), BASE], "units")
    return units


def _write_domains(
    config: Config, workdir: Path, gathered: Gathered, coverage: Coverage
) -> list[Domain]:
    names = list(gathered.evaluation)
    domains = [
        Domain(name, name in gathered.train, {}, {}, {}, {}, {}) for name in names
    ]
    with progress(len(names), "writing domains", "domains") as advance:
        for domain in domains:
            for split, documents in gathered.evaluation[domain.name].items():
                _write_split(config, workdir, domain, split, documents, coverage)
            advance(1)
    return domains


def _write_split(
    config: Config,
    workdir: Path,
    domain: Domain,
    split: str,
    documents: Sequence[Document],
    coverage: Coverage,
) -> None:
    """Stores one split, and enters it in `domain`."""
    tokenizer = coverage.tokenizer
    what = f"domain {domain.name!r}, half {split!r}"
    ids = coverage.encode(what, [d.text for d in documents])
    taken = _some(documents, ids, config)
    # A tokenizer that drops all of a document leaves nothing to score.
    kept = [i for i in taken if len(ids[i])]
    if not kept:
        raise UserError(
            f"{what}: the tokenizer makes no token of any of its documents; "
            "use another tokenizer"
        )
    windows = evaluation_rows(
        [ids[i] for i in kept],
        [tokenizer.token_bytes(documents[i].text, ids[i]) for i in kept],
        tokenizer.end_of_text,
        config.model.length,
        [documents[i].id for i in kept],
        config.corpus.evaluation_windows,
    )
    domain.digests[split] = write_windows(workdir, windows, tokenizer.digest)
    domain.documents[split] = len(kept)
    domain.tokens[split] = int(windows.count_R.sum())
    domain.bytes[split] = int(windows.bytes_R.sum())
    domain.windows[split] = len(windows)


def _some(
    documents: Sequence[Document], ids: Sequence[np.ndarray], config: Config
) -> list[int]:
    """Which documents are scored: all, or `evaluation_tokens` of them, about.

    Documents in the order of a hash of their ids, so that what a domain is
    scored on does not depend on how its files are sorted, until there are
    enough tokens.
    """
    most = config.corpus.evaluation_tokens
    if not most:
        return list(range(len(documents)))
    order = hash_order("evaluation", documents)
    sizes = [len(ids[i]) for i in order]
    if windows := config.corpus.evaluation_windows:
        sizes = [min(n, windows * config.model.length) for n in sizes]
    before = np.cumsum([0, *sizes])
    return sorted(order[: int(np.searchsorted(before, most))])


def _frozen_config(config: Config) -> dict[str, Any]:
    """The part of a config that a pool rests on, as plain JSON data."""
    return plain(
        {
            "length": config.model.length,
            "budget_rows": config.recipe.steps * config.recipe.batch,
            "tokenizer": dataclasses.asdict(config.corpus.tokenizer),
            "split": dataclasses.asdict(config.corpus.split),
            "base_text": {
                name: dataclasses.asdict(source)
                for name, source in config.corpus.base_text.items()
            },
        }
    )


def _check_frozen(frozen: dict[str, Any], config: Config, folder: Path) -> None:
    """Refuses a config that contradicts what was frozen.

    Raises:
      UserError: naming key, frozen value and new value.
    """
    new = _frozen_config(config)

    def need(key: str, was: object, wanted: object) -> None:
        if was != wanted:
            raise UserError(
                f"{key}: {was!r} was frozen in {folder}, the config has "
                f"{wanted!r}; set it back, use another --workdir, or start a "
                "new corpus with `jaxsim prepare --refreeze` (the pool trained "
                "on the old one will then be refused)"
            )

    need("model.length", frozen["length"], new["length"])
    rows = "recipe.steps * recipe.batch"
    need(rows, frozen["budget_rows"], new["budget_rows"])
    was, wanted = frozen["tokenizer"], new["tokenizer"]
    for field in _DECIDING[was["kind"]]:
        need(f"corpus.tokenizer.{field}", was[field], wanted[field])
    # The workdir has a copy: the file itself may be gone.
    path = Path(config.corpus.tokenizer.path)
    if was["kind"] == "file" and path.exists():
        found = Tokenizer.from_file(path, config.corpus.tokenizer.end_of_text)
        need(
            "corpus.tokenizer.path (its content)",
            frozen["tokenizer_digest"],
            found.digest,
        )
    for field, value in frozen["split"].items():
        need(f"corpus.split.{field}", value, new["split"].get(field))
    need("corpus.base_text", frozen["base_text"], new["base_text"])


def _fingerprint(config: Config) -> str:
    """Cheap evidence that a `prepare` would do the same work again.

    Sizes and modification times of all inputs and everything in the config
    that matters here. It can only make work be done again, never be skipped
    wrongly by a copy: modification times are compared for equality.
    """
    inputs = [
        (where, name, file, path.stat().st_size, path.stat().st_mtime_ns)
        for where in ("partitions", "domains", "base_text")
        for name, source in getattr(config.corpus, where).items()
        for file, path in input_files(name, source)
    ]
    corpus = dataclasses.asdict(config.corpus)
    return digest([VERSION, corpus, _frozen_config(config), inputs])


def _summary(
    gathered: Gathered,
    quarantine: Quarantine,
    overlap: OverlapReport,
    coverage: Coverage,
) -> dict[str, Any]:
    """What the printed tables and the report say besides the data sets."""
    return plain(
        {
            "records": quarantine.records,
            "quarantine": quarantine.summary(),
            "dropped": gathered.dropped,
            "duplicates": overlap.duplicates,
            "overlap": overlap.found,
            "unknown": coverage.counts,
            "documents": {
                name: {
                    "base": len(gathered.base.get(name, [])),
                    "train": len(gathered.train[name]),
                    **{
                        split: len(gathered.evaluation[name][split]) for split in SPLITS
                    },
                }
                for name in gathered.partitions
            },
        }
    )


def _print_summary(corpus: Corpus) -> None:
    """Prints partitions, splits, epochs, and what was dropped, from disk."""
    console = rich.console.Console()
    console.print(
        f"corpus: {len(corpus.units)} units of {corpus.budget_tokens:,} "
        f"tokens, {len(corpus.domains)} domains, base model of "
        f"{corpus.base.tokens:,} tokens ({corpus.base.documents:,} documents), "
        f"vocabulary of {corpus.tokenizer.vocab_size:,}"
    )
    table = _table("units", "unit group", "documents rows tokens epochs")
    for unit in corpus.units.values():
        table.add_row(
            *map(rich.markup.escape, (unit.name, unit.group)),
            *(f"{n:,}" for n in (unit.documents, unit.rows, unit.tokens)),
            f"{corpus.budget_rows / unit.rows:.2f}",
        )
    console.print(table)
    title = f"domains ({' / '.join(SPLITS)})"
    table = _table(title, "domain in-pool", "documents tokens windows")
    for domain in corpus.domains.values():
        table.add_row(
            rich.markup.escape(domain.name),
            "yes" if domain.in_pool else "no",
            *(
                " / ".join(f"{counts[split]:,}" for split in SPLITS)
                for counts in (domain.documents, domain.tokens, domain.windows)
            ),
        )
    console.print(table)
    for line in _losses(corpus.record["summary"]):
        console.print(rich.markup.escape(line))


def _table(title: str, words: str, numbers: str) -> rich.table.Table:
    table = rich.table.Table(title=title)
    for column in words.split():
        table.add_column(column, overflow="fold")
    for column in numbers.split():
        table.add_column(column, justify="right")
    return table


def _losses(summary: dict[str, Any]) -> Iterator[str]:
    """One line for everything that did not become part of the corpus."""
    for source, kinds in summary["quarantine"].items():
        for kind, causes in kinds.items():
            for cause, count in causes.items():
                yield f"{kind}: source {source}: {count} x {cause}"
    for source, causes in summary["dropped"].items():
        for cause, count in causes.items():
            yield f"dropped: source {source}: {count} x {cause}"
    for place, counts in summary["unknown"].items():
        yield (
            f"unknown to the tokenizer: {place}: {counts['unknown']} of "
            f"{counts['tokens']} tokens, {counts['lost']} of "
            f"{counts['bytes']} bytes"
        )
    for name, count in summary["duplicates"].items():
        yield (f"dropped: {name}: {count} documents that repeat other training text")
    for name, domains in summary["overlap"].items():
        for domain, counts in domains.items():
            yield (
                f"dropped: {name} repeats domain {domain}: "
                f"{counts['training']} training documents, "
                f"{counts['evaluation']} newer evaluation documents"
            )
