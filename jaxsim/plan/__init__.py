"""Hardware and compiled programs -> what fits and what it costs."""

from jaxsim.plan.cost import evaluation_of, show_costs
from jaxsim.plan.plan import Plan, Sizes, make_plan, show_plan, sizes_of
from jaxsim.plan.programs import devices_of

__all__ = [
    "Plan",
    "Sizes",
    "devices_of",
    "evaluation_of",
    "make_plan",
    "show_costs",
    "show_plan",
    "sizes_of",
]
