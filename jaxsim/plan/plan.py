"""What a configuration needs and costs on some devices."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import jax

from jaxsim.config import Config, ScoreConfig
from jaxsim.corpus import open_corpus
from jaxsim.corpus.tokenizer import tokenizer_from_config
from jaxsim.devices import is_cpu
from jaxsim.errors import UserError
from jaxsim.log import counted, detail, is_verbose, say_wrapped, show_table
from jaxsim.mesh import scoring_mesh
from jaxsim.model import LanguageModel
from jaxsim.plan.cost import (
    Evaluation,
    closed_form_sentence,
    evaluation_of,
    scoring_costs,
    training_costs,
    warning_of_scoring,
)
from jaxsim.plan.programs import (
    chip_of,
    compile_program,
    devices_of,
    scoring,
    train_step,
)
from jaxsim.scoring.layout import memory_limit

# The share of a chip's memory that scoring may use.
SCORING_SHARE = 0.8

# What to change if one run, parallel runs or scoring does not fit.
_CHANGES = (
    "lower config.recipe.batch (a different recipe) or config.train.loss_chunk, set "
    "config.train.remat='full', raise config.train.model_axis, or use more chips",
    "one run is too large for one chip: train it over all of them, set "
    "config.train.remat='full', or lower config.recipe.batch",
    "set config.score.deltas='bfloat16', raise config.score.model_axis, or lower "
    "config.score.rows and config.score.loss_chunk",
)


_PARTS = ("temporaries", "outputs", "donated")  # of the memory; among details
ALL_TRAINING, ALL_SCORING = "all training", "all scoring"


class PlannedProgram(TypedDict):
    """A compiled program; memory in bytes of one chip."""

    name: str  # what it computes, and over which devices
    arguments: int  # what a call takes
    temporaries: int | None  # None, like the next two, if the compiler refused it
    outputs: int | None  # what a call returns
    donated: int | None  # of the outputs, in the memory of arguments
    needed: int  # in total
    memory: int  # that it may use; 0 if unknown
    change: str  # what to change so that it fits; '' if it does
    flops: float  # model FLOPs of one call, on one chip
    seconds: float | None  # of one call; None if the chip's rate is unknown
    compile_seconds: float  # that this took


class PlannedCost(TypedDict):
    """The cost of all models of one kind."""

    what: str  # the kind
    number: int | None  # of models; None of a total
    tokens: float  # of all of them
    flops: float  # model FLOPs
    chip_seconds: float | None  # None if the chip's rate is unknown


class Plan(TypedDict):
    """What fits on some chips, and what it costs."""

    topology: str  # or 'the attached devices'
    chips: int  # how many
    chip: str  # its kind
    source: str  # of its memory and rate
    memory: int  # bytes of one chip; 0 if unknown
    rate: float  # FLOP/s of one chip; 0 if unknown
    utilization: float  # share of the rate that programs reach
    parameters: int  # of the model
    vocabulary: int  # entries
    members: int  # of the pool
    programs: list[PlannedProgram]  # one run, parallel runs, scoring
    costs: list[PlannedCost]  # by kind of model, then the totals
    warning: str  # of scoring that outweighs training; '' if it does not


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Members of the pool, entries of the vocabulary, text to score."""

    members: int
    vocabulary: int
    evaluation: Evaluation | None = None  # of a prepared corpus


def sizes_of(config: Config, workdir: Path | None, members: int | None) -> Sizes:
    """Sizes from a prepared workdir, or else from the configuration.

    The text need not exist, and `members`, if given, replaces what both say.

    Raises:
      UserError: the number of members is unknown.
    """
    if workdir is not None and (workdir / "corpus" / "corpus.json").exists():
        corpus = open_corpus(workdir)
        vocabulary, found = corpus.tokenizer.vocab_size, evaluation_of(corpus)
        return Sizes(members or len(corpus.units), vocabulary, found)
    return Sizes(members or _members(config), _vocabulary(config))


def _members(config: Config) -> int:
    why = ""
    if config.corpus.max_units > 1:
        why = f"max_units={config.corpus.max_units}"
    for name, source in config.corpus.partitions.items():
        if source.by_field or source.by_file:
            why = f"partitions.{name} has by_field or by_file"
    if why:
        raise UserError(
            f"config.corpus.{why}: the number of members is known only after the text "
            "is prepared; give --members=N, or a --workdir that is prepared"
        )
    return sum(len(s.by_dates) or 1 for s in config.corpus.partitions.values())


def _vocabulary(config: Config) -> int:
    tokenizer = config.corpus.tokenizer
    is_there = Path(tokenizer.path).is_file() or tokenizer.kind == "bytes"
    if tokenizer.kind == "bpe" or not is_there:
        return tokenizer.vocab_size
    return tokenizer_from_config(tokenizer, ()).vocab_size


def make_plan(
    config: Config, sizes: Sizes, topology: str | None, utilization: float
) -> Plan:
    """Compiles the programs of a pool: what fits, and what it costs.

    It runs none of them and allocates no model. Without a `topology`, it is about the
    attached devices. `utilization` is model FLOPs as a share of the peak rate.

    Raises:
      UserError: the configuration does not work on these devices.
    """
    devices = devices_of(topology) if topology else jax.devices()
    model = LanguageModel(config.model, sizes.vocabulary)
    chip, mesh = chip_of(devices, attached=not topology), scoring_mesh(1, devices)
    # Of a device, for training; and what scoring may use, as it counts it.
    memory, limit = chip.memory, int(SCORING_SHARE * chip.memory)
    if not topology:
        limit = memory = memory_limit(ScoreConfig(), mesh)
        if is_cpu(mesh):
            memory //= len(devices)  # they share the memory of one process
    if config.score.memory:
        limit = memory_limit(config.score, mesh)
    score = dataclasses.replace(config.score, memory=limit / 1e9)
    config = dataclasses.replace(config, score=score)
    reports = [
        compile_program(train_step(config, model, devices)),
        compile_program(train_step(config, model, devices, parallel=True)),
        compile_program(scoring(config, model, sizes.members, devices)),
    ]

    def seconds(flops: float) -> float | None:
        """Seconds of one chip; None if its rate is unknown."""
        return flops / (chip.rate * utilization) if chip.rate else None

    programs = [
        PlannedProgram(
            name=report.name,
            arguments=m.arguments if (m := report.memory) else report.arguments,
            temporaries=m.temporaries if m else None,
            outputs=m.outputs if m else None,
            donated=m.donated if m else None,
            needed=report.needed,
            memory=report.refused[1] if report.refused else most,
            change="" if report.fits(most) else change,
            flops=report.flops,
            seconds=seconds(report.flops),
            compile_seconds=report.seconds,
        )
        for report, most, change in zip(
            reports, (memory, memory, limit), _CHANGES, strict=True
        )
    ]
    trained = training_costs(config, sizes.members)
    scored = scoring_costs(config, sizes.members, sizes.evaluation)
    forward = model.forward_flops(1)
    costs = []
    for name, count, part in (
        *((c.name, c.count, [c]) for c in trained + scored),
        (ALL_TRAINING, None, trained),
        (ALL_SCORING, None, scored),
    ):
        flops = forward * sum(c.work for c in part)
        whole = seconds(flops)
        tokens = sum(c.tokens for c in part)
        costs.append(
            PlannedCost(
                what=name, number=count, tokens=tokens, flops=flops, chip_seconds=whole
            )
        )
    warning = ""
    if sizes.evaluation is not None:
        warning = warning_of_scoring(trained, scored, forward)
    return Plan(
        topology=topology or "the attached devices",
        chips=len(devices),
        chip=chip.kind,
        source=chip.source,
        memory=memory,
        rate=chip.rate,
        utilization=utilization,
        parameters=model.parameter_count(),
        vocabulary=sizes.vocabulary,
        members=sizes.members,
        programs=programs,
        costs=costs,
        warning=warning,
    )


def show_plan(plan: Plan) -> None:
    """Prints what fits and what it costs; single costs are details."""
    memory, rate = plan["memory"], plan["rate"]
    say_wrapped(
        f"plan for {plan['topology']}: {plan['chips']} x {plan['chip']}, "
        f"{_bytes(memory) if memory else 'unknown memory'} and "
        f"{f'{rate / 1e12:.4g} TFLOP/s' if rate else 'unknown rate'} each "
        f"({plan['source']}); {plan['parameters']:,} parameters, vocabulary "
        f"{plan['vocabulary']:,}, {counted(plan['members'], 'member')}"
    )
    show_table(
        "per chip, one call of each program",
        [
            *("program", "arguments", *(_PARTS if is_verbose() else ())),
            *("needed", "of memory", "model TFLOP", "seconds"),
        ],
        [_row(program) for program in plan["programs"]],
        always=True,
    )
    for program in plan["programs"]:
        if program["change"]:
            say_wrapped(
                f"DOES NOT FIT: {program['name']}: {_bytes(program['needed'])} of "
                f"{_bytes(program['memory'])}; {program['change']}"
            )
    columns = ["what", "number", "tokens", "FLOP", "chip-hours"]
    rows = [_cost(cost, plan["chips"]) for cost in plan["costs"]]
    show_table(
        f"cost of the pool at {plan['utilization']:.0%} of the peak rate",
        [*columns, f"hours on {counted(plan['chips'], 'chip')}"],
        rows if is_verbose() else rows[-2:],
        always=True,
    )
    detail(closed_form_sentence(plan["members"]))
    if plan["warning"]:
        say_wrapped(plan["warning"])


def _cost(cost: PlannedCost, chips: int) -> list[str]:
    seconds, number = cost["chip_seconds"], cost["number"]
    return [
        cost["what"],
        "" if number is None else f"{number:,}",
        f"{cost['tokens']:,.4g}",
        f"{cost['flops']:.3g}",
        "?" if seconds is None else f"{seconds / 3600:,.4g}",
        "?" if seconds is None else f"{seconds / 3600 / chips:,.3g}",
    ]


def _row(program: PlannedProgram) -> list[str]:
    parts: Mapping[str, Any] = program
    memory, seconds = program["memory"], program["seconds"]
    return [
        program["name"],
        _bytes(program["arguments"]),
        *(_bytes(parts[name]) for name in (_PARTS if is_verbose() else ())),
        _bytes(program["needed"]),
        f"{program['needed'] / memory:.0%}" if memory else "?",
        f"{program['flops'] / 1e12:.4g}",
        "?" if seconds is None else f"{seconds:.3g}",
    ]


def _bytes(count: float | None) -> str:
    if count is None:
        return "?"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.4g} {unit}"
    return f"{count:.0f} B"
