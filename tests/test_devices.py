"""Memory, peak rate and attention of devices, and the compilation cache."""

import types
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxsim import devices
from jaxsim.errors import UserError


def mesh(count: int = 1, **device):
    """A fake mesh, because tests have no such device."""
    stub = types.SimpleNamespace(**device)
    return types.SimpleNamespace(devices=np.array([stub] * count), size=count)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L40S", 0.0),
        ("cpu", 0.0),
    ],
)
def test_the_peak_rate_is_known_or_zero(kind, peak):
    assert devices.peak_flops(mesh(4, device_kind=kind)) == 4 * peak


def test_free_memory_of_a_device():
    def of(stats):
        return devices.usable_memory(mesh(platform="gpu", memory_stats=lambda: stats))

    def free(stats):
        return devices.free_memory(mesh(platform="gpu", memory_stats=lambda: stats))

    assert of({"bytes_limit": 10_000}) == 8_000
    assert free({"bytes_limit": 10_000, "bytes_in_use": 3_000}) == 5_000
    assert free({"bytes_limit": 10_000, "bytes_in_use": 9_000}) == 0
    assert free(None) == 0
    assert of(None) == of({}) == 0


def device(platform: str, capability: str = "9.0"):
    return types.SimpleNamespace(
        platform=platform,
        client=types.SimpleNamespace(platform_version="cuda 12090"),
        compute_capability=capability,
    )


@pytest.mark.parametrize(
    ("platform", "precision", "expected"),
    [
        ("cpu", "bfloat16", "einsum"),
        ("tpu", "bfloat16", "xla"),
        ("cuda", "float32", "xla"),
        ("cuda", "bfloat16", "cudnn"),
    ],
)
def test_auto_is_the_fastest_attention(platform, precision, expected):
    chip = device(platform)
    name = devices.attention_on(chip, "auto", 64, precision, "here")
    assert name == expected
    if expected != "cudnn":
        with pytest.raises(UserError, match="here='cudnn': needs"):
            devices.attention_on(chip, "cudnn", 64, precision, "here")


def test_float32_is_what_a_cpu_computes_and_tf32_needs_tensor_cores():
    def of(name, *chip):
        return devices.precision_on(device(*chip), name, "here")

    assert of("auto", "cpu") == "float32"
    assert of("auto", "cuda") == of("auto", "tpu") == "bfloat16"
    for name in ("float32", "bfloat16"):
        assert of(name, "cpu") == of(name, "cuda", "7.0") == name
    assert of("tf32", "cuda", "8.0") == "tf32"
    with pytest.raises(UserError, match="here='tf32': needs an NVIDIA GPU, and the"):
        of("tf32", "cpu")
    with pytest.raises(UserError, match="here='tf32': needs compute capability"):
        of("tf32", "cuda", "7.5")


def test_the_compilation_cache_belongs_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "jax_compilation_cache_dir"
    before = jax.config.values[key]
    try:
        jax.config.update(key, None)
        (tmp_path / "file").touch()
        monkeypatch.setenv("HOME", str(tmp_path / "file"))
        devices.use_compilation_cache()
        assert jax.config.values[key] is None
        assert "warning: cannot write" in capsys.readouterr().err
        monkeypatch.setenv("HOME", str(tmp_path))
        devices.use_compilation_cache()
        folder = Path(jax.config.values[key])
        assert folder.parent == tmp_path / ".cache" / "jaxsim"
        assert folder.stat().st_mode & 0o077 == 0
        monkeypatch.setenv("HOME", "/elsewhere")
        devices.use_compilation_cache()
        assert Path(jax.config.values[key]) == folder
    finally:
        jax.config.update(key, before)
