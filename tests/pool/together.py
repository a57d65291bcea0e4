"""`jaxsim train` as one of two processes, with short limits.

python together.py PROCESS PORT CONFIG WORKDIR [FLAG ...]

$SLEEPER is the process that sleeps before its third step, if any.
"""

import os
import sys
import time

from jaxsim import distributed
from jaxsim.cli import main
from jaxsim.train import Trainer

if __name__ == "__main__":
    distributed.HEARTBEAT, distributed.JOIN, distributed.LEAVE = 40, 300, 5
    process, port, config, workdir, *flags = sys.argv[1:]
    if os.environ.get("SLEEPER") == process:
        call, calls = Trainer._call, []

        def sleepy(*args):
            calls.append(1)
            if len(calls) == 3:
                time.sleep(3600)
            return call(*args)

        Trainer._call = sleepy
    sys.exit(
        main(
            [
                "train",
                f"--config={config}",
                f"--workdir={workdir}",
                f"--coordinator=localhost:{port}",
                "--processes=2",
                f"--process={process}",
                *flags,
            ]
        )
    )
