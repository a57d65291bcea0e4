"""What a device can hold and compute, and what a program needs of it."""

import contextlib
import dataclasses
import hashlib
import os
import platform
import re
import resource
import stat
import sys
from pathlib import Path
from typing import Any, Literal

import jax
import psutil
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh

from jaxsim.config import Attention, Precision
from jaxsim.errors import JaxsimError, UserError

_SETTINGS = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_dtype_promotion": "standard",
    "jax_numpy_rank_promotion": "allow",
    "jax_disable_jit": False,
}

# Of free memory; the rest is left to the runtime and fragmentation.
_MEMORY_SHARE = 0.8

# "... for HLO temporaries (26.46G) exceeds available HBM (15.75G)", and "Ran
# out of memory in memory space hbm. Used 16.21G of 15.75G hbm".
_REFUSED = re.compile(
    r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)"
    r"|Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of device.

    Attributes:
      kind: the device's name, or the beginning of it.
      memory: bytes; 0 if unknown.
      rate: peak dense bfloat16 FLOP/s; 0 if unknown.
      source: where memory and rate come from.
    """

    kind: str
    memory: int
    rate: float
    source: str


_TPU, _NVIDIA = "cloud.google.com/tpu/docs", "nvidia.com, data sheet"
CHIPS = (
    Chip("TPU v5 lite", 16 * 2**30, 197e12, f"{_TPU}/v5e"),
    Chip("TPU v5p", 95 * 2**30, 459e12, f"{_TPU}/v5p"),
    Chip("TPU v5", 95 * 2**30, 459e12, f"{_TPU}/v5p"),  # by its older name
    Chip("TPU v6 lite", 32 * 2**30, 918e12, f"{_TPU}/v6e"),
    Chip("NVIDIA A100", 0, 312e12, f"{_NVIDIA} A100"),  # of 40 or 80 GB
    Chip("NVIDIA H100 PCIe", 80 * 10**9, 756e12, f"{_NVIDIA} H100"),
    Chip("NVIDIA H100", 80 * 10**9, 989e12, f"{_NVIDIA} H100"),
    Chip("NVIDIA H200", 141 * 10**9, 989e12, f"{_NVIDIA} H200"),
)


def known_chip(kind: str) -> Chip | None:
    """The first entry whose name a device kind begins with, or None."""
    for chip in CHIPS:
        if kind == chip.kind or kind.startswith((f"{chip.kind} ", f"{chip.kind}-")):
            return dataclasses.replace(chip, kind=kind)
    return None


def device_problem() -> str:
    """Why JAX finds no device of JAX_PLATFORMS, or ''."""
    if not (platforms := jax.config.values["jax_platforms"]):
        return ""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0] or "there is no such device"
        return f"JAX_PLATFORMS={platforms}: {why}"
    return ""


def check_settings() -> None:
    """Refuses settings of JAX that change numbers, or under which programs fail.

    Raises:
      UserError: names the first of them.
    """
    for name, needed in _SETTINGS.items():
        if getattr(jax.config, name) != needed:
            raise UserError(f"{name.upper()} must be {needed}, the default; unset it")


def is_cpu(mesh: Mesh) -> bool:
    return bool(mesh.devices.flat[0].platform == "cpu")


def precision_on(
    device: jax.Device, name: Precision | Literal["auto"], setting: str
) -> Precision:
    """The precision of the model's products on a device; see `Execution`.

    Args:
      device: one of several equal devices.
      name: the setting; 'auto' is float32 on a CPU and bfloat16 elsewhere.
      setting: name of the config key, for messages.

    Raises:
      UserError: 'tf32' is set and the device has no such products.
    """
    if name == "auto":
        return "float32" if device.platform == "cpu" else "bfloat16"
    if name == "tf32" and (problem := _tensor_core_problem(device)):
        raise UserError(
            f"{setting}='tf32': {problem}; 'float32' and 'bfloat16' run on every device"
        )
    return name


def attention_on(
    device: jax.Device,
    name: Attention,
    head: int,
    precision: str,
    setting: str,
    problem: str = "",
) -> Attention:
    """The attention implementation for a device; see `jaxsim/model/attention.py`.

    Args:
      device: one of several equal devices.
      name: the setting; 'auto' is the fastest that works.
      head: width of a head.
      precision: precision of the computation.
      setting: name of the config key, for messages.
      problem: why cuDNN cannot be used on any device, or ''.

    Raises:
      UserError: cuDNN is set and cannot be used.
    """
    problem = problem or _cudnn_problem(device, head, precision)
    if name == "auto":
        cpu = device.platform == "cpu"
        return "einsum" if cpu else "xla" if problem else "cudnn"
    if name == "cudnn" and problem:
        raise UserError(f"{setting}='cudnn': {problem}; 'auto' takes what there is")
    return name


def _cudnn_problem(device: jax.Device, head: int, precision: str) -> str:
    """Why cuDNN attention cannot be used, or ''."""
    if problem := _tensor_core_problem(device):
        return problem
    if precision != "bfloat16":
        return f"needs precision='bfloat16', not {precision!r}"
    if head > 128 or head % 8:
        return f"needs heads of a multiple of 8 up to 128, not {head}"
    return ""


def _tensor_core_problem(device: jax.Device) -> str:
    """Why a device has no tensor cores for TF32 and bfloat16, or ''."""
    if device.platform not in ("gpu", "cuda") or (
        "cuda" not in device.client.platform_version.lower()
    ):
        return f"needs an NVIDIA GPU, and the devices are {device.platform}"
    if float(device.compute_capability) < 8:
        return f"needs compute capability 8.0, not {device.compute_capability}"
    return ""


def usable_memory(mesh: Mesh, held: int = 0) -> int:
    """Bytes of a device that may be used; 0 if unknown.

    Args:
      mesh: of equal devices. CPU devices share the memory that is available to the
        process.
      held: bytes that this process already holds of a CPU's memory.
    """
    if is_cpu(mesh):
        free = available_memory() + held
    else:
        stats = mesh.devices.flat[0].memory_stats() or {}
        free = stats.get("bytes_limit", 0)
    return int(_MEMORY_SHARE * free)


def available_memory(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int:
    """Bytes that this process may still take of the machine's memory.

    Containers and batch systems limit a process by its control groups (version 1 or
    2), or by the size of its address space (ulimit -v).
    """
    free = [psutil.virtual_memory().available]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free.append(limit - psutil.Process().memory_info().vms)
    for line in groups.read_text().splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        names = ("max", "current", "inactive_file")
        if controllers:
            names = ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")
        mounted = root / controllers
        group = mounted / path.strip("/")
        # A container sees the host's path, and its own group at the root.
        for folder in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError, KeyError):
                lines = (folder / "memory.stat").read_text().split()
                cached = int(dict(zip(lines[::2], lines[1::2], strict=True))[names[2]])
                most, used = (
                    int((folder / f"memory.{name}").read_text()) for name in names[:2]
                )
                free.append(most - used + cached)
            if folder == mounted:
                break
    return max(0, min(free))


def free_memory(mesh: Mesh, share: float = _MEMORY_SHARE) -> int:
    """Free bytes of a device, of a share of its memory; 0 if unknown.

    CPU devices share the memory that is available to the process.
    """
    if is_cpu(mesh):
        return int(share * available_memory()) // len(mesh.local_devices)
    stats = mesh.devices.flat[0].memory_stats() or {}
    limit = int(share * stats.get("bytes_limit", 0))
    return max(0, limit - stats.get("bytes_in_use", 0))


def peak_flops(mesh: Mesh) -> float:
    """Peak bfloat16 FLOP/s of all devices; 0 if unknown."""
    chip = known_chip(mesh.devices.flat[0].device_kind)
    return chip.rate * mesh.size if chip else 0.0


class TooLarge(JaxsimError):
    """The compiler refused a program that needs too much memory.

    Attributes:
      needed, available: bytes of a device, according to the compiler.
    """

    def __init__(self, needed: int, available: int) -> None:
        super().__init__(
            f"the program needs {needed:,} bytes of each device, which has "
            f"{available:,} for programs"
        )
        self.needed = needed
        self.available = available


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a program.

    Most backends compile any program, which may fail when it runs. The TPU compiler
    knows the memory of its chip.

    Raises:
      TooLarge: the compiler knows that it does not fit.
    """
    try:
        return lowered.compile()
    except JaxRuntimeError as error:
        found = _REFUSED.search(str(error))
        if found is None:
            raise
        parts = [part for part in found.groups() if part]
        needed, available = (
            int(float(number) * _UNITS[unit])
            for number, unit in zip(parts[::2], parts[1::2], strict=True)
        )
        raise TooLarge(needed, available) from error


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that a program needs on one device, as the compiler reports them.

    Attributes:
      arguments, outputs: what a call takes and returns.
      donated: outputs that reuse the memory of arguments.
      temporaries: peak of everything else.
    """

    arguments: int
    outputs: int
    donated: int
    temporaries: int

    @property
    def total(self) -> int:
        """Bytes in use during a call."""
        return self.arguments + self.outputs - self.donated + self.temporaries


def memory_of(program: jax.stages.Compiled) -> Memory:
    """The memory that a compiled program needs."""
    report: Any = program.memory_analysis()
    return Memory(
        arguments=report.argument_size_in_bytes,
        outputs=report.output_size_in_bytes,
        donated=report.alias_size_in_bytes,
        temporaries=report.temp_size_in_bytes,
    )


def use_compilation_cache() -> None:
    """Caches compiled programs on disk, by user and kind of machine.

    Whoever can write to the cache can run code in this process, so it is not in the
    workdir, which may be shared. A program compiled for another CPU may crash.
    """
    if chosen := jax.config.values["jax_compilation_cache_dir"]:
        # The user's choice, through JAX.
        if os.path.isdir(chosen) and os.stat(chosen).st_mode & stat.S_IWOTH:
            _warn(
                f"everybody can write {chosen}, the compilation cache, and so run "
                "code in this process; use a folder of your own"
            )
        return
    folder, problem = Path("~/.cache/jaxsim") / _machine(), ""
    try:
        folder = folder.expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
        if about.st_uid != os.getuid():
            problem = f"{folder} belongs to another user"
        elif about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            problem = f"others can write {folder} (chmod go-w)"
        elif not os.access(folder, os.W_OK):
            problem = f"cannot write {folder}"
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        problem = f"cannot write {folder}"
    if problem:
        _warn(f"{problem}; programs are compiled again each time")
    else:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _warn(text: str) -> None:
    print(f"jaxsim: warning: {text}", file=sys.stderr)


def _machine() -> str:
    """The kind of machine: its architecture and a digest of its CPU features."""
    features = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        match = re.search(r"^(flags|Features)\s*:.*$", cpuinfo.read_text(), re.M)
        features = match[0] if match else features
    digest = hashlib.sha256(features.encode()).hexdigest()[:8]
    return f"{platform.system()}-{platform.machine()}-{digest}".lower()
