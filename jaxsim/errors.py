"""Errors and their exit codes, which a launcher can act on; 0 is success."""


class JaxsimError(Exception):
    """An error whose message says what is wrong, where, and what to do."""

    exit_code = 1


class UserError(JaxsimError):
    """A mistake in the configuration, the command line or an input text."""

    exit_code = 2


class DamagedError(JaxsimError):
    """Stored data, a member or a pool does not match its manifest.

    Attributes:
      what: the message without the advice, for a list that gives it once.
    """

    exit_code = 3

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(f"{what}; {advice}" if advice else what)
        self.what = what


class Preempted(JaxsimError):
    """Stopped on request; the same command continues from the last checkpoint."""

    exit_code = 4


class HungError(JaxsimError):
    """Something did not happen within its time limit."""

    exit_code = 5
