"""Which mixtures are really trained; trains, scores and compares them.

Held-out runs are drawn at random from a fixed sampling distribution, and no prediction
of them is fitted on them. Calibration runs are a design (see docs/validate.md). The
first n runs of a longer list are those of the shorter one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxsim.config import Config, RecipeConfig, ValidateConfig
from jaxsim.corpus.names import Labels
from jaxsim.errors import DamagedError, UserError
from jaxsim.log import counted, say
from jaxsim.pool.bucket import Bucket
from jaxsim.pool.build import train_missing
from jaxsim.pool.publish import is_published
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import Scores, bits_per_byte
from jaxsim.scoring.table import Mixtures, concatenate, dirichlet, mixture_key, singles
from jaxsim.search.problem import Problem
from jaxsim.train import Run, Trainer, member_run, reference_run, replicate_of
from jaxsim.validation.external import ExternalRuns, read_mixtures
from jaxsim.validation.measured import (
    PREDICTED,
    FromReplicates,
    Replicates,
    TrainedChoice,
    beside,
    bits_by_name,
    compare_chosen,
    measured,
    pool_losses,
)
from jaxsim.validation.validate import NEAR_BEST, Validation, compare

# What held-out runs are drawn from, in turn: half are Dirichlet mixtures, a quarter
# subsets, and a quarter is near the best.
DISTRIBUTION = tuple(
    part for best in NEAR_BEST for part in ("dirichlet", "subset", "dirichlet", best)
)
ONE_MEMBER = (
    "validate: a pool of one member has no mixtures to compare; add a partition to "
    "config.corpus.partitions"
)
_BEST = 0.01  # share of the candidates that counts as near the best

# Of the design, relative to a standard deviation of 1 of the coefficients: that of
# their mean, and the noise of one run. At w = 1/2 a coefficient counts a quarter.
_SHARED, _NOISE = 1.0, 0.1
_CANDIDATES = 2000
_APART = 0.1  # share of the tokens by which two mixtures differ at least

# Tables of scores.
REFERENCE_RUNS, MIXTURES = "reference-runs", "mixtures"
CALIBRATION_RUNS, CALIBRATION_MIXTURES = "calibration-runs", "calibration-mixtures"
REPLICATES, REPLICATED_MIXTURES = "replicates", "replicated-mixtures"
CHOSEN, CHOSEN_MIXTURES = "chosen", "chosen-mixtures"


def held_out_runs(config: ValidateConfig, members: int) -> int:
    """How many held-out runs a pool can have, at most those that are asked for.

    With the budget 'sum' they are subsets of two members or more.
    """
    if members < 2:
        return 0
    if config.budget == "fixed":
        return config.held_out
    sizes = range(2, largest_subset(config, members) + 1)
    return min(config.held_out, sum(math.comb(members, size) for size in sizes))


def largest_subset(config: ValidateConfig, members: int) -> int:
    """Most members of a run with the budget 'sum'."""
    return min(config.largest or members, members)


def draw_held_out(
    members: Sequence[str],
    config: ValidateConfig,
    recipe: RecipeConfig,
    best: Callable[[], Mapping[str, np.ndarray]],
) -> tuple[list[str], list[Run]]:
    """The held-out runs, and the part of `DISTRIBUTION` that each is from.

    With the budget 'sum' there are only subsets, as in the paper. `best` gives the
    mixtures [K, C] of `NEAR_BEST`, see `best_mixtures`, when a draw first needs them.

    Fewer than are asked for if there are not so many different mixtures.

    Raises:
      UserError: fewer than two members.
    """
    if len(members) < 2:
        raise UserError(ONE_MEMBER)
    # A stream for each kind of part: a longer list begins with the shorter one.
    kind_of = {part: part.split()[0] for part in DISTRIBUTION}
    streams = {
        kind: np.random.default_rng([config.seed, i])
        for i, kind in enumerate(sorted(set(kind_of.values())))
    }
    only_subsets = config.budget == "sum"
    largest = largest_subset(config, len(members)) if only_subsets else len(members)
    found: dict[str, tuple[str, Run]] = {}
    count, near_best = held_out_runs(config, len(members)), functools.cache(best)
    for draw in range(100 * count):
        if len(found) == count:
            break
        part = DISTRIBUTION[draw % len(DISTRIBUTION)]
        if only_subsets:
            part = "subset"
        generator = streams[kind_of[part]]
        if part == "subset":
            size = int(generator.integers(2, largest + 1))
            chosen = generator.choice(len(members), size, replace=False)
            w_C = np.bincount(chosen, minlength=len(members)) / size
        elif part in NEAR_BEST:
            w_KC = near_best()[part]
            w_C = w_KC[generator.integers(len(w_KC))]
        else:
            alpha_C = np.full(len(members), config.concentration)
            w_C = _rounded(generator.dirichlet(alpha_C, 1))[0]
        if np.count_nonzero(w_C) > 1:  # a small concentration gives singles
            run = run_of(members, w_C, config, recipe)
            found.setdefault(run.name, (part, run))
    if len(found) < config.held_out:
        say(
            f"validate: {counted(len(found), 'held-out run')} instead of "
            f"{config.held_out}: a pool of {counted(len(members), 'member')} has no "
            "other mixtures"
        )
    return [part for part, _ in found.values()], [run for _, run in found.values()]


def needs_best(config: ValidateConfig, members: int) -> bool:
    """Whether a held-out run is near the best, if each draw gives another mixture."""
    first = min(map(DISTRIBUTION.index, NEAR_BEST))
    return config.budget == "fixed" and held_out_runs(config, members) > first


def best_mixtures(scorer: Scorer, config: Config) -> dict[str, np.ndarray]:
    """[K, C] the best 1 % of Dirichlet mixtures for the search's target.

    One set for each of `NEAR_BEST`, by closed forms, on the dev documents that tables
    of mixtures are scored on: they cost one gradient, however many candidates.
    """
    table = dirichlet(
        scorer.members,
        config.validate.candidates,
        config.score.concentration,
        config.validate.seed,
    )
    w_MC, windows = _rounded(table.w_MC), config.score.windows
    problem = Problem(scorer, dataclasses.replace(config.search, windows=windows))
    forms = scorer.quadratics(problem.rows)
    found, count = {}, max(1, round(_BEST * len(w_MC)))
    for part, predictor in NEAR_BEST.items():
        bits_MD = bits_per_byte(forms[predictor].sums(w_MC), problem.bytes_D)
        value_M = problem.objective.penalised(bits_MD)
        found[part] = w_MC[np.argsort(value_M, kind="stable")[:count]]
    return found


def run_of(
    members: Sequence[str],
    w_C: np.ndarray,
    config: ValidateConfig,
    recipe: RecipeConfig,
) -> Run:
    """The run on a mixture, as long as the budget says."""
    mixture = dict(zip(members, w_C.tolist(), strict=True))
    is_sum = config.budget == "sum"
    multiplier = float(np.count_nonzero(w_C)) if is_sum else config.token_multiplier
    return reference_run(mixture, recipe, multiplier)


def replicate_runs(
    reference_runs: Sequence[Run], members: Sequence[Run], config: ValidateConfig
) -> list[Run]:
    """The replicates that the config asks for, those of held-out runs first."""
    of_runs = reference_runs[: config.replicates]
    return [replicate_of(r) for r in (*of_runs, *members[: config.member_replicates])]


def mixture_table(
    members: Sequence[str], runs: Sequence[Run], recipe: RecipeConfig | None = None
) -> Mixtures:
    """The mixtures that runs train on, as weights of members.

    With a recipe, the shares that the rows of the runs realize: what they are predicted
    at. Without, those that were asked for.
    """
    parts = [run.mixture if recipe is None else run.shares(recipe) for run in runs]
    w_MC = np.array([[shares.get(m, 0.0) for m in members] for shares in parts])
    return Mixtures(
        tuple(members),
        tuple(run.name for run in runs),
        ("reference",) * len(runs),
        w_MC.reshape(-1, len(members)),
        np.ones(len(runs)),
    )


def _rounded(w_MC: np.ndarray) -> np.ndarray:
    """To six decimals, as in a table of mixtures: a run can be named from one."""
    return _whole(np.round(w_MC, 6))


def _whole(w_MC: np.ndarray) -> np.ndarray:
    """Gives what is missing to 1, after rounding, to the largest weight of each row."""
    w_MC[np.arange(len(w_MC)), np.argmax(w_MC, axis=1)] += 1 - w_MC.sum(axis=1)
    return w_MC


def design(
    count: int,
    members: int,
    largest: int = 0,
    seed: int = 0,
    exclude_MC: np.ndarray | tuple[()] = (),
) -> np.ndarray:
    """[count, C] mixtures; the first n of a longer design are the shorter one.

    The difference of a run from its merge is assumed to be sum_c a_c w_c (1 - w_c) plus
    noise. Each mixture is the one that most reduces the expected squared error of that
    difference (Bayesian I-optimality; Chaloner and Verdinelli 1995).

    Args:
      count: of mixtures.
      members: C.
      largest: equal weights of at most so many members only; 0: any mixtures.
      seed: of the candidates.
      exclude_MC: mixtures that may not be used: those of held-out runs.

    Returns:
      Fewer rows than `count` if there are not so many candidates.
    """
    generator = np.random.default_rng([seed, 9])
    candidate_KC = aim_KC = _candidates(members, largest, generator)
    if not largest:
        # To be predicted: what held-out runs are drawn from, and wider mixtures.
        aim_KC = np.concatenate(
            [generator.dirichlet(np.full(members, a), _CANDIDATES) for a in (1.0, 4.0)]
        )
    x_KC, aim_KC = candidate_KC * (1 - candidate_KC), aim_KC * (1 - aim_KC)
    moment_CC = aim_KC.T @ aim_KC / len(aim_KC)
    covariance_CC = np.eye(members) + _SHARED

    def apart_K(w_C: np.ndarray) -> np.ndarray:
        """[K] share of the tokens by which candidates differ from a mixture."""
        return np.abs(candidate_KC - w_C).sum(axis=1) / 2

    free_K = np.ones(len(candidate_KC), bool)
    for w_C in exclude_MC:
        # A run on nearly the same mixture shares the noise of a held-out run.
        free_K &= apart_K(w_C) >= _APART / 2
    chosen: list[int] = []
    while len(chosen) < count and free_K.any():
        # One more run at x takes V x x' V / (noise + x' V x) off V.
        vx_KC = x_KC @ covariance_CC
        variance_K = _NOISE**2 + np.sum(vx_KC * x_KC, axis=1)
        gain_K = np.sum((vx_KC @ moment_CC) * vx_KC, axis=1) / variance_K
        best = int(np.argmax(np.where(free_K, gain_K, -1.0)))
        chosen.append(best)
        free_K &= apart_K(candidate_KC[best]) >= _APART
        step_C = vx_KC[best]
        covariance_CC -= np.outer(step_C, step_C) / variance_K[best]
    return candidate_KC[chosen]


def _candidates(c: int, largest: int, generator: np.random.Generator) -> np.ndarray:
    """Different mixtures of two members or more, to six decimals; see `design`."""
    size_K = generator.integers(2, (largest or c) + 1, _CANDIDATES)
    order_KC = generator.random((_CANDIDATES, c)).argsort(axis=1)
    subset_KC = (order_KC < size_K[:, None]) / size_K[:, None]
    drawn = [subset_KC]
    if not largest:
        drawn += [
            np.round(generator.dirichlet(np.full(c, alpha), _CANDIDATES), 6)
            for alpha in (0.3, 1.0, 4.0)
        ]
    w_KC = _whole(np.concatenate(drawn))
    w_KC = w_KC[np.count_nonzero(w_KC, axis=1) > 1]
    _, first = np.unique(np.round(w_KC, 9), axis=0, return_index=True)
    return w_KC[np.sort(first)]


def plan_runs(
    config: Config, scorer: Scorer
) -> tuple[list[str], list[Run], list[Run], list[Run]]:
    """What `validate` trains, a function of the config and the pool.

    Returns:
      What held-out runs are drawn from, these runs, calibration runs and replicates.

    Raises:
      UserError: no runs are asked for, or the pool is too small for them.
      DamagedError: an override admitted a damaged member.
    """
    settings, recipe, members = config.validate, config.recipe, scorer.members
    if not settings.held_out:
        raise UserError(
            "config.validate.held_out is 0: set how many reference runs to "
            "train, or give your own with --runs=MIXTURES.csv,METRICS.csv"
        )
    if damaged := sorted(scorer.stack.damaged):
        raise DamagedError(
            "reference runs are drawn over all members, and "
            f"{damaged[0]!r} is damaged: delete its folder in pool/members "
            "and run `jaxsim train` to make it again"
        )
    near = functools.partial(best_mixtures, scorer, config)
    parts, runs = draw_held_out(members, settings, recipe, near)
    w_FC = design(
        settings.calibration_runs,
        len(members),
        largest_subset(settings, len(members)) if settings.budget == "sum" else 0,
        settings.seed,
        mixture_table(members, runs).w_MC,
    )
    fitted = [run_of(members, w_C, settings, recipe) for w_C in w_FC]
    if len(fitted) < settings.calibration_runs:
        say(
            f"validate: {counted(len(fitted), 'calibration run')} instead of "
            f"{settings.calibration_runs}: no other mixture of these "
            f"{len(members)} members is far enough from those there are"
        )
    as_runs = [member_run(name, recipe) for name in members]
    return parts, runs, fitted, replicate_runs(runs, as_runs, settings)


def train_reference_runs(
    scorer: Scorer,
    needed: Sequence[Run],
    runs: Sequence[Run],
    trainer: Trainer,
    bucket: Bucket | None = None,
) -> None:
    """Trains all `runs` that are missing, here or on another machine.

    Raises:
      UserError: another process still trains one of those `needed`.
    """
    scorer.release()
    train_missing(runs, scorer.pool, scorer.corpus, trainer, bucket)
    absent = [t for t in needed if not is_published(scorer.pool.entry(t.name))]
    if absent:
        raise UserError(
            f"another process still trains {len(absent)} of "
            f"{counted(len(needed), 'reference run')}; run `jaxsim validate` again "
            "when it is done"
        )


def validate_trained(
    config: Config, scorer: Scorer, trainer: Trainer, bucket: Bucket | None = None
) -> Validation:
    """Trains the planned runs that are missing; compares them with predictions.

    Raises:
      UserError: see `plan_runs`, or another process is not done.
    """
    members, settings = scorer.members, config.validate
    parts, runs, fit, replicates = plan_runs(config, scorer)
    needed, windows = [*runs, *fit], settings.windows
    # Runs that could not be compared with any merge are not trained.
    scorer.stack.check_usable(mixture_table(members, runs))
    train_reference_runs(scorer, needed, [*needed, *replicates], trainer, bucket)
    used = []

    def scored(name: str, of: Sequence[Run], split: str | None) -> Scores:
        names = [run.name for run in of]
        used.append(scorer.score_entries(name, names, split, windows))
        return used[-1]

    # Dev text is needed even with calibration runs: searches use every run.
    trained = scored(REFERENCE_RUNS, runs, None)
    table = mixture_table(members, runs, config.recipe)
    held_out = measured(scorer.score(MIXTURES, table, None, windows), trained)
    fitted = pairs = None
    if fit:
        table = mixture_table(members, fit, config.recipe)
        predictors = scorer.score(CALIBRATION_MIXTURES, table, "dev", windows)
        fitted = measured(predictors, scored(CALIBRATION_RUNS, fit, "dev"))
    if replicates:
        pairs = _pairs(scorer, scored(REPLICATES, replicates, "test"), trained)
    standard, again = scorer.standard(), None
    if settings.member_replicates >= len(members):
        table = mixture_table(members, runs, config.recipe)
        again = _from_replicates(scorer, table, windows)
    as_long = all(run.steps == config.recipe.steps for run in needed)
    rows = trained.predictors["reference"].rows
    return compare(
        pool_losses(scorer.corpus, standard, as_long, rows, used),
        held_out,
        fitted,
        pairs,
        min(settings.replicates, len(runs)),
        again,
        distributions=parts,
        asked_MC=mixture_table(members, runs).w_MC,
        by_size=settings.budget == "sum",
    )


class _Replicates(Scorer):
    """Scores mixtures of the members' replicates."""

    @functools.cached_property
    def members(self) -> tuple[str, ...]:
        return tuple(Labels.REPLICATE.format(name, 1) for name in super().members)


def _from_replicates(scorer: Scorer, table: Mixtures, windows: int) -> FromReplicates:
    """Predictions of mixtures on test text, from the replicates of their members."""
    scorer.release()  # an accelerator holds one pool at a time
    other = _Replicates(scorer.workdir, scorer.config, scorer.override)
    alone = singles(other.members)
    table = concatenate(dataclasses.replace(table, members=other.members), alone)
    scores = other.score(REPLICATED_MIXTURES, table, "test", windows)
    scores = scores.on(scores.predictors["merge"].rows)
    bits = {p: scores.bits_per_byte(p, "test") for p in PREDICTED}
    count = len(table) - len(alone)
    return FromReplicates(
        {p: bits_MD[:count] for p, bits_MD in bits.items()}, bits["merge"][count:]
    )


def train_chosen(
    config: Config,
    scorer: Scorer,
    path: Path,
    trainer: Trainer,
    bucket: Bucket | None = None,
) -> TrainedChoice:
    """Trains the mixtures of a file, for as many tokens as reference runs.

    And the proportional mixture, which they are compared with; all of them with each
    data seed that `config.validate.seeds` asks for. What earlier calls trained for as
    many tokens stays part of the result.

    Raises:
      UserError: a row cannot be trained or is repeated.
    """
    asked = read_mixtures(path, scorer.members)
    if len({mixture_key(w_C) for w_C in asked.w_MC}) < len(asked):
        raise UserError(f"{path}: two rows are the same mixture")
    merges = scorer.merges()
    proportional = merges.take([merges.names.index(Labels.PROPORTIONAL)])
    same = [mixture_key(w_C) == mixture_key(proportional.w_MC[0]) for w_C in asked.w_MC]
    if any(same):  # under its own name
        names = np.where(same, Labels.PROPORTIONAL, asked.names).tolist()
        if len(set(names)) < len(names):
            raise UserError(
                f"{path}: row 'proportional' is another mixture than the one in "
                "proportion to tokens; choose another name"
            )
        asked = dataclasses.replace(asked, names=tuple(names))
    elif not scorer.stack.damaged & proportional.parts(0).keys():
        asked = concatenate(asked, proportional)
    settings, chosen = config.validate, list[tuple[str, Run]]()
    for m, label in enumerate(asked.names):
        run = reference_run(asked.parts(m), config.recipe, settings.token_multiplier)
        seeds = range(1, max(settings.seeds, 1))
        again = [replicate_of(run, seed) for seed in seeds]
        chosen += [(label, one) for one in (run, *again)]
    runs = [run for _, run in chosen]
    scorer.stack.check_usable(mixture_table(scorer.members, runs, config.recipe))
    train_reference_runs(scorer, runs, runs, trainer, bucket)
    chosen += _chosen_before(config, scorer, chosen)
    runs = [run for _, run in chosen]
    table = mixture_table(scorer.members, runs, config.recipe)
    trained = scorer.score_entries(CHOSEN, [run.name for run in runs], "test")
    predicted = scorer.score(CHOSEN_MIXTURES, table, "test")
    asked_MC = mixture_table(scorer.members, runs).w_MC
    return compare_chosen([x for x, _ in chosen], asked_MC, predicted, trained)


def _chosen_before(
    config: Config, scorer: Scorer, chosen: Sequence[tuple[str, Run]]
) -> list[tuple[str, Run]]:
    """Runs of the same length that earlier calls trained, and their labels.

    A label that now means another mixture is marked.
    """
    try:
        before = TrainedChoice.load(scorer.workdir)
    except DamagedError as error:
        say(f"validate: what was trained earlier is left out: {error}")
        return []
    if before is None or tuple(before.members) != scorer.members:
        return []
    mixture_of = {label: run.mixture for label, run in chosen}
    there, found = {run.name for _, run in chosen}, []
    multiplier = config.validate.token_multiplier
    for label, name, w_C in zip(
        before.labels, before.reference_runs, before.mixtures, strict=True
    ):
        parts = dict(zip(before.members, w_C, strict=True))
        run = reference_run(parts, config.recipe, multiplier)
        number = name.removeprefix(run.name).removeprefix(".replicate")
        if name != run.name and number.isdecimal():
            run = replicate_of(run, int(number))
        if name != run.name or name in there:
            continue
        if not is_published(scorer.pool.entry(name)) or run.mixture.keys() & (
            scorer.stack.damaged
        ):
            continue
        other = mixture_of.setdefault(label, run.mixture) != run.mixture
        found.append((f"{label} (earlier)" if other else label, run))
    return found


def validate_external(scorer: Scorer, external: ExternalRuns) -> Validation:
    """Compares a user's runs, of any length and trained in any way."""
    bits_MD = external.reference_MD
    return compare(
        pool_losses(scorer.corpus, scorer.standard(), singles_known=False),
        # What text they were measured on is not known. Dev predictions stand
        # beside them too: what searches learn from them may not see test text.
        beside(scorer.score(MIXTURES, external.table, None), bits_MD, bits_MD),
        unit=external.unit,
    )


def replicate_pairs(
    config: Config, scorer: Scorer
) -> tuple[Replicates | None, dict[str, str]]:
    """Replicates of members that earlier calls trained, and their digests.

    Nothing is trained here.
    """
    members = [member_run(name, config.recipe) for name in scorer.members]
    names = [run.name for run in replicate_runs([], members, config.validate)]
    names = [name for name in names if is_published(scorer.pool.entry(name))]
    if not names:
        return None, {}
    windows = config.validate.windows
    again = scorer.score_entries("member-replicates", names, "test", windows)
    return _pairs(scorer, again), again.basis.others


def _pairs(scorer: Scorer, again: Scores, *trained: Scores) -> Replicates | None:
    """Members and reference runs beside those trained `again`, on test text."""
    rows = again.predictors["reference"].rows
    first = bits_by_name(scorer.standard().on(rows), "merge", "test")
    for scores in trained:
        first |= bits_by_name(scores, "reference", "test")
    # Under an override a damaged member has no score to be compared with.
    pairs = [
        (first[run], bits_D)
        for name, bits_D in bits_by_name(again, "reference", "test").items()
        if (run := name.rpartition(".replicate")[0]) in first
    ]
    if not pairs:
        return None
    return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
