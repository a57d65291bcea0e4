"""What a command says: sentences and tables, on standard output."""

from collections.abc import Iterable, Sequence

import rich.box
import rich.console
import rich.markup
import rich.table


def say(text: str) -> None:
    """Prints one line, as it is."""
    print(text, flush=True)


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    note: str = "",
) -> None:
    """Prints a table; the first column is left-aligned, numbers are right."""
    table = rich.table.Table(
        title=rich.markup.escape(title),
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
    )
    for i, column in enumerate(columns):
        table.add_column(
            rich.markup.escape(column),
            justify="right" if i else "left",
            overflow="fold",
        )
    for row in rows:
        table.add_row(*[rich.markup.escape(cell) for cell in row])
    console = rich.console.Console(highlight=False)
    if not console.is_terminal:
        # A log file has no width; 80 columns would fold the numbers.
        console = rich.console.Console(highlight=False, width=140)
    console.print(table)
    if note:
        say(note)
