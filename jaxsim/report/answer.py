"""What a search found, and what training its choice gave, in sentences.

A search picks the mixture where its predictor errs in its own favor. A trained
choice therefore says nothing about agreement, only whether the choice held.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxsim.errors import command_line
from jaxsim.log import counted
from jaxsim.report.table import listed, number, percent, signed, target, weights
from jaxsim.scoring.table import STANDARD_MERGES
from jaxsim.search.result import Ranking, SearchResult, is_single
from jaxsim.search.ties import AFTER_RUNS
from jaxsim.validation.agreement import ENOUGH_RUNS
from jaxsim.validation.calibration import LEVEL, reach_of
from jaxsim.validation.measured import TrainedChoice, targets_of
from jaxsim.validation.validate import Validation

Lines = list[tuple[str, str]]
REPLICATES = 4  # for a first estimate of noise
_SAME_MIXTURE = 1e-4  # share of the tokens
_MOST_SIMPLE = 3  # mixtures that a sentence names


def no_error(found: SearchResult) -> bool:
    """Whether nothing could be resampled, so that no tie means anything."""
    others = found.rows[1:]
    return bool(others) and all(row["error"] == 0 for row in others)


def about_training(found: SearchResult) -> bool:
    return bool(found.ties["heading"] == AFTER_RUNS)


def ties_sentence(found: SearchResult) -> str:
    """How many mixtures tie with the best, and the first of them."""
    if found.searched == 1:
        return "None. No other mixture was scored."
    if no_error(found):
        where = "score" if found.method == "table" else "search"
        return (
            f"Unknown. At most {counted(found.windows, 'window')} per domain: too few "
            f"to estimate an error; raise config.{where}.windows."
        )
    basis = "merges only"
    if about_training(found):
        basis = "error of reference runs included"
    text = (
        f"{found.ties['count'] - 1:,} of "
        f"{counted(found.searched - 1, 'other mixture')} cannot be told apart from it "
        f"({found.ties['level']:.0%} simultaneous, {basis})"
    )
    if simple := simpler(found):
        text += f", among them {listed(simple[:_MOST_SIMPLE])}"
    return f"{text}."


def simpler(found: SearchResult) -> list[str]:
    """What ties and is easier to say than weights: 'a alone', 'uniform', 'a + b'.

    Those of the fewest sources first.
    """
    kinds = (*STANDARD_MERGES, "subset")
    tied = [r for r in found.rows[1:] if r["tied"]]
    tied = [r for r in tied if r["kind"] in kinds or is_single(r)]
    tied.sort(key=lambda row: len(row["weights"]))
    return [f"{r['name']} alone" if is_single(r) else r["name"] for r in tied]


def shift_sentence(found: SearchResult) -> str:
    """How calibration moved the merges shown; '' without calibration."""
    if not found.calibrated:
        return ""
    merges = [r for r in found.rows if not (is_single(r) and found.singles_known)]
    shifts = [row["shift"] for row in merges]
    if not any(shifts):
        return (
            "Calibration changed nothing: no correction predicted left-out runs better."
        )
    ends = dict.fromkeys(map(signed, (min(shifts), max(shifts))))
    text = f"Calibration shifts the merges by {' to '.join(ends)} bits per byte."
    if found.singles_known:
        text += " Single members are trained runs and are not shifted."
    return text


def on_test_text(found: SearchResult) -> str:
    """Whether the choice holds on text that it was not made on."""
    if found.best["test"] is None:
        return "The best mixture was not compared on test text."
    value = found.predicted(found.best, "test")
    has = "is predicted to have" if found.calibrated else "has"
    text = (
        "On test text, not used for the choice, the best mixture "
        f"{has} {number(value)} bits per byte"
    )
    rivals = [
        (found.predicted(row, "test"), row["name"])
        for row in found.rows[1:]
        if (row["kind"] in STANDARD_MERGES or len(row["weights"]) == 1)
        and row["test"] is not None
    ]
    if not rivals:
        return f"{text}. The constraints allow no standard mixture to compare with."
    other, name = min(rivals, key=lambda rival: rival[0])
    lost = "less. The lead of the best mixture on dev text may be chance."
    return (
        f"{text}; {name}, the best other standard mixture, has {number(other)}, "
        f"{number(abs(other - value))} {'more.' if other > value else lost}"
    )


def search_sentences(found: SearchResult) -> list[str]:
    """The constraints, what ranked candidates and how well, and what it cost."""
    texts = []
    if found.constraints:
        texts.append(f"Constraints: {'; '.join(found.constraints)}.")
    if found.ranking is not None:
        texts.append(_ranking(found.ranking))
    if found.evaluations:
        text = (
            f"The search ({found.method}) cost {found.evaluations:,.0f} evaluations of "
            f"a mixture on the dev text ({found.tokens:,} tokens; a gradient counts as "
            f"three). It compared {counted(found.searched, 'merge')}"
        )
        if found.looked_at > found.searched:
            text += f", with the best of {found.looked_at:,} ranked mixtures among them"
        texts.append(f"{text}.")
    return texts


def _ranking(ranking: Ranking) -> str:
    """What ranked candidates, and the quadratic's errors on merges."""
    if ranking.refusal:
        return f"The ensemble ranked candidates, not the quadratic: {ranking.refusal}."
    random, shown = ranking.random, ranking.shown
    assert random is not None
    text = (
        "The quadratic, a closed form for merges, ranked the candidates. It differs "
        f"from {counted(random.count, 'random merge')} by {number(random.error, 5)} "
        f"bits per byte, {percent(random.share, 1)} of their standard deviation"
    )
    if shown is not None:
        text += (
            f", and from {counted(shown.count, 'merge')} that tie with the best by "
            f"{number(shown.error, 5)} ({percent(shown.error / random.spread, 1)})"
        )
    return f"{text}. All mixtures that are shown are real merges."


def next_command(
    found: SearchResult,
    validation: Validation | None,
    workdir: str,
    token_multiplier: float | None = None,
) -> tuple[str, str]:
    """What to do next to learn most, and its command; empty where there is none."""
    if len(found.basis.members) == 1:
        return "Add a partition: a pool of one member has nothing to mix", ""
    validate = _validate(workdir, token_multiplier)
    again = command_line("search", workdir)
    if validation is None and about_training(found):
        return "See what is out of date", command_line("report", workdir)
    if (
        validation is not None
        and not about_training(found)
        and validation.residual(found.target) is not None
        # A search needs runs on limited domains, too.
        and set(found.domains) <= set(validation.points["reference"])
    ):
        return "Search again, with the reference runs", again
    if not _enough(validation):
        runs = f"{validate} --config.validate.held_out={ENOUGH_RUNS}"
        return "Test how well merges predict training", f"{runs} && {again}"
    assert validation is not None
    if not validation.given and not validation.replicates:
        runs = f"{validate} --config.validate.held_out={len(validation.reference_runs)}"
        noise = f"--config.validate.replicates={REPLICATES}"
        return "Measure training noise", f"{runs} {noise} && {again}"
    if found.ties["count"] == 1:
        return "", ""
    if found.windows < found.dev_windows:
        more = min(4 * found.windows, found.dev_windows)
        if found.method != "table":
            return "Narrow the ties", f"{again} --config.search.windows={more}"
        windows = f"--config.score.windows={more}"
        score = command_line("score", workdir, windows)
        return "Narrow the ties", f"{score} && {again} {windows}"
    return "Narrow the ties with more dev text or more reference runs", ""


def _validate(workdir: str, token_multiplier: float | None, *flags: str) -> str:
    """Trains runs as long as those that there are."""
    if token_multiplier is not None and not math.isclose(token_multiplier, 1.0):
        flags = (f"--config.validate.token_multiplier={token_multiplier:g}", *flags)
    return command_line("validate", workdir, *flags)


def _enough(validation: Validation | None) -> bool:
    """Whether there are enough runs that training the answer comes next."""
    return validation is not None and (
        validation.given or len(validation.reference_runs) >= ENOUGH_RUNS
    )


# What training the chosen mixtures gave.


class Usual(NamedTuple):
    """The range of one more run's distance from its merge."""

    low: float
    high: float
    reference_runs: int  # that it was estimated from


class Trained(NamedTuple):
    """A mixture that was trained; losses in bits per byte on one objective."""

    label: str
    reference: str
    mixture: Mapping[str, float]
    trained: float
    merge: float


def same_mixture(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether no run could tell two mixtures apart: they are rounded for training."""
    gaps = [abs(one.get(n, 0.0) - other.get(n, 0.0)) for n in {*one, *other}]
    return max(gaps) < _SAME_MIXTURE


def on_target(
    points: Mapping[str, Sequence[float]], aim: Mapping[str, float]
) -> np.ndarray:
    """[M] weighted mean over the domains of an objective."""
    values_TM = np.array([points[name] for name in aim])
    weights_T = np.array(list(aim.values()))
    return np.asarray(weights_T @ values_TM / weights_T.sum())


def aim_of(chosen: TrainedChoice, found: SearchResult | None) -> dict[str, float]:
    """The search's objective, if it was measured, or the default one."""
    for aim in (found.named, found.target) if found is not None else ():
        if all(name in chosen.targets for name in aim):
            return dict(aim)
    return targets_of(chosen).default


def usual(validation: Validation, aim: Mapping[str, float]) -> Usual | None:
    """None with fewer than three runs, or without runs on the objective."""
    residual = validation.residual(dict(aim))
    if residual is None:
        return None
    gaps = [run.trained - run.merge for run in runs_on(validation, aim)]
    offset = float(np.mean(gaps))
    reach = reach_of(residual.deviation**2, residual.reference_runs)
    return Usual(offset - reach, offset + reach, residual.reference_runs)


def outcomes(
    chosen: TrainedChoice, found: SearchResult | None, validation: Validation | None
) -> list[str]:
    """What each run gave, and whether that is usual."""
    aim, known, lines = aim_of(chosen, found), None, []
    if validation is not None and validation.basis.same_pool(chosen.basis):
        known = usual(validation, aim)
    for one in runs_on(chosen, aim):
        text = f"{one.label} ({weights(one.mixture, 4)}) on {target(aim)}: "
        lines.append(text + _gap(one, known))
    return lines


def _gap(one: Trained, known: Usual | None) -> str:
    """Trained minus merge, beside the range of held-out runs."""
    gap = one.trained - one.merge
    text = f"trained minus merge is {signed(gap)}"
    if known is None:
        return f"{text}. There are too few held-out runs to say whether that is usual."
    place = "worse than" if gap > known.high else "better than"
    if known.low <= gap <= known.high:
        place = "within"
    return (
        f"{text}, {place} the {LEVEL:.0%} range of one more run "
        f"({signed(known.low)} to {signed(known.high)}, from "
        f"{counted(known.reference_runs, 'held-out run')})."
    )


def runs_on(
    result: TrainedChoice | Validation, aim: Mapping[str, float]
) -> Iterator[Trained]:
    """Every run on an objective."""
    reference_M, merge_M = (
        on_target(result.points[name], aim).tolist() for name in ("reference", "merge")
    )
    runs = result.reference_runs
    labels = result.labels if isinstance(result, TrainedChoice) else runs
    for i, mixture in enumerate(result.mixtures):
        parts = dict(zip(result.members, mixture, strict=True))
        yield Trained(labels[i], runs[i], parts, reference_M[i], merge_M[i])
