"""What the gauge concludes, from what it measured on the pool.

Averaging stands for training where the loss is nearly linear or convex between
seed and members. Each rule of the verdict looks at one way in which that fails.
Beside it stands what the evaluation text can tell apart.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxsim.mixture.evaluation import EvaluationSet
from jaxsim.search.objective import weighted_mean
from jaxsim.search.ties import ENOUGH_DOCUMENTS
from jaxsim.study.noise import repeat_noise

TRUST = "trust"
RANKS_ONLY = "trust ranks only"
DO_NOT_TRUST = "do not trust"

# Published: at a drift of 3.1 % levels were 1.04 / 0.97 of the trained ones, at
# 10.5 % 0.79 / 0.75.
SMALL_DRIFT = 0.03
# Three times the largest of those: no ground for trust, unless the loss still
# falls all the way to the merge, as it does from a seed that is hardly trained.
LARGE_DRIFT = 0.3
# Further from the seed than the seed is from zero: nothing of it is left.
LOST_DRIFT = 1.0
# Of the loss, above the mean of both ends. Frankle et al. 2020 (linear mode
# connectivity) call less than 2 % stable, of an error; mixtures of one pool lie
# within a few percent of each other, so a quarter of that could reorder them.
# Sound small pools had negative ones, those at a tenfold rate 2 to 20 %.
BARRIER = 0.005
# Beyond, the second half of the line gains less than a third of the first.
CURVED = 0.5
Z95 = 1.96


@dataclasses.dataclass(frozen=True)
class Signs:
    """What the rules look at; losses in bits per byte.

    Attributes:
      foreign: members of another seed than the pool's.
      drift: median over members of ||member - seed|| / ||seed||.
      line: the in-pool macro by scale from the seed, 0, to the uniform merge,
        1, and beyond.
      error: 95 % error of a difference on the in-pool macro from the text.
      barriers: share of the loss by which an average is above the mean of what
        it averages, or a point of the uniform line above its chord, by name.
      bumps: the same of the lines to single members.
    """

    foreign: Sequence[str]
    drift: float
    line: Mapping[float, float]
    error: float
    barriers: Mapping[str, float]
    bumps: Mapping[str, float]


def bump(scales: Sequence[float], losses: Sequence[float]) -> float:
    """How far a line's interior is above the chord of its ends, at most.

    The loss barrier of Frankle et al. 2020. Negative if the loss is convex.

    Args:
      scales: of the points, rising; the first and the last are the ends.
      losses: there.
    """
    t = (np.array(scales) - scales[0]) / (scales[-1] - scales[0])
    chord = losses[0] + t * (losses[-1] - losses[0])
    return float((np.array(losses) - chord)[1:-1].max())


def judge(signs: Signs) -> tuple[str, list[str]]:
    """The verdict, and its reasons as sentences, the gravest first."""
    if reasons := _broken(signs):
        return DO_NOT_TRUST, reasons
    if reasons := _bent(signs):
        return RANKS_ONLY, reasons
    return TRUST, [
        f"the members stayed near the seed (median drift {signs.drift:.1%}), "
        "and the loss is nearly straight on the way to their average"
    ]


def _broken(signs: Signs) -> list[str]:
    """Why an average says nothing about training."""
    line, reasons = signs.line, []
    if signs.foreign:
        reasons.append(
            f"{', '.join(signs.foreign)}: trained from another seed; only "
            "copies of one seed can be averaged"
        )
    name = max(signs.barriers, key=lambda name: signs.barriers[name])
    if signs.barriers[name] > BARRIER:
        reasons.append(
            f"averaging breaks: {name} is {signs.barriers[name]:.1%} worse "
            "than the straight line between what it averages"
        )
    if line[1.0] > line[0.0] + signs.error:
        reasons.append(
            "the average of all members is worse than the seed on the text "
            f"they trained on ({line[1.0]:.4f} against {line[0.0]:.4f} bits "
            "per byte): the runs were too long or their rate too high"
        )
    if signs.drift > LARGE_DRIFT and _overshoots(signs):
        reasons.append(
            f"the members are far from the seed (median drift "
            f"{signs.drift:.0%}), and half of the way to their average is "
            "better than all of it"
        )
    if signs.drift > LOST_DRIFT:
        reasons.append(
            f"the members are further from the seed (median drift "
            f"{signs.drift:.0%}) than the seed is from zero"
        )
    return reasons


def _bent(signs: Signs) -> list[str]:
    """Why levels are off although ranks may be right."""
    line, reasons = signs.line, []
    if signs.drift > SMALL_DRIFT:
        reasons.append(
            f"the median drift is {signs.drift:.1%}; above {SMALL_DRIFT:.0%} "
            "predicted levels are off"
        )
    first, second = line[0.0] - line[0.5], line[0.5] - line[1.0]
    bend = abs(first - second) / max(abs(first) + abs(second), 1e-12)
    # Within the text's error no bend can be seen.
    if bend > CURVED and abs(first - second) > signs.error:
        reasons.append(
            "the loss bends on the way to the average of all members: its "
            f"halves gain {first:.4f} and {second:.4f} bits per byte"
        )
    name = max(signs.bumps, key=lambda name: signs.bumps[name])
    if signs.bumps[name] > BARRIER:
        reasons.append(
            f"the line from the seed to {name} rises {signs.bumps[name]:.1%} "
            "above the straight one"
        )
    return reasons


def _overshoots(signs: Signs) -> bool:
    return signs.line[1.0] > signs.line[0.5] + signs.error


def text_errors(
    evaluation: EvaluationSet, rows: np.ndarray, nll_KR: np.ndarray
) -> np.ndarray:
    """Standard errors [K, D] of bits per byte, if other text had been drawn.

    That of a ratio of sums over documents, to first order; over windows where
    a domain has fewer than `ENOUGH_DOCUMENTS`. NaN with fewer than two.

    Args:
      evaluation: what `rows` index.
      rows: windows.
      nll_KR: nats on them, or differences of nats between mixtures: then what
        is common to both cancels.
    """
    e = evaluation
    error_KD = np.full((len(nll_KR), len(e.domains)), np.nan)
    for d in range(len(e.domains)):
        mine = np.flatnonzero(e.domain_R[rows] == d)
        found, label = np.unique(e.document_R[rows[mine]], return_inverse=True)
        if len(found) < ENOUGH_DOCUMENTS:
            found = label = np.arange(len(mine))
        count = len(found)
        if count < 2:
            continue
        onehot_RG = np.eye(count)[label]
        bytes_G = e.bytes_R[rows[mine]] @ onehot_RG
        nll_KG = nll_KR[:, mine] @ onehot_RG
        mean_K1 = nll_KG.sum(axis=1, keepdims=True) / bytes_G.sum()
        square_K = ((nll_KG - mean_K1 * bytes_G) ** 2).sum(axis=1)
        error_KD[:, d] = np.sqrt(square_K * count / (count - 1))
        error_KD[:, d] /= bytes_G.sum() * np.log(2.0)
    return error_KD


def resolution(
    error_KD: np.ndarray,
    bits_D: np.ndarray,
    weights_D: np.ndarray,
    repeats: tuple[np.ndarray, np.ndarray] | None,
) -> float | None:
    """Percent of a target's loss below which two mixtures are not told apart.

    At 95 %, from the text and, with repeats, from the noise of two runs.

    Args:
      error_KD: standard errors of K typical differences; see `text_errors`.
      bits_D: a typical loss.
      weights_D: of the target.
      repeats: bits per byte [P, D] of runs and of their repeats.

    Returns:
      None where the text is too little to say.
    """
    text = np.mean(weighted_mean(error_KD**2, weights_D**2))
    # Errors of domains are independent: squares of the weights, not weights.
    text *= (weights_D**2).sum() / weights_D.sum() ** 2
    variance = text + 2 * _run_noise(repeats, weights_D) ** 2
    level = weighted_mean(bits_D[None], weights_D)[0]
    percent = 100 * Z95 * np.sqrt(variance) / level
    return float(percent) if np.isfinite(percent) else None


def within_noise(
    deviation_CD: np.ndarray,
    error_CD: np.ndarray,
    repeats: tuple[np.ndarray, np.ndarray] | None,
) -> bool:
    """Whether members differ by less than their noise, in every domain.

    Args:
      deviation_CD: bits per byte of members, minus the mean over them.
      error_CD: standard errors of these.
      repeats: bits per byte [P, D] of runs and of their repeats.
    """
    known = np.flatnonzero(np.isfinite(error_CD).all(axis=0))
    eye_DD = np.eye(error_CD.shape[1])
    noise_D = np.array([_run_noise(repeats, eye_DD[d]) for d in known])
    spread_D = (deviation_CD[:, known] ** 2).mean(axis=0)
    # From the mean over C members, which holds a share of each one's noise.
    noise_D *= np.sqrt(1 - 1 / len(deviation_CD))
    error_D = (error_CD[:, known] ** 2).mean(axis=0) + noise_D**2
    return len(known) > 0 and bool((spread_D <= Z95**2 * error_D).all())


def _run_noise(
    repeats: tuple[np.ndarray, np.ndarray] | None, weights_D: np.ndarray
) -> float:
    """Of one run on a target, in bits per byte; 0 if it was not measured."""
    if repeats is None or not len(repeats[0]):
        return 0.0
    noise = repeat_noise(*(weighted_mean(r, weights_D) for r in repeats))
    return noise if np.isfinite(noise) else 0.0
