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
from jaxsim.log import say
from jaxsim.mesh import scoring_mesh
from jaxsim.model import LanguageModel
from jaxsim.plan.chips import chip_of
from jaxsim.plan.programs import (
    Program,
    Report,
    group_step,
    scoring,
    test_on,
    train_step,
)
from jaxsim.scoring.plan import Plan as ScoringPlan
from jaxsim.scoring.plan import memory_limit, process_bytes

# The share of a chip's memory that scoring may use, as where it really runs.
SCORING_SHARE = 0.8
# The amount of scoring that is priced, since nobody knows how much text and
# how many mixtures there will be.
MIXTURES, TOKENS = 1000, 2**20

_INSTEAD = "give --members=N, or the --workdir of a `jaxsim prepare`"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Number of members in the pool, and number of tokens in the vocabulary."""

    members: int
    vocabulary: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of all runs of one kind.

    Attributes:
      name: what is run.
      count: number of runs.
      tokens: in all of them.
      flops: model FLOPs of all of them.
    """

    name: str
    count: int
    tokens: float
    flops: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was compiled, and what follows from it.

    Attributes:
      topology: its name; '' for attached devices.
      devices: number of devices.
      chip: what each of them is.
      memory: bytes that a program may use on each; 0 if unknown.
      sizes: of the pool and the vocabulary.
      parameters: number of parameters of the model.
      reports: one run, parallel runs and scoring, in this order.
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
    reports: list[Report]
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
    """Compiles the programs of a pool. Runs nothing and allocates no model.

    Args:
      config: of the project.
      sizes: see `sizes_of`.
      topology: the name of `devices`; '' if they are attached.
      devices: all that the project would use.
      utilization: model FLOPs as a share of the peak rate.

    Raises:
      UserError: the configuration cannot work on these devices.
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
        _logged(group_step(config, model, devices)),
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
      members: overrides both, if given.

    Raises:
      UserError: the number of members cannot be known.
    """
    if workdir is not None and (workdir / "corpus" / "corpus.json").exists():
        corpus = open_corpus(workdir)
        return Sizes(members or len(corpus.units), corpus.tokenizer.vocab_size)
    return Sizes(members or _members(config), _vocabulary(config))


def costs(config: Config, model: LanguageModel, members: int) -> list[Cost]:
    """Costs of base, members, reference runs, replicates, and some scoring."""
    length = model.config.length
    unit = config.recipe.steps * config.recipe.batch * length
    validate = config.validate
    # With the budget 'sum' a reference run on n members is n units long, and n
    # is drawn evenly from 2 to all.
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
        f"scoring {TOKENS:,} tokens",
        MIXTURES,
        tokens,
        model.forward_flops(1) * tokens,
    )
    return [cost for cost in [*all_training, scored] if cost.count]


def _free(config: Config, devices: Sequence[jax.Device]) -> int:
    """Bytes that the evaluator would use on attached devices."""
    mesh = scoring_mesh(1, devices)
    held = process_bytes() if is_cpu(mesh) else 0
    return memory_limit(config.score, mesh, held)


def _logged(program: Program) -> Report:
    report = test_on(program)
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
