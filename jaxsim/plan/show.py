"""A plan in words and tables."""

from collections.abc import Iterator

from jaxsim.log import say, show_table
from jaxsim.plan.plan import Plan
from jaxsim.plan.report import LARGE, Report

_CHANGES = (
    "take a smaller config.recipe.batch (another recipe), "
    "config.train.remat='full' if it is not, a smaller "
    "config.train.loss_chunk, a larger config.train.model_axis, or more chips",
    "one run is too much for one chip: train it over all of them, as above, "
    "or take a smaller config.recipe.batch, or config.train.remat='full' if "
    "it is not",
    "set config.score.deltas='bfloat16' if it is not, a larger "
    "config.score.model_axis, or smaller config.score.rows and "
    "config.score.loss_chunk",
)


def show_plan(plan: Plan) -> None:
    """Prints it."""
    chip = plan.chip
    rate = f"{chip.rate / 1e12:.4g} TFLOP/s" if chip.rate else "unknown rate"
    memory = _bytes(plan.memory) if plan.memory else "unknown memory"
    say(
        f"plan for {plan.topology or 'the devices that are there'}: "
        f"{plan.devices} x {chip.kind}, {memory} and {rate} each "
        f"({chip.source}); {plan.parameters:,} parameters, vocabulary "
        f"{plan.sizes.vocabulary:,}, {plan.sizes.members} members"
    )
    show_table(
        "per chip, one call of each program",
        ["program", "arguments", "temporaries", "output", "donated", "needed",
         "of memory", "model TFLOP", "compiler's", "seconds"],
        [_row(plan, report) for report in plan.reports],
        f"Seconds at {plan.utilization:.0%} of the peak rate, without waiting "
        "for other chips. The compiler counts the body of a loop once.",
    )  # fmt: skip
    for report, change in zip(plan.reports, _CHANGES, strict=True):
        for line in _lines(plan, report, change):
            say(line)
    say(str(plan.scoring))
    _show_costs(plan)


def _row(plan: Plan, report: Report) -> list[str]:
    m = report.memory
    parts = ["?"] * 3 if m is None else [
        _bytes(m.temporaries), _bytes(m.outputs), _bytes(m.donated)
    ]  # fmt: skip
    known = bool(plan.chip.rate)
    return [
        report.name,
        _bytes(report.arguments if m is None else m.arguments),
        *parts,
        _bytes(report.needed),
        f"{report.needed / plan.memory:.0%}" if plan.memory else "?",
        f"{report.flops / 1e12:.4g}",
        f"{report.compiler_flops / 1e12:.4g}" if report.compiler_flops else "?",
        f"{plan.seconds(report.flops):.3g}" if known else "?",
    ]


def _lines(plan: Plan, report: Report, change: str) -> Iterator[str]:
    if not report.fits(plan.memory):
        available = report.refused[1] if report.refused else plan.memory
        yield (
            f"DOES NOT FIT: {report.name}: {_bytes(report.needed)} of "
            f"{_bytes(available)}; {change}"
        )
    if report.refused:
        return
    yield f"{report.name}: {_traffic(report)}"
    for c in report.collectives:
        if c.size * c.count >= LARGE:
            at = c.operator.removeprefix("jit(").replace("/closed_call", "")
            yield (
                f"  {c.count} x {c.kind} of {_bytes(c.size)}: {c.shapes}"
                + (f", in {at[-60:]}" if at else "")
            )
    largest = "; ".join(f"{a.shape} {_bytes(a.size)}" for a in report.largest)
    yield f"  largest arrays: {largest}"
    for held in report.held[:3]:
        yield (
            f"  the same on {held.devices} chips: {held.name}, "
            f"{_bytes(held.size)} on each"
        )
    if len(report.held) > 3:
        size = sum(held.size for held in report.held)
        yield f"  and {len(report.held) - 3} more, {_bytes(size)} in all"


def _traffic(report: Report) -> str:
    if not report.collectives:
        return "chips exchange nothing"
    kinds: dict[str, list[int]] = {}
    for c in report.collectives:
        total = kinds.setdefault(c.kind, [0, 0])
        total[0] += c.count
        total[1] += c.count * c.size
    parts = [
        f"{count} {kind} of {_bytes(size)} in all"
        for kind, (count, size) in kinds.items()
    ]
    return "in one call " + ", ".join(parts)


def _show_costs(plan: Plan) -> None:
    known = bool(plan.chip.rate)

    def hours(flops: float) -> list[str]:
        if not known:
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
        f"what the pool costs at {plan.utilization:.0%} of the peak rate",
        ["what", "number", "tokens", "FLOP", "chip-hours",
         f"hours of {plan.devices} chips"],
        rows,
    )  # fmt: skip


def _bytes(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.4g} {unit}"
    return f"{count:.0f} B"
