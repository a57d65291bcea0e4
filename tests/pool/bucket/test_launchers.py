"""Launchers with separate workdirs that share a bucket."""

import copy
import random
import re
import signal
import time

import pytest

from jaxsim.pool import open_pool

from ..launched import LIMIT, assert_sound, assert_whole, digests


@pytest.fixture
def machines(command, s3, url, tmp_path):
    """Starts a launcher on a new workdir."""
    shared = copy.copy(command)
    shared.environment = command.environment | s3
    shared.overrides = [f"--config.bucket={url}"]

    def start(name):
        return shared.start(tmp_path / name)

    return start


def _finish(process):
    said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    return said


def _begun(said):
    return re.findall(r"^(?:base model|member \w): step 1/6", said, re.MULTILINE)


def test_machines_that_start_together_make_one_pool(machines, undisturbed, tmp_path):
    want, _ = undisturbed
    first = machines("one")
    time.sleep(random.Random(0).uniform(0.0, 1.5))
    second = machines("two")
    _finish(first)
    _finish(second)
    pools = [open_pool(tmp_path / name) for name in ("one", "two")]
    assert pools[0].manifests() == pools[1].manifests()
    for name in ("one", "two"):
        assert_whole(tmp_path / name, want)
        assert list((tmp_path / name / "state").glob("[!.]*")) == []

    # A third machine fetches everything and trains nothing.
    said = _finish(machines("three"))
    assert _begun(said) == [], said
    assert_whole(tmp_path / "three", want)


def test_entries_of_a_killed_machine_are_not_trained_again(
    machines, undisturbed, tmp_path
):
    want, _ = undisturbed
    first = machines("one")
    for line in first.stdout:
        if line.startswith("member b: step 3/6"):
            break
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert_sound(tmp_path / "one", want)

    said = _finish(machines("two"))
    assert "member a: fetched from s3://" in said
    assert _begun(said) == ["member b: step 1/6", "member c: step 1/6"], said
    assert_whole(tmp_path / "two", want)

    # The first machine fetches the rest and trains nothing.
    said = _finish(machines("one"))
    assert _begun(said) == [], said
    assert digests(open_pool(tmp_path / "one")) == want
