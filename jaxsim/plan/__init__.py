"""Programs and hardware to what fits and what it costs; nothing is run."""

from jaxsim.plan.plan import Plan, make_plan
from jaxsim.plan.show import show_plan
from jaxsim.plan.sizes import Sizes, sizes_of
from jaxsim.plan.topology import devices_of

__all__ = [
    "Plan",
    "Sizes",
    "devices_of",
    "make_plan",
    "show_plan",
    "sizes_of",
]
