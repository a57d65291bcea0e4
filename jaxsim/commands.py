"""One function for each command of the command line; notebooks may call them too.

Each can be killed and called again: it does what is missing on disk.
"""

import dataclasses
import functools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxsim import corpus as corpora
from jaxsim import records
from jaxsim.config import Config, save_config
from jaxsim.corpus import Corpus, open_corpus
from jaxsim.corpus.store import CorpusRecord
from jaxsim.distributed import is_lead, leading, on_lead
from jaxsim.errors import DamagedError, UserError
from jaxsim.log import say
from jaxsim.mesh import training_mesh
from jaxsim.model import LanguageModel
from jaxsim.plan import show_plan, sizes_of
from jaxsim.pool import Manifest, Pool, create_pool, open_pool
from jaxsim.pool.bucket import open_bucket
from jaxsim.pool.build import PoolBuilder, follow, train_missing
from jaxsim.pool.digests import differences
from jaxsim.pool.manifest import read_manifest
from jaxsim.pool.publish import is_published
from jaxsim.report import show, tables
from jaxsim.report.write import last_lines, write_report
from jaxsim.scoring.evaluation import gather
from jaxsim.scoring.scorer import Scorer, table_name
from jaxsim.scoring.scores import Scores
from jaxsim.search.objective import Objective, objective, target_weights
from jaxsim.search.result import load_search, save_search
from jaxsim.search.search import search as find
from jaxsim.search.ties import Residual
from jaxsim.train import (
    Run,
    Trainer,
    base_trainer,
    member_run,
    recipe_trainer,
    reference_run,
)
from jaxsim.validation.calibration import Corrector
from jaxsim.validation.diagnostics import FEW_WINDOWS, Diagnostics, diagnose
from jaxsim.validation.external import read_external_runs, read_mixtures
from jaxsim.validation.measured import CALIBRATED, compare_chosen
from jaxsim.validation.runs import (
    mixture_table,
    replicate_pairs,
    train_reference_runs,
    validate_external,
    validate_trained,
)
from jaxsim.validation.validate import load_validation, save_validation

CHOSEN, CHOSEN_MIXTURES = "chosen", "chosen-mixtures"
# Settings of the recipe that the base model is trained with, too.
_SHARED = ("beta1", "beta2", "weight_decay", "clip", "precision")


def prepare(config: Config, workdir: Path, refreeze: bool = False) -> Corpus:
    """Turns documents into rows of tokens; the first call freezes the corpus."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: cannot create this folder: {error.strerror}"
        ) from error
    bucket = open_bucket(config.bucket, workdir)

    def make() -> Corpus:
        return corpora.prepare(config, workdir, refreeze)

    prepared = bucket.prepare(make, refreeze) if bucket else make()
    if not refreeze and is_published(workdir / "base"):
        # A config that the pool refuses must not be saved in the workdir.
        _check_base(read_manifest(workdir / "base"), config)
        if (workdir / "pool" / "pool.json").exists():
            _pool(config, workdir, prepared)
    save_config(config, workdir / "config.json")
    return prepared


def base(config: Config, workdir: Path) -> None:
    """Trains the base model from scratch, on the base text."""
    bucket = open_bucket(config.bucket, workdir)
    if bucket:
        bucket.share_corpus()
    corpus = _corpus(workdir)
    entry = workdir / "base"
    model = LanguageModel(config.model, corpus.tokenizer.vocab_size)
    mesh = training_mesh(config.train.data_axis, config.train.model_axis)
    trainer = base_trainer(model, config, mesh)
    settings = config.base
    run = Run("base", "base", {"base": 1.0}, settings.steps, settings.data_seed)
    builder = functools.partial(
        PoolBuilder,
        corpus,
        trainer,
        workdir=workdir,
        recipe=_base_recipe(config),
        bucket=bucket,
    )

    def is_there() -> bool:
        if not (is_published(entry) or (bucket and bucket.shares(entry))):
            return False
        _check_base(read_manifest(entry), config)
        # It deletes the states that a kill has left.
        return builder(start=dict).is_done(run)

    if on_lead(is_there):
        say("base model: already trained, skipping")
        if bucket:
            bucket.send([entry])
        return
    say(
        f"base model: {model.parameter_count():,} parameters, "
        f"{settings.steps * settings.batch * corpus.length:,} tokens"
    )
    start = trainer.fresh_params(config.base.seed)
    if not is_lead():
        follow(corpus, trainer, lambda: start)
        return
    with leading():
        builder(start=lambda: start).train([run])
        _check_base(read_manifest(entry), config)  # another's, perhaps


def train(
    config: Config,
    workdir: Path,
    shard: tuple[int, int] | None = None,
    trainer: Trainer | None = None,
) -> None:
    """Trains every member that the pool lacks, or share i of n of them."""
    bucket = open_bucket(config.bucket, workdir)
    if bucket:
        bucket.share_corpus()
        bucket.shares(workdir / "base")
    corpus = _corpus(workdir)
    pool = _pool(config, workdir, corpus)
    runs = [member_run(name, config.recipe) for name in corpus.units]
    if shard is not None:
        runs = runs[shard[0] :: shard[1]]
    trainer = trainer or _trainer(config, workdir)
    train_missing(runs, pool, corpus, trainer, bucket)
    if is_lead():
        show.show(tables.members(pool.manifests("member")))


def score(
    config: Config,
    workdir: Path,
    mixtures: str | None = None,
    override: bool = False,
    scorer: Scorer | None = None,
) -> None:
    """Scores the standard mixtures on every window, and a table of mixtures."""
    scorer = scorer or _scorer(config, workdir, override)
    spec = config.score.mixtures if mixtures is None else mixtures
    table = scorer.table(spec) if spec else None  # refused before scoring
    show.show(tables.standard_bits(scorer.standard()))
    if table is not None:
        name = table_name(spec)
        scored = scorer.score(name, table, "dev", config.score.windows)
        show.show(tables.scores(scored))
        say(
            f"scores: {len(table)} mixtures in {scorer.store.folder}/"
            f"{name}.parquet; to search them: `jaxsim search "
            f"--workdir={shlex.quote(str(workdir))} "
            f"--config.score.mixtures={shlex.quote(spec)} "
            f"--config.score.windows={config.score.windows}`"
        )


def validate(
    config: Config,
    workdir: Path,
    runs: tuple[Path, Path] | None = None,
    mixtures: Path | None = None,
    override: bool = False,
    scorer: Scorer | None = None,
    trainer: Trainer | None = None,
) -> None:
    """Diagnoses the pool, then trains reference runs or reads the user's `runs`.

    With `mixtures` it only trains those. A chosen mixture is no random sample, so it
    does not change the measured agreement.
    """
    scorer = scorer or _scorer(config, workdir, override)
    if mixtures is not None:
        if runs is not None:
            raise UserError("--runs and --mixtures: give one of them")
        _validate_chosen(config, scorer, mixtures, trainer)
        return
    # Unreadable files are refused before anything is scored.
    given = None
    if runs is not None:
        given = read_external_runs(*runs, scorer.members, scorer.evaluation.domains)

    def diagnosed() -> Diagnostics:
        windows = config.score.windows or FEW_WINDOWS
        known = diagnose(scorer, windows, replicate_pairs(config, scorer))
        known.save(workdir)
        return known

    known = diagnosed()  # it is cheap, so it comes before any training
    show.show_diagnostics(known)
    if given is not None:
        validation = validate_external(scorer, given)
    else:
        trainer = trainer or _trainer(config, workdir)
        bucket = open_bucket(config.bucket, workdir)
        validation = validate_trained(config, scorer, trainer, bucket)
        expected = min(config.validate.member_replicates, len(scorer.members))
        if known.replicates < expected:
            diagnosed()  # new replicates of members measure noise
    save_validation(workdir, validation)
    show.show_agreement(validation)
    used = load_validation(workdir, scorer.now())
    if validation.given and used is not None and not used.given:
        say(
            "validate: search and the report's verdict use the reference runs "
            "trained here; the report shows yours beside them"
        )


def search(
    config: Config,
    workdir: Path,
    min_effect: float | None = None,
    override: bool = False,
    scorer: Scorer | None = None,
) -> None:
    """Searches for the best mixture and all mixtures that tie with it."""
    scorer = scorer or Scorer(workdir, config.score, override)
    settings = config.search
    if min_effect is not None:
        settings = dataclasses.replace(settings, min_effect=min_effect)
    table = _table(config, scorer)
    validation = load_validation(workdir, scorer.now())
    if validation is None and load_validation(workdir) is not None:
        say(
            "search: ignoring validation results: they are for a different "
            "pool or text. Rerun `jaxsim validate` (it retrains nothing)"
        )
    known = None
    if validation is not None:
        # Without a calibration of every domain that matters, merges are not corrected.
        needed = objective(settings, scorer.evaluation).needed
        if calibration := validation.calibrated(needed):
            known = Corrector(calibration, scorer)

    def residual(goal: Objective) -> Residual | None:
        if validation is None:
            return None
        return validation.residual_of(goal, CALIBRATED if known else "merge")

    found = find(scorer, settings, table, residual, known)
    if validation is not None:
        basis = dataclasses.replace(found.basis, others=validation.basis.others)
        singles = known is not None and known.calibration.singles_known
        found = dataclasses.replace(found, basis=basis, singles_known=singles)
    save_search(workdir, found)
    show.show_search(found)
    for line in last_lines(workdir):
        say(line)


def report(config: Config, workdir: Path) -> Path:
    """Writes the HTML report, figures and tables from the results on disk."""
    path = write_report(config, workdir)
    say(f"report: {path}")
    return path


def plan(
    config: Config,
    workdir: Path | None,
    topology: str | None = None,
    members: int | None = None,
    utilization: float | None = None,
) -> None:
    """Compiles training and scoring, also for hardware that is not attached."""
    sizes = sizes_of(config, workdir, members)
    show_plan(config, sizes, topology, utilization or 0.4)


def verify(workdir: Path) -> None:
    """Re-hashes the base model and the pool.

    Raises:
      DamagedError: lists all damage.
    """
    pool = open_pool(workdir)
    problems = pool.problems()
    count = len(pool.names())
    if problems:
        lines = [f"{name}: {what}" for name, what in problems.items()]
        raise DamagedError(
            f"{len(problems)} of {count + 1} entries are damaged:\n  "
            + "\n  ".join(lines)
            + "\nDelete the folder of each damaged entry in "
            f"{workdir}/pool/members (the base model: {workdir}/base) and rerun "
            "`jaxsim run --config=FILE.py` to recreate it"
        )
    say(f"verify: the base model and {count} entries are intact")


def run(config: Config, workdir: Path, override: bool = False) -> None:
    """Runs the commands from `prepare` to `report` that the config asks for."""
    corpus = prepare(config, workdir)
    # A misspelled domain should not be found after all training.
    target_weights(config.search, gather(corpus))
    base(config, workdir)
    trainer = _trainer(config, workdir)
    train(config, workdir, trainer=trainer)
    scorer = Scorer(workdir, config.score, override)
    score(config, workdir, scorer=scorer)
    if config.validate.held_out:
        validate(config, workdir, scorer=scorer, trainer=trainer)
    search(config, workdir, scorer=scorer)
    report(config, workdir)


def _scorer(config: Config, workdir: Path, override: bool) -> Scorer:
    """A scorer of the pool, including the members in the bucket."""
    if bucket := open_bucket(config.bucket, workdir):
        bucket.share_corpus()
        bucket.fetch_pool()
    return Scorer(workdir, config.score, override)


def _trainer(config: Config, workdir: Path) -> Trainer:
    """The trainer of the recipe; it compiles when it first trains."""
    pool = _pool(config, workdir, _corpus(workdir))
    mesh = training_mesh(config.train.data_axis, config.train.model_axis)
    return recipe_trainer(pool.model, config, mesh)


def _corpus(workdir: Path) -> Corpus:
    """The corpus as process 0 sees it; its digests check what others read."""
    record = on_lead(lambda: records.plain(open_corpus(workdir).record))
    return Corpus(workdir, records.from_plain(CorpusRecord, record, "corpus.json"))


def _pool(config: Config, workdir: Path, corpus: Corpus) -> Pool:
    """The pool that process 0 opens or creates."""

    def identity() -> dict[str, Any]:
        if is_published(workdir / "base"):
            _check_base(read_manifest(workdir / "base"), config)
        return create_pool(workdir, config, corpus).identity

    model = LanguageModel(config.model, corpus.tokenizer.vocab_size)
    return Pool(workdir, model, on_lead(identity))


def _base_recipe(config: Config) -> dict[str, Any]:
    """The settings that the base model depends on, besides text and model."""
    return dataclasses.asdict(config.base) | {
        name: getattr(config.recipe, name) for name in _SHARED
    }


def _check_base(manifest: Manifest, config: Config) -> None:
    """Refuses a config that asks for a different base model.

    Raises:
      UserError: names the values that differ.
    """

    def by_key(recipe: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
        shared = {key: recipe.get(key) for key in _SHARED}
        own = {key: value for key, value in recipe.items() if key not in shared}
        return {"base": own, "recipe": shared, "model": model}

    lines = differences(
        by_key(manifest.recipe, manifest.model),
        by_key(_base_recipe(config), dataclasses.asdict(config.model)),
        "config.",
    )
    if lines:
        raise UserError(
            f"the base model was trained with other values: {'; '.join(lines)}. "
            "Restore them, or use another --workdir"
        )


def _validate_chosen(
    config: Config, scorer: Scorer, path: Path, trainer: Trainer | None
) -> None:
    """Trains the mixtures of a file, for as many tokens as reference runs.

    Raises:
      UserError: a row cannot be trained or is repeated.
    """
    asked, workdir = read_mixtures(path, scorer.members), scorer.workdir
    runs = [
        reference_run(asked.parts(m), config.recipe, config.validate.token_multiplier)
        for m in range(len(asked))
    ]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two rows are the same mixture")
    table = mixture_table(scorer.members, runs)
    scorer.stack.check_usable(table)
    train_reference_runs(
        scorer,
        runs,
        runs,
        trainer or _trainer(config, workdir),
        open_bucket(config.bucket, workdir),
    )
    trained = scorer.score_entries(CHOSEN, names, "test")
    predicted = scorer.score(CHOSEN_MIXTURES, table, "test")
    chosen = compare_chosen(asked.names, predicted, trained)
    chosen.save(workdir)
    there = (workdir / "search" / "result.json").exists()
    last_search = load_search(workdir) if there else None
    show.show_chosen(chosen, last_search, load_validation(workdir))


def _table(config: Config, scorer: Scorer) -> Scores | None:
    """The scored table of the config; only method 'table' requires one.

    Raises:
      UserError: method 'table' has none.
    """
    spec, required = config.score.mixtures, config.search.method == "table"
    if required and not spec:
        raise UserError("config.score.mixtures: empty, nothing to search")
    try:
        return scorer.scored(spec) if spec else None
    except UserError as error:
        if required:
            raise
        say(f"search: ignoring the table of mixtures: {error}")
        return None
