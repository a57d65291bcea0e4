"""Trains what is missing, and publishes one entry for each run."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsim.console import say
from jaxsim.corpus import Corpus
from jaxsim.errors import JaxsimError, Preempted, UserError
from jaxsim.metrics import provenance
from jaxsim.model import LanguageModel
from jaxsim.pool.digests import (
    differences,
    first_non_finite,
    leaves_by_path,
    object_digest,
    params_digest,
)
from jaxsim.pool.manifest import Manifest, read_manifest
from jaxsim.pool.pool import Pool
from jaxsim.pool.publish import (
    AlreadyPublished,
    Busy,
    clear_leftovers,
    holding,
    is_published,
    publish,
    save_attempt,
)
from jaxsim.train import Run, Trainer, stop_requested
from jaxsim.train.trainer import Trained


def train_missing(
    runs: Sequence[Run],
    pool: Pool,
    corpus: Corpus,
    trainer: Trainer,
) -> None:
    """Trains and publishes every run that the pool lacks, in order.

    A run that another process on this machine is working on is left to it.

    Raises:
      UserError: the corpus is not the one that the seed comes from, or an
        entry of a run's name comes from other data or another run.
      Preempted: SIGTERM came; what was done is on disk.
    """
    _check_corpus(pool, corpus)
    missing = []
    for run in runs:
        if is_published(pool.entry(run.name)):
            _check_entry(run, pool, corpus)
        else:
            missing.append(run)
    if not missing:
        say(f"pool: all {len(runs)} runs are there")
        return
    _, seed_params = pool.seed()
    _check_room(pool.workdir, pool.model, len(missing))
    say(f"pool: {len(missing)} of {len(runs)} runs to train")
    for run in missing:
        try:
            train_and_publish(
                run,
                pool.entry(run.name),
                corpus,
                trainer,
                seed_params,
                pool.workdir,
                recipe=pool.identity["recipe"],
                seed_digest=pool.identity["seed_digest"],
            )
        except Busy as busy:
            say(str(busy))


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
      Busy: another process on this machine trains this run.
      Preempted: SIGTERM came; what was done is on disk.
      JaxsimError: the result is not finite, or there is no room for it;
        nothing is admitted.
    """
    training = workdir / "training"
    # No run can have this name: it begins with a dot.
    lock = training / ".locks" / run.name
    what = f"{run.kind} {run.name}"
    with holding(lock, what), stop_requested() as stop:
        if is_published(entry):
            return
        clear_leftovers(entry)
        _check_room(workdir, trainer.model, 1)
        trained = trainer.train(
            run,
            corpus,
            start,
            _scratch(training, run, corpus, trainer, recipe, seed_digest),
            workdir / "metrics" / f"{run.name}.jsonl",
            stop,
        )
        if leaf := first_non_finite(trained.params):
            raise JaxsimError(
                f"{what}: after the last step leaf {leaf} holds a value that "
                "is not finite; nothing is admitted"
            )
        attempt, files = save_attempt(entry, trained.params)
        manifest = _manifest(
            run, trained, attempt, files, corpus, trainer.model, recipe,
            seed_digest,
        )  # fmt: skip
        try:
            publish(entry, manifest)
        except AlreadyPublished as lost:
            say(str(lost))
        shutil.rmtree(training / run.name, ignore_errors=True)
    if stop():
        raise Preempted(
            f"{what}: it is published, and no other run was begun; repeat the "
            "same command to continue"
        )


def _scratch(
    training: Path,
    run: Run,
    corpus: Corpus,
    trainer: Trainer,
    recipe: dict[str, Any],
    seed_digest: str,
) -> Path:
    """The folder of this very run's states; those of another are deleted.

    A config or a text may have changed since a run of this name was stopped.
    """
    identity = {
        **_origin(run, corpus),
        "tokenizer_digest": corpus.tokenizer_digest,
        "seed_data": corpus.seed.digest,
        "model": dataclasses.asdict(trainer.model.config),
        # The seed's own recipe leaves out betas, decay, clip and precision.
        "trainer": dataclasses.asdict(trainer.recipe),
        "recipe": recipe,
        "seed_digest": seed_digest,
    }
    folder = training / run.name / object_digest(identity)[:16]
    for other in folder.parent.glob("*"):
        if other != folder:
            say(f"{run.kind} {run.name}: it has changed, and starts anew")
            shutil.rmtree(other)
    return folder


def _origin(run: Run, corpus: Corpus) -> dict[str, Any]:
    """What makes a run this one, as its manifest says it."""
    return {
        "kind": run.kind,
        "ratio": dict(run.ratio),
        "steps": run.steps,
        "order": run.order,
        "data_digests": {name: corpus.unit(name).digest for name in run.ratio},
    }


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
        recipe=recipe,
        model=dataclasses.asdict(model.config),
        tokens=trained.tokens,
        unique_tokens=sum(rows.unique_rows) * corpus.length,
        epochs=dict(zip(rows.units, rows.epochs, strict=True)),
        final_loss=trained.final_loss,
        wall_seconds=trained.wall_seconds,
        device_seconds=trained.device_seconds,
        flops=trained.flops,
        provenance=provenance(),
        **_origin(run, corpus),
    )


def _check_corpus(pool: Pool, corpus: Corpus) -> None:
    """Refuses rows of another tokenizer, or another seed's text.

    `prepare --refreeze` makes them, and leaves the seed where it is.
    """
    seed = read_manifest(pool.seed_entry)
    changed = []
    if seed.tokenizer_digest != corpus.tokenizer_digest:
        changed.append("tokenizer")
    # An imported seed was trained on no unit.
    if seed.data_digests.get("seed", corpus.seed.digest) != corpus.seed.digest:
        changed.append("seed text")
    if changed:
        raise UserError(
            f"{pool.workdir}: the seed was trained with another "
            f"{' and '.join(changed)} than its corpus has now; use another "
            "--workdir, or delete its folders seed and pool to start anew"
        )


def _check_entry(run: Run, pool: Pool, corpus: Corpus) -> None:
    """Refuses an entry that has the name of a run, and is not of it."""
    manifest = pool.manifest(run.name)
    expected = _origin(run, corpus)
    found = {key: getattr(manifest, key) for key in expected}
    if lines := differences(expected, found):
        raise UserError(
            f"{run.kind} {run.name} is in the pool, but from another run or "
            f"other text: {'; '.join(lines)}. Delete {pool.entry(run.name)} "
            "to train it again"
        )


def _check_room(workdir: Path, model: LanguageModel, runs: int) -> None:
    """Refuses to train what could not be saved."""
    # Parameters, and a resumable state of parameters, two moments and tail.
    needed = 4 * model.parameter_count() * (runs + 2 * 4)
    free = shutil.disk_usage(workdir).free
    if free < needed:
        raise JaxsimError(
            f"{workdir}: {runs} runs need about {needed:,} bytes of disk and "
            f"{free:,} are free; nothing was trained"
        )
