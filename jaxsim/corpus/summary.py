"""Counts of what `prepare` read, left out and kept: for its tables and the report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.corpus.choose import KEPT, SAME, Entries
from jaxsim.corpus.coverage import Coverage
from jaxsim.corpus.documents import Tally
from jaxsim.corpus.encoded import Taken
from jaxsim.corpus.merge import Overlap
from jaxsim.corpus.scan import ALL_SPLITS
from jaxsim.corpus.split import BASE, BASE_TEXT, PARTITIONS, TRAIN, Place
from jaxsim.corpus.store import Corpus, Domain
from jaxsim.corpus.tasks import CAUSES
from jaxsim.log import counted, detail, say, show_table

FILTERED = "not in `where`"
_NAMED = 5  # files that are named


def summarize(
    places: Sequence[Place],
    tallies: dict[str, Tally],
    entries: Entries,
    taken: Mapping[str, Taken],
    overlap: Overlap,
    coverage: Coverage,
    unread: dict[str, list[list[str]]],
) -> dict[str, Any]:
    """The counts, as corpus.json has them; `taken` is by split."""
    counts_PSC = entries.counts()
    train, settled = taken[TRAIN], taken[TRAIN].settled
    of_base = taken[BASE].settled
    used = [(p, place) for p, place in enumerate(places) if place.section != BASE_TEXT]

    def by_place(flags: np.ndarray) -> list[int]:
        return np.bincount(train.place[flags], minlength=len(places)).tolist()

    near, words = by_place(settled.near), by_place(settled.repeated)
    kept, looked_at = by_place(settled.kept), by_place(settled.considered)
    same = counts_PSC[:, :, SAME].sum(1)
    found_PS, at_train = counts_PSC[:, :, KEPT], ALL_SPLITS.index(TRAIN)
    return {
        "records": {name: tally.records for name, tally in tallies.items()},
        "quarantine": {
            name: {"bad": tally.bad, "repaired": tally.repaired}
            for name, tally in sorted(tallies.items())
            if tally.repaired or tally.bad
        },
        "dropped": {
            name: tally.dropped + Counter({FILTERED: tally.filtered})
            for name, tally in tallies.items()
            if tally.dropped or tally.filtered
        },
        "unread": unread,
        "duplicates": _positive(
            {x.name: same[p] + words[p] for p, x in used}
            | {BASE: int(of_base.repeated.sum())}
        ),
        "near_duplicates": _positive(
            {x.name: near[p] for p, x in used} | {BASE: int(of_base.near.sum())}
        ),
        "overlap": overlap.counts,
        "unknown": coverage.lossy(),
        "sources": {place.name: place.source for _, place in used},
        "documents": {
            place.name: {
                "read": int(counts_PSC[p].sum()),
                "overlapping": overlap.documents[place.name],
                "unneeded": int(found_PS[p, at_train]) - looked_at[p],
            }
            | (
                {"base": int(found_PS[p, ALL_SPLITS.index(BASE)]), "train": kept[p]}
                if place.section == PARTITIONS
                else {}
            )
            for p, place in used
        },
    }


def _positive(counts: dict[str, int]) -> dict[str, int]:
    return {name: int(count) for name, count in counts.items() if count}


def show_summary(corpus: Corpus) -> None:
    """Prints what was read and what became of it, from corpus.json."""
    tokenizer, base = corpus.tokenizer, "no base text"
    if corpus.base:
        documents = counted(corpus.base.documents, "document")
        base = f"base text of {corpus.base.tokens:,} tokens ({documents})"
    detail(
        f"corpus: {counted(len(corpus.units), 'unit')} of {corpus.budget_tokens:,} "
        f"tokens, {counted(len(corpus.domains), 'domain')}, {base}, "
        f"vocabulary of {tokenizer.vocab_size:,}"
    )
    begin, end = tokenizer.begin_of_text_token, tokenizer.end_of_text_token
    detail(
        f"begin-of-text: {begin!r}, id {tokenizer.begin_of_text}; "
        f"end-of-text: {end!r}, id {tokenizer.end_of_text}"
    )
    for key, name, other in tokenizer.odd_borders():
        does, did = ("end", "ended") if key == "end_of_text" else ("begin", "began")
        say(
            f"{name!r} may only {does} a turn of a chat: if the model's own training "
            f"texts {did} with {other!r}, set config.corpus.tokenizer.{key}={other!r}, "
            "and run `jaxsim prepare --refreeze`"
        )
    columns, rows, warnings = document_rows(corpus)
    show_table("documents", columns, rows)
    for line in warnings:
        say(line)
    summary = corpus.record.summary
    for source, files in summary["unread"].items():
        named = ", ".join(f"{name} ({why})" for name, why in files[:_NAMED])
        more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
        say(f"source {source}: {counted(len(files), 'file')} not read: {named}{more}")
    if causes := left_out(summary) + of_tasks(corpus.domains):
        show_table(
            "left out or repaired",
            ("from", "because", "documents"),
            [(place, cause, f"{count:,}") for place, cause, count in causes],
        )
    for place, counts in summary["unknown"].items():
        say(
            f"not kept by the tokenizer: {place}: {counts['unknown']} of "
            f"{counts['tokens']} tokens are unknown; of {counts['bytes']} bytes "
            f"{counts['lost']} are lost, and {counts['changed']} change in case, "
            "accents or Unicode form: none of that is predicted"
        )


def document_rows(corpus: Corpus) -> tuple[tuple[str, ...], list[list[str]], list[str]]:
    """Columns and rows of the table by partition and domain, and warnings about them.

    Bad records have no partition: a source that is cut has a row of its own.
    """
    columns = (
        "partition or domain", "read", "bad", "left out", "duplicate", "near duplicate",
        "overlapping", "held out", "not needed", "kept", "tokens", "epochs",
    )  # fmt: skip
    summary, rows, warnings = corpus.record.summary, list[list[str]](), list[str]()
    seen: set[str] = set()
    for name, source in summary["sources"].items():
        bad = summary["quarantine"].get(source, {}).get("bad", {})
        dropped = summary["dropped"].get(source, {})
        of_source = [summary["records"][source]] + [
            sum(causes.values()) for causes in (bad, dropped)
        ]
        if name != source and source not in seen:
            rows.append([f"source {source}", *map(_number, of_source), *[""] * 8])
        placeless = sum(n for cause, n in dropped.items() if cause != FILTERED)
        if source not in seen and placeless > of_source[0] / 5:
            why = ", ".join(f"{n:,} {cause}" for cause, n in dropped.items())
            share = f"{placeless / of_source[0]:.0%} of {of_source[0]:,} records"
            warnings.append(f"source {source}: {share} are in no partition: {why}")
        seen.add(source)
        domain = corpus.domains[name]
        units = [unit for unit in corpus.units.values() if unit.partition == name]
        counts = summary["documents"][name]
        evaluated = sum(domain.documents.values())
        losses = {
            "duplicate": summary["duplicates"].get(name, 0),
            "near duplicate": summary["near_duplicates"].get(name, 0),
            "overlapping": counts["overlapping"],
        }
        held = counts["base"] + evaluated if units else 0
        kept = counts["train"] if units else evaluated
        rest = counts["read"] - sum(losses.values()) - held - kept
        tokens = [unit.tokens for unit in units] or list(domain.tokens.values())
        epochs = f"{corpus.budget_rows / units[0].rows:.2f}" if units else ""
        read = of_source if name == source else [counts["read"], 0, 0]
        rows.append(
            [
                f"{name}" if units else f"{name} (domain)",
                *map(_number, [*read, *losses.values(), held, max(0, rest), kept]),
                f"{sum(tokens):,}",
                epochs,
            ]
        )
        lost, whole = sum(losses.values()), counts["read"] - counts["unneeded"]
        if name == source:
            losses["bad"] = of_source[1]
            lost, whole = lost + of_source[1], whole + of_source[1]
        if lost > whole / 5:
            why = ", ".join(f"{n:,} {cause}" for cause, n in losses.items() if n)
            kind = "partition" if units else "domain"
            warnings.append(
                f"{kind} {name} loses {lost / whole:.0%} of {whole:,} documents: {why}"
            )
    return columns, rows, warnings


def _number(value: int) -> str:
    return f"{value:,}" if value else "-"


def of_tasks(domains: Mapping[str, Domain]) -> list[tuple[str, str, int]]:
    """What happened to records of prompt and completion, like `left_out`."""
    return [
        (f"domain {name}, {split}", CAUSES[key], count)
        for name, domain in domains.items()
        for split, counts in domain.tasks.items()
        for key, count in counts.items()
        if count
    ]


def left_out(summary: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Where documents are from that were left out or repaired, why, and how many."""
    rows = [
        (f"source {source}, {kind}", cause, count)
        for source, kinds in summary["quarantine"].items()
        for kind, causes in kinds.items()
        for cause, count in causes.items()
    ]
    rows += [
        (f"source {source}", cause, count)
        for source, causes in summary["dropped"].items()
        for cause, count in causes.items()
    ]
    rows += [
        (name, cause, count)
        for key, cause in (
            ("duplicates", "duplicate"),
            ("near_duplicates", "near duplicate of other training text"),
        )
        for name, count in summary[key].items()
    ]
    return rows + [
        (f"{name}, {kind} documents", f"overlap with domain {domain}", count)
        for name, domains in summary["overlap"].items()
        for domain, counts in domains.items()
        for kind, count in counts.items()
        if count
    ]
