"""Progress of long steps: a bar on a terminal, plain lines anywhere else."""

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

import rich.console
import rich.progress

T = TypeVar("T")


def track(items: Sequence[T], description: str) -> Iterator[T]:
    """`items`, one by one, with progress on stderr."""
    if sys.stderr.isatty():
        yield from rich.progress.track(
            items,
            description=description,
            console=rich.console.Console(stderr=True),
            transient=True,
        )
        return
    print(f"prepare: {description} ({len(items)})", file=sys.stderr, flush=True)
    yield from items
