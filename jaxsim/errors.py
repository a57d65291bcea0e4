"""Errors and their exit codes, which a launcher can act on; 0 is success."""

from collections.abc import Iterable


class JaxsimError(Exception):
    """An error whose message says what is wrong, where, and what to do."""

    exit_code = 1


class UserError(JaxsimError):
    """A mistake in the configuration, the command line or an input text."""

    exit_code = 2


def check_known(what: str, name: str, known: Iterable[str], where: str) -> None:
    """Raises a `UserError` that lists what is `known`, if `name` is none of it."""
    if name not in (names := list(known)):
        raise UserError(f"{where}: no {what} {name!r}; there are {', '.join(names)}")


class DamagedError(JaxsimError):
    """Stored data, a member or a pool does not match its manifest."""

    exit_code = 3


class Preempted(JaxsimError):
    """Stopped on request; the same command continues from the last checkpoint."""

    exit_code = 4


class HungError(JaxsimError):
    """Something did not happen within its time limit."""

    exit_code = 5
