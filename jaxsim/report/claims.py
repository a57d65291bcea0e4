"""What may be claimed: predictors beside the best rule without a model.

Over the domains of a kind that are not noise-bound. The difference to the rule
is tested: it has an interval (one truth left out at a time) from 12 truths on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxsim.report.agreement import label, noise_bound, targets_of
from jaxsim.report.wording import BLANK, count, interval, number, signed
from jaxsim.study.agreement import ENOUGH_TRUTHS
from jaxsim.study.measured import BASELINES, CALIBRATED
from jaxsim.study.validate import Validation

HEADINGS = (
    "predictor",
    "mean Spearman",
    "mean ceiling",
    "best rule",
    "its mean",
    "difference",
)
# Named before anything is measured; the others are in the table.
_IN_WORDS = ("merge", "probability", CALIBRATED)
Claim = Mapping[str, Any]


def of_kind(validation: Validation, kind: str) -> list[Claim]:
    return [claim for claim in validation.claims if claim["kind"] == kind]


def tables(validation: Validation) -> list[tuple[str, list[list[str]]]]:
    """For each kind a title and rows of cells, as `HEADINGS` names them."""
    found = []
    for kind in ("out-of-pool", "in-pool"):
        claims = of_kind(validation, kind)
        if claims:
            title = f"tested over {_domains(claims[0])}"
            found.append((title, [_cells(validation, c) for c in claims]))
    return found


def sentences(validation: Validation) -> list[tuple[str, str]]:
    """A catchword and what may be claimed, for each kind."""
    found = []
    for kind in ("out-of-pool", "in-pool"):
        names = targets_of(validation, kind)
        if not names:
            continue
        claims = {c["predictor"]: c for c in of_kind(validation, kind)}
        told = [claims[p] for p in _IN_WORDS if p in claims]
        if told:
            text = _told(validation, told)
        elif set(names) <= set(noise_bound(validation)):
            text = (
                f"Nothing can be claimed: {count(len(names), 'domain')}, all "
                "of them noise-bound."
            )
        else:
            text = (
                "Not tested by the version of jaxsim that compared them: run "
                "`jaxsim validate` again; it trains nothing twice."
            )
        found.append((f"Merge or no model ({kind})", text))
    return found


def baselines_sentence(validation: Validation) -> str:
    """How well the ratios alone rank, without any merge; '' if not fitted."""
    for kind in ("out-of-pool", "in-pool"):
        claims = of_kind(validation, kind)
        known = [c for c in claims if c["predictor"] in BASELINES]
        if not known:
            continue
        shown = " and ".join(
            f"{number(c['spearman'], 2)}{interval(c['spearman_interval'])} "
            f"for {label(c['predictor'], validation)}"
            for c in known
        )
        return (
            "Regressions of the losses on the ratios, as the literature fits "
            f"them, learned from the same {count(len(validation.fit), 'truth')}"
            " as the calibration, and from the members where these are as "
            "long. Their mean Spearman over "
            f"{_domains(known[0])}: {shown}."
        )
    return ""


def records(validation: Validation) -> list[dict[str, Any]]:
    """Every claim, for files."""
    found = []
    for claim in validation.claims:
        bounds = {
            f"{key}_{end}": value
            for key in ("spearman", "gain")
            for end, value in zip(
                ("low", "high"),
                claim[f"{key}_interval"] or (None, None),
                strict=True,
            )
        }
        found.append(
            {
                "kind": claim["kind"],
                "predictor": claim["predictor"],
                "label": label(claim["predictor"], validation),
                "domains": "; ".join(claim["targets"]),
                "truths": len(validation.truths),
                "spearman": claim["spearman"],
                "ceiling": claim["ceiling"],
                "rule": claim["rule"],
                "rule_spearman": claim["rule_spearman"],
                "gain": claim["gain"],
                **bounds,
            }
        )
    return found


def _domains(claim: Claim) -> str:
    return count(len(claim["targets"]), f"{claim['kind']} domain")


def _cells(validation: Validation, claim: Claim) -> list[str]:
    return [
        label(claim["predictor"], validation),
        number(claim["spearman"], 2) + interval(claim["spearman_interval"]),
        number(claim["ceiling"], 2),
        claim["rule"] or BLANK,
        number(claim["rule_spearman"], 2),
        signed(claim["gain"], 2) + interval(claim["gain_interval"]),
    ]


def _told(validation: Validation, claims: Sequence[Claim]) -> str:
    first = claims[0]
    text = f"Over {_domains(first)}"
    if validation.ceilings:
        ceiling = number(first["ceiling"], 2)
        text += f", none noise-bound (mean ceiling {ceiling})"
    if first["rule"] is None:
        text += ", where no rule without a model has anything to say: "
    else:
        text += (
            ", where the best rule without a model, picked in hindsight, is "
            f"{first['rule']} with a mean Spearman of "
            f"{number(first['rule_spearman'], 2)}: "
        )
    return text + "; ".join(_one(validation, c) for c in claims) + "."


def _one(validation: Validation, claim: Claim) -> str:
    text = (
        f"the {label(claim['predictor'], validation)} has "
        f"{number(claim['spearman'], 2)}{interval(claim['spearman_interval'])}"
    )
    if claim["rule"] is None:
        return text
    bounds = claim["gain_interval"]
    difference = f"{signed(claim['gain'], 2)}{interval(bounds)}"
    if bounds is None and len(validation.truths) < ENOUGH_TRUTHS:
        meaning = f"not tested, with fewer than {ENOUGH_TRUTHS} truths"
    elif bounds is None:
        meaning = "not tested, because no interval could be computed"
    elif bounds[0] > 0:
        meaning = "better than the rule"
    elif bounds[1] < 0:
        meaning = "worse than the rule"
    else:
        meaning = "the two cannot be told apart"
    return f"{text}, a difference of {difference}: {meaning}"
