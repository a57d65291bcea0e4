"""What the ensemble costs, for very many mixtures.

    python benchmarks/probability.py runs/quickstart

Draws mixtures over the members of a finished workdir and sums their loss over
every select token by domain, and for fewer mixtures by window; beside it the
plain float64 formula of NumPy, whose results must be the same. The members'
token losses are computed before, if the workdir does not have them.
"""

import functools
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np

COUNTS = (1_000, 10_000, 100_000)
COMPARED = 256  # mixtures of the plain formula and of the sums by window
REPLICATES = 3


def plain(
    w_MC: np.ndarray, nll_CT: np.ndarray, group_T: np.ndarray, groups: int
) -> np.ndarray:
    """[M, G]: exp, a matrix product and a logarithm, all in float64."""
    nll_MT = -np.log(w_MC @ np.exp(-nll_CT.astype(np.float64)))
    return np.stack([np.bincount(group_T, n, groups) for n in nll_MT])


def seconds(call: Callable[[], object]) -> float:
    """The fastest of a few calls, after one that compiles."""
    call()
    taken = []
    for _ in range(REPLICATES):
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def measure(workdir: Path) -> dict[str, Any]:
    # Imported when the process is pinned: XLA counts the cores at its start.
    import jaxsim
    from jaxsim.scoring.ensemble import Ensemble

    scorer = jaxsim.Scorer(workdir)
    e, members = scorer.evaluation, len(scorer.members)
    chosen_T = np.repeat(e.split_R == 0, e.count_R)
    nll_CT = np.ascontiguousarray(scorer.token_losses[1:, chosen_T])
    domain_T = np.repeat(e.domain_R, e.count_R)[chosen_T]
    window_T = np.repeat(np.arange(len(e)), e.count_R)[chosen_T]
    tokens, domains = len(domain_T), len(e.domains)

    def cost(mixtures: int, taken: float) -> dict[str, float]:
        return {
            "mixtures": mixtures,
            "seconds": round(taken, 3),
            "picoseconds_per_token_and_mixture": round(
                taken / tokens / mixtures * 1e12, 1
            ),
        }

    def draw(mixtures: int) -> np.ndarray:
        generator = np.random.default_rng(mixtures)
        return generator.dirichlet(np.ones(members), mixtures)

    by_domain = Ensemble(nll_CT, domain_T, domains)
    by_window = Ensemble(nll_CT, window_T, len(e))
    result: dict[str, Any] = {
        "members": members,
        "dev_tokens": tokens,
        "dev_windows": int((e.split_R == 0).sum()),
        "domains": domains,
        "by_domain": [],
    }
    for mixtures in COUNTS:
        w_MC = draw(mixtures)
        before = _peak()
        taken = seconds(functools.partial(by_domain.sums, w_MC))
        line = cost(mixtures, taken)
        line["peak_grew_by_mib"] = round(_peak() - before, 1)
        result["by_domain"].append(line)
    w_MC = draw(COMPARED)
    result["by_window"] = cost(COMPARED, seconds(lambda: by_window.sums(w_MC)))
    result["numpy_float64"] = cost(
        COMPARED, seconds(lambda: plain(w_MC, nll_CT, domain_T, domains))
    )
    for name, average, group_T in (
        ("by_domain", by_domain, domain_T),
        ("by_window", by_window, window_T),
    ):
        groups = int(group_T.max()) + 1
        expected = plain(w_MC, nll_CT, group_T, groups)
        there = expected > 0
        found = average.sums(w_MC)[:, :groups][there] / expected[there]
        result[f"largest_relative_difference_{name}"] = float(np.abs(found - 1).max())
    return result


def _peak() -> float:
    """MiB that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = machine.parser(__doc__, threads=2)
    parser.add_argument("workdir", type=Path)
    arguments = parser.parse_args()
    machine.pin(arguments.threads)
    result = {
        "machine": machine.describe(("jax", "jaxlib", "numpy")),
        **measure(arguments.workdir),
    }
    print(json.dumps(result, indent=2))
    machine.save(arguments.out, "probability", result)


if __name__ == "__main__":
    main()
