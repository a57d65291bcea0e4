"""Ten thousand mixtures: time of each, and memory, as tables grow.

    python benchmarks/scaling.py --threads=2

Two paths. The evaluator alone, with random members and few windows. And what
`jaxsim score` does, on a workdir that the quickstart's smoke configuration
makes here: merges appended to the journal, both other predictors, tables saved.

Every size runs in a process of its own, whose peak resident memory is what
counts; sizes take turns, so that a busy machine slows all of them. A result is
a row of numbers for each mixture and window, which has to be somewhere: it is
counted apart from the rest.
"""

import contextlib
import io
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import psutil
from pairs import remote

HERE = Path(__file__).parent
EVALUATOR = (80, 320, 1280, 5120, 10_000)
SCORER = (80, 1280, 10_000)
REPEATED = 1000  # mixtures that are timed at least, in tables of the size
STEPS = ("prepare", "base", "train")


class Alone:
    """The evaluator, asked for one table."""

    def __init__(self) -> None:
        import numpy as np
        from random_pool import random_stack, random_windows

        from jaxsim.config import ModelConfig, ScoreConfig
        from jaxsim.model import LanguageModel
        from jaxsim.scoring.evaluator import Evaluator

        self._members, windows = 12, 16  # a block
        config = ModelConfig(length=64, layers=2, dim=64, heads=2, kv_heads=2)
        model = LanguageModel(config, 512)
        self._rows = np.arange(windows)
        self._evaluator = Evaluator(
            model,
            random_stack(model, self._members, "float32"),
            random_windows(windows, 512, config),
            ScoreConfig(),
        )

    def run(self, count: int) -> dict[str, float]:
        """Seconds and memory of `count` mixtures."""
        from random_pool import mixtures

        def once(rng: int) -> int:
            return self._evaluator.score(table, self._rows).nbytes

        first, table = (mixtures(self._members, n) for n in (80, count))
        self._evaluator.score(first, self._rows)
        return _measured(once, count)


class Whole:
    """A scorer of a workdir, asked for one table."""

    def __init__(self, workdir: Path) -> None:
        from jaxsim.scoring.scorer import Scorer
        from jaxsim.scoring.table import dirichlet

        self._scorer = Scorer(workdir)
        self._draw = dirichlet
        # Members' token losses, and the program.
        with contextlib.redirect_stdout(io.StringIO()):
            self._score(80, REPEATED)

    def run(self, count: int) -> dict[str, float]:
        """Seconds and memory of `count` mixtures that are all new."""
        return _measured(lambda rng: self._score(count, rng), count)

    def _score(self, count: int, rng: int) -> int:
        table = self._draw(self._scorer.members, count, 1.0, rng)
        scores = self._scorer.score("scaling", table, "dev", windows=2)
        return sum(p.nll_MR.nbytes for p in scores.predictors.values())


def _measured(work: Callable[[int], int], count: int) -> dict[str, float]:
    """Runs `work`, small tables several times, each with another number."""
    before = _resident()
    replicates = -(-REPEATED // count)
    begin = time.perf_counter()
    for repeat in range(replicates):
        result = work(repeat)
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds / replicates,
        "result_bytes": result,
        "resident_before": before,
        "peak_bytes": _peak(),
    }


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _peak() -> int:
    """The most memory that was ever resident, from the kernel."""
    status = Path("/proc/self/status").read_text()
    line = next(x for x in status.splitlines() if x.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def measure(
    name: str, sizes: tuple[int, ...], rounds: int, workdir: Path | None
) -> list[dict[str, Any]]:
    """Every size in turns; medians of times and the largest memory."""
    found: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                arguments: tuple[Path, ...] = ()
                if workdir is not None:
                    fresh = Path(folder, "workdir")
                    shutil.copytree(workdir, fresh)
                    arguments = (fresh,)
                with remote("scaling", name, *arguments) as side:
                    found[size].append(side.ask("run", size))
    rows = []
    for size, runs in found.items():
        seconds = [run["seconds"] / size for run in runs]
        last = max(runs, key=lambda run: run["peak_bytes"])
        rows.append(
            {
                "mixtures": size,
                "seconds_a_mixture": statistics.median(seconds),
                "all_seconds_a_mixture": seconds,
                **{k: v for k, v in last.items() if k != "seconds"},
            }
        )
        print(name, json.dumps(rows[-1]), flush=True)
    return rows


def make_workdir(workdir: Path) -> None:
    """A pool of the quickstart's smoke configuration."""
    config = HERE.parent / "configs" / "quickstart.py"
    for step in STEPS:
        command = [sys.executable, "-m", "jaxsim", step]
        command += [f"--config={config}:smoke", f"--workdir={workdir}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def report(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    box = result["machine"]
    text = (
        f"{box['cores_used']} of {box['cores']} cores ({box['cpu']}), jax "
        f"{box['versions']['jax']}, {box['date']}, "
        f"medians of {result['rounds']} rounds.\n\n"
        f"| path | mixtures | ms a mixture | against {EVALUATOR[0]} | peak memory, "
        "MB | of that results, MB | growth beyond results, MB |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    for path, rows in result["paths"].items():
        first = rows[0]
        for row in rows:
            rest, start = (r["peak_bytes"] - r["result_bytes"] for r in (row, first))
            ratio = row["seconds_a_mixture"] / first["seconds_a_mixture"]
            text += (
                f"| {path} | {row['mixtures']:,} | "
                f"{1e3 * row['seconds_a_mixture']:.2f} | {ratio:.2f} | "
                f"{row['peak_bytes'] / 1e6:.0f} | "
                f"{row['result_bytes'] / 1e6:.1f} | "
                f"{(rest - start) / 1e6:.1f} |\n"
            )
    return text


def main() -> None:
    machine.keep_freed_memory()
    parser = machine.parser(__doc__, threads=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="unsaved")
    args = parser.parse_args()
    machine.pin(args.threads)
    paths = {"evaluator alone": measure("Alone", EVALUATOR, args.rounds, None)}
    if not args.alone:
        with tempfile.TemporaryDirectory() as folder:
            workdir = Path(folder, "workdir")
            make_workdir(workdir)
            paths["as `jaxsim score`"] = measure("Whole", SCORER, args.rounds, workdir)
    result = {
        "rounds": args.rounds,
        "paths": paths,
        "machine": machine.describe(("jax", "jaxlib", "flax", "numpy")),
    }
    print(report(result), end="")
    if args.alone:
        return  # not the whole of it
    machine.save(args.out, "scaling", result, report(result))


if __name__ == "__main__":
    main()
