"""Unfinished runs in a bucket: what another machine resumes from.

    training/NAME/group.json          of runs side by side, who they are
    training/NAME/state.json          the state that counts; written last
    training/NAME/STATES/STEP/...     as the checkpointer wrote it
    training/NAME/metrics/RUN.jsonl   as of that state or later

Whoever holds the run writes here. A launcher that stood still and lives again
may bring an older state back: the run then goes on from that one, to the same
end.
"""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxsim.console import say
from jaxsim.pool.bucket.bucket import Bucket
from jaxsim.pool.bucket.objects import StoreError
from jaxsim.pool.digests import files_below

LOOK = 10.0  # seconds between two looks for a state that was committed
_RECORD, _STATE = "group.json", "state.json"


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
            bucket.objects.fetch(
                f"{bucket.key(training)}/{key}", training / folder / name
            )
    return begun


def fetch_state(bucket: Bucket, folder: Path, runs: Sequence[str]) -> None:
    """Fetches the state of `folder`, if the workdir has none as late.

    Args:
      folder: of the unfinished runs; the caller holds them.
      runs: their names.
    """
    key = bucket.key(folder)
    state = bucket.objects.read_json(f"{key}/{_STATE}")
    if state is None:
        return
    states, step = str(state["states"]), int(state["step"])
    if max(_steps(folder / states), default=-1) >= step:
        return
    target = folder / states / str(step)
    part = folder.with_name(f".fetch-{folder.name}")
    shutil.rmtree(part, ignore_errors=True)
    names = bucket.objects.list(f"{key}/{states}/{step}")
    if set(names) != set(state["files"]):
        say(f"{folder.name}: its state in {bucket} is not whole; left out")
        return
    for name in names:
        bucket.objects.fetch(f"{key}/{states}/{step}/{name}", part / name)
    for run in runs:
        if bucket.objects.read(f"{key}/metrics/{run}.jsonl") is not None:
            bucket.objects.fetch(
                f"{key}/metrics/{run}.jsonl", bucket.metrics(run)
            )
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(part, target)
    say(f"{folder.name}: its state after step {step} is fetched from {bucket}")


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
        except StoreError as error:
            say(f"{self._folder.name}: state after step {step}: {error}")
        finally:
            shutil.rmtree(kept, ignore_errors=True)

    def _send(self, states: str, step: int, root: Path) -> None:
        objects, key = self._bucket.objects, self._bucket.key(self._folder)
        record = self._folder / _RECORD
        if record.exists():
            objects.send(record, f"{key}/{_RECORD}")
        files = files_below(root)
        for name in files:
            objects.send(root / name, f"{key}/{states}/{step}/{name}")
        for run in self._runs:
            path = self._bucket.metrics(run)
            if path.exists():
                objects.send(path, f"{key}/metrics/{run}.jsonl")
        state: dict[str, Any] = {
            "states": states,
            "step": step,
            "files": sorted(files),
        }
        objects.write(f"{key}/{_STATE}", json.dumps(state).encode())
        before = [
            f"{key}/{name}"
            for name in objects.list(key)
            if name.count("/") >= 2
            and name.split("/")[:2] != [states, str(step)]
        ]
        objects.delete(before)


def _steps(states: Path) -> list[int]:
    """The steps whose states are committed: they have their final name."""
    return [int(p.name) for p in states.glob("*") if p.name.isdecimal()]
