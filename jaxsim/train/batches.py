"""Batches on the devices, each read while the one before is used."""

import concurrent.futures
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from jaxsim.corpus import Corpus
from jaxsim.corpus.order import Schedule, batch
from jaxsim.train.program import TrainProgram
from jaxsim.train.runs import batch_of

_AHEAD = 2


def batches(
    program: TrainProgram,
    corpus: Corpus,
    schedules: Sequence[Schedule],
    rows: int,
    first: int,
    steps: int,
    waited: Callable[[float], None],
) -> Iterator[tuple[int, jax.Array, list[list[str]]]]:
    """Batches `first`..`steps` of runs side by side.

    Runs that are too few for the program are padded with the last one. Of a
    run over several processes each reads the rows that its devices hold.
    `waited` is told the seconds in which a batch was awaited.

    Yields:
      The number of the step, from 1, its tokens, and for each run the unit of
      each row.
    """

    here = program.rows()

    def read(step: int) -> tuple[jax.Array, list[list[str]]]:
        tokens, units = [], []
        for each in schedules:
            whole = batch(each, step, rows)
            part = slice(whole.start + here.start, whole.start + here.stop)
            tokens.append(batch_of(corpus, each, part)[0])
            units.append([each.units[unit] for unit in each.unit_R[whole]])
        tokens += tokens[-1:] * (program.members - len(tokens))
        return program.place(np.stack(tokens)), units

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ahead = [
            pool.submit(read, step)
            for step in range(first, min(first + _AHEAD, steps))
        ]
        for step in range(first, steps):
            begin = time.monotonic()
            tokens_GBL1, units = ahead.pop(0).result()
            waited(time.monotonic() - begin)
            if step + _AHEAD < steps:
                ahead.append(pool.submit(read, step + _AHEAD))
            yield step + 1, tokens_GBL1, units
