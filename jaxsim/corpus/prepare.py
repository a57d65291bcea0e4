"""The command `prepare`: documents become the corpus of a workdir.

It can be killed at any moment and repeated. Data sets appear complete, and
corpus.json, which makes them part of the corpus, is replaced in one step at the end.
"""

import fcntl
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim import records
from jaxsim.config import Config
from jaxsim.corpus import store
from jaxsim.corpus.coverage import Coverage
from jaxsim.corpus.decontaminate import decontaminate
from jaxsim.corpus.documents import Document, Quarantine
from jaxsim.corpus.names import check_twins
from jaxsim.corpus.rows import bordered, cut_units, evaluation_rows, training_rows
from jaxsim.corpus.sources import find_inputs
from jaxsim.corpus.split import BASE, SPLITS, Gathered, check_splits, gather, hash_order
from jaxsim.corpus.store import Corpus, CorpusRecord, Domain, Frozen, Tables, Unit
from jaxsim.corpus.tokenizer import END_OF_TEXT, Tokenizer, tokenizer_from_config
from jaxsim.errors import UserError
from jaxsim.log import counted, progress, say, show_table

# Names that begin so are of files and folders that a killed `prepare` leaves.
_LEFT = (".tmp_", ".quarantine.jsonl", ".corpus.json.")
_USES_BASE_TEXT = (
    "config.base.path and config.recipe.replay (whether base text is used)"
)
# Fields that define each kind of tokenizer; a 'file' has a digest, too.
_DECIDING = {
    "bytes": ("kind",),
    "bpe": ("kind", "vocab_size", "sample_bytes"),
    "file": ("kind", "begin_of_text", "end_of_text"),
}


def prepare(config: Config, workdir: Path, refreeze: bool = False) -> Corpus:
    """Makes the corpus that the config asks for, and prints it.

    The first call freezes tokenizer, base text, length, budget and split. Later
    calls add what is new, and leave alone what did not change.

    Args:
      refreeze: removes `corpus/` and freezes again. Base model and pool stay, and
        their digests no longer match.

    Raises:
      UserError: bad input, an impossible corpus, or a config that contradicts
        what was frozen.
      DamagedError: a compressed input file is truncated or changed.
    """
    records.check_tree(workdir)
    folder, path = workdir / "corpus", store.path_of(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        # One `prepare` at a time; the kernel releases the lock when this one ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if refreeze:
            # The record goes first, so that a kill leaves no part of a corpus.
            path.unlink(missing_ok=True)
        for entry in folder.iterdir():
            is_folder = entry.is_dir() and not entry.is_symlink()
            if entry.name.startswith(_LEFT) or (refreeze and is_folder):
                shutil.rmtree(entry) if is_folder else entry.unlink()
        previous = store.open_corpus(workdir) if path.exists() else None
        if previous:
            _check_frozen(previous.record.frozen, config, folder)
        evidence = _fingerprint(config)
        if not (
            previous
            and previous.record.fingerprint == evidence
            and all(map(Path.is_dir, store.folders_of(workdir, previous.record)))
        ):
            # In one step: until then nothing has changed.
            records.save(path, _build(config, workdir, previous, evidence))
        corpus = store.open_corpus(workdir)
    _print_summary(corpus)
    return corpus


def _build(
    config: Config, workdir: Path, previous: Corpus | None, evidence: str
) -> CorpusRecord:
    """Does all the work; returns the content of corpus.json."""
    frozen = previous.record.frozen if previous else None
    place = workdir / "corpus" / "quarantine.jsonl"
    none_yet = None if config.uses_base_text else ()
    base_partitions = frozen.base_partitions if frozen else none_yet
    with Quarantine(place, config.corpus.max_bad) as quarantine:
        gathered = gather(config.corpus, quarantine, base_partitions)
    # Which `prepare` first saw each partition and domain, counted from 0.
    generations = dict(previous.record.generations) if previous else {}
    new = max(generations.values(), default=-1) + 1
    for name in gathered.evaluation:
        generations.setdefault(name, new)
    base = _frozen_base_text(previous) if previous and previous.base else None
    decontaminate(gathered, config.corpus, generations, base)
    check_splits(gathered, config.corpus.split, frozen is not None)
    if previous:
        tokenizer = previous.tokenizer
    else:
        groups = [[d.text for d in texts] for texts in gathered.base.values()]
        tokenizer = tokenizer_from_config(config.corpus.tokenizer, groups)
    coverage = Coverage(tokenizer, config.corpus.max_unknown)
    tables = Tables(workdir, config.model.length, tokenizer)
    return CorpusRecord(
        config=config.corpus,
        frozen=frozen or _freeze(config, gathered, coverage, tables),
        units=_write_units(config, gathered, coverage, tables),
        domains=_write_domains(config, gathered, coverage, tables),
        generations=generations,
        summary=_summary(gathered, quarantine, coverage),
        fingerprint=evidence,
    )


def _frozen_base_text(previous: Corpus) -> list[Document]:
    """The base model's documents, from its rows: the sources may have changed.

    The last document is left out, because the rows may not hold all of it.
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
    config: Config, gathered: Gathered, coverage: Coverage, tables: Tables
) -> Frozen:
    """Stores the tokenizer, and the rows of the base text if they are trained on."""
    tokenizer, length = coverage.tokenizer, tables.length
    target = store.folder_of(tables.workdir, "tokenizer", tokenizer.digest)
    store.publish(target, tokenizer.save, lambda f: Tokenizer.load(f, tokenizer.digest))
    base = None
    if config.uses_base_text:
        texts = [d.text for documents in gathered.base.values() for d in documents]
        tokens_RL1 = training_rows(_encode(coverage, "the base text", texts), length)
        if not len(tokens_RL1):
            raise UserError(
                f"the base text ({counted(len(texts), 'document')}) is less than "
                f"one row of {length} tokens; raise config.corpus.split.base, give "
                "config.corpus.base_text more text, or lower config.model.length"
            )
        base = tables.write_unit(tokens_RL1, BASE, "", BASE, len(texts))
    return Frozen(
        **_frozen_config(config),
        tokenizer_digest=tokenizer.digest,
        base_partitions=[name for name in gathered.train if name in gathered.base],
        base=base,
    )


def _encode(coverage: Coverage, where: str, texts: Sequence[str]) -> list[np.ndarray]:
    """The token ids of training text."""
    borders = coverage.tokenizer.begin_of_text, coverage.tokenizer.end_of_text
    return bordered(coverage.encode(where, texts), *borders)


def _write_units(
    config: Config, gathered: Gathered, coverage: Coverage, tables: Tables
) -> dict[str, Unit]:
    units: list[Unit] = []
    with progress(len(gathered.train), "writing units", "partitions") as advance:
        for name, documents in gathered.train.items():
            texts = [d.text for d in documents]
            ids = _encode(coverage, f"partition {name!r}", texts)
            pieces = cut_units(name, documents, ids, config)
            # The pieces of a partition are a group.
            group = gathered.groups[name] if len(pieces) == 1 else name
            units += [
                tables.write_unit(rows_RL1, unit, name, group, touched)
                for unit, rows_RL1, touched in pieces
            ]
            advance(1)
    check_twins((unit.name for unit in units), "units")
    return {unit.name: unit for unit in units}


def _write_domains(
    config: Config, gathered: Gathered, coverage: Coverage, tables: Tables
) -> dict[str, Domain]:
    domains = {}
    tokenizer, sets = coverage.tokenizer, gathered.evaluation
    with progress(len(sets), "writing domains", "domains") as advance:
        for name, splits in sets.items():
            domain = Domain(name, name in gathered.train, {}, {}, {}, {}, {})
            for split, documents in splits.items():
                what = f"domain {name!r}, split {split!r}"
                ids = coverage.encode(what, [d.text for d in documents])
                # A tokenizer that drops all of a document leaves nothing to score.
                kept = [i for i in _sample(documents, ids, config) if len(ids[i])]
                if not kept:
                    raise UserError(
                        f"{what}: the tokenizer makes no token of any of its "
                        "documents; use another tokenizer"
                    )
                windows = evaluation_rows(
                    [ids[i] for i in kept],
                    [tokenizer.token_bytes(documents[i].text, ids[i]) for i in kept],
                    tokenizer.begin_of_text,
                    tokenizer.end_of_text,
                    tables.length,
                    [documents[i].id for i in kept],
                    config.corpus.evaluation_windows,
                )
                domain.digests[split] = tables.write_windows(windows)
                domain.documents[split] = len(kept)
                domain.tokens[split] = int(windows.count_R.sum())
                domain.bytes[split] = int(windows.bytes_R.sum())
                domain.windows[split] = len(windows)
            domains[name] = domain
            advance(1)
    return domains


def _sample(
    documents: Sequence[Document], ids: Sequence[np.ndarray], config: Config
) -> list[int]:
    """The documents to score: all, or about `evaluation_tokens` tokens of them.

    They are taken in the order of a hash of their ids, so that the choice does not
    depend on the order of files.
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
    """The part of a config that the first `prepare` freezes, as fields of `Frozen`."""
    return {
        "length": config.model.length,
        "budget_rows": config.recipe.steps * config.recipe.batch,
        "tokenizer": config.corpus.tokenizer,
        "split": config.corpus.split,
        "base_text": config.corpus.base_text,
    }


def _check_frozen(frozen: Frozen, config: Config, folder: Path) -> None:
    """Raises a `UserError` if a config does not agree with what was frozen."""

    def flat(data: dict[str, Any], uses_base_text: bool) -> dict[str, Any]:
        fields = _DECIDING[frozen.tokenizer.kind]
        names = data["tokenizer"]
        names["end_of_text"] = names["end_of_text"] or END_OF_TEXT
        names["begin_of_text"] = names["begin_of_text"] or names["end_of_text"]
        return {
            _USES_BASE_TEXT: uses_base_text,
            "config.model.length": data["length"],
            "config.recipe.steps * config.recipe.batch": data["budget_rows"],
            **{f"config.corpus.tokenizer.{k}": data["tokenizer"][k] for k in fields},
            **{f"config.corpus.split.{k}": v for k, v in data["split"].items()},
            "config.corpus.base_text": data["base_text"],
        }

    was = flat(records.plain(frozen), frozen.base is not None)
    new = flat(records.plain(_frozen_config(config)), config.uses_base_text)
    # The workdir has a copy: the file itself may be gone.
    path = Path(config.corpus.tokenizer.path)
    if was == new and frozen.tokenizer.kind == "file" and path.exists():
        key = "config.corpus.tokenizer.path (its content)"
        was[key] = frozen.tokenizer_digest
        new[key] = tokenizer_from_config(config.corpus.tokenizer, ()).digest
    for key, value in was.items():
        if value != new[key]:
            raise UserError(
                f"{key}: {value!r} was frozen in {folder}, the config has "
                f"{new[key]!r}; set it back, use another --workdir, or start a "
                "new corpus with `jaxsim prepare --refreeze` (the pool trained "
                "on the old one will then be refused)"
            )


def _fingerprint(config: Config) -> str:
    """A digest of the inputs' sizes and times, and of the config that matters here.

    While it stays the same, another `prepare` has nothing to do. Times are compared
    for equality: a file that was replaced by an older copy is read again.
    """
    inputs = [
        (where, find_inputs(name, source).files)
        for where in ("partitions", "domains", "base_text")
        for name, source in getattr(config.corpus, where).items()
    ]
    parts = [records.VERSION, config.corpus, _frozen_config(config), inputs]
    return records.digest(records.plain(parts))


def _summary(
    gathered: Gathered, quarantine: Quarantine, coverage: Coverage
) -> dict[str, Any]:
    """Counts for the printed tables and the report."""
    return {
        "records": quarantine.records,
        "quarantine": quarantine.summary(),
        "dropped": gathered.dropped,
        "duplicates": gathered.duplicates,
        "overlap": gathered.overlap,
        "unknown": coverage.counts,
        "documents": {
            name: {
                "base": len(gathered.base.get(name, [])),
                "train": len(train),
                **{split: len(d) for split, d in gathered.evaluation[name].items()},
            }
            for name, train in gathered.train.items()
        },
    }


def _print_summary(corpus: Corpus) -> None:
    """Prints units, domains, and what was dropped, from corpus.json."""
    tokenizer, base = corpus.tokenizer, "no base text"
    if corpus.base:
        documents = counted(corpus.base.documents, "document")
        base = f"base text of {corpus.base.tokens:,} tokens ({documents})"
    say(
        f"corpus: {counted(len(corpus.units), 'unit')} of {corpus.budget_tokens:,} "
        f"tokens, {counted(len(corpus.domains), 'domain')}, {base}, "
        f"vocabulary of {tokenizer.vocab_size:,}"
    )
    begin, end = tokenizer.begin_of_text_token, tokenizer.end_of_text_token
    say(
        f"begin-of-text: {begin!r}, id {tokenizer.begin_of_text}; "
        f"end-of-text: {end!r}, id {tokenizer.end_of_text}"
    )
    for key, name, other in tokenizer.odd_borders():
        does, did = ("end", "ended") if key == "end_of_text" else ("begin", "began")
        say(
            f"{name!r} may only {does} a turn of a chat: if the model's own training "
            f"texts {did} with {other!r}, set config.corpus.tokenizer.{key}={other!r}, "
            "and run `jaxsim prepare --refreeze`"
        )
    show_table(
        "units",
        ("unit", "group", "documents", "rows", "tokens", "epochs"),
        [
            (
                *(u.name, u.group),
                *map("{:,}".format, (u.documents, u.rows, u.tokens)),
                f"{corpus.budget_rows / u.rows:.2f}",
            )
            for u in corpus.units.values()
        ],
    )

    def of_splits(counts: dict[str, int]) -> str:
        return " / ".join(f"{counts[split]:,}" for split in SPLITS)

    show_table(
        f"domains ({' / '.join(SPLITS)})",
        ("domain", "in-pool", "documents", "tokens", "windows"),
        [
            (
                *(d.name, "yes" if d.in_pool else "no"),
                *map(of_splits, (d.documents, d.tokens, d.windows)),
            )
            for d in corpus.domains.values()
        ],
    )
    summary = corpus.record.summary
    if rows := left_out(summary):
        show_table(
            "left out or repaired",
            ("from", "because", "documents"),
            [(place, cause, f"{count:,}") for place, cause, count in rows],
        )
    for place, counts in summary["unknown"].items():
        say(
            f"not kept by the tokenizer: {place}: {counts['unknown']} of "
            f"{counts['tokens']} tokens are unknown; of {counts['bytes']} bytes "
            f"{counts['lost']} are lost, and {counts['changed']} change in case, "
            "accents or Unicode form: none of that is predicted"
        )


def left_out(summary: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Where documents are from that were left out or repaired, why, and how many."""
    rows = [
        (f"source {source}, {kind}", cause, count)
        for source, kinds in summary["quarantine"].items()
        for kind, causes in kinds.items()
        for cause, count in causes.items()
    ]
    rows += [
        (f"source {source}", cause, count)
        for source, causes in summary["dropped"].items()
        for cause, count in causes.items()
    ]
    rows += [
        (name, "duplicate of earlier training text", count)
        for name, count in summary["duplicates"].items()
    ]
    return rows + [
        (f"{name}, {kind} documents", f"overlap with domain {domain}", count)
        for name, domains in summary["overlap"].items()
        for domain, counts in domains.items()
        for kind, count in counts.items()
        if count
    ]
