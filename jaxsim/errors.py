"""What can go wrong, as exit codes that a launcher can act on.

0 done, 1 anything unforeseen, 2 the user's mistake, 3 damaged data or pool,
4 stopped but resumable, 5 hung and gave up.
"""


class JaxsimError(Exception):
    """An error whose message says what is wrong, where, and what to do."""

    exit_code = 1


class UserError(JaxsimError):
    """The configuration, a command line or an input text is at fault."""

    exit_code = 2


class DamagedError(JaxsimError):
    """Stored data, a member or a pool is not what its manifest says."""

    exit_code = 3


class Preempted(JaxsimError):
    """Stopped on request after the last commit; the same command continues."""

    exit_code = 4


class HungError(JaxsimError):
    """Something that was waited for did not come in time."""

    exit_code = 5
