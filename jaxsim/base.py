"""The base model: imported from a Hugging Face folder, or trained here.

`config.base.path` names the folder. Its architecture and its tokenizer become those of
the config, so that every other command sees a config like any other.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from jaxsim.config import BaseConfig, Config, ModelConfig, TokenizerConfig
from jaxsim.corpus import Corpus
from jaxsim.corpus.tokenizer import special_tokens, tokenizer_from_config
from jaxsim.distributed import alone, is_lead, leading, on_lead
from jaxsim.errors import JaxsimError, Preempted, UserError
from jaxsim.log import detail, provenance
from jaxsim.mesh import training_mesh
from jaxsim.model import LanguageModel
from jaxsim.model.huggingface import Checkpoint, open_checkpoint
from jaxsim.pool.bucket import Bucket, open_bucket
from jaxsim.pool.build import PoolBuilder, follow, publish_for_all
from jaxsim.pool.digests import params_digest, sha256_of_file
from jaxsim.pool.lock import holding, wait_for_others
from jaxsim.pool.manifest import Manifest, Source, leaves_of
from jaxsim.pool.publish import (
    check_links,
    clear_draft,
    clear_leftovers,
    is_published,
    save_attempt,
)
from jaxsim.records import free_bytes
from jaxsim.signals import stop_requested
from jaxsim.train import Run, base_trainer
from jaxsim.workdir import SHARED, check, checked_corpus


def resolved(config: Config) -> Config:
    """The config with the model and the tokenizer of the folder `config.base.path`.

    Without one it is returned as it is. Of `config.model` only `length` is the user's,
    of `config.corpus.tokenizer` the names of its tokens.

    Raises:
      UserError: the folder is no model that can be imported, or a key is set that the
        folder decides; names it.
      DamagedError: a file of the folder is incomplete.
    """
    if not config.base.path:
        return config
    folder, corpus = Path(config.base.path), config.corpus
    given = corpus.tokenizer
    model = open_checkpoint(folder, config.model.length).model
    begin, end = special_tokens(folder, given.begin_of_text, given.end_of_text)
    path = str(folder / "tokenizer.json")
    tokenizer = TokenizerConfig(
        kind="file", path=path, begin_of_text=begin, end_of_text=end
    )
    base = BaseConfig(path=config.base.path)
    _check_unset("model", config.model, ModelConfig(), model)
    _check_unset("base", config.base, BaseConfig(), base)
    _check_unset("corpus.tokenizer", given, TokenizerConfig(), tokenizer)
    corpus = dataclasses.replace(corpus, tokenizer=tokenizer)
    return dataclasses.replace(config, model=model, base=base, corpus=corpus)


def _check_unset(group: str, given: Any, default: Any, decided: Any) -> None:
    """Refuses keys that are set to something else than what the folder decides."""
    for each in dataclasses.fields(given):
        found, own, fixed = (getattr(x, each.name) for x in (given, default, decided))
        if found not in (own, fixed):
            raise UserError(
                f"config.{group}.{each.name}={found!r}: the folder config.base.path "
                f"decides it ({fixed!r}); leave it out"
            )


def base(config: Config, workdir: Path) -> None:
    """Imports the base model, or trains it from scratch on the base text."""
    bucket = open_bucket(config.bucket, workdir)
    if bucket:
        bucket.share_corpus()
    corpus = checked_corpus(config, workdir)
    make = _import if config.base.path else _train
    make(config, workdir, corpus, bucket)


def _import(
    config: Config, workdir: Path, corpus: Corpus, bucket: Bucket | None
) -> None:
    entry = workdir / "base"

    def is_there() -> bool:
        clear_draft(entry)
        if not (is_published(entry) or (bucket and bucket.shares(entry))):
            return False
        check(config, workdir)
        return True

    if on_lead(is_there):
        detail("base model: already imported, skipping")
        if bucket:
            bucket.send([entry])
        return
    if not alone():
        raise UserError(
            "config.base.path: one process imports the base model; run `jaxsim base` "
            "without --distributed first, then train it in a group"
        )
    lock = workdir / "state" / ".locks" / "base"
    check_links(lock.parent)

    def attempt() -> None:
        with holding(lock, "base model"):
            if not is_published(entry) and not (bucket and bucket.fetched(entry)):
                clear_leftovers(entry)
                _publish(config, workdir, corpus, bucket)

    wait_for_others(attempt)
    check(config, workdir)  # it may be another's


def _publish(
    config: Config, workdir: Path, corpus: Corpus, bucket: Bucket | None
) -> None:
    """Reads the folder, and publishes what it holds; the caller holds the lock."""
    entry, folder = workdir / "base", Path(config.base.path)
    checkpoint = open_checkpoint(folder, config.model.length)
    if checkpoint.model != config.model:
        raise UserError(
            f"config.base.path={str(folder)!r}: config.model is not that of its "
            "config.json; run the command again, or call `jaxsim.base.resolved` first"
        )
    tokenizer = corpus.tokenizer
    if tokenizer_from_config(config.corpus.tokenizer, ()).digest != tokenizer.digest:
        raise UserError(
            f"config.base.path={str(folder)!r}: the text in {workdir} was prepared "
            "with another tokenizer; run `jaxsim prepare --refreeze`, or use another "
            "--workdir"
        )
    model = LanguageModel(config.model, tokenizer.vocab_size)
    source = _source_of(checkpoint)
    detail(
        f"base model: {source.name} ({source.family}), "
        f"{model.parameter_count():,} parameters in {source.dtype}; documents begin "
        f"with {tokenizer.begin_of_text_token!r} ({tokenizer.begin_of_text}) and end "
        f"with {tokenizer.end_of_text_token!r} ({tokenizer.end_of_text})"
    )
    needed, free = 4 * model.parameter_count(), free_bytes(workdir)
    if free < needed:
        raise JaxsimError(
            f"{workdir}: the base model needs about {needed:,} bytes of disk and "
            f"{free:,} are free; nothing was imported"
        )
    params = checkpoint.load()
    with stop_requested() as stop:  # Orbax writes in threads, which do not stop
        attempt, files = save_attempt(entry, params, checkpoint.keep)
        manifest = Manifest(
            name="base",
            kind="base",
            attempt=attempt,
            params_digest=params_digest(params),
            files=files,
            leaves=leaves_of(params),
            finite=True,
            base_digest="",
            tokenizer_digest=tokenizer.digest,
            data_digests={},
            recipe=dataclasses.asdict(source),
            model=dataclasses.asdict(config.model),
            mixture={},
            steps=0,
            data_seed=0,
            tokens=0,
            unique_tokens=0,
            epochs={},
            final_loss=None,
            wall_seconds=0.0,
            device_seconds=0.0,
            flops=0.0,
            provenance=provenance(),
        )
        publish_for_all(entry, manifest, bucket)
    if stop():
        raise Preempted("base model: imported; repeat the same command to continue")


def _source_of(checkpoint: Checkpoint) -> Source:
    """Where a checkpoint is from, with the digests of the files that were read."""
    files = {}
    for path in (*checkpoint.kept, *checkpoint.weights):
        about = path.stat()
        sha256 = sha256_of_file(path)
        files[path.name] = (sha256, about.st_size, about.st_mtime_ns)
    return Source(
        path=str(checkpoint.folder),
        name=_name_of(checkpoint.folder),
        family=checkpoint.family,
        dtype=" and ".join(checkpoint.dtypes),
        files=files,
    )


def _name_of(folder: Path) -> str:
    """The last part of a path; of a snapshot in the hub's cache, its repository."""
    *_, cached, kind, last = ("", "", *folder.absolute().parts)
    if kind == "snapshots" and cached.startswith("models--"):
        return f"{cached.removeprefix('models--').replace('--', '/')} {last[:8]}"
    return last


def _train(
    config: Config, workdir: Path, corpus: Corpus, bucket: Bucket | None
) -> None:
    entry = workdir / "base"
    model = LanguageModel(config.model, corpus.tokenizer.vocab_size)
    mesh = training_mesh(config.train.data_axis, config.train.model_axis)
    trainer = base_trainer(model, config, mesh)
    settings = config.base
    run = Run("base", "base", {"base": 1.0}, settings.steps, settings.data_seed)
    # Made when it is needed: first comes a look at the room on the disk.
    start = functools.cache(lambda: trainer.fresh_params(settings.seed))
    recipe = dataclasses.asdict(settings) | {
        name: getattr(config.recipe, name) for name in SHARED
    }
    builder = PoolBuilder(corpus, trainer, start, workdir, recipe=recipe, bucket=bucket)

    def is_there() -> bool:
        if not (is_published(entry) or (bucket and bucket.shares(entry))):
            return False
        check(config, workdir)
        return builder.is_done(run)  # it deletes states that a kill has left

    if on_lead(is_there):
        detail("base model: already trained, skipping")
        if bucket:
            bucket.send([entry])
        return
    detail(
        f"base model: {model.parameter_count():,} parameters, "
        f"{settings.steps * settings.batch * corpus.length:,} tokens"
    )
    if not is_lead():
        follow(corpus, trainer, start)
        return
    with leading():
        builder.train([run])
        check(config, workdir)  # it may be another's
