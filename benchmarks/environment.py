"""Runs every command in surroundings that are unusual, and says which it survived.

    jaxsim run --config=configs/quickstart.py:smoke --workdir=runs/smoke
    python benchmarks/environment.py --workdir=runs/smoke

Each command runs on its own copy of a finished workdir, in every situation: closed
or full streams, other encodings, JAX's own settings, few resources, read-only and full
file systems. It passes if the exit code is one of those expected, nothing ends in
a traceback, the workdir still gives the same results, and TMPDIR is empty. Read-only
and full file systems need root and `unshare`; without them they are left out.
"""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import machine

# Parts of a result that differ between two runs.
VOLATILE = {"seconds", "wall_seconds", "sha256"}
CONFIGURED = ("prepare", "base", "train", "run")
COMMANDS = (
    *CONFIGURED,
    *("score", "validate", "search", "report", "verify", "plan", "doctor"),
)
_APART = ("unshare", "--mount")  # mounts end with the command
# What is removed before a command that has to compute something.
REMOVED = {"score": "scores", "search": "search", "report": "report", "run": "*"}


def results(workdir: Path) -> dict[str, Any]:
    """What must be the same after each command: digests and the search's answer."""
    manifests = sorted(workdir.rglob("manifest.json"))
    search = json.loads((workdir / "search" / "result.json").read_text())
    return {
        "digests": {
            str(path.relative_to(workdir)): json.loads(path.read_text())[
                "params_digest"
            ]
            for path in manifests
        },
        "search": {key: search[key] for key in search.keys() - VOLATILE},
    }


@dataclasses.dataclass(frozen=True)
class Situation:
    """Surroundings of a command.

    Attributes:
      line: a shell line; `jaxsim` in it is the command.
      environment: variables that are set.
      codes: exit codes that may be; `by_command` has those of some commands.
      fresh: whether the command computes again what it writes, and `run` all.
      mount: '', or a file system of its own for the workdir, 'ro' or 'full'.
    """

    line: str = "jaxsim"
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    codes: tuple[int, ...] = (0,)
    by_command: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    fresh: bool = False
    mount: str = ""


# Commands that end with 0 where nothing may be computed, if they compute nothing.
_OTHERS = dict.fromkeys(("prepare", "base", "report", "verify"), (0, 2))
_OTHERS |= {"doctor": (0,)}


def _setting(**environment: str) -> Situation:
    """A setting of JAX that must not change a result."""
    return Situation(environment=environment, fresh=True)


def _refused(**environment: str) -> Situation:
    """A setting of JAX that commands which compute refuse."""
    return Situation(
        environment=environment, codes=(2,), by_command=_OTHERS, fresh=True
    )


SITUATIONS: Mapping[str, Situation] = {
    "as usual": Situation(fresh=True),
    "stdin closed": Situation("jaxsim <&-"),
    "stdout closed": Situation("jaxsim >&-"),
    "stderr closed": Situation("jaxsim 2>&-"),
    "all streams closed": Situation("jaxsim <&- >&- 2>&-"),
    "head -1": Situation("jaxsim | head -1; exit ${PIPESTATUS[0]}", codes=(0, 4)),
    "nobody reads": Situation("jaxsim | true; exit ${PIPESTATUS[0]}", codes=(0, 4)),
    "stdout full": Situation("jaxsim >/dev/full", codes=(1,)),
    "stderr full": Situation("jaxsim 2>/dev/full", codes=(0, 1)),
    "ASCII": Situation(environment={"PYTHONIOENCODING": "ascii"}),
    "Latin-1": Situation(environment={"PYTHONIOENCODING": "latin-1"}),
    "C locale": Situation(
        environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ),
    "20 columns": Situation(environment={"COLUMNS": "20", "TERM": "dumb"}),
    "64-bit mode": _refused(JAX_ENABLE_X64="1"),
    "another generator": _refused(JAX_DEFAULT_PRNG_IMPL="rbg"),
    "strict promotion": _refused(JAX_NUMPY_DTYPE_PROMOTION="strict"),
    "bfloat16 products": _setting(JAX_DEFAULT_MATMUL_PRECISION="bfloat16"),
    "NaN checks": _setting(JAX_DEBUG_NANS="1"),
    "no compilation": _refused(JAX_DISABLE_JIT="1"),
    "no such platform": _refused(JAX_PLATFORMS="nonsense"),
    "64 files": Situation("ulimit -n 64; jaxsim", fresh=True),
    "no HOME": Situation("unset HOME; jaxsim"),
    "HOME unwritable": Situation(environment={"HOME": "/proc/none"}),
    "cache unwritable": Situation(
        environment={"JAX_COMPILATION_CACHE_DIR": "/proc/none"}, fresh=True
    ),
    "cwd deleted": Situation("mkdir gone; cd gone; rmdir ../gone; jaxsim"),
    "read-only": Situation(
        codes=(0, 2),
        by_command=dict.fromkeys(("score", "verify", "plan", "doctor"), (0,)),
        mount="ro",
    ),
    "full": Situation(codes=(0, 1), mount="full", fresh=True),
}


class Table:
    """Runs commands on copies of a workdir."""

    def __init__(self, workdir: Path, config: str, folder: Path) -> None:
        self.workdir, self.config, self.folder = workdir, config, folder
        self.want = results(workdir)

    def check(self, situation: Situation, command: str) -> dict[str, Any]:
        """Runs one command in a situation; what went wrong, if anything."""
        shutil.rmtree(self.folder, ignore_errors=True)
        temporary, workdir = self.folder / "tmp", self.folder / "work"
        temporary.mkdir(parents=True)
        shutil.copytree(self.workdir, workdir)
        if situation.fresh and command in REMOVED:
            for path in workdir.glob(REMOVED[command]):
                shutil.rmtree(path, ignore_errors=True)
        words = [sys.executable, "-m", "jaxsim", command]
        if command in CONFIGURED:
            words.append(f"--config={self.config}")
        place = str(workdir)
        if situation.mount:
            place = str(self.folder / "mounted")
            Path(place).mkdir()
        line = shlex.join([*words, f"--workdir={place}"])
        line = situation.line.replace("jaxsim", line)
        begin = time.monotonic()
        line = self._mounted(situation.mount, workdir, place) + line
        apart = _APART if situation.mount else ()
        done = subprocess.run(
            [*apart, "bash", "-c", line],
            cwd=self.folder,
            capture_output=True,
            env=os.environ | {"TMPDIR": str(temporary)} | situation.environment,
        )
        said = (done.stdout + done.stderr).decode(errors="replace")
        wrong = []
        if done.returncode not in situation.by_command.get(command, situation.codes):
            wrong.append("exit code")
        if "Traceback" in said or "Exception ignored" in said:
            wrong.append("traceback")
        if left := sorted(path.name for path in temporary.iterdir()):
            wrong.append(f"left in TMPDIR: {', '.join(left)}")
        if done.returncode == 0 and not situation.mount and command == "run":
            now = results(workdir)
            wrong += [what for what in self.want if now[what] != self.want[what]]
        sentences = [s for s in said.splitlines() if s.startswith("jaxsim: ")]
        return {
            "code": done.returncode,
            "wrong": wrong,
            "seconds": round(time.monotonic() - begin, 1),
            "said": [s.replace(str(self.folder), "TMP") for s in sentences],
            "last": said.splitlines()[-3:] if wrong else [],
        }

    def _mounted(self, how: str, workdir: Path, place: str) -> str:
        """Shell lines that show the workdir at `place`, read-only or with no room."""
        if how == "ro":
            return f"mount --bind {workdir} {place}; mount -o remount,bind,ro {place}\n"
        if how:
            size = sum(f.stat().st_size // 4096 + 1 for f in workdir.rglob("*"))
            return (
                f"mount -t tmpfs -o size={size * 4096 + 65536} none {place}\n"
                f"cp -a {workdir}/. {place}\n"
            )
        return ""


def markdown(found: Mapping[str, Mapping[str, Any]], commands: list[str]) -> str:
    lines = [
        "Exit code of each command; **bold**: not as expected.\n",
        f"| situation | {' | '.join(commands)} |",
        "| --- |" + " ---: |" * len(commands),
    ]
    for name, row in found.items():
        cells = [
            f"**{row[c]['code']}**" if row[c]["wrong"] else str(row[c]["code"])
            for c in commands
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="a finished one")
    parser.add_argument("--config", default="configs/quickstart.py:smoke")
    parser.add_argument("--only", default="", help="situations, a regular expression")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    args = parser.parse_args()
    commands = args.commands.split(",")
    file, colon, word = args.config.partition(":")
    may_mount = not subprocess.run([*_APART, "true"], capture_output=True).returncode
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as made:
        config = f"{Path(file).absolute()}{colon}{word}"
        table = Table(args.workdir.absolute(), config, Path(made) / "one")
        for name, situation in SITUATIONS.items():
            if not re.search(args.only, name) or (situation.mount and not may_mount):
                continue
            found[name] = {}
            for command in commands:
                row = found[name][command] = table.check(situation, command)
                words = [name, command, row["code"], *row["wrong"], *row["said"][:1]]
                print(*words, sep=" | ", flush=True)
                for line in row["last"]:
                    print("    ", line)
    about = machine.describe(("jax", "jaxlib", "orbax-checkpoint"))
    result = {"machine": about, "config": args.config, "situations": found}
    machine.save(args.out, "environment", result, markdown(found, commands))
    failed = sum(bool(cell["wrong"]) for row in found.values() for cell in row.values())
    count = sum(map(len, found.values()))
    print(f"{count - failed} of {count} as expected")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
