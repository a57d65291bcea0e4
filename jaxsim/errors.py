"""Errors, their exit codes, and the commands that their messages name.

A launcher can act on exit codes; 0 is success. A message names a command as
`jaxsim NAME`. Where it is shown, `with_workdir` makes that a line for a shell.
"""

import contextlib
import difflib
import re
import shlex
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path, PurePath

SAVED = "config.json"  # in a workdir: what `prepare` was last called with
_NEED_CONFIG = ("prepare", "base", "train", "run")
_WITHOUT_CONFIG = ("export", "verify", "doctor")
_call = ContextVar[tuple[PurePath, tuple[str, ...]] | None]("call", default=None)
_NAMED = re.compile(r"""`jaxsim (\w+)((?: --[^\s`'"\\]+)*)`""")


class JaxsimError(Exception):
    """An error whose message says what is wrong, where, and what to do."""

    exit_code = 1


class UserError(JaxsimError):
    """A mistake in the configuration, the command line or an input text."""

    exit_code = 2


def check_known(what: str, name: str, known: Iterable[str], where: str) -> None:
    """Raises a `UserError` that lists what is `known`, if `name` is none of it."""
    if name not in (names := list(known)):
        guess = nearest(name, names)
        raise UserError(
            f"{where}: no {what} {name!r}; {guess}there are {', '.join(names)}"
        )


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean search? ' if one of the words is similar, otherwise nothing."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {close[0]}? " if close else ""


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


def command_line(name: str, workdir: PurePath | str, *flags: str) -> str:
    """A command that can be pasted into a shell, whatever the names in it.

    Without a config in the workdir, the one to name is a blank to fill in.
    """
    config = [flag for flag in flags if flag.startswith("--config=")]
    if not config and name in _NEED_CONFIG and not Path(workdir, SAVED).is_file():
        config = ["--config=FILE.py"]
    others = [flag for flag in flags if flag not in config]
    return shlex.join(["jaxsim", name, *config, f"--workdir={workdir}", *others])


def with_workdir(text: str, workdir: PurePath | str, *config: str) -> str:
    """The text with the workdir, and the flags of the config, in its commands."""

    def complete(found: re.Match[str]) -> str:
        if " --workdir=" in found[2]:
            return found[0]
        known = () if found[1] in _WITHOUT_CONFIG else config
        return f"`{command_line(found[1], workdir, *known, *found[2].split())}`"

    return _NAMED.sub(complete, text)


@contextlib.contextmanager
def commands_for(workdir: PurePath | None, *config: str) -> Iterator[None]:
    """Within it, `pasteable` completes commands with these; without a workdir, not."""
    token = _call.set((workdir, config) if workdir else None)
    try:
        yield
    finally:
        _call.reset(token)


def next_command(name: str, *flags: str) -> str:
    """A command that continues this one, see `commands_for`."""
    workdir, config = _call.get() or (PurePath("DIR"), ())
    return command_line(name, workdir, *config, *flags)


def pasteable(text: str) -> str:
    """The text as the command line shows it, see `commands_for`."""
    call = _call.get()
    return with_workdir(text, call[0], *call[1]) if call else text
