"""From files to documents in order, by passes over files.

    scan      every file: what documents there are (`scan`)
    choose    on those entries: copies, and what is needed (`choose`)
    pick      files with chosen evaluation text: it, and its n-grams (`encode`)
    encode    files with chosen training text: its tokens (`encode`)
    settle    overlap with evaluation text, near duplicates, full partitions

A pass gives one folder for each file. What is encoded may be more than is needed, and
is encoded in rounds if it was less; neither changes what is taken.

Letters: N entries, F files, P places, S splits, E evaluation documents.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim import records
from jaxsim.config import Config
from jaxsim.corpus import choose, encode, scan
from jaxsim.corpus.choose import BINS, Chosen, Entries
from jaxsim.corpus.coverage import Coverage
from jaxsim.corpus.documents import Document
from jaxsim.corpus.duplicates import EvaluationIndex, grams_of, word_hashes
from jaxsim.corpus.encode import Tools, Wanted
from jaxsim.corpus.encoded import Shards, Taken, Taking
from jaxsim.corpus.scan import ALL_SPLITS, Scanned
from jaxsim.corpus.sources import InputFile
from jaxsim.corpus.split import BASE, DOMAINS, PARTITIONS, SPLITS, TRAIN, Place
from jaxsim.corpus.tokenizer import Tokenizer, tokenizer_from_config
from jaxsim.corpus.work import Job, Workers, do

# A token has fewer bytes on average, so that documents of so many bytes for each token
# that is needed are enough.
_MOST_BYTES = 8
_MARGIN = 1.15  # more text is encoded than seems to be needed
_SAMPLE = 50_000  # bytes of a domain that tell how many tokens its text has
_TRAIN, _BASE = ALL_SPLITS.index(TRAIN), ALL_SPLITS.index(BASE)
_CHOSEN = dataclasses.fields(Chosen)
_EVALUATED = [ALL_SPLITS.index(split) for split in SPLITS]


class UnfinishedError(Exception):
    """Other launchers have not done their share of a pass; says which pass."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """Does jobs: all of them, or one launcher's share."""

    folder: Path  # of their results
    workers: Workers
    shard: tuple[int, int] | None = None

    def target(self, kind: str, *parts: Any) -> Path:
        """Where the result of a pass over a file is, named by what it depends on."""
        hashed = [
            hashlib.sha256(part.tobytes()).hexdigest()
            if isinstance(part, np.ndarray)
            else part
            for part in parts
        ]
        key = records.digest(records.plain([records.VERSION, *hashed]))
        return self.folder / f"{kind}_{key[:32]}"

    def __call__(self, jobs: Sequence[Job], label: str) -> None:
        mine = jobs if self.shard is None else jobs[self.shard[0] :: self.shard[1]]
        self.workers.work(mine, label)
        if not all(job.target.exists() for job in jobs):
            raise UnfinishedError(label)


@dataclasses.dataclass(frozen=True)
class Input:
    """A file, and the part of config.corpus that names it."""

    section: str
    file: InputFile


def scanned(
    config: Config, inputs: Sequence[Input], run: Runner
) -> tuple[list[Scanned], list[np.ndarray]]:
    """The first pass: what it says of each file, and the entries."""
    jobs = []
    for section, file in ((i.section, i.file) for i in inputs):
        source = getattr(config.corpus, section)[file.source]
        what = file, source, config.corpus.split, section, config.model.length
        arguments = *what, config.corpus.max_bad
        target = run.target("scan", *what)
        jobs.append(Job(file.name, file.size, target, scan.scan, arguments))
    run(jobs, "reading files")
    found = [scan.load(job.target) for job in jobs]
    return [about for about, _ in found], [entries for _, entries in found]


@dataclasses.dataclass(frozen=True)
class Picked:
    """Text of chosen documents, in the folders of `encode.pick`."""

    folder_F: Mapping[int, Path]
    wanted_F: Mapping[int, np.ndarray]  # numbers of the documents that are there

    def at(self, chosen: Chosen) -> np.ndarray:
        """Where chosen documents are among those of their files."""
        found = np.zeros(len(chosen), np.int64)
        for f, index in choose.groups(chosen.file):
            found[index] = np.searchsorted(self.wanted_F[f], chosen.document[index])
        return found

    def read(self, chosen: Chosen) -> list[Document]:
        """The documents, in the order of `chosen`."""
        at_N, found = self.at(chosen), dict[int, Document]()
        for f, index in choose.groups(chosen.file):
            texts = encode.texts_of(self.folder_F[f], at_N[index].tolist())
            found |= zip(index.tolist(), texts, strict=True)
        return [found[i] for i in range(len(chosen))]


class Pipeline:
    """The passes after the first one."""

    def __init__(
        self, config: Config, inputs: Sequence[Input], entries: Entries, run: Runner
    ):
        self.config, self.inputs, self.entries, self.run = config, inputs, entries, run
        self.places = entries.places

    def evaluation(self, known: np.ndarray) -> Chosen:
        """Evaluation documents by place, split and id, as many as may be needed.

        Those of earlier calls are among them: old training text has no copies of them.

        Args:
          known: see `choose.seen_before`.
        """
        corpus = self.config.corpus
        length, windows = self.config.model.length, corpus.evaluation_windows
        needed = (corpus.evaluation_tokens or float("inf")) * _MOST_BYTES
        most_P = np.array(
            [1 if self._is_task(place) else windows or np.inf for place in self.places]
        )
        most_P *= length * _MOST_BYTES
        bins_PS = np.zeros((len(self.places), len(ALL_SPLITS)), np.int64)
        bytes_PSB = self.entries.bytes_by_bin(most_P)
        for p, s in itertools.product(range(len(self.places)), _EVALUATED):
            bins_PS[p, s] = choose.bins_for(bytes_PSB[p, s], needed)
        chosen = self.entries.take(bins_PS, known)
        digests = chosen.id[:, 0], chosen.text
        keys = choose.keys_of(self.places, chosen.place, *digests)
        older = np.isin(keys, known["document"])
        return chosen[older | choose.prefix(chosen, needed, most_P)]

    def _is_task(self, place: Place) -> bool:
        """Whether documents have prompts: each is one window."""
        if place.section != DOMAINS:
            return False
        source = self.config.corpus.domains[place.source]
        return bool(source.prompt_field) or source.reader == "olmes"

    def sample(self) -> list[Chosen]:
        """Base text for training a tokenizer, of all places in turn.

        In turn, so that large ones do not dominate.
        """
        most = self.config.corpus.tokenizer.sample_bytes
        bins_PS = np.zeros((len(self.places), len(ALL_SPLITS)), np.int64)
        bytes_PSB = self.entries.bytes_by_bin()
        for p in range(len(self.places)):
            bins_PS[p, _BASE] = choose.bins_for(bytes_PSB[p, _BASE], most)
        chosen = self.entries.take(bins_PS)
        groups = [np.flatnonzero(chosen.place == p) for p in range(len(self.places))]
        taken, left = list[int](), most
        for i in itertools.chain.from_iterable(itertools.zip_longest(*groups)):
            if i is not None and left > 0:
                taken.append(int(i))
                left -= int(chosen.bytes[i])
        found = chosen[np.array(taken, np.int64)]
        by_place = [found[found.place == p] for p in range(len(self.places))]
        return [group for group in by_place if len(group)]

    def picked(self, wanted: Sequence[Chosen]) -> Picked:
        """The pass that keeps text."""
        words = self.config.corpus.overlap_words
        jobs, numbers = {}, {}
        for f, chosen in _by_file(wanted):
            names = np.zeros(len(chosen), np.int64), ("",)
            asked = self._wanted(f, chosen, *names)
            document = chosen.document
            target = self.run.target("texts", self._what(f), document, words)
            size = self.inputs[f].file.size
            arguments = asked, words
            name = asked.file.name
            jobs[f] = Job(name, size, target, encode.pick, arguments)
            numbers[f] = document
        self.run(list(jobs.values()), "reading evaluation text")
        return Picked({f: job.target for f, job in jobs.items()}, numbers)

    def _what(self, f: int) -> tuple[Any, ...]:
        """What says which documents a file has."""
        section, file = self.inputs[f].section, self.inputs[f].file
        source = getattr(self.config.corpus, section)[file.source]
        return file, source, self.config.corpus.split.key

    def _wanted(
        self, f: int, chosen: Chosen, where: np.ndarray, names: tuple[str, ...]
    ) -> Wanted:
        file, source, _ = self._what(f)
        split = self.config.corpus.split
        digests = chosen.id[:, 0], chosen.text
        return Wanted(file, source, split, chosen.document, *digests, where, names)

    def index(self, evaluation: Chosen, picked: Picked) -> Path:
        """The folder of the n-grams of all evaluation documents, by their number."""
        at_E, names = picked.at(evaluation), [p.name for p in picked.folder_F.values()]
        target = self.run.target("index", names, evaluation.file, at_E)

        def build(folder: Path) -> None:
            grams = {f: encode.grams_in(path) for f, path in picked.folder_F.items()}
            pairs = zip(evaluation.file.tolist(), at_E.tolist(), strict=True)
            EvaluationIndex.of(grams[f][i] for f, i in pairs).save(folder)

        if not target.exists():
            do(Job("evaluation text", 0, target, build, ()))
        return target

    def train_tokenizer(
        self, groups: Sequence[Chosen], picked: Picked, index: Path
    ) -> Tokenizer:
        """The tokenizer of the config; 'bpe' is trained on a sample of base text.

        What repeats evaluation text is not in the sample.
        """
        corpus, texts = self.config.corpus, []
        evaluation = EvaluationIndex.load(index)
        for group in groups:
            found = [document.text for document in picked.read(group)]
            grams = grams_of(*word_hashes(found), corpus.overlap_words)
            pairs = evaluation.find_all(*grams, corpus.overlap_share)
            repeats = {d for d, _ in pairs}
            texts.append([text for d, text in enumerate(found) if d not in repeats])
        return tokenizer_from_config(corpus.tokenizer, texts)

    def tokens_per_byte(
        self, tokenizer: Tokenizer, evaluation: Chosen, picked: Picked
    ) -> np.ndarray:
        """An estimate for each partition, from its evaluation text, [P]."""
        rate_P = np.full(len(self.places), 0.25)
        for p in range(len(self.places) if tokenizer.kind != "bytes" else 0):
            of_p = evaluation[evaluation.place == p]
            if len(of_p) and self.places[p].section == PARTITIONS:
                size = np.cumsum(of_p.bytes.astype(np.int64)) - of_p.bytes
                few = of_p[size < _SAMPLE]
                texts = [document.text for document in picked.read(few)]
                tokens = sum(map(len, tokenizer.encode_batch(texts)))
                rate_P[p] = max(1, tokens) / int(few.bytes.sum())
        return rate_P if tokenizer.kind != "bytes" else np.ones(len(self.places))

    def training(
        self, tools: Tools, coverage: Coverage, rate_P: np.ndarray, taking: Taking
    ) -> tuple[dict[str, Taken], Shards]:
        """The training documents and the base text, by 'train' and 'base'."""
        bytes_PSB = self.entries.bytes_by_bin()[:, [_TRAIN, _BASE]]
        bins_PS = np.zeros((len(self.places), len(ALL_SPLITS)), np.int64)
        wish_P = taking.needed_P / rate_P
        wish_base = taking.needed_base / max(rate_P.min(), 0.1)
        shards = Shards(tools)
        while True:
            for p in range(len(self.places)):
                trains = self.places[p].section == PARTITIONS
                bins = choose.bins_for(bytes_PSB[p, 0], wish_P[p] * _MARGIN)
                bins_PS[p, _TRAIN] = max(bins_PS[p, _TRAIN], bins) if trains else 0
            if taking.needed_base:
                bytes_B = bytes_PSB[:, 1].sum(0)
                bins = choose.bins_for(bytes_B, wish_base * _MARGIN)
                bins_PS[:, _BASE] = max(bins_PS[:, _BASE].max(), bins)
            chosen = self.entries.take(bins_PS)
            self._encode(chosen, shards, tools)
            trained = chosen[chosen.split == _TRAIN]
            base = chosen[chosen.split == _BASE]
            found = {
                TRAIN: shards.taken(trained, taking),
                BASE: shards.taken(base, taking, base=True),
            }
            short = False
            for p in range(len(self.places)):
                have, size = found[TRAIN].sums(p)
                if have < taking.needed_P[p] and 0 < bins_PS[p, _TRAIN] < BINS:
                    rate = have / size if have else 0
                    wish_P[p] = taking.needed_P[p] / rate if rate else float("inf")
                    bins_PS[p, _TRAIN] = _more(bins_PS[p, _TRAIN])
                    short = True
            have, size = found[BASE].sums()
            if have < taking.needed_base and bins_PS[:, _BASE].max() < BINS:
                wish_base = taking.needed_base * size / have if have else float("inf")
                bins_PS[:, _BASE] = _more(bins_PS[0, _BASE])
                short = True
            if not short:
                for counts in shards.unknown():
                    coverage.add(counts)
                return found, shards

    def _encode(self, chosen: Chosen, shards: Shards, tools: Tools) -> None:
        """Encodes what is chosen and not encoded yet."""
        names = ("the base text", *(f"partition {p.name!r}" for p in self.places))
        jobs, numbers = [], []
        for f, of_f in _by_file([chosen]):
            some = of_f[~shards.has(f, of_f.document)]
            if not len(some):
                continue
            where = np.where(some.split == _BASE, 0, some.place + 1)
            asked = self._wanted(f, some, where, names)
            target = self.run.target(
                "tokens", self._what(f), some.document, where, names,
                tools.tokenizer_digest, tools.index.name, tools.overlap_words,
                tools.overlap_share, tools.near_duplicates,
            )  # fmt: skip
            job = Job(
                asked.file.name, self.inputs[f].file.size, target, encode.encode,
                (asked, tools),
            )  # fmt: skip
            jobs.append(job)
            numbers.append(f)
        self.run(jobs, "encoding files")
        for f, job in zip(numbers, jobs, strict=True):
            shards.add(f, job.target)


def _more(bins: int) -> int:
    """At least a quarter more, so that rounds are few."""
    return min(BINS, bins + bins // 4 + 1)


def _by_file(wanted: Sequence[Chosen]) -> Iterator[tuple[int, Chosen]]:
    """The chosen documents of each file, each once, in order."""
    parts = ([getattr(c, field.name) for c in wanted] for field in _CHOSEN)
    joined = Chosen(*map(np.concatenate, parts))
    for f, of_f in choose.groups(joined.file):
        _, first = np.unique(joined.document[of_f], return_index=True)
        yield f, joined[of_f[first]]
