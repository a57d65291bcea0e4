"""Which parts of a workdir no longer fit its pool and its corpus."""

import hashlib
import json
from collections.abc import Mapping

from jaxsim.corpus import Corpus
from jaxsim.mixture.evaluation import HALVES
from jaxsim.pool import Manifest
from jaxsim.report.references import References
from jaxsim.search.found import Found
from jaxsim.study.chosen import Chosen
from jaxsim.study.diagnostics import Gauge
from jaxsim.study.validate import Validation


def evaluation_digest(corpus: Corpus) -> str:
    """That of `jaxsim.mixture.gather(corpus)`, without reading a window."""
    domains = sorted(corpus.domains.values(), key=lambda d: not d.in_pool)
    digests = [
        [domain.name, half, domain.digests[half]]
        for domain in domains
        for half in HALVES
    ]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def stale_scores(
    corpus: Corpus | None,
    entries: Mapping[str, Manifest],
    references: References | None,
) -> list[str]:
    """Whether the scores no longer fit the pool and the corpus."""
    members = [n for n, m in entries.items() if m.kind == "member"]
    if references is None or not members:
        return []
    lines = []
    if list(references.members) != members:
        lines.append(
            "the scores are of other members than the pool has now: run "
            "`jaxsim score`"
        )
    if corpus is not None and references.evaluation != evaluation_digest(
        corpus
    ):
        lines.append(
            "the scores are of other text than the corpus has now: run "
            "`jaxsim score`"
        )
    return lines


def stale_answers(
    corpus: Corpus | None,
    seed: Manifest | None,
    entries: Mapping[str, Manifest],
    gauge: Gauge | None,
    validation: Validation | None,
    found: Found | None,
    chosen: Chosen | None,
    given: Validation | None,
) -> list[str]:
    """Which results no longer fit the pool and the corpus."""
    now = {n: m.params_digest for n, m in entries.items() if m.kind == "member"}
    if not now:
        return []
    members = set(now)
    if seed is not None:
        now["seed"] = seed.params_digest
    text = evaluation_digest(corpus) if corpus is not None else None
    lines = []

    def check(
        what: str,
        command: str,
        part: Gauge | Validation | Found | Chosen,
        fits: bool,
    ) -> None:
        # Results of an earlier version name neither digests nor text.
        if not fits or any(now.get(n) != d for n, d in part.digests.items()):
            other = "members than the pool"
        elif text and part.evaluation and part.evaluation != text:
            other = "text than the corpus"
        else:
            return
        lines.append(f"{what} other {other} has now: run `jaxsim {command}`")

    if gauge is not None:  # damaged members have a digest, and no figure
        fits = set(gauge.digests) - {"seed"} == members
        check("the gauge is of", "validate", gauge, fits)
    if validation is not None:
        fits = set(validation.members) == members
        check("the agreement is over", "validate", validation, fits)
    if given is not None:
        check(
            "the agreement with your runs is over",
            "validate --truths=RATIOS.csv,METRICS.csv",
            given,
            set(given.members) == members,
        )
    if found is not None:  # its rows may leave members out
        known = set(found.digests) - {"seed"}
        fits = not known or known == members
        check("the search is over", "search", found, fits)
    if chosen is not None:
        fits = set(chosen.members) == members
        check(
            "what came out of chosen ratios is of",
            "validate --ratios=FILE.csv",
            chosen,
            fits,
        )
    return lines
