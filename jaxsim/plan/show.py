"""Prints a plan."""

from jaxsim.log import say, show_table
from jaxsim.plan.plan import Plan
from jaxsim.plan.programs import Report

# What to change if a report of `Plan.reports` does not fit.
_CHANGES = (
    "lower config.recipe.batch (a different recipe), set "
    "config.train.remat='full' if it is not, lower config.train.loss_chunk, "
    "raise config.train.model_axis, or use more chips",
    "one run is too large for one chip: train it over all of them, as above, "
    "or lower config.recipe.batch, or set config.train.remat='full' if it is "
    "not",
    "set config.score.deltas='bfloat16' if it is not, raise "
    "config.score.model_axis, or lower config.score.rows and "
    "config.score.loss_chunk",
)


def show_plan(plan: Plan) -> None:
    """Prints what fits, what does not and what to change, and what it costs."""
    chip = plan.chip
    rate = f"{chip.rate / 1e12:.4g} TFLOP/s" if chip.rate else "unknown rate"
    memory = _bytes(plan.memory) if plan.memory else "unknown memory"
    say(
        f"plan for {plan.topology or 'the attached devices'}: "
        f"{plan.devices} x {chip.kind}, {memory} and {rate} each "
        f"({chip.source}); {plan.parameters:,} parameters, vocabulary "
        f"{plan.sizes.vocabulary:,}, {plan.sizes.members} members"
    )
    show_table(
        "per chip, one call of each program",
        ["program", "arguments", "temporaries", "output", "donated", "needed",
         "of memory", "model TFLOP", "seconds"],
        [_row(plan, report) for report in plan.reports],
        f"Seconds at {plan.utilization:.0%} of the peak rate, without waiting "
        "for other chips.",
    )  # fmt: skip
    for report, change in zip(plan.reports, _CHANGES, strict=True):
        if not report.fits(plan.memory):
            available = report.refused[1] if report.refused else plan.memory
            say(
                f"DOES NOT FIT: {report.name}: {_bytes(report.needed)} of "
                f"{_bytes(available)}; {change}"
            )
    say(str(plan.scoring))
    _show_costs(plan)


def _row(plan: Plan, report: Report) -> list[str]:
    m = report.memory
    parts = ["?"] * 3 if m is None else [
        _bytes(m.temporaries), _bytes(m.outputs), _bytes(m.donated)
    ]  # fmt: skip
    return [
        report.name,
        _bytes(report.arguments if m is None else m.arguments),
        *parts,
        _bytes(report.needed),
        f"{report.needed / plan.memory:.0%}" if plan.memory else "?",
        f"{report.flops / 1e12:.4g}",
        f"{plan.seconds(report.flops):.3g}" if plan.chip.rate else "?",
    ]


def _show_costs(plan: Plan) -> None:
    def hours(flops: float) -> list[str]:
        if not plan.chip.rate:
            return ["?", "?"]
        chips = plan.seconds(flops) / 3600
        return [f"{chips:,.4g}", f"{chips / plan.devices:,.3g}"]

    rows = [
        [c.name, f"{c.count:,}", f"{c.tokens:,.4g}", f"{c.flops:.3g}",
         *hours(c.flops)]
        for c in plan.costs
    ]  # fmt: skip
    trained = [c for c in plan.costs if not c.name.startswith("scoring")]
    total = sum(c.flops for c in trained)
    rows.append(
        ["all training", "", f"{sum(c.tokens for c in trained):,.4g}",
         f"{total:.3g}", *hours(total)]
    )  # fmt: skip
    show_table(
        f"cost of the pool at {plan.utilization:.0%} of the peak rate",
        ["what", "number", "tokens", "FLOP", "chip-hours",
         f"hours on {plan.devices} chips"],
        rows,
    )  # fmt: skip


def _bytes(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.4g} {unit}"
    return f"{count:.0f} B"
