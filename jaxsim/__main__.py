"""`python -m jaxsim`."""

import sys

from jaxsim.cli import entry

if __name__ == "__main__":
    sys.exit(entry())
