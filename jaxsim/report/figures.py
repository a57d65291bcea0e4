"""The figures of pool and search, as PNG bytes."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxsim.report.answer import shown_rows
from jaxsim.report.drawing import BLUE, GREY, INK, ORANGE, canvas
from jaxsim.report.effort import NextPercent
from jaxsim.report.references import References
from jaxsim.report.wording import number, short
from jaxsim.search.found import Found
from jaxsim.study.diagnostics import UNIFORM, Gauge
from jaxsim.study.measured import ALL

_VALUES_UP_TO = 15  # rows and columns of a heat map with printed values
_MOST_MIXTURES = 12


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
    with canvas(width, height) as (figure, png):
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
            axes.axvline(inside - 0.5, color=INK, lw=1.5)
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
                    va="center", fontsize=7, color="white" if dark else INK,
                )  # fmt: skip
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
        bar.set_label(label)
        bar.outline.set_visible(False)
    return png.getvalue()


def mixtures(found: Found) -> bytes:
    """Differences to the best mixture, with their simultaneous errors."""
    rows = shown_rows(found, _MOST_MIXTURES)
    with canvas(8.0, 1.2 + 0.3 * len(rows)) as (figure, png):
        axes = figure.add_subplot()
        for y, row in enumerate(rows):
            colour = BLUE if row["tied"] else ORANGE
            axes.errorbar(
                row["difference"], y, xerr=_reach(found, row),
                fmt="o" if row["tied"] else "s", color=colour, ms=5, lw=1.4,
                capsize=2.5,
            )  # fmt: skip
        axes.axvline(0.0, color=GREY, lw=1, ls="--")
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


def ways(gauge: Gauge) -> bytes:
    """Loss on the way from the seed to every member and to their average."""
    with canvas(6.4, 3.3) as (figure, png):
        axes = figure.add_subplot()
        for name, line in gauge.lines.items():
            if name != UNIFORM:
                axes.plot(
                    line["scale"], line[ALL], color=BLUE, lw=1, alpha=0.55
                )
        line = gauge.lines[UNIFORM]
        scale, bits = line["scale"], line[ALL]
        axes.plot(scale, bits, "o-", color=ORANGE, lw=1.8, ms=4)
        end = scale.index(1.0)
        axes.plot(
            [0.0, 1.0], [bits[0], bits[end]], color=GREY, lw=1, ls="--"
        )  # fmt: skip
        axes.set_xlabel("way from the seed (0) to the end (1), and beyond")
        axes.set_ylabel("macro (bits per byte)")
        axes.ticklabel_format(useOffset=False)
        _key(
            axes,
            [("to their average", ORANGE, "-"),
             ("straight line to it", GREY, "--"),
             ("to each member", BLUE, "-")],
        )  # fmt: skip
    return png.getvalue()


def _key(axes: Any, kinds: Sequence[tuple[str, str, str]]) -> None:
    import matplotlib.lines

    handles = [
        matplotlib.lines.Line2D([], [], color=colour, ls=style, label=label)
        for label, colour, style in kinds
    ]
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0),
        ncols=3, fontsize=8.5, frameon=False,
    )  # fmt: skip


def _reach(found: Found, row: Mapping[str, Any]) -> float:
    """The largest difference with which a row ties; the best is itself."""
    if row is found.best:
        return 0.0
    if "limit" in row:
        return float(row["limit"])
    # Of an earlier version, which had one critical value for all rows.
    return float(found.ties["critical"] * row["error"])


def _columns(text: str) -> int:
    """How wide a text is, in Latin letters."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _box(column: int, row: int) -> Any:
    import matplotlib.patches

    return matplotlib.patches.Rectangle(
        (column - 0.47, row - 0.47), 0.94, 0.94, fill=False, ec=INK, lw=1.6
    )


def _legend(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    import matplotlib.lines

    kinds = [("ties with the best", "o", BLUE, True)]
    if any(not row["tied"] for row in rows):
        kinds.append(("plain mixture that does not tie", "s", ORANGE, False))
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
