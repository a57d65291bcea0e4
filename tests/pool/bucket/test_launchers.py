"""Launchers with a workdir each, which share nothing but a bucket."""

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
    """Starts a launcher on a workdir of its own, by name."""
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


def test_machines_that_start_together_end_with_one_pool(
    machines, undisturbed, tmp_path
):
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
        assert list((tmp_path / name / "training").glob("[!.]*")) == []

    # A third one fetches it all, and trains nothing.
    said = _finish(machines("three"))
    assert _begun(said) == [], said
    assert_whole(tmp_path / "three", want)


def test_what_a_killed_machine_published_is_not_trained_again(
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

    # The first machine takes it all from there, and trains nothing.
    said = _finish(machines("one"))
    assert _begun(said) == [], said
    assert digests(open_pool(tmp_path / "one")) == want
