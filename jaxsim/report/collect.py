"""Everything that a report is about, read from a workdir, nothing computed
twice.

What is missing is named with the command that makes it; a report can be
written at any moment.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxsim.corpus import Corpus, open_corpus
from jaxsim.errors import DamagedError, JaxsimError
from jaxsim.mixture.scorer import REFERENCES
from jaxsim.pool import Manifest, Pool, open_pool
from jaxsim.pool.manifest import read_manifest
from jaxsim.pool.publish import is_published
from jaxsim.report.price import price
from jaxsim.report.references import References, read_references
from jaxsim.report.stale import stale_answers, stale_scores
from jaxsim.search.found import Found, load_found
from jaxsim.study.chosen import Chosen, load_chosen
from jaxsim.study.diagnostics import Gauge, load_gauge, relative_drift
from jaxsim.study.validate import (
    GIVEN,
    TRAINED,
    Validation,
    load_given,
    load_validation,
)

KINDS = ("member", "truth", "repeat")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What there is; a part that is not there yet is None or empty.

    Attributes:
      corpus, seed, pool, references, gauge, validation, found, chosen: as
        their owners read them.
      given: what the user's truths showed, where `validation` is of truths
        trained here.
      entries: manifests of members, truths and repeats, by name.
      scored_windows: how many windows went through a model to be scored.
      drift: ||member - seed|| / ||seed||, by member; NaN if it cannot be
        read.
      missing: 'what: not done: run `jaxsim ...`'.
      overrides: what an override admitted, anywhere in what is shown.
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
    drift: dict[str, float]
    missing: list[str]
    overrides: list[str]
    stale: list[str]
    sources: dict[str, str]

    def of_kind(self, kind: str) -> dict[str, Manifest]:
        return {n: m for n, m in self.entries.items() if m.kind == kind}

    @property
    def in_pool(self) -> dict[str, bool]:
        """Which domains are, as far as it is known."""
        if self.references is None:
            return {}
        return dict(
            zip(self.references.domains, self.references.in_pool, strict=True)
        )

    @property
    def horizon(self) -> float | None:
        """Tokens of a truth / tokens of a member, if all are alike."""
        return _horizon(self.entries)


def collect(workdir: Path) -> Facts:
    """Reads a workdir.

    Raises:
      DamagedError: something is there and is not what it should be.
    """
    missing: list[str] = []

    def lacks(what: str, command: str) -> None:
        missing.append(f"{what}: not done: run `jaxsim {command}`")

    corpus = seed = pool = references = found = None
    entries: dict[str, Manifest] = {}
    if (workdir / "corpus" / "corpus.json").is_file():
        corpus = open_corpus(workdir)
    else:
        lacks("corpus", "prepare")
    if is_published(workdir / "seed"):
        seed = read_manifest(workdir / "seed")
    else:
        lacks("seed", "seed")
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
        lacks("truths and agreement", "validate")
    if (workdir / "search" / "found.json").is_file():
        found = _load_found(workdir)
    else:
        lacks("search", "search")
    gauge, chosen = load_gauge(workdir), load_chosen(workdir)
    given = None
    if validation is not None and not validation.given:
        given = load_given(workdir)
    parts = (references, gauge, validation, found, chosen, given)
    return Facts(
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
        drift=_drift(workdir, pool, seed, entries, gauge),
        missing=missing,
        overrides=_overrides(parts),
        stale=stale_scores(corpus, entries, references)
        + stale_answers(
            corpus, seed, entries, gauge, validation, found, chosen, given
        ),
        sources=_sources(workdir),
    )


def load_closing(workdir: Path) -> dict[str, Any]:
    """What `closing_lines` needs besides a workdir's name, by argument."""
    found = None
    entries: Mapping[str, Manifest] = {}
    if (workdir / "search" / "found.json").is_file():
        found = _load_found(workdir)
    if (workdir / "pool" / "pool.json").is_file():
        entries = open_pool(workdir).manifests(*KINDS)
    return {
        "found": found,
        "validation": load_validation(workdir),
        "horizon": _horizon(entries),
        "chosen": load_chosen(workdir),
        "price": price(entries),
    }


def _horizon(entries: Mapping[str, Manifest]) -> float | None:
    tokens = {
        kind: {m.tokens for m in entries.values() if m.kind == kind}
        for kind in ("truth", "member")
    }
    if len(tokens["truth"]) == 1 and len(tokens["member"]) == 1:
        return tokens["truth"].pop() / tokens["member"].pop()
    return None


def _drift(
    workdir: Path,
    pool: Pool | None,
    seed: Manifest | None,
    entries: Mapping[str, Manifest],
    gauge: Gauge | None,
) -> dict[str, float]:
    """Of every member; what was measured before is not measured again."""
    members = {n: m for n, m in entries.items() if m.kind == "member"}
    if pool is None or seed is None or not members:
        return {}
    known = _known_drift(workdir, seed) | _gauged_drift(gauge, seed)
    digests = {name: m.params_digest for name, m in members.items()}
    start = None
    for name, manifest in members.items():
        if digests[name] in known:
            continue
        try:
            start = pool.seed()[1] if start is None else start
            value = relative_drift(pool.load(manifest), start)
        except JaxsimError:  # `verify` says what is wrong with it
            value = float("nan")
        known[digests[name]] = value
    return {name: known[digests[name]] for name in members}


def _known_drift(workdir: Path, seed: Manifest) -> dict[str, float]:
    """By `params_digest`, from the last report on the same seed."""
    try:
        last = json.loads((workdir / "report" / "report.json").read_text())
        if last["digests"]["seed"] != seed.params_digest:
            return {}
        return {
            member["params_digest"]: float(member["drift"])
            for member in last["members"]
            if member["drift"] is not None
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # no report, or one of another version


def _gauged_drift(gauge: Gauge | None, seed: Manifest) -> dict[str, float]:
    """By `params_digest`, from a gauge of the same seed."""
    if gauge is None or gauge.digests.get("seed") != seed.params_digest:
        return {}
    return {gauge.digests[name]: v for name, v in gauge.drift.items()}


def _load_found(workdir: Path) -> Found:
    try:
        return load_found(workdir)
    except (ValueError, TypeError) as error:
        raise DamagedError(
            f"{workdir}/search/found.json: unreadable ({error}); run "
            "`jaxsim search` again"
        ) from error


def _overrides(
    parts: Iterable[References | Gauge | Validation | Found | Chosen | None],
) -> list[str]:
    """The notes of everything shown, each once."""
    notes = [note for part in parts if part is not None for note in part.notes]
    return list(dict.fromkeys(notes))


def _scored_windows(workdir: Path) -> int:
    """Of all tables; only merges and truths go through a model."""
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
