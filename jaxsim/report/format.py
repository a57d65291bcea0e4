"""Numbers, names and weights as text."""

import math
from collections.abc import Iterable, Mapping, Sequence


def shown(value: float | None, spec: str) -> str:
    """A number by a format specification; '-' where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    return format(value, spec)


def number(value: float | None, digits: int = 4) -> str:
    return shown(value, f".{digits}f")


def signed(value: float | None, digits: int = 4) -> str:
    return shown(value, f"+.{digits}f")


def percent(value: float | None, digits: int = 0) -> str:
    """A share, as in '80%'."""
    return shown(value, f".{digits}%")


def integer(value: int | None) -> str:
    return shown(value, ",")


def interval(bounds: Sequence[float | None] | None, digits: int = 2) -> str:
    """' [low, high]', or nothing where there is none."""
    if bounds is None or bounds[0] is None or bounds[1] is None:
        return ""
    return f" [{number(bounds[0], digits)}, {number(bounds[1], digits)}]"


def duration(seconds: float | None) -> str:
    """'38 s', '12 min', '3.4 h' or '5.1 days'."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    for size, unit in ((90, 1), (5400, 60), (172_800, 3600)):
        if seconds < size:
            digits = 1 if unit == 3600 or seconds < 9.95 else 0
            name = {1: "s", 60: "min", 3600: "h"}[unit]
            return f"{seconds / unit:,.{digits}f} {name}"
    return f"{seconds / 86_400:,.1f} days"


def count(amount: int, singular: str, plural: str = "") -> str:
    """'1 run', '12 runs', '3 indices'."""
    word = singular if amount == 1 else plural or f"{singular}s"
    return f"{amount:,} {word}"


def short(name: str, length: int = 22) -> str:
    """A name that fits a figure: one line, shortened in the middle."""
    line = " ".join(name.split())
    if len(line) <= length:
        return line
    head = (length - 1) * 2 // 3
    return f"{line[:head]}…{line[len(line) - (length - 1 - head) :]}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """'a, b and c', or the first few and how many more."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def weights(parts: Mapping[str, float], most: int = 8) -> str:
    """A mixture in words: '1/3 each of a, b and c', or the largest weights first."""
    used = {name: w for name, w in parts.items() if w > 0}
    if not used:
        return "no member"
    if len(used) == 1:
        return f"{next(iter(used))} alone"
    ordered = sorted(used.items(), key=lambda pair: -pair[1])
    if ordered[0][1] - ordered[-1][1] < 1e-6:
        return f"1/{len(used)} each of {listed(list(used), most)}"
    shown = ", ".join(f"{name} {w:.3f}" for name, w in ordered[:most])
    rest = sum(w for _, w in ordered[most:])
    if rest:
        left = count(len(ordered) - most, "other")
        return f"{shown}, and {left} together {rest:.3f}"
    return shown


def largest(parts: Mapping[str, float]) -> str:
    """A mixture in a table cell: its largest weights, and how many more."""
    used = {name: w for name, w in parts.items() if w > 0}
    if len(used) == 1 or max(used.values()) - min(used.values()) < 1e-6:
        return "alone" if len(used) == 1 else f"1/{len(used)} each"
    ordered = sorted(used.items(), key=lambda pair: -pair[1])
    shown = [f"{short(name)} {w:.2f}" for name, w in ordered[:2]]
    if len(ordered) > 2:
        shown.append(f"{len(ordered) - 2} more")
    return ", ".join(shown)


def target(parts: Mapping[str, float], kind: str = "mean") -> str:
    """An objective in words: 'mean', or 'worst' over several domains."""
    names = list(parts)
    if len(names) == 1:
        return names[0]
    if kind == "worst":
        return f"the worst of {listed(names)} (least gain over the base model)"
    shares = {name: w / sum(parts.values()) for name, w in parts.items()}
    if max(shares.values()) - min(shares.values()) < 1e-6:
        return f"the mean of {listed(names)}"
    return "the weighted mean of " + listed(
        [f"{name} ({share:.2f})" for name, share in shares.items()]
    )


def marks(notes: Iterable[str]) -> str:
    """What an override admitted, one line each."""
    return "\n".join(f"OVERRIDE: {note}" for note in notes)
