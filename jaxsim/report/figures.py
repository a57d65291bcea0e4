"""The figures, as PNG bytes. Matplotlib is imported when one is drawn.

Names come from other people's text, so nothing in them is read as mathematics.
Colours are told apart by colour-blind readers too (Okabe and Ito; RdBu).
"""

import contextlib
import io
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.report.agreement import LABELS, enough_truths, targets_of
from jaxsim.report.effort import NextPercent
from jaxsim.report.references import References
from jaxsim.report.wording import interval, number, short
from jaxsim.search.found import Found
from jaxsim.study.validate import PROXIES, Validation

_BLUE, _ORANGE, _GREY, _INK = "#0072B2", "#D55E00", "#8a8f98", "#1f2933"
_DPI = 220
_VALUES_UP_TO = 15  # rows and columns of a heat map with printed values
_MOST_PANELS = 6  # targets in the scatter
_MOST_MIXTURES = 12
_FALLBACK_FONTS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans", "Arial Unicode MS",
    "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei",
)  # fmt: skip


def heat_map(references: References) -> bytes:
    """Gain over the seed of every member on every domain, report text."""
    return _members_by_domains(
        references.gains("report"),
        references.members,
        references.domains,
        references.in_pool,
        "gain over the seed (bits per byte)",
        digits=3,
    )


def next_percent(percent: NextPercent, in_pool: Mapping[str, bool]) -> bytes:
    """Gain of every domain from one percent more of every member.

    Args:
      percent: changes; a gain is a negative one.
      in_pool: which domains are, as far as it is known.
    """
    return _members_by_domains(
        -1000 * percent.bits_CD,
        percent.members,
        percent.domains,
        [in_pool.get(name, True) for name in percent.domains],
        "gain from 1 % more (0.001 bits per byte)",
        digits=2,
    )


def _members_by_domains(
    gain_CD: np.ndarray,
    members: Sequence[str],
    domains: Sequence[str],
    in_pool: Sequence[bool],
    label: str,
    digits: int,
) -> bytes:
    """Blue is a gain, red a loss; the best member of a domain is framed."""
    c, d = gain_CD.shape
    limit = float(np.nanmax(np.abs(gain_CD), initial=0.0)) or 1.0
    width = min(max(5.0, 1.9 + 0.62 * d), 14.0)
    slanted = 0.055 * max(_columns(short(n)) for n in domains)
    height = min(max(2.0, 0.9 + 0.34 * c), 14.0) + slanted
    with _figure(width, height) as (figure, png):
        axes = figure.add_subplot()
        image = axes.imshow(
            gain_CD, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto"
        )
        axes.set_facecolor("#e5e7eb")  # what was not scored
        small = 8.5 if max(c, d) <= 40 else 5
        axes.set_yticks(range(c), [short(n) for n in members], fontsize=small)
        axes.set_xticks(
            range(d), [short(n) for n in domains], fontsize=small,
            rotation=40, ha="right", rotation_mode="anchor",
        )  # fmt: skip
        axes.set_xlabel("evaluation domain")
        axes.set_ylabel("member")
        inside = sum(in_pool)
        if 0 < inside < d:
            axes.axvline(inside - 0.5, color=_INK, lw=1.5)
            axes.text(inside - 0.4, -0.65, "out-of-pool", fontsize=8, ha="left")
        with_values = max(c, d) <= _VALUES_UP_TO
        for column in range(d):
            if not np.isfinite(gain_CD[:, column]).any():
                continue
            best = int(np.nanargmax(gain_CD[:, column]))
            axes.add_patch(_box(column, best))
        for row, column in np.ndindex(c, d) if with_values else ():
            value = float(gain_CD[row, column])
            if np.isfinite(value):
                dark = abs(value) > 0.6 * limit
                axes.text(
                    column, row, number(value, digits), ha="center",
                    va="center", fontsize=7, color="white" if dark else _INK,
                )  # fmt: skip
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
        bar.set_label(label)
        bar.outline.set_visible(False)
    return png.getvalue()


def scatter(validation: Validation) -> bytes:
    """Every proxy against the truths: macro in-pool, out-of-pool domains."""
    targets = scatter_targets(validation)
    rows = len(targets)
    with _figure(8.0, 0.5 + 2.55 * rows) as (figure, png):
        panels = figure.subplots(rows, len(PROXIES), squeeze=False)
        for r, target in enumerate(targets):
            truth_M = np.array(validation.points["truth"][target])
            error = _repeat_noise(validation, target)
            for axes, proxy in zip(panels[r], PROXIES, strict=True):
                proxy_M = np.array(validation.points[proxy][target])
                _points(axes, proxy_M, truth_M, error)
                axes.set_title(
                    (f"{LABELS[proxy]}\n" if r == 0 else "")
                    + _correlation(validation, target, proxy),
                    fontsize=9,
                )
                if r == rows - 1:
                    axes.set_xlabel("predicted (bits per byte)")
            panels[r][0].set_ylabel(
                f"{short(target, 26)}\ntruth (bits per byte)"
            )
    return png.getvalue()


def scatter_targets(validation: Validation) -> list[str]:
    """What the scatter shows: the macros, and out-of-pool domains."""
    macros = [t for t in validation.targets if t.startswith("macro ")]
    targets = [*macros, *targets_of(validation, "out-of-pool")]
    return (targets or validation.targets)[:_MOST_PANELS]


def mixtures(found: Found) -> bytes:
    """Differences to the best mixture, with their simultaneous errors."""
    tied = [row for row in found.rows if row["tied"]][:_MOST_MIXTURES]
    rows = [*tied, *(row for row in found.rows if not row["tied"])]
    with _figure(8.0, 1.2 + 0.3 * len(rows)) as (figure, png):
        axes = figure.add_subplot()
        for y, row in enumerate(rows):
            colour = _BLUE if row["tied"] else _ORANGE
            axes.errorbar(
                row["difference"], y, xerr=_reach(found, row),
                fmt="o" if row["tied"] else "s", color=colour, ms=5, lw=1.4,
                capsize=2.5,
            )  # fmt: skip
        axes.axvline(0.0, color=_GREY, lw=1, ls="--")
        axes.set_yticks(
            range(len(rows)), [short(row["name"], 40) for row in rows]
        )
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(
            "difference to the best on select text (bits per byte); bars: "
            f"{found.ties['level']:.0%} simultaneous"
        )
        _legend(axes, rows)
    return png.getvalue()


def _reach(found: Found, row: Mapping[str, Any]) -> float:
    """The largest difference with which a row ties."""
    if "limit" in row:
        return float(row["limit"])
    # Of an earlier version, which had one critical value for all rows.
    return float(found.ties["critical"] * row["error"])


def _points(
    axes: Any, proxy_M: np.ndarray, truth_M: np.ndarray, error: float
) -> None:
    """One panel, on axes of equal span, so that slope 1 is the diagonal."""
    span = 1.25 * max(np.ptp(proxy_M), np.ptp(truth_M), 4 * error, 1e-6)
    middles = [(a.min() + a.max()) / 2 for a in (proxy_M, truth_M)]
    apart = middles[1] - middles[0]
    if abs(apart) < span:  # the identity fits: one range for both
        span += abs(apart)
        middles = [sum(middles) / 2] * 2
        shift, label = 0.0, "identity"
    else:
        shift = apart
        label = f"identity {apart:+.3f}"
    x, y = ([m - span / 2, m + span / 2] for m in middles)
    axes.plot(
        x, [x[0] + shift, x[1] + shift], ls="--", lw=1, color=_GREY,
        label=label, zorder=1,
    )  # fmt: skip
    axes.errorbar(
        proxy_M, truth_M, yerr=error or None, fmt="o", ms=5, color=_BLUE,
        ecolor="#9cc7e0", elinewidth=1.2, mec="white", mew=0.6, zorder=2,
    )  # fmt: skip
    axes.set_xlim(x)
    axes.set_ylim(y)
    axes.set_box_aspect(1)
    axes.locator_params(nbins=4)
    axes.ticklabel_format(useOffset=False)
    axes.tick_params(labelsize=8)
    axes.legend(
        loc="lower right", fontsize=7.5, frameon=False, handlelength=1.6
    )


def _correlation(validation: Validation, target: str, proxy: str) -> str:
    """In words; nothing where there are too few truths for an interval."""
    if not enough_truths(validation):
        return ""
    found = validation.agreement[target][proxy]
    return (
        f"Spearman {number(found['spearman'], 2)}{interval(found['interval'])}"
    )


def _repeat_noise(validation: Validation, target: str) -> float:
    """Standard deviation between repeats, as its ceiling says; 0 if unknown."""
    ceiling = validation.ceilings.get(target)
    truth_M = validation.points["truth"][target]
    if ceiling is None or not ceiling or len(truth_M) < 2:
        return 0.0
    return float(np.sqrt((1 - ceiling**2) * np.var(truth_M, ddof=1)))


def _columns(text: str) -> int:
    """How wide a text is, in Latin letters."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _box(column: int, row: int) -> Any:
    import matplotlib.patches

    return matplotlib.patches.Rectangle(
        (column - 0.47, row - 0.47), 0.94, 0.94, fill=False, ec=_INK, lw=1.6
    )


def _legend(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    import matplotlib.lines

    kinds = [("ties with the best", "o", _BLUE, True)]
    if any(not row["tied"] for row in rows):
        kinds.append(("plain mixture that does not tie", "s", _ORANGE, False))
    handles = [
        matplotlib.lines.Line2D(
            [], [], marker=marker, color=colour, lw=1.4, label=label
        )
        for label, marker, colour, _ in kinds
    ]
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0),
        ncols=2, fontsize=8.5, frameon=False,
    )  # fmt: skip


@contextlib.contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Any, io.BytesIO]]:
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
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": "#b8bec7",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "savefig.dpi": _DPI,
    }
    png = io.BytesIO()
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # A script without a font here shows as boxes; the page has the names.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = matplotlib.figure.Figure((width, height), layout="constrained")
        yield figure, png
        figure.savefig(png, format="png", metadata={"Software": None})
