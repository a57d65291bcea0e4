"""The figures, as PNG bytes. Matplotlib is imported when one is drawn.

Names come from other people's text, so nothing in them is read as mathematics.
Colors are safe for color-blind readers (Okabe and Ito).
"""

import contextlib
import io
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxsim.report.agreement import label
from jaxsim.report.table import Table, interval, number, short
from jaxsim.scoring.targets import ALL
from jaxsim.validation.agreement import ENOUGH_RUNS
from jaxsim.validation.diagnostics import UNIFORM, Diagnostics
from jaxsim.validation.measured import CALIBRATED, targets_of
from jaxsim.validation.validate import Validation

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8a8f98", "#1f2933"
_DPI = 220
_FALLBACK_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans", "Arial Unicode MS",
    "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei",
)  # fmt: skip
_VALUES_UP_TO = 15  # rows and columns of a heat map with printed values
_MOST_PANELS = 6  # targets of the scatter


@contextlib.contextmanager
def canvas(width: float, height: float) -> Iterator[tuple[Any, io.BytesIO]]:
    """An empty figure; what was drawn is PNG in the buffer afterwards."""
    import matplotlib
    import matplotlib.figure
    import matplotlib.font_manager

    installed = set(matplotlib.font_manager.get_font_names())
    style: Any = {  # the keys that the stubs know differ by version
        "font.family": [
            "DejaVu Sans",
            *(name for name in _FALLBACK_FONTS if name in installed),
        ],
        "font.size": 9,
        "text.parse_math": False,
        "text.usetex": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": "#b8bec7",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "savefig.dpi": _DPI,
    }
    png = io.BytesIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A script without a font here shows as boxes; the page has the names.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = matplotlib.figure.Figure((width, height), layout="constrained")
        yield figure, png
        figure.savefig(png, format="png", metadata={"Software": None})


def heat_map(
    table: Table,
    in_pool: Sequence[bool],
    label: str,
    factor: float = 1.0,
    digits: int = 3,
) -> bytes:
    """Members by domains: blue is a gain, red a loss, the best is framed.

    Args:
      table: the name of a member, then a column for each domain.
      in_pool: of the domains, which come last.
      label: of the color bar.
      factor: from the table's values to what is drawn.
      digits: decimals of printed values.
    """
    from matplotlib.patches import Rectangle

    columns = table.columns[-len(in_pool) :]
    gain_CD = factor * np.array(
        [[row[c.key] for c in columns] for row in table.rows], float
    )
    members = [short(str(row[table.columns[0].key])) for row in table.rows]
    domains = [short(column.heading) for column in columns]
    c, d = gain_CD.shape
    limit = float(np.nanmax(np.abs(gain_CD), initial=0.0)) or 1.0
    # How wide the longest name is, in Latin letters.
    wide = [
        sum(1 + (unicodedata.east_asian_width(x) in "WF") for x in n) for n in domains
    ]
    width = min(max(5.0, 1.9 + 0.62 * d), 14.0)
    height = min(max(2.0, 0.9 + 0.34 * c), 14.0) + 0.055 * max(wide)
    with canvas(width, height) as (figure, png):
        axes = figure.add_subplot()
        image = axes.imshow(
            gain_CD, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto"
        )
        axes.set_facecolor("#e5e7eb")  # what was not scored
        small = 8.5 if max(c, d) <= 40 else 5
        axes.set_yticks(range(c), members, fontsize=small)
        axes.set_xticks(
            range(d), domains, fontsize=small,
            rotation=40, ha="right", rotation_mode="anchor",
        )  # fmt: skip
        axes.set(xlabel="evaluation domain", ylabel="member")
        inside = sum(in_pool)
        if 0 < inside < d:
            axes.axvline(inside - 0.5, color=INK, lw=1.5)
            axes.text(inside - 0.4, -0.65, "out-of-pool", fontsize=8, ha="left")
        is_known_CD = np.isfinite(gain_CD)
        for column in np.flatnonzero(is_known_CD.any(axis=0)):
            corner = (column - 0.47, np.nanargmax(gain_CD[:, column]) - 0.47)
            frame = Rectangle(corner, 0.94, 0.94, fill=False, ec=INK, lw=1.6)
            axes.add_patch(frame)
        with_values = max(c, d) <= _VALUES_UP_TO
        for row, column in np.argwhere(is_known_CD) if with_values else ():
            value = gain_CD[row, column]
            axes.text(
                column, row, number(value, digits), ha="center", va="center",
                fontsize=7, color="white" if abs(value) > 0.6 * limit else INK,
            )  # fmt: skip
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
        bar.set_label(label)
        bar.outline.set_visible(False)
    return png.getvalue()


def mixtures(table: Table, level: float) -> bytes:
    """Differences to the best mixture, with their simultaneous limits."""
    rows = table.rows
    kinds = {
        True: ("ties with the best", {"color": BLUE, "marker": "o"}),
        False: ("standard mixture that does not tie",
                {"color": ORANGE, "marker": "s"}),
    }  # fmt: skip
    with canvas(8.0, 1.2 + 0.3 * len(rows)) as (figure, png):
        axes = figure.add_subplot()
        for y, row in enumerate(rows):
            axes.errorbar(
                row["difference"], y, xerr=row["limit"] or 0.0, ls="none",
                ms=5, lw=1.4, capsize=2.5, **kinds[row["tied"]][1],
            )  # fmt: skip
        axes.axvline(0.0, color=GREY, lw=1, ls="--")
        axes.set_yticks(range(len(rows)), [short(row["mixture"], 40) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(
            "difference to the best on dev text (bits per byte); bars: "
            f"{level:.0%} simultaneous"
        )
        there = {row["tied"] for row in rows}
        _legend(axes, [kind for tied, kind in kinds.items() if tied in there])
    return png.getvalue()


def paths(diagnostics: Diagnostics) -> bytes:
    """Loss on the paths from the base model to members and their average."""
    with canvas(6.4, 3.3) as (figure, png):
        axes = figure.add_subplot()
        for name, line in diagnostics.lines.items():
            if name != UNIFORM:
                axes.plot(line["scale"], line[ALL], color=BLUE, lw=1, alpha=0.55)
        line = diagnostics.lines[UNIFORM]
        scale, bits = line["scale"], line[ALL]
        axes.plot(scale, bits, "o-", color=ORANGE, lw=1.8, ms=4)
        ends = [bits[0], bits[scale.index(1.0)]]
        axes.plot([0.0, 1.0], ends, color=GREY, lw=1, ls="--")
        axes.set_xlabel("scale: base model (0), end of the path (1), beyond")
        axes.set_ylabel("macro (bits per byte)")
        axes.ticklabel_format(useOffset=False)
        _legend(
            axes,
            [("to their average", {"color": ORANGE}),
             ("straight line to it", {"color": GREY, "ls": "--"}),
             ("to each member", {"color": BLUE})],
        )  # fmt: skip
    return png.getvalue()


def scatter(validation: Validation) -> bytes:
    """Predictors against held-out runs: macros and out-of-pool domains."""
    targets = targets_of(validation).drawn[:_MOST_PANELS]
    shown = scatter_predictors(validation)
    with canvas(8.0, 0.5 + 2.55 * len(targets)) as (figure, png):
        panels = figure.subplots(len(targets), len(shown), squeeze=False)
        for target, row in zip(targets, panels, strict=True):
            reference_M = np.array(validation.points["reference"][target])
            error = validation.noise.get(target, 0.0)
            for axes, predictor in zip(row, shown, strict=True):
                predicted_M = np.array(validation.points[predictor][target])
                _points(axes, predicted_M, reference_M, error)
                title = [label(predictor)] if target == targets[0] else []
                if len(validation.reference_runs) >= ENOUGH_RUNS:
                    found = validation.agreement[target][predictor]
                    value, bounds = number(found["spearman"], 2), found["interval"]
                    title.append(f"Spearman {value}{interval(bounds)}")
                axes.set_title("\n".join(title), fontsize=9)
            row[0].set_ylabel(f"{short(target, 26)}\ntrained (bits per byte)")
        for axes in panels[-1]:
            axes.set_xlabel("predicted (bits per byte)")
    return png.getvalue()


def scatter_predictors(validation: Validation) -> tuple[str, ...]:
    """What is shown: the mean of members only where nothing is calibrated."""
    last = CALIBRATED if CALIBRATED in validation.points else "members"
    wanted = ("merge", "ensemble", last)
    return tuple(p for p in wanted if p in validation.points)


def _points(
    axes: Any, predicted_M: np.ndarray, reference_M: np.ndarray, error: float
) -> None:
    """One panel, on axes of equal span, so that slope 1 is the diagonal."""
    span = 1.25 * max(np.ptp(predicted_M), np.ptp(reference_M), 4 * error, 1e-6)
    middles = [(a.min() + a.max()) / 2 for a in (predicted_M, reference_M)]
    apart = middles[1] - middles[0]
    if abs(apart) < span:  # the identity fits: one range for both
        span += abs(apart)
        middles = [sum(middles) / 2] * 2
        shift, label = 0.0, "identity"
    else:
        shift, label = apart, f"identity {apart:+.3f}"
    x, y = ([m - span / 2, m + span / 2] for m in middles)
    axes.plot(
        x, [x[0] + shift, x[1] + shift], ls="--", lw=1, color=GREY,
        label=label, zorder=1,
    )  # fmt: skip
    axes.errorbar(
        predicted_M, reference_M, yerr=error or None, fmt="o", ms=5, color=BLUE,
        ecolor="#9cc7e0", elinewidth=1.2, mec="white", mew=0.6, zorder=2,
    )  # fmt: skip
    axes.set_xlim(x)
    axes.set_ylim(y)
    axes.set_box_aspect(1)
    axes.locator_params(nbins=4)
    axes.ticklabel_format(useOffset=False)
    axes.tick_params(labelsize=8)
    axes.legend(loc="lower right", fontsize=7.5, frameon=False, handlelength=1.6)


def _legend(axes: Any, kinds: Sequence[tuple[str, dict[str, str]]]) -> None:
    """Above the axes, in one line."""
    import matplotlib.lines

    handles = [
        matplotlib.lines.Line2D([], [], lw=1.4, label=name, **style)  # type: ignore[arg-type]
        for name, style in kinds
    ]
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0),
        ncols=3, fontsize=8.5, frameon=False,
    )  # fmt: skip
