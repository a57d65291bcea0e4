"""The last step of `prepare`: what was taken becomes rows of units and domains."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsim.config import Config
from jaxsim.corpus.choose import Chosen, Entries
from jaxsim.corpus.coverage import Coverage
from jaxsim.corpus.documents import Document
from jaxsim.corpus.duplicates import EvaluationIndex, grams_of, word_hashes
from jaxsim.corpus.encoded import Shards, Taken
from jaxsim.corpus.names import check_twins
from jaxsim.corpus.pipeline import Picked
from jaxsim.corpus.rows import (
    EvalWindows,
    Piece,
    evaluation_rows,
    most_rows,
    pieces_of,
    training_rows,
)
from jaxsim.corpus.scan import ALL_SPLITS
from jaxsim.corpus.split import BASE, BASE_TEXT, PARTITIONS, SPLITS, TRAIN, Place
from jaxsim.corpus.store import Corpus, Domain, Tables, Unit
from jaxsim.corpus.tasks import TaskCounts, encode_records, record_windows
from jaxsim.errors import UserError
from jaxsim.log import counted, progress, say

_AT_ONCE = 64  # evaluation documents that are encoded at once
_SHOWN = 5  # ids of records that are left out


class Overlap:
    """Training documents and evaluation documents that overlap.

    The older text stays. Members and base model may already be trained on text of an
    earlier `prepare`, so a newer evaluation document that repeats it is dropped, and
    counted. Within one `prepare`, evaluation text stays and training text is dropped.

    Attributes:
      counts: by partition or 'base', and domain: training documents that repeat the
        domain, and evaluation documents that repeat older training text.
      documents: the documents that are dropped, by partition, 'base' or domain.
      gone_E: the evaluation documents that are dropped.
    """

    def __init__(self, config: Config, places: Sequence[Place], evaluation: Chosen):
        self._config, self._places = config, places
        self._domain_E = evaluation.place
        self.gone_E = np.zeros(len(evaluation), bool)
        self.documents = Counter[str]()
        self.counts: dict[str, dict[str, dict[str, int]]] = defaultdict(
            lambda: defaultdict(lambda: {"training": 0, "evaluation": 0})
        )

    def add(self, what: str, taken: Taken) -> None:
        settled, counted_here = taken.settled, set[tuple[int, str]]()
        looked_at = settled.considered & ~settled.repeated & ~settled.near
        pairs = zip(taken.pairs.tolist(), taken.older.tolist(), strict=True)
        dropped = set[int]()
        for (i, e), older in pairs:
            domain = self._places[self._domain_E[e]].name
            name = BASE if what == BASE else self._places[taken.place[i]].name
            if older and looked_at[i] and (i, domain) not in counted_here:
                counted_here.add((i, domain))
                self.counts[name][domain]["training"] += 1
                self.documents[name] += i not in dropped
                dropped.add(i)
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
            self.documents[domain] += 1

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


def frozen_base_text(previous: Corpus) -> Iterator[str]:
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


class Merge:
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
        most = base_rows(self._config)
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


def write_domains(
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
            domain = Domain(place.name, in_pool, place.group, {}, {}, {}, {}, {}, {})
            for split in SPLITS:
                here = evaluation.split == ALL_SPLITS.index(split)
                documents = picked.read(evaluation[(evaluation.place == p) & here])
                what = f"domain {place.name!r}, split {split!r}"
                windows, counts = _windows(what, documents, config, coverage)
                if counts:
                    domain.tasks[split] = dict(counts)
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
) -> tuple[EvalWindows, TaskCounts | None]:
    """The windows of the first documents, about `evaluation_tokens` tokens.

    Records of a task also have counts. What a model reads of one counts as tokens, if
    the record can be scored.
    """
    tokenizer, most = coverage.tokenizer, config.corpus.evaluation_tokens
    borders, length = (
        (tokenizer.begin_of_text, tokenizer.end_of_text),
        config.model.length,
    )
    longest = config.corpus.evaluation_windows * length
    is_task = any(document.prompt is not None for document in documents)
    kept, found, total = list[Document](), list[Any](), 0
    for start in range(0, len(documents), _AT_ONCE):
        some = documents[start : start + _AT_ONCE]
        batch: Sequence[Any]
        if is_task:
            batch = encode_records(what, some, coverage)
            sizes = [min(len(r.ids), length) * r.fits(length) for r in batch]
        else:
            batch = coverage.encode_some([what] * len(some), [d.text for d in some])
            sizes = [min(len(ids), longest or len(ids)) for ids in batch]
        for document, tokens, size in zip(some, batch, sizes, strict=True):
            # A tokenizer that drops all of a document leaves nothing to score. Records
            # of which nothing can be scored are counted.
            if (size or is_task) and (not most or total < most):
                kept.append(document)
                found.append(tokens)
                total += size
        if most and total >= most:
            break
    coverage.check(what)
    names, windows, counts = [document.id for document in kept], None, None
    if is_task:
        windows, counts = record_windows(found, *borders, length, names)
    elif kept:
        pairs = zip(kept, found, strict=True)
        bytes_E = [tokenizer.token_bytes(document.text, ids) for document, ids in pairs]
        most = config.corpus.evaluation_windows
        windows = evaluation_rows(found, bytes_E, *borders, length, names, most)
    if windows:
        if left := sorted(set(names) - set(windows.documents)):
            say(
                f"{what}: {counted(len(left), 'record')} left out, whose completion "
                f"has more than config.model.length={length} tokens, or none: "
                + ", ".join(left[:_SHOWN])
                + ", ..." * (len(left) > _SHOWN)
            )
        return windows, counts
    if counts and counts["too_long"]:
        raise UserError(
            f"{what}: every completion has more than config.model.length={length} "
            "tokens; raise it, or give other records"
        )
    raise UserError(
        f"{what}: the tokenizer makes no token of any of its documents; use another "
        "tokenizer"
    )


def base_rows(config: Config) -> int:
    """The rows of base text that are kept, if there are so many."""
    base, recipe = config.base, config.recipe
    rows = 0 if base.path else base.steps * base.batch
    rows = max(rows, math.ceil(recipe.steps * recipe.batch * recipe.replay))
    return math.ceil(rows * config.corpus.unit_budgets)
