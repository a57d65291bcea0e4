"""How long a new user waits: from a fresh clone to the report, and again.

    python benchmarks/first_answer.py --runs=5

Each run clones this checkout's last commit, and runs `launch/quickstart.sh` there
twice: with installation (pip's downloads are cached from then on), and with everything
done. CPU time and the largest process count all children. `import jaxsim` and
`jaxsim --help` are timed in the environment that it made. Leave the machine idle.
"""

import json
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

import machine

ROOT = Path(__file__).resolve().parent.parent


def timed(folder: Path, *command: str) -> dict[str, float]:
    """Wall and CPU seconds of a command and its children, and their largest size."""
    child = os.fork()
    if not child:  # a process of its own, so that its children's figures are theirs
        begin = time.monotonic()
        with (folder / "log").open("a") as log:
            code = subprocess.call(command, cwd=folder, stdout=log, stderr=log)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        figures = {
            "wall_seconds": round(time.monotonic() - begin, 2),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
            "largest_gigabytes": round(used.ru_maxrss / 1e6, 2),
        }
        (folder / "figures.json").write_text(json.dumps(figures))
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed: see {folder / 'log'}")
    return dict(json.loads((folder / "figures.json").read_text()))


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options, runs = parser.parse_args(), []
    for number in range(1, options.runs + 1):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "clone"
            clone = ["git", "clone", "--quiet", str(ROOT), str(folder)]
            subprocess.run(clone, check=True)
            python = str(folder / ".venv" / "bin" / "python")
            run = {
                "first": timed(folder, "launch/quickstart.sh"),
                "again": timed(folder, "launch/quickstart.sh"),
                "import jaxsim": timed(folder, python, "-c", "import jaxsim"),
                "jaxsim --help": timed(folder, python, "-m", "jaxsim", "--help"),
            }
        runs.append(run)
        print(number, json.dumps(run), flush=True)
    medians = {
        what: {key: median(run[what][key] for run in runs) for key in runs[0][what]}
        for what in runs[0]
    }
    record = {"machine": machine.describe(("jax",)), "medians": medians, "runs": runs}
    machine.save(options.out, "first_answer", record)
    print(json.dumps(medians, indent=1))


if __name__ == "__main__":
    main()
