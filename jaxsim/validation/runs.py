"""Which mixtures are really trained, and training, scoring and comparing them.

Held-out runs are drawn at random from a declared distribution and are judged
before anything is fitted on them, so that agreement is not flattered. In turn:

- a Dirichlet distribution over all members, two times of four;
- equal weights over a subset of two or more, one time of four;
- one of the merge's best 1 % of many Dirichlet mixtures on dev documents,
  one time of four: where a choice is made, and where ranking is hardest.

Single members are left out: at a token multiplier of 1 they are members again.
The first n runs of a longer list are those of the shorter one.

Calibration runs are a design, not a sample. A run and the merge of its mixture
agree to first order in the weights, and a member is the run on its own mixture.
So what runs can teach is a curvature: in this design the difference is
sum_c a_c w_c (1 - w_c) plus noise, with coefficients a_c that share a mean.
Mixtures are taken one after another such that the expected squared error of
that difference, averaged over the mixtures that held-out runs are drawn from,
falls most (Bayesian I-optimality; Chaloner and Verdinelli 1995). Scattered over
the weights as they are, such runs would flatter any correlation: they are
fitted on and never judged.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsim.config import Config, RecipeConfig, ValidateConfig
from jaxsim.errors import DamagedError, UserError
from jaxsim.log import say
from jaxsim.pool.bucket import Bucket
from jaxsim.pool.build import train_missing
from jaxsim.pool.publish import is_published
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import Scores, bits_of
from jaxsim.scoring.table import Mixtures, dirichlet
from jaxsim.search.problem import cheap_values, pose
from jaxsim.train import Run, Trainer, member_run, reference_run, replicate_of
from jaxsim.validation.measured import basis_of, measured
from jaxsim.validation.validate import Validation, compare

DISTRIBUTION = ("dirichlet", "subset", "dirichlet", "best")
_BEST = 0.01  # share of the candidates that 'best' is drawn from
_SHORTLIST = 0.1  # share of the candidates that a merge is scored for

# Of the design, relative to the coefficients' own scatter of 1: what they
# share, and the noise of one run. At w = 1/2 one counts a quarter of itself.
_SHARED, _NOISE = 1.0, 0.1
_CANDIDATES = 2000
_APART = 0.1  # share of the tokens by which two mixtures differ at least

# Tables of scores.
REFERENCE_RUNS, MIXTURES = "reference runs", "mixtures"
FIT, CALIBRATION_MIXTURES, REPLICATES = (
    "fit-reference runs",
    "fit-mixtures",
    "replicates",
)


@dataclasses.dataclass(frozen=True)
class Reference:
    """A run on a mixture, and the part of `LAW` that it was drawn from."""

    distribution: str  # 'dirichlet', 'subset' or 'best'
    run: Run


def test_reference_runs(
    members: Sequence[str],
    config: ValidateConfig,
    recipe: RecipeConfig,
    best_KC: np.ndarray,
) -> list[Reference]:
    """The held-out runs, a function of the arguments.

    With the budget 'sum' there are only subsets, as in the paper.

    Args:
      best_KC: what 'best' is drawn from; see `best_merges`.

    Raises:
      UserError: fewer than two members, or fewer different mixtures than
        asked for.
    """
    if len(members) < 2:
        raise UserError("validate needs a pool of at least two members")
    # A stream for each part: a longer list begins with the shorter one.
    streams = {
        distribution: np.random.default_rng([config.seed, i])
        for i, distribution in enumerate(sorted(set(DISTRIBUTION)))
    }
    reference_runs: dict[str, Reference] = {}
    for draw in range(100 * config.held_out):
        if len(reference_runs) == config.held_out:
            return list(reference_runs.values())
        distribution = (
            "subset"
            if config.budget == "sum"
            else DISTRIBUTION[draw % len(DISTRIBUTION)]
        )
        generator = streams[distribution]
        if distribution == "subset":
            w_C = _subset(len(members), generator)
        elif distribution == "best" and not len(best_KC):
            continue
        elif distribution == "best":
            w_C = best_KC[generator.integers(len(best_KC))]
        else:
            alpha_C = np.full(len(members), config.concentration)
            w_C = _rounded(generator.dirichlet(alpha_C))
        if np.count_nonzero(w_C) > 1:  # a small concentration gives singles
            run = run_of(members, w_C, config, recipe)
            reference_runs.setdefault(run.name, Reference(distribution, run))
    if len(reference_runs) == config.held_out:
        return list(reference_runs.values())
    raise UserError(
        f"config.validate.held_out={config.held_out}: this pool of "
        f"{len(members)} members does not have so many different mixtures"
    )


def best_merges(scorer: Scorer, config: Config) -> np.ndarray:
    """[K, C] the merge's best 1 % of Dirichlet mixtures, for the search's goal.

    The ensemble picks the tenth of them that the merge looks at:
    it costs no model, and what is among the best hundredth of one lies hardly
    ever outside the best tenth of the other. Both look at the dev documents
    that tables of mixtures are scored on. What was scored once is read back, so
    a call that goes on after a kill, or months later, gives the same mixtures.
    """
    table = dirichlet(
        scorer.members,
        config.validate.candidates,
        config.score.concentration,
        config.validate.seed,
    )
    w_MC = np.array([_rounded(w_C) for w_C in table.w_MC])
    windows = config.score.windows
    problem = pose(scorer, dataclasses.replace(config.search, windows=windows))
    order = np.argsort(cheap_values(problem, w_MC), kind="stable")
    kept = order[: max(1, round(_SHORTLIST * len(w_MC)))]
    table = dataclasses.replace(table, w_MC=w_MC).take(kept)
    rows = problem.loss.rows
    merge = scorer.predictors.merge("candidates of reference runs", table, rows)
    bits_MD = bits_of(scorer.evaluation, merge, "dev")
    value_M = problem.objective_on(rows).penalised(bits_MD)
    best = max(1, round(_BEST * len(w_MC)))
    return table.w_MC[np.argsort(value_M, kind="stable")[:best]]


def run_of(
    members: Sequence[str],
    w_C: np.ndarray,
    config: ValidateConfig,
    recipe: RecipeConfig,
) -> Run:
    """The run on a mixture, as long as the budget says."""
    mixture = dict(zip(members, w_C.tolist(), strict=True))
    token_multiplier = config.token_multiplier
    if config.budget == "sum":
        token_multiplier = float(np.count_nonzero(w_C))
    return reference_run(mixture, recipe, token_multiplier)


def fit_runs(
    members: Sequence[str],
    config: ValidateConfig,
    recipe: RecipeConfig,
    judged_MC: np.ndarray,
) -> list[Run]:
    """The calibration runs, none of which is judged."""
    only_subsets = config.budget == "sum"
    mixture_MC = design(
        config.calibration_runs, len(members), only_subsets, config.seed, judged_MC
    )
    return [run_of(members, w_C, config, recipe) for w_C in mixture_MC]


def replicate_runs(
    reference_runs: Sequence[Run], members: Sequence[Run], config: ValidateConfig
) -> list[Run]:
    """The replicates that the configuration names, held-out runs first."""
    chosen = [
        *reference_runs[: config.replicates],
        *members[: config.member_replicates],
    ]
    return [replicate_of(run) for run in chosen]


def mixture_table(members: Sequence[str], runs: Sequence[Run]) -> Mixtures:
    """What runs train on, as mixtures over members."""
    w_MC = np.array([[r.mixture.get(m, 0.0) for m in members] for r in runs])
    return Mixtures(
        tuple(members),
        tuple(run.name for run in runs),
        ("reference",) * len(runs),
        w_MC.reshape(-1, len(members)),
        np.ones(len(runs)),
    )


def _rounded(w_C: np.ndarray) -> np.ndarray:
    # Six decimals: what a table of mixtures can say, so that a run can be
    # named again from one.
    w_C = np.round(w_C, 6)
    w_C[np.argmax(w_C)] += 1 - w_C.sum()
    return w_C


def _subset(count: int, generator: np.random.Generator) -> np.ndarray:
    size = int(generator.integers(2, count + 1))
    chosen = generator.choice(count, size, replace=False)
    return np.bincount(chosen, minlength=count) / size


def design(
    count: int,
    members: int,
    only_subsets: bool = False,
    seed: int = 0,
    exclude_MC: np.ndarray | None = None,
) -> np.ndarray:
    """[count, C] mixtures; the first n of a longer design are the shorter one.

    Args:
      count: of mixtures.
      members: C.
      only_subsets: equal weights only.
      seed: of the candidates.
      exclude_MC: mixtures that may not be used: those that are judged.

    Returns:
      Fewer rows than `count` where there are not so many candidates.
    """
    generator = np.random.default_rng([seed, 9])
    candidate_KC = _candidates(members, only_subsets, generator)
    x_KC = candidate_KC * (1 - candidate_KC)
    # What is to be predicted: what runs are drawn from, and wider mixtures.
    aim_KC = x_KC if only_subsets else _aims(members, generator)
    moment_CC = aim_KC.T @ aim_KC / len(aim_KC)
    covariance_CC = np.eye(members) + _SHARED
    free_K = np.ones(len(candidate_KC), bool)
    if exclude_MC is not None:
        for w_C in exclude_MC:
            # A near twin of a judged run shares its noise, too.
            apart_K = np.abs(candidate_KC - w_C).sum(axis=1) / 2
            free_K &= apart_K >= _APART / 2
    chosen: list[int] = []
    while len(chosen) < count and free_K.any():
        # One more run at x takes V x x' V / (noise + x' V x) off V.
        vx_KC = x_KC @ covariance_CC
        variance_K = _NOISE**2 + np.sum(vx_KC * x_KC, axis=1)
        gain_K = np.sum((vx_KC @ moment_CC) * vx_KC, axis=1) / variance_K
        best = int(np.argmax(np.where(free_K, gain_K, -1.0)))
        chosen.append(best)
        apart_K = np.abs(candidate_KC - candidate_KC[best]).sum(axis=1) / 2
        free_K &= apart_K >= _APART
        step_C = vx_KC[best]
        covariance_CC -= np.outer(step_C, step_C) / variance_K[best]
    return candidate_KC[chosen]


def _candidates(
    c: int, only_subsets: bool, generator: np.random.Generator
) -> np.ndarray:
    """Different mixtures of two members or more, to six decimals."""
    size_K = generator.integers(2, c + 1, _CANDIDATES)
    order_KC = generator.random((_CANDIDATES, c)).argsort(axis=1)
    subset_KC = (order_KC < size_K[:, None]) / size_K[:, None]
    drawn = [subset_KC]
    if not only_subsets:
        drawn += [
            np.round(generator.dirichlet(np.full(c, alpha), _CANDIDATES), 6)
            for alpha in (0.3, 1.0, 4.0)
        ]
    w_KC = np.concatenate(drawn)
    largest_K = np.argmax(w_KC, axis=1)
    w_KC[np.arange(len(w_KC)), largest_K] += 1 - w_KC.sum(axis=1)
    w_KC = w_KC[np.count_nonzero(w_KC, axis=1) > 1]
    _, first = np.unique(np.round(w_KC, 9), axis=0, return_index=True)
    return w_KC[np.sort(first)]


def _aims(c: int, generator: np.random.Generator) -> np.ndarray:
    w_KC = np.concatenate(
        [generator.dirichlet(np.full(c, a), _CANDIDATES) for a in (1.0, 4.0)]
    )
    return w_KC * (1 - w_KC)


def plan(
    config: Config, scorer: Scorer
) -> tuple[list[Reference], list[Run], list[Run]]:
    """What `validate` trains, a function of the configuration and the pool.

    Returns:
      Held-out runs, calibration runs and replicates.

    Raises:
      UserError: no runs are asked for, or the pool is too small for them.
      DamagedError: an override admitted a damaged member.
    """
    if not config.validate.held_out:
        raise UserError(
            "config.validate.held_out is 0: set how many reference runs to "
            "train, or give your own with --runs=MIXTURES.csv,METRICS.csv"
        )
    recipe, members = config.recipe, scorer.members
    if damaged := sorted(scorer.predictors.stack.damaged):
        raise DamagedError(
            "reference runs are drawn over all members, and "
            f"{damaged[0]!r} is damaged: delete its folder in pool/members "
            "and run `jaxsim train` to make it again"
        )
    best_KC = np.zeros((0, len(members)))
    reaches_best = config.validate.held_out > DISTRIBUTION.index("best")
    if config.validate.budget == "fixed" and reaches_best and len(members) > 1:
        best_KC = best_merges(scorer, config)
    held_out = test_reference_runs(members, config.validate, recipe, best_KC)
    runs = [reference.run for reference in held_out]
    fitted = fit_runs(
        members, config.validate, recipe, mixture_table(members, runs).w_MC
    )
    if len(fitted) < config.validate.calibration_runs:
        say(
            f"validate: {len(fitted)} calibration runs instead of "
            f"{config.validate.calibration_runs}: no other mixture of these "
            f"{len(members)} members is far enough from those there are"
        )
    replicates = replicate_runs(
        runs, [member_run(name, recipe) for name in members], config.validate
    )
    return held_out, fitted, replicates


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
    train_missing(runs, scorer.pool, scorer.corpus, trainer, bucket)
    absent = [t for t in needed if not is_published(scorer.pool.entry(t.name))]
    if absent:
        raise UserError(
            f"{len(absent)} of {len(needed)} reference runs are being trained "
            "by another process; run `jaxsim validate` again when it is done"
        )


def validate_trained(
    config: Config,
    scorer: Scorer,
    trainer: Trainer,
    bucket: Bucket | None = None,
) -> Validation:
    """Trains what is missing of a plan, and compares it with every predictor.

    Raises:
      UserError: see `plan`, or another process is not done.
    """
    members, windows = scorer.members, config.validate.windows
    drawn, fit, replicates = plan(config, scorer)
    runs = [reference.run for reference in drawn]
    needed = [*runs, *fit]
    table = mixture_table(members, runs)
    # Runs that could not be compared with any merge are not trained.
    scorer.check(table)
    train_reference_runs(scorer, needed, [*needed, *replicates], trainer, bucket)
    # Select text is needed with calibration runs, too: once all are judged,
    # every run teaches what searches use.
    trained = _entries(scorer, REFERENCE_RUNS, runs, None, windows)
    held_out = measured(scorer.score(MIXTURES, table, None, windows), trained)
    fitted, used = None, [trained]
    if fit:
        fit_table = mixture_table(members, fit)
        predictors = scorer.score(CALIBRATION_MIXTURES, fit_table, "dev", windows)
        used.append(_entries(scorer, FIT, fit, "dev", windows))
        fitted = measured(predictors, used[-1])
    rows = trained.predictors["reference"].rows
    repeated = None
    if replicates:
        again = _entries(scorer, REPLICATES, replicates, "test", windows)
        used.append(again)
        standard = scorer.standard().on(rows)
        repeated = _pairs(trained, again, standard, replicates)
    as_long = all(run.steps == config.recipe.steps for run in needed)
    return compare(
        basis_of(scorer.corpus, scorer.standard(), as_long, rows, used),
        held_out,
        fitted,
        repeated,
        min(config.validate.replicates, len(runs)),
        distributions=[reference.distribution for reference in drawn],
        by_size=config.validate.budget == "sum",
    )


def replicate_pairs(
    config: Config, scorer: Scorer
) -> tuple[np.ndarray, np.ndarray] | None:
    """Bits per byte [P, D] of members and of their replicates.

    Those that earlier calls trained; nothing is trained here.
    """
    runs = [
        run
        for run in replicate_runs(
            [],
            [member_run(name, config.recipe) for name in scorer.members],
            config.validate,
        )
        if is_published(scorer.pool.entry(run.name))
    ]
    if not runs:
        return None
    windows = config.validate.windows
    again = _entries(scorer, "member-replicates", runs, "test", windows)
    first = scorer.standard().on(again.predictors["reference"].rows)
    return _pairs(None, again, first, runs)


def _entries(
    scorer: Scorer,
    name: str,
    runs: Sequence[Run],
    split: str | None,
    windows: int,
) -> Scores:
    return scorer.score_entries(name, [r.name for r in runs], split, windows)


def _pairs(
    reference_runs: Scores | None,
    again: Scores,
    standard: Scores,
    replicates: Sequence[Run],
) -> tuple[np.ndarray, np.ndarray] | None:
    """Bits per byte [P, D] of runs and of their replicates, if any."""
    first = _by_name(standard, "merge")
    if reference_runs is not None:
        first |= _by_name(reference_runs, "reference")
    second = _by_name(again, "reference")
    # Under an override a damaged member has no score to be compared with.
    pairs = [
        (first[base], second[run.name])
        for run in replicates
        if (base := run.name.rpartition(".replicate")[0]) in first
    ]
    if not pairs:
        return None
    return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])


def _by_name(scores: Scores, predictor: str) -> dict[str, np.ndarray]:
    bits_MD = scores.bits_per_byte(predictor, "test")
    return dict(zip(scores.table.names, bits_MD, strict=True))
