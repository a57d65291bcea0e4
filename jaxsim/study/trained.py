"""Truths that are trained here: drawn, designed, repeated, scored, compared."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxsim.config import Config
from jaxsim.errors import DamagedError, UserError
from jaxsim.log import say
from jaxsim.mixture.scorer import Scorer
from jaxsim.mixture.scores import Scores
from jaxsim.pool.bucket import Bucket
from jaxsim.pool.build import train_missing
from jaxsim.pool.publish import is_published
from jaxsim.study.compare import compare
from jaxsim.study.measured import basis_of, measured
from jaxsim.study.scale import scale_of
from jaxsim.study.truths import (
    LAW,
    Truth,
    best_merges,
    fit_runs,
    ratio_table,
    repeat_runs,
    report_truths,
)
from jaxsim.study.validate import Validation
from jaxsim.train import Run, Trainer, member_run

TRUTHS, RATIOS = "truths", "ratios"
FIT, FIT_RATIOS, REPEATS = "fit-truths", "fit-ratios", "repeats"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `validate` trains."""

    judged: list[Truth]
    fitted: list[Run]
    repeats: list[Run]

    @property
    def needed(self) -> list[Run]:
        """The truths without which nothing can be compared."""
        return [*(truth.run for truth in self.judged), *self.fitted]


def plan(config: Config, scorer: Scorer) -> Plan:
    """The truths and repeats of a configuration, a function of the pool.

    Raises:
      UserError: no truths are asked for, or the pool is too small for them.
      DamagedError: an override admitted a damaged member.
    """
    if not config.validate.truths:
        raise UserError(
            "config.validate.truths is 0: set how many truths to train, or "
            "give your own with --truths=ratios.csv,metrics.csv"
        )
    recipe, members = config.recipe, scorer.members
    if damaged := sorted(scorer.proxies.stack.damaged):
        raise DamagedError(
            f"truths are drawn over all members, and a truth uses "
            f"{damaged[0]!r}, which is damaged: delete its folder in "
            "pool/members and run `jaxsim train` to make it again"
        )
    best_KC = np.zeros((0, len(members)))
    reaches_best = config.validate.truths > LAW.index("best")
    if config.validate.budget == "fixed" and reaches_best and len(members) > 1:
        best_KC = best_merges(scorer, config)
    judged = report_truths(members, config.validate, recipe, best_KC)
    runs = [truth.run for truth in judged]
    fitted = fit_runs(
        members, config.validate, recipe, ratio_table(members, runs).w_MC
    )
    if len(fitted) < config.validate.fit:
        say(
            f"validate: {len(fitted)} fit truths in place of "
            f"{config.validate.fit}: no other ratio of these "
            f"{len(members)} members lies apart from those there are"
        )
    repeats = repeat_runs(
        runs, [member_run(name, recipe) for name in members], config.validate
    )
    return Plan(judged, fitted, repeats)


def train_truths(
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
            f"{len(absent)} of {len(needed)} truths are being trained by "
            "another process; run `jaxsim validate` again when it is done"
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
    asked = plan(config, scorer)
    runs = [truth.run for truth in asked.judged]
    table = ratio_table(members, runs)
    fit_table = ratio_table(members, asked.fitted)
    # Truths that could not be compared with any merge are not trained.
    scorer.check(table)
    wanted = [*asked.needed, *asked.repeats]
    train_truths(scorer, asked.needed, wanted, trainer, bucket)
    # A calibration of these needs select text; with fit truths it does, too:
    # once all are judged, every truth teaches what searches use.
    trained = _entries(scorer, TRUTHS, runs, None, windows)
    judged = measured(scorer.score(RATIOS, table, None, windows), trained)
    fitted = scaled = None
    if asked.fitted:
        fit_trained = _entries(scorer, FIT, asked.fitted, "select", windows)
        fitted = measured(
            scorer.score(FIT_RATIOS, fit_table, "select", windows), fit_trained
        )
        scaled = scale_of(scorer, fit_table, fitted, table, windows)
    rows = trained.proxies["truth"].rows
    repeated = None
    if asked.repeats:
        again = _entries(scorer, REPEATS, asked.repeats, "report", windows)
        pairs = _pairs(trained, again, scorer.references().on(rows),
                       asked.repeats)  # fmt: skip
        repeated = pairs if len(pairs[0]) else None
    as_long = all(run.steps == config.recipe.steps for run in asked.needed)
    return compare(
        basis_of(scorer.corpus, scorer.references(), as_long, rows),
        judged,
        fitted,
        scaled,
        repeated,
        min(config.validate.repeats, len(runs)),
        laws=[truth.law for truth in asked.judged],
        by_size=config.validate.budget == "sum",
    )


def repeat_pairs(
    config: Config, scorer: Scorer
) -> tuple[np.ndarray, np.ndarray] | None:
    """Bits per byte [P, D] of members repeated before, and of the repeats.

    What is there of earlier calls; nothing is trained.
    """
    runs = [
        run
        for run in repeat_runs(
            [],
            [member_run(name, config.recipe) for name in scorer.members],
            config.validate,
        )
        if is_published(scorer.pool.entry(run.name))
    ]
    if not runs:
        return None
    windows = config.validate.windows
    again = _entries(scorer, "member-repeats", runs, "report", windows)
    first = scorer.references().on(again.proxies["truth"].rows)
    pairs = _pairs(None, again, first, runs)
    return pairs if len(pairs[0]) else None


def _entries(
    scorer: Scorer,
    name: str,
    runs: Sequence[Run],
    half: str | None,
    windows: int,
) -> Scores:
    return scorer.score_entries(name, [r.name for r in runs], half, windows)


def _pairs(
    truths: Scores | None,
    again: Scores,
    references: Scores,
    repeats: Sequence[Run],
) -> tuple[np.ndarray, np.ndarray]:
    """Bits per byte [P, D] of runs that were repeated, and of the repeats."""
    first = _by_name(references, "merge")
    if truths is not None:
        first |= _by_name(truths, "truth")
    second = _by_name(again, "truth")
    # Under an override a damaged member has no score to be compared with.
    pairs = [
        (first[base], second[run.name])
        for run in repeats
        if (base := run.name.rpartition(".order")[0]) in first
    ]
    return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])


def _by_name(scores: Scores, proxy: str) -> dict[str, np.ndarray]:
    bits_MD = scores.bits_per_byte(proxy, "report")
    return dict(zip(scores.table.names, bits_MD, strict=True))
