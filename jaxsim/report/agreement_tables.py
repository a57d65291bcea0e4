"""What `validate` prints of agreement: tables that fit a console."""

from jaxsim.log import say, show_table
from jaxsim.report import agreement, claims
from jaxsim.report.wording import marks, number, weights
from jaxsim.study.validate import Validation


def show_agreement(validation: Validation) -> None:
    """Prints how well all predictors and rules agree with the truths."""
    truths = len(validation.truths)
    source = "given" if validation.given else "trained"
    for group in agreement.groups(validation):
        lines = agreement.lines(validation, group)
        columns = agreement.columns(lines, agreement.NARROW)
        if "pairs_in" in columns:  # no room for both; the page has them
            columns.pop("corrected", None)
        show_table(
            f"agreement with {truths} {source} truths: {group.title}",
            ["predictor", *columns.values()],
            [
                [
                    ("no model: " if line.is_rule else "") + line.label,
                    *agreement.cells(line, columns),
                ]
                for line in lines
            ],
        )
    if not agreement.enough_truths(validation):
        _show_points(validation)
    say(agreement.ceilings_sentence(validation))
    for word, text in claims.sentences(validation):
        say(f"{word}: {text}")
    if text := marks(validation.notes):
        say(text)


def _show_points(validation: Validation) -> None:
    """Every truth, where there are too few for an interval."""
    shown = agreement.pointed(validation)
    for group in agreement.groups(validation):
        if len(group.targets) > 1:
            continue
        (name,) = group.targets
        show_table(
            f"the points: {group.title}, {validation.unit}",
            ["truth", "ratio", "trained"]
            + [agreement.LABELS[p] for p in shown],
            [
                [
                    truth,
                    weights(
                        dict(zip(validation.members, ratio, strict=True)), 3
                    ),
                    *(
                        number(validation.points[which][name][i], 4)
                        for which in ("truth", *shown)
                    ),
                ]
                for i, (truth, ratio) in enumerate(
                    zip(validation.truths, validation.ratios, strict=True)
                )
            ],
        )
