"""The command `prepare`: documents become the corpus of a workdir.

It can be killed at any moment and repeated: what passes over files have found stays in
corpus/.work until corpus.json, which makes data sets part of the corpus, is replaced in
one step at the end.
"""

import contextlib
import dataclasses
import fcntl
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxsim import records
from jaxsim.config import Config
from jaxsim.corpus import scan, store
from jaxsim.corpus.choose import OTHER_TEXT, Chosen, Entries, seen_before
from jaxsim.corpus.coverage import Coverage
from jaxsim.corpus.documents import DUPLICATE_ID, Document, Tally, check_bad
from jaxsim.corpus.encode import Tools
from jaxsim.corpus.encoded import Taking
from jaxsim.corpus.merge import (
    Merge,
    Overlap,
    base_rows,
    frozen_base_text,
    write_domains,
)
from jaxsim.corpus.pipeline import Input, Pipeline, Runner, UnfinishedError, scanned
from jaxsim.corpus.rows import most_rows
from jaxsim.corpus.scan import ALL_SPLITS
from jaxsim.corpus.sources import find_inputs
from jaxsim.corpus.split import (
    BASE,
    BASE_TEXT,
    DOMAINS,
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
from jaxsim.corpus.store import Corpus, CorpusRecord, Frozen, Tables
from jaxsim.corpus.summary import show_summary, summarize
from jaxsim.corpus.tokenizer import END_OF_TEXT, Tokenizer, tokenizer_from_config
from jaxsim.corpus.work import Job, Workers, clear, do
from jaxsim.errors import UserError
from jaxsim.log import say

# Names that begin so are of files and folders that a killed `prepare` leaves.
_LEFT = (".tmp_", ".quarantine.jsonl", ".corpus.json.")
_WORK = ".work"  # results of passes, until corpus.json is written
_USES_BASE_TEXT = (
    "config.base.path and config.recipe.replay (whether base text is used)"
)
_SMALL = 100_000_000  # bytes of input that are read again for an advice
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
    folder, path = workdir / "corpus", store.path_of(workdir)
    with _locked(workdir, fcntl.LOCK_EX):
        if refreeze:
            # The record goes first, so that a kill leaves no part of a corpus.
            path.unlink(missing_ok=True)
        for entry in folder.iterdir():
            is_folder = entry.is_dir() and not entry.is_symlink()
            unused = refreeze and is_folder and entry.name != _WORK
            if entry.name.startswith(_LEFT) or unused:
                shutil.rmtree(entry) if is_folder else entry.unlink()
        state = _state(config, workdir)
        if not state.is_done:
            clear(folder / _WORK)
            with Workers(config.corpus.workers) as workers:
                run = Runner(folder / _WORK, workers)
                record = _build(config, workdir, state, run)
            assert record is not None
            # In one step: until then nothing has changed.
            records.save(path, record)
        shutil.rmtree(folder / _WORK, ignore_errors=True)
        corpus = store.open_corpus(workdir)
    show_summary(corpus)
    return corpus


def prepare_share(config: Config, workdir: Path, shard: tuple[int, int]) -> None:
    """Does share i of n of the files in the pass that is due, for a later `prepare`.

    Several launchers of one workdir may do so at once. Raises as `prepare` does.
    """
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard={shard}: must be (i, n) with i from 0 to n-1")
    with _locked(workdir, fcntl.LOCK_SH):
        state = _state(config, workdir)
        if state.is_done:
            say("prepare: nothing to do: the corpus is complete")
            return
        share = f"share {shard[0]}/{shard[1]}"
        try:
            with Workers(config.corpus.workers) as workers:
                run = Runner(workdir / "corpus" / _WORK, workers, shard)
                _build(config, workdir, state, run)
        except UnfinishedError as due:
            say(
                f"prepare: {share} of {due} is done; repeat the same command when all "
                "shares are"
            )
        else:
            say(f"prepare: {share} of all passes is done; run `jaxsim prepare`")


@contextlib.contextmanager
def _locked(workdir: Path, kind: int) -> Iterator[None]:
    """One `prepare` at a time, or several shares; the kernel frees it at the end."""
    records.check_tree(workdir)
    folder = workdir / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, kind)
        yield


@dataclasses.dataclass(frozen=True)
class _State:
    """What there is before a `prepare`.

    Attributes:
      unread: files that are left out, and why, by source.
      fingerprint: while it stays the same, there is nothing to do.
    """

    previous: Corpus | None
    inputs: list[Input]
    unread: dict[str, list[list[str]]]
    fingerprint: str
    is_done: bool


def _state(config: Config, workdir: Path) -> _State:
    folder, path = workdir / "corpus", store.path_of(workdir)
    previous = store.open_corpus(workdir) if path.exists() else None
    if previous:
        check_frozen(previous.record.frozen, config, folder)
    inputs, unread = list[Input](), dict[str, list[list[str]]]()
    for section in SECTIONS:
        for name, source in getattr(config.corpus, section).items():
            found = find_inputs(name, source)
            inputs += [Input(section, file) for file in found.files]
            if found.left_out:
                unread[name] = [list(pair) for pair in found.left_out]
    # Sizes and times of the inputs, and the part of the config that matters here. Times
    # are compared for equality: a file that an older copy replaced is read again.
    corpus = dataclasses.replace(config.corpus, workers=0)
    parts = [records.VERSION, corpus, _frozen_config(config), inputs]
    fingerprint = records.digest(records.plain(parts))
    is_done = (
        previous is not None
        and previous.record.fingerprint == fingerprint
        and all(map(Path.is_dir, store.folders_of(workdir, previous.record)))
    )
    return _State(previous, inputs, unread, fingerprint, is_done)


def _build(
    config: Config, workdir: Path, state: _State, run: Runner
) -> CorpusRecord | None:
    """Does all the work; returns the content of corpus.json, or None for a share."""
    previous = state.previous
    frozen = previous.record.frozen if previous else None
    none_yet = None if config.uses_base_text else ()
    base_partitions = frozen.base_partitions if frozen else none_yet
    check_sources(config.corpus)
    # Base text that is frozen is not read again.
    sections = SECTIONS if base_partitions is None else (PARTITIONS, DOMAINS)
    inputs = [each for each in state.inputs if each.section in sections]
    abouts, entries_F = scanned(config, inputs, run)
    tallies: dict[str, Tally] = defaultdict(lambda: Tally(config.corpus.max_bad))
    for each, about in zip(inputs, abouts, strict=True):
        tallies[each.file.source] += about.tally()
    found = [
        (each.section, each.file.source, about.places)
        for each, about in zip(inputs, abouts, strict=True)
    ]
    places = collect_places(config.corpus, found)
    number = {(p.section, p.source, p.name): n for n, p in enumerate(places)}
    entries = Entries(
        entries_F,
        places,
        [[number[s, source, name] for name, _ in pairs] for s, source, pairs in found],
        [_gives_base(place, config, base_partitions) for place in places],
    )
    # Which `prepare` first saw each partition and domain, counted from 0.
    generations = dict(previous.record.generations) if previous else {}
    new = max(generations.values(), default=-1) + 1
    for place in places:
        if place.section != BASE_TEXT:
            generations.setdefault(place.name, new)
    generation_P = np.array([generations.get(p.name, 0) for p in places])
    entries.drop_repeated_ids(generation_P)
    _reject_repeated(entries, inputs, tallies)
    _write_quarantine(workdir, tallies)
    for name, tally in tallies.items():
        check_bad(name, tally, config.corpus.max_bad, _quarantine(workdir))
    _check_any(config, places, tallies)
    entries.drop_repeated_texts(generation_P)
    pipeline = Pipeline(config, inputs, entries, run)
    known = np.zeros(0, store.SEEN)
    if previous:
        known = store.read_seen(workdir, previous.record.seen)
    evaluation = pipeline.evaluation(known)
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
    generation_E, seen = seen_before(places, evaluation, known, new)
    taking = Taking(
        np.full(len(places), most_rows(config) * length + 1),
        base_rows(config) * length + 1 if new_base else 0,
        generation_P,
        generation_E,
        len(borders),
    )
    coverage = Coverage(tokenizer, config.corpus.max_unknown)
    tools = Tools.of(config.corpus, tokenizer, saved, index)
    rate_P = pipeline.tokens_per_byte(tokenizer, evaluation, picked)
    taken, shards = pipeline.training(tools, coverage, rate_P, taking)
    if run.shard:
        return None
    overlap = Overlap(config, places, evaluation)
    if previous and previous.base:
        overlap.add_frozen(frozen_base_text(previous), index)
    overlap.add(BASE, taken[BASE])
    overlap.add(TRAIN, taken[TRAIN])
    overlap.check()
    evaluation_left = evaluation[~overlap.gone_E]
    check(evaluation_left, evaluation[overlap.gone_E])
    for where in coverage.counts:
        coverage.check(where)
    tables = Tables(workdir, length, tokenizer)
    merge = Merge(config, tables, shards, taken, entries, borders)
    return CorpusRecord(
        config=config.corpus,
        frozen=frozen or _freeze(config, tables, merge),
        units=merge.units(),
        domains=write_domains(
            config, places, evaluation_left, picked, coverage, tables
        ),
        generations=generations,
        seen=store.write_seen(workdir, seen),
        summary=summarize(
            places, tallies, entries, taken, overlap, coverage, state.unread
        ),
        fingerprint=state.fingerprint,
    )


def _gives_base(
    place: Place, config: Config, base_partitions: Sequence[str] | None
) -> bool:
    """Whether 'base' documents of a place are base text, and not trained on by it."""
    if place.section == BASE_TEXT:
        return True
    known = base_partitions is None or place.name in base_partitions
    return not config.corpus.base_text and known


def _quarantine(workdir: Path) -> Path:
    return workdir / "corpus" / "quarantine.jsonl"


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
            gone = (tally.dropped + tally.bad).most_common()
            why = ", ".join(f"{cause} ({n})" for cause, n in gone)
            raise UserError(
                f"source {name!r}: no documents left: "
                f"{why or 'none pass `where`'}; its fields are "
                f"{', '.join(tally.fields) or 'unknown'}"
            )


def _reject_repeated(
    entries: Entries, inputs: Sequence[Input], tallies: dict[str, Tally]
) -> None:
    """Counts documents with the id of another text as bad records."""
    for f, cause in enumerate(entries.cause_F):
        numbers = entries.entries_F[f]["document"][cause == OTHER_TEXT]
        file = inputs[f].file
        for number in np.unique(numbers).tolist():
            what = f"{DUPLICATE_ID}, record {number} of the file"
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

    def __call__(self, evaluation: Chosen, gone: Chosen | None = None) -> None:
        """Looks at documents, and says how many are `gone`: they repeat older text."""
        there = set(
            zip(evaluation.place.tolist(), evaluation.split.tolist(), strict=True)
        )
        repeat = Counter(gone.place.tolist() if gone is not None else ())
        empty = [
            f"{'partition' if place.section == PARTITIONS else 'domain'} "
            f"{place.name!r} has no document in its {split} split"
            + (f" ({repeat[p]} repeat older training text)" if repeat[p] else "")
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
                found = places_of(file.source, source, document, section)
                for name, _ in found if isinstance(found, list) else ():
                    documents[known[section, file.source, name]].append(document)
        bases = self._config.uses_base_text and not config.base_text
        return working_salt(documents, config.split, bases)


def _freeze(config: Config, tables: Tables, merge: Merge) -> Frozen:
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


def _frozen_config(config: Config) -> dict[str, Any]:
    """The part of a config that the first `prepare` freezes, as fields of `Frozen`."""
    return {
        "length": config.model.length,
        "budget_rows": config.recipe.steps * config.recipe.batch,
        "tokenizer": config.corpus.tokenizer,
        "split": config.corpus.split,
        "base_text": config.corpus.base_text,
    }


def check_frozen(frozen: Frozen, config: Config, folder: Path) -> None:
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
