"""Which ratios are really trained, to see how far a proxy can be trusted.

They are drawn at random from a declared law and nothing is fitted on them, so
agreement is not flattered. Half come from a Dirichlet distribution, half are
equal-weight subsets of two or more members; singles are left out, because at
horizon 1 they are members again.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsim.config import RecipeConfig, ValidateConfig
from jaxsim.errors import UserError
from jaxsim.mixture.csv_numbers import read_numbers
from jaxsim.mixture.table import Mixtures, read_csv
from jaxsim.train import Run, repeat_of, truth_run


def truth_runs(
    members: Sequence[str], config: ValidateConfig, recipe: RecipeConfig
) -> list[Run]:
    """The truths of a configuration, a function of its `rng`.

    Raises:
      UserError: fewer than two members.
    """
    if len(members) < 2:
        raise UserError("validate needs a pool of at least two members")
    generator = np.random.default_rng(config.rng)
    runs: dict[str, Run] = {}
    draws = 0
    while len(runs) < config.truths:
        use_subset = config.budget == "sum" or draws % 2 == 1
        draws += 1
        if draws > 100 * config.truths:
            raise UserError(
                f"config.validate.truths={config.truths}: this pool of "
                f"{len(members)} members has not so many different ratios"
            )
        w_C = (
            _subset(len(members), generator)
            if use_subset
            else _dirichlet(len(members), config.concentration, generator)
        )
        if np.count_nonzero(w_C) < 2:
            continue  # a small concentration rounds to a single
        ratio = dict(zip(members, w_C.tolist(), strict=True))
        horizon = config.horizon
        if config.budget == "sum":
            horizon = float(np.count_nonzero(w_C))
        run = truth_run(ratio, recipe, horizon)
        runs.setdefault(run.name, run)
    return list(runs.values())


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
        w_MC,
        np.ones(len(runs)),
    )


def read_truths(
    ratios: Path, metrics: Path, members: Sequence[str], domains: Sequence[str]
) -> tuple[Mixtures, np.ndarray]:
    """Runs that the user already has.

    Args:
      ratios: a CSV with `name` and a column of weights for each member.
      metrics: a CSV with `name` and bits per byte for some domains.
      members: of the pool.
      domains: of the corpus.

    Returns:
      The ratios as mixtures, and [M, D] bits per byte with NaN for domains
      without a column.

    Raises:
      UserError: names file, line and column.
    """
    table = read_csv(members, ratios)
    header, lines = read_numbers(metrics, text_columns=("name",))
    unknown = [h for h in header if h not in (*domains, "name")]
    if unknown:
        raise UserError(
            f"{metrics}: column {unknown[0]!r} is not a domain; domains are "
            f"{', '.join(domains)}"
        )
    if len(header) < 2:
        raise UserError(f"{metrics}: no column is a domain")
    by_name = {line["name"]: line for line in lines}
    if len(by_name) < len(lines):
        raise UserError(f"{metrics}: a name is used twice")
    bits_MD = np.full((len(table), len(domains)), np.nan)
    for m, name in enumerate(table.names):
        if name not in by_name:
            raise UserError(f"{metrics}: no row for {name!r} of {ratios}")
        for d, domain in enumerate(domains):
            if domain in header:
                bits_MD[m, d] = float(by_name[name][domain])
                if not math.isfinite(bits_MD[m, d]):
                    raise UserError(
                        f"{metrics}, row {name!r}, column {domain}: "
                        f"{bits_MD[m, d]} is not finite"
                    )
    return table, bits_MD


def _dirichlet(
    count: int, concentration: float, generator: np.random.Generator
) -> np.ndarray:
    w_C = generator.dirichlet(np.full(count, concentration))
    # Six decimals: what a table of ratios can say, so that a truth can be
    # named again from one.
    w_C = np.round(w_C, 6)
    w_C[np.argmax(w_C)] += 1 - w_C.sum()
    return w_C


def _subset(count: int, generator: np.random.Generator) -> np.ndarray:
    size = int(generator.integers(2, count + 1))
    chosen = generator.choice(count, size, replace=False)
    return np.bincount(chosen, minlength=count) / size
