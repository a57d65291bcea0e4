"""Do intervals over reference runs cover the true value as often as they say?

    python benchmarks/coverage.py

Reference runs are drawn from sampling distributions whose values are known, and go
through the real `mean_spearman`, `paired_difference` and `noise_ceiling`. Beside them
stands what was not chosen: the percentile bootstrap, BCa (Efron 1987), and Fisher's
scale with the variance of Bonett and Wright (2000), which is made for one
correlation of a normal sampling distribution.

A reference run has a quality that its targets share, a quality of each target, and
an error of each of two predictors, half of which both make.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import machine
import numpy as np
import scipy.stats

from jaxsim.validation.agreement import (
    Interval,
    mean_spearman,
    noise_ceiling,
    paired_difference,
    spearman_of,
)

LEVEL = 0.95
COUNTS = (12, 16, 32)
TARGETS = 12
REPLICATES = 6
NOISE = 0.1  # share of a reference run's variance, where the ceiling is asked for
DRAWS = 300  # of a bootstrap
LARGE = 400_000  # reference runs that a sampling distribution's value is taken from

TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
FIGURES = {
    "one": "Spearman of one target",
    "mean": f"mean Spearman of {TARGETS} targets",
    "difference": f"difference of two, {TARGETS} targets",
    "ceiling": f"noise ceiling, {REPLICATES} replicates",
}

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
Ends = tuple[float, float]


def normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return generator.standard_normal(shape)


def skewed(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Lognormal, mean 0, standard deviation 1, skewness 6."""
    draws = generator.lognormal(0, 1, shape)
    return (draws - np.exp(0.5)) / np.sqrt(np.exp(1) * (np.exp(1) - 1))


def heavy(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Student's t with 2 degrees of freedom: no variance."""
    return generator.standard_t(2, shape)


def grouped(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """A third lies apart, as where some mixtures hold the own partition."""
    apart = 3.0 * (generator.random(shape) < 1 / 3) - 1
    return (apart + 0.5 * generator.standard_normal(shape)) / 1.5


def student(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Student's t with 5 degrees of freedom, variance 1."""
    return generator.standard_t(5, shape) / np.sqrt(5 / 3)


@dataclasses.dataclass(frozen=True)
class Law:
    """Where reference runs come from.

    Attributes:
      name: of a row.
      a, b: correlations of two predictors' values with reference runs, if normal.
      quality, error: sampling distributions of them.
      shared: share of the reference runs' variance that is one number for all targets.
      levels: the first predictor takes so many values; 0: no ties.
    """

    name: str
    a: float
    b: float
    quality: Draw = normal
    error: Draw = normal
    shared: float = 0.5
    levels: int = 0


DISTRIBUTIONS = (
    Law("no correlation", 0.0, 0.0),
    Law("normal", 0.7, 0.5),
    Law("normal, 0.9", 0.9, 0.7),
    Law("normal, 0.97", 0.97, 0.97),
    Law("skewed", 0.8, 0.6, skewed, skewed),
    Law("heavy tails", 0.8, 0.6, heavy, heavy),
    Law("two groups", 0.9, 0.8, grouped),
    Law("one noise", 0.8, 0.6, shared=1.0),
    Law("five levels", 0.8, 0.6, levels=5),
)


CEILINGS = (
    ("normal", normal, normal),
    ("two groups, normal noise", grouped, normal),
    ("t of 5 degrees, signal and noise", student, student),
    ("skewed, normal noise", skewed, normal),
)


def draw(
    distribution: Law, count: int, targets: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two predictors and reference runs, each [M, T]."""
    shape = count, targets
    both_MT = np.sqrt(distribution.shared) * distribution.quality(generator, (count, 1))
    reference_MT = both_MT + np.sqrt(1 - distribution.shared) * distribution.quality(
        generator, shape
    )
    # Where all of a reference run is one number for all targets, so is the error.
    wide = (count, 1) if distribution.shared == 1 else shape
    common_MT = distribution.error(generator, wide)
    predicted = []
    for correlation in (distribution.a, distribution.b):
        own_MT = distribution.error(generator, wide)
        error_MT = (common_MT + own_MT) / np.sqrt(2)
        predicted.append(
            correlation * reference_MT + np.sqrt(1 - correlation**2) * error_MT
        )
    if distribution.levels:
        ends = np.linspace(-1.5, 1.5, distribution.levels - 1)
        predicted[0] = np.digitize(predicted[0], ends).astype(float)
    if distribution.shared == 1:
        # The targets differ a little, so that they are not one.
        reference_MT = reference_MT + 0.1 * normal(generator, shape)
        predicted = [np.broadcast_to(x, shape) for x in predicted]
    return predicted[0], predicted[1], reference_MT


def values(distribution: Law) -> dict[str, float]:
    """What the intervals are to hold, from very many reference runs of one target."""
    a, b, reference = (
        x[:, 0] for x in draw(distribution, LARGE, 1, _generator(distribution.name))
    )
    rho_a, rho_b = (scipy.stats.spearmanr(x, reference)[0] for x in (a, b))
    return {"one": rho_a, "mean": rho_a, "difference": rho_a - rho_b}


def intervals(
    a_MT: np.ndarray, b_MT: np.ndarray, reference_MT: np.ndarray
) -> dict[str, Interval]:
    return {
        "one": mean_spearman(a_MT[:, :1], reference_MT[:, :1], LEVEL),
        "mean": mean_spearman(a_MT, reference_MT, LEVEL),
        "difference": paired_difference(a_MT, b_MT, reference_MT, LEVEL),
    }


def statistics(
    a_MT: np.ndarray, b_MT: np.ndarray, reference_MT: np.ndarray
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The figures [J] of samples, which bootstraps resample."""

    def values_J(count_JM: np.ndarray) -> dict[str, np.ndarray]:
        a_J = spearman_of(count_JM, a_MT, reference_MT, False)
        b_J = spearman_of(count_JM, b_MT, reference_MT, False)
        return {
            "one": spearman_of(count_JM, a_MT[:, :1], reference_MT[:, :1], False),
            "mean": a_J,
            "difference": a_J - b_J,
        }

    return values_J


def samples(count: int, generator: np.random.Generator) -> np.ndarray:
    """[1 + M + DRAWS, M] all reference runs, all but each, and bootstraps."""
    drawn_JM = generator.multinomial(count, np.full(count, 1 / count), DRAWS)
    all_1M = np.ones((1, count))
    return np.concatenate([all_1M, 1 - np.eye(count), drawn_JM])


def bootstraps(value_J: np.ndarray, count: int) -> dict[str, Ends]:
    """Percentile and BCa, of the figures of `samples`."""
    sample, without_M, drawn_J = np.split(value_J, [1, 1 + count])
    drawn_J = drawn_J[np.isfinite(drawn_J)]
    below = np.mean(drawn_J < sample) + np.mean(drawn_J == sample) / 2
    bias = scipy.stats.norm.ppf(np.clip(below, 1 / DRAWS, 1 - 1 / DRAWS))
    off_M = without_M.mean() - without_M
    skew = np.sum(off_M**3) / (6 * np.sum(off_M**2) ** 1.5 + 1e-300)
    z = bias + scipy.stats.norm.ppf(TAILS)
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = scipy.stats.norm.cdf(bias + z / (1 - skew * z))
    # Where nothing varies without one reference run, there is no acceleration.
    moved = np.where(np.isfinite(moved), moved, TAILS)
    return {
        "percentile": tuple(np.quantile(drawn_J, TAILS)),
        "BCa": tuple(np.quantile(drawn_J, moved)),
    }


def bonett_wright(correlation: float, count: int) -> Ends:
    error = np.sqrt((1 + correlation**2 / 2) / (count - 3))
    reach = scipy.stats.norm.ppf((1 + LEVEL) / 2) * error
    z = np.arctanh(np.clip(correlation, -1 + 1e-9, 1 - 1e-9))
    return np.tanh(z - reach), np.tanh(z + reach)


def cell(
    distribution: Law, true: dict[str, float], count: int, sims: int, boots: int
) -> dict[str, Any]:
    """Coverage and mean length of every interval, for a distribution and a count."""
    generator = _generator(distribution.name, count)
    ends: dict[str, dict[str, list[Ends]]] = {name: {} for name in true}
    for i in range(sims):
        drawn = draw(distribution, count, TARGETS, generator)
        resampled = samples(count, generator)
        figures = statistics(*drawn)(resampled if i < boots else resampled[:1])
        for name, found in intervals(*drawn).items():
            if found.low is not None and found.high is not None:
                _add(ends[name], "jackknife", (found.low, found.high))
            if name in ("one", "mean"):
                fisher = bonett_wright(figures[name][0], count)
                _add(ends[name], "Fisher", fisher)
            if i < boots:
                for way, pair in bootstraps(figures[name], count).items():
                    _add(ends[name], way, pair)
    return {"distribution": distribution.name, "reference runs": count} | {
        name: {"value": _short(true[name])} | _summary(by, true[name])
        for name, by in ends.items()
    }


def ceiling(
    name: str, signal: Draw, noise: Draw, count: int, sims: int, boots: int
) -> dict[str, Any]:
    """The same for the noise ceiling; the first runs have replicates.

    Args:
      name: of a row.
      signal, noise: sampling distributions with a variance, of reference runs and of
        single runs.
      count: M.
    """
    generator = _generator(name, count)
    true = np.sqrt(1 - NOISE)
    ends: dict[str, list[Ends]] = {}
    for i in range(sims):
        signal_M = np.sqrt(1 - NOISE) * signal(generator, (count,))
        first_M, again_M = (
            signal_M + np.sqrt(NOISE) * noise(generator, (count,)) for _ in range(2)
        )
        again_P = again_M[:REPLICATES]
        found = noise_ceiling(first_M, first_M[:REPLICATES], again_P, LEVEL)
        _add(ends, "F", (found.low, found.high))
        if i < boots:
            m_JM = generator.integers(0, count, (DRAWS, count))
            p_JP = generator.integers(0, REPLICATES, (DRAWS, REPLICATES))
            s2_J = np.mean((first_M[p_JP] - again_P[p_JP]) ** 2, axis=1) / 2
            mixture_J = s2_J / np.var(first_M[m_JM], axis=1, ddof=1)
            drawn_J = np.sqrt(np.clip(1 - mixture_J, 0, 1))
            _add(ends, "percentile", tuple(np.quantile(drawn_J, TAILS)))
    about = {"distribution": name, "reference runs": count}
    return about | {"ceiling": {"value": _short(true)} | _summary(ends, true)}


def simulate(sims: int, boots: int) -> dict[str, Any]:
    cells = []
    for distribution in DISTRIBUTIONS:
        true = values(distribution)
        for count in COUNTS:
            cells.append(cell(distribution, true, count, sims, boots))
            print(json.dumps(cells[-1]), flush=True)
    for distributions in CEILINGS:
        for count in COUNTS:
            cells.append(ceiling(*distributions, count, sims, boots))
            print(json.dumps(cells[-1]), flush=True)
    return {
        "level": LEVEL,
        "simulations": sims,
        "bootstrapped": boots,
        "draws": DRAWS,
        "targets": TARGETS,
        "replicates": REPLICATES,
        "cells": cells,
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: what it ran on, the extremes, each figure."""
    about, sims = result["machine"], result["simulations"]
    errors = [
        np.sqrt(LEVEL * (1 - LEVEL) / result[name])
        for name in ("simulations", "bootstrapped")
    ]
    lines = [
        f"{about['cores_used']} of {about['cores']} cores ({about['cpu']}), "
        f"numpy {about['versions']['numpy']}, scipy "
        f"{about['versions']['scipy']}, {about['date']}, "
        f"{result['seconds']:.0f} s.",
        "",
        f"Share of {sims:,} simulations whose interval holds the sampling "
        f"distribution's value, at a level of {LEVEL:.0%}, and the mean length. "
        f"Bootstraps: of the first {result['bootstrapped']}, {DRAWS} draws each. A "
        f"standard error is {errors[0]:.1%}, of bootstraps {errors[1]:.1%}. Bold is "
        "what the package does.",
        "",
        "| figure | way | least | mean | most | mean length |",
        "|---|---|---|---|---|---|",
    ]
    by_figure = {
        figure: [c for c in result["cells"] if figure in c] for figure in FIGURES
    }
    for figure, cells in by_figure.items():
        for way in _ways(figure, cells[0]):
            covered = [c[figure][way]["covered"] for c in cells]
            length = np.mean([c[figure][way]["length"] for c in cells])
            lines.append(
                f"| {FIGURES[figure]} | {way} | {min(covered):.1%} "
                f"| {np.mean(covered):.1%} | {max(covered):.1%} "
                f"| {length:.2f} |"
            )
    for figure, cells in by_figure.items():
        ways = _ways(figure, cells[0])
        lines += [
            "",
            f"{FIGURES[figure][0].upper()}{FIGURES[figure][1:]}:",
            "",
            f"| sampling distribution | reference runs | value | {' | '.join(ways)} |",
            "|---" * (3 + len(ways)) + "|",
        ]
        for c in cells:
            found = [c[figure][way] for way in ways]
            shown = [f"{f['covered']:.1%}, {f['length']:.2f}" for f in found]
            shown[0] = f"**{shown[0]}**"
            lines.append(
                f"| {c['distribution']} | {c['reference runs']} | "
                f"{c[figure]['value']:.2f} | {' | '.join(shown)} |"
            )
    return "\n".join(lines) + "\n"


def _ways(figure: str, some: dict[str, Any]) -> list[str]:
    return [way for way in some[figure] if way != "value"]


def _summary(ends: dict[str, list[Ends]], true: float) -> dict[str, Any]:
    found = {}
    for way, pairs in ends.items():
        low, high = np.array(pairs).T
        found[way] = {
            "simulations": len(pairs),
            "covered": _short(np.mean((low <= true) & (true <= high))),
            "below": _short(np.mean(high < true)),
            "length": _short(np.mean(high - low)),
        }
    return found


def _short(value: float) -> float:
    return round(float(value), 4)


def _add(by: dict[str, list[Ends]], way: str, ends: Ends) -> None:
    by.setdefault(way, []).append(ends)


def _generator(name: str, count: int = 0) -> np.random.Generator:
    return np.random.default_rng([count, *name.encode()])


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--sims", type=int, default=1000)
    parser.add_argument("--boots", type=int, default=100)
    arguments = parser.parse_args()
    machine.pin(1)
    begin = time.perf_counter()
    result = simulate(arguments.sims, arguments.boots)
    result["seconds"] = round(time.perf_counter() - begin, 1)
    result["machine"] = machine.describe(("numpy", "scipy"))
    machine.save(arguments.out, "coverage", result, table(result))


if __name__ == "__main__":
    main()
