"""What a configuration needs and costs on some devices."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxsim.config import Config, SourceConfig
from jaxsim.corpus import open_corpus
from jaxsim.corpus.tokenizer import Tokenizer
from jaxsim.devices import Chip, is_cpu
from jaxsim.errors import UserError
from jaxsim.log import say, show_table
from jaxsim.mesh import scoring_mesh
from jaxsim.model import LanguageModel
from jaxsim.plan.programs import (
    CompileReport,
    Program,
    chip_of,
    compile_program,
    scoring,
    train_step,
)
from jaxsim.scoring.plan import Plan as ScoringPlan
from jaxsim.scoring.plan import memory_limit, process_bytes

# The share of a chip's memory that scoring may use.
SCORING_SHARE = 0.8
# The cost of scoring is given for this many mixtures and tokens.
MIXTURES, TOKENS = 1000, 2**20

# What to change if an entry of `Plan.reports` does not fit.
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
_INSTEAD = "give --members=N, or the --workdir of a `jaxsim prepare`"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Members of the pool and entries of the vocabulary."""

    members: int
    vocabulary: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of all runs of one kind: their number, tokens and model FLOPs."""

    name: str
    count: int
    tokens: float
    flops: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What programs need on some devices, and what a pool costs there.

    Attributes:
      topology: its name; '' for attached devices.
      devices: number of devices.
      chip: the kind of each device.
      memory: bytes that a program may use on each; 0 if unknown.
      sizes: of the pool and the vocabulary.
      parameters: number of parameters of the model.
      reports: one run, vectorized runs and scoring, in this order.
      scoring: how scoring is laid out.
      costs: of the pool.
      utilization: assumed share of the chips' peak rate.
    """

    topology: str
    devices: int
    chip: Chip
    memory: int
    sizes: Sizes
    parameters: int
    reports: list[CompileReport]
    scoring: ScoringPlan
    costs: list[Cost]
    utilization: float

    def seconds(self, flops: float) -> float:
        """Seconds that one chip takes for this many model FLOPs."""
        return flops / (self.chip.rate * self.utilization)


def make_plan(
    config: Config,
    sizes: Sizes,
    topology: str,
    devices: Sequence[jax.Device],
    utilization: float,
) -> Plan:
    """Compiles the programs of a pool without running them or allocating a model.

    Args:
      config: of the project.
      sizes: see `sizes_of`.
      topology: the name of `devices`; '' if they are attached.
      devices: all devices of the project.
      utilization: model FLOPs as a share of the peak rate.

    Raises:
      UserError: the configuration does not work on these devices.
    """
    model = LanguageModel(config.model, sizes.vocabulary)
    chip = chip_of(devices, attached=not topology)
    memory, limit = chip.memory, int(SCORING_SHARE * chip.memory)
    if not topology:
        limit = memory = _free(config, devices)
        if devices[0].platform == "cpu":
            memory //= len(devices)  # they share the memory of one process
    score = dataclasses.replace(config.score, memory=limit / 1e9)
    if not config.score.memory:
        config = dataclasses.replace(config, score=score)
    reports = [
        _logged(train_step(config, model, devices)),
        _logged(train_step(config, model, devices, parallel=True)),
    ]
    program, layout = scoring(config, model, sizes.members, devices)
    reports.append(_logged(program))
    return Plan(
        topology=topology,
        devices=len(devices),
        chip=chip,
        memory=memory,
        sizes=sizes,
        parameters=model.parameter_count(),
        reports=reports,
        scoring=layout,
        costs=costs(config, model, sizes.members),
        utilization=utilization,
    )


def sizes_of(config: Config, workdir: Path | None, members: int | None) -> Sizes:
    """Sizes from a prepared workdir, or else from the configuration.

    Args:
      config: of the project; its text need not exist.
      workdir: may be unprepared, or None.
      members: if given, replaces the number that both say.

    Raises:
      UserError: the number of members is unknown.
    """
    if workdir is not None and (workdir / "corpus" / "corpus.json").exists():
        corpus = open_corpus(workdir)
        return Sizes(members or len(corpus.units), corpus.tokenizer.vocab_size)
    return Sizes(members or _members(config), _vocabulary(config))


def costs(config: Config, model: LanguageModel, members: int) -> list[Cost]:
    """Costs of the base model, all runs of the pool, and some scoring."""
    length = model.config.length
    unit = config.recipe.steps * config.recipe.batch * length
    validate = config.validate
    # With budget 'sum' a reference run on n members is n units long, and n is drawn
    # uniformly from 2 to all.
    units = validate.token_multiplier
    if validate.budget == "sum":
        units = (2 + members) / 2

    def trained(name: str, count: int, tokens: float) -> Cost:
        # A backward pass costs two forward passes.
        return Cost(name, count, tokens, 3 * model.forward_flops(1) * tokens)

    base = config.base.steps * config.base.batch * length
    reference_runs = validate.held_out + validate.calibration_runs
    all_training = [
        trained("base", 1, base),
        trained("members", members, members * unit),
        trained("reference runs", reference_runs, reference_runs * units * unit),
        trained(
            "replicates",
            validate.replicates + validate.member_replicates,
            (validate.replicates * units + validate.member_replicates) * unit,
        ),
    ]
    tokens = float(MIXTURES * TOKENS)
    scored = Cost(
        f"scoring {TOKENS:,} tokens", MIXTURES, tokens, model.forward_flops(1) * tokens
    )
    return [cost for cost in [*all_training, scored] if cost.count]


def _free(config: Config, devices: Sequence[jax.Device]) -> int:
    """Bytes that the evaluator would use on attached devices."""
    mesh = scoring_mesh(1, devices)
    held = process_bytes() if is_cpu(mesh) else 0
    return memory_limit(config.score, mesh, held)


def _logged(program: Program) -> CompileReport:
    report = compile_program(program)
    what = "compiled" if report.refused is None else "refused by the compiler"
    say(f"{program.name}: {what} after {report.seconds:.1f} s")
    return report


def _members(config: Config) -> int:
    if config.corpus.max_units > 1:
        raise UserError(
            f"config.corpus.max_units={config.corpus.max_units}: the number of "
            f"members is known only after the text is prepared; {_INSTEAD}"
        )
    return sum(
        _partitions(name, source) for name, source in config.corpus.partitions.items()
    )


def _partitions(name: str, source: SourceConfig) -> int:
    if source.by_field or source.by_file:
        raise UserError(
            f"config.corpus.partitions.{name}: the number of partitions from "
            "by_field or by_file is known only after the text is read; "
            f"{_INSTEAD}"
        )
    return len(source.by_dates) or 1


def _vocabulary(config: Config) -> int:
    tokenizer = config.corpus.tokenizer
    if tokenizer.kind == "bytes":
        return Tokenizer.from_bytes().vocab_size
    if tokenizer.kind == "file" and Path(tokenizer.path).is_file():
        path = Path(tokenizer.path)
        return Tokenizer.from_file(path, tokenizer.end_of_text).vocab_size
    return tokenizer.vocab_size


def show_plan(plan: Plan) -> None:
    """Prints what fits, what to change if it does not, and the costs."""
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


def _row(plan: Plan, report: CompileReport) -> list[str]:
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
