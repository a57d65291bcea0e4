"""Hardware and compiled programs -> what fits and what it costs."""

from jaxsim.plan.chips import devices_of
from jaxsim.plan.plan import Plan, Sizes, make_plan, sizes_of
from jaxsim.plan.show import show_plan

__all__ = [
    "Plan",
    "Sizes",
    "devices_of",
    "make_plan",
    "show_plan",
    "sizes_of",
]
