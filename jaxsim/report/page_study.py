"""What the page shows of a comparison with truths, as text in tables."""

from typing import Any

from jaxsim.report import agreement, claims, scatter
from jaxsim.report.wording import listed, number, weights
from jaxsim.study.agreement import NOISE_BOUND
from jaxsim.study.validate import Validation


def study(validation: Validation | None) -> dict[str, Any]:
    """Without truths there is nothing in it."""
    if validation is None:
        return {"claims": [], "check": []}
    return {
        "scatter": listed(
            [
                agreement.label(p, validation)
                for p in scatter.scatter_predictors(validation)
            ]
        ),
        "claims": claims.tables(validation),
        "claim_headings": claims.HEADINGS,
        "agreement": _agreement(validation),
        "points": _points(validation),
        "point_headings": [
            agreement.label(p, validation)
            for p in agreement.pointed(validation)
        ],
        "check": _check(validation),
        "learning": [
            (f"{row['truths']:.0f}", number(row["error"], 4))
            for row in validation.learning
        ],
        "ceilings": [
            _ceiling(validation, name) for name in validation.ceilings
        ],
    }


def _agreement(validation: Validation) -> list[dict[str, Any]]:
    """One table for each group of targets."""
    shown = []
    for group in agreement.groups(validation):
        lines = agreement.lines(validation, group)
        columns = agreement.columns(lines)
        rows = [
            {
                "label": line.label,
                "is_rule": line.is_rule,
                "cells": agreement.cells(line, columns),
            }
            for line in lines
        ]
        shown.append(
            {
                "title": group.title,
                "headings": list(columns.values()),
                "rows": rows,
            }
        )
    return shown


def _points(validation: Validation) -> list[dict[str, Any]]:
    """Every truth of the single targets, where they are few."""
    if agreement.enough_truths(validation):
        return []
    singles = [
        group.targets[0]
        for group in agreement.groups(validation)
        if len(group.targets) == 1
    ]
    return [
        {
            "target": target,
            "truth": truth,
            "ratio": weights(
                dict(zip(validation.members, ratio, strict=True)), 3
            ),
            "cells": [
                number(validation.points[which][target][i], 4)
                for which in ("truth", *agreement.pointed(validation))
            ],
        }
        for target in singles
        for i, (truth, ratio) in enumerate(
            zip(validation.truths, validation.ratios, strict=True)
        )
    ]


def _check(validation: Validation) -> list[list[str]]:
    """Target, error before and after calibration, half interval, coverage."""
    if validation.unit == "unknown":
        return []
    return [
        [
            target,
            number(row["merge"], 4),
            number(row["calibrated"], 4),
            number(row["half"], 4),
            f"{row['covered']:.0%}" if row["covered"] >= 0 else "-",
        ]
        for target, row in validation.check.items()
    ]


def _bound(validation: Validation, target: str) -> str:
    low, high = validation.ceiling_intervals.get(target) or (None, None)
    if low is not None and high is not None and low < NOISE_BOUND <= high:
        return "cannot be told"
    return "yes" if validation.ceilings[target] < NOISE_BOUND else "no"


def _ceiling(validation: Validation, target: str) -> list[str]:
    """Target, ceiling with its interval, noise of a run, whether bound."""
    return [
        target,
        agreement.ceiling(validation, target, 3),
        number(validation.noise.get(target), 4),
        _bound(validation, target),
    ]
