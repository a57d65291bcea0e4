"""How well do mixtures alone predict RegMix's published models?

    python benchmarks/regmix.py PATH

PATH is a folder with the tables of the repository sail-sg/regmix (`data/`, MIT
license): shares of 17 subsets of the Pile and losses on 13 of them, of 512
models of 1M parameters to fit on, and of others of 1M, 60M and 1B parameters to
test on. Both regressors are fitted for each domain, on the first 64 of the 512, then
on all; the macro is the mean over domains. Beside them stands the share of the
domain's own subset, to which nothing is fitted (for the macro: the mean share of the
13 subsets).

Spearman: of the predicted with the measured losses of all test mixtures.
Regret: measured loss of the test mixture that is predicted best, minus the
best measured loss, in the tables' unit.
"""

import csv
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
from scipy.stats import spearmanr
from trees import fit_trees

from jaxsim.validation.baselines import Fit, fit_log_linear

RUNS = (64, 512)
SIZES = ("1m", "60m", "1B")
FITS: dict[str, Fit] = {"log-linear": fit_log_linear, "trees": fit_trees}


def read(
    path: Path, split: str, size: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Shares and losses [M] of one split's models, by subset of the Pile.

    Raises:
      SystemExit: the two tables are not of the same models.
    """
    index, shares = _table(path / f"{split}_mixture_{size}.csv", "train_", "")
    other, losses = _table(
        path / f"{split}_pile_loss_{size}.csv", "metric/", "_val_loss"
    )
    if index != other:
        raise SystemExit(f"{path}: {split} {size}: the tables do not pair")
    return shares, losses


def _table(
    path: Path, prefix: str, suffix: str
) -> tuple[list[str], dict[str, np.ndarray]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {
        key.removeprefix(f"{prefix}the_pile_").removesuffix(suffix): np.array(
            [float(row[key]) for row in rows]
        )
        for key in rows[0]
        if key != "index"
    }
    return [row["index"] for row in rows], columns


def measure(path: Path) -> dict[str, Any]:
    """Every agreement, as rows, and the seconds that each fit took."""
    shares, losses = read(path, "train", "1m")
    w_MC = np.stack(list(shares.values()), axis=1)
    tests = {size: read(path, "test", size) for size in SIZES}
    seconds, rows = {}, []
    for size, (test, reference) in tests.items():
        own = {name: -test[name] for name in reference}
        rows += _judged("own weight", 0, size, own, reference)
    for runs in RUNS:
        for name, fit in FITS.items():
            begin = time.process_time()
            distributions = {
                domain: fit(w_MC[:runs], loss_M[:runs])
                for domain, loss_M in losses.items()
            }
            seconds[f"{name}, {runs}"] = round(time.process_time() - begin, 1)
            print(seconds, flush=True)
            for size, (test, reference) in tests.items():
                test_MC = np.stack([test[key] for key in shares], axis=1)
                predicted = {d: distributions[d].predict(test_MC) for d in reference}
                rows += _judged(name, runs, size, predicted, reference)
    return {
        "models": len(w_MC),
        "subsets": len(shares),
        "domains": len(losses),
        "test_models": {s: len(t["pile_cc"]) for s, (_, t) in tests.items()},
        "cpu_seconds": seconds,
        "rows": rows,
    }


def _judged(
    predictor: str,
    runs: int,
    size: str,
    predicted: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
) -> list[dict[str, Any]]:
    predicted, reference = (
        by | {"macro": np.mean(list(by.values()), axis=0)}
        for by in (predicted, reference)
    )
    return [
        {
            "domain": domain,
            "size": size,
            "predictor": predictor,
            "runs": runs,
            "spearman": float(spearmanr(predicted[domain], reference_M).statistic),
            "regret": float(
                reference_M[np.argmin(predicted[domain])] - reference_M.min()
            ),
        }
        for domain, reference_M in reference.items()
    ]


def report(result: dict[str, Any]) -> str:
    """Markdown: what it ran on, means, then every domain."""
    about = result["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    columns = [("own weight", 0)] + [(f, runs) for runs in RUNS for f in FITS]
    head = " | ".join(
        f"{name}, {runs} runs" if runs else name for name, runs in columns
    )
    fits = "; ".join(
        f"{name} runs {seconds} s" for name, seconds in result["cpu_seconds"].items()
    )
    tests = ", ".join(f"{n} of {s.upper()}" for s, n in result["test_models"].items())
    lines = [
        f"{about['cores_used']} of {about['cores']} cores ({about['cpu']}), "
        f"{versions}, {about['date']}. CPU time of {result['domains']} fits: "
        f"{fits}.",
        "",
        f"RegMix's tables: fitted on models of 1M parameters on "
        f"{result['subsets']} subsets of the Pile; tested on {tests}. Each "
        "cell is the Spearman correlation, and in brackets the regret of the "
        "choice. The mean is over the domains, without the macro.",
    ]
    for size in SIZES:
        cells = {
            (r["domain"], r["predictor"], r["runs"]): r
            for r in result["rows"]
            if r["size"] == size
        }
        domains = list(dict.fromkeys(domain for domain, _, _ in cells))
        lines += ["", f"| {size.upper()} | {head} |", "|---" * (1 + len(columns)) + "|"]
        for domain in ("mean", "macro", *domains[:-1]):
            members = domains[:-1] if domain == "mean" else [domain]
            values = " | ".join(
                "{:.3f} ({:.3f})".format(
                    *(
                        np.mean([cells[d, *column][key] for d in members])
                        for key in ("spearman", "regret")
                    )
                )
                for column in columns
            )
            lines.append(f"| {domain} | {values} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("path", type=Path)
    arguments = parser.parse_args()
    machine.pin(1)
    result = measure(arguments.path)
    result["machine"] = machine.describe(("numpy", "scipy", "scikit-learn"))
    print(report(result), end="")
    machine.save(arguments.out, "regmix", result, report(result))


if __name__ == "__main__":
    main()
