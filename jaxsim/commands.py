"""One function for each command of the command line; notebooks may call them too.

Each can be killed and called again: it does what is missing on disk.
"""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from jaxsim import corpus as corpora
from jaxsim import records
from jaxsim.base import base as make_base
from jaxsim.config import Config, save_config
from jaxsim.corpus import Corpus
from jaxsim.corpus.prepare import prepare_share
from jaxsim.corpus.preview import evaluation as preview_evaluation
from jaxsim.corpus.preview import pieces, preview
from jaxsim.corpus.show_preview import show_preview
from jaxsim.distributed import is_lead, on_lead
from jaxsim.errors import DamagedError, UserError
from jaxsim.export import export as export
from jaxsim.log import counted, say, step
from jaxsim.mesh import training_mesh
from jaxsim.model import LanguageModel
from jaxsim.plan import Plan, evaluation_of, make_plan, show_costs, sizes_of
from jaxsim.pool import Pool, create_pool, open_pool
from jaxsim.pool.bucket import open_bucket
from jaxsim.pool.build import changed_text, train_missing
from jaxsim.pool.manifest import Manifest, read_manifest, repair
from jaxsim.pool.publish import is_published
from jaxsim.report import show, tables
from jaxsim.report.data import ReportData
from jaxsim.report.headline import Headline, headline
from jaxsim.report.write import write_report
from jaxsim.scoring.evaluation import gaps, gather
from jaxsim.scoring.predicted import Predicted, predict
from jaxsim.scoring.scorer import Scorer, not_searched, table_name
from jaxsim.scoring.scores import Scores
from jaxsim.scoring.table import count_rows
from jaxsim.search.closed_form import closed_form
from jaxsim.search.objective import Objective, objective
from jaxsim.search.problem import Problem
from jaxsim.search.result import (
    BEST,
    SearchResult,
    check_best,
    load_search,
    save_search,
)
from jaxsim.search.search import search as find
from jaxsim.search.ties import Residual
from jaxsim.train import Trainer, member_run, recipe_trainer
from jaxsim.validation.calibration import Corrector
from jaxsim.validation.diagnostics import FEW_WINDOWS, Diagnostics, diagnose
from jaxsim.validation.external import read_external_runs
from jaxsim.validation.measured import CALIBRATED, TrainedChoice
from jaxsim.validation.runs import (
    ONE_MEMBER,
    held_out_runs,
    replicate_pairs,
    train_chosen,
    validate_external,
    validate_trained,
)
from jaxsim.validation.validate import Validation, load_validation, save_validation
from jaxsim.workdir import check, checked_corpus, say_misfit

T = TypeVar("T")


def prepare(
    config: Config,
    workdir: Path,
    refreeze: bool = False,
    shard: tuple[int, int] | None = None,
    dry_run: bool = False,
) -> Corpus | None:
    """Turns documents into rows of tokens; the first call freezes the corpus.

    With `shard` it does share i of n of the files in the pass that is due. With
    `dry_run` it only says what it would read, and writes nothing.
    """
    if dry_run and (refreeze or shard):
        raise UserError("--dry-run: give no --refreeze or --shard with it")
    if dry_run:
        _dry_run(config, workdir)
        return None
    if shard is None:
        return _prepared(config, workdir, refreeze)
    if refreeze:
        raise UserError("--refreeze and --shard: give one of them")
    _make_folder(workdir)
    prepare_share(config, workdir, shard)
    return None


def _make_folder(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: cannot create this folder: {error.strerror}"
        ) from error


def _prepared(config: Config, workdir: Path, refreeze: bool = False) -> Corpus:
    """The corpus of the config, in the workdir."""
    _make_folder(workdir)
    bucket = open_bucket(config.bucket, workdir)

    def make() -> Corpus:
        return corpora.prepare(config, workdir, refreeze)

    prepared = bucket.prepare(make, refreeze) if bucket else make()
    if refreeze:
        entry = workdir / "base"
        if is_published(entry) and changed_text(read_manifest(entry), prepared):
            say(
                "prepare: the base model and the members here were made from another "
                "corpus, and are refused from now on; use another --workdir to train"
            )
    else:  # what the pool refuses must not be saved in the workdir
        check(config, workdir)
        if (workdir / "pool" / "pool.json").exists():
            members = open_pool(workdir).manifests("member")
            if members.keys() - prepared.units.keys():
                say(f"prepare: {gaps(prepared, members)[-1]}")
    count = len(prepared.units)
    _check_table(config, count)  # refused before anything is trained
    save_config(config, workdir / "config.json")
    vocabulary = prepared.tokenizer.vocab_size
    show_costs(config, count, vocabulary, evaluation_of(prepared))
    if count == 1 and config.validate.held_out:
        say(f"prepare: there will be no reference runs: {ONE_MEMBER}")
    return prepared


def _dry_run(config: Config, workdir: Path) -> None:
    """Prints what `prepare` would do, and what it costs.

    Raises:
      UserError: lists all that it would refuse.
    """
    found = preview(config, workdir)
    show_preview(config, found)
    partitions, domains = found.places("partitions"), found.places("domains")
    count = sum(pieces(config, place) for place in partitions)
    if count:
        try:
            _check_table(config, count)
        except UserError as error:
            found.problems.append(str(error))
            config = dataclasses.replace(
                config, score=dataclasses.replace(config.score, mixtures="")
            )
        vocabulary = config.corpus.tokenizer.vocab_size
        if found.tokenizer is not None and config.corpus.tokenizer.kind != "bpe":
            vocabulary = found.tokenizer.vocab_size
        scored = {p.name: preview_evaluation(config, p) for p in partitions + domains}
        show_costs(config, count, vocabulary, scored)
    if found.problems:
        lines = "".join(f"\n{i}. {what}" for i, what in enumerate(found.problems, 1))
        raise UserError(
            f"prepare would stop: {counted(len(found.problems), 'problem')}{lines}"
        )
    say("dry run: no problem found; nothing was written")


def base(config: Config, workdir: Path) -> Manifest:
    """Imports the base model, or trains it from scratch on the base text."""
    make_base(config, workdir)
    return _shared(Manifest, lambda: read_manifest(workdir / "base"))


def train(
    config: Config,
    workdir: Path,
    shard: tuple[int, int] | None = None,
    trainer: Trainer | None = None,
) -> dict[str, Manifest]:
    """Trains every member that the pool lacks, or share i of n of them.

    Returns all members that are there.
    """
    bucket = open_bucket(config.bucket, workdir)
    if bucket:
        bucket.share_corpus()
        bucket.shares(workdir / "base")
    corpus = checked_corpus(config, workdir)
    pool = _pool(config, workdir, corpus)
    runs = [member_run(name, config.recipe) for name in corpus.units]
    if shard is not None:
        runs = runs[shard[0] :: shard[1]]
    trainer = trainer or _trainer(config, pool)
    train_missing(runs, pool, corpus, trainer, bucket)
    members = _shared(dict[str, Manifest], lambda: pool.manifests("member"))
    if is_lead():
        show.show(tables.members(members))
    return members


def score(
    config: Config,
    workdir: Path,
    mixtures: str | None = None,
    override: bool = False,
    documents: bool = False,
    scorer: Scorer | None = None,
) -> Scores | Predicted:
    """Scores the standard mixtures on every window, and a table of mixtures.

    With `documents`, it also writes their losses by document. Returns the table, or
    the standard mixtures without one.
    """
    spec = config.score.mixtures if mixtures is None else mixtures
    check_best(workdir, Path(spec))
    scorer = scorer or _scorer(config, workdir, override)
    table = scorer.table(spec) if spec else None  # refused before scoring
    done = [scorer.standard()]
    show.show(tables.standard_bits(done[0]))
    result: Scores | Predicted = done[0]
    if table is not None and scorer.is_predicted(table):
        result = predict(scorer, table_name(spec), table)
        show.show_predicted(result)
        if result.best is not None:
            done.append(result.best)
    elif table is not None:
        result = scorer.score(table_name(spec), table, "dev", config.score.windows)
        show.show(tables.scores(result))
        done.append(result)
    for scores in done if documents else ():
        say(f"scores: by document in {scorer.store.save_documents(scores)}")
    return result


def validate(
    config: Config,
    workdir: Path,
    runs: tuple[Path, Path] | None = None,
    mixtures: Path | None = None,
    override: bool = False,
    scorer: Scorer | None = None,
    trainer: Trainer | None = None,
) -> Validation | TrainedChoice:
    """Diagnoses the pool, then trains reference runs or reads the user's `runs`.

    With `mixtures` it only trains those. A chosen mixture is no random sample, so it
    does not change the measured agreement.
    """
    if mixtures is not None:
        check_best(workdir, mixtures)
    scorer = scorer or _scorer(config, workdir, override)
    scorer.check_complete()
    if mixtures is not None:
        if runs is not None:
            raise UserError("--runs and --mixtures: give one of them")
        bucket = open_bucket(config.bucket, workdir)
        trainer = trainer or _trainer(config, scorer.pool)
        chosen = train_chosen(config, scorer, mixtures, trainer, bucket)
        chosen.save(workdir)
        there = (workdir / "search" / "result.json").exists()
        last_search = load_search(workdir) if there else None
        show.show_chosen(chosen, last_search, load_validation(workdir))
        return chosen
    if len(scorer.members) < 2:
        raise UserError(ONE_MEMBER)
    # Unreadable files are refused before anything is scored.
    given = None
    if runs is not None:
        given = read_external_runs(*runs, scorer.members, scorer.evaluation.domains)

    def diagnosed() -> Diagnostics:
        windows = config.score.windows or FEW_WINDOWS
        known = diagnose(scorer, windows, *replicate_pairs(config, scorer))
        known.save(workdir)
        return known

    known = diagnosed()  # it is cheap, so it comes before any training
    show.show_diagnostics(known)
    if given is not None:
        validation = validate_external(scorer, given)
    else:
        trainer = trainer or _trainer(config, scorer.pool)
        bucket = open_bucket(config.bucket, workdir)
        validation = validate_trained(config, scorer, trainer, bucket)
        expected = min(config.validate.member_replicates, len(scorer.members))
        if known.replicates < expected:
            known = diagnosed()  # new replicates of members measure noise
    save_validation(workdir, validation)
    show.show_agreement(validation)
    used = load_validation(workdir, scorer.now())
    if validation.given and used is not None and not used.given:
        say(
            "validate: search and the report's verdict use the reference runs "
            "trained here; the report shows yours beside them"
        )
    return validation


def search(
    config: Config,
    workdir: Path,
    min_effect: float | None = None,
    override: bool = False,
    scorer: Scorer | None = None,
) -> SearchResult:
    """Searches for the best mixture and all mixtures that tie with it."""
    scorer = scorer or _scorer(config, workdir, override, fetch=False)
    scorer.check_complete()
    settings = config.search
    if min_effect is not None:
        settings = dataclasses.replace(settings, min_effect=min_effect)
    table = _table(config, scorer)
    validation = load_validation(workdir, scorer.now())
    if validation is None and load_validation(workdir) is not None:
        say(
            "search: ignoring validation results: they are for a different pool or "
            "text. Rerun `jaxsim validate` (it trains what is missing)"
        )
    known, warning = None, ""
    if validation is not None:
        # Without a calibration of every domain that matters, merges are not corrected.
        goal = objective(settings, scorer.evaluation)
        if calibration := validation.calibrated(goal.needed):
            helps, warning = validation.calibration_helps(goal)
            known = Corrector(calibration, scorer) if helps else None

    def residual(goal: Objective) -> Residual | None:
        if validation is None:
            return None
        return validation.residual_of(goal, CALIBRATED if known else "merge")

    found = find(scorer, settings, table, residual, known)
    if validation is not None:
        basis = dataclasses.replace(found.basis, others=validation.basis.others)
        singles = known is not None and known.calibration.singles_known
        found = dataclasses.replace(found, basis=basis, singles_known=singles)
        if warning:
            found.warnings.append(warning)
    form = closed_form(Problem(scorer, settings, known), found)
    save_search(workdir, found, form)
    show.show_search(found)
    return found


def report(config: Config, workdir: Path) -> Path:
    """Writes the HTML report, figures and tables from the results on disk."""
    say_misfit("report: of what is on disk, not of this config", config, workdir)
    return write_report(config, workdir)


def plan(
    config: Config,
    workdir: Path | None,
    topology: str | None = None,
    members: int | None = None,
    utilization: float | None = None,
) -> Plan:
    """Compiles training and scoring, also for hardware that is not attached."""
    if workdir is not None:
        say_misfit("plan: of this config, not of the workdir", config, workdir)
    sizes = sizes_of(config, workdir, members)
    return make_plan(config, sizes, topology, utilization or 0.4)


def verify(workdir: Path) -> list[str]:
    """Re-hashes the base model and the pool; returns what is intact.

    Raises:
      DamagedError: lists all damage.
    """
    pool = open_pool(workdir)
    problems = pool.problems()
    entries = counted(len(pool.names()), "entry", "entries")
    if problems:
        lines = [f"\n  {name}: {what}" for name, what in problems.items()]
        folders = [pool.base_entry if n == "base" else pool.entry(n) for n in problems]
        raise DamagedError(
            f"{len(problems)} of the base model and {entries} damaged:"
            f"{''.join(lines)}\nWhat to do: {repair(*folders)}"
        )
    return ["base", *pool.names()]


def run(config: Config, workdir: Path, override: bool = False) -> Headline:
    """Runs the commands from `prepare` to `report` that the config asks for."""
    held, seeds = config.validate.held_out, config.validate.seeds
    number, count = itertools.count(1), 6 + bool(held) + bool(seeds)
    step(next(number), count, f"prepare: {workdir}")
    corpus = _prepared(config, workdir)
    # A misspelled domain should not be found after all training.
    objective(config.search, gather(corpus))
    if len(corpus.units) < 2:
        held, seeds, count = 0, 0, 6
    step(next(number), count, "base: the model that all training starts from")
    base(config, workdir)
    trainer = _trainer(config, _pool(config, workdir, corpus))
    step(next(number), count, f"train: {counted(len(corpus.units), 'member')}")
    train(config, workdir, trainer=trainer)
    scorer = Scorer(workdir, config.score, override)
    what = " and ".join(filter(None, ("standard mixtures", config.score.mixtures)))
    step(next(number), count, f"score: {what}")
    score(config, workdir, scorer=scorer)
    if held:
        runs = counted(held_out_runs(config.validate, len(corpus.units)), "run")
        step(next(number), count, f"validate: {runs} on held-out mixtures")
        validate(config, workdir, scorer=scorer, trainer=trainer)
    step(next(number), count, "search: the best mixture, and what ties with it")
    search(config, workdir, scorer=scorer)
    if seeds:
        what = f"the answer and proportional, {counted(seeds, 'data seed')} each"
        step(next(number), count, f"validate: {what}")
        best = workdir / "search" / BEST
        validate(config, workdir, mixtures=best, scorer=scorer, trainer=trainer)
    step(next(number), count, "report")
    report(config, workdir)
    return headline(ReportData(workdir), workdir)


def _scorer(
    config: Config, workdir: Path, override: bool, fetch: bool = True
) -> Scorer:
    """A scorer of the pool; `fetch`: including the members in the bucket."""
    if fetch and (bucket := open_bucket(config.bucket, workdir)):
        bucket.share_corpus()
        bucket.fetch_pool()
    check(config, workdir)
    return Scorer(workdir, config.score, override)


def _shared(kind: type[T], make: Callable[[], T]) -> T:
    """What process 0 reads, for all processes of a group."""
    found = on_lead(lambda: records.plain(make()))
    return cast(T, records.from_plain(kind, found, "result"))


def _trainer(config: Config, pool: Pool) -> Trainer:
    """The trainer of the recipe; it compiles when it first trains."""
    mesh = training_mesh(config.train.data_axis, config.train.model_axis)
    return recipe_trainer(pool.model, config, mesh)


def _pool(config: Config, workdir: Path, corpus: Corpus) -> Pool:
    """The pool that process 0 opens or creates."""

    def identity() -> dict[str, Any]:
        return create_pool(workdir, config, corpus).identity

    model = LanguageModel(config.model, corpus.tokenizer.vocab_size)
    return Pool(workdir, model, on_lead(identity))


def _check_table(config: Config, members: int) -> None:
    """Refuses a table of mixtures that is none, or that the search cannot use.

    Raises:
      UserError: see `count_rows` and `not_searched`.
    """
    spec, merges = config.score.mixtures, config.score.merges
    rows = count_rows(spec, members) or 0 if spec else 0
    if config.search.method == "table" and rows > merges:
        raise not_searched(spec, merges)


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
