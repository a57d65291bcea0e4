"""Trains what a pool lacks, by one process or by many that follow process 0."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxsim import distributed
from jaxsim.checkpoints import StatePath, save_params
from jaxsim.corpus import Corpus
from jaxsim.errors import UserError
from jaxsim.log import say
from jaxsim.pool.bucket import Bucket
from jaxsim.pool.builder import PoolBuilder, origin
from jaxsim.pool.digests import differences
from jaxsim.pool.group import recorded
from jaxsim.pool.manifest import read_manifest
from jaxsim.pool.pool import Pool
from jaxsim.signals import stop_requested
from jaxsim.train import Run, Trainer
from jaxsim.train.trainer import Trained


def train_missing(
    runs: Sequence[Run],
    pool: Pool,
    corpus: Corpus,
    trainer: Trainer,
    bucket: Bucket | None = None,
) -> None:
    """Trains and publishes every run that the pool lacks.

    As many runs of one length are trained together as the trainer takes at
    once; groups that were begun come first. A run that another launcher of
    this workdir trains is left to it while others are missing; then this one
    waits for it, and trains it if that launcher dies. What launchers of other
    workdirs have published in the bucket is fetched.

    Raises:
      UserError: the base model comes from another corpus, or an entry of a run's
        name comes from other data or another run.
      Preempted: SIGTERM came; what was done is on disk.
      JaxsimError: a run did not come to finite values. The others that were
        trained with it are published.
    """
    if not distributed.is_lead():
        follow(runs, corpus, trainer, lambda: pool.base()[1])
        return
    with distributed.leading():
        _train_missing(runs, pool, corpus, trainer, bucket)


def _train_missing(
    runs: Sequence[Run],
    pool: Pool,
    corpus: Corpus,
    trainer: Trainer,
    bucket: Bucket | None,
) -> None:
    _check_corpus(pool, corpus)
    if bucket is not None:
        bucket.agree(pool)
        bucket.send([pool.base_entry, *map(pool.entry, pool.names())])
    builder = PoolBuilder(
        corpus,
        trainer,
        functools.cache(lambda: pool.base()[1]),
        pool.workdir,
        recipe=pool.identity["recipe"],
        base_digest=pool.identity["base_digest"],
        entry_of=pool.entry,
        bucket=bucket,
    )
    missing = []
    for run in runs:
        if builder.is_done(run):
            _check_entry(run, pool, corpus)
        else:
            missing.append(run)
    begun = recorded(builder.training)
    if missing:
        builder.check_room(len(missing))
        say(f"pool: {len(missing)} of {len(runs)} runs to train")
        if not distributed.alone():
            for _, group in begun:
                say(f"{group}: begun together; one by one they start again")
    else:
        say(f"pool: all {len(runs)} runs are there")
    if missing or begun:
        builder.train_all(missing)


def follow(
    runs: Sequence[Run],
    corpus: Corpus,
    trainer: Trainer,
    start: Callable[[], Any],
) -> None:
    """Trains and saves what process 0 says, with it; that one publishes.

    Args:
      runs: all that there may be, as in process 0.
      corpus: where their rows come from.
      trainer: has the same settings as in process 0.
      start: loads the parameters that all runs start from.

    Raises:
      Ended: process 0 failed, or was stopped.
      Preempted: SIGTERM came to one of the processes.
    """
    named = {run.name: run for run in runs}
    params, outcome = None, None
    with stop_requested() as stop:
        for word in distributed.instructions():
            if "save" in word:
                # Process 0 saves what is finite, and that is the same here.
                assert isinstance(outcome, Trained)
                save_params(Path(word["save"]), outcome.params)
                outcome = None
                continue
            params = start() if params is None else params
            (outcome,) = trainer.train(
                [named[word["run"]]],
                corpus,
                params,
                StatePath(word["states"]),
                [None],  # process 0 writes metrics
                distributed.StopTogether(stop).after_step,
            )


def _check_corpus(pool: Pool, corpus: Corpus) -> None:
    """Refuses rows of another tokenizer, or another base model's text.

    `prepare --refreeze` makes them, and leaves the base model where it is.
    """
    base = read_manifest(pool.base_entry)
    changed = []
    if base.tokenizer_digest != corpus.tokenizer_digest:
        changed.append("tokenizer")
    # An imported base model was trained on no unit.
    if base.data_digests.get("base", corpus.base.digest) != corpus.base.digest:
        changed.append("base text")
    if changed:
        raise UserError(
            f"{pool.workdir}: the base model was trained with another "
            f"{' and '.join(changed)} than its corpus has now; use another "
            "--workdir, or delete its folders base model and pool to start again"
        )


def _check_entry(run: Run, pool: Pool, corpus: Corpus) -> None:
    """Refuses an entry that has the name of a run, and is not of it."""
    manifest = pool.manifest(run.name)
    expected = origin(run, corpus)
    found = {key: getattr(manifest, key) for key in expected}
    if lines := differences(expected, found):
        raise UserError(
            f"{run.kind} {run.name} is in the pool, but from another run or "
            f"other text: {'; '.join(lines)}. Delete {pool.entry(run.name)} "
            "to train it again"
        )
