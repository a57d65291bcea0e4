"""The figures: functions that draw on matplotlib axes, and PNG and SVG of them.

Matplotlib is imported when one is drawn. Names come from other people's text, so
nothing in them is read as mathematics. Colors are safe for color-blind readers (Okabe
and Ito); in SVG they are variables of the page's style sheet, and text is text.
"""

import contextlib
import dataclasses
import hashlib
import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.report.agreement import label
from jaxsim.report.table import Table, interval, number, short
from jaxsim.scoring.table import STANDARD_MERGES
from jaxsim.scoring.targets import ALL
from jaxsim.validation.agreement import ENOUGH_RUNS
from jaxsim.validation.diagnostics import UNIFORM, Diagnostics
from jaxsim.validation.measured import CALIBRATED, targets_of
from jaxsim.validation.validate import Validation

BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8a8f98", "#1f2933"
_RULE, _PAPER = "#b8bec7", "#fefefe"
_VARIABLES = {
    BLUE: "blue", ORANGE: "orange", GREY: "grey", INK: "ink", _RULE: "rule",
    _PAPER: "paper",
}  # fmt: skip
_DPI = 220
_FALLBACK_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans", "Arial Unicode MS",
    "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei",
)  # fmt: skip
_VALUES_UP_TO = 15  # rows and columns of a heat map with printed values
_MOST_PANELS = 6  # targets of the scatter
_MOST_BARS = 16


# The kind of a run, steps and losses.
Curve = tuple[str, Sequence[int], Sequence[float]]


@dataclasses.dataclass
class Drawn:
    """A figure for files and, if it is shown there, for the page."""

    png: bytes = b""
    svg: str = ""


@contextlib.contextmanager
def canvas(
    width: float, height: float, for_page: bool = True
) -> Iterator[tuple[Any, Drawn]]:
    """An empty figure; what was drawn is in the second value afterwards."""
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
        "axes.edgecolor": _RULE,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "savefig.dpi": _DPI,
        "svg.fonttype": "none",
        "svg.hashsalt": "jaxsim",
    }
    drawn = Drawn()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A script without a font here shows as boxes; the page has the names.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = matplotlib.figure.Figure((width, height), layout="constrained")
        yield figure, drawn
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", metadata={"Software": None})
        drawn.png = png.getvalue()
        if not for_page:
            return
        figure.set_layout_engine("none")  # it is done
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", transparent=True, metadata=nothing)
        drawn.svg = _for_page(svg.getvalue())


def draw(
    paint: Callable[[Any], None], width: float, height: float, for_page: bool = True
) -> Drawn:
    """A figure of one pair of axes."""
    with canvas(width, height, for_page) as (figure, drawn):
        paint(figure.add_subplot())
    return drawn


def _for_page(svg: str) -> str:
    """An SVG to stand in a page: its style, no sizes, names that are its own."""
    own = hashlib.sha256(svg.encode()).hexdigest()[:6]
    for pattern, text in (
        (r"(?s)^.*?(?=<svg)", ""),
        (r"(?s)<defs>\s*<style.*?</style>\s*</defs>", ""),
        (r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1"),
        (r'<g id="[^"]*">', "<g>"),
        (r'(id="|href="#|url\(#)(?=[a-z])', rf"\g<1>f{own}"),
        (r" font-family: [^;\"]*;?", ""),
        (r"\s*\n\s*", " "),
    ):
        svg = re.sub(pattern, text, svg)
    for color, name in _VARIABLES.items():
        svg = svg.replace(f": {color.lower()}", f": var(--{name})")
    return svg


# The answer.


def bars_height(rows: int) -> float:
    """Inches that bars of so many rows need."""
    return 0.8 + 0.185 * min(rows, _MOST_BARS)


def shares(axes: Any, table: Table) -> None:
    """A mixture's weights, beside proportional and uniform."""
    rows = table.rows[:_MOST_BARS]
    answer_C, before_C = (
        100 * np.array([row[key] or 0.0 for row in rows], float)
        for key in ("weight", "proportional")
    )
    y = np.arange(len(rows))
    axes.barh(y, answer_C, height=0.62, color=BLUE)
    kinds: list[tuple[str, dict[str, Any]]] = [("the answer", {"color": BLUE, "lw": 6})]
    if all(row["proportional"] is not None for row in rows):
        style = {"color": INK, "marker": "D", "ls": "none", "ms": 4.2}
        axes.plot(before_C, y, mfc=_PAPER, **style)
        kinds.append(("proportional to tokens", {"mfc": _PAPER, **style}))
    even = 100.0 * rows[0]["uniform"]
    style = {"color": GREY, "ls": (0, (3, 2)), "lw": 1.2}
    axes.axvline(even, zorder=0, **style)
    kinds.append((f"uniform ({even:.2g}%)", style))
    reach = max(answer_C.max(), before_C.max(), even)
    for at, (share, before) in enumerate(zip(answer_C, before_C, strict=True)):
        if share > 0:
            x = share + 0.015 * reach
            if share < before < share + 0.16 * reach or share < even < x:
                x = max(before, even * (even < share + 0.16 * reach)) + 0.03 * reach
            text = f"{share:.0f}%" if share >= 1 else "< 1%"
            axes.text(x, at, text, va="center", fontweight="bold", fontsize=9)
    _bar_axes(axes, rows, len(table.rows))
    axes.set_xlim(0, 1.14 * reach)
    axes.set_xlabel("share of the training tokens (%)")
    _legend(axes, kinds)


def effects(axes: Any, table: Table) -> None:
    """What each member alone does to the target, with intervals."""
    rows = sorted(table.rows, key=lambda row: -row["gain"].value)
    if len(rows) > _MOST_BARS:  # those at either end
        rows = rows[: _MOST_BARS // 2] + rows[-_MOST_BARS // 2 :]
    for at, row in enumerate(rows):
        gain = 100 * row["gain"].value
        interval = [100 * end for end in row["gain"].bounds if end is not None]
        color = BLUE if gain > 0 else ORANGE
        if interval:
            axes.plot(interval, [at, at], color=INK, lw=1.3)
            color = GREY if interval[0] <= 0 <= interval[1] else color
        axes.barh(at, gain, height=0.62, color=color)
        ends, side = [gain, 0.0, *interval], 1 if gain >= 0 else -1
        axes.annotate(
            f"{gain:+.1f}".replace("-", "\N{MINUS SIGN}"),
            (max(ends) if side > 0 else min(ends), at), (4 * side, 0),
            textcoords="offset points", ha="left" if side > 0 else "right",
            va="center", fontsize=8.5,
        )  # fmt: skip
    axes.axvline(0.0, color=INK, lw=1)
    _bar_axes(axes, rows, len(table.rows))
    axes.margins(x=0.13)
    axes.set_xlabel("gain over the base model (% of its loss)")


def _bar_axes(axes: Any, rows: Sequence[Mapping[str, Any]], count: int) -> None:
    """Names on the left, the first row on top; `count` members in all."""
    axes.set_yticks(range(len(rows)), [short(row["member"]) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if count > len(rows):
        axes.set_ylabel(f"{len(rows)} of {count} sources")


def predicted(
    axes: Any,
    predicted_M: np.ndarray,
    trained_M: np.ndarray,
    error: float = 0.0,
    answer: float | None = None,
    outcomes: Iterable[float] = (),
) -> None:
    """Predicted against trained losses of mixtures, on one objective.

    Args:
      predicted_M, trained_M: of the held-out runs.
      error: standard deviation between replicates; 0 if unknown.
      answer: the predicted loss of a search's answer.
      outcomes: what training it gave.
    """
    trained = list(outcomes)
    ends = [] if answer is None else [answer]
    _points(axes, predicted_M, trained_M, error, ends, trained)
    if answer is not None and not trained:
        axes.axvline(answer, color=ORANGE, lw=1.4, ls=(0, (4, 2)))
        axes.annotate(
            "the answer,\nnot trained", (answer, 0.985), (4, 0), ha="left", va="top",
            xycoords=axes.get_xaxis_transform(), textcoords="offset points",
            fontsize=8.5,
        )  # fmt: skip
    for value in trained:
        axes.plot(answer, value, marker="*", ms=13, color=ORANGE, mec=_PAPER, mew=0.6)
    if trained:
        axes.annotate(
            "the answer", (answer, trained[0]), (9, 0), ha="left", va="center",
            textcoords="offset points", fontsize=8.5,
        )  # fmt: skip
    axes.set(xlabel="predicted (bits per byte)", ylabel="trained (bits per byte)")


def tradeoff(axes: Any, table: Table) -> None:
    """Gain on the target against gain elsewhere, a mark for each mixture."""
    styles: dict[str, dict[str, Any]] = {
        "answer": {"marker": "*", "ms": 13, "color": ORANGE, "zorder": 3},
        "member": {"marker": "o", "ms": 5, "color": GREY},
        "mixture": {"marker": "o", "ms": 6.5, "color": BLUE, "zorder": 2},
    }
    xy_M2 = 100 * np.array([(row["target"], row["others"]) for row in table.rows])
    span_2 = np.ptp(xy_M2, axis=0) + 1e-9
    named = np.zeros((0, 2))
    for row, xy_2 in zip(table.rows, xy_M2, strict=True):
        axes.plot(*xy_2, mec=_PAPER, mew=0.6, ls="none", **styles[row["kind"]])
        apart_N2 = np.abs(named - xy_2) / span_2
        has_name = row["kind"] != "mixture" or row["mixture"] in STANDARD_MERGES
        # There is room for it, too.
        if has_name and (apart_N2 > (0.45, 0.075)).any(axis=1).all():
            named = np.append(named, xy_2[None], axis=0)
            side = -1 if xy_2[0] > xy_M2[:, 0].min() + 0.6 * span_2[0] else 1
            axes.annotate(
                short(row["mixture"], 30), xy_2, (9 * side, 0), va="center",
                ha="right" if side < 0 else "left", textcoords="offset points",
                fontsize=8.5,
            )  # fmt: skip
    axes.axhline(0.0, color=_RULE, lw=1, zorder=0)
    axes.axvline(0.0, color=_RULE, lw=1, zorder=0)
    axes.margins(x=0.06, y=0.08)
    axes.set(xlabel="gain on the target (%)", ylabel="mean gain elsewhere (%)")


def ties(axes: Any, table: Table, level: float) -> None:
    """Gains over the answer, with the limits of ties."""
    rows = table.rows
    kinds: dict[bool, tuple[str, dict[str, Any]]] = {
        True: ("ties with the answer", {"color": BLUE, "marker": "o"}),
        False: ("does not tie", {"color": ORANGE, "marker": "s"}),
    }
    for y, row in enumerate(rows):
        axes.errorbar(
            100 * (row["gain"] or 0.0), y, xerr=-100 * (row["limit"] or 0.0), ls="none",
            ms=5, lw=1.4, capsize=2.5, **kinds[row["tied"]][1],
        )  # fmt: skip
    axes.axvline(0.0, color=GREY, lw=1, ls="--")
    axes.set_yticks(range(len(rows)), [short(row["label"], 44) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(f"gain over the answer (%); bars: {level:.0%} simultaneous")
    there = {row["tied"] for row in rows}
    _legend(axes, [kind for tied, kind in kinds.items() if tied in there])


def curves(axes: Any, runs: Sequence[Curve]) -> None:
    """Training losses by step."""
    colors = {"base model": INK, "members": BLUE, "reference runs": ORANGE}
    for kind, steps, losses in runs:
        alone = {"marker": "o", "ms": 3.5} if len(steps) == 1 else {}
        axes.plot(steps, losses, color=colors[kind], lw=1.2, alpha=0.75, **alone)
    there = {kind for kind, _, _ in runs}
    axes.set(xlabel="step", ylabel="training loss (nats per token)")
    _legend(axes, [(k, {"color": c}) for k, c in colors.items() if k in there])


# Members and domains.


def heat_map_size(table: Table, domains: int) -> tuple[float, float]:
    """Width and height in inches of `heat_map`."""
    names = [short(column.heading) for column in table.columns[-domains:]]
    # How wide the longest name is, in Latin letters.
    wide = [
        sum(1 + (unicodedata.east_asian_width(x) in "WF") for x in n) for n in names
    ]
    width = min(max(5.0, 1.9 + 0.62 * domains), 14.0)
    height = min(max(2.0, 0.9 + 0.34 * len(table.rows)), 14.0) + 0.055 * max(wide)
    return width, height


def heat_map(
    axes: Any,
    table: Table,
    in_pool: Sequence[bool],
    label: str,
    factor: float = 1.0,
    digits: int = 3,
) -> None:
    """Members by domains: blue is a gain, red a loss, the best is framed.

    Args:
      axes: of matplotlib.
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
    image = axes.imshow(gain_CD, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
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
            fontsize=7.5, color="white" if abs(value) > 0.7 * limit else INK,
        )  # fmt: skip
    axes.tick_params(length=0)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)


# What the answer rests on.


def paths(axes: Any, diagnostics: Diagnostics) -> None:
    """Loss on the paths from the base model to members and their average."""
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


def scatter(validation: Validation) -> Drawn:
    """Predictors against held-out runs: macros and out-of-pool domains."""
    targets = targets_of(validation).drawn[:_MOST_PANELS]
    shown = scatter_predictors(validation)
    with canvas(8.0, 0.5 + 2.55 * len(targets)) as (figure, drawn):
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
    return drawn


def scatter_predictors(validation: Validation) -> tuple[str, ...]:
    """What is shown: the mean of members only where nothing is calibrated."""
    last = CALIBRATED if CALIBRATED in validation.points else "members"
    wanted = ("merge", "ensemble", last)
    return tuple(p for p in wanted if p in validation.points)


def _points(
    axes: Any,
    predicted_M: np.ndarray,
    reference_M: np.ndarray,
    error: float,
    predicted: Sequence[float] = (),
    trained: Sequence[float] = (),
) -> None:
    """One panel, on axes of equal span, so that slope 1 is the diagonal.

    `predicted` and `trained` are further values that it has room for.
    """
    both = (np.append(predicted_M, predicted), np.append(reference_M, trained))
    span = 1.25 * max(*map(np.ptp, both), 4 * error, 1e-6)
    middles = [(a.min() + a.max()) / 2 for a in both]
    apart = middles[1] - middles[0]
    if abs(apart) < span:  # the identity fits: one range for both
        span += abs(apart)
        middles = [sum(middles) / 2] * 2
        shift, label = 0.0, "prediction = run"
    else:
        shift, label = apart, f"prediction {apart:+.3f} = run"
    x, y = ([m - span / 2, m + span / 2] for m in middles)
    axes.plot(
        x, [x[0] + shift, x[1] + shift], ls="--", lw=1, color=GREY,
        label=label, zorder=1,
    )  # fmt: skip
    axes.errorbar(
        predicted_M, reference_M, yerr=error or None, fmt="o", ms=5.5, color=BLUE,
        ecolor=GREY, elinewidth=1.2, mec=_PAPER, mew=0.6, zorder=2,
    )  # fmt: skip
    axes.set_xlim(x)
    axes.set_ylim(y)
    axes.set_box_aspect(1)
    axes.locator_params(nbins=4)
    axes.ticklabel_format(useOffset=False)
    axes.tick_params(labelsize=8)
    axes.legend(loc="lower right", fontsize=7.5, frameon=False, handlelength=1.6)


def _legend(axes: Any, kinds: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Above the axes, in one line."""
    import matplotlib.lines

    handles = [
        matplotlib.lines.Line2D([], [], **({"lw": 1.4} | dict(style)), label=name)
        for name, style in kinds
    ]
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0),
        ncols=3, fontsize=8.5, frameon=False,
    )  # fmt: skip
