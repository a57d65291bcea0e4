"""The study's figure: cost and gain of each method; predicted and trained.

python -m benchmarks.study_figure    # from results/study.json
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from jaxsim.report.figures import BLUE, GREY, INK, ORANGE, canvas
from jaxsim.validation.measured import CALIBRATED

HERE = Path(__file__).parent
TERA = 1e12
# Okabe and Ito's, for color-blind readers; markers differ too.
GREEN, PURPLE, SKY = "#009E73", "#CC79A7", "#56B4E9"
LOOKS: dict[str, dict[str, Any]] = {
    "merge": {"color": BLUE, "marker": "o"},
    "calibrated merge": {"color": ORANGE, "marker": "s"},
    "ensemble": {"color": GREEN, "marker": "D"},
    "swarm, log-linear": {"color": PURPLE, "marker": "^", "ls": "-"},
    "swarm, trees": {"color": SKY, "marker": "v", "ls": "-"},
    "reference runs alone": {"color": INK, "marker": "", "ls": "--"},
}
LABELS = {
    "swarm, log-linear": "small models, log-linear",
    "swarm, trees": "small models, trees",
}


def figure(result: dict[str, Any]) -> bytes:
    """PNG of two panels; one that has no data says so."""
    with canvas(9.0, 4.2) as (fig, drawn):
        left, right = fig.subplots(1, 2, width_ratios=(1.25, 1))
        _cost(left, result["cost"])
        _points(right, result["points"])
    return drawn.png


def _cost(axes: Any, found: dict[str, Any] | None) -> None:
    """FLOPs against gain; higher is better."""
    if found is None:
        axes.set_title("no out-of-pool macro")
        return
    if (band := found.get("band")) is not None:
        axes.axhspan(
            -1000 * band, 1000 * band, color="#e8eaed", lw=0, zorder=0,
            label="within replicate noise",
        )  # fmt: skip
    axes.axhline(0, color=GREY, lw=0.8, zorder=1)
    axes.axhline(
        1000 * found["random"], color=GREY, lw=1.2, ls=":", zorder=1,
        label="random reference run",
    )  # fmt: skip
    for way, look in LOOKS.items():
        rows = [row for row in found["ways"] if row["way"] == way]
        if not rows:
            continue
        flops = [row["flops"] / TERA for row in rows]
        gains = 1000 * np.array([row["gain"] for row in rows])
        style = {"ls": "none", "lw": 1.3, "zorder": 3} | look
        # Single answers on top, larger than the points of a curve.
        size = 8 if len(rows) == 1 else 5.5
        axes.plot(
            flops,
            gains,
            ms=size,
            mec="white",
            mew=0.7,
            label=LABELS.get(way, way),
            **style,
        )
        if all("low" in row for row in rows):
            ends = [
                1000 * np.array([row[end] for row in rows]) for end in ("low", "high")
            ]
            axes.vlines(flops, *ends, color=look["color"], lw=1.1, alpha=0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    # The default labels are math text, which is switched off here.
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("FLOPs spent, in units of 10¹²")
    base = found["baseline"]["name"]
    axes.set_ylabel(
        f"gain of the trained mixture over {base}\n"
        "(thousandths of a bit per byte, out-of-pool)"
    )
    axes.set_title("Cost and gain of each method", fontsize=10)
    axes.legend(
        fontsize=7.5, frameon=False, ncols=3, loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
    )  # fmt: skip


def _points(axes: Any, found: dict[str, Any] | None) -> None:
    """Predicted against trained, one point per reference run."""
    if found is None:
        axes.set_title("no out-of-pool macro")
        return
    reference_M = np.array(found["reference"])
    shown = {
        "merge": (found["merge"], LOOKS["merge"]),
        "calibrated merge": (found.get(CALIBRATED), LOOKS["calibrated merge"]),
    }
    every = [reference_M]
    for label, (values, look) in shown.items():
        if values is None:
            continue
        every.append(np.array(values))
        axes.errorbar(
            values, reference_M, yerr=found["noise"], ls="none", ms=5.5,
            mec="white", mew=0.6, ecolor=look["color"], elinewidth=0.8,
            alpha=0.85, label=label, zorder=2,
            color=look["color"], marker=look["marker"],
        )  # fmt: skip
    joined = np.concatenate(every)
    room = 0.06 * np.ptp(joined)
    ends = joined.min() - room, joined.max() + room
    axes.plot(ends, ends, color=GREY, ls="--", lw=1, label="identity", zorder=1)
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    axes.set_box_aspect(1)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    axes.ticklabel_format(useOffset=False)
    axes.set_xlabel("predicted (bits per byte)")
    axes.set_ylabel("really trained, ± replicate noise")
    axes.set_title(f"Predicted and trained, {found['target']}", fontsize=10)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--result", type=Path, default=HERE / "results" / "study.json")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "study.png")
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    arguments.out.write_bytes(figure(result))


if __name__ == "__main__":
    main()
