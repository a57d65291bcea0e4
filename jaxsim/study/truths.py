"""Which ratios are really trained, to see how far a proxy can be trusted.

`report` truths are drawn at random from a declared law and are judged before
anything is fitted on them, so that agreement is not flattered. In turn:

- a Dirichlet distribution over all members, two times of four;
- equal weights over a subset of two or more, one time of four;
- one of the merge's best 1 % of many Dirichlet mixtures on select documents,
  one time of four: where a choice is made, and where ranking is hardest.

Singles are left out, because at horizon 1 they are members again. The first
n truths of a longer list are those of the shorter one.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsim.config import Config, RecipeConfig, ValidateConfig
from jaxsim.errors import UserError
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.scores import Scores
from jaxsim.mixture.table import Mixtures, dirichlet
from jaxsim.search.problem import cheap_values, pose
from jaxsim.study.design import design
from jaxsim.train import Run, repeat_of, truth_run

LAW = ("dirichlet", "subset", "dirichlet", "best")
_BEST = 0.01  # share of the candidates that 'best' is drawn from
_SHORTLIST = 0.1  # share of the candidates that a merge is scored for


@dataclasses.dataclass(frozen=True)
class Truth:
    """A run on a ratio, and the part of the law that it was drawn from."""

    law: str  # 'dirichlet', 'subset', 'best', or 'fit'
    run: Run


def report_truths(
    members: Sequence[str],
    config: ValidateConfig,
    recipe: RecipeConfig,
    best_KC: np.ndarray,
) -> list[Truth]:
    """The truths that agreement comes from, a function of the arguments.

    With the budget 'sum' there are only subsets, as in the paper.

    Args:
      best_KC: what 'best' is drawn from; see `best_merges`.

    Raises:
      UserError: fewer than two members, or fewer different ratios than asked.
    """
    if len(members) < 2:
        raise UserError("validate needs a pool of at least two members")
    # A stream for each part: a longer list begins with the shorter one.
    streams = {
        law: np.random.default_rng([config.rng, i])
        for i, law in enumerate(sorted(set(LAW)))
    }
    truths: dict[str, Truth] = {}
    for draw in range(100 * config.truths):
        if len(truths) == config.truths:
            return list(truths.values())
        law = "subset" if config.budget == "sum" else LAW[draw % len(LAW)]
        generator = streams[law]
        if law == "subset":
            w_C = _subset(len(members), generator)
        elif law == "best" and not len(best_KC):
            continue
        elif law == "best":
            w_C = best_KC[generator.integers(len(best_KC))]
        else:
            alpha_C = np.full(len(members), config.concentration)
            w_C = _rounded(generator.dirichlet(alpha_C))
        if np.count_nonzero(w_C) > 1:  # a small concentration gives singles
            run = run_of(members, w_C, config, recipe)
            truths.setdefault(run.name, Truth(law, run))
    if len(truths) == config.truths:
        return list(truths.values())
    raise UserError(
        f"config.validate.truths={config.truths}: this pool of "
        f"{len(members)} members has not so many different ratios"
    )


def best_merges(scorer: Scorer, config: Config) -> np.ndarray:
    """[K, C] the merge's best 1 % of Dirichlet mixtures, for the search's goal.

    The probability average picks the tenth of them that the merge looks at:
    it costs no model, and what is among the best hundredth of one lies hardly
    ever outside the best tenth of the other. On the select documents that
    tables of mixtures are scored on. What was scored once is read back, so a
    call that goes on after a kill, or months later, gives the same mixtures.
    """
    table = dirichlet(
        scorer.members,
        config.validate.candidates,
        config.score.concentration,
        config.validate.rng,
    )
    w_MC = np.array([_rounded(w_C) for w_C in table.w_MC])
    windows = config.score.windows
    problem = pose(scorer, dataclasses.replace(config.search, windows=windows))
    order = np.argsort(cheap_values(problem, w_MC), kind="stable")
    kept = order[: max(1, round(_SHORTLIST * len(w_MC)))]
    table = dataclasses.replace(table, w_MC=w_MC).take(kept)
    rows = problem.loss.rows
    merge = scorer.proxies.merge("candidates of truths", table, rows)
    scores = Scores("", table, scorer.evaluation, {"merge": merge})
    goal = problem.objective_on(rows)
    value_M = goal.penalised(scores.bits_per_byte("merge", "select"))
    best = max(1, round(_BEST * len(w_MC)))
    return table.w_MC[np.argsort(value_M, kind="stable")[:best]]


def run_of(
    members: Sequence[str],
    w_C: np.ndarray,
    config: ValidateConfig,
    recipe: RecipeConfig,
) -> Run:
    """The run of a ratio, as long as the budget says."""
    ratio = dict(zip(members, w_C.tolist(), strict=True))
    horizon = config.horizon
    if config.budget == "sum":
        horizon = float(np.count_nonzero(w_C))
    return truth_run(ratio, recipe, horizon)


def fit_runs(
    members: Sequence[str],
    config: ValidateConfig,
    recipe: RecipeConfig,
    judged_MC: np.ndarray,
) -> list[Run]:
    """The truths that only a calibration sees: none of those judged."""
    only_subsets = config.budget == "sum"
    ratio_MC = design(
        config.fit, len(members), only_subsets, config.rng, judged_MC
    )
    return [run_of(members, w_C, config, recipe) for w_C in ratio_MC]


def repeat_runs(
    truths: Sequence[Run], members: Sequence[Run], config: ValidateConfig
) -> list[Run]:
    """The repeats that the configuration names, truths first."""
    chosen = [*truths[: config.repeats], *members[: config.member_repeats]]
    return [repeat_of(run) for run in chosen]


def ratio_table(members: Sequence[str], runs: Sequence[Run]) -> Mixtures:
    """The ratios of truths as mixtures over members."""
    w_MC = np.array([[r.ratio.get(m, 0.0) for m in members] for r in runs])
    return Mixtures(
        tuple(members),
        tuple(run.name for run in runs),
        ("truth",) * len(runs),
        w_MC.reshape(-1, len(members)),
        np.ones(len(runs)),
    )


def _rounded(w_C: np.ndarray) -> np.ndarray:
    # Six decimals: what a table of ratios can say, so that a truth can be
    # named again from one.
    w_C = np.round(w_C, 6)
    w_C[np.argmax(w_C)] += 1 - w_C.sum()
    return w_C


def _subset(count: int, generator: np.random.Generator) -> np.ndarray:
    size = int(generator.integers(2, count + 1))
    chosen = generator.choice(count, size, replace=False)
    return np.bincount(chosen, minlength=count) / size
