"""The command `prepare`: documents become the corpus of a workdir.

It can be killed at any moment and repeated: what passes over files have found stays in
corpus/.work until corpus.json, which makes data sets part of the corpus, is replaced in
one step at the end.
"""

import fcntl
import json
import math
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxsim import records
from jaxsim.config import Config
from jaxsim.corpus import scan, store
from jaxsim.corpus.choose import OTHER_TEXT, SAME, Chosen, Entries
from jaxsim.corpus.coverage import Coverage
from jaxsim.corpus.documents import DUPLICATE_ID, Document, Tally, check_bad
from jaxsim.corpus.duplicates import EvaluationIndex, grams_of, word_hashes
from jaxsim.corpus.encode import Tools
from jaxsim.corpus.names import check_twins
from jaxsim.corpus.pipeline import (
    Input,
    Picked,
    Pipeline,
    Runner,
    Shards,
    Taken,
    Taking,
    UnfinishedError,
    scanned,
)
from jaxsim.corpus.rows import (
    EvalWindows,
    Piece,
    evaluation_rows,
    most_rows,
    pieces_of,
    training_rows,
)
from jaxsim.corpus.scan import ALL_SPLITS, Scanned
from jaxsim.corpus.sources import find_inputs
from jaxsim.corpus.split import (
    BASE,
    BASE_TEXT,
    PARTITIONS,
    SECTIONS,
    SPLITS,
    TRAIN,
    Place,
    check_sources,
    collect_places,
    places_of,
    working_salt,
)
from jaxsim.corpus.store import Corpus, CorpusRecord, Domain, Frozen, Tables, Unit
from jaxsim.corpus.tokenizer import END_OF_TEXT, Tokenizer, tokenizer_from_config
from jaxsim.corpus.work import Job, clear, do
from jaxsim.errors import UserError
from jaxsim.log import counted, progress, say, show_table

# Names that begin so are of files and folders that a killed `prepare` leaves.
_LEFT = (".tmp_", ".quarantine.jsonl", ".corpus.json.")
_USES_BASE_TEXT = (
    "config.base.path and config.recipe.replay (whether base text is used)"
)
_SMALL = 100_000_000  # bytes of input that are read again for an advice
_AT_ONCE = 64  # evaluation documents that are encoded at once
# Fields that define each kind of tokenizer; a 'file' has a digest, too.
_DECIDING = {
    "bytes": ("kind",),
    "bpe": ("kind", "vocab_size", "sample_bytes"),
    "file": ("kind", "begin_of_text", "end_of_text"),
}


def prepare(
    config: Config,
    workdir: Path,
    refreeze: bool = False,
    shard: tuple[int, int] | None = None,
) -> Corpus | None:
    """Makes the corpus that the config asks for, and prints it.

    The first call freezes tokenizer, base text, length, budget and split. Later
    calls add what is new, and leave alone what did not change.

    Args:
      refreeze: removes `corpus/` and freezes again. Base model and pool stay, and
        their digests no longer match.
      shard: does only share i of n of the files, and no more than one pass of which
        other launchers have a share; returns None.

    Raises:
      UserError: bad input, an impossible corpus, or a config that contradicts
        what was frozen.
      DamagedError: a compressed input file is truncated or changed.
    """
    records.check_tree(workdir)
    folder, path = workdir / "corpus", store.path_of(workdir)
    work = folder / ".work"
    work.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        # One `prepare` at a time, or several that have a share each; the kernel
        # releases the lock when this one ends.
        fcntl.flock(lock, fcntl.LOCK_SH if shard else fcntl.LOCK_EX)
        if refreeze:
            # The record goes first, so that a kill leaves no part of a corpus.
            path.unlink(missing_ok=True)
        for entry in folder.iterdir() if shard is None else ():
            is_folder = entry.is_dir() and not entry.is_symlink()
            unused = refreeze and is_folder and entry != work
            if entry.name.startswith(_LEFT) or unused:
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
            if shard is None:
                clear(work)
            run = Runner(work, config.corpus.workers, shard)
            try:
                record = _build(config, workdir, previous, evidence, run)
            except UnfinishedError as due:
                say(
                    f"prepare: share {shard[0]}/{shard[1]} of {due} is done; when "  # type: ignore[index]
                    "the others are, give each its share again"
                )
                return None
            if record is None:
                say(
                    "prepare: all shares are done; run `jaxsim prepare` without --shard"
                )
                return None
            # In one step: until then nothing has changed.
            records.save(path, record)
        if shard is None:
            shutil.rmtree(work, ignore_errors=True)
        corpus = store.open_corpus(workdir)
    _print_summary(corpus)
    return corpus


def _build(
    config: Config, workdir: Path, previous: Corpus | None, evidence: str, run: Runner
) -> CorpusRecord | None:
    """Does all the work; returns the content of corpus.json, or None for a share."""
    frozen = previous.record.frozen if previous else None
    none_yet = None if config.uses_base_text else ()
    base_partitions = frozen.base_partitions if frozen else none_yet
    check_sources(config.corpus)
    inputs, unread = _inputs(config, base_partitions is None)
    scans = scanned(config, inputs, run)
    tallies = _tallies(inputs, scans, config.corpus.max_bad)
    found = [
        (i.section, i.file.source, about.places)
        for i, (about, _) in zip(inputs, scans, strict=True)
    ]
    places = collect_places(config.corpus, found)
    _check_any(config, places, tallies)
    number = {(p.section, p.source, p.name): n for n, p in enumerate(places)}
    entries = Entries(
        scans,
        places,
        [[number[s, source, name] for name, _ in pairs] for s, source, pairs in found],
        [_gives_base(place, config, base_partitions) for place in places],
    )
    entries.drop_repeated_ids()
    _reject_repeated(entries, inputs, tallies)
    _write_quarantine(workdir, tallies)
    for name, tally in tallies.items():
        check_bad(name, tally, config.corpus.max_bad, _quarantine(workdir))
    # Which `prepare` first saw each partition and domain, counted from 0.
    generations = dict(previous.record.generations) if previous else {}
    new = max(generations.values(), default=-1) + 1
    for place in places:
        if place.section != BASE_TEXT:
            generations.setdefault(place.name, new)
    generation_P = np.array([generations.get(p.name, 0) for p in places])
    entries.drop_repeated_texts(generation_P)
    pipeline = Pipeline(config, inputs, scans, entries, run)
    evaluation = pipeline.evaluation()
    check = _SplitCheck(config, inputs, places, frozen is not None)
    check(evaluation)
    trains = previous is None and config.corpus.tokenizer.kind == "bpe"
    sample = pipeline.sample() if trains else []
    picked = pipeline.picked([evaluation, *sample])
    index = pipeline.index(evaluation, picked)
    if previous:
        tokenizer = previous.tokenizer
    else:
        tokenizer = pipeline.train_tokenizer(sample, picked, index)
    saved = run.target("tokenizer", tokenizer.digest)
    if not saved.exists():
        do(Job("the tokenizer", 0, saved, tokenizer.save, ()))
    length, new_base = config.model.length, previous is None and config.uses_base_text
    borders = [tokenizer.begin_of_text, tokenizer.end_of_text]
    borders = list(dict.fromkeys(borders))
    taking = Taking(
        np.full(len(places), most_rows(config) * length + 1),
        _base_rows(config) * length + 1 if new_base else 0,
        generation_P,
        evaluation.place,
        len(borders),
    )
    coverage = Coverage(tokenizer, config.corpus.max_unknown)
    tools = Tools.of(config.corpus, saved, tokenizer.digest, index)
    rate_P = pipeline.tokens_per_byte(tokenizer, evaluation, picked)
    taken, shards = pipeline.training(tools, coverage, rate_P, taking)
    if run.shard:
        return None
    overlap = _Overlap(config, places, evaluation)
    if previous and previous.base:
        overlap.add_frozen(_frozen_base_text(previous), index)
    overlap.add(BASE, taken[BASE])
    overlap.add(TRAIN, taken[TRAIN])
    overlap.check()
    evaluation_left = evaluation[~overlap.gone_E]
    check(evaluation_left)
    for where in coverage.counts:
        coverage.check(where)
    tables = Tables(workdir, length, tokenizer)
    merge = _Merge(config, tables, shards, taken, entries, borders)
    return CorpusRecord(
        config=config.corpus,
        frozen=frozen or _freeze(config, tables, merge),
        units=merge.units(),
        domains=_write_domains(
            config, places, evaluation_left, picked, coverage, tables
        ),
        generations=generations,
        summary=_summary(places, tallies, entries, taken, overlap, coverage, unread),
        fingerprint=evidence,
    )


def _inputs(config: Config, base_text: bool) -> tuple[list[Input], dict[str, Any]]:
    """All files that are read, and by source those that are left out."""
    inputs, unread = list[Input](), {}
    for section in SECTIONS if base_text else SECTIONS[:2]:
        for name, source in getattr(config.corpus, section).items():
            found = find_inputs(name, source)
            inputs += [Input(section, file) for file in found.files]
            if found.left_out:
                unread[name] = [list(pair) for pair in found.left_out]
    return inputs, unread


def _gives_base(
    place: Place, config: Config, base_partitions: Sequence[str] | None
) -> bool:
    """Whether 'base' documents of a place are base text, and not trained on by it."""
    if place.section == BASE_TEXT:
        return True
    known = base_partitions is None or place.name in base_partitions
    return not config.corpus.base_text and known


def _base_rows(config: Config) -> int:
    """The rows of base text that are kept, if there are so many."""
    base, recipe = config.base, config.recipe
    rows = 0 if base.path else base.steps * base.batch
    rows = max(rows, math.ceil(recipe.steps * recipe.batch * recipe.replay))
    return math.ceil(rows * config.corpus.unit_budgets)


def _quarantine(workdir: Path) -> Path:
    return workdir / "corpus" / "quarantine.jsonl"


def _tallies(
    inputs: Sequence[Input], scans: Sequence[tuple[Scanned, np.ndarray]], max_bad: float
) -> dict[str, Tally]:
    """What was found in the files of each source."""
    tallies: dict[str, Tally] = defaultdict(lambda: Tally(max_bad))
    for each, (about, _) in zip(inputs, scans, strict=True):
        tallies[each.file.source] += about.tally()
    return tallies


def _check_any(
    config: Config, places: Sequence[Place], tallies: dict[str, Tally]
) -> None:
    """Raises a `UserError` for a source without a document."""
    there = {(place.section, place.source) for place in places}
    for section in SECTIONS:
        for name in getattr(config.corpus, section):
            if (section, name) in there or name not in tallies:
                continue
            tally = tallies[name]
            causes = ", ".join(f"{n} with {c}" for c, n in tally.dropped.items())
            why = f"dropped {causes}" if causes else "none pass `where`"
            raise UserError(f"source {name!r}: no documents left; {why}")


def _reject_repeated(
    entries: Entries, inputs: Sequence[Input], tallies: dict[str, Tally]
) -> None:
    """Counts documents with the id of another text as bad records."""
    for f, cause in enumerate(entries.cause_F):
        numbers = entries.entries_F[f]["document"][cause == OTHER_TEXT]
        file = inputs[f].file
        for number in np.unique(numbers).tolist():
            what = f"{DUPLICATE_ID}, document {number + 1} of the file"
            tally = tallies[file.source]
            tally.bad[DUPLICATE_ID] += 1
            tally.places.append((file.name, 0, what))


def _write_quarantine(workdir: Path, tallies: dict[str, Tally]) -> None:
    """Lists where bad records are, without their text."""

    def lines(file: IO[bytes]) -> None:
        for source, tally in tallies.items():
            for name, line, cause in tally.places:
                entry = {"source": source, "cause": cause, "file": name, "line": line}
                file.write(json.dumps(entry).encode() + b"\n")

    records.write(_quarantine(workdir), lines)


class _SplitCheck:
    """Refuses domains without a document in a split; proposes another salt."""

    def __init__(
        self,
        config: Config,
        inputs: Sequence[Input],
        places: Sequence[Place],
        frozen: bool,
    ):
        self._config, self._inputs = config, inputs
        self._places, self._frozen = places, frozen

    def __call__(self, evaluation: Chosen) -> None:
        there = set(
            zip(evaluation.place.tolist(), evaluation.split.tolist(), strict=True)
        )
        empty = [
            f"{'partition' if place.section == PARTITIONS else 'domain'} "
            f"{place.name!r} has no document in its {split} split"
            for p, place in enumerate(self._places)
            for split in SPLITS
            if place.section != BASE_TEXT and (p, ALL_SPLITS.index(split)) not in there
        ]
        if not empty:
            return
        advice = "give them more documents"
        if not self._frozen:
            advice += ", raise config.corpus.split.dev and config.corpus.split.test"
            if salt := self._salt():
                advice += (
                    f", or set config.corpus.split.salt={salt!r}: none is empty then"
                )
        raise UserError("; ".join(empty) + ". What helps: " + advice)

    def _salt(self) -> str:
        """A salt that helps, or ''; reads the files again, if they are small."""
        config = self._config.corpus
        if sum(i.file.size for i in self._inputs) > _SMALL:
            return ""
        known = {(p.section, p.source, p.name): p for p in self._places}
        documents: dict[Place, list[Document]] = defaultdict(list)
        for section, file in ((i.section, i.file) for i in self._inputs):
            source = getattr(config, section)[file.source]
            read = scan.documents_of(file, source, config.split, Tally())
            for document in read if section != BASE_TEXT else ():
                found = places_of(file.source, source, document)
                for name, _ in found if isinstance(found, list) else ():
                    documents[known[section, file.source, name]].append(document)
        bases = self._config.uses_base_text and not config.base_text
        return working_salt(documents, config.split, bases)


class _Overlap:
    """Training documents and evaluation documents that overlap.

    The older text stays. Members and base model may already be trained on text of an
    earlier `prepare`, so a newer evaluation document that repeats it is dropped, and
    counted. Within one `prepare`, evaluation text stays and training text is dropped.

    Attributes:
      counts: by partition or 'base', and domain: training documents that repeat the
        domain, and evaluation documents that repeat older training text.
      gone_E: the evaluation documents that are dropped.
    """

    def __init__(self, config: Config, places: Sequence[Place], evaluation: Chosen):
        self._config, self._places = config, places
        self._domain_E = evaluation.place
        self.gone_E = np.zeros(len(evaluation), bool)
        self.counts: dict[str, dict[str, dict[str, int]]] = defaultdict(
            lambda: defaultdict(lambda: {"training": 0, "evaluation": 0})
        )

    def add(self, what: str, taken: Taken) -> None:
        settled, counted_here = taken.settled, set()
        looked_at = settled.considered & ~settled.repeated & ~settled.near
        pairs = zip(taken.pairs.tolist(), taken.older.tolist(), strict=True)
        for (i, e), older in pairs:
            domain = self._places[self._domain_E[e]].name
            name = BASE if what == BASE else self._places[taken.place[i]].name
            if older and looked_at[i] and (i, domain) not in counted_here:
                counted_here.add((i, domain))
                self.counts[name][domain]["training"] += 1
            elif settled.kept[i]:
                self._drop(name, e)

    def add_frozen(self, texts: Iterator[str], index: Path) -> None:
        """Base text of an earlier `prepare` is older than all evaluation text."""
        config, evaluation = self._config.corpus, EvaluationIndex.load(index)
        for text in texts:
            grams = grams_of(*word_hashes([text]), config.overlap_words)
            for _, e in evaluation.find_all(*grams, config.overlap_share):
                self._drop(BASE, e)

    def _drop(self, name: str, e: int) -> None:
        if not self.gone_E[e]:
            self.gone_E[e] = True
            domain = self._places[self._domain_E[e]].name
            self.counts[name][domain]["evaluation"] += 1

    def check(self) -> None:
        if not self.counts or self._config.corpus.overlap != "refuse":
            return
        raise UserError(
            "config.corpus.overlap='refuse': training text repeats evaluation text: "
            + "; ".join(
                f"{name!r} and domain {domain!r}: "
                + counted(sum(counts.values()), "document")
                for name, domains in self.counts.items()
                for domain, counts in domains.items()
            )
            + ". Remove it, or set config.corpus.overlap='drop'"
        )


def _frozen_base_text(previous: Corpus) -> Iterator[str]:
    """The base model's documents, from its rows: the sources may have changed.

    Of the last one there is what the rows hold.
    """
    reader, tokenizer = previous.rows(BASE), previous.tokenizer
    left = np.zeros(0, np.int32)
    for rows in np.array_split(np.arange(len(reader)), len(reader) // 4096 + 1):
        stream = np.concatenate([left, reader[rows][:, :-1].ravel()])
        ends = np.flatnonzero(stream == tokenizer.end_of_text)
        starts = np.concatenate([[0], ends + 1])
        for a, b in zip(starts, ends, strict=False):
            yield tokenizer.decode(stream[a:b])
        left = stream[starts[-1] :]
    yield tokenizer.decode(left)


class _Merge:
    """Writes what was taken as rows of units."""

    def __init__(
        self,
        config: Config,
        tables: Tables,
        shards: Shards,
        taken: dict[str, Taken],
        entries: Entries,
        borders: Sequence[int],
    ):
        self._config, self._tables, self._shards = config, tables, shards
        self._taken, self._borders = taken, borders
        self.places = entries.places
        self._bytes_PS = entries.bytes_by_bin().sum(2)

    def units(self) -> dict[str, Unit]:
        partitions = [
            (p, place)
            for p, place in enumerate(self.places)
            if place.section == PARTITIONS
        ]
        units: list[Unit] = []
        taken, most = self._taken[TRAIN], most_rows(self._config)
        with progress(len(partitions), "writing units", "partitions") as advance:
            for p, place in partitions:
                kept = np.flatnonzero(taken.settled.kept & (taken.place == p))
                pieces = pieces_of(place.name, taken.tokens[kept], self._config)
                # The pieces of a partition are a group.
                group = place.group if len(pieces) == 1 else place.name
                size = self._bytes_PS[p, ALL_SPLITS.index(TRAIN)]
                supply = self._supply(taken, kept, size / taken.sums(p)[1], most)
                units += [
                    self._write(taken, kept, piece, place.name, group, supply)
                    for piece in pieces
                ]
                advance(1)
        check_twins((unit.name for unit in units), "units")
        return {unit.name: unit for unit in units}

    def base(self) -> Unit:
        taken, length = self._taken[BASE], self._tables.length
        kept = np.flatnonzero(taken.settled.kept)
        most = _base_rows(self._config)
        rows = min(most, max(0, int(taken.tokens[kept].sum()) - 1) // length)
        if not rows:
            raise UserError(
                f"the base text ({counted(len(kept), 'document')}) is less than "
                f"one row of {length} tokens; raise config.corpus.split.base, give "
                "config.corpus.base_text more text, or lower config.model.length"
            )
        size = self._bytes_PS[:, ALL_SPLITS.index(BASE)].sum()
        supply = self._supply(taken, kept, size / taken.sums()[1], most)
        piece = Piece(BASE, 0, rows, len(kept))
        return self._write(taken, kept, piece, "", BASE, supply)

    def _supply(self, taken: Taken, kept: np.ndarray, share: float, most: int) -> float:
        """Tokens that there are for each that is kept; 1 if all are."""
        rows = max(1, (int(taken.tokens[kept].sum()) - 1) // self._tables.length)
        return share * max(1.0, rows / most)

    def _write(
        self,
        taken: Taken,
        kept: np.ndarray,
        piece: Piece,
        partition: str,
        group: str,
        supply: float,
    ) -> Unit:
        def chunks() -> Iterator[np.ndarray]:
            stream = self._shards.stream(taken, kept, self._borders)
            length = self._tables.length
            return training_rows(stream, length, piece.start, piece.stop)

        return self._tables.write_unit(piece, partition, group, supply, chunks)


def _freeze(config: Config, tables: Tables, merge: _Merge) -> Frozen:
    """Stores the tokenizer, and the rows of the base text if they are trained on."""
    tokenizer = tables.tokenizer
    target = store.folder_of(tables.workdir, "tokenizer", tokenizer.digest)
    store.publish(target, tokenizer.save, lambda f: Tokenizer.load(f, tokenizer.digest))
    uses = config.uses_base_text
    return Frozen(
        **_frozen_config(config),
        tokenizer_digest=tokenizer.digest,
        base_partitions=[
            place.name
            for place in merge.places
            if place.section == PARTITIONS
            and _gives_base(place, config, None if uses else ())
        ],
        base=merge.base() if uses else None,
    )


def _write_domains(
    config: Config,
    places: Sequence[Place],
    evaluation: Chosen,
    picked: Picked,
    coverage: Coverage,
    tables: Tables,
) -> dict[str, Domain]:
    domains = {}
    used = [(p, place) for p, place in enumerate(places) if place.section != BASE_TEXT]
    with progress(len(used), "writing domains", "domains") as advance:
        for p, place in used:
            in_pool = place.section == PARTITIONS
            domain = Domain(place.name, in_pool, {}, {}, {}, {}, {})
            for split in SPLITS:
                here = evaluation.split == ALL_SPLITS.index(split)
                documents = picked.read(evaluation[(evaluation.place == p) & here])
                what = f"domain {place.name!r}, split {split!r}"
                windows = _windows(what, documents, config, coverage)
                domain.digests[split] = tables.write_windows(windows)
                domain.documents[split] = len(windows.documents)
                domain.tokens[split] = int(windows.count_R.sum())
                domain.bytes[split] = int(windows.bytes_R.sum())
                domain.windows[split] = len(windows)
            domains[place.name] = domain
            advance(1)
    return domains


def _windows(
    what: str, documents: Sequence[Document], config: Config, coverage: Coverage
) -> EvalWindows:
    """The windows of the first documents, about `evaluation_tokens` tokens."""
    tokenizer, most = coverage.tokenizer, config.corpus.evaluation_tokens
    longest = config.corpus.evaluation_windows * config.model.length
    kept, found, total = list[Document](), list[np.ndarray](), 0
    for start in range(0, len(documents), _AT_ONCE):
        some = documents[start : start + _AT_ONCE]
        batch = coverage.encode_some([what] * len(some), [d.text for d in some])
        for document, ids in zip(some, batch, strict=True):
            # A tokenizer that drops all of a document leaves nothing to score.
            if len(ids) and (not most or total < most):
                kept.append(document)
                found.append(ids)
                total += min(len(ids), longest or len(ids))
        if most and total >= most:
            break
    coverage.check(what)
    if not kept:
        raise UserError(
            f"{what}: the tokenizer makes no token of any of its "
            "documents; use another tokenizer"
        )
    pairs = zip(kept, found, strict=True)
    return evaluation_rows(
        found,
        [tokenizer.token_bytes(document.text, ids) for document, ids in pairs],
        tokenizer.begin_of_text,
        tokenizer.end_of_text,
        config.model.length,
        [document.id for document in kept],
        config.corpus.evaluation_windows,
    )


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
        for where in SECTIONS
        for name, source in getattr(config.corpus, where).items()
    ]
    parts = [records.VERSION, config.corpus, _frozen_config(config), inputs]
    return records.digest(records.plain(parts))


def _summary(
    places: Sequence[Place],
    tallies: dict[str, Tally],
    entries: Entries,
    taken: dict[str, Taken],
    overlap: _Overlap,
    coverage: Coverage,
    unread: dict[str, Any],
) -> dict[str, Any]:
    """Counts for the printed tables and the report."""
    counts_PSC = entries.counts()
    train, base = taken[TRAIN], taken[BASE]
    used = [(p, place) for p, place in enumerate(places) if place.section != BASE_TEXT]

    def by_place(flags: np.ndarray) -> dict[str, int]:
        sums = np.bincount(train.place[flags], minlength=len(places))
        return {place.name: int(sums[p]) for p, place in used if sums[p]}

    near, words = by_place(train.settled.near), by_place(train.settled.repeated)
    same = {place.name: int(counts_PSC[p, :, SAME].sum()) for p, place in used}
    duplicates = {name: n + words.get(name, 0) for name, n in same.items()}
    kept = by_place(train.settled.kept)
    number = {split: s for s, split in enumerate(ALL_SPLITS)}
    return {
        "records": {name: tally.records for name, tally in tallies.items()},
        "quarantine": {
            name: {"bad": tally.bad, "repaired": tally.repaired}
            for name, tally in sorted(tallies.items())
            if tally.repaired or tally.bad
        },
        "dropped": {name: t.dropped for name, t in tallies.items() if t.dropped},
        "filtered": {name: t.filtered for name, t in tallies.items() if t.filtered},
        "unread": unread,
        "duplicates": {name: n for name, n in duplicates.items() if n},
        "near_duplicates": near,
        "overlap": overlap.counts,
        "unknown": coverage.lossy(),
        "found": {place.name: int(counts_PSC[p].sum()) for p, place in used},
        "sources": {place.name: place.source for _, place in used},
        "documents": {
            place.name: {
                "base": int(counts_PSC[p, number[BASE], 0]),
                "train": kept.get(place.name, 0),
                **{split: int(counts_PSC[p, number[split], 0]) for split in SPLITS},
            }
            for p, place in used
            if place.section == PARTITIONS
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
