"""A driver that kills itself during a save.

With KILL_IN_SAVE=N it is killed while it saves a state of member a, before Orbax
commits its Nth folder.
"""

import os
import runpy
import signal
from pathlib import Path

from orbax.checkpoint._src.path import atomicity

COMMITS = []


def _kill_in(kind):
    finalize = kind.finalize

    async def killed(self, *args, **options):
        if "/a/" in str(self.get()):
            COMMITS.append(str(self.get()))
            if len(COMMITS) == int(os.environ.get("KILL_IN_SAVE", "0")):
                os.kill(os.getpid(), signal.SIGKILL)
        return await finalize(self, *args, **options)

    kind.finalize = killed


if __name__ == "__main__":
    _kill_in(atomicity.AtomicRenameTemporaryPath)
    _kill_in(atomicity.CommitFileTemporaryPath)
    driver = Path(__file__).with_name("driver.py")
    runpy.run_path(str(driver), run_name="__main__")
