"""States of unfinished runs: where they are, and what a kill leaves."""

import copy
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fsspec
import jax.numpy as jnp
import pytest
from train import tiny

from jaxsim.checkpoints import TrainingCheckpoints, state_folder
from jaxsim.errors import Preempted, UserError
from jaxsim.train import recipe_trainer

from .launched import LIMIT, assert_sound, assert_whole, terminate_at


@pytest.fixture
def elsewhere(tmp_path):
    """A folder on another file system, where there is one."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path / "elsewhere"
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def google_storage(monkeypatch, tmp_path):
    """The URL of a folder in an emulated gs://, and what a process needs."""
    pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    settings = {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "TENSORSTORE_GCS_HTTP_VERSION": "1",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
        "GOOGLE_CLOUD_PROJECT": "p",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "gcp_storage_emulator", "start"),
            *("--host=127.0.0.1", f"--port={port}", "--in-memory"),
            "--default-bucket=bucket",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + LIMIT
        while True:
            with socket.socket() as probe:
                if not probe.connect_ex(("127.0.0.1", port)):
                    break
            assert server.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        yield "gs://bucket/some/states", settings
    finally:
        server.kill()
        server.wait()


def _files(path: str) -> list[str]:
    """The files below a local or remote folder."""
    files, root = fsspec.core.url_to_fs(path, use_listings_cache=False)
    files.invalidate_cache()
    return files.find(root)


def _kill_in_saves(command, undisturbed, path, workdir, environment):
    want, _ = undisturbed
    killed = copy.copy(command)
    killed.driver = "pool/killed.py"
    killed.overrides = [f"--config.train.state_path={path}"]
    killed.environment = command.environment | environment
    # Orbax commits two folders for each state; the third commit is of the second.
    for commit in (1, 2, 3):
        killed.environment["KILL_IN_SAVE"] = str(commit)
        process = killed.start(workdir)
        said, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == -signal.SIGKILL, said
        assert any("/a/" in name for name in _files(path)), said
        assert_sound(workdir, want)
    killed.environment["KILL_IN_SAVE"] = "0"
    said = killed.finish(workdir)
    assert "member a: resumed after step 2" in said
    assert_whole(workdir, want)
    assert _files(path) == []
    assert [p.name for p in (workdir / "state").iterdir()] == [".locks"]


def test_kills_in_saves_on_another_file_system(
    command, undisturbed, elsewhere, tmp_path
):
    _kill_in_saves(command, undisturbed, str(elsewhere), tmp_path / "work", {})


def test_kills_in_saves_in_google_cloud_storage(
    command, undisturbed, google_storage, tmp_path
):
    path, settings = google_storage
    settings["PYTHONPATH"] = os.pathsep.join(
        [command.environment["PYTHONPATH"], *sys.path]
    )
    _kill_in_saves(command, undisturbed, path, tmp_path / "work", settings)


def test_another_machine_resumes_from_the_states_of_a_lost_one(
    project, monkeypatch, capsys, tmp_path
):
    """Even a group, which is recorded only there."""
    config = tiny.changed(
        project.config, "train", state_path=str(tmp_path / "states"), parallel_runs=2
    )
    trainer = recipe_trainer(
        tiny.model_of(config, project.corpus), config, tiny.mesh_of()
    )
    for entry in "ab":
        shutil.rmtree(project.pool.entry(entry))
    one = dataclasses.replace(project, config=config, trainer=trainer)
    two = one.copy(tmp_path / "two")
    with monkeypatch.context() as patch:
        terminate_at(patch, 1)
        with pytest.raises(Preempted, match=r"2 runs \(a, b\): stopped after"):
            one.train("a", "b")
    two.train("c", "b", "a")
    assert "2 runs (a, b): resumed after step 1" in capsys.readouterr().out
    assert two.pool.names() == ["a", "b", "c"]
    assert _files(str(tmp_path / "states")) == []


def test_pools_with_one_state_path_keep_separate_states(
    project, monkeypatch, capsys, tmp_path
):
    changes = ({}, {"learning_rate": 0.5})
    for number, change in enumerate(changes):
        one = project.copy(tmp_path / str(number))
        shutil.rmtree(one.workdir / "pool")
        config = tiny.changed(one.config, "recipe", **change)
        config = tiny.changed(config, "train", state_path=str(tmp_path / "s"))
        trainer = recipe_trainer(
            tiny.model_of(config, one.corpus), config, tiny.mesh_of()
        )
        one = dataclasses.replace(one, config=config, trainer=trainer)
        with monkeypatch.context() as patch:
            terminate_at(patch, 1)
            with pytest.raises(Preempted, match="member c: stopped after"):
                one.train("c")
    assert len(list((tmp_path / "s").glob("jaxsim-*/c/*"))) == 2
    said = capsys.readouterr().out
    assert "starts again" not in said and "resumed" not in said


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://bucket/x", "file systems and to gs://, and not to s3://"),
        ("gs://bucket/x", r"pip install 'jaxsim-mixtures\[gcs\]'"),
        ("/tmp/a*b", "reads it as a pattern"),
        ("/proc/nowhere/x", "cannot create this folder"),
    ],
)
def test_paths_that_cannot_be_written_are_refused(path, message, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match=message):
        state_folder(path)


def test_runs_leave_no_file_open(tmp_path):
    """Orbax closes the event loop of a save when it is waited for."""

    def opened():
        return len(os.listdir("/proc/self/fd"))

    def save(number):
        with TrainingCheckpoints(tmp_path / str(number)) as checkpoints:
            for step in range(1, 4):
                checkpoints.save(step, {"a": jnp.arange(8.0)})

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    save(0)
    before = opened()
    for number in range(1, 6):
        save(number)
    assert opened() == before
