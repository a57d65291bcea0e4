"""`jaxsim doctor`: versions, devices, memory, disk and caches, for bug reports."""

import functools
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


def doctor(workdir: Path | None) -> None:
    """Prints one line for each property; `workdir` chooses the disk."""
    lines: dict[str, Callable[[], str]] = {
        "git revision": git_revision,
        **{name: functools.partial(str, v) for name, v in versions().items()},
        **{m.replace(".", "-"): functools.partial(_library, m) for m in _MODULES},
        "machine": lambda: f"{platform.platform()}, {platform.machine()}",
        "devices": _devices,
        "cores": _cores,
        "memory": _memory,
        "disk": lambda: _disk(workdir or Path()),
        "compilation cache": lambda: (
            jax.config.values["jax_compilation_cache_dir"] or "none"
        ),
        "tensorflow": _tensorflow,
    }
    for name, look in lines.items():
        try:
            value = look()
        # It is for machines where something is wrong: what fails is a finding.
        except Exception as error:  # noqa: BLE001
            value = f"UNKNOWN: {device_problem() or error or type(error).__name__}"
        print(f"{name:20} {value}")


def _devices() -> str:
    """Each device of this process on a line."""
    found = []
    for device in jax.local_devices():
        limit = (device.memory_stats() or {}).get("bytes_limit")
        usable = f", {_gib(limit)} usable" if limit else ""
        found.append(f"{device.id} {device.platform}: {device.device_kind}{usable}")
    return f"\n{'':20} ".join(found)


def _cores() -> str:
    usable = os.cpu_count()
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        # Containers and batch systems restrict a process to some of the cores.
        usable = len(os.sched_getaffinity(0))
    return f"{usable} usable of {os.cpu_count()}"


def _memory() -> str:
    usable, total = available_memory(), psutil.virtual_memory().total
    return f"{_gib(usable)} usable of {_gib(total)}"


def _disk(workdir: Path) -> str:
    folder = workdir.resolve()
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    disk = shutil.disk_usage(existing)
    return f"{_gib(disk.free)} free of {_gib(disk.total)}, at {existing}"


def _tensorflow() -> str:
    if "tensorflow" in sys.modules:
        return "IMPORTED by one of these libraries: please report it"
    return "not imported, as it should be"


def _library(module: str) -> str:
    """The version; imports the module, so that a broken one is seen."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"CANNOT BE IMPORTED: {error}"
    return importlib.metadata.version(module.replace(".", "-"))


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
