"""The driver of launchers that look, beat and lose patience quickly.

With STEP_SECONDS in the environment every step takes that long.
"""

import os
import runpy
import time
from pathlib import Path

from jaxsim.pool import claims
from jaxsim.pool.bucket import states
from jaxsim.train.program import TrainProgram

claims.BEAT, claims.STALE, claims.POLL = 0.1, 3.0, 0.1
states.LOOK = 0.05

_call = TrainProgram.__call__


def _slow(*args):
    time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
    return _call(*args)


if __name__ == "__main__":
    TrainProgram.__call__ = _slow
    driver = Path(__file__).parents[1] / "driver.py"
    runpy.run_path(str(driver), run_name="__main__")
