"""Errors and their exit codes, which a launcher can act on.

0 done, 1 any other error, 2 the user's mistake, 3 damaged data or pool, 4 stopped but
resumable, 5 hung and gave up.
"""


class JaxsimError(Exception):
    """An error whose message says what is wrong, where, and what to do."""

    exit_code = 1


class UserError(JaxsimError):
    """A mistake in the configuration, the command line or an input text."""

    exit_code = 2


class DamagedError(JaxsimError):
    """Stored data, a member or a pool does not match its manifest."""

    exit_code = 3


class Preempted(JaxsimError):
    """Stopped on request; the same command continues from the last checkpoint."""

    exit_code = 4


class HungError(JaxsimError):
    """Something did not happen within its time limit."""

    exit_code = 5
