"""Ways from the seed to members and to averages of them: rows to be scored."""

import numpy as np

from jaxsim.mixture.table import Mixtures
from jaxsim.search.objective import weighted_mean

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
BEYOND = 1.5  # of the uniform merge only: would further be better?
UNIFORM = "uniform"
ALL, INSIDE = "macro", "macro in-pool"


def neighbours(members: list[str]) -> list[tuple[str, str]]:
    """Every member and the next one, round; two members are one pair."""
    pairs = list(zip(members, members[1:] + members[:1], strict=True))
    return pairs if len(members) > 2 else pairs[:1]


def _point(name: str, scale: float) -> str:
    """The row of the table at a scale of a line."""
    if not scale:
        return "seed"
    return name if scale == 1 else f"{name} x {scale:g}"


def way_table(
    columns: tuple[str, ...], members: list[str], pairs: list[tuple[str, str]]
) -> Mixtures:
    """Seed, points of the lines, and averages of neighbours."""
    sound_C = np.isin(columns, members).astype(float)
    one = dict(zip(columns, np.eye(len(columns)), strict=True))
    ends = {UNIFORM: sound_C / sound_C.sum()} | {n: one[n] for n in members}
    weights = {"seed": ends[UNIFORM]}
    scales = {"seed": 0.0}
    for name, w_C in ends.items():
        beyond = (BEYOND,) if name == UNIFORM else ()
        for scale in (*SCALES[1:], *beyond):
            weights[_point(name, scale)] = w_C
            scales[_point(name, scale)] = scale
    for a, b in pairs:
        weights[f"{a} + {b}"] = (one[a] + one[b]) / 2
        scales[f"{a} + {b}"] = 1.0
    return Mixtures(
        columns,
        tuple(weights),
        ("gauge",) * len(weights),
        np.array(list(weights.values())),
        np.array(list(scales.values())),
    )


def way(
    name: str,
    bits: dict[str, np.ndarray],
    targets: dict[str, np.ndarray],
    own: str | None,
) -> dict[str, list[float]]:
    """Losses from the seed to a row and, for the uniform merge, beyond."""
    scales = [*SCALES, BEYOND] if name == UNIFORM else list(SCALES)
    bits_SD = np.array([bits[_point(name, scale)] for scale in scales])
    wanted = {key: targets[key] for key in (ALL, INSIDE) if key in targets}
    if own in targets:
        wanted["own"] = targets[own]
    return {"scale": scales} | {
        key: weighted_mean(bits_SD, weights_D).tolist()
        for key, weights_D in wanted.items()
    }
