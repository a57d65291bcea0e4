"""The Slurm scripts, with stand-ins for srun and scontrol."""

import json
import re
from pathlib import Path

import pytest

from tests.launch.conftest import ARGUMENTS, Launch

SCRIPTS = ("slurm", "slurm_array")
ARRAY = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}

OPTIONS = json.loads((Path(__file__).parent / "slurm_options.json").read_text())


def _options(root: Path, script: str) -> list[str]:
    """Those of the lines that Slurm reads, up to the first command."""
    text = (root / "launch" / f"{script}.sh").read_text()
    lines = re.split(r"^(?!#)", text, maxsplit=1, flags=re.MULTILINE)
    found = re.findall(r"^#SBATCH (.*)$", lines[0], re.MULTILINE)
    assert len(found) == text.count("#SBATCH")
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_slurm_knows_all_options(root: Path, launch: Launch, script) -> None:
    for option in _options(root, script):
        match = re.fullmatch(r"--([a-z-]+)(=\S+)?", option)
        assert match and match[1] in OPTIONS["sbatch"], option
    assert launch(script, *ARGUMENTS, SLURM_CPUS_PER_TASK="6").returncode == 0
    for line in launch.log:
        before, _, _ = line.partition("[.venv/bin/python]")
        used = re.findall(r"\[--([a-z-]+)", before)
        assert used and set(used) <= set(OPTIONS["srun"]), line


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_job_is_warned_requeued_and_keeps_its_log(root: Path, script) -> None:
    """The warning is for the steps: B: would give it to the script only."""
    assert {"--requeue", "--signal=TERM@120", "--open-mode=append"} <= set(
        _options(root, script)
    )


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5])
def test_what_is_resumable_is_requeued(launch: Launch, script, code) -> None:
    done = launch(script, *ARGUMENTS, FAIL="train", CODE=str(code))
    assert done.returncode == code, done.stderr
    *_, train = [line for line in launch.log if "[train]" in line]
    assert train.endswith(" [--workdir=/data/a b]")
    assert ("scontrol [requeue] [17]" in launch.log) == (code == 4)


def test_a_task_requeues_itself_and_not_its_array(launch: Launch) -> None:
    """One task has the number of the array as SLURM_JOB_ID."""
    done = launch("slurm_array", *ARGUMENTS, FAIL="train", CODE="4", **ARRAY)
    assert done.returncode == 4
    *_, asked, requeued = launch.log
    assert asked.startswith("squeue ") and "[--jobs=17_3]" in asked
    assert requeued == "scontrol [requeue] [17_3]"


def test_tasks_of_an_array_may_share_prepare(launch: Launch) -> None:
    assert launch("slurm_array", "prepare", *ARGUMENTS, **ARRAY).returncode == 0
    assert "[prepare] [--shard=slurm]" in launch.log[-1]
    assert "[train]" not in launch.log[-1]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("state", ["COMPLETING", ""])
def test_what_was_cancelled_stays_away(launch: Launch, script, state) -> None:
    """Preempted, it looks the same, and Slurm requeues it by itself."""
    done = launch(script, *ARGUMENTS, FAIL="train", CODE="4", STATE=state)
    assert done.returncode == 4
    assert not any("[requeue]" in line for line in launch.log)
    said = f"job 17 ({state or 'state unknown'}) is not requeued by this"
    assert said in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_job_that_cannot_be_requeued_says_so(launch: Launch, script) -> None:
    (launch.folder / "scontrol").write_text("#!/usr/bin/env bash\nexit 1\n")
    done = launch(script, *ARGUMENTS, FAIL="train", CODE="4")
    assert done.returncode == 4
    assert "job 17 (RUNNING) is not requeued by this script" in done.stderr


def test_steps_after_a_failed_one_are_not_begun(launch: Launch) -> None:
    assert launch("slurm", FAIL="base", CODE="2").returncode == 2
    assert "[prepare]" in launch.log[0]
    assert len(launch.log) == 2


def test_processes_get_the_cpus_that_were_asked_for(launch: Launch) -> None:
    launch("slurm", *ARGUMENTS, SLURM_CPUS_PER_TASK="6")
    prepare, base, train = launch.log
    assert "[--cpus-per-task=6]" in base and "[--cpus-per-task=6]" in train
    assert "--cpus-per-task" not in prepare  # it has the whole node's
    launch("slurm_array", *ARGUMENTS, SLURM_CPUS_PER_TASK="6")
    assert "[--cpus-per-task=6]" in launch.log[-1]
    launch("slurm_array", *ARGUMENTS)
    assert "--cpus-per-task" not in launch.log[-1]
