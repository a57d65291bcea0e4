"""Two sides of a comparison, each in a process of its own, measured in turns.

A figure from another day or another machine says little on a shared CPU, so
both sides run here, on the same cores: a block of work of one, a block of the
other, in changing order, and what counts is the ratio of each pair. Each side
waits on a pipe while the other one runs; two thread pools in one process would
spin against each other.
"""

import contextlib
import importlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any

REST_SECONDS = 0.3  # until the other side's threads stop spinning

Rates = dict[str, list[float]]  # units of work a second of every block, by side


class Remote:
    """A side that lives in a process of its own."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def ask(self, method: str, *args: Any) -> Any:
        """Calls a method of the side there."""
        self._pipe.send((method, args))
        return self._pipe.recv()


@contextlib.contextmanager
def remote(module: str, name: str, *args: Any) -> Iterator[Remote]:
    """Starts the class `name` of `module` with `args`; on leaving, it ends.

    By name, so that only its own process imports what it needs.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(module, name, args, there))
    process.start()
    there.close()  # so that the death of the process is seen as EOFError here
    try:
        yield Remote(here)
    finally:
        here.close()
        process.join()


def _serve(module: str, name: str, args: tuple[Any, ...], pipe: Connection) -> None:
    """Answers until the pipe is closed."""
    side = getattr(importlib.import_module(module), name)(*args)
    with contextlib.suppress(EOFError):
        while True:
            method, asked = pipe.recv()
            pipe.send(getattr(side, method)(*asked))


def alternate(
    sides: Mapping[str, Callable[[], float]], work: float, pairs: int
) -> Rates:
    """Work a second of blocks; the sides take turns.

    Args:
      sides: each does one block of `work` units and returns its seconds.
      work: units of a block.
      pairs: of blocks that count; one more, first, only warms up.
    """
    rates: Rates = {name: [] for name in sides}
    for pair in range(-1, pairs):
        for name in sorted(sides, reverse=pair % 2 == 1):
            time.sleep(REST_SECONDS)
            seconds = sides[name]()
            if pair >= 0:
                rates[name].append(work / seconds)
    return rates


def ratios(rates: Rates, over: str, under: str) -> dict[str, float]:
    """Median, least and largest ratio of the pairs of two sides."""
    all_ratios = [a / b for a, b in zip(rates[over], rates[under], strict=True)]
    return {
        "median": statistics.median(all_ratios),
        "min": min(all_ratios),
        "max": max(all_ratios),
    }


def medians(rates: Rates) -> dict[str, float]:
    """The median rate of every side."""
    return {name: statistics.median(values) for name, values in rates.items()}
