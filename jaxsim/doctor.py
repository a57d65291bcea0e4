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
    "flax.linen",
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
    for name, value in {
        "git revision": git_revision(),
        **versions(),
        **_libraries(),
        "machine": f"{platform.platform()}, {platform.machine()}",
        **_devices(),
        "processes": f"{jax.process_index()} of {jax.process_count()}",
        "cores": f"{_cores()} usable of {os.cpu_count()}",
        "memory": _memory(),
        "disk": _disk(workdir or Path()),
        "compilation cache": (jax.config.values["jax_compilation_cache_dir"] or "none"),
        "tensorflow": _tensorflow(),
    }.items():
        print(f"{name:20} {value}")


def _libraries() -> dict[str, str]:
    """Versions of libraries; imports each, so that a broken one is seen."""
    found = {}
    owners = importlib.metadata.packages_distributions()
    for module in _MODULES:
        top = module.partition(".")[0]
        try:
            importlib.import_module(module)
        except ImportError as error:
            found[module] = f"CANNOT BE IMPORTED: {error}"
        else:
            package = owners[top][0]
            found[package] = importlib.metadata.version(package)
    return found


def _devices() -> dict[str, str]:
    found = {}
    for device in jax.local_devices():
        limit = (device.memory_stats() or {}).get("bytes_limit")
        memory = f", {limit / 2**30:.1f} GiB usable" if limit else ""
        found[f"device {device.id}"] = (
            f"{device.platform}: {device.device_kind}{memory}"
        )
    return found


def _cores() -> int:
    # Containers and batch systems restrict a process to some of the cores.
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> str:
    memory = psutil.virtual_memory()
    return f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f} GiB"


def _disk(workdir: Path) -> str:
    workdir = workdir.resolve()
    existing = next(each for each in (workdir, *workdir.parents) if each.exists())
    usage = shutil.disk_usage(existing)
    return (
        f"{usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f} GiB, "
        f"at {existing}"
    )


def _tensorflow() -> str:
    if "tensorflow" in sys.modules:
        return "IMPORTED by one of these libraries: please report it"
    return "not imported, as it should be"
