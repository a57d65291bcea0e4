"""Everything that a report is about, read from a workdir.

Nothing is computed twice, and no window is read. What is missing is named with
the command that makes it, so a report can be written at any moment.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from jaxsim.scoring.scores import ScoreStore
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
_SOURCES = (
    "corpus/corpus.json", "base/manifest.json", "pool/pool.json",
    f"scores/{STANDARD}.parquet", "validation/diagnostics.json",
    f"validation/{TRAINED}", f"validation/{GIVEN}", "validation/chosen.json",
    "search/result.json",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StandardScores:
    """Bits per byte of base model, members and other standard mixtures.

    Read from the table of scores: it holds sums, and is small whatever the
    size of the evaluation text.

    Attributes:
      members: of the table, in pool order.
      in_pool: whether a domain is, by its name; in-pool ones come first.
      bits: by split, mixture and domain; NaN where nothing was scored.
      basis: what it was computed from.
      notes: what an override admitted.
    """

    members: Sequence[str]
    in_pool: dict[str, bool]
    bits: dict[str, dict[str, dict[str, float]]]
    basis: Basis
    notes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class ReportData:
    """What there is; a part that is not there yet is None or empty.

    Attributes:
      corpus, base, pool, store, diagnostics, validation, found, chosen: as their
        owners read them.
      given: agreement with the user's runs, where `validation` is about runs
        trained here.
      entries: manifests of members, reference runs and replicates, by name.
      missing: 'what: not done: run `jaxsim ...`'.
      stale: parts that were computed from something else than is there now.
      sources: SHA-256 of the files that were read, by path in the workdir.
    """

    corpus: Corpus | None
    base: Manifest | None
    pool: Pool | None
    entries: dict[str, Manifest]
    store: ScoreStore
    standard: StandardScores | None
    diagnostics: Diagnostics | None
    validation: Validation | None
    given: Validation | None
    found: SearchResult | None
    chosen: TrainedChoice | None
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
        return list(
            dict.fromkeys(note for part in parts if part for note in part.notes)
        )

    @property
    def token_multiplier(self) -> float | None:
        """Tokens of a reference run / tokens of a member, if all are alike."""
        run, member = (
            {m.tokens for m in self.of_kind(kind).values()}
            for kind in ("reference", "member")
        )
        return run.pop() / member.pop() if len(run) == len(member) == 1 else None

    @property
    def scored_windows(self) -> int:
        """Windows in all tables; only merges and runs go through a model."""
        return sum(
            len(record.names) * len(predictor.rows)
            for record in map(self.store.record, self.store.names())
            for name, predictor in record.predictors.items()
            if name in ("merge", "reference")
        )


def collect(workdir: Path) -> ReportData:
    """Reads a workdir.

    Raises:
      DamagedError: something is there and is not what it should be.
    """

    def has(path: str) -> bool:
        return (workdir / path).is_file()

    corpus = open_corpus(workdir) if has("corpus/corpus.json") else None
    base = read_manifest(workdir / "base") if is_published(workdir / "base") else None
    pool = open_pool(workdir) if has("pool/pool.json") else None
    entries = pool.manifests(*KINDS) if pool else {}
    store = ScoreStore(workdir)
    standard = _standard(store) if STANDARD in store.names() else None
    diagnostics, chosen = load_diagnostics(workdir), load_chosen(workdir)
    validation, given = load_validation(workdir), load_given(workdir)
    if validation is not None and validation.given:
        given = None  # they are the same
    found = load_search(workdir) if has("search/result.json") else None
    trained = {name for name, m in entries.items() if m.kind == "member"}
    units = corpus.units.keys() if corpus else trained
    members = f"{len(units - trained)} of {len(units)} members"
    needed: list[tuple[str, str, Any]] = [
        ("corpus", "prepare", corpus),
        ("base model", "base", base),
        (members if trained else "members", "train", trained and units <= trained),
        ("scores", "score", standard),
        ("reference runs and agreement", "validate", validation),
        ("search", "search", found),
    ]
    others = [
        ("diagnostics", "validate", diagnostics),
        ("agreement with your runs", "validate --runs=MIXTURES.csv,METRICS.csv", given),
        ("outcome of chosen mixtures", "validate --mixtures=FILE.csv", chosen),
    ]
    stale = []
    if corpus is not None and pool is not None and entries:
        now = current_basis(corpus, pool, entries)
        stale = [
            f"{what}: {changed}: run `jaxsim {command}`"
            for what, command, part in (*needed[3:], *others)
            if part and (changed := part.basis.difference(now))
        ]
    return ReportData(
        corpus=corpus,
        base=base,
        pool=pool,
        entries=entries,
        store=store,
        standard=standard,
        diagnostics=diagnostics,
        validation=validation,
        given=given,
        found=found,
        chosen=chosen,
        missing=[
            f"{what}: not done: run `jaxsim {command}`"
            for what, command, part in needed
            if not part
        ],
        stale=stale,
        sources={
            path: hashlib.sha256((workdir / path).read_bytes()).hexdigest()
            for path in _SOURCES
            if has(path)
        },
    )


def _standard(store: ScoreStore) -> StandardScores:
    """The table of standard mixtures that `jaxsim score` left.

    Raises:
      DamagedError: it is no such table.
    """
    record, path = store.record(STANDARD), store.folder / f"{STANDARD}.parquet"
    try:
        rows = store.arrow(STANDARD).to_pylist()
        rows = [row for row in rows if row["predictor"] == "merge"]
        in_pool = {row["domain"]: row["in_pool"] for row in rows}
        bits: dict[str, dict[str, dict[str, float]]] = {}
        for row in rows:
            by_name = bits.setdefault(row["split"], {})
            by_domain = by_name.setdefault(
                row["mixture"], dict.fromkeys(in_pool, float("nan"))
            )
            by_domain[row["domain"]] = row["nll_sum"] / row["bytes"] / np.log(2.0)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise DamagedError(
            f"{path}: not a table of scores ({error}); delete the folder "
            "scores/ and run `jaxsim score` again"
        ) from error
    return StandardScores(record.members, in_pool, bits, record.basis, record.notes)
