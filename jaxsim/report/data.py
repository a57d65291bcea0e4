"""Everything that a report is about, read from a workdir.

Nothing is computed twice, and no window is read. What is missing is named with
the command that makes it, so a report can be written at any moment.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from jaxsim.corpus import Corpus, open_corpus
from jaxsim.errors import DamagedError
from jaxsim.pool import Manifest, Pool, open_pool
from jaxsim.pool.manifest import read_manifest
from jaxsim.pool.publish import is_published
from jaxsim.records import Basis
from jaxsim.scoring.evaluation import current_basis
from jaxsim.scoring.scorer import STANDARD
from jaxsim.scoring.store import ScoreStore
from jaxsim.search.result import SearchResult, load_search
from jaxsim.validation.chosen import TrainedChoice, load_chosen
from jaxsim.validation.diagnostics import Diagnostics, load_diagnostics
from jaxsim.validation.validate import (
    GIVEN,
    TRAINED,
    Validation,
    load_given,
    load_validation,
)

KINDS = ("member", "reference", "replicate")
BASE = "base"
Result = Diagnostics | Validation | SearchResult | TrainedChoice


@dataclasses.dataclass(frozen=True)
class StandardScores:
    """Bits per byte of base model, members and other standard mixtures.

    Read from the table of scores: it holds sums, and is small whatever the
    size of the evaluation text.

    Attributes:
      members: of the table, in pool order.
      names: of the rows, M.
      domains, in_pool: in-pool ones first, D.
      bits: by split, [M, D] float64; NaN where nothing was scored.
      basis: what it was computed from.
      notes: what an override admitted.
    """

    members: tuple[str, ...]
    names: tuple[str, ...]
    domains: tuple[str, ...]
    in_pool: tuple[bool, ...]
    bits: dict[str, np.ndarray]
    basis: Basis
    notes: tuple[str, ...]

    def row(self, name: str, split: str) -> np.ndarray:
        """[D] of one row; NaN if it was not scored."""
        if name not in self.names:
            return np.full(len(self.domains), np.nan)
        return self.bits[split][self.names.index(name)]

    def gains(self, split: str) -> np.ndarray:
        """[C, D]: by how many bits per byte a member beats the base model."""
        members_CD = np.array([self.row(name, split) for name in self.members])
        return self.row(BASE, split) - members_CD


@dataclasses.dataclass(frozen=True)
class ReportData:
    """What there is; a part that is not there yet is None or empty.

    Attributes:
      corpus, base model, pool, references, diagnostics, validation, found, chosen: as
        their owners read them.
      given: agreement with the user's runs, where `validation` is about runs
        trained here.
      entries: manifests of members, reference runs and replicates, by name.
      scored_windows: how many windows went through a model to be scored.
      missing: 'what: not done: run `jaxsim ...`'.
      stale: parts that were computed from something else than is there now.
      sources: SHA-256 of the files that were read, by path in the workdir.
    """

    corpus: Corpus | None
    base: Manifest | None
    pool: Pool | None
    entries: dict[str, Manifest]
    standard: StandardScores | None
    diagnostics: Diagnostics | None
    validation: Validation | None
    found: SearchResult | None
    chosen: TrainedChoice | None
    given: Validation | None
    scored_windows: int
    missing: list[str]
    stale: list[str]
    sources: dict[str, str]

    def of_kind(self, kind: str) -> dict[str, Manifest]:
        return {n: m for n, m in self.entries.items() if m.kind == kind}

    @property
    def overrides(self) -> list[str]:
        """What an override admitted, anywhere in what is shown, each once."""
        parts = (
            self.standard, self.diagnostics, self.validation, self.found,
            self.chosen, self.given,
        )  # fmt: skip
        notes = [note for part in parts if part for note in part.notes]
        return list(dict.fromkeys(notes))

    @property
    def in_pool(self) -> dict[str, bool]:
        """Which domains are in-pool, as far as it is known."""
        if self.standard is None:
            return {}
        return dict(zip(self.standard.domains, self.standard.in_pool, strict=True))

    @property
    def token_multiplier(self) -> float | None:
        return token_multiplier(self.entries)


def collect(workdir: Path) -> ReportData:
    """Reads a workdir.

    Raises:
      DamagedError: something is there and is not what it should be.
    """
    missing: list[str] = []

    def lacks(what: str, command: str) -> None:
        missing.append(f"{what}: not done: run `jaxsim {command}`")

    corpus = base = pool = standard = found = given = None
    entries: dict[str, Manifest] = {}
    if (workdir / "corpus" / "corpus.json").is_file():
        corpus = open_corpus(workdir)
    else:
        lacks("corpus", "prepare")
    if is_published(workdir / "base"):
        base = read_manifest(workdir / "base")
    else:
        lacks("base model", "base")
    if (workdir / "pool" / "pool.json").is_file():
        pool = open_pool(workdir)
        entries = pool.manifests(*KINDS)
    members = [n for n, m in entries.items() if m.kind == "member"]
    wanted = list(corpus.units) if corpus else []
    if not members:
        lacks("members", "train")
    elif left := [name for name in wanted if name not in members]:
        lacks(f"{len(left)} of {len(wanted)} members", "train")
    store = ScoreStore(workdir)
    if STANDARD in store.names():
        standard = read_standard(store)
    else:
        lacks("scores", "score")
    validation = load_validation(workdir)
    if validation is None:
        lacks("reference runs and agreement", "validate")
    elif not validation.given:
        given = load_given(workdir)
    if (workdir / "search" / "result.json").is_file():
        found = load_search(workdir)
    else:
        lacks("search", "search")
    diagnostics, chosen = load_diagnostics(workdir), load_chosen(workdir)
    return ReportData(
        corpus=corpus,
        base=base,
        pool=pool,
        entries=entries,
        standard=standard,
        diagnostics=diagnostics,
        validation=validation,
        found=found,
        chosen=chosen,
        given=given,
        scored_windows=_scored_windows(store),
        missing=missing,
        stale=_stale(
            corpus, pool, entries,
            [
                ("scores", "score", standard),
                ("diagnostics", "validate", diagnostics),
                ("reference runs and agreement", "validate", validation),
                ("agreement with your runs",
                 "validate --runs=MIXTURES.csv,METRICS.csv", given),
                ("search", "search", found),
                ("outcome of chosen mixtures",
                 "validate --mixtures=FILE.csv", chosen),
            ],
        ),
        sources=_sources(workdir),
    )  # fmt: skip


def same_basis(a: Result, b: Result) -> bool:
    """Whether both are of the same pool and text."""
    return a.basis.same_pool(b.basis)


def _stale(
    corpus: Corpus | None,
    pool: Pool | None,
    entries: Mapping[str, Manifest],
    parts: Sequence[tuple[str, str, Result | StandardScores | None]],
) -> list[str]:
    """Which results no longer fit the pool and the corpus, and what to run."""
    if corpus is None or pool is None or not entries:
        return []
    now = current_basis(corpus, pool, entries)
    return [
        f"{what}: {changed}: run `jaxsim {command}`"
        for what, command, part in parts
        if part is not None and (changed := part.basis.difference(now))
    ]


def token_multiplier(entries: Mapping[str, Manifest]) -> float | None:
    """Tokens of a reference run / tokens of a member, if all are alike."""
    tokens = {
        kind: {m.tokens for m in entries.values() if m.kind == kind}
        for kind in ("reference", "member")
    }
    if len(tokens["reference"]) == 1 and len(tokens["member"]) == 1:
        return tokens["reference"].pop() / tokens["member"].pop()
    return None


def read_standard(store: ScoreStore) -> StandardScores:
    """The table of standard mixtures that `jaxsim score` left.

    Raises:
      DamagedError: it is no such table.
    """
    record, path = store.record(STANDARD), store.folder / f"{STANDARD}.parquet"
    try:
        return standard_of(
            store.arrow(STANDARD), record.members, record.basis, record.notes
        )
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise DamagedError(
            f"{path}: not a table of scores ({error}); delete the folder "
            "scores/ and run `jaxsim score` again"
        ) from error


def standard_of(
    table: pa.Table, members: Sequence[str], basis: Basis, notes: Sequence[str]
) -> StandardScores:
    """From the table of a `Scores`; sums become bits per byte here."""
    rows = [row for row in table.to_pylist() if row["predictor"] == "merge"]
    names = list(dict.fromkeys(row["mixture"] for row in rows))
    in_pool = {row["domain"]: row["in_pool"] for row in rows}
    domains = list(in_pool)
    bits: dict[str, np.ndarray] = {}
    for row in rows:
        bits_MD = bits.setdefault(
            row["split"], np.full((len(names), len(domains)), np.nan)
        )
        bits_MD[names.index(row["mixture"]), domains.index(row["domain"])] = (
            row["nll_sum"] / row["bytes"] / np.log(2.0)
        )
    return StandardScores(
        members=tuple(members),
        names=tuple(names),
        domains=tuple(domains),
        in_pool=tuple(in_pool.values()),
        bits=bits,
        basis=basis,
        notes=tuple(notes),
    )


def _scored_windows(store: ScoreStore) -> int:
    """Windows in all tables; only merges and runs go through a model."""
    return sum(
        len(record.names) * len(predictor.rows)
        for record in map(store.record, store.names())
        for name, predictor in record.predictors.items()
        if name in ("merge", "reference")
    )


def _sources(workdir: Path) -> dict[str, str]:
    paths = (
        "corpus/corpus.json",
        "base/manifest.json",
        "pool/pool.json",
        f"scores/{STANDARD}.parquet",
        "validation/diagnostics.json",
        f"validation/{TRAINED}",
        f"validation/{GIVEN}",
        "validation/chosen.json",
        "search/result.json",
    )
    return {
        path: hashlib.sha256((workdir / path).read_bytes()).hexdigest()
        for path in paths
        if (workdir / path).is_file()
    }
