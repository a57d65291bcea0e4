"""The driver of launchers that look, beat and lose patience quickly."""

import runpy
from pathlib import Path

from jaxsim.pool import claims
from jaxsim.pool.bucket import states

claims.BEAT, claims.STALE, claims.POLL = 0.1, 3.0, 0.1
states.LOOK = 0.05

if __name__ == "__main__":
    driver = Path(__file__).parents[1] / "driver.py"
    runpy.run_path(str(driver), run_name="__main__")
