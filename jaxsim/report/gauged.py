"""What the gauge measured on the pool, in sentences and records."""

from typing import Any

import numpy as np

from jaxsim.report.wording import count, listed, number, signed
from jaxsim.study.diagnostics import UNIFORM, Gauge
from jaxsim.study.measured import ALL

_PERCENT = 2  # significant digits of a resolution
# The lowest cosine of random pieces of one source was 0.80, of six eras 0.54.
_ALIKE = 0.75


def gauge_sentences(gauge: Gauge | None) -> list[tuple[str, str]]:
    """Catchwords and sentences."""
    if gauge is None:
        return [
            (
                "The pool",
                "Not gauged: whether averages of these members can stand for "
                "training at all was not looked at. `jaxsim validate` does "
                "that first.",
            )
        ]
    text = f"at most {count(gauge.windows, 'window')}" if gauge.windows else (
        "all windows"
    )  # fmt: skip
    return [
        ("Directions", _cosines(gauge)),
        ("On the way", f"{_lines(gauge)} Looked at: {text} of select text of "
                       "each domain."),
        ("Resolution", _resolution(gauge)),
    ]  # fmt: skip


def gauge_lines(gauge: Gauge) -> list[str]:
    """What the console prints, the verdict first."""
    low = min(gauge.members, key=lambda n: gauge.drift[n])
    high = max(gauge.members, key=lambda n: gauge.drift[n])
    i, j = np.triu_indices(len(gauge.members), 1)
    cosines = np.array(gauge.cosines)[i, j]
    worst = max(gauge.barriers, key=lambda n: gauge.barriers[n])
    macros = [
        f"{value:.2g} % ({name})"
        for name, value in gauge.resolution.items()
        if name.startswith("macro") and value is not None
    ]
    lines = [
        f"averages of this pool: {gauge.verdict}",
        *(f"  {reason}" for reason in gauge.reasons),
        f"  drift: {gauge.drift[low]:.1%} ({low}) to {gauge.drift[high]:.1%} "
        f"({high}); cosines {cosines.min():.2f} to {cosines.max():.2f}",
        f"  highest barrier: {gauge.barriers[worst]:+.4f} bits per byte "
        f"({worst}); below 0 an average beats the mean of its members",
    ]
    if macros:
        lines.append(f"  differences resolved: above {', '.join(macros)}")
    if not gauge.repeats and cosines.min() > _ALIKE and not gauge.noise_bound:
        lines.append(
            "  the members moved nearly the same way, as pieces of one source "
            "do: only repeats can tell their differences from noise"
        )
    if gauge.noise_bound:
        lines.append(
            "  noise-bound: members differ by less than their noise in every "
            "domain, so there is nothing to rank"
        )
    return lines


def _cosines(gauge: Gauge) -> str:
    i, j = np.triu_indices(len(gauge.members), 1)
    cosine_P = np.array(gauge.cosines)[i, j]
    return (
        "The ways that members went from the seed have cosines of "
        f"{number(cosine_P.min(), 2)} to {number(cosine_P.max(), 2)} (1: all "
        "learned the same, 0: they share nothing)."
    )


def _lines(gauge: Gauge) -> str:
    """Whether the loss is smooth on the way to members and averages."""
    bumps = {n: b for n, b in gauge.bumps.items() if n != UNIFORM}
    highest = max(bumps, key=lambda name: bumps[name])
    uniform = gauge.bumps[UNIFORM]
    barrier = max(gauge.barriers, key=lambda name: gauge.barriers[name])
    return (
        "The highest point of the loss against the straight line between the "
        "ends of the way, in bits per byte: "
        f"{signed(uniform)} from the seed to the average of all members, "
        f"{signed(bumps[highest])} at worst to a single member ({highest}). "
        "The highest average against the mean of what it averages: "
        f"{signed(gauge.barriers[barrier])} ({barrier}). Above 0 averaging "
        "breaks; below 0 it helps."
    )


def _resolution(gauge: Gauge) -> str:
    known = {n: v for n, v in gauge.resolution.items() if v is not None}
    if not known:
        return (
            "There is too little text to say what differences it can resolve."
        )
    macros = {n: v for n, v in known.items() if n.startswith(ALL)}
    domains = [v for n, v in known.items() if n not in macros]
    shown = [f"{_percent(v)} ({n})" for n, v in macros.items()]
    if domains:
        low, high = _percent(min(domains)), _percent(max(domains))
        ends = low if low == high else f"{low} to {high}"
        shown.append(f"{ends} (single domains)")
    noise = (
        f"the noise of training ({count(gauge.repeats, 'repeat')})"
        if gauge.repeats
        else "no noise of training, which was not measured"
    )
    text = (
        "These data can resolve differences between two mixtures above "
        f"{listed(shown)} of the loss. That counts the text looked at and "
        f"{noise}."
    )
    if gauge.noise_bound:
        text += (
            " Members differ by less than that in every domain: there is "
            "nothing to rank."
        )
    return text


def records(gauge: Gauge) -> list[dict[str, Any]]:
    """Every point of the lines, for files."""
    return [
        {"line": name, "target": target, "scale": scale, "bits_per_byte": bits}
        for name, line in gauge.lines.items()
        for target, bits_S in line.items()
        if target != "scale"
        for scale, bits in zip(line["scale"], bits_S, strict=True)
    ]


def _percent(value: float) -> str:
    return f"{value:.{_PERCENT}g} %"
