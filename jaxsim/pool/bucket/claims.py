"""Claims in a bucket, from nothing but objects that are created once.

A run has a chain of claims, 000001 and on; the last one counts. To hold a run
is to have created the next one, which takes the run over if the holder of the
last has not left it and stands still. Nobody writes what another one created,
so nothing has to be compared and swapped.

    claims/NAME/000002         holder and owner, written once
    claims/NAME/000002.beat    a counter that its holder alone increases
    claims/NAME/000002.left    the holder is done
"""

import contextlib
import dataclasses
import os
import platform
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxsim.log import say
from jaxsim.pool import claims
from jaxsim.pool.bucket.objects import Objects, StoreError
from jaxsim.pool.claims import Busy, Watch


@dataclasses.dataclass(frozen=True)
class _Chain:
    """The claims on one run, as they are listed."""

    folder: str
    keys: Mapping[str, int]

    @property
    def last(self) -> int:
        """The number of the claim that counts; 0 for none."""
        numbers = [int(k) for k in self.keys if re.fullmatch(r"\d{6}", k)]
        return max(numbers, default=0)

    def older(self) -> list[str]:
        """Keys of what counts no more."""
        return [
            f"{self.folder}/{key}"
            for key in self.keys
            if key[:6].isdecimal() and int(key[:6]) < self.last
        ]


@contextlib.contextmanager
def holding(
    objects: Objects, name: str, what: str, owner: str, watch: Watch | None
) -> Iterator[None]:
    """Inside, launchers on other machines leave `what` to this one.

    Args:
      objects: all that share the pool.
      name: of the run or group.
      what: is held, for messages.
      owner: names the workdir. The caller holds the local claim there:
        whoever claimed as this owner is dead.
      watch: see `jaxsim.pool.claims.holding`.

    Raises:
      Busy: another launcher holds it.
    """
    folder = f"claims/{name}"
    chain = _Chain(folder, objects.list(folder))
    if chain.last and f"{chain.last:06}.left" not in chain.keys:
        _expect_dead(objects, folder, chain.last, what, owner, watch)
    number = chain.last + 1
    mine = f"{folder}/{number:06}"
    holder = f"process {os.getpid()} on {platform.node()}"
    if not objects.create(mine, f"{holder}\n{owner}\n".encode()):
        raise Busy(f"{what}: {_holder(objects, folder, number)[0]}")
    stop = threading.Event()
    heart = threading.Thread(
        target=_beat, args=(objects, f"{mine}.beat", stop), daemon=True
    )
    heart.start()
    try:
        chain = _Chain(folder, objects.list(folder))
        # A list that was old may have led to a number that is free again.
        if chain.last > number:
            objects.delete([mine])
            raise Busy(f"{what}: {_holder(objects, folder, chain.last)[0]}")
        objects.delete(chain.older())
        yield
    finally:
        stop.set()
        heart.join()
        # What is not said is seen: the heart stands still.
        with contextlib.suppress(StoreError):
            objects.create(f"{mine}.left", b"")


def _expect_dead(
    objects: Objects,
    folder: str,
    number: int,
    what: str,
    owner: str,
    watch: Watch | None,
) -> None:
    """Raises Busy unless the holder of the last claim is gone."""
    holder, who = _holder(objects, folder, number)
    if who != owner:
        beat = objects.read(f"{folder}/{number:06}.beat") or b""
        seen = f"{number} {beat.decode(errors='replace')}"
        key = Path(objects.url, folder)  # of what this waiter has seen
        if watch is None or not watch.is_stale(key, seen):
            raise Busy(f"{what}: {holder}")
    say(f"{what}: {holder} stands still; it is taken over")


def _holder(objects: Objects, folder: str, number: int) -> tuple[str, str]:
    """Who holds a claim, for messages, and its owner."""
    text = (objects.read(f"{folder}/{number:06}") or b"").decode()
    holder, owner, *_ = [*text.split("\n"), "", ""]
    return holder or "another process", owner


def _beat(objects: Objects, key: str, stop: threading.Event) -> None:
    count = 0
    while not stop.wait(claims.BEAT):
        count += 1
        with contextlib.suppress(StoreError):  # the next one may get through
            objects.write(key, f"{count}".encode())
