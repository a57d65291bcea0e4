"""Trains what is missing, and publishes one entry for each run."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsim.console import say
from jaxsim.corpus import Corpus
from jaxsim.errors import JaxsimError
from jaxsim.metrics import provenance
from jaxsim.model import LanguageModel
from jaxsim.pool.digests import all_finite, leaves_by_path, params_digest
from jaxsim.pool.manifest import Manifest
from jaxsim.pool.pool import Pool
from jaxsim.pool.publish import (
    clear_leftovers,
    holding,
    is_published,
    publish,
    save_attempt,
)
from jaxsim.train import Run, Trainer
from jaxsim.train.trainer import Trained


def train_missing(
    runs: Sequence[Run],
    pool: Pool,
    corpus: Corpus,
    trainer: Trainer,
) -> None:
    """Trains and publishes every run that the pool lacks, in order.

    A run that another process on this machine is working on is left to it.
    """
    missing = [run for run in runs if not is_published(pool.entry(run.name))]
    if not missing:
        say(f"pool: all {len(runs)} runs are there")
        return
    _, seed_params = pool.seed()
    _check_room(pool, len(missing))
    say(f"pool: {len(missing)} of {len(runs)} runs to train")
    for run in missing:
        entry = pool.entry(run.name)
        with holding(pool.workdir / "training" / f"{run.name}.lock") as mine:
            if not mine:
                say(f"{run.kind} {run.name}: another process trains it")
                continue
            train_and_publish(
                run,
                entry,
                corpus,
                trainer,
                seed_params,
                pool.workdir,
                recipe=pool.identity["recipe"],
                seed_digest=pool.identity["seed_digest"],
            )


def train_and_publish(
    run: Run,
    entry: Path,
    corpus: Corpus,
    trainer: Trainer,
    start: Any,
    workdir: Path,
    *,
    recipe: dict[str, Any],
    seed_digest: str,
) -> None:
    """Trains one run from `start`, and admits the result.

    Killed at any moment, it leaves an attempt that nothing names, and the
    state that the next call resumes from.

    Raises:
      JaxsimError: the result is not finite; nothing is admitted.
    """
    if is_published(entry):
        return
    clear_leftovers(entry)
    scratch = workdir / "training" / run.name
    trained = trainer.train(
        run, corpus, start, scratch, workdir / "metrics" / f"{run.name}.jsonl"
    )
    if not all_finite(trained.params):
        raise JaxsimError(
            f"{run.kind} {run.name}: its parameters are not finite; it is "
            "not admitted"
        )
    attempt, files = save_attempt(entry, trained.params)
    publish(
        entry,
        _manifest(
            run, trained, attempt, files, corpus, trainer.model, recipe,
            seed_digest,
        ),  # fmt: skip
    )
    shutil.rmtree(scratch, ignore_errors=True)


def _manifest(
    run: Run,
    trained: Trained,
    attempt: str,
    files: dict[str, Any],
    corpus: Corpus,
    model: LanguageModel,
    recipe: dict[str, Any],
    seed_digest: str,
) -> Manifest:
    rows = trained.schedule
    return Manifest(
        name=run.name,
        kind=run.kind,
        attempt=attempt,
        params_digest=params_digest(trained.params),
        files=files,
        leaves={
            path: (list(leaf.shape), str(leaf.dtype))
            for path, leaf in leaves_by_path(trained.params).items()
        },
        finite=True,
        seed_digest=seed_digest,
        tokenizer_digest=corpus.tokenizer_digest,
        data_digests={name: corpus.unit(name).digest for name in run.ratio},
        recipe=recipe,
        model=dataclasses.asdict(model.config),
        ratio=dict(run.ratio),
        steps=run.steps,
        order=run.order,
        tokens=trained.tokens,
        unique_tokens=sum(rows.unique_rows) * corpus.length,
        epochs=dict(zip(rows.units, rows.epochs, strict=True)),
        final_loss=trained.final_loss,
        wall_seconds=trained.wall_seconds,
        device_seconds=trained.device_seconds,
        flops=trained.flops,
        provenance=provenance(),
    )


def _check_room(pool: Pool, runs: int) -> None:
    """Refuses to train what could not be saved."""
    # Parameters, and a resumable state of parameters, two moments and tail.
    needed = 4 * pool.model.parameter_count() * (runs + 2 * 4)
    free = shutil.disk_usage(pool.workdir).free
    if free < needed:
        raise JaxsimError(
            f"{pool.workdir}: {runs} runs need about {needed:,} bytes of disk "
            f"and {free:,} are free; nothing was trained"
        )
