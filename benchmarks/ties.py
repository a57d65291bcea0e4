"""Do tie sets keep what they promise? Simulated, with known means.

    python benchmarks/ties.py --threads=2

Problems come from fixed random seeds. A document's loss is a skewed function of how
well it fits each of eight sources, and mixtures are points of their simplex, so that
near ones are alike ('simplex'). Or every mixture has separate errors ('alone'). Or the
best one is quiet and others are noisy ('loud'). All go through the real `resampled` and
`tie_set`. Read each share with its standard error: 1.7 % at a level of 90 % and 300
problems.

For comparison, it also shows what was not chosen: a statistic studentized for each
pair, as if the observed best had been fixed; no residual although there is one; and
windows where there are enough documents.
"""

import concurrent.futures
import dataclasses
import functools
import time
from typing import Any

import machine
import numpy as np

from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.search.objective import Objective
from jaxsim.search.ties import Residual, resampled, tie_set

LEVEL = 0.9
BYTES = 100
MEMBERS = 8
REFERENCE_RUNS = 8


@dataclasses.dataclass(frozen=True)
class Problem:
    """Candidates whose population values are known.

    Attributes:
      kind: 'simplex', 'alone' or 'loud', see above.
      candidates: how many.
      documents: of each domain.
      windows: of a document, at most.
      domains: how many, all with the same weight.
      worst: whether the objective is the worst domain instead of their mean.
      curvature: of the population values over the simplex; 0 makes all equal.
      deviation: of reference runs around the values; 0 for no reference runs.
    """

    kind: str
    candidates: int
    documents: int
    windows: int = 1
    domains: int = 1
    worst: bool = False
    curvature: float = 0.0
    deviation: float = 0.0


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A problem's candidates and text: population values [M] and nats [M, R]."""

    evaluation: EvaluationSet
    objective: Objective
    true_M: np.ndarray
    nll_MR: np.ndarray


def skewed(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Lognormal draws with mean 0, standard deviation 1 and skewness 6."""
    draws = generator.lognormal(0, 1, shape)
    return (draws - np.exp(0.5)) / np.sqrt(np.exp(1) * (np.exp(1) - 1))


def draw(problem: Problem, generator: np.random.Generator) -> Drawn:
    """Bits per byte around 3; documents differ by about 1."""
    p = problem
    e = _text(p, generator)
    count, documents = p.candidates, len(e.documents)
    w_MC = generator.dirichlet(np.full(MEMBERS, 0.7), count)
    target_C = generator.dirichlet(np.full(MEMBERS, 3.0))
    true_M = p.curvature * ((w_MC - target_C) ** 2).sum(1)
    true_M = true_M - true_M.min()
    noise_ME = 0.3 * skewed(generator, (1, documents))
    if p.kind == "simplex":
        fit_CE = skewed(generator, (MEMBERS, documents))
        noise_ME = noise_ME + 0.3 * w_MC @ fit_CE
    else:
        loud_M = np.full(count, 0.3)
        if p.kind == "loud":
            loud_M[generator.random(count) < 0.9] = 1.5
            loud_M[np.argmin(true_M)] = 0.3
        own_ME = skewed(generator, (count, documents))
        noise_ME = noise_ME + 0.3 * loud_M[:, None] * own_ME
    bits_MR = 3 + true_M[:, None] + noise_ME[:, e.document_R]
    bits_MR += generator.normal(0, 0.05, bits_MR.shape)
    weights_D = np.full(p.domains, 1 / p.domains)
    objective = Objective.of_domains(
        domains=e.domains,
        weights_D=weights_D,
        kind="worst" if p.worst else "mean",
        base_D=np.full(p.domains, 3.0),
        max_regression_D=np.full(p.domains, np.inf),
    )
    nll_MR = (bits_MR * BYTES * np.log(2)).astype(np.float32)
    return Drawn(e, objective, true_M, nll_MR)


def held(problem: Problem, seed: list[int]) -> dict[str, float]:
    """Whether each method holds the true best, and its share of the candidates."""
    generator = np.random.default_rng(seed)
    drawn = draw(problem, generator)
    ask = functools.partial(
        resampled, drawn.evaluation, np.arange(len(drawn.evaluation)),
        drawn.nll_MR, drawn.objective, seed=seed[-1],
    )  # fmt: skip
    values = ask()
    reference_M, residual = drawn.true_M, None
    if problem.deviation:
        scatter = generator.normal(
            0, problem.deviation, problem.candidates + REFERENCE_RUNS
        )
        reference_M = reference_M + scatter[:-REFERENCE_RUNS]
        residual = Residual(
            float(scatter[-REFERENCE_RUNS:].std(ddof=1)), REFERENCE_RUNS
        )
    best = int(np.argmin(reference_M))
    ties = tie_set(*values[:2], LEVEL, residual=residual, seed=seed[-1])
    sets = {"set": ties.tied}
    if residual is None:
        sets["pair by pair"] = pair_by_pair(*values[:2])
    else:
        sets["no residual"] = tie_set(*values[:2], LEVEL, seed=seed[-1]).tied
    if problem.windows > 1:
        sets["as windows"] = tie_set(*ask(enough=20)[:2], LEVEL).tied
    return {name: float(best in tied) for name, tied in sets.items()} | {
        f"{name}: size": len(tied) / problem.candidates for name, tied in sets.items()
    }


def pair_by_pair(value_M: np.ndarray, draw_MB: np.ndarray) -> np.ndarray:
    """The tie set of a statistic that takes the observed best as fixed."""
    best = np.argmin(value_M)
    off_M = value_M - value_M[best]
    noise_MB = draw_MB - draw_MB[best] - off_M[:, None]
    error_M = noise_MB.std(axis=1)
    others_M = np.arange(len(value_M)) != best
    largest_B = (np.abs(noise_MB[others_M]) / error_M[others_M, None]).max(0)
    return np.flatnonzero(off_M <= np.quantile(largest_B, LEVEL) * error_M)


def _text(p: Problem, generator: np.random.Generator) -> EvaluationSet:
    documents = p.documents * p.domains
    count_E = generator.integers(1, p.windows + 1, documents)
    document_R = np.repeat(np.arange(documents), count_E)
    ones_R = np.ones(len(document_R), np.int32)
    return EvaluationSet(
        tokens_RL1=np.zeros((len(ones_R), 2), np.int32),
        first_R=0 * ones_R,
        count_R=ones_R,
        length_R=ones_R,
        domain_R=document_R // p.documents,
        split_R=0 * ones_R,
        document_R=document_R,
        bytes_R=BYTES * ones_R,
        domains=tuple(f"d{d}" for d in range(p.domains)),
        in_pool=(False,) * p.domains,
        groups=tuple(f"d{d}" for d in range(p.domains)),
        by_document=(False,) * p.domains,
        documents=tuple(map(str, range(documents))),
        digest="simulated",
    )


def tie_problems(quick: bool) -> list[tuple[Problem, int]]:
    """Kinds of problems, with the number of problems of each."""
    few, many = (40, 10) if quick else (300, 60)
    listed = [
        (Problem(kind, 300, documents), few)
        for kind in ("simplex", "alone", "loud")
        for documents in (5, 10, 20, 40, 100)
    ]
    listed += [
        (Problem("simplex", 300, 40, curvature=1.0), few),
        (Problem("simplex", 300, 40, domains=4), few),
        (Problem("simplex", 300, 40, domains=4, worst=True), few),
        (Problem("alone", 300, 40, domains=4, worst=True), few),
        (Problem("simplex", 300, 8, windows=8), few),
    ]
    listed += [
        (Problem("simplex", 300, d, curvature=1.0, deviation=0.1), few)
        for d in (10, 40, 100)
    ]
    big = [(Problem(kind, 10_000, 40), many) for kind in ("simplex", "alone", "loud")]
    big += [
        (Problem("simplex", 10_000, d, curvature=1.0, deviation=0.1), many)
        for d in (10, 40)
    ]
    return listed + big


def simulate(quick: bool, threads: int) -> dict[str, Any]:
    """Shares over all problems, by kind of problem."""
    ties = []
    with concurrent.futures.ProcessPoolExecutor(threads) as pool:
        for number, (problem, count) in enumerate(tie_problems(quick)):
            seeds = [[number, i] for i in range(count)]
            results = list(pool.map(held, [problem] * count, seeds))
            ties.append(dataclasses.asdict(problem) | _mean(results))
            print(_tie_line(ties[-1]), flush=True)
    return {"level": LEVEL, "ties": ties}


def _mean(results: list[dict[str, float]]) -> dict[str, Any]:
    means = {
        key: round(float(np.mean([r[key] for r in results])), 4) for key in results[0]
    }
    return {"problems": len(results), **means}


TIE_HEAD = (
    "| candidates | documents | problems | residual | holds the best | size "
    "| without | size |\n|---|---|---|---|---|---|---|---|"
)


def _tie_line(row: dict[str, Any]) -> str:
    other = "no residual" if row["deviation"] else "pair by pair"
    if row["windows"] > 1:
        other = "as windows"
    documents = f"{row['domains']} x {row['documents']}"
    if row["windows"] > 1:
        documents += f" of 1-{row['windows']} windows"
    kind = row["kind"] + (", worst domain" if row["worst"] else "")
    kind += ", curved" if row["curvature"] else ""
    return (
        f"| {row['candidates']:,}, {kind} | {documents} | {row['problems']} "
        f"| {row['deviation'] or 'none'} | **{row['set']:.1%}** "
        f"| {row['set: size']:.1%} | {other}: {row[other]:.1%} "
        f"| {row[f'{other}: size']:.1%} |"
    )


def table(result: dict[str, Any]) -> str:
    """Markdown: the machine, and the tie sets."""
    about = result["machine"]
    lines = [
        f"{about['cores_used']} of {about['cores']} cores ({about['cpu']}), "
        f"numpy {about['versions']['numpy']}, {about['date']}, "
        f"{result['seconds']:.0f} s.",
        "",
        f"Tie sets at a level of {LEVEL:.0%}. Without curvature all candidates "
        "are equally good, the hardest case. A set's size is a share of the "
        "candidates.",
        "",
        TIE_HEAD,
        *map(_tie_line, result["ties"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = machine.parser(__doc__, threads=2)
    parser.add_argument("--quick", action="store_true", help="few problems")
    arguments = parser.parse_args()
    machine.pin(arguments.threads)
    begin = time.perf_counter()
    result = simulate(arguments.quick, arguments.threads)
    result["seconds"] = round(time.perf_counter() - begin, 1)
    result["machine"] = machine.describe(("numpy",))
    machine.save(arguments.out, "ties", result, table(result))


if __name__ == "__main__":
    main()
