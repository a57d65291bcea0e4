"""Memory, peak rate and attention of devices, and the compilation cache."""

import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil
import pytest

from jaxsim import devices
from jaxsim.errors import UserError
from jaxsim.mesh import scoring_mesh, training_mesh


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


def test_cpu_devices_share_the_memory_that_is_free(monkeypatch):
    monkeypatch.setattr(devices, "available_memory", lambda: 10_000)
    whole = training_mesh(jax.device_count(), 1)
    each = 10_000 // jax.device_count()
    assert devices.free_memory(whole, share=1.0) == each


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
        # Whoever can write there can run code here.
        folder.chmod(0o777)
        assert not capsys.readouterr().err
        devices.use_compilation_cache()
        assert f"warning: everybody can write {folder}" in capsys.readouterr().err
        jax.config.update(key, None)
        monkeypatch.setenv("HOME", str(tmp_path))
        for mode in (0o720, 0o702):
            folder.chmod(mode)
            devices.use_compilation_cache()
            assert jax.config.values[key] is None
            assert f"warning: others can write {folder}" in capsys.readouterr().err
        folder.chmod(0o700)
        monkeypatch.setattr("os.getuid", lambda: folder.stat().st_uid + 1)
        devices.use_compilation_cache()
        assert jax.config.values[key] is None
        assert f"{folder} belongs to another user" in capsys.readouterr().err
    finally:
        jax.config.update(key, before)


def test_memory_is_that_of_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the machine, where a container or a batch system gives it less."""
    groups, root = tmp_path / "cgroup", tmp_path / "root"

    def limit(folder: str, values: dict[str, str]) -> int:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, text in values.items():
            (root / folder / f"memory.{name}").write_text(f"{text}\n")
        return devices.available_memory(groups, root)

    machine = devices.available_memory(groups, root)  # no control groups
    assert machine > 10_000
    groups.write_text("0::/batch/job\n")
    unlimited = {"max": "max", "current": "90", "stat": "anon 60\ninactive_file 30"}
    assert limit("batch/job", unlimited) > 10_000
    # The limit of a group above holds as well; files in memory can make room.
    assert limit("batch", unlimited | {"max": "1000"}) == 940
    assert limit("batch/job", unlimited | {"max": "2000"}) == 940
    assert limit("batch/job", unlimited | {"max": "100"}) == 40
    # Version 1, in a container that does not see its group by the host's path.
    groups.write_text("2:cpu:/\n1:memory:/docker/abc\n")
    stat = "inactive_file 1\ntotal_inactive_file 30"
    values = {"limit_in_bytes": "1000", "usage_in_bytes": "90", "stat": stat}
    assert limit("memory", values) == 940
    assert limit("memory", values | {"usage_in_bytes": "5000"}) == 0
    groups.unlink()
    used = psutil.Process().memory_info().vms
    monkeypatch.setattr("resource.getrlimit", lambda _: (used + 10**7, -1))
    assert 0 < devices.available_memory(groups, root) <= 10**7


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_default_prng_impl", "rbg"),
        ("jax_numpy_dtype_promotion", "strict"),
        ("jax_disable_jit", True),
    ],
)
def test_a_setting_that_changes_numbers_is_refused(setting: str, value: Any) -> None:
    before = getattr(jax.config, setting)
    try:
        jax.config.update(setting, value)
        for make in (scoring_mesh, lambda: training_mesh(1, 1)):
            with pytest.raises(UserError, match=f"{setting.upper()} must be"):
                make()
    finally:
        jax.config.update(setting, before)
