"""launch/tpu.sh, with a stand-in for gcloud."""

import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.launch.conftest import ARGUMENTS, Launch


def _remote(line: str) -> str:
    """The command line that a worker's shell gets."""
    return line.partition(" [--command=")[2].removesuffix("]")


@pytest.mark.parametrize(
    ("command", "worker"), [("base", "all"), ("train", "all"), ("prepare", "0")]
)
def test_workers_get_the_arguments_as_they_are(launch: Launch, command, worker) -> None:
    hostile = ('--config.a=it\'s "$HOME" *', "--config.b=")
    done = launch("tpu", "s", "z", command, *ARGUMENTS, *hostile)
    assert done.returncode == 0, done.stderr
    (line,) = launch.log
    assert f"[s] [--zone=z] [--worker={worker}]" in line
    group = ["--distributed=auto"] if worker == "all" else []
    words = shlex.split(_remote(line))
    assert words[words.index("jaxsim", 4) :] == [
        "jaxsim",
        command,
        *group,
        *ARGUMENTS,
        *hostile,
    ]


def test_a_command_without_flags_has_no_empty_argument(launch: Launch) -> None:
    launch("tpu", "s", "z", "prepare")
    assert shlex.split(_remote(launch.log[0]))[-1] == "prepare"


def test_a_tpu_that_cannot_be_used_is_an_error(launch: Launch) -> None:
    launch("tpu", "s", "z", "train")
    launch("tpu", "s", "z", "prepare")
    train, prepare = map(_remote, launch.log)
    assert " JAX_PLATFORMS=tpu,cpu " in train
    assert " JAX_PLATFORMS=cpu " in prepare


def test_the_exit_code_is_handed_on(launch: Launch) -> None:
    assert launch("tpu", "s", "z", "a", FAIL="compute", CODE="4").returncode == 4
    assert launch("tpu", "s").returncode == 2


def test_install_stops_where_copying_has_failed(launch: Launch) -> None:
    fail = "compute tpus tpu-vm scp"
    done = launch("tpu", "s", "z", "install", FAIL=fail, CODE="1")
    assert done.returncode == 1
    assert len(launch.log) == 1


def test_install_works_on_a_worker(launch: Launch, tmp_path: Path) -> None:
    """Runs there what was sent there, up to where .venv would be made."""
    assert launch("tpu", "s", "z", "install").returncode == 0
    copied, installed = launch.log
    assert " [scp] " in copied and "[s:] " in copied
    home, tools = tmp_path / "home", tmp_path / "there"
    home.mkdir()
    tools.mkdir()
    with tarfile.open(home / "jaxsim.tar.gz", "w:gz") as archive:
        for name in ("launch", "pyproject.toml"):
            archive.add(launch.root / name, name)
    for tool in ("bash", "cat", "cksum", "gzip", "mkdir", "tar"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    python = tools / "python3"  # recent, and lacks what makes a .venv
    python.write_text('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", _remote(installed)],
        cwd=home,
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "python3 cannot make virtual environments" in done.stderr


def test_stop_asks_only_what_runs_a_model(launch: Launch) -> None:
    launch("tpu", "s", "z", "stop")
    launch("tpu", "s", "z", "train", *ARGUMENTS)
    stop, train = map(_remote, launch.log)
    pattern = shlex.split(stop)[-1]

    def found(text: str) -> bool:
        return subprocess.run(
            ["grep", "-qE", pattern], input=text, text=True
        ).returncode == 0  # fmt: skip

    assert found(train)
    assert not found(stop)
