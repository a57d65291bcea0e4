"""`python -m jaxsim`."""

import contextlib
import os
import sys

from jaxsim.cli import entry

if __name__ == "__main__":
    # A config must not depend on the current folder, which the script `jaxsim` does
    # not search for modules.
    with contextlib.suppress(FileNotFoundError):  # it may be deleted
        if not sys.flags.safe_path and sys.path[0] == os.getcwd():
            del sys.path[0]
    sys.exit(entry())
