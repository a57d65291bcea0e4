"""Kills jaxsim at random moments, and checks that results do not change.

    python benchmarks/kills.py --rounds 20

Each round kills one process with SIGKILL: either `jaxsim run` or one command of it,
at a random line of its output. The next process continues on the same workdir. After
four kills the commands run to the end. Then digests of all parameters, the search
result and the names of all files must be those of an undisturbed run.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMANDS = ("prepare", "base", "train", "score", "validate", "search", "report")
KILLS = 4  # of one workdir
# Keys of results that differ between two undisturbed runs.
VOLATILE = {"provenance", "seconds", "wall_seconds", "device_seconds", "seal"}


class Launcher:
    """Starts commands on one config; compiled programs are shared."""

    def __init__(self, config: str, folder: Path) -> None:
        self.config = config
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONUNBUFFERED": "1",
        }
        self.environment = os.environ | cache

    def start(self, command: str, workdir: Path) -> subprocess.Popen[str]:
        flags = [f"--config={self.config}", f"--workdir={workdir}"]
        return subprocess.Popen(
            [sys.executable, "-m", "jaxsim", command, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )

    def finish(self, command: str, workdir: Path) -> int:
        """Runs a command to its end; how many lines it printed."""
        process = self.start(command, workdir)
        said, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{command} ended with {process.returncode}:\n{said}")
        return len(said.splitlines())

    def kill(self, command: str, workdir: Path, line: int, delay: float) -> bool:
        """Kills a command `delay` seconds after a line; false if it was faster."""
        process = self.start(command, workdir)
        assert process.stdout is not None
        for _ in range(line):
            process.stdout.readline()
        time.sleep(delay)
        process.kill()
        said, _ = process.communicate()
        if process.returncode not in (0, -9):
            raise SystemExit(f"{command} ended with {process.returncode}:\n{said}")
        return process.returncode != 0


def results(workdir: Path) -> dict[str, Any]:
    """Everything that must be the same: digests, search result, names of files."""
    manifests = sorted(workdir.rglob("manifest.json"))
    digests = {
        str(path.relative_to(workdir)): json.loads(path.read_text())["params_digest"]
        for path in manifests
    }
    names = {
        re.sub(r"attempt-[0-9a-f]{12}/.*", "attempt", str(path.relative_to(workdir)))
        for path in workdir.rglob("*")
        if path.is_file()
    }
    search = json.loads((workdir / "search" / "result.json").read_text())
    return {"digests": digests, "search": _stable(search), "files": sorted(names)}


def check(want: dict[str, Any], found: dict[str, Any], when: str) -> None:
    for what in want:
        if found[what] != want[what]:
            raise SystemExit(f"{when}: {what} is\n{found[what]}\nnot\n{want[what]}")


def _stable(value: Any) -> Any:
    """JSON data without what differs between two undisturbed runs."""
    if isinstance(value, dict):
        return {k: _stable(v) for k, v in value.items() if k not in VOLATILE}
    return [_stable(v) for v in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/quickstart.py:smoke")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        launcher = Launcher(args.config, folder)
        lines = {"run": launcher.finish("run", folder / "undisturbed")}
        want = results(folder / "undisturbed")
        lines |= {name: launcher.finish(name, folder / "steps") for name in COMMANDS}
        check(want, results(folder / "steps"), "the commands one by one")
        for first in range(0, args.rounds, KILLS):
            workdir = folder / f"killed{first}"
            done: list[str] = []  # commands that ran to their end
            for number in range(first, min(first + KILLS, args.rounds)):
                command = rng.choice(("run", "next"))
                if command == "next":  # up to two commands, then a kill
                    stage = min(len(done) + rng.randrange(3), len(COMMANDS) - 1)
                    for earlier in COMMANDS[len(done) : stage]:
                        launcher.finish(earlier, workdir)
                        done.append(earlier)
                    command = COMMANDS[stage]
                line = rng.randrange(lines[command])
                delay = rng.uniform(0.0, 0.5)
                hit = launcher.kill(command, workdir, line, delay)
                print(
                    f"round {number}: {command} killed {delay:.2f} s after line {line}"
                    + ("" if hit else " (it had ended)"),
                    flush=True,
                )
            launcher.finish("run", workdir)
            check(want, results(workdir), f"rounds {first} to {number}")
    print(f"{args.rounds} kills: digests, search result and files are the same")


if __name__ == "__main__":
    main()
