"""Runs `prepare`, `base` and `train`, as a process that can be killed.

python driver.py CONFIG.py WORKDIR [--config.a.b=value ...]
"""

import sys

from jaxsim.cli import main

if __name__ == "__main__":
    config, workdir, *rest = sys.argv[1:]
    for command in ("prepare", "base", "train"):
        code = main(
            [command, f"--config={config}", f"--workdir={workdir}", "--verbose", *rest]
        )
        if code:
            sys.exit(code)
