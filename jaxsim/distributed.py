"""Several processes run one program: join, follow process 0, stop together.

Every process runs the same command. Process 0 reads the disk, decides what to do
and instructs the others. Instructions and barriers go through the coordination
service of `jax.distributed`, not through collectives (`multihost_utils`): process 0
can report a failure while the others are in a train step, where a collective would
be paired with the step's own and corrupt both. A barrier here has a time limit and
names the missing processes.
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
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

from jaxsim.errors import HungError, JaxsimError, UserError
from jaxsim.log import counted

HEARTBEAT = 100  # seconds without a heartbeat until a process counts as dead
JOIN = 300  # seconds that processes wait for each other at the start
LEAVE = 10  # seconds that a failing process waits for the others to fail too
_POLL = 60  # seconds of one wait; Ctrl-C is handled between two waits

# Numbers keys and barriers; every process uses them in the same order.
_numbers = itertools.count()


class NotJoined(JaxsimError):
    """Not all processes joined; none of them runs alone."""


class Ended(JaxsimError):
    """Process 0 failed or was stopped; all others exit with its code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """The processes that run one program; None: JAX detects it from the cluster."""

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def process_group(
    distributed: str | None,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
) -> ProcessGroup | None:
    """The process group that the flags of these names ask for, or None.

    Raises:
      UserError: the flags contradict each other.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if distributed not in (None, "off", "auto"):
        raise UserError(f"--distributed={distributed}: must be auto or off")
    if distributed is not None and any(given):
        raise UserError(
            f"--distributed={distributed}: does not go with --coordinator, "
            "--processes and --process; leave them out"
        )
    if not any(given):
        return ProcessGroup() if distributed == "auto" else None
    if coordinator is None or processes is None or process is None:
        raise UserError(
            "--coordinator=HOST:PORT, --processes=N and --process=I belong "
            "together; give all three"
        )
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator}: must be HOST:PORT")
    if not process < processes:
        raise UserError(
            f"--process={process}: must be 0 to {processes - 1} with "
            f"--processes={processes}"
        )
    return ProcessGroup(coordinator, processes, process)


def join(group: ProcessGroup) -> None:
    """Waits for all processes of a group; call it before using any device.

    If they do not join in time, this process exits with code 1 and a message that
    says what to check. JAX would abort without one.

    Raises:
      NotJoined: no group was found, or an unexpected number of processes.
      UserError: some processes have more devices than others.
    """
    if group.process == 0 and group.coordinator is not None:
        _check_port(group.coordinator)
    # JAX's SIGTERM handler would replace ours, which handles a second SIGTERM.
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
            initialization_timeout=JOIN + 60,  # the timer above comes first
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (ValueError, RuntimeError) as error:
        raise NotJoined(
            _not_joined(group, str(error).splitlines()[0].rstrip("."))
        ) from error
    finally:
        late.cancel()
    if group.processes not in (None, jax.process_count()):
        joined = counted(jax.process_count(), "process", "processes")
        raise NotJoined(_not_joined(group, f"{joined} joined"))
    counts = collections.Counter(d.process_index for d in jax.devices())
    if len(set(counts.values())) > 1:  # Orbax cannot save then (0.12.8)
        each = ", ".join(f"process {i} {n}" for i, n in sorted(counts.items()))
        raise UserError(
            f"every process must have as many devices as the others: {each}"
        )


def _check_port(coordinator: str) -> None:
    """Checks the port, because JAX's server crashes if it is in use.

    Raises:
      UserError: the port cannot be used.
    """
    port = int(coordinator.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"--coordinator={coordinator}: port {port} of this host cannot "
                f"be used ({error.strerror}); give all processes another port"
            ) from error


def _not_joined(group: ProcessGroup, why: str) -> str:
    if group.coordinator is None:
        return (
            f"this process could not join others: {why}. JAX detects TPU "
            "slices, Slurm steps (srun) and Open MPI; elsewhere give "
            "--coordinator, --processes and --process"
        )
    return (
        f"process {group.process} of {group.processes} could not join the "
        f"others at {group.coordinator} within {JOIN} s: {why}. Check that "
        "every process was started with the same --coordinator and "
        "--processes and a different --process, that process 0 is on that "
        "host, and that the port is open"
    )


def _give_up(message: str) -> None:
    print(f"jaxsim: {message}", file=sys.stderr, flush=True)
    os._exit(NotJoined.exit_code)


def alone() -> bool:
    """Whether this is the only process."""
    return jax.process_count() == 1


def is_lead() -> bool:
    """Whether this is process 0, which decides and writes."""
    return jax.process_index() == 0


def from_lead(value: Any) -> Any:
    """Returns process 0's `value`, plain data, in every process.

    All processes must make these calls in the same order. Process 0 does not wait
    for the others. They wait for as long as it is alive.
    """
    if alone():
        return value
    key = f"jaxsim/value/{next(_numbers)}"
    if is_lead():
        _client().key_value_set(key, json.dumps(value))
        return value
    while True:
        try:
            text = _client().blocking_key_value_get(key, _POLL * 1000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        else:
            return json.loads(text)


def barrier(where: str, limit: float) -> None:
    """Waits until all processes are here, for at most `limit` seconds.

    Args:
      where: what the processes are about to do, for the message.
      limit: seconds; 0 means `JOIN`.

    Raises:
      HungError: names the processes that are missing.
    """
    if alone():
        return
    limit = limit or JOIN
    try:
        _client().wait_at_barrier(f"jaxsim/{next(_numbers)}", int(limit * 1000))
    except jax.errors.JaxRuntimeError as error:
        missing = _missing(str(error))
        raise HungError(
            f"{where}: not all processes arrived within {limit:.0f} s; "
            f"missing: process {', '.join(missing) or 'unknown'}. Check the "
            "last lines of their output; the same command continues"
        ) from error


def _missing(error: str) -> list[str]:
    """The process numbers in the error of a barrier, as JAX 0.10 words it.

    Each is on its own line below a heading, bare or after 'task:'.
    """
    listed = error.partition("timed out task names:")[2].partition("RPC:")[0]
    return re.findall(r"(\d+)\s*$", listed, re.MULTILINE)


class StopTogether:
    """Stops all processes after the same step when any of them is asked to stop.

    A process that is asked after step n announces that all stop after step n + 2,
    before it begins step n + 1. No process is past that point: each fetches the sums
    of step n + 1 before it asks about step n + 2, and those exist only when every
    process has begun step n + 1.
    """

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked
        self._key = f"jaxsim/stop/{next(_numbers)}"
        self._steps = 0

    def after_step(self) -> bool:
        """True in all processes after the same step; call it after every step."""
        if alone():
            return self._asked()
        self._steps += 1
        if self._asked() and self._announced() is None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                # Fails if another process was first; its step counts then.
                _client().key_value_set(self._key, str(self._steps + 2))
        last = self._announced()
        return last is not None and self._steps >= last

    def anybody(self) -> bool:
        """Whether this process, or another one it has heard from, was asked to stop."""
        return self._asked() or (not alone() and self._announced() is not None)

    def _announced(self) -> int | None:
        try:
            return int(_client().key_value_try_get(self._key))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return None


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Encloses process 0's instructions; leaving it ends the other processes' loops."""
    try:
        yield
    except BaseException as error:
        code = 4 if isinstance(error, KeyboardInterrupt) else 1
        code = getattr(error, "exit_code", code)
        from_lead({"ended": str(error) or "interrupted", "code": code})
        raise
    from_lead({"ended": "", "code": 0})


def instructions() -> Iterator[dict[str, Any]]:
    """Yields the instructions of process 0 until it leaves `leading`.

    Raises:
      Ended: process 0 failed, or was stopped.
    """
    while "ended" not in (instruction := from_lead(None)):
        yield instruction
    if instruction["code"]:
        raise Ended(f"process 0 ended: {instruction['ended']}", instruction["code"])


def on_lead(look: Callable[[], Any]) -> Any:
    """Calls `look` in process 0 and returns its plain data in every process.

    On a shared file system other processes may not see new files yet, or see old ones.

    Raises:
      Ended: `look` failed in process 0, which raises the error itself.
    """
    if alone():
        return look()
    if is_lead():
        with leading():
            seen = look()
            from_lead({"seen": seen})
        return seen
    (instruction,) = instructions()
    return instruction["seen"]


def leave(code: int) -> NoReturn:
    """Ends a process of a group at once, after it failed or was stopped.

    A normal exit would wait five minutes for the others. Process 0 hosts the service
    that the others need for a clean exit, so each waits up to `LEAVE` seconds.
    """
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        _client().wait_at_barrier("jaxsim/leave", LEAVE * 1000)
    with contextlib.suppress(OSError):  # nobody reads, or a disk is full
        sys.stdout.flush()
        sys.stderr.flush()
    if is_lead():
        # JAX aborts a process that sees the service vanish: the others go first.
        time.sleep(1)
    os._exit(code)


def _client() -> Any:
    """The client of JAX's coordination service, which JAX does not export.

    JAX has no public key-value store and no public barrier with a time limit. Orbax
    uses this client as well.
    """
    from jax._src import distributed

    return distributed.global_state.client
