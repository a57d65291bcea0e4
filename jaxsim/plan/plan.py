"""What a configuration needs and costs on some devices."""

import dataclasses
import math
from pathlib import Path

import jax

from jaxsim.config import Config, ScoreConfig
from jaxsim.corpus import open_corpus
from jaxsim.corpus.tokenizer import tokenizer_from_config
from jaxsim.devices import is_cpu
from jaxsim.errors import UserError
from jaxsim.log import counted, say, show_table
from jaxsim.mesh import scoring_mesh
from jaxsim.model import LanguageModel
from jaxsim.plan.cost import (
    Evaluation,
    evaluation_of,
    scoring_costs,
    show_closed_form,
    training_costs,
    warn_of_scoring,
)
from jaxsim.plan.programs import (
    CompileReport,
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


def show_plan(
    config: Config, sizes: Sizes, topology: str | None, utilization: float
) -> None:
    """Compiles the programs of a pool, and prints what fits and what it costs.

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
    room = memory, memory, limit

    def seconds(flops: float) -> float:
        """Seconds of one chip; not a number if its rate is unknown."""
        return flops / (chip.rate * utilization) if chip.rate else math.nan

    rate = f"{chip.rate / 1e12:.4g} TFLOP/s" if chip.rate else "unknown rate"
    say(
        f"plan for {topology or 'the attached devices'}: {len(devices)} x {chip.kind}, "
        f"{_bytes(memory) if memory else 'unknown memory'} and {rate} each "
        f"({chip.source}); {model.parameter_count():,} parameters, vocabulary "
        f"{sizes.vocabulary:,}, {counted(sizes.members, 'member')}"
    )
    columns = ["program", "arguments", "temporaries", "output", "donated", "needed"]
    show_table(
        "per chip, one call of each program",
        [*columns, "of memory", "model TFLOP", "seconds"],
        [
            _row(report, most, seconds(report.flops))
            for report, most in zip(reports, room, strict=True)
        ],
        f"Seconds at {utilization:.0%} of the peak rate, without waiting for other "
        "chips. Scoring on CPUs needs what the whole process needs.",
    )
    for report, most, change in zip(reports, room, _CHANGES, strict=True):
        if not report.fits(most):
            available = report.refused[1] if report.refused else most
            say(
                f"DOES NOT FIT: {report.name}: {_bytes(report.needed)} of "
                f"{_bytes(available)}; {change}"
            )
    trained = training_costs(config, sizes.members)
    scored = scoring_costs(config, sizes.members, sizes.evaluation)
    forward = model.forward_flops(1)
    rows = []
    for name, count, costs in (
        *((c.name, f"{c.count:,}", [c]) for c in trained + scored),
        ("all training", "", trained),
        ("all scoring", "", scored),
    ):
        flops = forward * sum(c.work for c in costs)
        hours = seconds(flops) / 3600
        rows.append(
            [
                name,
                count,
                f"{sum(c.tokens for c in costs):,.4g}",
                f"{flops:.3g}",
                f"{hours:,.4g}",
                f"{hours / len(devices):,.3g}",
            ]
        )
    columns = ["what", "number", "tokens", "FLOP", "chip-hours"]
    show_table(
        f"cost of the pool at {utilization:.0%} of the peak rate",
        [*columns, f"hours on {counted(len(devices), 'chip')}"],
        rows,
    )
    show_closed_form(sizes.members)
    if sizes.evaluation is not None:
        warn_of_scoring(trained, scored, forward)


def _row(report: CompileReport, memory: int, seconds: float) -> list[str]:
    m = report.memory  # None if the compiler refused
    arguments = report.arguments if m is None else m.arguments
    parts = [getattr(m, part, None) for part in ("temporaries", "outputs", "donated")]
    return [
        report.name,
        *map(_bytes, [arguments, *parts, report.needed]),
        f"{report.needed / memory:.0%}" if memory else "?",
        f"{report.flops / 1e12:.4g}",
        f"{seconds:.3g}",
    ]


def _bytes(count: float | None) -> str:
    if count is None:
        return "?"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.4g} {unit}"
    return f"{count:.0f} B"
