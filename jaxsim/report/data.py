"""Everything that a report is about, read from a workdir.

Nothing is computed twice, and no window is read. What is missing is named with
the command that makes it, so a report can be written at any moment.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxsim.corpus import Corpus, open_corpus
from jaxsim.errors import DamagedError
from jaxsim.mixture.evaluation import HALVES
from jaxsim.mixture.scorer import REFERENCES
from jaxsim.pool import Manifest, Pool, open_pool
from jaxsim.pool.manifest import read_manifest
from jaxsim.pool.publish import is_published
from jaxsim.search.found import Found, load_found
from jaxsim.study.chosen import Chosen, load_chosen
from jaxsim.study.diagnostics import Gauge, load_gauge
from jaxsim.study.validate import (
    GIVEN,
    TRAINED,
    Validation,
    load_given,
    load_validation,
)

KINDS = ("member", "truth", "repeat")
SEED = "seed"
Result = Gauge | Validation | Found | Chosen


@dataclasses.dataclass(frozen=True)
class References:
    """Bits per byte of base model, members and plain merges.

    Read from the table of scores: it holds sums, and is small whatever the
    size of the evaluation text.

    Attributes:
      members: of the table, in pool order.
      names: of the rows, M.
      domains, in_pool: in-pool ones first, D.
      bits: by half, [M, D] float64; NaN where nothing was scored.
      evaluation: digest of the evaluation text.
      notes: what an override admitted.
    """

    members: tuple[str, ...]
    names: tuple[str, ...]
    domains: tuple[str, ...]
    in_pool: tuple[bool, ...]
    bits: dict[str, np.ndarray]
    evaluation: str
    notes: tuple[str, ...]

    def row(self, name: str, half: str) -> np.ndarray:
        """[D] of one row; NaN if it was not scored."""
        if name not in self.names:
            return np.full(len(self.domains), np.nan)
        return self.bits[half][self.names.index(name)]

    def gains(self, half: str) -> np.ndarray:
        """[C, D]: by how many bits per byte a member beats the base model."""
        members_CD = np.array([self.row(name, half) for name in self.members])
        return self.row(SEED, half) - members_CD

    def own(self, domain: str) -> list[str]:
        """The members trained on the partition `domain` is held out from."""
        pattern = re.compile(re.escape(domain) + r"(_\d+of\d+)?")
        return [name for name in self.members if pattern.fullmatch(name)]


@dataclasses.dataclass(frozen=True)
class ReportData:
    """What there is; a part that is not there yet is None or empty.

    Attributes:
      corpus, seed, pool, references, gauge, validation, found, chosen: as
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
    seed: Manifest | None
    pool: Pool | None
    entries: dict[str, Manifest]
    references: References | None
    gauge: Gauge | None
    validation: Validation | None
    found: Found | None
    chosen: Chosen | None
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
            self.references, self.gauge, self.validation, self.found,
            self.chosen, self.given,
        )  # fmt: skip
        notes = [note for part in parts if part for note in part.notes]
        return list(dict.fromkeys(notes))

    @property
    def in_pool(self) -> dict[str, bool]:
        """Which domains are in-pool, as far as it is known."""
        if self.references is None:
            return {}
        return dict(
            zip(self.references.domains, self.references.in_pool, strict=True)
        )

    @property
    def horizon(self) -> float | None:
        return token_multiplier(self.entries)


def collect(workdir: Path) -> ReportData:
    """Reads a workdir.

    Raises:
      DamagedError: something is there and is not what it should be.
    """
    missing: list[str] = []

    def lacks(what: str, command: str) -> None:
        missing.append(f"{what}: not done: run `jaxsim {command}`")

    corpus = seed = pool = references = found = given = None
    entries: dict[str, Manifest] = {}
    if (workdir / "corpus" / "corpus.json").is_file():
        corpus = open_corpus(workdir)
    else:
        lacks("corpus", "prepare")
    if is_published(workdir / "seed"):
        seed = read_manifest(workdir / "seed")
    else:
        lacks("base model", "seed")
    if (workdir / "pool" / "pool.json").is_file():
        pool = open_pool(workdir)
        entries = pool.manifests(*KINDS)
    members = [n for n, m in entries.items() if m.kind == "member"]
    wanted = list(corpus.units) if corpus else []
    if not members:
        lacks("members", "train")
    elif left := [name for name in wanted if name not in members]:
        lacks(f"{len(left)} of {len(wanted)} members", "train")
    path = workdir / "scores" / f"{REFERENCES}.parquet"
    if path.is_file():
        references = read_references(path)
    else:
        lacks("scores", "score")
    validation = load_validation(workdir)
    if validation is None:
        lacks("reference runs and agreement", "validate")
    elif not validation.given:
        given = load_given(workdir)
    if (workdir / "search" / "found.json").is_file():
        found = load_found(workdir)
    else:
        lacks("search", "search")
    gauge, chosen = load_gauge(workdir), load_chosen(workdir)
    return ReportData(
        corpus=corpus,
        seed=seed,
        pool=pool,
        entries=entries,
        references=references,
        gauge=gauge,
        validation=validation,
        found=found,
        chosen=chosen,
        given=given,
        scored_windows=_scored_windows(workdir),
        missing=missing,
        stale=_stale(
            corpus, pool, entries, references,
            [
                ("the diagnostics are of", "validate", gauge),
                ("the agreement is with runs on", "validate", validation),
                ("the agreement with your runs rests on",
                 "validate --truths=RATIOS.csv,METRICS.csv", given),
                ("the search is over", "search", found),
                ("the outcome of chosen mixtures rests on",
                 "validate --ratios=FILE.csv", chosen),
            ],
        ),
        sources=_sources(workdir),
    )  # fmt: skip


def difference(
    part: Result, evaluation: str, digests: Mapping[str, str]
) -> str:
    """What a result does not share: 'members', 'text', or '' if it fits.

    The one place that decides whether a result is stale, and whether two
    results may be compared.

    Args:
      part: the result.
      evaluation: digest of the evaluation text.
      digests: of 'seed' and of every member, by name.
    """
    if dict(part.digests) != dict(digests):
        return "members"
    return "text" if part.evaluation != evaluation else ""


def same_basis(a: Result, b: Result) -> bool:
    """Whether both are of the same pool and text."""
    return not difference(a, b.evaluation, b.digests)


def evaluation_digest(corpus: Corpus) -> str:
    """That of `jaxsim.mixture.gather(corpus)`, without reading a window."""
    domains = sorted(corpus.domains.values(), key=lambda d: not d.in_pool)
    digests = [
        [domain.name, half, domain.digests[half]]
        for domain in domains
        for half in HALVES
    ]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _stale(
    corpus: Corpus | None,
    pool: Pool | None,
    entries: Mapping[str, Manifest],
    references: References | None,
    parts: Sequence[tuple[str, str, Result | None]],
) -> list[str]:
    """Which results no longer fit the pool and the corpus, and what to run."""
    members = {
        n: m.params_digest for n, m in entries.items() if m.kind == "member"
    }
    if pool is None or not members:
        return []
    now = {SEED: pool.identity["seed_digest"], **members}
    text = evaluation_digest(corpus) if corpus is not None else None
    lines = []

    def line(what: str, command: str, other: str) -> None:
        owner = {"members": "the pool", "text": "the corpus"}[other]
        lines.append(
            f"{what} other {other} than {owner} has now: run `jaxsim {command}`"
        )

    if references is not None:  # names its members and no digest of them
        if set(references.members) != set(members):
            line("the scores are of", "score", "members")
        elif text not in (None, references.evaluation):
            line("the scores are of", "score", "text")
    for what, command, part in parts:
        if part is not None and (
            other := difference(part, text or part.evaluation, now)
        ):
            line(what, command, other)
    return lines


def token_multiplier(entries: Mapping[str, Manifest]) -> float | None:
    """Tokens of a reference run / tokens of a member, if all are alike."""
    tokens = {
        kind: {m.tokens for m in entries.values() if m.kind == kind}
        for kind in ("truth", "member")
    }
    if len(tokens["truth"]) == 1 and len(tokens["member"]) == 1:
        return tokens["truth"].pop() / tokens["member"].pop()
    return None


def read_references(path: Path) -> References:
    """The table that `jaxsim score` left at `path`.

    Raises:
      DamagedError: it is no such table.
    """
    try:
        return references_of(pa.parquet.read_table(path))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DamagedError(
            f"{path}: not a table of scores ({error}); delete the folder "
            "scores/ and run `jaxsim score` again"
        ) from error


def references_of(table: pa.Table) -> References:
    """From the table of a `Scores`; sums become bits per byte here."""
    facts = {
        key.decode(): value.decode()
        for key, value in (table.schema.metadata or {}).items()
    }
    rows = [row for row in table.to_pylist() if row["proxy"] == "merge"]
    names = list(dict.fromkeys(row["mixture"] for row in rows))
    in_pool = {row["domain"]: row["in_pool"] for row in rows}
    domains = list(in_pool)
    bits: dict[str, np.ndarray] = {}
    for row in rows:
        bits_MD = bits.setdefault(
            row["half"], np.full((len(names), len(domains)), np.nan)
        )
        bits_MD[names.index(row["mixture"]), domains.index(row["domain"])] = (
            row["nll_sum"] / row["bytes"] / np.log(2.0)
        )
    return References(
        members=tuple(json.loads(facts["jaxsim.members"])),
        names=tuple(names),
        domains=tuple(domains),
        in_pool=tuple(in_pool.values()),
        bits=bits,
        evaluation=facts["jaxsim.evaluation"],
        notes=tuple(json.loads(facts["jaxsim.notes"])),
    )


def _scored_windows(workdir: Path) -> int:
    """Windows in all tables; only merges and runs go through a model."""
    total = 0
    for path in sorted((workdir / "scores").glob("*.parquet")):
        with contextlib.suppress(pa.ArrowException, OSError, KeyError):
            table = pa.parquet.read_table(path, columns=["proxy", "windows"])
            proxies = table["proxy"].to_numpy(zero_copy_only=False)
            computed = np.isin(proxies.astype(str), ("merge", "truth"))
            total += int(table["windows"].to_numpy()[computed].sum())
    return total


def _sources(workdir: Path) -> dict[str, str]:
    paths = (
        "corpus/corpus.json",
        "seed/manifest.json",
        "pool/pool.json",
        f"scores/{REFERENCES}.parquet",
        "study/gauge.json",
        f"study/{TRAINED}",
        f"study/{GIVEN}",
        "study/chosen.json",
        "search/found.json",
    )
    return {
        path: hashlib.sha256((workdir / path).read_bytes()).hexdigest()
        for path in paths
        if (workdir / path).is_file()
    }
