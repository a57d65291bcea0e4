"""The end of a study: train what the search chose, and the plain rivals.

    python -m benchmarks.winner --config=configs/fields.py --workdir=runs/fields

Trains the best mixture of the last search, the plain baselines (uniform,
proportional, best single member on dev text) and the best of the drawn
reference runs, each with ORDERS orders of the data, and compares their means on test
text. The best reference run was picked on its first order's test text, which
flatters it: `without_first` leaves that order out. Safe to kill and to repeat.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from benchmarks.swarm import load
from jaxsim.config import Config
from jaxsim.mesh import training_mesh
from jaxsim.pool.build import train_missing
from jaxsim.records import write
from jaxsim.scoring.scorer import Scorer
from jaxsim.search.result import load_search
from jaxsim.train import Run, member_run, recipe_trainer, reference_run, replicate_of
from jaxsim.validation.validate import load_validation

ORDERS = 3
LEVEL = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--workdir", type=Path, required=True)
    arguments = parser.parse_args()
    found = compete(load(arguments.config), arguments.workdir)
    print(json.dumps(found, indent=1))


def compete(config: Config, workdir: Path) -> dict[str, Any]:
    """Trains what is missing, and says who wins on the search's target."""
    scorer = Scorer(workdir, config.score)
    target = load_search(workdir).target
    bases = contestants(config, scorer)
    runs = {
        name: [base, *(replicate_of(base, o) for o in range(1, ORDERS))]
        for name, base in bases.items()
    }
    mesh = training_mesh(config.train.data_axis, config.train.model_axis)
    train_missing(
        [run for several in runs.values() for run in several],
        scorer.pool,
        scorer.corpus,
        recipe_trainer(scorer.pool.model, config, mesh),
    )
    names = list(dict.fromkeys(r.name for rs in runs.values() for r in rs))
    scores = scorer.score_entries("winner", names, "test")
    domains = scorer.evaluation.domains
    weights_D = np.array([target.get(d, 0.0) for d in domains])
    value = dict(
        zip(
            names,
            scores.bits_per_byte("reference", "test") @ (weights_D / weights_D.sum()),
            strict=True,
        )
    )
    bits = {
        name: [float(value[run.name]) for run in several]
        for name, several in runs.items()
    }
    result = {
        "target": target,
        "runs": {n: [run.name for run in rs] for n, rs in runs.items()},
        "mixtures": {n: dict(rs[0].mixture) for n, rs in runs.items()},
        "bits_per_byte": bits,
        "against": {
            name: difference(bits["found"], bits[name])
            for name in bits
            if name != "found"
        },
        "best_reference": best_reference(workdir, target),
        "share_of_gain": {
            "all": share_of_gain(bits),
            "without_first": share_of_gain(
                bits | {"best reference run": bits["best reference run"][1:]}
            ),
        },
    }
    text = json.dumps(result, indent=1) + "\n"
    write(workdir / "validation" / "winner.json", text)
    return result


def contestants(config: Config, scorer: Scorer) -> dict[str, Run]:
    """The search's answer first, then the plain baselines."""
    found = load_search(scorer.workdir)
    standard = scorer.standard()
    names = standard.table.names
    weights_D = np.array([found.target.get(d, 0.0) for d in scorer.evaluation.domains])
    dev_M = standard.bits_per_byte("merge", "dev") @ weights_D
    singles = [m for m, name in enumerate(names) if name in scorer.members]
    best = names[min(singles, key=lambda m: dev_M[m])]
    runs = {"found": reference_run(found.best["weights"], config.recipe)}
    for plain in ("uniform", "proportional"):
        parts = standard.table.parts(names.index(plain))
        runs[plain] = reference_run(parts, config.recipe)
    runs[f"single {best}"] = member_run(best, config.recipe)
    mixture = best_reference(scorer.workdir, found.target)["mixture"]
    runs["best reference run"] = reference_run(mixture, config.recipe)
    return runs


def difference(a: list[float], b: list[float]) -> dict[str, float]:
    """Mean of b minus mean of a, with Welch's interval: positive, a wins."""
    test = scipy.stats.ttest_ind(b, a, equal_var=False)
    low, high = test.confidence_interval(LEVEL)
    return {
        "gain": float(np.mean(b) - np.mean(a)),
        "low": float(low),
        "high": float(high),
    }


def share_of_gain(bits: dict[str, list[float]]) -> dict[str, Any]:
    """Of the gain from the best plain baseline to the best reference run.

    The interval is Fieller's, with one variance for all runs; there is none
    where the whole gain may be zero, and no share where it is not positive.
    """
    mean = {name: float(np.mean(values)) for name, values in bits.items()}
    rivals = [name for name in bits if name not in ("found", "best reference run")]
    plain = min(rivals, key=lambda name: mean[name])
    gain, most = mean[plain] - mean["found"], mean[plain] - mean["best reference run"]
    freedom = sum(len(values) - 1 for values in bits.values())
    variance = sum(np.var(v) * len(v) for v in bits.values()) / freedom
    share = low = high = None
    if most > 0:
        share = gain / most
        # Of the gain, of the whole gain, and what they share: the plain one.
        one = {name: variance / len(values) for name, values in bits.items()}
        t2 = scipy.stats.t.ppf((1 + LEVEL) / 2, freedom) ** 2
        a = most**2 - t2 * (one[plain] + one["best reference run"])
        b = gain * most - t2 * one[plain]
        c = gain**2 - t2 * (one[plain] + one["found"])
        if a > 0:
            reach = np.sqrt(b**2 - a * c) / a
            low, high = float(b / a - reach), float(b / a + reach)
    return {
        "plain": plain,
        "gain": gain,
        "best_reference_gain": most,
        "share": share,
        "low": low,
        "high": high,
    }


def best_reference(workdir: Path, target: dict[str, float]) -> dict[str, Any]:
    """The lowest of all drawn reference runs on test text: one run, and so lucky."""
    validation = load_validation(workdir)
    assert validation is not None, "run `jaxsim validate` first"
    total = sum(target.values())
    value_M = sum(
        weight / total * np.array(validation.points["reference"][name])
        for name, weight in target.items()
    )
    best = int(np.argmin(value_M))
    return {
        "name": validation.reference_runs[best],
        "bits_per_byte": float(value_M[best]),
        "mixture": dict(
            zip(validation.members, validation.mixtures[best], strict=True)
        ),
    }


if __name__ == "__main__":
    main()
