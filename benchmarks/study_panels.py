"""Four of the study's questions as panels; the fifth is the README's figure.

python -m benchmarks.study_panels    # from results/study.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study_figure import LOOKS
from benchmarks.study_uneven import TWO
from jaxsim.report.figures import BLUE, GREY, INK, ORANGE, canvas
from jaxsim.scoring.targets import IN_POOL, OUT_OF_POOL
from jaxsim.validation.measured import CALIBRATED

HERE = Path(__file__).parent
SOUND = "out-of-pool domains that are not below the noise floor"
SCOPES = {
    SOUND: ("out-of-pool domains", BLUE, "o"),
    OUT_OF_POOL: ("macro out-of-pool", ORANGE, "s"),
    IN_POOL: ("macro in-pool", INK, "^"),
}
PREDICTORS = {
    "ensemble": "ensemble",
    "merge": "merge",
    CALIBRATED: "calibrated merge",
    "members": "mean of members",
    "trees": "boosted trees on weights",
    "log-linear": "log-linear on weights",
    "closeness": "weights only: evenness",
    "best single weight": "weights only: best weight",
    "number of units": "weights only: number of units",
}
POOLS = {"shorter": "1/16", "short": "1/4", "main": "1", "token_multiplier": "1/4, x 4"}


def panels(result: dict[str, Any]) -> bytes:
    """PNG; a panel without data says so."""
    with canvas(10.0, 8.0) as (fig, drawn):
        (one, two), (three, five) = fig.subplots(2, 2)
        _ranking(one, result["ranking"])
        _uneven(two, result["uneven"])
        _lengths(three, result["lengths"])
        _winner(five, result["winner"])
    return drawn.png


def _ranking(axes: Any, ranking: dict[str, Any]) -> None:
    """Mean Spearman correlations with their intervals, by predictor."""
    axes.set_title("1. Which predictor ranks mixtures at equal budget?", fontsize=10)
    for i, (scope, (label, color, marker)) in enumerate(SCOPES.items()):
        if scope not in ranking:
            continue
        rows = {row["name"]: row for row in ranking[scope]["rows"]}
        for y, name in enumerate(PREDICTORS):
            if name not in rows:
                continue
            _dot(axes, y + 0.22 * (i - 1), rows[name]["spearman"], color, marker)
        axes.plot([], [], marker, color=color, label=label, ms=5)
    axes.set_yticks(range(len(PREDICTORS)), list(PREDICTORS.values()))
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, lw=0.8)
    axes.set_xlim(-0.8, 1.02)
    axes.set_xlabel("Spearman with reference runs, 95% intervals")
    axes.legend(fontsize=7.5, frameon=False, loc="lower left")


def _dot(axes: Any, y: float, value: dict[str, Any], color: str, marker: str) -> None:
    if value["low"] is not None:
        axes.plot([value["low"], value["high"]], [y, y], color=color, lw=1)
    axes.plot([value["value"]], [y], marker, color=color, ms=5)


def _uneven(axes: Any, found: list[dict[str, Any]] | None) -> None:
    """Distance of each reference run from each merge, without the mean offset."""
    axes.set_title("2. Which merge predicts which mixture?", fontsize=10)
    if found is None:
        axes.set_xlabel("needs benchmarks/winner.py")
        return
    places, labels = [], []
    for k, kind in enumerate(found):
        for t, reference in enumerate(TWO):
            x = 2 * k + t
            places.append(x)
            labels.append(f"{reference}\n{kind['domains']}")
            for m, merge in enumerate(TWO):
                axes.bar(
                    x + 0.32 * (m - 0.5), 1000 * kind["leveled"][merge][reference],
                    width=0.3, color=(BLUE, ORANGE)[m],
                    label=f"to the {merge} merge" if not places[1:] else None,
                )  # fmt: skip
            spread = kind["spread"][reference]
            if spread is not None:
                axes.plot(
                    [x - 0.4, x + 0.4], [1000 * spread] * 2, color=INK, lw=1.2,
                    ls=":", label=None if places[1:] else "one replicate of three",
                )  # fmt: skip
    axes.set_xticks(places, labels, fontsize=8)
    axes.set_ylabel("distance of the reference run (10⁻³ bits per byte)")
    axes.legend(fontsize=7.5, frameon=False)


def _lengths(axes: Any, found: dict[str, Any] | None) -> None:
    """Agreement and noise ceilings, by the tokens of members and reference runs."""
    axes.set_title("3. Tokens of a member, and token multiplier", fontsize=10)
    if found is None:
        axes.set_xlabel("one pool only")
        return
    rows = [row for name in POOLS for row in found["rows"]
            if row["pool"] == name]  # fmt: skip
    x = np.arange(len(rows))
    for i, predictor in enumerate(("merge", "ensemble")):
        look = LOOKS["merge" if i == 0 else "ensemble"]
        for j, row in enumerate(rows):
            value = row[predictor]["all"]
            at = j + 0.16 * (i - 0.5)
            if value["low"] is not None:
                axes.plot([at, at], [value["low"], value["high"]],
                          color=look["color"], lw=1)  # fmt: skip
            axes.plot([at], [value["value"]], look["marker"],
                      color=look["color"], ms=5)  # fmt: skip
        axes.plot([], [], look["marker"], color=look["color"], ms=5,
                  label=PREDICTORS[predictor])  # fmt: skip
    for j, row in enumerate(rows):
        if "ceiling" in row:
            axes.plot(
                [j - 0.3, j + 0.3], [row["ceiling"]] * 2, color=INK, lw=1.2,
                ls=":", label=None if j else "mean ceiling",
            )  # fmt: skip
    axes.set_xticks(
        x,
        [f"{POOLS[row['pool']]}\ndrift {row['drift']:.1%}" for row in rows],
        fontsize=8,
    )
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.02)
    axes.set_ylabel("mean Spearman, all out-of-pool domains")
    axes.set_xlabel("tokens of a member, in units of 524,288 (x token multiplier)")
    axes.legend(fontsize=7.5, frameon=False, loc="lower right")


def _winner(axes: Any, found: dict[str, Any] | None) -> None:
    """The best mixture and the baselines, trained with several data seeds."""
    axes.set_title("5. Does the best mixture win when trained?", fontsize=10)
    if found is None:
        axes.set_xlabel("needs benchmarks/winner.py")
        return
    names = list(found["runs"])
    for y, name in enumerate(names):
        bits = found["bits_per_byte"][name]
        color = ORANGE if name == "found" else BLUE
        axes.plot(bits, [y] * len(bits), "o", color=color, ms=5, alpha=0.8)
        axes.plot([np.mean(bits)] * 2, [y - 0.25, y + 0.25], color=color)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("bits per byte out-of-pool, a dot per run; bar: mean")
    axes.ticklabel_format(axis="x", useOffset=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--result", type=Path, default=HERE / "results" / "study.json")
    parser.add_argument(
        "--out", type=Path, default=HERE.parent / "docs" / "study_panels.png"
    )
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    arguments.out.write_bytes(panels(result))


if __name__ == "__main__":
    main()
