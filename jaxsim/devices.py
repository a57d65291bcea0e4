"""What a device can hold, and what it can compute."""

import dataclasses

import jax
import psutil
from jax.sharding import Mesh

from jaxsim.config import Attention
from jaxsim.errors import UserError

# Of what is free; the rest is left to the runtime and fragmentation.
_MEMORY_SHARE = 0.8


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of JAX.

    Attributes:
      kind: what the device's name for itself is, or begins with.
      memory: bytes; 0 where nobody knows.
      rate: dense bfloat16 operations a second at best; 0 where nobody knows.
      source: of the two.
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
    """The first entry that a device kind begins with; None without one."""
    return next(
        (
            dataclasses.replace(chip, kind=kind)
            for chip in CHIPS
            if kind == chip.kind
            or kind.startswith((f"{chip.kind} ", f"{chip.kind}-"))
        ),
        None,
    )


def is_cpu(mesh: Mesh) -> bool:
    return bool(mesh.devices.flat[0].platform == "cpu")


def attention_on(
    device: jax.Device,
    name: Attention,
    head: int,
    precision: str,
    setting: str,
    problem: str = "",
) -> Attention:
    """How attention is computed on a device; see `jaxsim/model/attention.py`.

    Args:
      device: one of many like it.
      name: as it is set; 'auto' is the best that works.
      head: width of one.
      precision: of the computation.
      setting: of the config, for messages.
      problem: why cuDNN's cannot be used whatever the device, if so.

    Raises:
      UserError: cuDNN's is set and cannot be used.
    """
    problem = problem or _cudnn_problem(device, head, precision)
    if name == "auto":
        cpu = device.platform == "cpu"
        return "einsum" if cpu else "xla" if problem else "cudnn"
    if name == "cudnn" and problem:
        raise UserError(
            f"{setting}='cudnn': {problem}; 'auto' takes what there is"
        )
    return name


def _cudnn_problem(device: jax.Device, head: int, precision: str) -> str:
    """Why cuDNN's attention cannot be used, or nothing."""
    if device.platform not in ("gpu", "cuda") or (
        "cuda" not in device.client.platform_version.lower()
    ):
        return f"needs an NVIDIA GPU, and the devices are {device.platform}"
    if float(device.compute_capability) < 8:
        return f"needs compute capability 8.0, not {device.compute_capability}"
    if precision != "bfloat16":
        return f"needs precision='bfloat16', not {precision!r}"
    if head > 128 or head % 8:
        return f"needs heads of a multiple of 8 up to 128, not {head}"
    return ""


def usable_memory(mesh: Mesh, held: int = 0) -> int:
    """Bytes of a device that may be used; 0 where nobody knows.

    Args:
      mesh: all its devices are like the first. A CPU's are one process, and
        what other processes use is not counted as free.
      held: bytes that are ours already, and so no longer free on a CPU.
    """
    if is_cpu(mesh):
        free = psutil.virtual_memory().available + held
    else:
        stats = mesh.devices.flat[0].memory_stats() or {}
        free = stats.get("bytes_limit", 0)
    return int(_MEMORY_SHARE * free)


def free_memory(mesh: Mesh) -> int:
    """Of an accelerator, what may be used and is not; 0 where nobody knows."""
    stats = mesh.devices.flat[0].memory_stats() or {}
    return max(0, usable_memory(mesh) - stats.get("bytes_in_use", 0))


def peak_flops(mesh: Mesh) -> float:
    """Bfloat16 operations a second of all devices; 0 where nobody knows."""
    chip = known_chip(mesh.devices.flat[0].device_kind)
    return chip.rate * mesh.size if chip else 0.0
