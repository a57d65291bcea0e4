"""What a benchmark ran on: enough to judge a figure, nothing that names a host.

Also pins a benchmark to some cores, so that both sides have the same ones.
"""

import datetime
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import psutil


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
