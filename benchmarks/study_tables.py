"""The study as Markdown: a table for each question, and what it is of."""

from collections.abc import Iterable, Sequence
from typing import Any

BLANK = "-"
SHOWN = (1, 2, 4, 8, 16, 32)  # of reference runs alone; the JSON has all


def markdown(result: dict[str, Any]) -> str:
    """The page of what benchmarks/study.py computed."""
    parts = [
        _head(result),
        "## 0. What was to be shown\n\n" + _targets(result["targets"]),
        "## 1. Ranking at equal budget\n\n" + _ranking(result),
        "## 2. Uneven partitions\n\n" + _uneven(result["uneven"]),
        "## 3. What raises agreement\n\n" + _raising(result),
        "## 4. Cost\n\n" + _cost(result["cost"]),
        "## 5. The end of it\n\n" + _winner(result["winner"]),
    ]
    if (eras := result["eras"]) is not None:
        parts += [
            "## The eras\n\n" + _about(eras["main"]),
            "### What was to be shown\n\n" + _targets(eras["targets"]),
            "### Ranking at equal budget\n\n" + _ranking(eras),
        ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float | None, places: int = 3) -> str:
    return BLANK if value is None else f"{value:.{places}f}"


def signed(value: float | None, places: int = 3) -> str:
    return BLANK if value is None else f"{value:+.{places}f}"


def percent(value: float | None) -> str:
    return BLANK if value is None else f"{value:.0%}"


def ranged(found: dict[str, Any] | None, places: int = 3) -> str:
    """A value with its interval."""
    if found is None or found.get("value") is None:
        return BLANK
    text = number(found["value"], places)
    if found.get("low") is None or found.get("high") is None:
        return text
    low, high = (number(found[end], places) for end in ("low", "high"))
    return f"{text} [{low}, {high}]"


def _head(result: dict[str, Any]) -> str:
    about = result["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
    text = (
        f"{about['cores']} cores ({about['cpu']}), {versions}, "
        f"{about['date']}.\n\n{_about(result['main'])}\n\nLosses are bits per "
        "byte on test text. Spearman correlations are estimates for the sampling "
        "distribution of the held-out runs (Hoeffding's, unbiased) with 95 % "
        "intervals over these runs; `sample` is the correlation of these runs alone."
    )
    if result["missing"]:
        text += "\n\nLeft out, because it is not there: "
        text += "; ".join(result["missing"]) + "."
    return text


def _about(main: dict[str, Any]) -> str:
    return (
        f"`{main['name']}`: {main['members']} members of "
        f"{main['parameters']:,} parameters and {main['tokens_a_run']:,} "
        f"tokens; {main['reference runs']} held-out runs, of which "
        f"{main['repeated_references']} have replicates, and {main['fit']} calibration "
        f"runs; the diagnostics say: {main['verdict'] or 'nothing'}."
    )


def _targets(rows: list[dict[str, Any]]) -> str:
    return table(
        ["target", "wanted", "came out", "sample", "", "by"],
        [
            [
                row["target"],
                row["wanted"],
                ranged(row | {"value": row["value"]})
                if isinstance(row["value"], float)
                else str(row["value"]),
                number(row.get("sample")),
                "met" if row["met"] else "**missed**",
                signed(row["by"])
                if isinstance(row["by"], float)
                else f"{row['by']:+d}",
            ]
            for row in rows
        ],
    )


def _ranking(result: dict[str, Any]) -> str:
    parts = []
    for scope, found in result["ranking"].items():
        count = len(found["targets"])
        of = f"{scope} ({count})" if count > 1 else scope
        parts.append(
            f"**{of}**, ceiling {number(found['ceiling'])}\n\n"
            + table(
                ["", "Spearman", "sample", "pairs", "both in", "both out",
                 "gain of the choice, thousandths", "of the best one's"],
                [
                    [
                        row["name"],
                        ranged(row["spearman"]),
                        number(row.get("sample")),
                        number(row["pairs"]),
                        number(row.get("pairs_in")),
                        number(row.get("pairs_out")),
                        _thousandths(row["gain"]),
                        percent(row["gain_share"]),
                    ]
                    for row in found["rows"]
                ],
            )
        )  # fmt: skip
    if distribution := result["by_law"]:
        counts = distribution["reference runs"]
        parts.append(
            "**By the sampling distribution of the held-out runs**, "
            f"{distribution['target']}: Spearman of the sample\n\n"
            + table(
                ["", *(f"{name} ({n})" for name, n in counts.items())],
                [
                    [row["name"], *(number(row[name]) for name in counts)]
                    for row in distribution["rows"]
                ],
            )
        )
    return "\n\n".join(parts)


def _thousandths(value: float | None) -> str:
    """A difference; `_distance` has no sign."""
    return BLANK if value is None else f"{1000 * value:+.2f}"


def _distance(value: float | None) -> str:
    return BLANK if value is None else f"{1000 * value:.2f}"


def _uneven(found: list[dict[str, Any]] | None) -> str:
    if found is None:
        return "Not there."
    rows = []
    for kind in found:
        for reference, orders in kind["orders"].items():
            rows.append(
                [
                    f"{kind['domains']} ({kind['count']})",
                    f"{reference}, {orders} orders",
                    *(_distance(by[reference]) for by in kind["raw"].values()),
                    *(_distance(by[reference]) for by in kind["leveled"].values()),
                    kind["nearest_merge"][reference],
                    _distance(kind["spread"][reference]),
                ]
            )
    text = table(
        ["domains", "reference", "to merge uniform", "to merge proportional",
         "leveled: uniform", "leveled: proportional", "nearest",
         "one order from the others"],
        rows,
    )  # fmt: skip
    contrasts = "; ".join(
        f"{kind['domains']}: correlation "
        f"{number(kind['contrast']['correlation'])}, slope "
        f"{number(kind['contrast']['slope'])}"
        for kind in found
    )
    return (
        "Mean absolute distance over domains, in thousandths of a bit per "
        "byte; leveled: after the mean distance is taken off.\n\n"
        f"{text}\n\nWhat sets the two reference runs apart against what sets the two "
        f"merges apart, domain by domain: {contrasts}."
    )


def _raising(result: dict[str, Any]) -> str:
    parts = ["### (a) Tail averages against last steps\n\n" + _pools(result["tails"])]
    head = ["", "targets", "Spearman", "minus merge", "minus ensemble"]
    parts.append(
        "### (b) Merge and ensemble together\n\n"
        + table(head, [[row["how"], *_versus(row)] for row in result["together"]])
    )
    parts.append(
        "### (c) A gain per partition between mixture and weight\n\n"
        + _gains(result["gains"])
    )
    parts.append("### (d) A fitted scale\n\n" + _scale(result["scale"]))
    parts.append("### (e) Drift and token multiplier\n\n" + _pools(result["lengths"]))
    return "\n\n".join(parts)


def _versus(row: dict[str, Any]) -> list[str]:
    against = row["against"]
    return [
        row["scope"],
        ranged(row["spearman"]),
        ranged(against.get("merge")),
        ranged(against.get("ensemble")),
    ]


def _gains(found: dict[str, Any] | None) -> str:
    if found is None:
        return "No calibration runs."
    gains = sorted(found["gains"].items(), key=lambda pair: -pair[1])
    error = found["fit_error"]
    rows = [
        [row["scope"], ranged(row["at_shares"]), *_versus(row)[1:]]
        for row in found["rows"]
    ]
    return (
        f"Gains: {', '.join(f'{name} {g:.2f}' for name, g in gains)}. On the "
        f"calibration runs' dev text the error fell from "
        f"{_distance(error['before'])} to {_distance(error['after'])} "
        "thousandths.\n\n"
        + table(
            ["targets", "ensemble at the shares",
             "at gains times shares", "minus merge", "minus ensemble"],
            rows,
        )
    )  # fmt: skip


def _scale(found: dict[str, Any] | None) -> str:
    if found is None:
        return "Not there."
    errors = ", ".join(f"{s}: {number(e, 4)}" for s, e in found["errors"].items())
    return (
        f"Root mean square error on the calibration runs by scale: {errors}; the "
        f"best is {found['scale']:g}.\n\n"
        + table(
            ["targets", "Spearman", "minus merge", "error, thousandths",
             "of the merge"],
            [
                [
                    *_versus(row)[:3],
                    _distance(row["error"]["scaled"]),
                    _distance(row["error"]["merge"]),
                ]
                for row in found["rows"]
            ],
        )
    )  # fmt: skip


def _pools(found: dict[str, Any] | None) -> str:
    if found is None:
        return "Not there."
    rows = []
    for row in found["rows"]:
        rows.append(
            [
                row["pool"],
                f"{row['member_steps']}",
                f"{row['token_multiplier']:g}",
                percent(row["drift"])
                if row["drift"] is None
                else f"{row['drift']:.1%}",
                row["verdict"] or BLANK,
                ", ".join(number(loss, 4) for loss in row["loss"].values()),
                number(row.get("ceiling")),
                _distance(row.get("noise")),
                str(row["below_noise"]),
                *(
                    ranged(row[predictor][which])
                    for predictor in ("merge", "ensemble")
                    for which in ("all", "sound")
                ),
                number(row["merge"].get("macro")),
                number(row["merge"].get("slope"), 2),
                _distance(row["merge"].get("level_error")),
            ]
        )
    return (
        f"Means over the {len(found['domains'])} out-of-pool domains, and over "
        f"the {len(found['sound'])} that are below the noise floor in none of the "
        "pools.\n\n"
        + table(
            ["pool", "steps", "token multiplier", "mean drift", "diagnostics",
             "loss (macros)", "ceiling", "noise, thousandths", "below the noise floor",
             "merge, all", "merge", "ensemble, all", "ensemble",
             "merge, macro (sample)", "slope", "level error, thousandths"],
            rows,
        )
    )  # fmt: skip


def _cost(found: dict[str, Any] | None) -> str:
    if found is None:
        return "There is no macro over out-of-pool domains."
    spent = table(
        ["what", "FLOPs"],
        [
            [what, f"{value:.3g}" if isinstance(value, float) else str(value)]
            for what, value in found["flops"].items()
        ],
    )
    base = found["baseline"]
    ways = table(
        ["way", "runs", "FLOPs", "gain of the choice, thousandths",
         "quartiles", "Spearman"],
        [
            [
                row["way"],
                str(row["runs"]),
                f"{row['flops']:.3g}",
                _thousandths(row["gain"]),
                f"{_thousandths(row['low'])} to {_thousandths(row['high'])}"
                if "low" in row
                else BLANK,
                number(row.get("spearman")),
            ]
            for row in found["ways"]
            if row["way"] != "reference runs alone" or row["runs"] in SHOWN
        ],
    )  # fmt: skip
    even = table(
        ["rival", "its FLOPs", "the pool's", "and for each new source",
         "cheaper from this new source on"],
        [
            [
                row["rival"],
                f"{row['total']:.3g}",
                f"{row['pool']:.3g}",
                f"{row['each source']:.3g}",
                BLANK if row["questions"] is None else str(row["questions"]),
            ]
            for row in found["break_even"]
        ],
    )  # fmt: skip
    return (
        f"{spent}\n\nThe gain is below the loss of {base['name']}, "
        f"{number(base['bits_per_byte'], 4)} bits per byte over "
        f"{base['orders']} orders, on the macro of out-of-pool text; a random "
        f"reference run gains {_thousandths(found['random'])}, the best of them, in "
        f"hindsight, {_thousandths(found['most'])}; a difference below "
        f"{_distance(found.get('band'))} is within the noise. Choices are "
        "made on dev text.\n\n"
        f"{ways}\n\nBreak-even: for every new source the pool trains one member and "
        "scores its merges again; the rivals train their runs again, because "
        "none has seen it. 0: from the first answer on. For a new target on "
        f"the same sources nobody trains anything.\n\n{even}"
    )


def _winner(found: dict[str, Any] | None) -> str:
    if found is None:
        return "Not there."
    rows = [
        [
            name,
            number(sum(values) / len(values), 4),
            ", ".join(number(value, 4) for value in values),
            BLANK
            if name == "found"
            else ranged(
                {"value": found["against"][name]["gain"]} | found["against"][name], 4
            ),
        ]
        for name, values in found["bits_per_byte"].items()
    ]
    shares = [
        f"{share['share']:.0%}"
        + (
            f" [{share['low']:.0%}, {share['high']:.0%}]"
            if share["low"] is not None
            else ""
        )
        if share["share"] is not None
        else "no gain to share"
        for share in (
            found["share_of_gain"]["without_first"],
            found["share_of_gain"]["all"],
        )
    ]
    return (
        table(
            ["trained", "mean bits per byte", "its orders",
             "minus the found one"],
            rows,
        )
        + "\n\nOf the gain from the best plain baseline "
        f"({found['share_of_gain']['all']['plain']}) to the best reference run the "
        f"found mixture has {shares[0]}; with the order that the best reference run "
        f"was picked on, {shares[1]}."
    )  # fmt: skip
