"""`jaxsim doctor`: versions, devices, memory, disk and caches, for bug reports."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

import jax
import psutil

from jaxsim.log import git_revision, versions

# A module of every library that jaxsim uses.
_MODULES = (
    "flax",
    "optax",
    "orbax.checkpoint",
    "tensorflow_datasets",
    "ml_collections",
    "tokenizers",
    "scipy",
    "pyarrow",
    "matplotlib",
)


def doctor(workdir: Path | None) -> None:
    """Prints one line for each property; `workdir` chooses the disk."""
    folder = (workdir or Path()).resolve()
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    disk, memory = shutil.disk_usage(existing), psutil.virtual_memory()
    usable = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        # Containers and batch systems restrict a process to some of the cores.
        usable = len(os.sched_getaffinity(0))
    lines = {
        "git revision": git_revision(),
        **versions(),
        **dict(map(_library, _MODULES)),
        "machine": f"{platform.platform()}, {platform.machine()}",
    }
    for device in jax.local_devices():
        limit = (device.memory_stats() or {}).get("bytes_limit")
        found = f", {_gib(limit)} usable" if limit else ""
        lines[f"device {device.id}"] = f"{device.platform}: {device.device_kind}{found}"
    lines |= {
        "processes": f"{jax.process_index()} of {jax.process_count()}",
        "cores": f"{usable} usable of {os.cpu_count()}",
        "memory": f"{_gib(memory.available)} free of {_gib(memory.total)}",
        "disk": f"{_gib(disk.free)} free of {_gib(disk.total)}, at {existing}",
        "compilation cache": jax.config.values["jax_compilation_cache_dir"] or "none",
        "tensorflow": "not imported, as it should be",
    }
    if "tensorflow" in sys.modules:
        lines["tensorflow"] = "IMPORTED by one of these libraries: please report it"
    for name, value in lines.items():
        print(f"{name:20} {value}")


def _library(module: str) -> tuple[str, str]:
    """Package and version; imports the module, so that a broken one is seen."""
    package = module.replace(".", "-")
    try:
        importlib.import_module(module)
    except ImportError as error:
        return package, f"CANNOT BE IMPORTED: {error}"
    return package, importlib.metadata.version(package)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
