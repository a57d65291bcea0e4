"""What a pool costs: floating-point operations, and hours of chips."""

import dataclasses

from jaxsim.config import Config
from jaxsim.model import LanguageModel

# What scoring is priced for, because neither text nor mixtures end here.
MIXTURES, TOKENS = 1000, 2**20


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of several things of one kind.

    Attributes:
      name: of what.
      count: how many.
      tokens: of all of them.
      flops: of the model.
    """

    name: str
    count: int
    tokens: float
    flops: float


def costs(config: Config, model: LanguageModel, members: int) -> list[Cost]:
    """Seed, members, truths, repeats, and a stated amount of scoring."""
    length = model.config.length
    unit = config.recipe.steps * config.recipe.batch * length
    validate = config.validate
    # With the budget 'sum' a truth of n members is n units long, and n is
    # drawn evenly from 2 to all.
    units = validate.horizon
    if validate.budget == "sum":
        units = (2 + members) / 2

    def trained(name: str, count: int, tokens: float) -> Cost:
        # A backward pass is two forward passes.
        return Cost(name, count, tokens, 3 * model.forward_flops(1) * tokens)

    seed = config.seed.steps * config.seed.batch * length
    truths = validate.truths + validate.fit
    all_of_it = [
        trained("seed", 1, seed),
        trained("members", members, members * unit),
        trained("truths", truths, truths * units * unit),
        trained(
            "repeats",
            validate.repeats + validate.member_repeats,
            (validate.repeats * units + validate.member_repeats) * unit,
        ),
    ]
    tokens = float(MIXTURES * TOKENS)
    scored = Cost(
        f"scoring {TOKENS:,} tokens",
        MIXTURES,
        tokens,
        model.forward_flops(1) * tokens,
    )
    return [cost for cost in [*all_of_it, scored] if cost.count]
