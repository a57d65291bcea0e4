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
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim import records
from jaxsim.config import Config
from jaxsim.corpus import choose, encode, scan
from jaxsim.corpus.choose import BINS, Chosen, Entries, Settled
from jaxsim.corpus.coverage import Coverage
from jaxsim.corpus.documents import Document
from jaxsim.corpus.duplicates import EvaluationIndex, grams_of, word_hashes
from jaxsim.corpus.encode import Tools, Wanted
from jaxsim.corpus.scan import ALL_SPLITS, Scanned
from jaxsim.corpus.sources import InputFile
from jaxsim.corpus.split import BASE, SPLITS, TRAIN, Place
from jaxsim.corpus.tokenizer import Tokenizer, tokenizer_from_config
from jaxsim.corpus.work import Job, do, work

# A token has fewer bytes on average, so that documents of so many bytes for each token
# that is needed are enough.
_MOST_BYTES = 8
_MARGIN = 1.15  # more text is encoded than seems to be needed
_SAMPLE = 50_000  # bytes of a domain that tell how many tokens its text has
_BLOCK = 4_000_000  # tokens that are put in order at once
_TRAIN, _BASE = ALL_SPLITS.index(TRAIN), ALL_SPLITS.index(BASE)
_EVALUATED = [ALL_SPLITS.index(split) for split in SPLITS]


class UnfinishedError(Exception):
    """Other launchers have not done their share of a pass; says which pass."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """Does jobs: all of them, or one launcher's share."""

    folder: Path  # of their results
    workers: int
    shard: tuple[int, int] | None

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
        work(mine, self.workers, label)
        if not all(job.target.exists() for job in jobs):
            raise UnfinishedError(label)


@dataclasses.dataclass(frozen=True)
class Input:
    """A file, and the part of config.corpus that names it."""

    section: str
    file: InputFile


def scanned(
    config: Config, inputs: Sequence[Input], run: Runner
) -> list[tuple[Scanned, np.ndarray]]:
    """The first pass."""
    jobs = []
    for section, file in ((i.section, i.file) for i in inputs):
        source = getattr(config.corpus, section)[file.source]
        arguments = file, source, config.corpus.split, section
        target = run.target("scan", *arguments)
        arguments += (config.corpus.max_bad,)
        jobs.append(Job(file.name, file.size, target, scan.scan, arguments))
    run(jobs, "reading files")
    return [scan.load(job.target) for job in jobs]


@dataclasses.dataclass(frozen=True)
class Picked:
    """Text of chosen documents, in the folders of `encode.pick`."""

    folder_F: Mapping[int, Path]
    wanted_F: Mapping[int, np.ndarray]  # numbers of the documents that are there

    def at(self, chosen: Chosen) -> np.ndarray:
        """Where chosen documents are among those of their files."""
        found = np.zeros(len(chosen), np.int64)
        for f, wanted in self.wanted_F.items():
            of_f = chosen.file == f
            found[of_f] = np.searchsorted(wanted, chosen.document[of_f])
        return found

    def read(self, chosen: Chosen) -> list[Document]:
        """The documents, in the order of `chosen`."""
        at_N, found = self.at(chosen), dict[tuple[int, int], Document]()
        for f in np.unique(chosen.file).tolist():
            here = set(at_N[chosen.file == f].tolist())
            for i, texts in enumerate(encode.texts_of(self.folder_F[f])):
                if i in here:
                    identity, text, prompt = texts
                    found[f, i] = Document(identity, text, "", prompt=prompt)
        keys = zip(chosen.file.tolist(), at_N.tolist(), strict=True)
        return [found[key] for key in keys]


class Pipeline:
    """The passes after the first one."""

    def __init__(
        self,
        config: Config,
        inputs: Sequence[Input],
        scans: Sequence[tuple[Scanned, np.ndarray]],
        entries: Entries,
        run: Runner,
    ):
        self.config, self.inputs, self.entries, self.run = config, inputs, entries, run
        self.places = entries.places
        # What a result of a later pass depends on.
        self._scan_F = [
            hashlib.sha256(entries.tobytes()).hexdigest() for _, entries in scans
        ]

    def evaluation(self) -> Chosen:
        """Evaluation documents by place, split and id, as many as may be needed."""
        corpus = self.config.corpus
        windows = corpus.evaluation_windows * self.config.model.length
        needed = (corpus.evaluation_tokens or float("inf")) * _MOST_BYTES
        most = windows * _MOST_BYTES
        bins_PS = np.zeros((len(self.places), len(ALL_SPLITS)), np.int64)
        bytes_PSB = self.entries.bytes_by_bin(most)
        for p, s in itertools.product(range(len(self.places)), _EVALUATED):
            bins_PS[p, s] = choose.bins_for(bytes_PSB[p, s], needed)
        chosen = self.entries.take(bins_PS)
        return chosen[choose.prefix(chosen, needed, most)]

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
                taken.append(i)
                left -= int(chosen.bytes[i])
        found = chosen[np.array(taken, np.int64)]
        by_place = [found[found.place == p] for p in range(len(self.places))]
        return [group for group in by_place if len(group)]

    def picked(self, wanted: Sequence[Chosen]) -> Picked:
        """The pass that keeps text."""
        words = self.config.corpus.overlap_words
        jobs, numbers = {}, {}
        for f, document, ids in _by_file(wanted):
            names = np.zeros(len(document), np.int64), ("",)
            asked = self._wanted(f, document, ids, *names)
            target = self.run.target("texts", self._scan_F[f], document, words)
            size = self.inputs[f].file.size
            arguments = asked, words
            name = asked.file.name
            jobs[f] = Job(name, size, target, encode.pick, arguments)
            numbers[f] = document
        self.run(list(jobs.values()), "reading evaluation text")
        return Picked({f: job.target for f, job in jobs.items()}, numbers)

    def _wanted(
        self,
        f: int,
        document: np.ndarray,
        ids: np.ndarray,
        where: np.ndarray,
        names: tuple[str, ...],
    ) -> Wanted:
        section, file = self.inputs[f].section, self.inputs[f].file
        source = getattr(self.config.corpus, section)[file.source]
        split = self.config.corpus.split
        return Wanted(file, source, split, document, ids, where, names)

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
        """An estimate for each place, from its evaluation text, [P]."""
        rate_P = np.full(len(self.places), 0.25)
        for p in range(len(self.places) if tokenizer.kind != "bytes" else 0):
            of_p = evaluation[evaluation.place == p]
            if len(of_p):
                size = np.cumsum(of_p.bytes.astype(np.int64)) - of_p.bytes
                few = of_p[size < _SAMPLE]
                texts = [document.text for document in picked.read(few)]
                tokens = sum(map(len, tokenizer.encode_batch(texts)))
                rate_P[p] = max(1, tokens) / max(1, sum(map(len, texts)))
        return rate_P if tokenizer.kind != "bytes" else np.ones(len(self.places))

    def training(
        self, tools: Tools, coverage: Coverage, rate_P: np.ndarray, taking: "Taking"
    ) -> tuple[dict[str, "Taken"], "Shards"]:
        """The training documents and the base text, by 'train' and 'base'."""
        bytes_PSB = self.entries.bytes_by_bin()[:, [_TRAIN, _BASE]]
        bins_PS = np.zeros((len(self.places), len(ALL_SPLITS)), np.int64)
        wish_P = taking.needed_P / rate_P
        wish_base = taking.needed_base / max(rate_P.min(), 0.1)
        shards = Shards(tools)
        while True:
            for p in range(len(self.places)):
                trains = self.places[p].section == "partitions"
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
                TRAIN: shards.taken(trained, taking, self.places),
                BASE: shards.taken(base, taking, self.places, base=True),
            }
            short = False
            for p in range(len(self.places)):
                have, size = found[TRAIN].sums(p)
                if have < taking.needed_P[p] and 0 < bins_PS[p, _TRAIN] < BINS:
                    rate = have / size if have else 0
                    wish_P[p] = taking.needed_P[p] / rate if rate else float("inf")
                    bins_PS[p, _TRAIN] += 1
                    short = True
            have, size = found[BASE].sums()
            if have < taking.needed_base and bins_PS[:, _BASE].max() < BINS:
                wish_base = taking.needed_base * size / have if have else float("inf")
                bins_PS[:, _BASE] += 1
                short = True
            if not short:
                for counts in shards.unknown():
                    coverage.add(counts)
                return found, shards

    def _encode(self, chosen: Chosen, shards: "Shards", tools: Tools) -> None:
        """Encodes what is chosen and not encoded yet."""
        names = ("the base text", *(f"partition {p.name!r}" for p in self.places))
        where = np.where(chosen.split == _BASE, 0, chosen.place + 1)
        jobs, numbers = [], []
        fields = dataclasses.replace(chosen, place=where.astype(np.uint32))
        for f, document, ids, place in _by_file([fields], True):
            new = ~shards.has(f, document)
            document, ids, place = document[new], ids[new], place[new]
            if not len(document):
                continue
            asked = self._wanted(f, document, ids, place, names)
            target = self.run.target(
                "tokens", self._scan_F[f], document, place, names,
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


@dataclasses.dataclass(frozen=True)
class Taking:
    """What training text is taken.

    Attributes:
      needed_P: tokens that fill a place, with the borders of documents.
      generation_P: which `prepare` first saw a place, from 0.
      domain_E: the place of each evaluation document.
      borders: tokens around a document.
    """

    needed_P: np.ndarray
    needed_base: float
    generation_P: np.ndarray
    domain_E: np.ndarray
    borders: int


@dataclasses.dataclass(frozen=True)
class Taken:
    """Training documents in order, oldest places first; arrays are [N].

    Attributes:
      pairs: entry and evaluation document of each overlap.
      older: of each pair, whether the domain is as old as the document's place.
    """

    place: np.ndarray
    bytes: np.ndarray
    tokens: np.ndarray  # with borders
    shard: np.ndarray
    offset: np.ndarray
    settled: Settled
    pairs: np.ndarray
    older: np.ndarray

    def sums(self, place: int | None = None) -> tuple[int, int]:
        """Tokens that are kept, and bytes of what was considered, of a place or all."""
        here = self.settled.considered & (place is None or self.place == place)
        size = self.bytes[here].astype(np.int64).sum()
        return int(self.tokens[here & self.settled.kept].sum()), int(size)


class Shards:
    """The folders of `encode.encode`."""

    def __init__(self, tools: Tools):
        self._type = encode.token_type(
            Tokenizer.load(tools.tokenizer, tools.tokenizer_digest)
        )
        self._near = bool(tools.near_duplicates)
        self.folders: list[Path] = []
        self._abouts: list[encode.Encoded] = []
        self._of_file: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)

    def add(self, f: int, folder: Path) -> None:
        about, rows = encode.load(folder)
        self._of_file[f].append((len(self.folders), rows))
        self.folders.append(folder)
        self._abouts.append(about)

    def has(self, f: int, document: np.ndarray) -> np.ndarray:
        found = np.zeros(len(document), bool)
        for _, rows in self._of_file[f]:
            found |= np.isin(document, rows["document"])
        return found

    def unknown(self) -> Iterator[dict[str, Any]]:
        """Counts of `Coverage` of each folder."""
        for about in self._abouts:
            yield {
                where: list(counts.values()) for where, counts in about.unknown.items()
            }

    def taken(
        self,
        chosen: Chosen,
        taking: Taking,
        places: Sequence[Place],
        base: bool = False,
    ) -> Taken:
        """What becomes of chosen documents, all of which are here."""
        place = np.zeros(len(chosen), np.int64) if base else chosen.place.astype(int)
        age = np.zeros(len(chosen), np.int64) if base else taking.generation_P[place]
        ids = chosen.id
        order = np.lexsort((ids[:, 1], chosen.place, ids[:, 0], age))
        chosen, place, age = chosen[order], place[order], age[order]
        shard, row, tokens = np.zeros((3, len(chosen)), np.int64)
        offset, digest = np.zeros(len(chosen), np.int64), np.zeros(len(chosen), "<u8")
        for f in np.unique(chosen.file).tolist():
            index = np.flatnonzero(chosen.file == f)
            for number, rows in self._of_file[f]:
                numbers = rows["document"]
                at = np.searchsorted(numbers, chosen.document[index])
                here = at < len(numbers)
                here[here] = numbers[at[here]] == chosen.document[index[here]]
                some, at = index[here], at[here]
                shard[some], row[some] = number, at
                tokens[some] = rows["tokens"][at]
                offset[some] = (np.cumsum(rows["tokens"], dtype=np.int64))[at]
                digest[some] = rows["digest"][at]
        offset -= tokens
        tokens += taking.borders
        pairs = self._pairs(shard, row)
        domain = taking.domain_E[pairs[:, 1]]
        limit = np.full(len(age), 0) if base else age
        older = taking.generation_P[domain] <= limit[pairs[:, 0]]
        overlaps = np.zeros(len(chosen), bool)
        overlaps[pairs[older, 0]] = True
        needed = np.array([taking.needed_base]) if base else taking.needed_P
        keys = [digest, *self._bands(shard, row)]
        settled = choose.settle(place, tokens, overlaps, keys, needed)
        return Taken(place, chosen.bytes, tokens, shard, offset, settled, pairs, older)

    def _pairs(self, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """(entry, evaluation document) of all overlaps, in the order of entries."""
        found = [np.zeros((0, 2), np.int64)]
        for number, folder in enumerate(self.folders):
            overlaps = np.load(folder / "overlaps.npy")
            if not len(overlaps):
                continue
            index = np.flatnonzero(shard == number)
            for i in index[np.isin(row[index], overlaps[:, 0])].tolist():
                others = overlaps[overlaps[:, 0] == row[i], 1]
                found.append(np.stack([np.full(len(others), i), others], 1))
        pairs = np.concatenate(found)
        return pairs[np.argsort(pairs[:, 0], kind="stable")]

    def _bands(self, shard: np.ndarray, row: np.ndarray) -> Iterator[np.ndarray]:
        """The hashes of a band of all entries, one band after the other."""
        if not self._near or not len(shard):
            return
        names = [folder / "bands.npy" for folder in self.folders]
        bands = [np.load(name, mmap_mode="r") for name in names]
        for b in range(bands[0].shape[1]):
            key = np.zeros(len(shard), np.uint64)
            for number, hashes in enumerate(bands):
                of_shard = shard == number
                key[of_shard] = hashes[row[of_shard], b]
            yield key

    def stream(
        self, taken: Taken, kept: np.ndarray, borders: Sequence[int]
    ) -> Iterator[np.ndarray]:
        """The tokens of documents, with borders, in parts of some documents.

        Args:
          kept: indices of the documents.
          borders: what precedes and what follows a document.
        """
        *before, after = borders
        part = np.cumsum(taken.tokens[kept]) // _BLOCK
        for block in np.split(kept, np.flatnonzero(np.diff(part)) + 1):
            ends = np.cumsum(taken.tokens[block])
            stream = np.full(ends[-1] if len(ends) else 0, after, np.int32)
            starts = ends - taken.tokens[block]
            for i, token in enumerate(before):
                stream[starts + i] = token
            starts += len(before)
            sizes = taken.tokens[block] - len(borders)
            for number in np.unique(taken.shard[block]).tolist():
                path = self.folders[number] / "tokens"
                if not path.stat().st_size:
                    continue
                tokens = np.memmap(path, self._type, "r")
                of_shard = taken.shard[block] == number
                where = (starts, sizes, taken.offset[block])
                for at, size, offset in zip(*(w[of_shard] for w in where), strict=True):
                    stream[at : at + size] = tokens[offset : offset + size]
            yield stream


def _by_file(wanted: Sequence[Chosen], places: bool = False) -> Iterator[Any]:
    """The documents of each file: their numbers in order, ids, and places if asked."""
    joined = [
        np.concatenate([getattr(chosen, name) for chosen in wanted])
        for name in ("file", "document", "place")
    ]
    ids = np.concatenate([chosen.id[:, 0] for chosen in wanted])
    for f in np.unique(joined[0]).tolist():
        of_f = np.flatnonzero(joined[0] == f)
        document, first = np.unique(joined[1][of_f], return_index=True)
        found = f, document, ids[of_f[first]]
        yield (*found, joined[2][of_f[first]]) if places else found
