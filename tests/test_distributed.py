"""Flags of process groups, and what one process can test of them.

Tests with two processes are in tests/pool/test_distributed.py.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxsim import cli, distributed
from jaxsim.cli import parse
from jaxsim.distributed import ProcessGroup, process_group
from jaxsim.errors import UserError
from jaxsim.mesh import to_devices, to_host


@pytest.mark.parametrize(
    ("flags", "group"),
    [
        ((None, None, None, None), None),
        (("off", None, None, None), None),
        (("auto", None, None, None), ProcessGroup()),
        ((None, "host:1", 2, 1), ProcessGroup("host:1", 2, 1)),
    ],
)
def test_flags_ask_for_a_group(flags, group):
    assert process_group(*flags) == group


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("on", None, None, None), "must be auto or off"),
        (("auto", None, 2, None), "leave them out"),
        ((None, "host:1", None, 0), "give all three"),
        ((None, None, 2, 0), "give all three"),
        ((None, "host", 2, 0), "must be HOST:PORT"),
        ((None, "host:1", 2, 2), "must be 0 to 1"),
    ],
)
def test_contradictory_flags_are_refused(flags, message):
    with pytest.raises(UserError, match=message):
        process_group(*flags)


def test_a_port_in_use_is_named() -> None:
    """JAX would crash with a segmentation fault."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} .*cannot be used"):
            distributed._check_port(f"localhost:{port}")
    distributed._check_port(f"localhost:{port}")


def test_sigterm_ends_a_process_that_waits_for_others(root: Path) -> None:
    """Python handles no signal while JAX waits."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "jaxsim", "train", "--workdir=nowhere"),
            *("--config=configs/quickstart.py", "--processes=2"),
            *("--coordinator=localhost:1", "--process=1"),
        ],
        cwd=root,
        env=os.environ | {"JAX_LOGGING_LEVEL": "DEBUG"},
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "Connecting to JAX distributed service" in line:
            break
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


def test_a_bucket_with_several_processes_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match="leave the bucket out"):
        parse(
            [
                *("train", "--workdir=nowhere", "--distributed=auto"),
                f"--config={root / 'configs' / 'quickstart.py'}",
                "--config.bucket=s3://name/pool",
            ]
        )


def test_only_base_and_train_accept_a_group(root: Path, tmp_path: Path):
    arguments = [f"--config={root}/configs/quickstart.py", f"--workdir={tmp_path}"]
    auto = "--distributed=auto"
    assert cli.parse(["train", *arguments, auto]).group == ProcessGroup()
    assert cli.parse(["train", *arguments]).group is None
    with pytest.raises(UserError, match="validate: unknown argument '--distrib"):
        cli.parse(["validate", *arguments, auto])
    with pytest.raises(UserError, match="--processes: must be a whole number"):
        cli.parse(["base", *arguments, "--processes=two"])


def _sharding(*names: str | None) -> NamedSharding:
    mesh = jax.make_mesh(
        (jax.device_count(),), ("data",), (jax.sharding.AxisType.Auto,)
    )
    return NamedSharding(mesh, PartitionSpec(*names))


def test_a_tree_is_the_same_after_devices_and_back():
    tree = {"a": np.arange(8.0).reshape(8, 1), "b": np.float32(3)}
    shardings = {"a": _sharding("data"), "b": _sharding()}
    there = to_devices(tree, shardings)
    assert there["a"].sharding == shardings["a"]
    back = to_host(there)
    jax.tree.map(np.testing.assert_array_equal, tree, back)


_CLIENT = """
import sys
import jax
from jaxsim import distributed
distributed.join(distributed.ProcessGroup(f"localhost:{sys.argv[1]}", 1, 0))
client = distributed._client()
client.key_value_set("a", "1")
assert client.key_value_try_get("a") == "1"
assert client.blocking_key_value_get("a", 1000) == "1"
client.wait_at_barrier("b", 1000)
for error, call in [
    ("ALREADY_EXISTS", lambda: client.key_value_set("a", "2")),
    ("NOT_FOUND", lambda: client.key_value_try_get("c")),
    ("DEADLINE_EXCEEDED", lambda: client.blocking_key_value_get("c", 100)),
]:
    try:
        call()
    except jax.errors.JaxRuntimeError as raised:
        assert error in str(raised), raised
    else:
        raise AssertionError(error)
print("all there")
"""


def test_jax_still_has_its_private_client(root: Path) -> None:
    """The only private import from JAX, which a release may change."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", _CLIENT, str(port)],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "all there\n", done.stderr
    imports = [
        (path.name, line.strip())
        for path in (root / "jaxsim").rglob("*.py")
        for line in path.read_text().splitlines()
        if "jax._src" in line
    ]
    assert imports == [("distributed.py", "from jax._src import distributed")]


_STUCK = """
import sys, time
from jaxsim.signals import watchdog
with watchdog(float(sys.argv[1]), "member a") as finished:
    for step in range(1, 4):
        time.sleep(0.2)
        finished(step)
    if len(sys.argv) > 2:
        time.sleep(60)
print("over")
"""


def _run(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _STUCK, *argv], cwd=root, capture_output=True, text=True
    )


def test_a_hung_run_shows_its_stack_and_exits(root):
    done = _run(root, "2", "stuck")
    assert done.returncode == 5
    assert "member a: no step was finished in 2 s" in done.stderr
    assert "the last one was 3;" in done.stderr
    assert 'File "<string>", line 9' in done.stderr  # the line that sleeps


def test_the_first_step_has_four_times_as_long(root):
    # The first of three comes after 0.2 s, the others 0.2 s after it.
    assert _run(root, "0.1").returncode == 5
    assert "the last one was 1;" in _run(root, "0.1").stderr


@pytest.mark.parametrize("limit", ["30", "0"])
def test_a_run_that_goes_on_is_left_alone(root, limit):
    done = _run(root, limit)
    assert (done.returncode, done.stdout) == (0, "over\n"), done.stderr


def test_those_missing_at_a_barrier_are_found_in_what_jax_says():
    said = (
        "DEADLINE_EXCEEDED: Barrier timed out. Id: jaxsim/7::0. Please look "
        "at the task logs.\n# of tasks that reached the barrier: 1/3.\n"
        "The first task at the barrier: 0. Some timed out task names:\n"
        "{}1\n{}2\n\n\nRPC: /xla.coordination.CoordinationService/Barrier"
    )
    for before in ("", "/job:jax_worker/replica:0/task:"):
        text = said.format(before, before)
        assert distributed._missing(text) == ["1", "2"]
    assert distributed._missing("UNAVAILABLE: Failed to send RPC") == []
