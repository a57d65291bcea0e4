"""Hardware and compiled programs -> what fits and what it costs."""

from jaxsim.plan.plan import Sizes, show_plan, sizes_of
from jaxsim.plan.programs import devices_of

__all__ = ["Sizes", "devices_of", "show_plan", "sizes_of"]
