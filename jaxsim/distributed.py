"""Many processes, one program: joining, process 0's word, stopping together.

Every process runs the same command. Process 0 decides, from what it sees on
disk, what is to be done, and tells the others; nobody else looks. Its word
and the barriers go through the coordination service of `jax.distributed`, so
they have time limits and say who is missing, which a collective does not.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
from jax._src import distributed as jax_distributed

from jaxsim.errors import HungError, JaxsimError, UserError

HEARTBEAT = 100  # seconds until a process that says nothing counts as dead
JOIN = 300  # seconds that processes wait for each other at the start
LEAVE = 10  # seconds that a failing process waits for others to fail as well
_LOOK = 60  # seconds; between two looks a Ctrl-C gets through

# Of words, meetings, agreements: every process comes to them in the same order.
_numbers = itertools.count()


class NotJoined(JaxsimError):
    """The processes did not come together; none of them runs alone."""


class Ended(JaxsimError):
    """Process 0 has failed or was stopped, and the others end with it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclasses.dataclass(frozen=True)
class Group:
    """Which processes belong together; None: as the cluster says."""

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def group_of(
    distributed: str | None,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
) -> Group | None:
    """What the flags of these names ask for; None is one process.

    Raises:
      UserError: they contradict each other.
    """
    by_hand = (coordinator, processes, process)
    if distributed not in (None, "off", "auto"):
        raise UserError(f"--distributed={distributed}: must be auto or off")
    if distributed is not None:
        if any(value is not None for value in by_hand):
            raise UserError(
                f"--distributed={distributed}: finds or needs no --coordinator,"
                " --processes and --process; leave them out"
            )
        return Group() if distributed == "auto" else None
    if coordinator is None or processes is None or process is None:
        if any(value is not None for value in by_hand):
            raise UserError(
                "--coordinator=HOST:PORT, --processes=N and --process=I belong "
                "together; give all three"
            )
        return None
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator}: must be HOST:PORT")
    if not process < processes:
        raise UserError(
            f"--process={process}: must be 0 to {processes - 1}, as there are "
            f"--processes={processes}"
        )
    return Group(coordinator, processes, process)


def join(group: Group) -> None:
    """Waits for all processes of a group; to be called before any device.

    Ends this process with exit code 1 where they do not come in time: JAX would
    abort it, and say neither whom it waited for nor what to look at.

    Raises:
      NotJoined: there is nothing to join, or others than expected came.
      UserError: some have more devices than others.
    """
    if group.process == 0 and group.coordinator is not None:
        _check_port(group.coordinator)
    # It takes SIGTERM away from Python, and nobody here asks it.
    jax.config.update("jax_enable_preemption_service", False)
    late = threading.Timer(JOIN, _give_up, [_not_joined(group, "no answer")])
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            group.coordinator,
            group.processes,
            group.process,
            cluster_detection_method=(
                None if group.coordinator is None else "deactivate"
            ),
            initialization_timeout=JOIN + 60,  # never the first to give up
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (ValueError, RuntimeError) as error:
        raise NotJoined(
            _not_joined(group, str(error).splitlines()[0].rstrip("."))
        ) from error
    finally:
        late.cancel()
    if group.processes not in (None, jax.process_count()):
        raise NotJoined(
            _not_joined(group, f"{jax.process_count()} processes came together")
        )
    counts = collections.Counter(d.process_index for d in jax.devices())
    if len(set(counts.values())) > 1:  # Orbax cannot save from those (0.12.8)
        each = ", ".join(f"process {i} {n}" for i, n in sorted(counts.items()))
        raise UserError(
            f"every process must have as many devices as the others: {each}"
        )


def _check_port(coordinator: str) -> None:
    """Its server would end the process with a segmentation fault.

    Raises:
      UserError: another program listens there.
    """
    port = int(coordinator.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"--coordinator={coordinator}: port {port} of this host cannot "
                f"be used ({error.strerror}); give all processes another one"
            ) from error


def _not_joined(group: Group, why: str) -> str:
    if group.coordinator is None:
        return (
            f"this process could not join others: {why}. JAX detects TPU "
            "slices, Slurm steps (srun) and Open MPI; elsewhere give "
            "--coordinator, --processes and --process"
        )
    return (
        f"process {group.process} of {group.processes} could not join the "
        f"others at {group.coordinator} within {JOIN} s: {why}. Look whether "
        "every process was started, with the same --coordinator and "
        "--processes and a --process of its own, whether process 0 is on that "
        "host, and whether that port is open"
    )


def _give_up(message: str) -> None:
    print(f"jaxsim: {message}", file=sys.stderr, flush=True)
    os._exit(NotJoined.exit_code)


def alone() -> bool:
    return jax.process_count() == 1


def is_lead() -> bool:
    """Is it this process that decides, and writes?"""
    return jax.process_index() == 0


def from_lead(value: Any) -> Any:
    """Plain data of process 0, in all processes; they call it in one order.

    The others wait for as long as process 0 lives: it may be waiting itself.
    """
    if alone():
        return value
    key = f"jaxsim/word/{next(_numbers)}"
    if is_lead():
        _client().key_value_set(key, json.dumps(value))
        return value
    while True:
        try:
            text = _client().blocking_key_value_get(key, _LOOK * 1000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        else:
            return json.loads(text)


def meet(where: str, limit: float) -> None:
    """Waits until all processes are here, for `limit` seconds.

    Raises:
      HungError: names the processes that are missing.
    """
    if alone():
        return
    try:
        _client().wait_at_barrier(
            f"jaxsim/{next(_numbers)}", int((limit or JOIN) * 1000)
        )
    except jax.errors.JaxRuntimeError as error:
        missing = _late(str(error))
        raise HungError(
            f"{where}: not all processes came within {limit or JOIN:.0f} s; "
            f"missing: process {', '.join(missing) or 'unknown'}. Look at what "
            "they said last; the same command continues"
        ) from error


def _late(error: str) -> list[str]:
    """Numbers of processes that a barrier names, as JAX 0.10 says it.

    They are lines of their own below a heading, bare or after 'task:'.
    """
    listed = error.partition("timed out task names:")[2].partition("RPC:")[0]
    return re.findall(r"(\d+)\s*$", listed, re.MULTILINE)


class Agreement:
    """All processes stop after the same step, whichever was asked to.

    A process that is asked after step n writes down that all stop after step
    n + 2, before it begins step n + 1. Nobody is past that: a process looks
    at the sums of step n + 1 before it asks about step n + 2, and they exist
    only when every process has begun that step.
    """

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked
        self._key = f"jaxsim/stop/{next(_numbers)}"
        self._steps = 0

    def after_step(self) -> bool:
        """To be called once after each step; true in all at the same one."""
        if alone():
            return self._asked()
        self._steps += 1
        if self._asked() and self._found() is None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the first
                _client().key_value_set(self._key, str(self._steps + 2))
        last = self._found()
        return last is not None and self._steps >= last

    def anybody(self) -> bool:
        """Was any process asked, as far as is known here?"""
        return self._asked() or (not alone() and self._found() is not None)

    def _found(self) -> int | None:
        try:
            return int(_client().key_value_try_get(self._key))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Inside, process 0 tells the others what to do, and at the end its end."""
    try:
        yield
    except BaseException as error:
        code = 4 if isinstance(error, KeyboardInterrupt) else 1
        code = getattr(error, "exit_code", code)
        from_lead({"ended": str(error) or "interrupted", "code": code})
        raise
    from_lead({"ended": "", "code": 0})


def words() -> Iterator[dict[str, Any]]:
    """What process 0 tells the others to do, until it ends.

    Raises:
      Ended: it failed, or was stopped.
    """
    while "ended" not in (word := from_lead(None)):
        yield word
    if word["code"]:
        raise Ended(f"process 0 ended: {word['ended']}", word["code"])


def as_lead_sees(look: Callable[[], Any]) -> Any:
    """What `look` returns in process 0, plain data; no other one calls it.

    Files that one process has just written may not be there yet, or be others,
    in the view of another one.

    Raises:
      Ended: process 0 failed, with what it raised itself.
    """
    if alone():
        return look()
    if is_lead():
        with leading():
            seen = look()
            from_lead({"seen": seen})
        return seen
    (word,) = words()
    return word["seen"]


def leave(code: int) -> NoReturn:
    """Ends a process of a group at once, when it has failed or was stopped.

    An ordinary exit waits five minutes for the others. Process 0 carries the
    service that the others need to end as they should, so all wait a little.
    """
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _client().wait_at_barrier("jaxsim/leave", LEAVE * 1000)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _client() -> Any:
    """JAX exports barriers without limits only; Orbax takes this one too."""
    return jax_distributed.global_state.client
