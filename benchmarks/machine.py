"""What benchmarks share: the machine, its cores, the command line, the results.

What they ran on is described well enough to judge a figure; nothing names a host.
Pinning a benchmark to some cores gives both sides the same ones.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import psutil


def parser(doc: str | None, threads: int | None = None) -> argparse.ArgumentParser:
    """The parser of a benchmark, with its first line and --out.

    Args:
      doc: of the module.
      threads: the default of --threads; None for no such option.
    """
    found = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    results = Path(__file__).parent / "results"
    found.add_argument("--out", type=Path, default=results, help="folder of results")
    if threads is not None:
        text = "and cores" if threads else "and cores; 0: all"
        found.add_argument("--threads", type=int, default=threads, help=text)
    return found


def save(folder: Path, name: str, result: Any, markdown: str = "") -> None:
    """Writes NAME.json, and NAME.md if there is Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    if markdown:
        (folder / f"{name}.md").write_text(markdown)


def keep_freed_memory() -> None:
    """Restarts this process with the MALLOC_* variables of the launch scripts.

    glibc reads them when a process starts; those started from here inherit
    them. So both sides of a comparison have them.
    """
    script = Path(__file__).parent.parent / "launch" / "environment.sh"
    wanted = dict(re.findall(r"(MALLOC_\w+)=(\d+)", script.read_text()))
    if any(os.environ.get(name) != wanted[name] for name in wanted):
        os.environ.update(wanted)
        os.execv(sys.executable, sys.orig_argv)


def pin(threads: int) -> None:
    """Keeps this process, and those it starts, on `threads` cores.

    Raises:
      SystemExit: there are fewer.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < threads:
        raise SystemExit(f"--threads={threads}: only {len(allowed)} cores here")
    os.sched_setaffinity(0, allowed[:threads])
    # Read by OpenMP and by MKL when a worker imports them.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["MKL_NUM_THREADS"] = str(threads)


def describe(packages: tuple[str, ...]) -> dict[str, Any]:
    """CPU, cores in use, memory, versions and date."""
    return {
        "cpu": _cpu(),
        "cores_used": len(os.sched_getaffinity(0)),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _cpu() -> str:
    """The model's name; a kernel without one gives the architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
