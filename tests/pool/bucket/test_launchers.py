"""Launchers with a workdir each, which share nothing but a bucket."""

import copy
import random
import re
import signal
import time

import pytest

from jaxsim.pool import open_pool

from ..launched import LIMIT, assert_sound, assert_whole, digests

MEMBERS = ("a", "b", "c")


@pytest.fixture
def machines(command, s3, url, tmp_path):
    """Starts a launcher on a workdir of its own, by name."""
    shared = copy.copy(command)
    shared.driver = "pool/bucket/driver.py"
    shared.environment = command.environment | s3
    shared.overrides = [f"--config.bucket={url}"]

    def start(name, step_seconds=0.0):
        shared.environment["STEP_SECONDS"] = str(step_seconds)
        return shared.start(tmp_path / name)

    return start


def _stop_at(process, pattern, number):
    """Sends a signal when a line matches; all that was said."""
    said = []
    for line in process.stdout:
        said.append(line)
        if re.match(pattern, line):
            process.send_signal(number)
            break
    rest, _ = process.communicate(timeout=LIMIT)
    return "".join(said) + rest


def _finish(process):
    said, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, said
    return said


def _begun(said):
    return re.findall(r"^(?:seed|member \w): step 1/6", said, re.MULTILINE)


def test_two_that_start_together_share_the_work(
    machines, undisturbed, tmp_path
):
    want, _ = undisturbed
    first = machines("one")
    time.sleep(random.Random(0).uniform(0.0, 1.5))
    second = machines("two")
    said = _finish(first) + _finish(second)
    for name in ("one", "two"):
        assert_whole(tmp_path / name, want)
        assert list((tmp_path / name / "training").glob("[!.]*")) == []
    for name in MEMBERS:
        ends = said.count(f"member {name}: step 6/6")
        assert ends == 1, f"member {name} was trained {ends} times:\n{said}"


def test_another_machine_goes_on_from_what_a_killed_one_sent(
    machines, undisturbed, objects, tmp_path
):
    want, _ = undisturbed
    first = machines("one", step_seconds=0.5)  # not done before it is killed
    said = []
    for line in first.stdout:
        said.append(line)
        if line.startswith("member b: step 2/6"):
            break
    end = time.monotonic() + LIMIT
    while objects.read("training/b/state.json") is None:
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()

    said = _finish(machines("two"))
    assert "member a: fetched from s3://" in said
    assert re.search(r"member b: process \d+ on .* stands still", said), said
    assert re.search(r"^member b: resumed after step [24]$", said, re.M), said
    assert_whole(tmp_path / "two", want)
    assert objects.list("training") == {}


def test_sigterm_leaves_a_state_for_any_machine(
    machines, undisturbed, objects, tmp_path
):
    want, _ = undisturbed
    first = machines("one")
    said = _stop_at(first, r"member a: step 3/6", signal.SIGTERM)
    assert first.returncode == 4, said
    assert_sound(tmp_path / "one", want)
    assert objects.list("claims/a").keys() >= {"000001.left"}

    said = _finish(machines("two"))
    step = re.search(r"^member a: resumed after step (\d)$", said, re.M)
    assert step and int(step[1]) >= 3, said
    assert "stands still" not in said
    assert_whole(tmp_path / "two", want)

    # The first machine takes it all from there, and trains nothing.
    said = _finish(machines("one"))
    assert _begun(said) == [], said
    assert digests(open_pool(tmp_path / "one")) == want
