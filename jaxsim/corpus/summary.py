"""What `prepare` prints: partitions, halves, epochs, and what was dropped."""

import rich.console
import rich.markup
import rich.table

from jaxsim.corpus.split import HALVES
from jaxsim.corpus.store import Corpus


def print_summary(corpus: Corpus) -> None:
    """Prints tables of the corpus, all of them from what is on disk."""
    console = rich.console.Console()
    console.print(
        f"corpus: {len(corpus.units)} units of {corpus.budget_tokens:,} "
        f"tokens, {len(corpus.domains)} domains, seed of "
        f"{corpus.seed.tokens:,} tokens ({corpus.seed.documents:,} documents), "
        "vocabulary of "
        f"{corpus.tokenizer.vocab_size:,}"
    )
    console.print(_units(corpus))
    console.print(_domains(corpus))
    for line in _losses(corpus):
        console.print(rich.markup.escape(line))


def _units(corpus: Corpus) -> rich.table.Table:
    table = rich.table.Table(title="base units")
    table.add_column("unit", overflow="fold")
    table.add_column("group", overflow="fold")
    for column in ("documents", "rows", "tokens", "epochs"):
        table.add_column(column, justify="right")
    for unit in corpus.units.values():
        table.add_row(
            rich.markup.escape(unit.name),
            rich.markup.escape(unit.group),
            f"{unit.documents:,}",
            f"{unit.rows:,}",
            f"{unit.tokens:,}",
            f"{corpus.budget_rows / unit.rows:.2f}",
        )
    return table


def _domains(corpus: Corpus) -> rich.table.Table:
    table = rich.table.Table(title="domains (select / report)")
    table.add_column("domain", overflow="fold")
    table.add_column("in pool")
    for column in ("documents", "tokens", "windows"):
        table.add_column(column, justify="right")
    for domain in corpus.domains.values():
        table.add_row(
            rich.markup.escape(domain.name),
            "yes" if domain.in_pool else "no",
            *(
                " / ".join(f"{counts[half]:,}" for half in HALVES)
                for counts in (domain.documents, domain.tokens, domain.windows)
            ),
        )
    return table


def _losses(corpus: Corpus) -> list[str]:
    summary = corpus.record["summary"]
    lines = []
    for source, kinds in summary["quarantine"].items():
        for kind, causes in kinds.items():
            for cause, count in causes.items():
                lines.append(f"{kind}: source {source}: {count} x {cause}")
    for source, causes in summary["dropped"].items():
        for cause, count in causes.items():
            lines.append(f"dropped: source {source}: {count} x {cause}")
    for name, count in summary["duplicates"].items():
        lines.append(
            f"dropped: {name}: {count} documents that repeat other training "
            "text"
        )
    for name, domains in summary["overlap"].items():
        for domain, counts in domains.items():
            lines.append(
                f"dropped: {name} repeats domain {domain}: "
                f"{counts['training']} training documents, "
                f"{counts['evaluation']} newer evaluation documents"
            )
    return lines
