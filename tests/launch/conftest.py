"""Runs a launch script with stand-ins for the tools of clusters.

Slurm, gcloud and kubectl write down how they were called, and do nothing.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

ARGUMENTS = ("--config=configs/a.py", "--workdir=/data/a b")

# Ends with $CODE where the command is, or begins with, $FAIL; squeue says that
# the job is in $STATE.
STAND_IN = """\
#!/usr/bin/env bash
printf '%s' "$(basename "$0")" >>"$LOG"
printf ' [%s]' "$@" >>"$LOG"
echo >>"$LOG"
[ "$(basename "$0")" != squeue ] || echo "${STATE-RUNNING}"
case "$*" in
    "apply -f -") cat >"$LOG.yaml" ;;
    "$FAIL"*|*" jaxsim $FAIL"*) exit "$CODE" ;;
esac
"""


@dataclasses.dataclass(frozen=True)
class Launch:
    """Calls launch/NAME.sh; `log` is what the stand-ins were called with."""

    root: Path
    folder: Path

    def __call__(
        self, name: str, *argv: str, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "LOG": str(self.folder / "log"),
            "FAIL": "nothing",
            "SLURM_SUBMIT_DIR": str(self.root),
            "SLURM_JOB_ID": "17",
            **variables,
        }
        return subprocess.run(
            [str(self.root / "launch" / f"{name}.sh"), *argv],
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
        )

    @property
    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def applied(self) -> str:
        """What kubectl was given."""
        return (self.folder / "log.yaml").read_text()


def with_stand_ins(root: Path, folder: Path) -> Launch:
    for name in ("srun", "squeue", "scontrol", "gcloud", "kubectl"):
        (folder / name).write_text(STAND_IN)
        (folder / name).chmod(0o755)
    return Launch(root, folder)


@pytest.fixture
def launch(root: Path, tmp_path: Path) -> Launch:
    folder = tmp_path / "tools"
    folder.mkdir()
    return with_stand_ins(root, folder)
