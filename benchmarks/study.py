"""How far can the prediction be trusted? The study's tables and its figure.

    python -m benchmarks.study --main=runs/fields --short=runs/fields-short \\
        --shorter=runs/fields-shorter --last=runs/fields-short-last \\
        --token_multiplier=runs/fields-short-4 --eras=runs/eras
        --swarm=runs/fields-small

Reads what `jaxsim validate`, benchmarks/winner.py and benchmarks/swarm.py left
in workdirs, and trains nothing; a swarm's runs, and merges at other scales, are
scored once. What is not there is named and left out. Writes
results/study.json, results/study.md, docs/study.png and docs/study_panels.png.

  * main: the fields, with `validate`, `search` and benchmarks/winner.py;
  * short, shorter: the same with a quarter and a sixteenth of the steps;
  * last: as short, without a tail average;
  * token_multiplier: a copy of short, validated with longer reference runs;
  * eras: configs/eras.py; swarm: small models of benchmarks/swarm.py.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.study_cost import cost
from benchmarks.study_figure import figure
from benchmarks.study_panels import panels
from benchmarks.study_raising import gains, pools, scale, together
from benchmarks.study_ranking import by_law, ranking
from benchmarks.study_tables import markdown
from benchmarks.study_targets import targets
from benchmarks.study_uneven import uneven
from benchmarks.study_workdir import Workdir, open_workdir
from jaxsim.pool import open_pool
from jaxsim.scoring.targets import OUT_OF_POOL
from jaxsim.validation.measured import CALIBRATED

HERE = Path(__file__).parent
OTHERS = {
    "short": "3a, 3e: the pool of a quarter of the steps",
    "shorter": "3e: the pool of a sixteenth of the steps",
    "last": "3a: last steps in place of tail averages",
    "token_multiplier": "3e: reference runs longer than members",
    "eras": "the eras",
    "swarm": "4: a swarm of small models",
}
LENGTHS = ("shorter", "short", "main", "token_multiplier")
PACKAGES = ("jax", "numpy", "scipy", "scikit-learn")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--main", type=Path, required=True)
    for name in OTHERS:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument(
        "--figure", type=Path, default=HERE.parent / "docs" / "study.png"
    )
    parser.add_argument(
        "--panels", type=Path, default=HERE.parent / "docs" / "study_panels.png"
    )
    arguments = vars(parser.parse_args())
    work = open_workdir(arguments["main"])
    if work is None:
        raise SystemExit(f"{arguments['main']}: run `jaxsim validate` first")
    swarm = arguments["swarm"]
    others = {name: open_workdir(arguments[name]) for name in OTHERS if name != "swarm"}
    result = without_nan(study(work, others, swarm))
    arguments["out"].mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, allow_nan=False)
    (arguments["out"] / "study.json").write_text(f"{text}\n")
    (arguments["out"] / "study.md").write_text(markdown(result))
    arguments["figure"].write_bytes(figure(result))
    arguments["panels"].write_bytes(panels(result))
    print(markdown(result), end="")


def study(
    work: Workdir, others: dict[str, Workdir | None], swarm: Path | None
) -> dict[str, Any]:
    """Every question's figures; None where there is nothing to answer by."""
    there = {name: other for name, other in others.items() if other}
    missing = [
        f"{what} (--{name})"
        for name, what in OTHERS.items()
        if name not in there and not (name == "swarm" and swarm)
    ]
    if work.winner is None:
        missing.append("2, 4's baseline and 5: benchmarks/winner.py")
    tails = {n: w for n, w in there.items() if n in ("short", "last")}
    by_length = {"main": work} | there
    lengths = {n: by_length[n] for n in LENGTHS if n in by_length}
    eras = there.get("eras")
    return {
        "machine": machine.describe(PACKAGES),
        "missing": missing,
        "main": about(work),
        "targets": targets(work),
        "ranking": ranking(work),
        "by_law": by_law(work),
        "uneven": uneven(work),
        "tails": pools(tails) if len(tails) == 2 else None,
        "together": together(work),
        "gains": gains(work),
        "scale": scale(work),
        "lengths": pools(lengths),
        "cost": cost(work, swarm),
        "winner": work.winner,
        "points": points(work),
        "eras": None
        if eras is None
        else {
            "main": about(eras),
            "targets": targets(eras),
            "ranking": ranking(eras),
            "by_law": by_law(eras),
        },
    }


def about(work: Workdir) -> dict[str, Any]:
    v, pool = work.validation, open_pool(work.path)
    return {
        "name": work.config.name,
        "members": len(v.members),
        "reference runs": len(v.reference_runs),
        "fit": len(v.calibration_runs),
        "repeated_references": len(work.repeated()[0]),
        "replicates": v.replicates,
        "parameters": pool.model.parameter_count(),
        "steps": work.steps("member"),
        "tokens_a_run": work.manifests[v.members[0]].tokens,
        "verdict": work.diagnostics.verdict if work.diagnostics else None,
        "ceilings": v.ceilings,
        "noise": v.noise,
    }


def points(work: Workdir) -> dict[str, Any] | None:
    """What the figure's right panel shows."""
    v = work.validation
    if OUT_OF_POOL not in v.targets:
        return None
    shown = ("reference", "merge", "ensemble", CALIBRATED)
    return {
        "target": OUT_OF_POOL,
        "noise": v.noise.get(OUT_OF_POOL),
        **{n: v.points[n][OUT_OF_POOL] for n in shown if n in v.points},
    }


def without_nan(value: Any) -> Any:
    """JSON has no NaN: what is undefined is null."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


if __name__ == "__main__":
    main()
