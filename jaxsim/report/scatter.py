"""The figure of truths against what was predicted for them, as PNG bytes."""

from typing import Any

import numpy as np

from jaxsim.report.agreement import enough_truths, label, targets_of
from jaxsim.report.drawing import BLUE, GREY, canvas
from jaxsim.report.wording import interval, number, short
from jaxsim.study.measured import CALIBRATED
from jaxsim.study.validate import Validation

_MOST_PANELS = 6  # targets


def scatter(validation: Validation) -> bytes:
    """Predictors against truths: macro in-pool, out-of-pool domains."""
    targets = scatter_targets(validation)
    shown = scatter_predictors(validation)
    rows = len(targets)
    with canvas(8.0, 0.5 + 2.55 * rows) as (figure, png):
        panels = figure.subplots(rows, len(shown), squeeze=False)
        for r, target in enumerate(targets):
            truth_M = np.array(validation.points["truth"][target])
            error = _repeat_noise(validation, target)
            for axes, proxy in zip(panels[r], shown, strict=True):
                proxy_M = np.array(validation.points[proxy][target])
                _points(axes, proxy_M, truth_M, error)
                axes.set_title(
                    (f"{label(proxy, validation)}\n" if r == 0 else "")
                    + _correlation(validation, target, proxy),
                    fontsize=9,
                )
                if r == rows - 1:
                    axes.set_xlabel("predicted (bits per byte)")
            panels[r][0].set_ylabel(
                f"{short(target, 26)}\ntruth (bits per byte)"
            )
    return png.getvalue()


def scatter_predictors(validation: Validation) -> tuple[str, ...]:
    """What is shown: the mean of members makes way for what came later."""
    last = CALIBRATED if CALIBRATED in validation.points else "members"
    wanted = ("merge", "probability", last)
    return tuple(p for p in wanted if p in validation.points)


def scatter_targets(validation: Validation) -> list[str]:
    """What the scatter shows: the macros, and out-of-pool domains."""
    macros = [t for t in validation.targets if t.startswith("macro ")]
    targets = [*macros, *targets_of(validation, "out-of-pool")]
    return (targets or validation.targets)[:_MOST_PANELS]


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
        x, [x[0] + shift, x[1] + shift], ls="--", lw=1, color=GREY,
        label=label, zorder=1,
    )  # fmt: skip
    axes.errorbar(
        proxy_M, truth_M, yerr=error or None, fmt="o", ms=5, color=BLUE,
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
    """Standard deviation of a run around its repeats; 0 if unknown."""
    if (noise := validation.noise.get(target)) is not None:
        return noise
    # An earlier version left only the ceiling, which says the same.
    ceiling = validation.ceilings.get(target)
    truth_M = validation.points["truth"][target]
    if ceiling is None or not ceiling or len(truth_M) < 2:
        return 0.0
    return float(np.sqrt((1 - ceiling**2) * np.var(truth_M, ddof=1)))
