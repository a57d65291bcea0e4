"""What was trained and on what, in words."""

import math
from typing import Any

from jaxsim.pool import Manifest
from jaxsim.report.collect import Facts
from jaxsim.report.wording import count


def seed_words(facts: Facts) -> str:
    """One sentence about the seed."""
    seed = facts.seed
    if seed is None:
        return ""
    m, recipe = seed.model, seed.recipe
    text = (
        f"{_parameters(seed):,} parameters ({count(m['layers'], 'layer')} of "
        f"width {m['dim']}, {count(m['heads'], 'head')}, context "
        f"{m['length']:,}), trained from scratch on {seed.tokens:,} tokens"
    )
    if "warmup" in recipe:
        text += (
            f" ({recipe['steps']:,} steps of {recipe['batch']:,} rows, peak "
            f"rate {recipe['learning_rate']:g}, {recipe['warmup']:,} steps of "
            "warm-up, then cosine)"
        )
    if facts.corpus is not None:
        text += (
            f" of {count(facts.corpus.seed.documents, 'document')} of its own"
        )
    return f"The seed: {text}."


def recipe_words(facts: Facts) -> str:
    """What all runs of the pool share."""
    if facts.pool is None:
        return ""
    r: dict[str, Any] = facts.pool.identity["recipe"]
    tail = (
        f"the result is the mean of the parameters over the last "
        f"{r['tail']:.0%} of the steps"
        if r["tail"]
        else "the result is the parameters after the last step"
    )
    anchor = (
        f", {r['anchor']:.0%} of every run is text of the seed (anchor)"
        if r["anchor"]
        else ""
    )
    constant = f"the constant rate {r['learning_rate']:g}"
    if r.get("decay"):
        constant = (
            f"the rate {r['learning_rate']:g}, which falls to zero over the "
            f"last {r['decay']:.0%} of the steps"
        )
    return (
        "The recipe: every run starts from the seed with a fresh AdamW and "
        f"{constant}; a member sees "
        f"{r['unit_tokens']:,} tokens of its base unit in {r['steps']:,} "
        f"steps of {r['batch']:,} rows; {tail}{anchor}; computed in "
        f"{r['precision']}."
    )


def tokenizer_words(facts: Facts) -> str:
    """The tokenizer, and how documents were split."""
    if facts.corpus is None:
        return ""
    frozen = facts.corpus.record["frozen"]
    kind = {
        "bytes": "bytes",
        "bpe": "a byte-level BPE trained on the seed's text",
        "file": "from a tokenizer.json",
    }[frozen["tokenizer"]["kind"]]
    split = frozen["split"]
    return (
        f"Tokenizer: {kind}, {facts.corpus.tokenizer.vocab_size:,} entries. "
        f"Documents were split by a hash of their {split['key']}: "
        f"{split['seed']:.0%} seed, {split['select']:.0%} select, "
        f"{split['report']:.0%} report, the rest training."
    )


def dropped_lines(facts: Facts) -> list[str]:
    """Documents that did not get through, and why."""
    if facts.corpus is None:
        return []
    found = facts.corpus.record["summary"]
    lines = []
    for source, kinds in found["quarantine"].items():
        for kind, causes in kinds.items():
            for cause, times in causes.items():
                lines.append(
                    f"{kind} records of source {source}: {times:,} x {cause}"
                )
    for source, causes in found["dropped"].items():
        for cause, times in causes.items():
            lines.append(f"dropped from source {source}: {times:,} x {cause}")
    for name, times in found["duplicates"].items():
        lines.append(
            f"dropped from {name}: {count(times, 'document')} repeating "
            "earlier training text"
        )
    for name, overlaps in found["overlap"].items():
        for domain, counts in overlaps.items():
            lines.append(
                f"overlap of {name} with domain {domain}: dropped "
                f"{count(counts['training'], 'training document')} and "
                f"{count(counts['evaluation'], 'newer evaluation document')}"
            )
    return lines


def _parameters(manifest: Manifest) -> int:
    return sum(math.prod(shape) for shape, _ in manifest.leaves.values())
