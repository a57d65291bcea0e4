"""How far to trust the answer, in plain sentences."""

import numpy as np

from jaxsim.report import agreement, calibrated, claims
from jaxsim.report.answer import no_error, report_check, shift_sentence
from jaxsim.report.collect import Facts
from jaxsim.report.gauged import gauge_sentences
from jaxsim.report.wording import count, listed, number, signed, target
from jaxsim.search.found import Found
from jaxsim.study.agreement import ENOUGH_TRUTHS, NOISE_BOUND
from jaxsim.study.validate import Validation


def trust_lines(facts: Facts) -> list[tuple[str, str]]:
    """Pairs of a catchword and a sentence, below the verdict."""
    lines = []
    if facts.overrides:
        lines.append(
            (
                "Overrides",
                "An override admitted what is normally refused; every figure "
                f"below may rest on it: {'; '.join(facts.overrides)}.",
            )
        )
    lines += _about_drift(facts)
    lines += gauge_sentences(facts.gauge)
    lines += _about_truths(facts)
    if facts.validation is not None:
        lines.append(("Noise", _noise(facts.validation)))
        lines += claims.sentences(facts.validation)
        lines += _about_calibration(facts.validation)
        lines += _about_level(facts.validation, facts.found)
    if facts.found is not None:
        lines.append(("The choice", _choice(facts.found)))
    lines.append(("Limits", _limits(facts)))
    return lines


def _about_truths(facts: Facts) -> list[tuple[str, str]]:
    validation = facts.validation
    if validation is None:
        return [
            (
                "Truths",
                "No model was really trained on a mixture, so nothing here "
                "says how far a merge predicts training. Run `jaxsim "
                "validate`.",
            )
        ]
    truths = len(validation.truths)
    origin = (
        "brought by the user"
        if validation.given
        else "really trained, on ratios drawn at random and never fitted on"
    )
    text = f"{count(truths, 'truth')}, {origin}"
    if facts.horizon is not None and not validation.given:
        times = "" if facts.horizon == 1 else f"{facts.horizon:g} times "
        text += f", each {times}as long as a member"
    text += "."
    if validation.budget == "sum":
        text += (
            " A truth of n units was trained n times as long (budget 'sum'), "
            "so its loss says nothing of ratios at equal budget: searches use "
            "none of it."
        )
    if truths < ENOUGH_TRUTHS:
        text += (
            f" That is fewer than {ENOUGH_TRUTHS}: no interval on a rank "
            "correlation means anything, so the points are shown."
        )
    if not validation.fit and not validation.given:
        text += (
            " None was trained for fitting alone (config.validate.fit): the "
            "best single weight and the regression on the ratios are missing "
            "below."
        )
    if validation.unit == "unknown":
        text += (
            " Their unit is not known: ranks can be compared, levels cannot."
        )
    return [("Truths", text)]


def _noise(validation: Validation) -> str:
    if not validation.ceilings:
        return (
            "Not measured: nothing was trained twice, so it is not known how "
            "high any agreement could be (no ceilings)."
        )
    shown = agreement.ceilings_sentence(validation).partition(": ")[2]
    text = (
        f"{count(validation.repeats, 'run')} trained again with another order "
        "of the data. By how much they differ, no prediction can reach a "
        f"higher correlation with truths than {shown}. "
    )
    bound = agreement.noise_bound(validation)
    if bound:
        return text + (
            f"{count(len(bound), 'target')} of {len(validation.ceilings)} "
            "with a ceiling below 0.9, too noisy to say much: "
            f"{listed(bound)}."
        )
    text += "Every target has a ceiling of 0.9 or more"
    if unsure := sum(
        low is not None and low < NOISE_BOUND
        for low, _ in validation.ceiling_intervals.values()
    ):
        text += (
            f", but for {unsure} of {len(validation.ceilings)} its interval "
            "reaches below: with so few repeats it cannot be told"
        )
    return text + "."


def _about_calibration(validation: Validation) -> list[tuple[str, str]]:
    found = []
    if gains := calibrated.gain_sentences(validation):
        text = f"{calibrated.fitted_on(validation)}: {'; '.join(gains)}."
        if harmed := calibrated.harmed_sentence(validation):
            text += f" {harmed}."
        found.append(("Calibration", text))
    if text := calibrated.next_truth_sentence(validation):
        found.append(("One more truth", text))
    if text := claims.baselines_sentence(validation):
        found.append(("Ratios alone", text))
    return found


def _about_level(
    validation: Validation, found: Found | None
) -> list[tuple[str, str]]:
    points = validation.points
    if (
        found is None
        or validation.unit == "unknown"
        or any(n not in points["truth"] for n in found.target)
    ):
        return []
    total = sum(found.target.values())
    offset = sum(
        w / total * float(np.mean(np.subtract(points["truth"][n],
                                              points["merge"][n])))
        for n, w in found.target.items()
    )  # fmt: skip
    text = (
        f"On {target(found.target)} truths lie {signed(offset)} bits per byte "
        "from the merges that predict them, on average"
    )
    if residual := validation.residual(found.target):
        text += (
            f", and scatter around that by {number(residual.deviation, 4)} "
            f"({count(residual.truths, 'truth')})"
        )
    return [("Level", text + ".")]


def _choice(found: Found) -> str:
    text = (
        f"Made on at most {count(found.windows, 'window')} of select text for "
        "each domain; "
    )
    if no_error(found):
        text += "too few to know any error. "
    elif found.ties["resampled"] == "windows":
        text += (
            "windows were resampled, for want of documents, which takes "
            "windows of one document as independent. "
        )
    else:
        text += "documents were resampled. "
    if shift := shift_sentence(found):
        text += f"{shift}. "
    return text + report_check(found)


def _about_drift(facts: Facts) -> list[tuple[str, str]]:
    known = [v for v in facts.drift.values() if np.isfinite(v)]
    if not known:
        return []
    return [
        (
            "Drift",
            f"Members moved by {min(known):.2%} to {max(known):.2%} of the "
            "seed's norm. The further they move, the less the levels of merges "
            "and of training agree (3 % is little, 10 % is much); ranks "
            "suffer later.",
        )
    ]


def _limits(facts: Facts) -> str:
    validation, horizon = facts.validation, facts.horizon
    text = (
        "Only losses were measured, on the text of these domains, with models "
        "of one size: nothing here is about downstream tasks or larger models"
    )
    if validation is None or validation.given or horizon is None:
        return f"{text}, nor about runs longer than a member's."
    if horizon == 1:
        return f"{text}, nor about runs longer than a member's (horizon 1)."
    return f"{text}, nor about runs of other lengths (horizon {horizon:g})."
