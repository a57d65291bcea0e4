"""Unfinished runs in a bucket: what another machine resumes from.

    training/NAME/group.json          of runs side by side, who they are
    training/NAME/state.json          the state that counts; written last
    training/NAME/STATES/STEP-ID/...  as the checkpointer wrote it
    training/NAME/metrics/RUN.jsonl   as of that state or later

Whoever holds the run writes here. A launcher that stood still and lives again
may bring an older state back: the run then goes on from that one, to the same
end.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxsim.errors import DamagedError, JaxsimError
from jaxsim.log import say
from jaxsim.pool.bucket.bucket import Bucket
from jaxsim.pool.bucket.objects import StoreError
from jaxsim.pool.digests import file_digests
from jaxsim.pool.group import read_group
from jaxsim.pool.manifest import check_inside

LOOK = 10.0  # seconds between two looks for a state that was committed
_RECORD, _STATE = "group.json", "state.json"


@dataclasses.dataclass(frozen=True)
class _State:
    """What state.json says.

    Attributes:
      states: the folder of the checkpoints of these runs.
      step: after which it was committed.
      at: the folder in the bucket, STEP-ID.
      files: SHA-256 and bytes, by relative path.
    """

    states: str
    step: int
    at: str
    files: dict[str, tuple[str, int]]


def fetch_begun(bucket: Bucket, training: Path) -> set[str]:
    """Fetches the records of groups, so that those go on as composed.

    Returns:
      The names of the folders that have a state, a run's alone among them.
    """
    begun = set()
    for key in bucket.objects.list(bucket.key(training)):
        folder, _, name = key.partition("/")
        if name == _STATE:
            begun.add(folder)
        if name == _RECORD and not (training / folder / name).exists():
            path = training / folder / name
            bucket.objects.fetch(f"{bucket.key(training)}/{key}", path)
            try:
                read_group(path)
            except DamagedError as error:
                say(f"{bucket}/{bucket.key(training)}/{key}: {error}")
                shutil.rmtree(path.parent)
    return begun


def fetch_state(bucket: Bucket, folder: Path, runs: Sequence[str]) -> None:
    """Fetches the state of `folder`, if the workdir has none as late.

    Args:
      folder: of the unfinished runs; the caller holds them.
      runs: their names.
    """
    key = bucket.key(folder)
    record = bucket.objects.read_json(f"{key}/{_STATE}")
    if record is None:
        return
    state = _parse(record, f"{bucket}/{key}/{_STATE}")
    if max(_steps(folder / state.states), default=-1) >= state.step:
        return
    part = folder.with_name(f".fetch-{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    root = f"{key}/{state.states}/{state.at}"
    if not state.files.keys() <= bucket.objects.list(root).keys():
        say(f"{folder.name}: its state in {bucket} is not whole; left out")
        return
    for name in state.files:
        bucket.objects.fetch(f"{root}/{name}", part / name)
    if file_digests(part) != state.files:
        shutil.rmtree(part)
        raise DamagedError(
            f"{bucket}/{root}: not the state that was sent; delete "
            f"{bucket}/{key} to start the run anew"
        )
    for run in runs:
        if bucket.objects.read(f"{key}/metrics/{run}.jsonl") is not None:
            bucket.objects.fetch(
                f"{key}/metrics/{run}.jsonl", bucket.metrics(run)
            )
    target = folder / state.states / str(state.step)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(part, target)
    say(
        f"{folder.name}: its state after step {state.step} is fetched from "
        f"{bucket}"
    )


def drop_state(bucket: Bucket, folder: Path) -> None:
    """Deletes what is in the bucket of a folder whose runs are finished."""
    key = bucket.key(folder)
    bucket.objects.delete(
        [f"{key}/{name}" for name in bucket.objects.list(key)]
    )


@contextlib.contextmanager
def sending(
    bucket: Bucket, folder: Path, runs: Sequence[str]
) -> Iterator[None]:
    """Inside, every state that is committed is sent.

    At the end the last one is, or if the folder is gone, as the runs are
    finished, what there is in the bucket is deleted. A store that cannot be
    reached for a while stops nobody from training.
    """
    sender = _Sender(bucket, folder, runs)
    stop = threading.Event()
    thread = threading.Thread(target=sender.watch, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        if folder.exists():
            sender.look()
        else:
            with contextlib.suppress(StoreError):
                drop_state(bucket, folder)


class _Sender:
    def __init__(
        self, bucket: Bucket, folder: Path, runs: Sequence[str]
    ) -> None:
        self._bucket, self._folder, self._runs = bucket, folder, runs
        self._sent = ("", -1)

    def watch(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK):
            self.look()

    def look(self) -> None:
        """Sends the latest state, if it was not."""
        found = [
            (step, states.name)
            for states in self._folder.glob("*")
            for step in _steps(states)
        ]
        if not found:
            return
        step, states = max(found)
        if self._sent == (states, step):
            return
        # By other names: a later one may take its place while it is sent.
        kept = self._folder.with_name(f".sending-{self._folder.name}")
        shutil.rmtree(kept, ignore_errors=True)
        try:
            shutil.copytree(
                self._folder / states / str(step), kept, copy_function=os.link
            )
            self._send(states, step, kept)
            self._sent = (states, step)
        except OSError:
            pass  # it is gone already; the later one is sent
        except JaxsimError as error:
            say(f"{self._folder.name}: state after step {step}: {error}")
        finally:
            shutil.rmtree(kept, ignore_errors=True)

    def _send(self, states: str, step: int, root: Path) -> None:
        # Below a name of its own: another machine may have sent a part of the
        # same step and died.
        at = f"{step}-{uuid.uuid4().hex[:8]}"
        objects, key = self._bucket.objects, self._bucket.key(self._folder)
        record = self._folder / _RECORD
        if record.exists():
            objects.send(record, f"{key}/{_RECORD}")
        files = file_digests(root)
        for name in files:
            objects.send(root / name, f"{key}/{states}/{at}/{name}")
        for run in self._runs:
            path = self._bucket.metrics(run)
            if path.exists():
                objects.send(path, f"{key}/metrics/{run}.jsonl")
        state = _State(states, step, at, files)
        content = json.dumps(dataclasses.asdict(state))
        objects.write(f"{key}/{_STATE}", content.encode())
        before = [
            f"{key}/{name}"
            for name in objects.list(key)
            if name.count("/") >= 2 and name.split("/")[:2] != [states, at]
        ]
        objects.delete(before)


def _parse(record: dict[str, Any], where: str) -> _State:
    """A state.json, whoever wrote it.

    Raises:
      DamagedError: it leads out of its folder, or is none.
    """
    try:
        state = _State(
            record["states"],
            record["step"],
            record["at"],
            {
                check_inside(where, name): (str(sha256), int(size))
                for name, (sha256, size) in record["files"].items()
            },
        )
        sound = (
            re.fullmatch(r"states|[0-9a-f]{16}", state.states)
            and re.fullmatch(r"\d{1,12}-[0-9a-f]{8}", state.at)
            and state.at.startswith(f"{state.step:d}-")
            and state.files
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{where}: {error!r}") from error
    if not sound:
        raise DamagedError(f"{where}: not the record of a state")
    return state


def _steps(states: Path) -> list[int]:
    """The steps whose states are committed: they have their final name."""
    return [int(p.name) for p in states.glob("*") if p.name.isdecimal()]
