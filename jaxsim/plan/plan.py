"""The whole plan of a configuration on some devices."""

import dataclasses
from collections.abc import Sequence

import jax

from jaxsim.config import Config
from jaxsim.devices import is_cpu
from jaxsim.log import say
from jaxsim.mesh import scoring_mesh
from jaxsim.mixture.plan import Plan as ScoringPlan
from jaxsim.mixture.plan import memory_limit, process_bytes
from jaxsim.model import LanguageModel
from jaxsim.plan.chips import Chip, chip_of
from jaxsim.plan.cost import Cost, costs
from jaxsim.plan.programs import Program, group_step, scoring, train_step
from jaxsim.plan.report import Report, report_on
from jaxsim.plan.sizes import Sizes

# Of a chip's memory, what scoring may use: as it does where it runs.
SCORING_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was compiled, and what follows from it.

    Attributes:
      topology: its name; '' for the devices that are there.
      devices: how many.
      chip: what each of them is.
      memory: bytes of each that a program may use; 0 where nobody knows.
      sizes: of the pool and the vocabulary.
      parameters: of the model.
      reports: train step, group and scoring, in this order.
      scoring: how scoring is laid out.
      costs: of the pool.
      utilization: share of the chips' peak rate that is assumed.
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
        """That a chip takes for so many operations of the model."""
        return flops / (self.chip.rate * self.utilization)


def make_plan(
    config: Config,
    sizes: Sizes,
    topology: str,
    devices: Sequence[jax.Device],
    utilization: float,
) -> Plan:
    """Compiles what a pool needs. Nothing runs and no model is made.

    Args:
      config: of the project.
      sizes: see `sizes_of`.
      topology: what `devices` were made from; '' if they are there.
      devices: all that the project would use.
      utilization: model FLOPs as a share of the peak rate.

    Raises:
      UserError: the configuration cannot work on these devices.
    """
    model = LanguageModel(config.model, sizes.vocabulary)
    chip = chip_of(devices, there=not topology)
    memory, limit = chip.memory, int(SCORING_SHARE * chip.memory)
    if not topology:
        limit = memory = _free(config, devices)
        if devices[0].platform == "cpu":
            memory //= len(devices)  # they are one process
    score = dataclasses.replace(config.score, memory=limit / 1e9)
    if not config.score.memory:
        config = dataclasses.replace(config, score=score)
    reports = [
        _told(train_step(config, model, devices)),
        _told(group_step(config, model, devices)),
    ]
    program, layout = scoring(config, model, sizes.members, devices)
    reports.append(_told(program))
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


def _free(config: Config, devices: Sequence[jax.Device]) -> int:
    """Bytes that the evaluator would use on devices that are there."""
    mesh = scoring_mesh(1, devices)
    held = process_bytes() if is_cpu(mesh) else 0
    return memory_limit(config.score, mesh, held)


def _told(program: Program) -> Report:
    report = report_on(program)
    what = "compiled" if report.refused is None else "refused by the compiler"
    say(f"{program.name}: {what} after {report.seconds:.1f} s")
    return report
