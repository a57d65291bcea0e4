"""Everything that a report is about, read from a workdir.

Nothing is computed twice, and no text is read but the target's. What is missing is
named with the command that makes it, so a report can be written at any moment.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa

from jaxsim.corpus import open_corpus
from jaxsim.corpus.names import Labels
from jaxsim.corpus.split import SPLITS
from jaxsim.errors import DamagedError, UserError
from jaxsim.log import read_metrics
from jaxsim.pool import Manifest, open_pool
from jaxsim.pool.manifest import read_manifest
from jaxsim.pool.publish import is_published
from jaxsim.records import check_tree, from_plain, need
from jaxsim.scoring.evaluation import current_basis, gaps
from jaxsim.scoring.scorer import STANDARD
from jaxsim.scoring.store import ScoreStore
from jaxsim.search.closed_form import ClosedForm
from jaxsim.search.result import load_search
from jaxsim.validation.diagnostics import Diagnostics
from jaxsim.validation.measured import TrainedChoice
from jaxsim.validation.validate import GIVEN, TRAINED, load_validation

KINDS = {
    "member": "members", "reference": "reference runs", "replicate": "reference runs"
}  # fmt: skip
BASE = Labels.BASE
_EXCERPTS, _LETTERS = 2, 300  # of the target's text
_POINTS = 200  # of a learning curve
_SOURCES = (
    "corpus/corpus.json", "base/manifest.json", "pool/pool.json",
    f"scores/{STANDARD}.parquet", Diagnostics.FILE, TRAINED, GIVEN, TrainedChoice.FILE,
    "search/result.json",
)  # fmt: skip


class _Sum(TypedDict):
    """Columns of a table of scores."""

    mixture: str
    predictor: str
    domain: str
    in_pool: bool
    split: str
    bits_per_byte: float


class ReportData:
    """What there is in a workdir; a part that is not there yet is None or empty.

    Attributes:
      corpus, base, pool, store, diagnostics, validation, found, chosen: as their
        owners read them.
      entries: manifests of members, reference runs and replicates, by name.
      standard: record of the table of standard mixtures.
      in_pool: whether a domain is, by its name; in-pool ones come first.
      bits: bits per byte of base model, members and other standard mixtures, by split,
        mixture and domain; NaN where nothing was scored.
      given: agreement with the user's runs, where `validation` is about runs
        trained here.
      closed: the closed form of a search.
      missing: 'what: not done: run `jaxsim ...`'.
      stale: parts that were computed from something else than is there now.
      sources: SHA-256 of the files that were read, by path in the workdir.

    Raises:
      DamagedError: something is there and is not what it should be.
    """

    def __init__(self, workdir: Path) -> None:
        check_tree(workdir)
        self._workdir = workdir
        there = {
            path: workdir / path for path in _SOURCES if (workdir / path).is_file()
        }
        has_base = is_published(workdir / "base")
        self.corpus = open_corpus(workdir) if "corpus/corpus.json" in there else None
        self.base = read_manifest(workdir / "base") if has_base else None
        self.pool = open_pool(workdir) if "pool/pool.json" in there else None
        entries = self.pool.manifests(*KINDS) if self.pool else {}
        members = [n for n, m in entries.items() if m.kind == "member"]
        gone = set(members) - set(self.corpus.units if self.corpus else members)
        self.entries = {n: m for n, m in entries.items() if n not in gone}
        self.store = ScoreStore(workdir)
        has_scores = STANDARD in self.store.names()
        self.standard = self.store.record(STANDARD) if has_scores else None
        self.in_pool, self.bits = _bits(self.store) if has_scores else ({}, {})
        self.diagnostics = Diagnostics.load(workdir)
        self.validation = load_validation(workdir)
        self.given = None
        if self.validation is not None and not self.validation.given:
            self.given = load_validation(workdir, files=[GIVEN])
        self.found = load_search(workdir) if "search/result.json" in there else None
        self.closed = ClosedForm.load(workdir)
        if self.closed and not (self.found and self.closed.belongs_to(self.found)):
            raise DamagedError(
                f"{workdir / ClosedForm.FILE}: of another search than the one beside "
                f"it; {ClosedForm.ADVICE}"
            )
        self.chosen = TrainedChoice.load(workdir)
        self.sources = {
            path: hashlib.sha256(file.read_bytes()).hexdigest()
            for path, file in there.items()
        }
        trained = self.of_kind("member").keys()
        needed: list[tuple[str, str, Any]] = [
            ("corpus", "prepare", self.corpus),
            ("base model", "base", self.base),
            ("members", "train", trained),
            ("scores", "score", self.standard),
            ("reference runs and agreement", "validate", self.validation),
            ("search", "search", self.found),
        ]
        self.missing = [
            f"{what}: not done: run `jaxsim {command}`"
            for what, command, part in needed
            if not part
        ]
        if self.corpus is not None and trained:
            self.missing += gaps(self.corpus, members)
        user = "validate --runs=MIXTURES.csv,METRICS.csv"
        others = [
            ("diagnostics", "validate", self.diagnostics),
            ("agreement with your runs", user, self.given),
            ("outcome of chosen mixtures", "validate --mixtures=FILE.csv", self.chosen),
        ]
        now = None
        if self.corpus is not None and self.pool is not None and self.entries:
            now = current_basis(self.corpus, self.pool, self.entries)
        lost = "the corpus or the pool that it was computed from is gone"
        self.stale = [
            f"{what}: {changed}: run `jaxsim {command}`"
            for what, command, part in (*needed[3:], *others)
            if part and (changed := part.basis.difference(now) if now else lost)
        ]

    @functools.cached_property
    def curves(self) -> list[tuple[str, list[int], list[float]]]:
        """Kind, steps and losses of each run whose metrics are there."""
        kinds = {name: KINDS[m.kind] for name, m in self.entries.items()}
        found = []
        for name, kind in ({BASE: "base model"} | kinds).items():
            path = self._workdir / "metrics" / f"{name}.jsonl"
            rows = read_metrics(path) if path.is_file() else []
            rows = [row for row in rows if row["loss"] is not None]
            if rows := rows[:: 1 + len(rows) // _POINTS]:
                steps, losses = ([row[key] for row in rows] for key in ("step", "loss"))
                found.append((kind, steps, losses))
        return found

    @functools.cached_property
    def excerpts(self) -> list[tuple[str, str]]:
        """Domain and beginning of some documents of the search's target, dev text."""
        if self.corpus is None or self.found is None:
            return []
        aimed = [name for name in self.found.target if name in self.corpus.domains]
        each = 1 + (len(aimed) < _EXCERPTS)
        found = []
        for name in aimed[:_EXCERPTS]:
            windows = self.corpus.evaluation(name, "dev")
            firsts = np.unique(windows.document_R, return_index=True)[1][:each]
            for tokens_L1 in windows.tokens_RL1[firsts]:
                text = " ".join(self.corpus.tokenizer.decode(tokens_L1).split())
                if len(text) > _LETTERS:
                    text = f"{text[:_LETTERS].rstrip()}…"
                found.append((name, text))
        return found

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


def _bits(
    store: ScoreStore,
) -> tuple[dict[str, bool], dict[str, dict[str, dict[str, float]]]]:
    """Which domains are in-pool, and the bits per byte of the standard mixtures.

    Read from the file of sums: it is small whatever the size of the text.

    Raises:
      DamagedError: it is no such table.
    """
    path = store.folder / f"{STANDARD}.parquet"
    try:
        table = store.arrow(STANDARD).select(list(_Sum.__annotations__))
        found = [row for row in table.to_pylist() if row["predictor"] == "merge"]
        rows = from_plain(list[_Sum], found, "row")
        in_pool = {row["domain"]: row["in_pool"] for row in rows}
        bits: dict[str, dict[str, dict[str, float]]] = {}
        for row in rows:
            by_name = bits.setdefault(row["split"], {})
            nothing = dict.fromkeys(in_pool, float("nan"))
            by_domain = by_name.setdefault(row["mixture"], nothing)
            by_domain[row["domain"]] = row["bits_per_byte"]
        for split in SPLITS:
            need(BASE in bits.get(split, {}), "there", None, f"{split}, {BASE}")
    except (pa.ArrowException, ArithmeticError, LookupError, UserError) as error:
        raise DamagedError(
            f"{path}: not a table of scores ({error}); delete the folder "
            "scores/ and run `jaxsim score` again"
        ) from error
    return in_pool, bits
