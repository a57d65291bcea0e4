"""report.json: everything in the report, for programs."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxsim import __version__
from jaxsim.report.collect import Facts
from jaxsim.report.references import References
from jaxsim.report.verdict import verdict

FORMAT = 1


def summary(
    name: str,
    facts: Facts,
    answer: str,
    closing: Sequence[str],
    records: Mapping[str, Sequence[dict[str, Any]]],
) -> dict[str, Any]:
    """Plain data that strict JSON can hold; what is undefined is null.

    Args:
      name: of the config.
      facts: what was collected.
      answer, closing: the sentences on the page.
      records: the tables, by name.
    """
    seed = facts.seed
    return plain(
        {
            "format": FORMAT,
            "jaxsim": __version__,
            "name": name,
            "answer": answer,
            "closing": list(closing),
            "not_done": facts.missing,
            "overrides": facts.overrides,
            "out_of_date": facts.stale,
            "digests": {
                "seed": seed.params_digest if seed else None,
                "tokenizer": seed.tokenizer_digest if seed else None,
                "evaluation": (
                    facts.references.evaluation if facts.references else None
                ),
                "entries": {
                    n: m.params_digest for n, m in facts.entries.items()
                },
                "files": facts.sources,
            },
            "provenance": seed.provenance if seed else None,
            "model": seed.model if seed else None,
            "recipe": facts.pool.identity["recipe"] if facts.pool else None,
            "corpus": facts.corpus.record["summary"] if facts.corpus else None,
            "members": records.get("members", []),
            "domains": records.get("domains", []),
            "bits_per_byte": _bits(facts.references),
            "search": (
                dataclasses.asdict(facts.found) if facts.found else None
            ),
            "verdict": dataclasses.asdict(
                verdict(facts.gauge, facts.validation)
            ),
            "gauge": dataclasses.asdict(facts.gauge) if facts.gauge else None,
            "validation": (
                dataclasses.asdict(facts.validation)
                if facts.validation
                else None
            ),
            "given": (dataclasses.asdict(facts.given) if facts.given else None),
            "chosen": (
                dataclasses.asdict(facts.chosen) if facts.chosen else None
            ),
            "cost": records.get("cost", []),
        }
    )


def plain(value: Any) -> Any:
    """`value` as strict JSON holds it."""
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item"):  # a scalar of NumPy
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _bits(references: References | None) -> dict[str, Any]:
    """By half, reference row and domain."""
    if references is None:
        return {}
    return {
        half: {
            name: dict(zip(references.domains, bits_D.tolist(), strict=True))
            for name, bits_D in zip(references.names, bits_MD, strict=True)
        }
        for half, bits_MD in references.bits.items()
    }
