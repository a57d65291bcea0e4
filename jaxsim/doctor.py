"""`jaxsim doctor`: versions, devices, memory, disk and caches, for bug reports."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import psutil

from jaxsim.devices import available_memory, device_problem
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


def doctor(workdir: Path | None) -> dict[str, str]:
    """The properties of this machine; `workdir` chooses the disk."""
    usable = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        # Containers and batch systems restrict a process to some of the cores.
        usable = len(os.sched_getaffinity(0))
    lines = {
        "git revision": git_revision(),
        **versions(),
        **dict(map(_library, _MODULES)),
        "machine": f"{platform.platform()}, {platform.machine()}",
        "devices": _found(_devices),
        "cores": f"{usable} usable of {os.cpu_count()}",
        "memory": _found(_memory),
        "disk": _found(lambda: _disk(workdir or Path())),
        "compilation cache": jax.config.values["jax_compilation_cache_dir"] or "none",
        "tensorflow": "not imported, as it should be",
    }
    if "tensorflow" in sys.modules:
        lines["tensorflow"] = "IMPORTED by one of these libraries: please report it"
    return lines


def _found(look: Callable[[], str]) -> str:
    """What `look` returns, or why it cannot: that is what the user wants to know."""
    try:
        return look()
    except (OSError, RuntimeError) as error:
        return f"UNKNOWN: {error}"


def _devices() -> str:
    if problem := device_problem():
        return f"UNKNOWN: {problem}"
    found = []
    for device in jax.local_devices():
        limit = (device.memory_stats() or {}).get("bytes_limit")
        usable = f", {_gib(limit)} usable" if limit else ""
        found.append(f"{device.platform} {device.id}: {device.device_kind}{usable}")
    return "; ".join(found)


def _memory() -> str:
    total = psutil.virtual_memory().total
    return f"{_gib(available_memory())} usable of {_gib(total)}"


def _disk(workdir: Path) -> str:
    folder = workdir.resolve()
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    disk = shutil.disk_usage(existing)
    return f"{_gib(disk.free)} free of {_gib(disk.total)}, at {existing}"


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
