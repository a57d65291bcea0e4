"""What `prepare` would do with the files of a config, from a sample of them.

`prepare --dry-run` writes nothing. It reads the first documents of some files of each
source, chosen by a hash of their names, and goes on after an error, so that it can name
everything that has to be changed. Copies and overlap are not looked for.
"""

import contextlib
import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq

from jaxsim.config import Config, SourceConfig
from jaxsim.corpus import formats, store
from jaxsim.corpus.coverage import Coverage
from jaxsim.corpus.documents import DUPLICATE_ID, Document, Tally, check_bad, read_file
from jaxsim.corpus.fields import Cause, date_of, find, found_as
from jaxsim.corpus.names import check_domain, check_free, check_name, check_twins
from jaxsim.corpus.prepare import check_frozen
from jaxsim.corpus.rows import most_rows
from jaxsim.corpus.sources import InputFile, Inputs, find_inputs
from jaxsim.corpus.split import (
    BASE,
    BASE_TEXT,
    DOMAINS,
    PARTITIONS,
    SECTIONS,
    SPLITS,
    TRAIN,
    check_sources,
    collect_places,
    places_of,
    split_of,
    working_salt,
)
from jaxsim.corpus.split import Place as SplitPlace
from jaxsim.corpus.tokenizer import Tokenizer, tokenizer_from_config
from jaxsim.errors import JaxsimError, UserError

SAMPLE = 16_000_000  # bytes of text of a source that are read, about
_FILES = 16  # of a source that are read at least, if they are large
_HEAD = 4_000_000  # bytes of a file in which records are counted
_TOKENIZED = 50_000  # characters of a partition that are turned into tokens
_BPE_TEXT = 1_000_000  # characters that a BPE is trained on
EXAMPLES = 3  # documents that are shown


@dataclasses.dataclass
class Place:
    """What was read of a partition or domain.

    Attributes:
      in_pool: it is a partition.
      is_task: its documents have a prompt, which is read, too.
      weights: by file, how many documents each of those read stands for, about.
      sizes: file and bytes of each document's text, by split.
      examples: the first documents.
      read: all documents, with no more than their split depends on.
      texts: of some documents, to be turned into tokens.
      bytes_per_token: of these texts.
    """

    name: str
    group: str
    in_pool: bool
    weights: dict[str, float]
    sizes: dict[str, list[tuple[str, int]]] = dataclasses.field(default_factory=dict)
    examples: list[Document] = dataclasses.field(default_factory=list)
    read: list[Document] = dataclasses.field(default_factory=list)
    texts: list[str] = dataclasses.field(default_factory=list)
    bytes_per_token: float = 1.0
    is_task: bool = False

    def add(self, document: Document, split: str) -> None:
        text = (document.prompt or "") + document.text
        self.is_task |= document.prompt is not None
        size = document.file, len(text.encode())
        self.sizes.setdefault(split, []).append(size)
        if len(self.examples) < EXAMPLES:
            self.examples.append(document)
        if sum(map(len, self.texts)) < _TOKENIZED:
            self.texts.append(text[:_TOKENIZED])

    def documents(self, split: str) -> float:
        """Of a split, about."""
        return self.summed(split, lambda _: 1.0)

    def tokens(self, split: str, most: float = math.inf) -> float:
        """Of a split, about; at most so many of each document."""
        return self.summed(split, lambda tokens: min(tokens, most))

    def summed(self, split: str, value: Callable[[float], float]) -> float:
        """The sum of a function of each document's number of tokens, about."""
        return sum(
            self.weights[file] * value(size / self.bytes_per_token)
            for file, size in self.sizes.get(split, ())
        )


@dataclasses.dataclass
class Looked:
    """What was found of one source.

    Attributes:
      where: 'partitions', 'domains' or 'base_text'.
      share: of the source's bytes that were read, about; 1: all of them.
      weights: by file that was read, see `Place`.
      dates: how many there are, the first and the last one.
      no_dates: documents by the cause why they have no date.
    """

    where: str
    name: str
    config: SourceConfig
    inputs: Inputs
    tally: Tally
    share: float = 1.0
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    places: dict[str, Place] = dataclasses.field(default_factory=dict)
    dates: tuple[int, str, str] = (0, "", "")
    no_dates: Counter[str] = dataclasses.field(default_factory=Counter)

    def causes(self) -> list[str]:
        """Why records are left out, how many, and an example of each cause."""
        found = self.tally.bad + self.tally.dropped
        if self.tally.filtered:
            found["not in `where`"] = self.tally.filtered
        return [self.counted(cause, n) for cause, n in found.items()]

    def counted(self, cause: str, number: int) -> str:
        """'CAUSE (NUMBER, as EXAMPLE)', if there is an example."""
        example = self.tally.examples.get(cause)
        return f"{cause} ({number:,}{f', as {example}' if example else ''})"


@dataclasses.dataclass
class Preview:
    """What `prepare` would find.

    Attributes:
      sources: as far as they could be read.
      tokenizer: what turned texts into tokens; None: none could.
      how: what tokens are counted with, in words.
      problems: what `prepare` would refuse.
    """

    sources: list[Looked]
    tokenizer: Tokenizer | None
    how: str
    problems: list[str]

    def places(self, where: str) -> list[Place]:
        """The partitions or domains, by name."""
        found = {
            place.name: place
            for source in self.sources
            if source.where == where
            for place in source.places.values()
        }
        return [found[name] for name in sorted(found)]


def preview(config: Config, workdir: Path) -> Preview:
    """Reads a sample of every source; writes nothing."""
    found, record = Preview([], None, "", []), store.path_of(workdir)
    previous = store.open_corpus(workdir) if record.exists() else None
    with _collected(found.problems):
        check_sources(config.corpus)
    if previous is not None:
        with _collected(found.problems):
            check_frozen(previous.record.frozen, config, record.parent)
    # Base text is frozen at first.
    for where in SECTIONS if previous is None else (PARTITIONS, DOMAINS):
        for name, source in getattr(config.corpus, where).items():
            if looked := _look(config, where, name, source, found.problems):
                found.sources.append(looked)
    with _collected(found.problems):
        found.tokenizer, found.how = _tokenizer(config, previous, found)
    if found.tokenizer is not None:
        coverage = Coverage(found.tokenizer, config.corpus.max_unknown)
        for place in (p for source in found.sources for p in source.places.values()):
            with _collected(found.problems):
                _count_tokens(place, coverage)
    _check_text(config, found, previous is not None)
    if previous is None and config.uses_base_text:
        _check_base_text(config, found)
    _check_names(config, found)
    return found


@contextlib.contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    """Goes on after an error, which becomes a problem."""
    try:
        yield
    except JaxsimError as error:
        problems.append(str(error))


def _look(
    config: Config, where: str, name: str, source: SourceConfig, problems: list[str]
) -> Looked | None:
    """Reads a sample of one source; None if it has no files."""
    looked, known = None, len(problems)
    with _collected(problems):
        inputs = find_inputs(name, source)
        looked = Looked(where, name, source, inputs, Tally(config.corpus.max_bad))
        _read(config, looked, problems)
        if len(problems) > known:
            return looked
        check_bad(name, looked.tally, config.corpus.max_bad)
        if not looked.places:
            causes = "; ".join(looked.causes()) or "it is empty"
            fields = ", ".join(looked.tally.fields) or "none"
            raise UserError(
                f"source {name!r}: no documents left: {causes}; fields are {fields}"
            )
    return looked


def _read(config: Config, looked: Looked, problems: list[str]) -> None:
    """Reads documents of a source's files, and sorts them."""
    source, files = looked.config, looked.inputs.files
    # Not the order of names: the first ones may be the oldest, or of one topic.
    files = sorted(files, key=lambda f: hashlib.sha256(f.name.encode()).digest())
    quota = SAMPLE / min(len(files), _FILES)
    opened = read = 0.0  # bytes of files
    sizes = Counter[str]()  # bytes of text, by file
    text_of_id: dict[str, int] = {}
    wrong: list[str] = []  # of names and splits
    for file in files:
        if sizes.total() >= SAMPLE:
            break
        # A tally of its own: its number of records tells how far the file was read.
        tally = Tally(config.corpus.max_bad)
        share = 1.0
        with _collected(problems):
            for document in read_file(file, source, tally):
                text = hash((document.prompt, document.text))
                if text_of_id.setdefault(document.id, text) != text:
                    tally.reject(file, 0, DUPLICATE_ID)
                    continue
                sizes[file.name] += len(document.text)
                try:
                    _sort(config, looked, tally, document)
                except UserError as error:
                    wrong.append(str(error))
                if sizes[file.name] > quota:
                    share = _share(file, source, tally.records, sizes[file.name])
                    break
        looked.weights[file.name] = 1 / max(share, 1e-9)
        opened, read = opened + file.size, read + share * file.size
        looked.tally += tally
    if wrong:
        more = f" (and {len(wrong) - 1:,} more documents)" if len(wrong) > 1 else ""
        problems.append(wrong[0] + more)
    # Files that were not opened are taken to be like those that were.
    total = sum(file.size for file in files)
    looked.share = min(1.0, read / total) if total else 1.0
    for name in looked.weights:
        looked.weights[name] *= max(1.0, total / max(1.0, opened))


def _sort(config: Config, looked: Looked, tally: Tally, document: Document) -> None:
    """Adds a document to its partitions or domains."""
    name, source, corpus = looked.name, looked.config, config.corpus
    count, first, last = looked.dates
    if document.date:
        begin = min(first or document.date, document.date)
        looked.dates = count + 1, begin, max(last, document.date)
    else:
        value = find(document.fields, source.date_field)
        found = date_of(value, found_as(document.fields, source.date_field))
        looked.no_dates[f"no {source.date_field}" if found is None else found] += 1
        if isinstance(found, Cause) and found.example:
            tally.examples.setdefault(str(found), found.example)
    places = places_of(name, source, document, looked.where)
    if isinstance(places, str):
        tally.drop(places)
        return
    in_pool = looked.where == PARTITIONS
    gives_base = config.uses_base_text and not corpus.base_text
    key = {corpus.split.key: find(document.fields, corpus.split.key)}
    light = dataclasses.replace(document, text="", prompt=None, fields=key)
    for partition, group in places:
        split = BASE
        if looked.where != BASE_TEXT:
            split = split_of(document, corpus.split, in_pool, gives_base)
        place = Place(partition, group, in_pool, looked.weights)
        place = looked.places.setdefault(partition, place)
        place.add(document, split)
        place.read.append(light)


def _share(file: InputFile, source: SourceConfig, records: int, size: int) -> float:
    """The share of a file that so many records, with so much text, are about."""
    if source.reader not in ("records", "olmes"):
        return min(1.0, size / max(1, file.size))
    kind = formats.kind_of(file.path)
    with formats.open_file(file.path) as raw:
        if kind == formats.PARQUET:
            return records / max(1, pq.ParquetFile(raw).metadata.num_rows)
        if kind == formats.ARROW:
            return min(1.0, size / max(1, file.size))
        head = formats.plain(raw, file.path).read(_HEAD)
        lines, read = head.count(b"\n"), raw.tell()
    return min(1.0, records / max(1, lines) * read / max(1, file.size))


def _tokenizer(
    config: Config, previous: store.Corpus | None, found: Preview
) -> tuple[Tokenizer | None, str]:
    """What counts tokens: the tokenizer there is, or one made of the sample."""
    if previous is not None:
        return previous.tokenizer, "with the tokenizer of the workdir"
    settings = config.corpus.tokenizer
    if settings.kind != "bpe":
        what = settings.path if settings.kind == "file" else "bytes"
        return tokenizer_from_config(settings, ()), f"with the tokenizer: {what}"
    where = BASE_TEXT if config.corpus.base_text else PARTITIONS
    texts = [text for place in found.places(where) for text in place.texts]
    sample = "".join(texts)[:_BPE_TEXT]
    if not sample:
        return None, ""
    how = f"with a BPE that is trained here on {len(sample):,} characters"
    return Tokenizer.train_bpe([sample], settings.vocab_size), how


def _count_tokens(place: Place, coverage: Coverage) -> None:
    """Measures bytes per token; refuses text that the tokenizer does not keep."""
    what = f"{'partition' if place.in_pool else 'domain'} {place.name!r}"
    ids = coverage.encode_some([what] * len(place.texts), place.texts)
    size = sum(len(text.encode()) for text in place.texts)
    place.bytes_per_token = size / max(1, sum(map(len, ids)))
    coverage.check(what)


def _check_names(config: Config, found: Preview) -> None:
    """Names that `prepare` would refuse."""
    problems = found.problems
    owners: dict[str, tuple[str, str]] = {}
    for source in found.sources:
        if source.where == BASE_TEXT:
            with _collected(problems):
                check_name(source.name, "config.corpus.base_text")
            continue
        check = check_domain if source.where == DOMAINS else check_free
        for place in source.places.values():
            with _collected(problems):
                for name in dict.fromkeys((place.name, place.group)):
                    check(name, f"source {source.name!r}")
                owner = owners.setdefault(place.name, (source.where, source.name))
                if owner != (source.where, source.name):
                    raise UserError(
                        f"{source.where} {source.name!r} and {owner[0]} {owner[1]!r} "
                        f"both name {place.name!r}; give one of them another name or "
                        "rule"
                    )
    with _collected(problems):
        check_twins(owners, "partitions and domains")
    if not found.problems and all(source.share == 1 for source in found.sources):
        pairs = [
            (s.where, s.name, [(p.name, p.group) for p in s.places.values()])
            for s in found.sources
        ]
        with _collected(problems):
            collect_places(config.corpus, pairs)


def _check_text(config: Config, found: Preview, is_frozen: bool) -> None:
    """Partitions and domains that are too small, and ranges of dates that are empty."""
    problem = found.problems.append
    helps = ""
    for source in found.sources:
        if source.share < 1 or source.where == BASE_TEXT:
            continue  # the rest may have what the sample lacks
        dates = source.config.by_dates
        if dates and not (source.config.by_field or source.config.by_file):
            inside = f"{source.name}/" if source.where == DOMAINS else ""
            for start, end in dates:
                if f"{inside}{start}-{end}" not in source.places:
                    problem(
                        f"source {source.name!r}: no document has a date from {start} "
                        f"to {end}; remove the range from by_dates"
                    )
        for place in source.places.values():
            needed = (TRAIN, *SPLITS) if place.in_pool else SPLITS
            if empty := [split for split in needed if split not in place.sizes]:
                helps = helps or _what_helps(config, found, is_frozen)
                problem(
                    f"{place.name!r} has no document in its {' and '.join(empty)} "
                    f"split; {helps}"
                )
    for place in found.places(PARTITIONS):
        times, tokens = epochs(config, place), place.tokens(TRAIN)
        if tokens and times > config.corpus.max_epochs:
            problem(
                f"{place.name!r} has about {tokens:,.0f} training tokens, so a run of "
                f"{_budget(config):,} would repeat them {times:,.1f} times, more than "
                f"config.corpus.max_epochs={config.corpus.max_epochs:g}; give it more "
                "text, join it with another partition, lower config.recipe.steps or "
                "config.recipe.batch, or raise config.corpus.max_epochs"
            )


def _what_helps(config: Config, found: Preview, is_frozen: bool) -> str:
    """What helps against empty splits."""
    if is_frozen:
        return "give it more documents"
    documents = {
        SplitPlace(source.where, source.name, place.name, place.group): place.read
        for source in found.sources
        for place in source.places.values()
        if source.where != BASE_TEXT
    }
    # Small ones first: they decide.
    documents = dict(sorted(documents.items(), key=lambda item: len(item[1])))
    salt = ""
    if all(source.share == 1 for source in found.sources):
        bases = config.uses_base_text and not config.corpus.base_text
        salt = working_salt(documents, config.corpus.split, bases)
    return "give it more, raise config.corpus.split.dev and .test, or set " + (
        f"config.corpus.split.salt={salt!r}: no split is empty then"
        if salt
        else "another config.corpus.split.salt"
    )


def _check_base_text(config: Config, found: Preview) -> None:
    where = BASE_TEXT if config.corpus.base_text else PARTITIONS
    places = found.places(where)
    tokens = sum(place.tokens(BASE) for place in places)
    if places and tokens < config.model.length:
        found.problems.append(
            f"the base text is about {tokens:,.0f} tokens, less than one row of "
            f"{config.model.length}; raise config.corpus.split.base, or give "
            "config.corpus.base_text text"
        )


def _budget(config: Config) -> int:
    """Tokens of a member's run."""
    return config.recipe.steps * config.recipe.batch * config.model.length


def kept(config: Config, place: Place) -> float:
    """Training tokens of a partition that are kept, about."""
    return min(place.tokens(TRAIN), most_rows(config) * config.model.length)


def pieces(config: Config, place: Place) -> int:
    """How many units a partition is cut into, about."""
    return max(
        1, min(config.corpus.max_units, int(kept(config, place) / _budget(config)))
    )


def epochs(config: Config, place: Place) -> float:
    """How often a member's run repeats the text of its unit, about."""
    return _budget(config) * pieces(config, place) / max(1.0, kept(config, place))


def evaluation(config: Config, place: Place) -> dict[str, tuple[int, int]]:
    """Tokens and windows of each split that will be scored, about."""
    corpus, length, result = config.corpus, config.model.length, {}
    most = length if place.is_task else corpus.evaluation_windows * length or math.inf
    for split in SPLITS:
        tokens = place.tokens(split, most)
        windows = place.summed(split, lambda n: math.ceil(min(n, most) / length))
        part = min(1.0, (corpus.evaluation_tokens or tokens) / max(1.0, tokens))
        result[split] = round(part * tokens), round(part * windows)
    return result
