"""One function for each command; notebooks may call them as well.

Every one of them can be killed and called again: it looks at what is on disk
and does what is missing.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from jaxsim import corpus as corpora
from jaxsim.config import Config, SearchConfig, save_config
from jaxsim.console import say
from jaxsim.corpus import Corpus, open_corpus
from jaxsim.distributed import as_lead_sees, is_lead, leading
from jaxsim.errors import DamagedError, UserError
from jaxsim.mesh import training_mesh
from jaxsim.mixture.scorer import Scorer, table_name
from jaxsim.mixture.scores import Scores
from jaxsim.mixture.table import read_csv
from jaxsim.model import LanguageModel
from jaxsim.plan import Plan, devices_of, make_plan, show_plan, sizes_of
from jaxsim.pool import Manifest, Pool, create_pool, open_pool
from jaxsim.pool.bucket import Bucket, open_bucket
from jaxsim.pool.build import follow, train_missing
from jaxsim.pool.builder import PoolBuilder
from jaxsim.pool.digests import differences
from jaxsim.pool.manifest import read_manifest
from jaxsim.pool.publish import is_published
from jaxsim.report.gauged import gauge_lines
from jaxsim.report.tables import (
    show_agreement,
    show_chosen,
    show_found,
    show_members,
    show_pool,
    show_scores,
)
from jaxsim.report.write import last_lines, write_report
from jaxsim.search.found import Found, load_found, save_found
from jaxsim.search.objective import Objective, target_weights
from jaxsim.search.search import search as find
from jaxsim.search.ties import Residual
from jaxsim.study.chosen import Chosen, compare_chosen, save_chosen
from jaxsim.study.compare import compare
from jaxsim.study.corrector import Corrector
from jaxsim.study.gauge import FEW_WINDOWS, gauge, save_gauge
from jaxsim.study.given import Given, read_truths
from jaxsim.study.measured import basis_of, measured_by_user
from jaxsim.study.trained import (
    RATIOS,
    repeat_pairs,
    train_truths,
    validate_trained,
)
from jaxsim.study.truths import ratio_table
from jaxsim.study.validate import (
    CALIBRATED,
    Validation,
    current_validation,
    load_validation,
    save_validation,
)
from jaxsim.train import (
    Run,
    Trainer,
    member_run,
    trainer_of_recipe,
    trainer_of_seed,
    truth_run,
)

CHOSEN, CHOSEN_RATIOS = "chosen", "chosen-ratios"


def prepare(config: Config, workdir: Path, refreeze: bool = False) -> Corpus:
    """Documents to rows; the first call freezes what later ones rest on."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: cannot be made a folder: {error.strerror}"
        ) from error
    bucket = _bucket(config, workdir)

    def make() -> Corpus:
        return corpora.prepare(config, workdir, refreeze)

    prepared = bucket.prepare(make, refreeze) if bucket else make()
    if not refreeze and is_published(workdir / "seed"):
        # A config that the pool refuses must not become the workdir's own.
        _check_seed(read_manifest(workdir / "seed"), config)
        if (workdir / "pool" / "pool.json").exists():
            _pool(config, workdir, prepared)
    save_config(config, workdir / "config.json")
    return prepared


def seed(config: Config, workdir: Path) -> None:
    """Trains the seed from scratch, on text of its own."""
    bucket = _bucket(config, workdir)
    if bucket:
        bucket.share_corpus()
    corpus = _corpus(workdir)
    entry = workdir / "seed"

    def is_there() -> bool:
        if not (is_published(entry) or (bucket and bucket.shares(entry))):
            return False
        _check_seed(read_manifest(entry), config)
        return True

    if as_lead_sees(is_there):
        say("seed: it is there")
        if bucket:
            bucket.send([entry])
        return
    model = LanguageModel(config.model, corpus.tokenizer.vocab_size)
    mesh = training_mesh(config.train.data_axis, config.train.model_axis)
    trainer = trainer_of_seed(model, config, mesh)
    steps, order = config.seed.steps, config.seed.order
    run = Run("seed", "seed", {"seed": 1.0}, steps, order)
    say(
        f"seed: {model.parameter_count():,} parameters, "
        f"{config.seed.steps * config.seed.batch * corpus.length:,} tokens"
    )
    start = trainer.fresh_params(config.seed.rng)
    if not is_lead():
        follow([run], corpus, trainer, lambda: start)
        return
    with leading():
        PoolBuilder(
            corpus,
            trainer,
            lambda: start,
            workdir,
            recipe=_seed_recipe(config),
            seed_digest="",
            entry_of=lambda _: entry,
            bucket=bucket,
        ).train_alone(run)
        _check_seed(read_manifest(entry), config)  # another's, perhaps


def train(
    config: Config,
    workdir: Path,
    shard: tuple[int, int] | None = None,
    trainer: Trainer | None = None,
) -> None:
    """Every member that the pool lacks, or the i-th of n shares of them."""
    bucket = _bucket(config, workdir)
    if bucket:
        bucket.share_corpus()
        bucket.shares(workdir / "seed")
    corpus = _corpus(workdir)
    pool = _pool(config, workdir, corpus)
    runs = [member_run(name, config.recipe) for name in corpus.units]
    if shard is not None:
        runs = runs[shard[0] :: shard[1]]
    trainer = trainer or _trainer(config, workdir)
    train_missing(runs, pool, corpus, trainer, bucket)
    if is_lead():
        show_pool(pool)


def score(
    config: Config,
    workdir: Path,
    mixtures: str | None = None,
    override: bool = False,
    scorer: Scorer | None = None,
) -> None:
    """The references on every window, and a table of mixtures."""
    scorer = scorer or _scorer(config, workdir, override)
    spec = config.score.mixtures if mixtures is None else mixtures
    table = scorer.table(spec) if spec else None  # refused before scoring
    show_members(scorer.references())
    if table is not None:
        name = table_name(spec)
        show_scores(scorer.score(name, table, "select", config.score.windows))
        say(
            f"scores: {len(table)} mixtures in {scorer.store.folder}/"
            f"{name}.parquet; to search them: `jaxsim search "
            f"--workdir={workdir} --config.score.mixtures={spec} "
            f"--config.score.windows={config.score.windows}`"
        )


def validate(
    config: Config,
    workdir: Path,
    truths: tuple[Path, Path] | None = None,
    ratios: Path | None = None,
    override: bool = False,
    scorer: Scorer | None = None,
    trainer: Trainer | None = None,
) -> None:
    """Gauges the pool, trains truths and repeats, or takes the user's.

    With `ratios` it trains those instead: how a choice comes out is no
    measure of agreement, and leaves the last one as it is.
    """
    scorer = scorer or _scorer(config, workdir, override)
    if ratios is not None:
        if truths is not None:
            raise UserError("--truths and --ratios: give one of them")
        chosen = _validate_chosen(config, scorer, ratios, trainer)
        save_chosen(workdir, chosen)
        show_chosen(chosen, _found(workdir), load_validation(workdir))
        return
    # Files that cannot be read are refused before anything is scored.
    given = None
    if truths is not None:
        given = read_truths(*truths, scorer.members, scorer.evaluation.domains)
    # Before the first truth: what a look at the pool says costs next to none.
    known = gauge(
        scorer,
        config.score.windows or FEW_WINDOWS,
        repeat_pairs(config, scorer),
    )
    save_gauge(workdir, known)
    for line in gauge_lines(known):
        say(line)
    if given is not None:
        validation = _validate_given(scorer, given)
    else:
        validation = validate_trained(
            config,
            scorer,
            trainer or _trainer(config, workdir),
            _bucket(config, workdir),
        )
    expected = min(config.validate.member_repeats, len(scorer.members))
    if truths is None and known.repeats < expected:
        # Repeats of members, trained by now, measure noise.
        repeated = repeat_pairs(config, scorer)
        known = gauge(scorer, known.windows, repeated)
        save_gauge(workdir, known)
    save_validation(workdir, validation)
    show_agreement(validation)
    used = current_validation(workdir, scorer.references())
    if validation.given and used is not None and not used.given:
        say(
            "validate: searches and the report's verdict rest on the truths "
            "trained here; yours stand beside them in the report"
        )


def search(
    config: Config,
    workdir: Path,
    worth: float | None = None,
    override: bool = False,
    scorer: Scorer | None = None,
) -> None:
    """The best mixture for the objective, and all that ties with it."""
    scorer = scorer or Scorer(workdir, config.score, override)
    settings = config.search
    if worth is not None:
        settings = dataclasses.replace(settings, worth=worth)
    table = _table(config, scorer)
    validation = current_validation(workdir, scorer.references())
    if validation is None and load_validation(workdir) is not None:
        say(
            "search: goes without truths: those that there are were compared "
            "with another pool or on other text; `jaxsim validate` compares "
            "them anew, and trains nothing twice"
        )
    known = _corrector(scorer, settings, validation)

    def residual(goal: Objective) -> Residual | None:
        if validation is None:
            return None
        return validation.residual_of(goal, CALIBRATED if known else "merge")

    found = find(scorer, settings, table, residual, known)
    if known is not None:
        singles = known.calibration.singles_known
        found = dataclasses.replace(found, singles_known=singles)
    save_found(workdir, found)
    show_found(found)
    for line in last_lines(workdir):
        say(line)


def report(config: Config, workdir: Path) -> Path:
    """The HTML report, figures and tables, from what is on disk."""
    path = write_report(config, workdir)
    say(f"report: {path}")
    return path


def plan(
    config: Config,
    workdir: Path | None,
    topology: str | None = None,
    members: int | None = None,
    utilization: float | None = None,
) -> Plan:
    """Compiles training and scoring for devices that need not be there."""
    sizes = sizes_of(config, workdir, members)
    devices = devices_of(topology) if topology else jax.devices()
    made = make_plan(
        config,
        sizes,
        topology or "",
        devices,
        0.4 if utilization is None else utilization,
    )
    show_plan(made)
    return made


def verify(workdir: Path) -> None:
    """Re-hashes seed and pool.

    Raises:
      DamagedError: lists everything that is wrong.
    """
    pool = open_pool(workdir)
    problems = pool.problems()
    count = len(pool.names())
    if problems:
        lines = [f"{name}: {what}" for name, what in problems.items()]
        raise DamagedError(
            f"{len(problems)} of {count + 1} entries are damaged:\n  "
            + "\n  ".join(lines)
            + f"\nDelete the folder of a damaged entry below {workdir}/pool/"
            "members and repeat `jaxsim run --config=FILE.py` to make it again"
        )
    say(f"verify: the seed and {count} entries are as published")


def run(config: Config, workdir: Path, override: bool = False) -> None:
    """All that the config asks for, in order."""
    prepare(config, workdir)
    seed(config, workdir)
    trainer = _trainer(config, workdir)
    train(config, workdir, trainer=trainer)
    scorer = Scorer(workdir, config.score, override)
    score(config, workdir, scorer=scorer)
    if config.validate.truths:
        validate(config, workdir, scorer=scorer, trainer=trainer)
    search(config, workdir, scorer=scorer)
    report(config, workdir)


def _bucket(config: Config, workdir: Path) -> Bucket | None:
    """Where other machines share this pool, if the config says so."""
    return open_bucket(config.bucket, workdir)


def _scorer(config: Config, workdir: Path, override: bool) -> Scorer:
    """Over the pool as it is now, also in the bucket."""
    if bucket := _bucket(config, workdir):
        bucket.share_corpus()
        bucket.fetch_pool()
    return Scorer(workdir, config.score, override)


def _trainer(config: Config, workdir: Path) -> Trainer:
    """The recipe's trainer; it compiles when the first run is missing."""
    pool = _pool(config, workdir, _corpus(workdir))
    mesh = training_mesh(config.train.data_axis, config.train.model_axis)
    return trainer_of_recipe(pool.model, config, mesh)


def _corpus(workdir: Path) -> Corpus:
    """As process 0 sees it; the digests in it say what the others read."""
    record = as_lead_sees(lambda: open_corpus(workdir).record)
    return Corpus(workdir, record)


def _pool(config: Config, workdir: Path, corpus: Corpus) -> Pool:
    """As process 0 opens or starts it."""
    size = corpus.tokenizer.vocab_size

    def identity() -> dict[str, Any]:
        pool = create_pool(workdir, config, size, corpus.budget_tokens)
        return pool.identity

    model = LanguageModel(config.model, size)
    return Pool(workdir, model, as_lead_sees(identity))


def _seed_recipe(config: Config) -> dict[str, Any]:
    """What decides the seed's parameters, besides its text and its model."""
    shared = ("beta1", "beta2", "weight_decay", "clip", "precision")
    return dataclasses.asdict(config.seed) | {
        name: getattr(config.recipe, name) for name in shared
    }


def _check_seed(manifest: Manifest, config: Config) -> None:
    """Refuses a config that asks for another seed than the one there."""
    lines = differences(
        {"seed": manifest.recipe, "model": manifest.model},
        {
            "seed": _seed_recipe(config),
            "model": dataclasses.asdict(config.model),
        },
        "config.",
    )
    if lines:
        raise UserError(
            f"the seed was trained with other values: {'; '.join(lines)}. "
            "Restore them, or use another --workdir"
        )


def _validate_chosen(
    config: Config, scorer: Scorer, path: Path, trainer: Trainer | None
) -> Chosen:
    """Trains the ratios of a file, at the horizon of the truths."""
    asked = read_csv(scorer.members, path)
    for name, scale in zip(asked.names, asked.scale_M, strict=True):
        if scale != 1:
            raise UserError(
                f"{path}: row {name!r} has scale {scale:g}; a run has token "
                "shares and no scale"
            )
    runs = [
        truth_run(asked.parts(m), config.recipe, config.validate.horizon)
        for m in range(len(asked))
    ]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two rows are the same ratio")
    table = ratio_table(scorer.members, runs)
    scorer.check(table)
    train_truths(
        scorer,
        runs,
        runs,
        trainer or _trainer(config, scorer.workdir),
        _bucket(config, scorer.workdir),
    )
    trained = scorer.score_entries(CHOSEN, names, "report")
    return compare_chosen(
        asked.names,
        scorer.score(CHOSEN_RATIOS, table, "report"),
        trained.bits_per_byte("truth", "report"),
    )


def _table(config: Config, scorer: Scorer) -> Scores | None:
    """The scored table of the config; a search can do without."""
    if config.search.method == "table":
        if not config.score.mixtures:
            raise UserError("config.score.mixtures: empty, nothing to search")
        return scorer.scored(config.score.mixtures)
    if not config.score.mixtures:
        return None
    try:
        return scorer.scored(config.score.mixtures)
    except UserError as error:
        say(f"search: goes without a table of mixtures: {error}")
        return None


def _corrector(
    scorer: Scorer, settings: SearchConfig, validation: Validation | None
) -> Corrector | None:
    """What truths taught; None if a domain that matters has none."""
    if validation is None:
        return None
    evaluation = scorer.evaluation
    weights_D = target_weights(settings, evaluation)
    needed = {
        name
        for name, weight in zip(evaluation.domains, weights_D, strict=True)
        if weight > 0 or name in settings.regret
    }
    calibration = validation.calibrated(needed)
    if calibration is None:
        return None
    return Corrector(calibration, scorer)


def _found(workdir: Path) -> Found | None:
    """The last search, if there was one."""
    if not (workdir / "search" / "found.json").exists():
        return None
    return load_found(workdir)


def _validate_given(scorer: Scorer, given: Given) -> Validation:
    """Truths of the user's, of whatever length and however trained."""
    proxies = scorer.score(RATIOS, given.table, None)
    return compare(
        basis_of(scorer.corpus, scorer.references(), singles_known=False),
        measured_by_user(proxies, given.truth_MD),
        unit=given.unit,
    )
